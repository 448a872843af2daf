"""The status of an object: the conditions of its specification, as Kubernetes would show them.

In: the faults from the readers of each kind. Out: `Status`es, which print as lines for a person and as status objects
for programs. Pure.

https://gateway-api.sigs.k8s.io/geps/gep-1364/ has the conditions of the Gateway API and what they mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from rejoinder.rules.fields import Place
from rejoinder.rules.kubernetes.objects import Object, Reference
from rejoinder.rules.model import Answer, Position
from rejoinder.rules.problem import Problem, Severity

ACCEPTED: Final = "Accepted"
RESOLVED_REFS: Final = "ResolvedRefs"
PROGRAMMED: Final = "Programmed"
CONFLICTED: Final = "Conflicted"
PARTIALLY_INVALID: Final = "PartiallyInvalid"

INVALID: Final = "Invalid"
"""The reason for an object that cannot be read as what it should be."""
UNSUPPORTED_VALUE: Final = "UnsupportedValue"
INCOMPATIBLE_FILTERS: Final = "IncompatibleFilters"

_UNREADABLE: Final = (INVALID, UNSUPPORTED_VALUE, INCOMPATIBLE_FILTERS, "NotFound")
"""Reasons that are probably mistakes within the object itself. For other references, the specification says what
happens."""

# Conditions that are good when they are False.
_NEGATIVE: Final = (CONFLICTED, PARTIALLY_INVALID)

CONTROLLER: Final = "rejoinder.dev/gateway-controller"
"""The `controllerName` of the conditions."""


@dataclass(frozen=True, slots=True)
class Fault(Problem):
    """A mistake of an object, in the terms of the specification."""

    reason: str = INVALID
    condition: str = ACCEPTED
    """The condition that it changes."""


def refuse(place: Place, reason: str, message: str, condition: str = ACCEPTED) -> None:
    """Note a fault, with the problems of the place's `Source`."""
    problem = place.mistake(message).problem
    place.source.problems.append(Fault(problem.position, problem.message, reason=reason, condition=condition))


def as_faults(problems: Iterable[Problem], reason: str = INVALID) -> tuple[Fault, ...]:
    """Problems as faults; a plain problem becomes a fault of ACCEPTED with this `reason`."""
    return tuple(
        problem if isinstance(problem, Fault) else Fault(problem.position, problem.message, reason=reason)
        for problem in problems
    )


def told_apart(
    manifest: Object, problems: Iterable[Problem], reason: str = INVALID
) -> tuple[tuple[Fault, ...], list[Problem]]:
    """The faults of an object, and the warnings about it, which begin with its title."""
    errors = [problem for problem in problems if problem.severity is Severity.ERROR]
    notes = [problem for problem in problems if problem.severity is not Severity.ERROR]
    return as_faults(errors, reason), [replace(note, message=f"{manifest.title}: {note.message}") for note in notes]


def refusal(text: str) -> Answer:
    """The answer in place of something unsupported."""
    return Answer(500, (("content-type", "text/plain"),), f"{text}\n".encode())


@dataclass(frozen=True, slots=True)
class Condition:
    type: str
    status: bool
    reason: str
    message: str = ""
    position: Position = field(default=Position("", 0), compare=False)
    """Of the first fault."""

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return self.status != (self.type in _NEGATIVE)

    def __str__(self) -> str:
        said = f"{self.type}={self.status} ({self.reason})"
        return f"{said}: {self.message}" if self.message else said


def condition_of(kind: str, faults: Iterable[Fault], good: str | None = None, message: str = "") -> Condition:
    """The condition that results from its faults.

    Args:
        kind: its type.
        faults: all faults of the object; the condition has the reason of its first one.
        good: the reason if there is no fault; None: the type itself.
        message: the message in that case.
    """
    matching = [fault for fault in faults if fault.condition == kind]
    if not matching:
        return Condition(kind, kind not in _NEGATIVE, good or kind, message)
    first = matching[0]

    def told(fault: Fault) -> str:
        elsewhere = fault.position.line != first.position.line
        return f"{fault.message} (line {fault.position.line})" if elsewhere else fault.message

    texts = dict.fromkeys(told(fault) for fault in matching if fault.reason == first.reason)
    others = dict.fromkeys(f"{fault.reason}: {told(fault)}" for fault in matching if fault.reason != first.reason)
    return Condition(kind, kind in _NEGATIVE, matching[0].reason, "; ".join((*texts, *others)), matching[0].position)


