"""Programs as bytes, made by hand: for what the encoder never writes, and to hold the module against docs/program.md.

program(rule("busy", [reply([(503, 503)], 503, body=b"busy")], path=(PREFIX, "/a")))
"""

from __future__ import annotations

import hashlib
import ipaddress
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

EVERY, EXACT, PREFIX, REGEX = range(4)
"""Kinds of paths."""

FINAL, UNCONDITIONAL, UNLESS, OBSERVES = 1, 2, 4, 8

ANY, UPSTREAM, LOCAL = range(3)
"""Sources."""


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<I", len(data)) + data


def listed(entries: Iterable[bytes]) -> bytes:
    entries = list(entries)
    return struct.pack("<I", len(entries)) + b"".join(entries)


def identity(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:16]


def record(kind: int, payload: bytes) -> bytes:
    return struct.pack("<BI", kind, len(payload)) + payload


def body(data: bytes) -> bytes:
    """A body's record."""
    return record(1, identity(data) + data)


RAW, HTML, JSON, URL, HEADER = range(5)
"""How values are escaped."""


def template(*pieces: str | bytes | tuple[int, int, str]) -> bytes:
    """Texts, the ids of texts that are bodies, and variables: name, escape and argument."""
    return listed(
        b"\0" + text(piece)
        if isinstance(piece, str)
        else b"\xff" + piece
        if isinstance(piece, bytes)
        else bytes(piece[:2]) + text(piece[2])
        for piece in pieces
    )


def content(
    body: bytes = b"",
    content_type: str = "",
    language: str = "",
    headers: Sequence[tuple[str, str]] = (),
    templates: Sequence[tuple[str, bytes]] = (),
    is_template: bool = False,
) -> tuple[bytes, bytes]:
    """One of the contents of a reply, and the record of its body.

    Args:
        templates: headers whose values are templates.
        is_template: the body is one.
    """
    kind = 3 if is_template else 1
    data = (
        text(content_type)
        + text(language)
        + listed(text(name) + text(value) for name, value in headers)
        + listed(text(name) + value for name, value in templates)
        + (bytes((kind,)) + identity(body) if body else b"\x00")
    )
    return data, record(kind, identity(body) + body) if body else b""


def reply(
    statuses: Sequence[tuple[int, int]] = (),
    status: int = 0,
    handler: str = "",
    headers: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
    *,
    contents: Sequence[tuple[bytes, bytes]] = (),
    keep: Sequence[str] = (),
    passes: bool = False,
    asks: bytes = b"",
    grpc: bytes = b"",
) -> tuple[bytes, bytes]:
    """A reply, and the records of its bodies.

    Args:
        contents: in place of `headers` and `body`.
        asks: what `remote` makes.
        grpc: a status, and a template.
    """
    contents = contents or [content(body, headers=headers)]
    data = (
        listed(struct.pack("<HH", first, last) for first, last in statuses)
        + bytes((passes + 2 * bool(asks) + 4 * bool(grpc),))
        + struct.pack("<H", status)
        + text(handler)
        + listed(map(text, keep))
        + asks
        + grpc
        + listed(data for data, _ in contents)
    )
    return data, b"".join(record for _, record in contents)


def remote(
    service: str, told: Sequence[tuple[str, bytes]] = (), *, timeout: int = 1000, cache: int = 0, stays: int = 0
) -> bytes:
    """A page that a service is asked for; `told`: headers whose values are templates."""
    return (
        text(service)
        + text("service.test")
        + struct.pack("<II", timeout, cache)
        + bytes((stays,))
        + listed(text(name) + value for name, value in told)
    )


def test(name: str, kind: int, value: str) -> bytes:
    return text(name) + bytes((kind,)) + text(value)


def network(cidr: str) -> bytes:
    parsed = ipaddress.ip_network(cidr)
    packed = parsed.network_address.packed
    mapped = b"" if len(packed) == 16 else bytes(10) + b"\xff\xff"
    return bytes((parsed.prefixlen + 8 * len(mapped),)) + mapped + packed


def scope(
    *,
    domains: Sequence[str] = (),
    routes: Sequence[str] | None = None,
    path: tuple[int, str] = (EVERY, ""),
    methods: Sequence[str] = (),
    headers: Sequence[bytes] = (),
    query: Sequence[bytes] = (),
    clients: Sequence[str] = (),
    response: Sequence[bytes] = (),
) -> bytes:
    return (
        listed(map(text, domains))
        + bytes((routes is not None,))
        + listed(map(text, routes or ()))
        + bytes((path[0],))
        + text(path[1])
        + listed(map(text, methods))
        + listed(headers)
        + listed(query)
        + listed(map(network, clients))
        + listed(response)
    )


def rule(
    name: str,
    replies: Sequence[tuple[bytes, bytes]],
    *,
    flags: int = 0,
    source: int = ANY,
    unless: bytes = b"",
    **about: Any,
) -> bytes:
    """A rule's record, behind those of its bodies.

    Args:
        unless: a scope.
        about: the rule's own scope, as `scope` takes it.
    """
    payload = (
        bytes((flags | (UNLESS if unless else 0),))
        + text(name)
        + bytes((source,))
        + scope(**about)
        + unless
        + listed(data for data, _ in replies)
    )
    return b"".join(dict.fromkeys(records for _, records in replies)) + record(2, payload)


def program(*records: bytes, parts: Sequence[bytes] = ()) -> bytes:
    """A program; `parts` are the ids of parts."""
    return b"RJNDR\0\x03\0" + listed(parts) + b"".join(records)


def part(*records: bytes) -> tuple[bytes, bytes]:
    """A part's id, and the part."""
    data = b"".join(records)
    return identity(data), b"RJPRT\0\x03\0" + identity(data) + data


class Reader:
    """Reads bytes from front to back. Whatever is there must be there: these are no strangers' bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def done(self) -> bool:
        return not self._data

    def take(self, size: int) -> bytes:
        assert size <= len(self._data)
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    def rest(self) -> bytes:
        return self.take(len(self._data))

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self) -> str:
        return self.take(self.number(4)).decode()

    def list(self, one: Callable[[], T]) -> list[T]:
        return [one() for _ in range(self.number(4))]

    def test(self) -> str:
        """A test of a header or parameter, in words."""
        name, kind = self.text(), ("exact", "prefix", "suffix", "contains", "regex", "present")[self.number(1)]
        return f"{name} {kind} {self.text()}".rstrip()
