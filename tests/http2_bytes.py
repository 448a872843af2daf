"""HTTP/2 as bytes, for tests: frames to and fro, and a conversation as a gRPC client has it."""

from __future__ import annotations

from typing import Final, NamedTuple

from rejoinder.extproc.frames import ACK, END_HEADERS, END_STREAM, HEADER, PREFACE, Frame, frame
from rejoinder.extproc.headers import encode

REQUEST: Final[tuple[tuple[str, str], ...]] = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/package.Service/Method"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)
BLOCK: Final = encode(REQUEST)
TRAILERS: Final = encode((("x-checksum", "1"),))

OPENING: Final = PREFACE + frame(Frame.SETTINGS, 0, 0, b"") + frame(Frame.SETTINGS, ACK, 0, b"")
PING: Final = frame(Frame.PING, 0, 0, b"anybody?")


class Seen(NamedTuple):
    """A frame that has come."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes


def frames(data: bytes) -> list[Seen]:
    """What some bytes are; they have to be whole frames."""
    seen = []
    while data:
        high, low, kind, flags, stream_id = HEADER.unpack_from(data)
        end = HEADER.size + (high << 8 | low)
        assert len(data) >= end, "a frame is cut off"
        seen.append(Seen(kind, flags, stream_id, data[HEADER.size : end]))
        data = data[end:]
    return seen


def headers(stream_id: int, block: bytes = BLOCK, flags: int = END_HEADERS) -> bytes:
    return frame(Frame.HEADERS, flags, stream_id, block)


def data(stream_id: int, payload: bytes, flags: int = 0) -> bytes:
    return frame(Frame.DATA, flags, stream_id, payload)


def message(data: bytes, compressed: int = 0) -> bytes:
    """A gRPC message."""
    return bytes((compressed,)) + len(data).to_bytes(4, "big") + data


def request(stream_id: int, payload: bytes, flags: int = END_STREAM) -> bytes:
    """A whole unary call."""
    return headers(stream_id) + data(stream_id, message(payload), flags)
