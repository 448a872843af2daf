"""HTTP/2 as bytes, for tests: frames to and fro, as a gRPC client has them, and a connection without a network."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from rejoinder.extproc.client import Client
from rejoinder.extproc.frames import ACK, END_HEADERS, END_STREAM, HEADER, PREFACE, Frame, frame
from rejoinder.extproc.grpc import READ_BUFFER
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


class Wire(asyncio.Transport):
    """A connection without a network: takes what is written, and brings what is to be read."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.written = b""
        self.writes = 0
        self.closing = self.aborted = self.reading_paused = False
        self._client = client
        client.connection_made(self)

    def bring(self, data: bytes) -> None:
        """Bytes have come."""
        for start in range(0, len(data), READ_BUFFER):
            part = data[start : start + READ_BUFFER]
            if not self.closing:
                self._client.get_buffer(len(part))[: len(part)] = part
                self._client.buffer_updated(len(part))

    def frames(self) -> list[Seen]:
        """What has been written since it was last asked."""
        written, self.written = self.written, b""
        return frames(written)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing
        self.written += data
        self.writes += 1

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True
        self._client.connection_lost(None)

    def pause_reading(self) -> None:
        self.reading_paused = True

    def resume_reading(self) -> None:
        self.reading_paused = False

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass
