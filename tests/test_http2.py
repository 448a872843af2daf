"""The HTTP/2 connection: what each frame leads to, alone and however its bytes are cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import h2.config
import h2.connection
import h2.events
import h2.settings
import hpack
import pytest
from fuzz import http2 as fuzz
from http2_bytes import BLOCK, OPENING, PING, REQUEST, TRAILERS, Seen, data, frames, headers
from hypothesis import example, given
from hypothesis import strategies as st

from rejoinder.extproc import http2
from rejoinder.extproc.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    MAX_WINDOW,
    PADDED,
    PREFACE,
    PRIORITY_FLAG,
    ErrorCode,
    Frame,
    Setting,
    frame,
    settings,
)
from rejoinder.extproc.headers import MAX_LIST_SIZE, MAX_REMEMBERED, Blocks, HeaderError, Kind, encode
from rejoinder.extproc.http2 import (
    MAX_CONCURRENT_STREAMS,
    MAX_USELESS,
    SMALL,
    Connection,
    Data,
    Event,
    Pong,
    Request,
    Reset,
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


class GoAway(NamedTuple):
    """The connection is broken off."""

    code: ErrorCode


Outcome = Event | GoAway | Seen
"""An event, or what is sent."""

STREAM_1: Final = headers(1)
ENDED_1: Final = headers(1, flags=END_HEADERS | END_STREAM)
OPEN_1: Final = opened(1)
HALF_CLOSED_1: Final = opened(1, end_stream=True)
PROTOCOL_ERROR: Final = GoAway(ErrorCode.PROTOCOL_ERROR)
FRAME_SIZE_ERROR: Final = GoAway(ErrorCode.FRAME_SIZE_ERROR)


def reset(stream_id: int, code: ErrorCode) -> tuple[Outcome, ...]:
    """A stream error on an open stream."""
    return (Reset(stream_id, code), Seen(Frame.RST_STREAM, 0, stream_id, long(code)))


def refused(stream_id: int, code: ErrorCode) -> Outcome:
    """A stream error on a stream that nobody was told about."""
    return Seen(Frame.RST_STREAM, 0, stream_id, long(code))


SETTINGS_ACK: Final = Seen(Frame.SETTINGS, ACK, 0, b"")
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


def talk(pieces: Sequence[bytes]) -> tuple[list[Event], list[Seen]]:
    """What a new connection makes of this: events, and what it sends behind its settings and their acknowledgement."""
    connection = Connection()
    events = [event for piece in pieces for event in connection.receive_data(piece)]
    sent = frames(connection.data_to_send())
    assert [each.kind for each in sent[:2]] == [Frame.SETTINGS, Frame.WINDOW_UPDATE]
    assert connection.closed == bool(connection.error) == any(each.kind == Frame.GOAWAY for each in sent)
    return events, [each for each in sent[2:] if each != SETTINGS_ACK]


def slices(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_a_frame_leads_to(case: Case) -> None:
    broken = [each.code for each in case.outcome if isinstance(each, GoAway)]
    events = [each for each in case.outcome if not isinstance(each, GoAway | Seen)]
    sent = [each for each in case.outcome if isinstance(each, Seen) and each != SETTINGS_ACK]
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


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="HTTP/1.1"),
        pytest.param(b"\x16\x03\x01", id="TLS"),
        pytest.param(PREFACE[:-1] + b"\r", id="almost"),
        pytest.param(PREFACE + PING, id="a ping before the settings"),
        pytest.param(PREFACE + frame(Frame.SETTINGS, ACK, 0, b""), id="an acknowledgement before the settings"),
        pytest.param(PREFACE + frame(99, 0, 0, b""), id="something unknown before the settings"),
    ],
)
def test_connection_begins_with_preface_and_settings(sent: bytes) -> None:
    for pieces in ([sent], slices(sent, 1)):
        events, replies = talk(pieces)
        assert events == []
        assert [(each.kind, each.payload[4:]) for each in replies] == [(Frame.GOAWAY, long(ErrorCode.PROTOCOL_ERROR))]


def started() -> Connection:
    connection = Connection()
    connection.receive_data(OPENING)
    connection.data_to_send()
    return connection


def test_nothing_is_heard_or_said_when_it_is_closed() -> None:
    connection = started()
    connection.receive_data(STREAM_1)
    connection.close()
    connection.respond(1, b"headers", b"data", b"trailers")
    connection.close()
    assert connection.receive_data(PING) == []
    assert frames(connection.data_to_send()) == [Seen(Frame.GOAWAY, 0, 0, long(1) + long(ErrorCode.NO_ERROR))]
    assert connection.open_streams == 0


def test_shutting_down_lets_streams_end() -> None:
    connection = started()
    connection.shut_down()
    assert frames(connection.data_to_send()) == [Seen(Frame.GOAWAY, 0, 0, long(MAX_WINDOW) + long(0))]
    assert connection.receive_data(STREAM_1) == [OPEN_1]  # was under way
    assert not connection.closed


# What is sent.


def test_response_in_one_go_is_the_response_in_parts() -> None:
    one, parts = started(), started()
    for connection in (one, parts):
        connection.receive_data(ENDED_1)
    one.respond(1, b"headers", b"data", b"trailers")
    parts.send_headers(1, b"headers")
    parts.send_data(1, b"data")
    parts.send_trailers(1, b"trailers")
    expected = [
        Seen(Frame.HEADERS, END_HEADERS, 1, b"headers"),
        Seen(Frame.DATA, 0, 1, b"data"),
        Seen(Frame.HEADERS, END_HEADERS | END_STREAM, 1, b"trailers"),
    ]
    assert frames(one.data_to_send()) == frames(parts.data_to_send()) == expected
    assert one.open_streams == parts.open_streams == 0


def test_response_in_one_go_keeps_to_windows_and_frames() -> None:
    connection = started()
    connection.receive_data(b"".join(map(headers, range(1, 11, 2))))
    for stream_id in range(1, 9, 2):
        connection.respond(stream_id, b"headers", b"d" * 16_000, b"trailers")
    assert sizes(connection).count(16_000) == 4
    connection.respond(9, b"headers", b"d" * 16_000, b"trailers")
    assert connection.waiting == 5 * 16_000 - 65_535
    connection.receive_data(window(0, 1 << 20) + headers(11))
    connection.data_to_send()
    connection.respond(11, b"headers", b"d" * 20_000, b"trailers")
    assert [size for size in sizes(connection) if size != "end"] == [16_384, 20_000 - 16_384]


def test_client_that_has_not_ended_its_stream_is_told_not_to_bother() -> None:
    connection = started()
    connection.receive_data(STREAM_1)
    connection.respond(1, b"headers", b"data", b"trailers")
    assert frames(connection.data_to_send())[-1] == Seen(Frame.RST_STREAM, 0, 1, long(ErrorCode.NO_ERROR))
    assert connection.receive_data(data(1, b"late", END_STREAM) + rst(1)) == []
    assert connection.data_to_send() == b""


def test_what_is_sent_on_a_stream_that_is_gone_is_dropped() -> None:
    connection = started()
    connection.receive_data(STREAM_1 + rst(1))
    connection.respond(1, b"headers", b"data", b"trailers")
    connection.send_headers(1, b"headers")
    connection.send_data(1, b"data")
    connection.send_trailers(1, b"trailers")
    connection.reset(1, ErrorCode.CANCEL)
    assert connection.data_to_send() == b""
    assert connection.waiting == 0


def test_reset_takes_back_what_waits() -> None:
    connection = started()
    connection.receive_data(set_to(INITIAL_WINDOW_SIZE=0) + STREAM_1)
    connection.send_data(1, b"data")
    assert connection.waiting == 4
    connection.reset(1, ErrorCode.CANCEL)
    assert connection.waiting == 0
    assert frames(connection.data_to_send())[-1] == Seen(Frame.RST_STREAM, 0, 1, long(ErrorCode.CANCEL))


def test_stream_that_was_reset_while_it_waited_sends_nothing_more() -> None:
    connection = started()
    connection.receive_data(set_to(INITIAL_WINDOW_SIZE=1 << 20) + STREAM_1)
    connection.send_data(1, b"d" * 100_000)
    connection.data_to_send()
    assert connection.receive_data(rst(1) + window(0, 1 << 20)) == [Reset(1, ErrorCode.CANCEL)]
    assert connection.data_to_send() == b""
    assert connection.waiting == 0


def sizes(connection: Connection) -> list[int | str]:
    """The lengths of the DATA that is sent, and "end"."""
    return [len(each.payload) if each.kind == Frame.DATA else "end" for each in frames(connection.data_to_send())]


def test_large_body_waits_for_both_windows() -> None:
    connection = started()
    connection.receive_data(ENDED_1)
    connection.send_data(1, b"d" * 100_000)
    connection.send_trailers(1, TRAILERS)
    assert sizes(connection) == [16384, 16384, 16384, 16383]
    connection.receive_data(window(1, 1 << 20))
    assert sizes(connection) == []  # the connection's window is shut
    connection.receive_data(window(0, 10))
    assert sizes(connection) == [10]
    assert connection.waiting == 100_000 - 65_535 - 10
    connection.receive_data(set_to(MAX_FRAME_SIZE=1 << 20))
    connection.data_to_send()
    connection.receive_data(window(0, 1 << 20))
    assert sizes(connection) == [34_455, "end"]
    assert connection.open_streams == connection.waiting == 0


def test_last_of_several_values_of_a_setting_counts() -> None:
    connection = started()
    connection.receive_data(frame(Frame.SETTINGS, 0, 0, b"\0\4" + long(7) + b"\0\4" + long(9)) + ENDED_1)
    connection.data_to_send()
    connection.send_data(1, b"d" * 100)
    assert sizes(connection) == [9]


def test_window_may_become_negative() -> None:
    connection = started()
    connection.receive_data(ENDED_1)
    connection.send_data(1, b"d" * 10)
    connection.receive_data(set_to(INITIAL_WINDOW_SIZE=5))
    connection.data_to_send()
    connection.send_data(1, b"d" * 10)
    connection.receive_data(window(1, 5))
    assert sizes(connection) == []
    connection.receive_data(window(1, 3))
    assert sizes(connection) == [3]
    connection.receive_data(set_to(INITIAL_WINDOW_SIZE=100))
    assert sizes(connection)[-2:] == [7, "end"]  # "end": the acknowledgement


def test_streams_that_wait_for_the_connection_go_on_in_turn() -> None:
    connection = started()
    connection.receive_data(set_to(INITIAL_WINDOW_SIZE=MAX_WINDOW) + b"".join(map(headers, (1, 3, 5))))
    connection.data_to_send()
    for stream_id in (1, 3, 5):
        connection.send_data(stream_id, b"d" * 40_000)
        connection.send_trailers(stream_id, TRAILERS)
    connection.receive_data(window(0, 14_465))
    connection.receive_data(window(0, 1))
    connection.receive_data(window(0, 1 << 20))
    sent = [
        (each.stream_id, len(each.payload)) for each in frames(connection.data_to_send()) if each.kind == Frame.DATA
    ]
    by_stream = {stream_id: sum(size for each, size in sent if each == stream_id) for stream_id in (1, 3, 5)}
    assert by_stream == {1: 40_000, 3: 40_000, 5: 40_000}
    assert [stream_id for stream_id, size in sent if size == 1] == [5]
    assert connection.open_streams == 0


@given(st.lists(st.tuples(st.sampled_from((0, 1, 3)), st.integers(1, 40)), max_size=60), st.integers(0, 20))
def test_no_more_is_sent_than_the_windows_allow(updates: list[tuple[int, int]], initial: int) -> None:
    connection = started()
    connection.receive_data(set_to(INITIAL_WINDOW_SIZE=initial) + headers(1) + headers(3))
    connection._send_window = allowed_in_all = 50  # a client cannot make it so small
    allowed = {1: initial, 3: initial}
    bodies = {1: bytes(range(200)), 3: bytes(range(100))}
    for stream_id, body in bodies.items():
        connection.send_data(stream_id, body)
    for stream_id, increment in updates:
        connection.receive_data(window(stream_id, increment))
        if stream_id:
            allowed[stream_id] += increment
        else:
            allowed_in_all += increment
    sent = {1: b"", 3: b""}
    for each in frames(connection.data_to_send()):
        if each.kind == Frame.DATA:
            sent[each.stream_id] += each.payload
    total = 0
    for stream_id, body in bodies.items():
        assert body.startswith(sent[stream_id])
        assert len(sent[stream_id]) <= allowed[stream_id]
        total += len(sent[stream_id])
    assert total == min(allowed_in_all, sum(min(allowed[each], len(bodies[each])) for each in bodies))
    assert connection.waiting == 300 - total


# Limits.


def test_windows_are_opened_again() -> None:
    connection = started()
    connection.receive_data(STREAM_1 + data(1, b"d" * 16_384) * 2)
    assert frames(connection.data_to_send()) == [Seen(Frame.WINDOW_UPDATE, 0, 1, long(32_768))]
    connection.receive_data(data(1, b"d" * 16_384) * 30)
    updates = [each for each in frames(connection.data_to_send()) if each.stream_id == 0]
    assert updates == [Seen(Frame.WINDOW_UPDATE, 0, 0, long(32 * 16_384))]


def test_padding_counts_in_the_windows() -> None:
    connection = started()
    connection.receive_data(STREAM_1 + data(1, b"\xff" + b"d" + bytes(255), PADDED) * 128)
    assert frames(connection.data_to_send()) == [Seen(Frame.WINDOW_UPDATE, 0, 1, long(128 * 257))]


def test_window_of_the_connection_is_opened_for_closed_streams_too() -> None:
    connection = started()
    connection.receive_data(STREAM_1 + rst(1) + data(1, b"d" * 16_384) * 32)
    assert frames(connection.data_to_send()) == [Seen(Frame.WINDOW_UPDATE, 0, 0, long(32 * 16_384))]


def test_more_streams_than_allowed_are_refused() -> None:
    connection = started()
    ids = range(1, 2 * MAX_CONCURRENT_STREAMS + 4, 2)
    events = connection.receive_data(b"".join(map(headers, ids)))
    assert len(events) == connection.open_streams == MAX_CONCURRENT_STREAMS
    refusals = frames(connection.data_to_send())
    assert refusals == [Seen(Frame.RST_STREAM, 0, each, long(ErrorCode.REFUSED_STREAM)) for each in ids[-2:]]
    connection.receive_data(rst(1))
    assert len(connection.receive_data(headers(ids[-1] + 2))) == 1


def rapid_resets() -> Iterator[bytes]:
    for stream_id in itertools.count(1, 2):
        yield headers(stream_id) + rst(stream_id)


FLOODS: Final = {
    "pings": lambda: itertools.repeat(PING),
    "settings": lambda: itertools.repeat(set_to(INITIAL_WINDOW_SIZE=1)),
    "acknowledgements": lambda: itertools.repeat(frame(Frame.SETTINGS, ACK, 0, b"")),
    "rapid resets": rapid_resets,
    "malformed requests": lambda: (headers(each, b"\x20") for each in itertools.count(1, 2)),
    "empty data": lambda: itertools.chain((STREAM_1,), itertools.repeat(data(1, b""))),
    "data in small pieces": lambda: itertools.chain((STREAM_1,), itertools.repeat(data(1, b"d" * (SMALL - 1)))),
    "data on closed streams": lambda: itertools.chain((STREAM_1, rst(1)), itertools.repeat(data(1, b"d"))),
    "priorities": lambda: itertools.repeat(frame(Frame.PRIORITY, 0, 1, b"\0" * 5)),
    "windows": lambda: itertools.repeat(window(0, 1)),
    "goaways": lambda: itertools.repeat(frame(Frame.GOAWAY, 0, 0, b"\0" * 8)),
    "unknown frames": lambda: itertools.repeat(frame(99, 0, 0, b"")),
    "empty continuations": lambda: itertools.chain(
        (headers(1, b"\x20", 0),), itertools.repeat(frame(Frame.CONTINUATION, 0, 1, b""))
    ),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_flood_ends_the_connection(flood: object) -> None:
    assert callable(flood)
    connection = started()
    for number, piece in enumerate(flood()):
        connection.receive_data(piece)
        if connection.closed:
            break
        assert number <= MAX_USELESS + 1
    assert connection.error == "ENHANCE_YOUR_CALM: too many frames that are of no use"


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_the_same_over_a_long_time_does_not(flood: object) -> None:
    assert callable(flood)
    connection = started()
    for number, piece in enumerate(itertools.islice(flood(), MAX_USELESS + 1000)):
        connection.receive_data(piece)
        if number % 50 == 0:
            connection.forgive()
            connection.data_to_send()
    assert not connection.closed


def test_served_streams_make_up_for_resets() -> None:
    connection = started()
    for stream_id in range(1, 3 * MAX_USELESS, 2):
        connection.receive_data(headers(stream_id) + window(0, 1))
        connection.send_trailers(stream_id, TRAILERS)
        connection.receive_data(rst(stream_id))
        connection.data_to_send()
    assert not connection.closed


def test_answers_make_up_for_small_messages() -> None:
    connection = started()
    connection.receive_data(STREAM_1 + window(1, 1 << 20) + window(0, 1 << 20))
    for _ in range(2 * MAX_USELESS):
        connection.receive_data(data(1, b"d"))
        connection.send_data(1, b"d")
    assert not connection.closed


def test_that_is_not_saved_up() -> None:
    connection = started()
    for stream_id in range(1, 2000, 2):
        connection.receive_data(headers(stream_id))
        connection.send_trailers(stream_id, TRAILERS)
    connection.receive_data(PING * (MAX_USELESS + 1))
    assert connection.closed


# Header blocks.


def test_block_is_decoded_once_when_the_client_uses_no_table() -> None:
    connection = started()
    first, second, third = (connection.receive_data(headers(each))[0] for each in (1, 3, 5))
    assert isinstance(first, Request)
    assert isinstance(second, Request)
    assert isinstance(third, Request)
    assert second.headers is third.headers


def test_table_of_a_client_that_has_not_acknowledged_is_kept() -> None:
    encoder = hpack.Encoder()
    blocks = [encoder.encode(REQUEST) for _ in range(3)]
    assert len(blocks[1]) < 10  # it is all in the table
    connection = Connection()
    connection.receive_data(PREFACE + frame(Frame.SETTINGS, 0, 0, b""))
    opening = [event for each in (1, 3) for event in connection.receive_data(headers(each, blocks[each // 2]))]
    encoder.header_table_size = 0
    connection.receive_data(frame(Frame.SETTINGS, ACK, 0, b""))
    opening += [event for each in (5, 7) for event in connection.receive_data(headers(each, encoder.encode(REQUEST)))]
    assert opening == [opened(each) for each in (1, 3, 5, 7)]
    connection.receive_data(headers(9, blocks[1]))
    assert connection.error.startswith("COMPRESSION_ERROR")


def test_long_block_is_decoded_as_well() -> None:
    long_block = block(x="v" * 2 * MAX_REMEMBERED)
    connection = started()
    seen = []
    for stream_id in (1, 3, 5):
        (event,) = connection.receive_data(headers(stream_id, long_block))
        assert isinstance(event, Request)
        assert dict(event.headers)["x"] == "v" * 2 * MAX_REMEMBERED
        seen.append(event.headers)
    assert seen[1] is not seen[2]  # ... and not kept


@given(st.lists(st.tuples(st.text(), st.text()), max_size=5), st.integers(0, 400))
@example([], 126)
@example([], 127)
@example([], 127 + 128)
def test_what_is_encoded_is_decoded(fields: list[tuple[str, str]], more: int) -> None:
    fields.append(("x", "v" * more))
    decoded = [(str(name), str(value)) for name, value in hpack.Decoder().decode(encode(fields))]
    assert decoded == fields


@given(st.binary(max_size=200))
def test_any_block_is_decoded_or_refused(data: bytes) -> None:
    blocks = Blocks()
    try:
        kind, fields = blocks.decode(data)
    except HeaderError:
        return
    assert kind in Kind
    assert all(isinstance(each, str) for pair in fields for each in pair)


# However the bytes are cut.


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(marks)]


PLACES: Final = st.lists(st.integers(0, 1 << 20), max_size=30)


@given(st.binary(), PLACES)
def test_arbitrary_bytes_never_raise(garbage: bytes, places: list[int]) -> None:
    for start in (b"", PREFACE, OPENING):
        assert talk([start + garbage]) == talk(cut(start + garbage, places))


FRAMES: Final = st.builds(
    frame,
    st.integers(0, 11),
    st.sampled_from((0, 1, 4, 5, 8, 9, 12, 13, 32, 36, 37, 44, 255)),
    st.integers(0, 9),
    st.sampled_from((BLOCK, TRAILERS, long(0), long(1), b"\0" * 5, b"\0" * 8, long(MAX_WINDOW), b"\2ab\0\0"))
    | st.binary(max_size=20),
)


@given(st.lists(FRAMES, max_size=30), PLACES)
def test_arbitrary_frames_never_raise(sent: list[bytes], places: list[int]) -> None:
    everything = OPENING + b"".join(sent)
    assert talk([everything]) == talk(cut(everything, places))


class Step(NamedTuple):
    """What a client does on one of its streams."""

    stream: int
    size: int
    padding: int


@given(st.lists(st.builds(Step, st.integers(0, 5), st.integers(0, 3000), st.integers(0, 9)), max_size=40), PLACES)
def test_conversations_of_h2(steps: list[Step], places: list[int]) -> None:
    """Several streams of a real client, in any order: each arrives whole, however the bytes are cut."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    ids: dict[int, int] = {}
    expected: dict[int, bytes] = {}
    for stream, size, padding in steps:
        if stream not in ids:
            ids[stream] = client.get_next_available_stream_id()
            expected[ids[stream]] = b""
            client.send_headers(ids[stream], REQUEST)
        else:
            client.send_data(ids[stream], bytes(size), pad_length=padding or None)
            expected[ids[stream]] += bytes(size)
    for stream_id in ids.values():
        client.end_stream(stream_id)
    sent = client.data_to_send()
    events, replies = talk([sent])
    assert (events, replies) == talk(cut(sent, places))
    got: dict[int, bytes] = {}
    ended = []
    for event in events:
        if isinstance(event, Request):
            assert event.headers == REQUEST
            got[event.stream_id] = b""
        elif isinstance(event, Data):
            got[event.stream_id] += event.data
            ended += [event.stream_id] if event.end_stream else []
    assert got == expected
    assert ended == list(ids.values())


