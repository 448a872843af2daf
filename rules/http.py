"""Facts of HTTP that several readers need."""

from __future__ import annotations

import re
from typing import Final

TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""Header names, methods, protocols: RFC 9110, section 5.6.2."""
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
CONTROL_IN_VALUE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""In the value of a header a tab is allowed: RFC 9110, section 5.5."""

REDIRECTS: Final = (301, 302, 303, 307, 308)
"""The statuses of a redirect."""
BODILESS: Final = (204, 304)
"""Final statuses that never have content (RFC 9110, sections 15.3.5 and 15.4.5)."""

GRPC_STATUSES: Final = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
"""By their numbers: https://github.com/grpc/grpc/blob/master/doc/statuscodes.md"""
GRPC_UNKNOWN: Final = 2
GRPC_OF_STATUS: Final = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
"""The gRPC statuses of HTTP statuses; all others are GRPC_UNKNOWN:
https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md"""

CONNECTION_HEADERS: Final = frozenset(
    ("connection", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)
"""Headers of one connection, or of a request: Envoy sets or refuses them in an answer."""

NEVER_KEPT: Final = CONNECTION_HEADERS.union(
    (
        *("accept-ranges", "content-digest", "content-disposition", "content-encoding", "content-language"),
        *("content-length", "content-location", "content-md5", "content-range", "content-type", "digest"),
        *("grpc-message", "grpc-status", "grpc-status-details-bin", "repr-digest"),
    )
)
"""Headers of a response that describe its body, which is replaced, or how it was sent. The module's core has the same
list (`make.c`)."""


def split_port(authority: str) -> tuple[str, str]:
    """A host, an IPv6 address in its brackets, and the port behind it, empty if there is none.

    >>> split_port("[::1]:80"), split_port("[::1]"), split_port("a.test")
    (('[::1]', '80'), ('[::1]', ''), ('a.test', ''))
    """
    host, colon, port = authority.rpartition(":")
    return (host, port) if colon and "]" not in port else (authority, "")


def parse_address(text: str) -> tuple[str, int]:
    """The host, without brackets, and the port of `HOST:PORT`.

    Raises:
        ValueError: it is none.
    """
    host, port = split_port(text)
    if not (host and port.isascii() and port.isdigit() and int(port) < 2**16):
        raise ValueError(f"expected HOST:PORT, got {text!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def show_address(host: str, port: int) -> str:
    """`HOST:PORT`, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
