"""Ingresses: routes that are attached where the rule files listen. docs/higress.md is the page for users.

In: `Ingress` objects and the `Cluster`. Out: the routes of all Ingresses in the specification's order of precedence,
and a status for each. Pure. A route with something unsupported answers 500, like that of an HTTPRoute.

https://kubernetes.io/docs/concepts/services-networking/ingress/
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from rejoinder.rules.document import Scalar
from rejoinder.rules.fields import Place
from rejoinder.rules.kubernetes.cluster import Cluster, named_by_higress, upstream_name
from rejoinder.rules.kubernetes.known import INGRESS_HTTP, INGRESS_PATH, INGRESS_RULE, check, without
from rejoinder.rules.kubernetes.objects import (
    SYSTEM_NAMESPACE,
    Key,
    Object,
    annotations_of,
    annotations_without_effect,
    items,
    member,
    noted,
    one_of,
    open_fields,
    port,
    read_spec,
)
from rejoinder.rules.kubernetes.status import RESOLVED_REFS, Fault, Status, judged, refusal, refuse, told_apart
from rejoinder.rules.manifests import Manifests
from rejoinder.rules.model import EVERY_PATH, Answer, Backend, Forward, PathKind, PathMatch, RequestMatch, Route
from rejoinder.rules.problem import Problem, Severity
from rejoinder.rules.rule_file.matches import PATHS, domains

_PATH_TYPES: Final = {"Exact": "path", "Prefix": "prefix", "ImplementationSpecific": "prefix"}


_PREFIXES: Final = ("higress.io/", "nginx.ingress.kubernetes.io/", "mse.ingress.kubernetes.io/")

DESTINATION: Final = "higress.io/destination"
"""The annotation with the services that get the requests, if the backend is a McpBridge."""

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
        own, problems = read_spec(ingress, _Reader(ingress, cluster).entries, [], "rules")
        faults, warnings = told_apart(ingress, problems)
        entries += own
        statuses.append(judged(ingress, faults))
        notes += (*warnings, *_without_effect(ingress))
    routes = tuple(route for _, route in sorted(entries, key=lambda entry: entry[0]))
    return Manifests(routes=routes, statuses=tuple(statuses), notes=tuple(notes))


def _without_effect(ingress: Object) -> Iterator[Problem]:
    yield from annotations_without_effect(ingress, DESTINATION, *(f"{prefix}use-regex" for prefix in _PREFIXES))
    if ingress.spec().has("tls"):
        text = f"{ingress.title}: spec.tls has no effect: use listen with a certificate in a rule file, or a Gateway"
        yield Problem(ingress.spec().field("tls").position, text, Severity.WARNING)


def _says_true(ingress: Object, name: str) -> str:
    """The annotation with this name and any of the prefixes whose value is true; empty: there is none."""
    for prefix in _PREFIXES:
        place = annotations_of(ingress).get(f"{prefix}{name}")
        if place is not None and isinstance(place.node, Scalar) and place.node.text == "true":
            return f"{prefix}{name}"
    return ""


@dataclass(frozen=True, slots=True)
class _Reader:
    object: Object
    cluster: Cluster

    def entries(self, spec: Place) -> list[tuple[Any, Route]]:
        """Its routes, each behind its sort key."""
        entries = []
        rules = member(spec, "rules").attempt(items, [])
        for number, rule in enumerate(rules):
            (domain, paths), problems = noted(rule, _host_and_paths, ("*", []))
            # Its hosts are not known; without them it would take the requests of others.
            for at, place in enumerate(paths if not problems else []):
                path, problems = noted(place, self._path, EVERY_PATH)
                faults, _ = told_apart(self.object, problems)
                # A path that cannot be used answers 500 where no other takes the request.
                action = self._action(member(place, "backend"), [fault.message for fault in faults])
                part = f"rule {number} path {at}"
                entries.append(self._entry(part, domain, path, action, place, last=bool(faults)))
        if spec.has("defaultBackend"):
            place = spec.field("defaultBackend")
            action = self._action(place, [])
            entries.append(self._entry("defaultBackend", "*", EVERY_PATH, action, place, last=True))
        elif not rules and not spec.source.problems:
            spec.error("it has neither rules nor a defaultBackend")
        return entries

    def _path(self, place: Place) -> PathMatch:
        if (regex := _says_true(self.object, "use-regex")) and place.has("path"):
            text = f"a regular expression ({regex}) is not supported: write a route with regex in a rule file"
            raise member(place, "path").mistake(text)
        return _path(place)

    def _entry(
        self, part: str, domain: str, path: PathMatch, action: Answer | Forward, place: Place, *, last: bool
    ) -> tuple[Any, Route]:
        route = Route(
            name=f"ingress/{self.object.key}/{part.replace(' ', '/')}",
            action=action,
            domains=(domain,),
            request=RequestMatch(path),
            title=f"{self.object.title} {part}",
            position=place.position,
        )
        host = (domain.startswith("*"), -len(domain))
        kind = (path.kind is not PathKind.EXACT, -len(path.value))
        return (host, last, kind, self.object.key), route

    def _action(self, backend: Place, wrong: list[str]) -> Answer | Forward:
        """The backend of the requests; with a fault of it, or of the path, an answer with that fault."""
        forward, problems = noted(backend, self._forward, None)
        wrong += [problem.message for problem in problems if not isinstance(problem, Fault)]
        if forward is not None and not wrong:
            return forward
        # A reference that cannot be resolved is only reported if nothing else is wrong.
        return refusal(f"{self.object.title}: {'; '.join(wrong or [problem.message for problem in problems])}")

    def _forward(self, backend: Place) -> Forward | None:
        if not backend.has("service") and (place := annotations_of(self.object).get(DESTINATION)) is not None:
            return self._destination(replace(place, source=backend.source))
        upstream = self._upstream(backend)
        return None if upstream is None else Forward(upstream)

    def _destination(self, place: Place) -> Forward | None:
        """The destination of requests as the Higress console writes it: a line for each service, behind its share."""
        lines = [_DESTINATION.fullmatch(line.strip()) for line in place.string().strip().splitlines()]
        backends: list[Backend] = []
        for line in lines:
            if line is None:
                raise place.expected('lines such as "web.shop.svc.cluster.local:8080" or "80% legacy.static:80"')
            name = named_by_higress(line["service"])
            namespace, slash, _ = name.partition("/")
            if slash and namespace != self.object.key.namespace != SYSTEM_NAMESPACE:
                text = f"{line['service']} is in another namespace: an Ingress in {SYSTEM_NAMESPACE} may lead there"
                refuse(place, "RefNotPermitted", text, RESOLVED_REFS)
                return None
            if not self.cluster.has(name):
                text = f"there is no {line['service']}: say where it is with --upstream {name}=URL"
                refuse(place, "BackendNotFound", text, RESOLVED_REFS)
                return None
            backends.append(Backend(name, int(line["share"] or 100)))
        if not any(backend.weight for backend in backends):
            raise place.expected("a service that gets requests")
        only = [backend.upstream for backend in backends if backend.weight]
        return Forward(only[0] or "") if len(only) == 1 else Forward("", tuple(backends))

    def _upstream(self, backend: Place) -> str | None:
        service = open_fields(member(backend, "service"))
        if not service.given:
            raise backend.mistake(f"service is missing, and no other backend is supported without {DESTINATION}")
        key = Key(self.object.key.namespace, service.require("name", Place.string, ""))
        numbers = open_fields(member(service.place, "port"))
        name = numbers.get("name", Place.string, "")
        number = self.cluster.port_number(key, name) if name else numbers.require("number", port, 0)
        if number is None or (number and self.cluster.service_port(key, number) is None):
            refuse(backend, "BackendNotFound", self.cluster.missing(key, number or name), RESOLVED_REFS)
            return None
        return upstream_name(key, number)


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
