"""The HTTP/2 connection: what each frame leads to, alone and however its bytes are cut."""

from __future__ import annotations

from typing import Final, NamedTuple

import pytest
from http2_bytes import BLOCK, OPENING, PING, REQUEST, TRAILERS, Seen, data, headers
from http2_said import ENDED_1, OPEN_1, SETTINGS_ACK, STREAM_1, block, long, opened, rst, set_to, slices, talk, window

from rejoinder.extproc.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    MAX_WINDOW,
    PADDED,
    PRIORITY_FLAG,
    ErrorCode,
    Frame,
    frame,
)
from rejoinder.extproc.headers import MAX_LIST_SIZE, encode
from rejoinder.extproc.http2 import (
    Data,
    Event,
    Pong,
    Request,
    Reset,
)


class GoAway(NamedTuple):
    """The connection is broken off."""

    code: ErrorCode


Outcome = Event | GoAway | Seen
"""An event, or what is sent."""
HALF_CLOSED_1: Final = opened(1, end_stream=True)
PROTOCOL_ERROR: Final = GoAway(ErrorCode.PROTOCOL_ERROR)
FRAME_SIZE_ERROR: Final = GoAway(ErrorCode.FRAME_SIZE_ERROR)


def reset(stream_id: int, code: ErrorCode) -> tuple[Outcome, ...]:
    """A stream error on an open stream."""
    return (Reset(stream_id, code), Seen(Frame.RST_STREAM, 0, stream_id, long(code)))


def refused(stream_id: int, code: ErrorCode) -> Outcome:
    """A stream error on a stream that nobody was told about."""
    return Seen(Frame.RST_STREAM, 0, stream_id, long(code))


PADDING: Final = b"\x03"


class Case(NamedTuple):
    section: str
    """Of RFC 9113."""
    sent: bytes
    """By the client, behind the preface and the settings."""
    outcome: tuple[Outcome, ...] = ()


