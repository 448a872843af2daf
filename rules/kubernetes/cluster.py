"""All objects that were loaded, and what follows from them together: where Services are, and who may refer to what.

In: `Object`s, and the upstreams that the command line gives an address. Out: `Cluster`, which the readers of routes
ask. Pure; what is wrong with an object is in `faults`, not raised.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from rejoinder.rules.document import Scalar, ScalarKind
from rejoinder.rules.fields import Place
from rejoinder.rules.kubernetes.known import NAMESPACE, REFERENCE_GRANT, SERVICE, check, spec_of
from rejoinder.rules.kubernetes.mcp_bridge import read_mcp_bridge
from rejoinder.rules.kubernetes.objects import Key, Object, alone, open_fields, port
from rejoinder.rules.kubernetes.status import ACCEPTED, Fault
from rejoinder.rules.model import Endpoint, Upstream
from rejoinder.rules.problem import Problem

GATEWAY_API: Final = "gateway.networking.k8s.io"

INVALID: Final = "Invalid"
"""The reason for an object that is no such object."""


@dataclass(frozen=True, slots=True)
class ServicePort:
    number: int
    name: str = ""
    protocol: str = ""
    """`appProtocol`"""
    target: int | None = None
    """`targetPort`, if it is a number."""


@dataclass(frozen=True, slots=True)
class Service:
    ports: tuple[ServicePort, ...] = ()
    headless: bool = False
    """Its DNS name stands for its pods, so that a pod's port is to be used."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a ReferenceGrant allows: objects of a kind in a namespace may refer to some of another kind in its own."""

    namespace: str
    from_group: str
    from_kind: str
    from_namespace: str
    to_group: str
    to_kind: str
    to_name: str
    """Empty: all of that kind."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What was loaded, by kind."""

    objects: Mapping[str, Mapping[Key, Object]]
    addresses: Mapping[str, Upstream]
    """By upstream name: from the command line or a rule file, else from a McpBridge."""
    services: Mapping[Key, Service]
    grants: tuple[Grant, ...]
    faults: dict[Object, tuple[Fault, ...]]
    """What is wrong with Services, ReferenceGrants, Namespaces and McpBridges; Gateways add what is with Secrets and
    ConfigMaps."""

    def of_kind(self, kind: str) -> Iterable[Object]:
        """The objects of a kind, in the order in which they were loaded."""
        return self.objects.get(kind, {}).values()

    def find(self, kind: str, key: Key) -> Object | None:
        return self.objects.get(kind, {}).get(key)

    def labels(self, namespace: str) -> dict[str, str]:
        """The labels of a namespace; every namespace has its name as one."""
        found = self.find("Namespace", Key("", namespace))
        return {"kubernetes.io/metadata.name": namespace, **dict(found.labels if found else ())}

    def granted(self, source: Object, group: str, kind: str, target: Key) -> bool:
        """Whether an object may refer to another, which is true within a namespace."""
        return source.key.namespace == target.namespace or any(
            (grant.from_group, grant.from_kind, grant.from_namespace)
            == (source.group, source.kind, source.key.namespace)
            and (grant.to_group, grant.to_kind, grant.namespace) == (group, kind, target.namespace)
            and grant.to_name in ("", target.name)
            for grant in self.grants
        )

    def service_port(self, key: Key, number: int) -> ServicePort | None:
        """A port of a Service; None: there is no such Service, or it has no such port.

        A Service whose address stands on the command line need not be among the manifests.
        """
        service = self.services.get(key)
        if service is not None:
            return next((each for each in service.ports if each.number == number), None)
        return ServicePort(number) if upstream_name(key, number) in self.addresses else None

    def port_number(self, key: Key, name: str) -> int | None:
        """The number of a Service's port that is given by name; None: there is none."""
        service = self.services.get(key, Service())
        return next((each.number for each in service.ports if each.name == name), None)

    def missing(self, key: Key, number: int | str) -> str:
        """What to say where `service_port` finds nothing."""
        lacks = f"Service {key} has no port {number}" if key in self.services else f"there is no Service {key}"
        where = (
            f", or say where it is with --upstream {upstream_name(key, number)}=URL" if isinstance(number, int) else ""
        )
        return f"{lacks}: add it to the files{where}"

    def upstream(self, name: str) -> Upstream:
        """The upstream that a Service's port is, by the name that `upstream_name` gave it."""
        if ":" not in name:
            return self.addresses[name]
        key, number = _service_of(name)
        found = self.service_port(key, number)
        http2 = found is not None and found.protocol == "kubernetes.io/h2c"
        if given := self.addresses.get(name):
            return replace(given, http2=http2 or given.http2)
        service = self.services[key]
        target = found.target if found and service.headless else None
        host = f"{key.name}.{key.namespace}.svc.cluster.local"
        return Upstream(name, (Endpoint(host, target or number),), http2=http2)


