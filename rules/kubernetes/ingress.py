"""Ingresses: routes that are attached where the rule files listen. docs/higress.md is what users read about them.

In: `Ingress` objects and the `Cluster`. Out: the routes of all of them in the specification's order of precedence, and
a status for each. Pure. What cannot be honoured answers 500, as a route of an HTTPRoute does.

https://kubernetes.io/docs/concepts/services-networking/ingress/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from rejoinder.rules.fields import Place
from rejoinder.rules.kubernetes.cluster import Cluster, upstream_name
from rejoinder.rules.kubernetes.known import INGRESS, INGRESS_HTTP, INGRESS_PATH, INGRESS_RULE, check, spec_of, without
from rejoinder.rules.kubernetes.objects import (
    Key,
    Object,
    alone,
    annotations_without_effect,
    items,
    member,
    one_of,
    open_fields,
    port,
)
from rejoinder.rules.kubernetes.status import ACCEPTED, RESOLVED_REFS, Fault, Status, condition
from rejoinder.rules.model import EVERY_PATH, Answer, Forward, PathKind, PathMatch, RequestMatch, Route
from rejoinder.rules.native import PATHS, domains
from rejoinder.rules.problem import Problem, Severity

_PATH_TYPES: Final = {"Exact": "path", "Prefix": "prefix", "ImplementationSpecific": "prefix"}


@dataclass(slots=True)
class Ingresses:
    """What all of them say together."""

    routes: tuple[Route, ...] = ()
    statuses: list[Status] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)


def read_ingresses(cluster: Cluster) -> Ingresses:
    """The routes of all Ingresses, those of the most specific hosts and paths first."""
    result = Ingresses()
    entries: list[tuple[Any, Route]] = []
    for each in cluster.of_kind("Ingress"):
        reader = _Reader(each, cluster)
        entries += reader.entries()
        faults = tuple(reader.faults)
        result.statuses.append(Status(each, (condition(ACCEPTED, faults), condition(RESOLVED_REFS, faults))))
        result.notes += _without_effect(each)
    result.routes = tuple(route for _, route in sorted(entries, key=lambda entry: entry[0]))
    return result


def _without_effect(each: Object) -> Iterator[Problem]:
    yield from annotations_without_effect(each)
    if each.spec().has("tls"):
        text = f"{each.title}: spec.tls has no effect: say listen with a certificate in a rule file, or use a Gateway"
        yield Problem(each.spec().field("tls").position, text, Severity.WARNING)


class _Reader:
    """Reads one Ingress."""

    def __init__(self, each: Object, cluster: Cluster) -> None:
        self._object = each
        self._cluster = cluster
        self.faults: list[Fault] = []

    def entries(self) -> Iterator[tuple[Any, Route]]:
        """Its routes, each behind its place in the order of all."""
        spec = self._object.spec()
        _, unknown = alone(spec, lambda it: check(it, without(spec_of(INGRESS), "rules")), None)
        rules, problems = alone(member(spec, "rules"), items, [])
        self._invalid((*unknown, *problems))
        for number, rule in enumerate(rules):
            found, problems = alone(rule, _host_and_paths, ("*", []))
            self._invalid(problems)
            # What hosts it is about is not known, and without them it would take the requests of others.
            domain, paths = found if not problems else ("*", [])
            for at, place in enumerate(paths):
                path, problems = alone(place, _path, EVERY_PATH)
                self._invalid(problems)
                # A path that cannot be used answers 500 where no other takes the request.
                action = self._action(member(place, "backend"), [problem.message for problem in problems])
                yield self._entry(f"rule {number} path {at}", domain, path, action, place, last=bool(problems))
        if spec.has("defaultBackend"):
            place = spec.field("defaultBackend")
            yield self._entry("defaultBackend", "*", EVERY_PATH, self._action(place, []), place, last=True)
        elif not rules and not self.faults:
            self._fault(spec, ACCEPTED, "Invalid", "it has neither rules nor a defaultBackend")

    def _entry(
        self, part: str, domain: str, path: PathMatch, action: Answer | Forward, place: Place, *, last: bool
    ) -> tuple[Any, Route]:
        route = Route(
            name=f"ingress/{self._object.key}/{part.replace(' ', '/')}",
            action=action,
            domains=(domain,),
            request=RequestMatch(path),
            title=f"{self._object.title} {part}",
            position=place.position,
        )
        host = (domain.startswith("*"), -len(domain))
        kind = (path.kind is not PathKind.EXACT, -len(path.value))
        return (host, last, kind, self._object.key), route

    def _action(self, backend: Place, reasons: list[str]) -> Answer | Forward:
        upstream, problems = alone(backend, self._upstream, None)
        self._invalid(problems)
        reasons += [problem.message for problem in problems]
        if upstream is None and not reasons:
            reasons.append(self.faults[-1].message)
        if upstream is None or reasons:
            text = f"{self._object.title}: {'; '.join(reasons)}\n"
            return Answer(500, (("content-type", "text/plain"),), text.encode())
        return Forward(upstream)

    def _upstream(self, backend: Place) -> str | None:
        service = open_fields(member(backend, "service"))
        if not service.given:
            raise backend.mistake("service is missing, and no other backend is supported")
        key = Key(self._object.key.namespace, service.require("name", Place.string, ""))
        numbers = open_fields(member(service.place, "port"))
        name = numbers.get("name", Place.string, "")
        number = self._cluster.port_number(key, name) if name else numbers.require("number", port, 0)
        if number is None or (number and self._cluster.service_port(key, number) is None):
            message = self._cluster.missing(key, number or name)
            self._fault(backend, RESOLVED_REFS, "BackendNotFound", message)
            return None
        return upstream_name(key, number)

    def _fault(self, place: Place, kind: str, reason: str, message: str) -> None:
        self.faults.append(Fault(kind, reason, f"{place.path}: {message}", place.position))

    def _invalid(self, problems: tuple[Problem, ...]) -> None:
        self.faults += [Fault(ACCEPTED, "Invalid", problem.message, problem.position) for problem in problems]


def _host_and_paths(rule: Place) -> tuple[str, list[Place]]:
    check(rule, without(INGRESS_RULE, "http"))
    check(member(rule, "http"), without(INGRESS_HTTP, "paths"))
    fields = open_fields(rule)
    host = fields.get("host", domains, ())
    return host[0] if host else "*", items(member(member(rule, "http"), "paths"))


def _path(place: Place) -> PathMatch:
    check(place, INGRESS_PATH)
    fields = open_fields(place)
    kind = fields.require("pathType", one_of(*_PATH_TYPES), "Prefix")
    return fields.get("path", PATHS[_PATH_TYPES[kind]], EVERY_PATH)