CASES: Final[dict[str, Case]] = {
    # DATA
    "data": Case("6.1", STREAM_1 + data(1, b"abc"), (OPEN_1, Data(1, b"abc", False))),
    "data, the end": Case("6.1", STREAM_1 + data(1, b"abc", END_STREAM), (OPEN_1, Data(1, b"abc", True))),
    "data, only the end": Case("6.1", STREAM_1 + data(1, b"", END_STREAM), (OPEN_1, Data(1, b"", True))),
    "data, empty": Case("6.1", STREAM_1 + data(1, b""), (OPEN_1,)),
    "data, padded": Case(
        "6.1", STREAM_1 + data(1, PADDING + b"abc" + b"\0" * 3, PADDED), (OPEN_1, Data(1, b"abc", False))
    ),
    "data, nothing but padding": Case("6.1", STREAM_1 + data(1, PADDING + b"\0" * 3, PADDED), (OPEN_1,)),
    "data, padding longer than the frame": Case(
        "6.1", STREAM_1 + data(1, b"\x04abc", PADDED), (OPEN_1, PROTOCOL_ERROR)
    ),
    "data, padding without length": Case("6.1", STREAM_1 + data(1, b"", PADDED), (OPEN_1, FRAME_SIZE_ERROR)),
    "data on the connection": Case("6.1", data(0, b"abc"), (PROTOCOL_ERROR,)),
    "data on an idle stream": Case("5.1", data(1, b"abc"), (PROTOCOL_ERROR,)),
    "data on a server's stream": Case("5.1", STREAM_1 + data(2, b"abc"), (OPEN_1, PROTOCOL_ERROR)),
    "data behind the end": Case("5.1", ENDED_1 + data(1, b"abc"), (HALF_CLOSED_1, *reset(1, ErrorCode.STREAM_CLOSED))),
    "data behind trailers": Case(
        "5.1",
        STREAM_1 + headers(1, TRAILERS, END_HEADERS | END_STREAM) + data(1, b"abc"),
        (OPEN_1, Data(1, b"", True), *reset(1, ErrorCode.STREAM_CLOSED)),
    ),
    "data on a closed stream": Case("5.1", STREAM_1 + rst(1) + data(1, b"abc"), (OPEN_1, Reset(1, ErrorCode.CANCEL))),
    # HEADERS
    "headers": Case("6.2", STREAM_1, (OPEN_1,)),
    "headers, the end": Case("6.2", ENDED_1, (HALF_CLOSED_1,)),
    "headers, a stream left out": Case("5.1.1", headers(5), (opened(5),)),
    "headers, padded": Case("6.2", headers(1, PADDING + BLOCK + b"\0" * 3, END_HEADERS | PADDED), (OPEN_1,)),
    "headers, padding longer than the frame": Case(
        "6.2", headers(1, b"\xff" + BLOCK, END_HEADERS | PADDED), (PROTOCOL_ERROR,)
    ),
    "headers, with priority": Case(
        "6.2", headers(1, b"\x80\0\0\0\x10" + BLOCK, END_HEADERS | PRIORITY_FLAG), (OPEN_1,)
    ),
    "headers, padded and with priority": Case(
        "6.2", headers(1, PADDING + b"\0" * 5 + BLOCK + b"\0" * 3, END_HEADERS | PADDED | PRIORITY_FLAG), (OPEN_1,)
    ),
    "headers, no room for the priority": Case(
        "6.2", headers(1, b"\0\0", END_HEADERS | PRIORITY_FLAG), (FRAME_SIZE_ERROR,)
    ),
    "headers on the connection": Case("6.2", headers(0), (PROTOCOL_ERROR,)),
    "headers on a server's stream": Case("5.1.1", headers(2), (PROTOCOL_ERROR,)),
    "headers on a stream that was left out": Case("5.1.1", headers(3) + headers(1), (opened(3), PROTOCOL_ERROR)),
    "headers on a stream that is closed": Case(
        "5.1.1", STREAM_1 + rst(1) + STREAM_1, (OPEN_1, Reset(1, ErrorCode.CANCEL), PROTOCOL_ERROR)
    ),
    "headers behind the end": Case("5.1", ENDED_1 + STREAM_1, (HALF_CLOSED_1, *reset(1, ErrorCode.STREAM_CLOSED))),
    "headers that are not HPACK": Case("4.3", headers(1, b"\x80"), (GoAway(ErrorCode.COMPRESSION_ERROR),)),
    "headers from a table that is not there": Case("4.3", headers(1, b"\xbe"), (GoAway(ErrorCode.COMPRESSION_ERROR),)),
    "headers that do not say that the table is gone": Case(
        "4.3.1", headers(1, BLOCK[1:]), (GoAway(ErrorCode.COMPRESSION_ERROR),)
    ),
    "headers that bring the table back": Case(
        "4.3.1",
        STREAM_1 + headers(3, b"\x3f\xe1\x1f" + BLOCK[1:]),  # 4,096
        (OPEN_1, GoAway(ErrorCode.COMPRESSION_ERROR)),
    ),
    "headers, three size updates": Case("4.3", headers(1, b"\x20\x20" + BLOCK), (GoAway(ErrorCode.COMPRESSION_ERROR),)),
    "headers, too many": Case(
        "10.5.1", headers(1, BLOCK + b"\x86" * (MAX_LIST_SIZE // 40)), (GoAway(ErrorCode.ENHANCE_YOUR_CALM),)
    ),
    "request without method": Case("8.3.1", headers(1, block(_method=None)), (refused(1, ErrorCode.PROTOCOL_ERROR),)),
    "request without path": Case("8.3.1", headers(1, block(_path=None)), (refused(1, ErrorCode.PROTOCOL_ERROR),)),
    "request without headers": Case("8.3.1", headers(1, b"\x20"), (refused(1, ErrorCode.PROTOCOL_ERROR),)),
    "request without authority": Case(
        "8.3.1",
        headers(1, block(_authority=None)),
        (opened(1, fields=tuple((name, value) for name, value in REQUEST if name != ":authority")),),
    ),
    "request with a status": Case("8.3", headers(1, block(_status="200")), (refused(1, ErrorCode.PROTOCOL_ERROR),)),
    "request with a connection header": Case(
        "8.2.2", headers(1, block(connection="close")), (refused(1, ErrorCode.PROTOCOL_ERROR),)
    ),
    "request that takes anything but trailers": Case(
        "8.2.2", headers(1, block(te="gzip")), (refused(1, ErrorCode.PROTOCOL_ERROR),)
    ),
    "request with a capital letter": Case("8.2.1", headers(1, block(Te="1")), (refused(1, ErrorCode.PROTOCOL_ERROR),)),
    "request with a line end": Case("8.2.1", headers(1, block(x="a\nb")), (refused(1, ErrorCode.PROTOCOL_ERROR),)),
    "request with a space in front": Case("8.2.1", headers(1, block(x=" a")), (refused(1, ErrorCode.PROTOCOL_ERROR),)),
    "request with two paths": Case(
        "8.3", headers(1, encode(((":path", "/"), *REQUEST))), (refused(1, ErrorCode.PROTOCOL_ERROR),)
    ),
    "request with a late pseudo header": Case(
        "8.3", headers(1, encode((*REQUEST[1:], REQUEST[0]))), (refused(1, ErrorCode.PROTOCOL_ERROR),)
    ),
    "trailers": Case("8.1", STREAM_1 + headers(1, TRAILERS, END_HEADERS | END_STREAM), (OPEN_1, Data(1, b"", True))),
    "trailers that are not the end": Case(
        "8.1", STREAM_1 + headers(1, TRAILERS), (OPEN_1, *reset(1, ErrorCode.PROTOCOL_ERROR))
    ),
    "trailers with a pseudo header": Case(
        "8.1", STREAM_1 + headers(1, flags=END_HEADERS | END_STREAM), (OPEN_1, *reset(1, ErrorCode.PROTOCOL_ERROR))
    ),
    "trailers on a closed stream": Case(
        "5.1",
        STREAM_1 + rst(1) + headers(1, TRAILERS, END_HEADERS | END_STREAM),
        (OPEN_1, Reset(1, ErrorCode.CANCEL)),
    ),
    "trailers on an idle stream": Case(
        "8.3.1", headers(1, TRAILERS, END_HEADERS | END_STREAM), (refused(1, ErrorCode.PROTOCOL_ERROR),)
    ),
    # CONTINUATION
    "continuation": Case(
        "6.10",
        headers(1, BLOCK[:7], 0)
        + frame(Frame.CONTINUATION, 0, 1, BLOCK[7:9])
        + frame(Frame.CONTINUATION, END_HEADERS, 1, BLOCK[9:]),
        (OPEN_1,),
    ),
    "continuation, the end is in the headers": Case(
        "6.10",
        headers(1, BLOCK[:7], END_STREAM) + frame(Frame.CONTINUATION, END_HEADERS, 1, BLOCK[7:]),
        (HALF_CLOSED_1,),
    ),
    "continuation of nothing": Case("6.10", STREAM_1 + frame(Frame.CONTINUATION, 4, 1, b""), (OPEN_1, PROTOCOL_ERROR)),
    "continuation of another stream": Case(
        "6.10", headers(1, BLOCK[:7], 0) + frame(Frame.CONTINUATION, 4, 3, BLOCK[7:]), (PROTOCOL_ERROR,)
    ),
    "continuation on the connection": Case(
        "6.10", headers(1, BLOCK[:7], 0) + frame(Frame.CONTINUATION, 4, 0, BLOCK[7:]), (PROTOCOL_ERROR,)
    ),
    "continuation with something between": Case("6.10", headers(1, BLOCK[:7], 0) + PING, (PROTOCOL_ERROR,)),
    "continuation with something unknown between": Case(
        "5.5", headers(1, BLOCK[:7], 0) + frame(99, 0, 1, b""), (PROTOCOL_ERROR,)
    ),
    "continuation without an end": Case(
        "10.5.1",
        headers(1, b"\x20", 0) + frame(Frame.CONTINUATION, 0, 1, b"\x86" * 9000) * 2,
        (GoAway(ErrorCode.ENHANCE_YOUR_CALM),),
    ),
    # PRIORITY
    "priority": Case("5.3.2", STREAM_1 + frame(Frame.PRIORITY, 0, 1, b"\0" * 5), (OPEN_1,)),
    "priority of an idle stream": Case("5.3.2", frame(Frame.PRIORITY, 0, 7, b"\0" * 5)),
    "priority of the connection": Case("6.3", frame(Frame.PRIORITY, 0, 0, b"\0" * 5), (PROTOCOL_ERROR,)),
    "priority, wrong length": Case("6.3", frame(Frame.PRIORITY, 0, 1, b"\0" * 4), (FRAME_SIZE_ERROR,)),
    # RST_STREAM
    "reset": Case("6.4", STREAM_1 + rst(1), (OPEN_1, Reset(1, ErrorCode.CANCEL))),
    "reset, code unknown": Case("7", STREAM_1 + rst(1, 99), (OPEN_1, Reset(1, 99))),
    "reset of a half-closed stream": Case("6.4", ENDED_1 + rst(1), (HALF_CLOSED_1, Reset(1, ErrorCode.CANCEL))),
    "reset, twice": Case("5.1", STREAM_1 + rst(1) * 2, (OPEN_1, Reset(1, ErrorCode.CANCEL))),
    "reset of the connection": Case("6.4", rst(0), (PROTOCOL_ERROR,)),
    "reset of an idle stream": Case("6.4", rst(1), (PROTOCOL_ERROR,)),
    "reset of a server's stream": Case("6.4", headers(3) + rst(2), (opened(3), PROTOCOL_ERROR)),
    "reset, wrong length": Case("6.4", STREAM_1 + frame(Frame.RST_STREAM, 0, 1, b""), (OPEN_1, FRAME_SIZE_ERROR)),
    # SETTINGS
    "settings": Case("6.5", set_to(MAX_CONCURRENT_STREAMS=0, INITIAL_WINDOW_SIZE=9), (SETTINGS_ACK,)),
    "settings, unknown": Case("6.5.2", frame(Frame.SETTINGS, 0, 0, b"\0\x99\xff\xff\xff\xff"), (SETTINGS_ACK,)),
    "settings on a stream": Case("6.5", frame(Frame.SETTINGS, 0, 1, b""), (PROTOCOL_ERROR,)),
    "settings, wrong length": Case("6.5", frame(Frame.SETTINGS, 0, 0, b"\0" * 5), (FRAME_SIZE_ERROR,)),
    "settings, acknowledged": Case("6.5", frame(Frame.SETTINGS, ACK, 0, b"")),
    "settings, acknowledged with settings": Case("6.5", frame(Frame.SETTINGS, ACK, 0, b"\0" * 6), (FRAME_SIZE_ERROR,)),
    "settings, push": Case("6.5.2", set_to(ENABLE_PUSH=1), (SETTINGS_ACK,)),
    "settings, push 2": Case("6.5.2", set_to(ENABLE_PUSH=2), (PROTOCOL_ERROR,)),
    "settings, largest window": Case("6.5.2", set_to(INITIAL_WINDOW_SIZE=MAX_WINDOW), (SETTINGS_ACK,)),
    "settings, window too large": Case(
        "6.5.2", set_to(INITIAL_WINDOW_SIZE=MAX_WINDOW + 1), (GoAway(ErrorCode.FLOW_CONTROL_ERROR),)
    ),
    "settings, an open window becomes too large": Case(
        "6.9.2",
        STREAM_1 + window(1, 1) + set_to(INITIAL_WINDOW_SIZE=MAX_WINDOW),
        (OPEN_1, GoAway(ErrorCode.FLOW_CONTROL_ERROR)),
    ),
    "settings, largest frame": Case("6.5.2", set_to(MAX_FRAME_SIZE=(1 << 24) - 1), (SETTINGS_ACK,)),
    "settings, frames too small": Case("6.5.2", set_to(MAX_FRAME_SIZE=(1 << 14) - 1), (PROTOCOL_ERROR,)),
    "settings, frames too large": Case("6.5.2", set_to(MAX_FRAME_SIZE=1 << 24), (PROTOCOL_ERROR,)),
    # PUSH_PROMISE
    "push": Case("8.4", STREAM_1 + frame(Frame.PUSH_PROMISE, 4, 1, long(2) + BLOCK), (OPEN_1, PROTOCOL_ERROR)),
    # PING
    "ping": Case("6.7", PING, (Seen(Frame.PING, ACK, 0, b"anybody?"),)),
    "ping, acknowledged": Case("6.7", frame(Frame.PING, ACK, 0, b"12345678"), (Pong(b"12345678"),)),
    "ping on a stream": Case("6.7", frame(Frame.PING, 0, 1, b"12345678"), (PROTOCOL_ERROR,)),
    "ping, wrong length": Case("6.7", frame(Frame.PING, 0, 0, b"1234567"), (FRAME_SIZE_ERROR,)),
    # GOAWAY
    "goaway": Case("6.8", STREAM_1 + frame(Frame.GOAWAY, 0, 0, b"\0" * 8 + b"debug"), (OPEN_1,)),
    "goaway on a stream": Case("6.8", frame(Frame.GOAWAY, 0, 1, b"\0" * 8), (PROTOCOL_ERROR,)),
    "goaway, wrong length": Case("6.8", frame(Frame.GOAWAY, 0, 0, b"\0" * 7), (FRAME_SIZE_ERROR,)),
    # WINDOW_UPDATE
    "window": Case("6.9", STREAM_1 + window(1, 1) + window(0, 1), (OPEN_1,)),
    "window, reserved bit": Case("6.9", STREAM_1 + window(1, 1 << 31 | 1), (OPEN_1,)),
    "window by nothing": Case("6.9", STREAM_1 + window(1, 0), (OPEN_1, *reset(1, ErrorCode.PROTOCOL_ERROR))),
    "window of the connection by nothing": Case("6.9", window(0, 0), (PROTOCOL_ERROR,)),
    "window too large": Case(
        "6.9.1", STREAM_1 + window(1, MAX_WINDOW), (OPEN_1, *reset(1, ErrorCode.FLOW_CONTROL_ERROR))
    ),
    "window of the connection too large": Case("6.9.1", window(0, MAX_WINDOW), (GoAway(ErrorCode.FLOW_CONTROL_ERROR),)),
    "window of an idle stream": Case("5.1", window(1, 1), (PROTOCOL_ERROR,)),
    "window of a closed stream": Case("5.1", STREAM_1 + rst(1) + window(1, 1), (OPEN_1, Reset(1, ErrorCode.CANCEL))),
    "window, wrong length": Case("6.9", frame(Frame.WINDOW_UPDATE, 0, 0, b"\0" * 3), (FRAME_SIZE_ERROR,)),
    # Others
    "unknown frame": Case("5.5", frame(99, 255, 7, b"what?")),
    "reserved bit": Case("4.1", frame(Frame.PING, 0, 1 << 31, b"anybody?"), (Seen(Frame.PING, ACK, 0, b"anybody?"),)),
    "frame too large": Case("4.2", STREAM_1 + data(1, b"\0" * ((1 << 14) + 1)), (OPEN_1, FRAME_SIZE_ERROR)),
    "frame as large as it may be": Case(
        "4.2", STREAM_1 + data(1, b"\0" * (1 << 14)), (OPEN_1, Data(1, b"\0" * (1 << 14), False))
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_a_frame_leads_to(case: Case) -> None:
    broken = [outcome.code for outcome in case.outcome if isinstance(outcome, GoAway)]
    events = [event for event in case.outcome if not isinstance(event, GoAway | Seen)]
    sent = [frame for frame in case.outcome if isinstance(frame, Seen) and frame != SETTINGS_ACK]
    sent_bytes = OPENING + case.sent
    for pieces, pong in (
        ([sent_bytes], False),
        (slices(sent_bytes, 1 if len(sent_bytes) < 1000 else 99), False),
        ([sent_bytes + PING], True),
        ([OPENING, case.sent, PING], True),
    ):
        got, replies = talk(pieces)
        assert got == events
        if broken:
            *replies, goaway = replies
            last = max((event.stream_id for event in events if isinstance(event, Request)), default=0)
            assert goaway[:3] == (Frame.GOAWAY, 0, 0)
            assert goaway.payload[4:] == long(broken[0])
            assert int.from_bytes(goaway.payload[:4], "big") in (last, 1)
        elif pong:
            assert replies.pop() == Seen(Frame.PING, ACK, 0, b"anybody?")
        assert replies == sent
