"""All loaded objects, and what follows from all of them: the addresses of Services, and the allowed references.

In: `Object`s, and the upstreams that have an address on the command line. Out: `Cluster`, for the readers of routes.
Pure; mistakes in an object are in `faults`, not raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from rejoinder.rules.document import Scalar, ScalarKind
from rejoinder.rules.fields import Fields, Place
from rejoinder.rules.kubernetes.mcp_bridge import read_mcp_bridge
from rejoinder.rules.kubernetes.objects import Key, Object, Reference, open_fields, port, read_spec
from rejoinder.rules.kubernetes.status import Fault, as_faults
from rejoinder.rules.model import Endpoint, Upstream
from rejoinder.rules.problem import Problem

GATEWAY_API: Final = "gateway.networking.k8s.io"

T = TypeVar("T")


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
    """Its DNS name resolves to its pods, so the port of the pods is used."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The loaded objects, by kind."""

    objects: Mapping[str, Mapping[Key, Object]]
    addresses: Mapping[str, Upstream]
    """By upstream name: from the command line or a rule file, else from a McpBridge."""
    services: Mapping[Key, Service]
    grants: frozenset[tuple[str, ...]]
    """What ReferenceGrants allow: group, kind and namespace of objects that may refer to objects with this group, kind,
    name (empty: any) and namespace."""
    faults: dict[Object, tuple[Fault, ...]]
    """Faults of Services, ReferenceGrants, Namespaces and McpBridges; the reader of Gateways adds those of Secrets and
    ConfigMaps."""

    def of_kind(self, kind: str) -> Iterable[Object]:
        """The objects of a kind, in load order."""
        return self.objects.get(kind, {}).values()

    def find(self, kind: str, key: Key) -> Object | None:
        return self.objects.get(kind, {}).get(key)

    def labels(self, namespace: str) -> dict[str, str]:
        """The labels of a namespace; every namespace has a label with its name."""
        namespaced = self.find("Namespace", Key("", namespace))
        return {"kubernetes.io/metadata.name": namespace, **dict(namespaced.labels if namespaced else ())}

    def granted(self, source: Object, to: Reference) -> bool:
        """Whether an object may refer to another; within a namespace it always may."""
        kinds = (source.group, source.kind, source.key.namespace, to.group, to.kind)
        return source.key.namespace == to.key.namespace or any(
            (*kinds, name, to.key.namespace) in self.grants for name in ("", to.key.name)
        )

    def service_port(self, key: Key, number: int) -> ServicePort | None:
        """A port of a Service; None: there is no such Service, or it has no such port.

        A Service whose address stands on the command line need not be among the manifests.
        """
        service = self.services.get(key)
        if service is not None:
            return next((entry for entry in service.ports if entry.number == number), None)
        return ServicePort(number) if upstream_name(key, number) in self.addresses else None

    def has(self, upstream: str) -> bool:
        """Whether there is an upstream of that name."""
        key, number = _service_of(upstream)
        return upstream in self.addresses or (number is not None and self.service_port(key, number) is not None)

    def port_number(self, key: Key, name: str) -> int | None:
        """The number of a Service's port with a name; None: there is none."""
        service = self.services.get(key, Service())
        return next((entry.number for entry in service.ports if entry.name == name), None)

    def missing(self, key: Key, number: int | str) -> str:
        """The message if `service_port` finds nothing."""
        lacks = f"Service {key} has no port {number}" if key in self.services else f"there is no Service {key}"
        where = (
            f", or say where it is with --upstream {upstream_name(key, number)}=URL" if isinstance(number, int) else ""
        )
        return f"{lacks}: add it to the files{where}"

    def upstream(self, name: str) -> Upstream:
        """The upstream of a Service's port, by its `upstream_name`."""
        key, number = _service_of(name)
        if number is None:
            return self.addresses[name]
        service_port = self.service_port(key, number)
        http2 = service_port is not None and service_port.protocol == "kubernetes.io/h2c"
        if given := self.addresses.get(name):
            return replace(given, http2=http2 or given.http2)
        service = self.services[key]
        target = service_port.target if service_port and service.headless else None
        host = f"{key.name}.{key.namespace}.svc.cluster.local"
        return Upstream(name, (Endpoint(host, target or number),), http2=http2)


_CLUSTER_DOMAIN: Final = ".svc.cluster.local"
_REGISTRIES: Final = (".static", ".dns", ".nacos")
"""The suffixes that Higress gives to services outside of Kubernetes."""


def named_by_higress(name: str) -> str:
    """The name of an upstream by its name in Higress; without a port, the common prefix of the names of all ports
    of a Service.

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
    """The name of the upstream of a Service's port: `NAMESPACE/NAME:PORT`."""
    return f"{service}:{number}"


def _service_of(upstream: str) -> tuple[Key, int | None]:
    """The Service of an upstream, and its port; None: it is not a Service."""
    key, _, number = upstream.rpartition(":")
    namespace, slash, name = key.partition("/")
    return Key(namespace, name), int(number) if slash and number else None


def make_cluster(objects: Iterable[Object], addresses: Mapping[str, Upstream]) -> Cluster:
    """Put objects together. The name of each is unique within its kind; `addresses` are upstreams of the command line,
    by name."""
    by_kind: dict[str, dict[Key, Object]] = {}
    for manifest in objects:
        key = Key("", manifest.key.name) if manifest.kind == "Namespace" else manifest.key
        by_kind.setdefault(manifest.kind, {})[key] = manifest
    faults: dict[Object, tuple[Fault, ...]] = {}

    def of_kind(kind: str, read: Callable[[Object], tuple[T, Iterable[Problem]]]) -> Iterator[tuple[Object, T]]:
        for manifest in by_kind.get(kind, {}).values():
            value, problems = read(manifest)
            faults[manifest] = as_faults(problems)
            yield manifest, value

    services = {manifest.key: it for manifest, it in of_kind("Service", lambda it: read_spec(it, _service, Service()))}
    granting = of_kind("ReferenceGrant", lambda it: read_spec(it, _grants, ()))
    grants = frozenset((*it, grant.key.namespace) for grant, granted in granting if not faults[grant] for it in granted)
    list(of_kind("Namespace", lambda it: read_spec(it, lambda _: None, None)))
    bridged = {upstream.name: upstream for _, listed in of_kind("McpBridge", read_mcp_bridge) for upstream in listed}
    return Cluster(by_kind, {**bridged, **addresses}, services, grants, faults)


def _service(spec: Place) -> Service:
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


def _grants(spec: Place) -> tuple[tuple[str, ...], ...]:
    fields = open_fields(spec)
    sources = fields.require("from", lambda it: it.each(_grant_from), ())
    targets = fields.require("to", lambda it: it.each(_grant_to), ())
    return tuple((*source, *target) for source in sources for target in targets)


def _grant_from(place: Place) -> tuple[str, ...]:
    fields = open_fields(place)
    return *_group_and_kind(fields), fields.require("namespace", Place.string, "")


def _grant_to(place: Place) -> tuple[str, ...]:
    fields = open_fields(place)
    return *_group_and_kind(fields), fields.get("name", Place.string, "")


def _group_and_kind(fields: Fields) -> tuple[str, str]:
    return fields.get("group", Place.string, ""), fields.require("kind", Place.string, "")