_CLUSTER_DOMAIN: Final = ".svc.cluster.local"
_REGISTRIES: Final = (".static", ".dns", ".nacos")
"""How Higress ends the names of services that are not Kubernetes'."""


def named_by_higress(name: str) -> str:
    """The name here of an upstream that has this name in Higress; without a port, the beginning of the names that all
    ports of a Service have.

    >>> named_by_higress("web.shop.svc.cluster.local:8080"), named_by_higress("legacy.static:80")
    ('shop/web:8080', 'legacy')
    """
    host, _, number = name.partition(":")
    if host.endswith(_CLUSTER_DOMAIN):
        service, _, namespace = host.removesuffix(_CLUSTER_DOMAIN).partition(".")
        return f"{namespace}/{service}:{number}" if number else f"{namespace}/{service}"
    for ending in _REGISTRIES:
        if host.endswith(ending):
            return host.removesuffix(ending)
    return name


def upstream_name(service: Key, number: int) -> str:
    """How the upstream is called that a Service's port is: `NAMESPACE/NAME:PORT`."""
    return f"{service}:{number}"


def _service_of(upstream: str) -> tuple[Key, int]:
    key, _, number = upstream.rpartition(":")
    namespace, _, name = key.partition("/")
    return Key(namespace, name), int(number)


def make_cluster(objects: Iterable[Object], addresses: Mapping[str, Upstream]) -> Cluster:
    """Look at objects together.

    Args:
        objects: with a name, and no two of one kind with the same.
        addresses: upstreams of the command line by name.
    """
    by_kind: dict[str, dict[Key, Object]] = {}
    for each in objects:
        key = Key("", each.key.name) if each.kind == "Namespace" else each.key
        by_kind.setdefault(each.kind, {})[key] = each
    faults: dict[Object, tuple[Fault, ...]] = {}
    services: dict[Key, Service] = {}
    for each in by_kind.get("Service", {}).values():
        services[each.key], problems = alone(each.spec(), _service, Service())
        faults[each] = invalid(problems)
    grants: list[Grant] = []
    for each in by_kind.get("ReferenceGrant", {}).values():
        found, problems = alone(each.spec(), functools.partial(_grants, each.key.namespace), ())
        grants += () if problems else found
        faults[each] = invalid(problems)
    for each in by_kind.get("Namespace", {}).values():
        faults[each] = invalid(alone(each.spec(), lambda it: check(it, spec_of(NAMESPACE)), None)[1])
    bridged: dict[str, Upstream] = {}
    for each in by_kind.get("McpBridge", {}).values():
        upstreams, problems = read_mcp_bridge(each)
        bridged.update((upstream.name, upstream) for upstream in upstreams)
        faults[each] = invalid(problems)
    return Cluster(by_kind, {**bridged, **addresses}, services, tuple(grants), faults)


def invalid(problems: Iterable[Problem]) -> tuple[Fault, ...]:
    """The faults of an object that cannot be read as what it should be."""
    return tuple(Fault(ACCEPTED, INVALID, problem.message, problem.position) for problem in problems)


def _service(spec: Place) -> Service:
    check(spec, spec_of(SERVICE))
    fields = open_fields(spec)
    return Service(
        ports=fields.get("ports", lambda it: it.each(_service_port), ()),
        headless=fields.get("clusterIP", Place.string, "") == "None",
    )


def _service_port(place: Place) -> ServicePort:
    fields = open_fields(place)
    return ServicePort(
        number=fields.require("port", port, 0),
        name=fields.get("name", Place.string, ""),
        protocol=fields.get("appProtocol", Place.string, ""),
        target=fields.get("targetPort", _number_or_name, None),
    )


def _number_or_name(place: Place) -> int | None:
    if isinstance(place.node, Scalar) and place.node.kind is ScalarKind.STRING:
        return None
    return port(place)


def _grants(namespace: str, spec: Place) -> tuple[Grant, ...]:
    check(spec, spec_of(REFERENCE_GRANT))
    fields = open_fields(spec)
    sources = fields.require("from", lambda it: it.each(_grant_from), ())
    targets = fields.require("to", lambda it: it.each(_grant_to), ())
    return tuple(Grant(namespace, *source, *target) for source in sources for target in targets)


def _grant_from(place: Place) -> tuple[str, str, str]:
    fields = open_fields(place)
    return (
        fields.get("group", Place.string, ""),
        fields.require("kind", Place.string, ""),
        fields.require("namespace", Place.string, ""),
    )


def _grant_to(place: Place) -> tuple[str, str, str]:
    fields = open_fields(place)
    return (
        fields.get("group", Place.string, ""),
        fields.require("kind", Place.string, ""),
        fields.get("name", Place.string, ""),
    )
