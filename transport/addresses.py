"""Where a service is: a host and a port, or a Unix socket. Pure."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from rejoinder.rules.http import parse_address, show_address

Tcp = tuple[str, int]
"""A host (IPv6 without brackets) and a port."""
Address = Tcp | Path
"""Or the path of a Unix socket."""

UNIX: Final = "unix:"
MAX_PATH: Final = 107
"""Bytes: https://man7.org/linux/man-pages/man7/unix.7.html"""


def parse(text: str) -> Address:
    """The reverse of `show`.

    Raises:
        ValueError: the text is no address.
    """
    path = text.removeprefix(UNIX)
    if path == text:
        try:
            return parse_address(text)
        except ValueError:
            raise ValueError(f"expected HOST:PORT or unix:/PATH, got {text!r}") from None
    if not path.startswith("/"):
        raise ValueError(f"expected unix: and an absolute path, got {text!r}")
    if len(path.encode()) > MAX_PATH:
        raise ValueError(f"expected a path of at most {MAX_PATH} bytes, got {text!r}")
    return Path(path)


def show(address: Address) -> str:
    """An address as text: `HOST:PORT`, IPv6 in brackets, or `unix:/PATH`.

    >>> show(("::1", 80)), show(Path("/run/xds"))
    ('[::1]:80', 'unix:/run/xds')
    """
    return f"{UNIX}{address}" if isinstance(address, Path) else show_address(*address)


def nth(address: Address, at: int) -> Address:
    """The address of one of several processes: the first port, or path, with a number added."""
    if isinstance(address, Path):
        return address.with_name(f"{address.name}.{at}") if at else address
    host, port = address
    return (host, port + at if port else 0)


def overlap(one: Address, other: Address) -> bool:
    """Whether two services cannot both listen.

    >>> overlap(("0.0.0.0", 80), ("127.0.0.1", 80)), overlap(("127.0.0.1", 80), ("127.0.0.2", 80))
    (True, False)
    """
    if isinstance(one, Path) or isinstance(other, Path):
        return one == other
    return 0 != one[1] == other[1] and (one[0] == other[0] or not {one[0], other[0]}.isdisjoint(("0.0.0.0", "::")))


def is_loopback(address: Tcp) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(address[0]).is_loopback
    return address[0] == "localhost"


def is_ip(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False


def discovery(addresses: Iterable[Address]) -> dict[str, Any]:
    """The service discovery fields of an Envoy cluster with these addresses."""
    if any(map(host_name, addresses)):
        # `localhost` is ::1 first for Envoy's default family; most servers listen on IPv4.
        return {"type": "STRICT_DNS", "dns_lookup_family": "V4_PREFERRED"}
    return {"type": "STATIC"}


def host_name(address: Address) -> str:
    """The host names to be resolved by DNS; empty: none."""
    return "" if isinstance(address, Path) or is_ip(address[0]) else address[0]


def as_envoy(address: Address) -> dict[str, Any]:
    """An `envoy.config.core.v3.Address`; only this user may connect to a socket that Envoy makes itself."""
    if isinstance(address, Path):
        return {"pipe": {"path": str(address), "mode": 0o600}}
    return {"socket_address": {"address": address[0], "port_value": address[1]}}
