"""Higress' McpBridge: addresses of services outside of Kubernetes. docs/higress.md is the page for users.

In: `McpBridge` objects. Out: an `Upstream` for each registry that contains its addresses, and the problems of the
object. Pure. Other registries are servers, which are not queried here: the status of an Ingress for one of their
services says so. As in Higress, only the bridges of its own namespace are read.
"""

from __future__ import annotations

import functools
from typing import Final

from rejoinder.rules.fields import Place
from rejoinder.rules.kubernetes.objects import (
    SYSTEM_NAMESPACE,
    Object,
    items,
    member,
    one_of,
    open_fields,
    port,
    read_spec,
)
from rejoinder.rules.model import Endpoint, Upstream, UpstreamTls
from rejoinder.rules.problem import Problem
from rejoinder.rules.rule_file.addresses import PORTS, host_of
from rejoinder.rules.rule_file.values import name

_PROTOCOLS: Final = ("", "HTTP", "HTTPS", "HTTP2", "GRPC", "GRPCS")


def read_mcp_bridge(bridge: Object) -> tuple[tuple[Upstream, ...], tuple[Problem, ...]]:
    """The upstreams of an object, and its problems."""
    if bridge.key.namespace != SYSTEM_NAMESPACE:
        return (), (Problem(bridge.position, f"it has to be in {SYSTEM_NAMESPACE}: Higress reads no other"),)
    return read_spec(bridge, _registries, ())


def _registries(spec: Place) -> tuple[Upstream, ...]:
    read = [place.attempt(_registry, None) for place in items(member(spec, "registries"))]
    return tuple(upstream for upstream in read if upstream is not None)


def _registry(place: Place) -> Upstream | None:
    fields = open_fields(place)
    kind = fields.require("type", Place.string, "")
    if kind not in ("static", "dns"):
        return None
    protocol = fields.get("protocol", lambda it: one_of(*_PROTOCOLS)(it).upper(), "")
    number = fields.require("port", port, 0)
    sni = fields.get("sni", Place.string, "")
    endpoint = functools.partial(_endpoint, None if kind == "static" else number)
    return Upstream(
        fields.require("name", name, ""),
        fields.require("domain", lambda it: tuple(endpoint(it, text) for text in it.string().split(",")), ()),
        tls=protocol in ("HTTPS", "GRPCS"),
        http2=protocol in ("HTTP2", "GRPC", "GRPCS"),
        tls_options=UpstreamTls(sni=sni or None),
        position=place.position,
    )


def _endpoint(number: int | None, place: Place, text: str) -> Endpoint:
    """An address. The port of a `dns` registry is given; otherwise the port is part of the address."""
    host, colon, own = text.strip().rpartition(":") if number is None else (text.strip(), ":", str(number))
    address = host_of(host)
    if address is None or not colon or not own.isdecimal() or int(own) not in PORTS:
        raise place.expected("addresses such as 10.0.0.1:80,10.0.0.2:80" if number is None else "host names")
    return Endpoint(address, int(own))