@dataclass(frozen=True, slots=True)
class ParentRef:
    """Where a route wants to be attached."""

    to: Reference
    section: str = ""
    port: int | None = None

    def __str__(self) -> str:
        section = f" listener {self.section}" if self.section else ""
        return f"{self.to.kind} {self.to.key}{section}" + (f" port {self.port}" if self.port else "")

    def to_json(self) -> dict[str, Any]:
        """As Kubernetes has it."""
        return {
            "group": self.to.group,
            "kind": self.to.kind,
            "namespace": self.to.key.namespace,
            "name": self.to.key.name,
            **({"sectionName": self.section} if self.section else {}),
            **({"port": self.port} if self.port else {}),
        }


@dataclass(frozen=True, slots=True)
class ListenerStatus:
    """The status of a listener of a Gateway."""

    name: str
    attached_routes: int
    conditions: tuple[Condition, ...]
    kinds: tuple[str, ...] = ("HTTPRoute",)


@dataclass(frozen=True, slots=True)
class Status:
    """The status of one object."""

    object: Object
    conditions: tuple[Condition, ...] = ()
    parents: tuple[tuple[ParentRef, tuple[Condition, ...]], ...] = ()
    """Of an HTTPRoute: its conditions at each parent."""
    listeners: tuple[ListenerStatus, ...] = ()
    """Of a Gateway."""
    addresses: tuple[str, ...] = ()
    """Of a Gateway."""
    kept: bool = False
    """The earlier content of the object stays in force."""

    def said(self) -> Iterator[tuple[str, Condition]]:
        """Every condition, with the part of the object that it is about in front."""
        yield from (("", condition) for condition in self.conditions)
        for listener in self.listeners:
            yield from ((f"listener {listener.name}", condition) for condition in listener.conditions)
        for parent, conditions in self.parents:
            yield from ((str(parent), condition) for condition in conditions)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong with the object."""
        return all(condition.good for _, condition in self.said())

    @property
    def unreadable(self) -> bool:
        """Whether the object itself has a mistake."""
        return any(not condition.good and condition.reason in _UNREADABLE for _, condition in self.said())

    def problems(self) -> list[Problem]:
        """The faults of the object, as warnings: everything else stays in force."""
        warnings: dict[Condition, Problem] = {}
        for where, condition in self.said():
            if not condition.good and not (self.kept and condition.type == PARTIALLY_INVALID):
                at = condition.position if condition.position.file else self.object.position
                about = f"{self.object.title}: {where}: " if where else f"{self.object.title}: "
                ending = "; its earlier content stays in force" if self.kept else ""
                warnings.setdefault(condition, Problem(at, f"{about}{condition}{ending}", Severity.WARNING))
        return list(warnings.values())

    def to_json(self, now: str) -> dict[str, Any]:
        """The object with its `status` in the form of Kubernetes; `now` becomes `lastTransitionTime`."""

        def conditions(given: Iterable[Condition]) -> list[dict[str, Any]]:
            return [
                {
                    "type": condition.type,
                    "status": str(condition.status),
                    "reason": condition.reason,
                    "message": condition.message,
                    "observedGeneration": self.object.generation,
                    "lastTransitionTime": now,
                }
                for condition in given
            ]

        status: dict[str, Any] = {}
        if self.object.kind == "HTTPRoute":
            status["parents"] = [
                {"parentRef": parent.to_json(), "controllerName": CONTROLLER, "conditions": conditions(given)}
                for parent, given in self.parents
            ]
        if self.conditions or self.object.kind != "HTTPRoute":
            status["conditions"] = conditions(self.conditions)
        if self.object.kind == "Gateway":
            status["addresses"] = [{"type": "IPAddress", "value": address} for address in self.addresses]
            status["listeners"] = [
                {
                    "name": listener.name,
                    "supportedKinds": [{"group": "gateway.networking.k8s.io", "kind": kind} for kind in listener.kinds],
                    "attachedRoutes": listener.attached_routes,
                    "conditions": conditions(listener.conditions),
                }
                for listener in self.listeners
            ]
        return {
            "apiVersion": self.object.api_version,
            "kind": self.object.kind,
            "metadata": {"namespace": self.object.key.namespace, "name": self.object.key.name},
            "status": status,
        }


def judged(manifest: Object, faults: Iterable[Fault], *kinds: str) -> Status:
    """The status of an object, with conditions of these kinds made of its faults."""
    return Status(manifest, tuple(condition_of(kind, faults) for kind in kinds or (ACCEPTED, RESOLVED_REFS)))
