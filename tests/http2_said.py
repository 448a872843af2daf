"""What is said to an HTTP/2 connection, for its tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from http2_bytes import OPENING, REQUEST, Seen, frames, headers

from rejoinder.extproc.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    ErrorCode,
    Frame,
    Setting,
    frame,
    settings,
)
from rejoinder.extproc.headers import encode
from rejoinder.extproc.http2 import (
    Connection,
    Event,
    Request,
)


def long(number: int) -> bytes:
    return number.to_bytes(4, "big")


def window(stream_id: int, increment: int) -> bytes:
    return frame(Frame.WINDOW_UPDATE, 0, stream_id, long(increment))


def rst(stream_id: int, code: int = ErrorCode.CANCEL) -> bytes:
    return frame(Frame.RST_STREAM, 0, stream_id, long(code))


def set_to(**values: int) -> bytes:
    return frame(Frame.SETTINGS, 0, 0, settings({Setting[name]: value for name, value in values.items()}))


def block(**changes: str | None) -> bytes:
    """That of a request, with some headers changed, added, or (None) left out; `_` stands for `:` and `-`."""
    named = {name.replace("_", ":", 1) if name[0] == "_" else name.replace("_", "-"): v for name, v in changes.items()}
    fields: dict[str, str | None] = {**dict(REQUEST), **named}
    pseudo_first = sorted(fields, key=lambda name: name[0] != ":")
    return encode((name, value) for name in pseudo_first if (value := fields[name]) is not None)


def opened(stream_id: int, end_stream: bool = False, fields: tuple[tuple[str, str], ...] = REQUEST) -> Request:
    return Request(stream_id, fields, end_stream)


STREAM_1: Final = headers(1)
ENDED_1: Final = headers(1, flags=END_HEADERS | END_STREAM)
OPEN_1: Final = opened(1)


SETTINGS_ACK: Final = Seen(Frame.SETTINGS, ACK, 0, b"")


def talk(pieces: Sequence[bytes]) -> tuple[list[Event], list[Seen]]:
    """What a new connection makes of this: events, and what it sends behind its settings and their acknowledgement."""
    connection = Connection()
    events = [event for piece in pieces for event in connection.receive_data(piece)]
    sent = frames(connection.data_to_send())
    assert [frame.kind for frame in sent[:2]] == [Frame.SETTINGS, Frame.WINDOW_UPDATE]
    assert connection.closed == bool(connection.error) == any(frame.kind == Frame.GOAWAY for frame in sent)
    return events, [frame for frame in sent[2:] if frame != SETTINGS_ACK]


def slices(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def started() -> Connection:
    connection = Connection()
    connection.receive_data(OPENING)
    connection.data_to_send()
    return connection