def test_h2_understands_what_is_sent() -> None:
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.local_settings = h2.settings.Settings(
        client=True, initial_values={h2.settings.SettingCodes.HEADER_TABLE_SIZE: 0}
    )
    client.initiate_connection()
    server = Connection()
    seen: list[h2.events.Event] = []

    def exchange() -> list[Event]:
        events = server.receive_data(client.data_to_send())
        seen.extend(client.receive_data(server.data_to_send()))
        return events

    exchange()
    client.send_headers(1, REQUEST)
    client.send_data(1, b"request", end_stream=True)
    assert exchange() == [opened(1), Data(1, b"request", True)]
    server.send_headers(1, encode(((":status", "200"), ("x-long", "v" * 300))))
    server.send_data(1, b"d" * 20_000)
    server.send_trailers(1, encode((("grpc-status", "0"),)))
    server.ping(b"12345678")
    exchange()
    assert exchange() == [Pong(b"12345678")]
    server.close()
    exchange()
    told = [(type(event).__name__, getattr(event, "headers", None)) for event in seen]
    assert ("ResponseReceived", [(b":status", b"200"), (b"x-long", b"v" * 300)]) in told
    assert ("TrailersReceived", [(b"grpc-status", b"0")]) in told
    assert sum(len(event.data) for event in seen if isinstance(event, h2.events.DataReceived)) == 20_000
    assert told[-1][0] == "ConnectionTerminated"


def test_short_run_of_the_fuzzer() -> None:
    assert fuzz.run(seconds=60, rounds=400, seed=1) == 400


def test_fuzzer_finds_a_planted_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: Connection, *_: object) -> None:
        self.waiting += 1

    monkeypatch.setattr(http2.Connection, "_forget", forgetful)
    with pytest.raises(AssertionError):
        fuzz.run(seconds=60, rounds=400, seed=1)
