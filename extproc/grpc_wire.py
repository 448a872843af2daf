"""gRPC on HTTP/2: length-prefixed messages, and the headers and trailers of a response.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import enum
import functools
import struct
from collections.abc import Collection, Mapping
from typing import Final

from rejoinder.extproc.headers import encode

MAX_MESSAGE: Final = 4 << 20
"""Of a client's message, in bytes: gRPC's usual limit."""


class Status(enum.IntEnum):
    """https://grpc.io/docs/guides/status-codes/"""

    OK = 0
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13


_HEADERS: Final = ((":status", "200"), ("content-type", "application/grpc"))
RESPONSE: Final = encode(_HEADERS)
OK: Final = encode((("grpc-status", "0"),))
_NOT_GRPC: Final = encode(((":status", "415"),))
_NOT_POST: Final = encode(((":status", "405"), ("allow", "POST")))
_PREFIX: Final = struct.Struct(">BL")


@functools.cache
def trailers(status: Status, message: str, *, alone: bool) -> bytes:
    """Trailers; alone: a response of trailers only, which needs the response headers, too."""
    fields = [("grpc-status", str(int(status)))] + ([("grpc-message", message)] if message else [])
    return encode((*(_HEADERS if alone else ()), *fields))


def refusal(headers: Mapping[str, str], paths: Collection[str]) -> bytes | None:
    """The response to a request that is no call of these methods; None: it is one."""
    if headers[":method"] != "POST":
        return _NOT_POST
    if not headers.get("content-type", "").startswith("application/grpc"):
        return _NOT_GRPC
    if headers[":path"] not in paths:
        return trailers(Status.UNIMPLEMENTED, "no such method", alone=True)
    return None


def framed(message: bytes) -> bytes:
    """A message with its prefix; empty for an empty message."""
    return _PREFIX.pack(0, len(message)) + message if message else b""


def take_messages(partial: bytearray, data: bytes) -> tuple[list[bytes], tuple[Status, str] | None]:
    """The messages that are completed by more data, and the error with which the stream must be ended, if any. The
    remaining bytes are in `partial`."""
    buffer: bytes | bytearray = data
    if partial:
        partial += data
        buffer = partial
    messages: list[bytes] = []
    refused: tuple[Status, str] | None = None
    position, end = 0, len(buffer)
    while end - position >= _PREFIX.size:
        compressed, size = _PREFIX.unpack_from(buffer, position)
        if compressed:
            refused = Status.UNIMPLEMENTED, "messages may not be compressed"
        elif size > MAX_MESSAGE:
            refused = Status.RESOURCE_EXHAUSTED, "the message is too large"
        start = position + _PREFIX.size
        if refused is not None or start + size > end:
            break
        position = start + size
        messages.append(bytes(buffer[start:position]))
    if buffer is partial:
        del partial[:position]
    elif position < end:
        partial += data[position:]
    return messages, refused
