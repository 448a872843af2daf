"""Programs as bytes, made by hand: for what the encoder never writes, and to hold the module against docs/program.md.

program(rule("busy", [reply([(503, 503)], 503, body=b"busy")], path=(PREFIX, "/a")))
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")

EVERY, EXACT, PREFIX, REGEX = range(4)
"""Kinds of paths."""

FINAL, UNCONDITIONAL = 1, 2


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


def reply(
    statuses: Sequence[tuple[int, int]] = (),
    status: int = 0,
    handler: str = "",
    headers: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
) -> tuple[bytes, bytes]:
    """A reply, and its body."""
    data = (
        listed(struct.pack("<HH", first, last) for first, last in statuses)
        + struct.pack("<H", status)
        + text(handler)
        + listed(text(name) + text(value) for name, value in headers)
        + (b"\x01" + identity(body) if body else b"\x00")
    )
    return data, body


def test(name: str, kind: int, value: str) -> bytes:
    return text(name) + bytes((kind,)) + text(value)


def rule(
    name: str,
    replies: Sequence[tuple[bytes, bytes]],
    *,
    flags: int = 0,
    domains: Sequence[str] = (),
    routes: Sequence[str] | None = None,
    path: tuple[int, str] = (EVERY, ""),
    methods: Sequence[str] = (),
    headers: Sequence[bytes] = (),
    query: Sequence[bytes] = (),
) -> bytes:
    """A rule's record, behind those of its bodies."""
    payload = (
        bytes((flags,))
        + text(name)
        + listed(map(text, domains))
        + bytes((routes is not None,))
        + listed(map(text, routes or ()))
        + bytes((path[0],))
        + text(path[1])
        + listed(map(text, methods))
        + listed(headers)
        + listed(query)
        + listed(data for data, _ in replies)
    )
    return b"".join(body(data) for _, data in replies if data) + record(2, payload)


def program(*records: bytes, parts: Sequence[bytes] = ()) -> bytes:
    """A program; `parts` are the ids of parts."""
    return b"RJNDR\0\x01\0" + listed(parts) + b"".join(records)


def part(*records: bytes) -> tuple[bytes, bytes]:
    """A part's id, and the part."""
    data = b"".join(records)
    return identity(data), b"RJPRT\0\x01\0" + identity(data) + data


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
