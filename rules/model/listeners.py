"""Where Envoy listens, and the upstreams that it forwards to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from rejoinder.rules.model.matches import Position

RULE_FILES: Final = ""
"""The group of the listeners and routes of rule files. Every other group belongs to a port of a Gateway."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of an upstream."""

    host: str
    """An IP address (IPv6 without brackets) or a DNS name."""
    port: int


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """How a TLS upstream is verified, and the client certificate that it gets."""

    ca: bytes | None = None
    """PEM, the trusted authorities; None: as for all upstreams."""
    sni: str | None = None
    """The server name in the handshake, which the certificate must have; None: the endpoint's own."""
    certificate: bytes | None = None
    """PEM, the chain that Envoy shows; None: no client certificate."""
    key: bytes | None = field(default=None, repr=False)
    """PEM; given when `certificate` is."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A request that is sent to each endpoint regularly; an endpoint that fails gets no other requests."""

    path: str
    interval: float = 10.0
    timeout: float = 2.0
    """Both in seconds."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A named backend; requests are spread over its addresses in turn."""

    name: str
    endpoints: tuple[Endpoint, ...]
    """Empty for `builtin:echo` until its address is known."""
    tls: bool = False
    """TLS with the certificate verified against the endpoint's host name."""
    echo: bool = False
    """`builtin:echo`: the small server that `rejoinder up` runs itself."""
    http2: bool = False
    """HTTP/2, without negotiation (h2c where there is no TLS)."""
    host: str | None = None
    """The Host that it gets, unless the route has one; None: that of the request."""
    tls_options: UpstreamTls = UpstreamTls()
    connect_timeout: float = 5.0
    """In seconds."""
    health_check: HealthCheck | None = None
    position: Position = field(default=Position("", 0), compare=False)


@dataclass(frozen=True, slots=True)
class Listener:
    """An address that Envoy accepts HTTP/1.1 and HTTP/2 on."""

    address: str
    """An IP address, IPv6 without brackets."""
    port: int
    """0: any free one."""
    certificate: bytes | None = None
    """PEM, the chain; None: no TLS."""
    key: bytes | None = field(default=None, repr=False)
    """PEM; given when `certificate` is."""
    more_certificates: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)
    """Further chains with their keys; a client gets the one that fits the name it asks for (SNI)."""
    client_ca: bytes | None = None
    """PEM: clients without a certificate of one of these authorities are refused; None: no certificate is requested."""
    number: int = 1
    """Its number among the listeners with this address: port 0 may be given many times."""
    group: str = RULE_FILES
    """It has the routes of the same group."""
    position: Position = field(default=Position("", 0), compare=False)


def numbered(listeners: Iterable[Listener]) -> tuple[Listener, ...]:
    """Listeners with numbers that distinguish those with the same address."""
    count: Counter[tuple[str, int]] = Counter()
    result: list[Listener] = []
    for listener in listeners:
        count[listener.address, listener.port] += 1
        result.append(replace(listener, number=count[listener.address, listener.port]))
    return tuple(result)


DEFAULT_LISTENER: Final = Listener("0.0.0.0", 10000)
