"""Ingresses: routes that are attached where the rule files listen. docs/higress.md is what users read about them.

In: `Ingress` objects and the `Cluster`. Out: the routes of all of them in the specification's order of precedence, and
a status for each. Pure. What cannot be honoured answers 500, as a route of an HTTPRoute does.

https://kubernetes.io/docs/concepts/services-networking/ingress/
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from rejoinder.rules.document import Scalar
from rejoinder.rules.fields import Place
from rejoinder.rules.kubernetes.cluster import Cluster, invalid, named_by_higress, upstream_name
from rejoinder.rules.kubernetes.known import INGRESS, INGRESS_HTTP, INGRESS_PATH, INGRESS_RULE, check, spec_of, without
from rejoinder.rules.kubernetes.objects import (
    SYSTEM_NAMESPACE,
    Key,
    Object,
    alone,
    annotations_of,
    annotations_without_effect,
    items,
    member,
    one_of,
    open_fields,
    port,
    told_apart,
)
from rejoinder.rules.kubernetes.status import ACCEPTED, RESOLVED_REFS, Fault, Status, condition
from rejoinder.rules.manifests import Manifests
from rejoinder.rules.model import EVERY_PATH, Answer, Backend, Forward, PathKind, PathMatch, RequestMatch, Route
from rejoinder.rules.problem import Problem, Severity
from rejoinder.rules.rule_file.matches import PATHS, domains

_PATH_TYPES: Final = {"Exact": "path", "Prefix": "prefix", "ImplementationSpecific": "prefix"}


_PREFIXES: Final = ("higress.io/", "nginx.ingress.kubernetes.io/", "mse.ingress.kubernetes.io/")

DESTINATION: Final = "higress.io/destination"
"""Beside a backend that is a McpBridge: the services that requests go to."""

# https://higress.cn/en/docs/latest/user/annotation/: `service[:port]`, or lines of `share% service[:port] [subset]`.
_DESTINATION: Final = re.compile(r"(?:(?P<share>100|[1-9]?[0-9])% +)?(?P<service>[^\s:]+(?::[0-9]{1,5})?)(?: +\S+)?")


def read_ingresses(cluster: Cluster) -> Manifests:
    """The routes of all Ingresses, those of the most specific hosts and paths first."""
    statuses: list[Status] = []
    notes: list[Problem] = []
    entries: list[tuple[Any, Route]] = []
    for ingress in cluster.of_kind("Ingress"):
        if canary := _says_true(ingress, "canary"):
            text = f"{ingress.title} is left out: {canary} is not supported, all requests go where the others send them"
            notes.append(Problem(annotations_of(ingress)[canary].position, text, Severity.WARNING))
            continue
        reader = _Reader(ingress, cluster)
        entries += reader.entries()
        faults = tuple(reader.faults)
        statuses.append(Status(ingress, (condition(ACCEPTED, faults), condition(RESOLVED_REFS, faults))))
        notes += (*reader.notes, *_without_effect(ingress))
    routes = tuple(route for _, route in sorted(entries, key=lambda entry: entry[0]))
    return Manifests(routes=routes, statuses=tuple(statuses), notes=tuple(notes))


def _without_effect(each: Object) -> Iterator[Problem]:
    yield from annotations_without_effect(each, DESTINATION, *(f"{prefix}use-regex" for prefix in _PREFIXES))
    if each.spec().has("tls"):
        text = f"{each.title}: spec.tls has no effect: say listen with a certificate in a rule file, or use a Gateway"
        yield Problem(each.spec().field("tls").position, text, Severity.WARNING)


def _says_true(each: Object, name: str) -> str:
    """The annotation of that name, with any of the prefixes, that says true; empty: none does."""
    for prefix in _PREFIXES:
        place = annotations_of(each).get(f"{prefix}{name}")
        if place is not None and isinstance(place.node, Scalar) and place.node.text == "true":
            return f"{prefix}{name}"
    return ""


class _Reader:
    """Reads one Ingress."""

    def __init__(self, each: Object, cluster: Cluster) -> None:
        self._object = each
        self._cluster = cluster
        self.faults: list[Fault] = []
        self.notes: list[Problem] = []

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
                path, said = alone(place, self._path, EVERY_PATH)
                errors, notes = told_apart(self._object, said)
                self._invalid(errors)
                self.notes += notes
                # A path that cannot be used answers 500 where no other takes the request.
                action = self._action(member(place, "backend"), [problem.message for problem in errors])
                yield self._entry(f"rule {number} path {at}", domain, path, action, place, last=bool(errors))
        if spec.has("defaultBackend"):
            place = spec.field("defaultBackend")
            yield self._entry("defaultBackend", "*", EVERY_PATH, self._action(place, []), place, last=True)
        elif not rules and not self.faults:
            self._fault(spec, ACCEPTED, "Invalid", "it has neither rules nor a defaultBackend")

    def _path(self, place: Place) -> PathMatch:
        if (regex := _says_true(self._object, "use-regex")) and place.has("path"):
            text = f"a regular expression ({regex}) is not supported: write a route with regex in a rule file"
            raise member(place, "path").mistake(text)
        return _path(place)

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
        forward, problems = alone(backend, self._forward, None)
        self._invalid(problems)
        reasons += [problem.message for problem in problems]
        if forward is None and not reasons:
            reasons.append(self.faults[-1].message)
        if forward is None or reasons:
            text = f"{self._object.title}: {'; '.join(reasons)}\n"
            return Answer(500, (("content-type", "text/plain"),), text.encode())
        return forward

    def _forward(self, backend: Place) -> Forward | None:
        if not backend.has("service") and (place := annotations_of(self._object).get(DESTINATION)) is not None:
            return self._destination(place)
        upstream = self._upstream(backend)
        return None if upstream is None else Forward(upstream)

    def _destination(self, place: Place) -> Forward | None:
        """Where the Higress console says that requests go: a line for each service, with its share before it."""
        lines = [_DESTINATION.fullmatch(line.strip()) for line in place.string().strip().splitlines()]
        backends: list[Backend] = []
        for line in lines:
            if line is None:
                raise place.expected('lines such as "web.shop.svc.cluster.local:8080" or "80% legacy.static:80"')
            name = named_by_higress(line["service"])
            namespace, slash, _ = name.partition("/")
            if slash and namespace != self._object.key.namespace != SYSTEM_NAMESPACE:
                text = f"{line['service']} is in another namespace: an Ingress in {SYSTEM_NAMESPACE} may lead there"
                self._fault(place, RESOLVED_REFS, "RefNotPermitted", text)
                return None
            if not self._there(name):
                where = f"say where it is with --upstream {name}=URL"
                self._fault(place, RESOLVED_REFS, "BackendNotFound", f"there is no {line['service']}: {where}")
                return None
            backends.append(Backend(name, int(line["share"] or 100)))
        if not any(backend.weight for backend in backends):
            raise place.expected("a service that gets requests")
        only = [backend.upstream for backend in backends if backend.weight]
        return Forward(only[0] or "") if len(only) == 1 else Forward("", tuple(backends))

    def _there(self, upstream: str) -> bool:
        if upstream in self._cluster.addresses:
            return True
        key, _, number = upstream.partition(":")
        namespace, slash, name = key.partition("/")
        return bool(slash and number) and self._cluster.service_port(Key(namespace, name), int(number)) is not None

    def _upstream(self, backend: Place) -> str | None:
        service = open_fields(member(backend, "service"))
        if not service.given:
            raise backend.mistake(f"service is missing, and no other backend is supported without {DESTINATION}")
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

    def _invalid(self, problems: Iterable[Problem]) -> None:
        self.faults += invalid(problems)


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
