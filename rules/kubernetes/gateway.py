"""Gateways: where they listen, which of their listeners can be used, and which routes a listener accepts.

In: `Gateway` objects and the `Cluster`. Out: `Gateway` values with their faults. Pure.

All listeners on one port of a Gateway share a socket and a list of routes, whose host names distinguish them.
https://gateway-api.sigs.k8s.io/reference/spec/#gateway
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from rejoinder.rules.document import Map, quoted
from rejoinder.rules.fields import Fields, Place, Source
from rejoinder.rules.files import Files
from rejoinder.rules.kubernetes.certificates import certificates, client_authorities
from rejoinder.rules.kubernetes.cluster import GATEWAY_API, Cluster
from rejoinder.rules.kubernetes.known import LISTENER, check
from rejoinder.rules.kubernetes.objects import (
    Key,
    Object,
    alone,
    items,
    member,
    one_of,
    open_fields,
    port,
    read_spec,
    string_map,
)
from rejoinder.rules.kubernetes.status import (
    ACCEPTED,
    CONFLICTED,
    PROGRAMMED,
    RESOLVED_REFS,
    Fault,
    ListenerStatus,
    Status,
    as_faults,
    condition_of,
)
from rejoinder.rules.model import RULE_FILES, Listener, Position
from rejoinder.rules.rule_file.matches import domains

INVALID_ROUTE_KINDS: Final = "InvalidRouteKinds"
"""The reason if a listener allows unsupported kinds of routes: it accepts the other kinds."""

ADDRESS_NOT_USABLE: Final = "AddressNotUsable"

ANY_ADDRESS: Final = "0.0.0.0"

_PROTOCOLS: Final = {"HTTP": "http", "HTTPS": "https"}


_Expression: TypeAlias = tuple[str, str, tuple[str, ...]]
"""A key, an operator and values: one test of a label selector."""

_OPERATORS: Final[dict[str, Callable[[str | None, tuple[str, ...]], bool]]] = {
    "In": lambda value, values: value in values,
    "NotIn": lambda value, values: value not in values,
    "Exists": lambda value, _: value is not None,
    "DoesNotExist": lambda value, _: value is None,
}


@dataclass(frozen=True, slots=True)
class GatewayListener:
    """One entry of `spec.listeners`."""

    name: str
    port: int
    protocol: str
    hostname: str = ""
    """Empty: every host."""
    namespaces: str = "Same"
    """Same, All, None or Selector."""
    selector: tuple[_Expression, ...] = ()
    """All must hold."""
    kinds: tuple[tuple[str, str], ...] | None = None
    """Group and kind of the accepted routes; None: those of its protocol."""
    certificates: tuple[tuple[bytes, bytes], ...] = ()
    """Chains and keys."""
    client_ca: bytes | None = None
    """As in `Listener`."""
    faults: tuple[Fault, ...] = ()
    position: Position = field(default=Position("", 0), compare=False)

    @property
    def usable(self) -> bool:
        """Whether routes can be attached and requests come in."""
        return all(fault.reason == INVALID_ROUTE_KINDS for fault in self.faults)

    @property
    def scheme(self) -> str:
        return _PROTOCOLS.get(self.protocol, "")

    def lets_in(self, route: Object, gateway: Object | None, cluster: Cluster) -> bool:
        """Whether a route may be attached, by its kind and namespace."""
        if not self.scheme or (self.kinds is not None and (route.group, route.kind) not in self.kinds):
            return False
        match self.namespaces:
            case "All":
                return True
            case "Selector":
                labels = cluster.labels(route.key.namespace)
                return all(_OPERATORS[operator](labels.get(key), values) for key, operator, values in self.selector)
            case "Same":
                return gateway is not None and route.key.namespace == gateway.key.namespace
        return False


@dataclass(frozen=True, slots=True)
class Gateway:
    """One Gateway."""

    key: Key
    object: Object | None
    """None: it stands for the listeners of the rule files."""
    addresses: tuple[str, ...]
    listeners: tuple[GatewayListener, ...]
    faults: tuple[Fault, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether routes can be attached; requests come in if it is not `homeless`."""
        return all(fault.reason == ADDRESS_NOT_USABLE for fault in self.faults)

    @property
    def homeless(self) -> bool:
        """Whether another Gateway has one of its addresses."""
        return any(fault.reason == ADDRESS_NOT_USABLE for fault in self.faults)

    def group(self, number: int) -> str:
        """The name of the group of listeners on one port of this Gateway."""
        return RULE_FILES if self.object is None else f"gateway/{self.key}/{number}"

    def sockets(self) -> Iterator[Listener]:
        """The listeners for Envoy."""
        if self.object is None or not self.usable:
            return
        usable = [listener for listener in self.listeners if listener.usable]
        for number in dict.fromkeys(listener.port for listener in usable):
            here = [listener for listener in usable if listener.port == number]
            pairs = tuple(dict.fromkeys(pair for listener in here for pair in listener.certificates))
            for address in self.addresses:
                socket = Listener(address, number, group=self.group(number), position=here[0].position)
                if pairs:
                    certificate, key = pairs[0]
                    socket = replace(socket, certificate=certificate, key=key, more_certificates=pairs[1:])
                    socket = replace(socket, client_ca=here[0].client_ca)
                yield socket

    def status(self, attached: Mapping[str, int]) -> Status:
        """Its conditions; `attached` says how many routes each listener has, by name."""
        assert self.object is not None, "only objects have a status"
        broken = [listener for listener in self.listeners if not listener.usable]
        own = condition_of(ACCEPTED, self.faults)
        if broken and own.good:
            names = ", ".join(listener.name for listener in broken)
            own = replace(own, reason="ListenersNotValid", message=f"these listeners cannot be used: {names}")
        return Status(
            self.object,
            conditions=(own, condition_of(PROGRAMMED, _programmed(self.faults))),
            listeners=tuple(_listener_status(listener, attached.get(listener.name, 0)) for listener in self.listeners),
            addresses=self.addresses,
        )


def _programmed(faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
    """Faults of PROGRAMMED. What is not accepted is not programmed either."""
    inherited = (replace(f, condition=PROGRAMMED, reason="Invalid") for f in faults if f.condition == ACCEPTED)
    return (*(fault for fault in faults if fault.condition == PROGRAMMED), *inherited)


def _listener_status(listener: GatewayListener, attached: int) -> ListenerStatus:
    faults = listener.faults
    kinds = [kind for group, kind in listener.kinds or _HTTP_ROUTE if (group, kind) in _HTTP_ROUTE]
    stopped = () if listener.usable else tuple(replace(f, condition=PROGRAMMED, reason="Invalid") for f in faults)
    return ListenerStatus(
        listener.name,
        attached,
        (
            condition_of(ACCEPTED, faults),
            condition_of(PROGRAMMED, stopped[:1]),
            condition_of(RESOLVED_REFS, faults),
            condition_of(CONFLICTED, faults, "NoConflicts"),
        ),
        tuple(kinds),
    )


_HTTP_ROUTE: Final = ((GATEWAY_API, "HTTPRoute"),)


# --- reading ---


def read_gateway(gateway: Object, cluster: Cluster) -> Gateway:
    """A Gateway. Mistakes become faults of the Gateway, or of the listener that they are about."""
    frontend, problems = read_spec(gateway, _frontend, {}, "listeners")
    addresses, address_problems = alone(member(gateway.spec(), "addresses"), lambda it: [*map(_address, items(it))], [])
    places, listener_problems = alone(member(gateway.spec(), "listeners"), items, [])
    faults = [*as_faults((*problems, *listener_problems)), *as_faults(address_problems, "UnsupportedAddress")]
    if not places and not faults:
        faults.append(Fault(gateway.position, "spec.listeners is missing: it listens nowhere"))
    listeners = [_listener(place, gateway, cluster, frontend) for place in places]
    given = tuple(filter(None, addresses)) or (ANY_ADDRESS,)
    return Gateway(gateway.key, gateway, given, _told_apart(listeners), tuple(faults))


def _address(place: Place) -> str:
    fields = open_fields(place)
    fields.get("type", one_of("IPAddress"), "")
    value = fields.get("value", Place.string, "")
    if not value:
        return ""  # "any address of this type"
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise fields["value"].expected("an IP address") from None


def _listener(
    place: Place, gateway: Object, cluster: Cluster, frontend: Mapping[int | None, Place | None]
) -> GatewayListener:
    listener, problems = alone(place, _read_listener, GatewayListener("", 0, ""))
    faults = [*as_faults(problems)]
    if listener.protocol not in _PROTOCOLS and not faults:
        message = f"the protocol {quoted(listener.protocol)} is not supported: expected one of {', '.join(_PROTOCOLS)}"
        faults.append(Fault(place.position, message, reason="UnsupportedProtocol"))
    for group, kind in listener.kinds or ():
        if (group, kind) not in _HTTP_ROUTE:
            message = f"allowedRoutes.kinds: {kind} is not supported, HTTPRoute is"
            faults.append(Fault(place.position, message, reason=INVALID_ROUTE_KINDS, condition=RESOLVED_REFS))
    pairs: tuple[tuple[bytes, bytes], ...] = ()
    ca: bytes | None = None
    if listener.protocol == "HTTPS":
        pairs, secret_faults = certificates(member(place, "tls"), gateway, cluster)
        faults += secret_faults
        if not pairs and not secret_faults:
            faults.append(Fault(place.position, "HTTPS needs tls.certificateRefs with a Secret"))
        own = alone(member(place, "tls"), open_fields, _NO_FIELDS)[0].given.get("frontendValidation")
        ca, ca_faults = client_authorities(own or frontend.get(listener.port, frontend.get(None)), gateway, cluster)
        faults += ca_faults
    return replace(listener, certificates=pairs, client_ca=ca, faults=tuple(faults), position=place.position)


def _read_listener(place: Place) -> GatewayListener:
    check(place, LISTENER)
    fields = open_fields(place)
    allowed = open_fields(member(place, "allowedRoutes"))
    namespaces = open_fields(member(allowed.place, "namespaces"))
    hosts = fields.get("hostname", domains, ())
    return GatewayListener(
        name=fields.require("name", Place.string, ""),
        port=fields.require("port", port, 0),
        protocol=fields.require("protocol", Place.string, ""),
        hostname=hosts[0] if hosts else "",
        namespaces=namespaces.get("from", one_of("Same", "All", "Selector", "None"), "Same"),
        selector=namespaces.get("selector", _selector, ()),
        kinds=allowed.get("kinds", lambda it: it.each(_kind), None),
    )


def _kind(place: Place) -> tuple[str, str]:
    fields = open_fields(place)
    return fields.get("group", Place.string, GATEWAY_API), fields.require("kind", Place.string, "")


def _selector(place: Place) -> tuple[_Expression, ...]:
    fields = open_fields(place)
    labels = ((name, "In", (value,)) for name, value in fields.get("matchLabels", string_map, ()))
    return *labels, *fields.get("matchExpressions", lambda it: it.each(_expression), ())


def _expression(place: Place) -> _Expression:
    fields = open_fields(place)
    return (
        fields.require("key", Place.string, ""),
        fields.require("operator", one_of(*_OPERATORS), "Exists"),
        fields.get("values", lambda it: it.each(Place.string), ()),
    )


def _told_apart(listeners: list[GatewayListener]) -> tuple[GatewayListener, ...]:
    """Listeners with their conflicts: those of one port must have different hosts and the same protocol."""
    ports = {listener.port for listener in listeners}
    protocols = {number: {entry.protocol for entry in listeners if entry.port == number} for number in ports}
    authorities = {number: {entry.client_ca for entry in listeners if entry.port == number} for number in ports}
    hosts = Counter((listener.port, listener.hostname) for listener in listeners)
    names = Counter(listener.name for listener in listeners)

    def conflict(listener: GatewayListener) -> Fault | None:
        def fault(reason: str, message: str) -> Fault:
            return Fault(listener.position, message, reason=reason, condition=CONFLICTED)

        if names[listener.name] > 1:
            return fault("HostnameConflict", f"several listeners are called {quoted(listener.name)}")
        number = listener.port
        if len(protocols[number]) > 1:
            return fault("ProtocolConflict", f"port {number} is given to {' and '.join(sorted(protocols[number]))}")
        if len(authorities[number]) > 1:
            # Envoy asks for a client's certificate before it knows which host the request is for.
            return fault("ProtocolConflict", f"the listeners of port {number} demand different client certificates")
        if hosts[number, listener.hostname] > 1:
            host = quoted(listener.hostname) if listener.hostname else "every host"
            return fault("HostnameConflict", f"port {number} has several listeners for {host}")
        return None

    return tuple(
        replace(listener, faults=(*listener.faults, conflicting)) if conflicting else listener
        for listener in listeners
        for conflicting in [conflict(listener)]
    )


def _frontend(spec: Place) -> dict[int | None, Place | None]:
    """The validation of client certificates by port; None: for all other ports."""
    validations: dict[int | None, Place | None] = {}
    frontend = open_fields(spec).get("tls", open_fields, _NO_FIELDS).get("frontend", open_fields, _NO_FIELDS)
    validations[None] = frontend.get("default", open_fields, _NO_FIELDS).given.get("validation")
    for entry in frontend.get("perPort", Place.items, []):
        fields = open_fields(entry)
        number = fields.require("port", port, 0)
        validations[number] = fields.get("tls", open_fields, _NO_FIELDS).given.get("validation")
    return validations


_NO_FIELDS: Final = Fields(Place(Map(0, {}, 0), Source("", Files())), {})
