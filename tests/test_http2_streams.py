"""What is sent on an HTTP/2 connection, and what floods do to it."""

from __future__ import annotations

import pytest
from http2_bytes import PING, TRAILERS, Seen, data, frames, headers
from http2_said import ENDED_1, OPEN_1, STREAM_1, long, rst, set_to, slices, started, talk, window
from hypothesis import given
from hypothesis import strategies as st

from rejoinder.extproc.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    MAX_WINDOW,
    PADDED,
    PREFACE,
    ErrorCode,
    Frame,
    frame,
)
from rejoinder.extproc.http2 import (
    MAX_CONCURRENT_STREAMS,
    Connection,
    Reset,
)


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
        assert [(reply.kind, reply.payload[4:]) for reply in replies] == [
            (Frame.GOAWAY, long(ErrorCode.PROTOCOL_ERROR))
        ]


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
    return [len(frame.payload) if frame.kind == Frame.DATA else "end" for frame in frames(connection.data_to_send())]


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
        (frame.stream_id, len(frame.payload)) for frame in frames(connection.data_to_send()) if frame.kind == Frame.DATA
    ]
    by_stream = {stream_id: sum(size for of, size in sent if of == stream_id) for stream_id in (1, 3, 5)}
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
    for sent_frame in frames(connection.data_to_send()):
        if sent_frame.kind == Frame.DATA:
            sent[sent_frame.stream_id] += sent_frame.payload
    total = 0
    for stream_id, body in bodies.items():
        assert body.startswith(sent[stream_id])
        assert len(sent[stream_id]) <= allowed[stream_id]
        total += len(sent[stream_id])
    assert total == min(allowed_in_all, sum(min(allowed[stream_id], len(bodies[stream_id])) for stream_id in bodies))
    assert connection.waiting == 300 - total


# Limits.


def test_windows_are_opened_again() -> None:
    connection = started()
    connection.receive_data(STREAM_1 + data(1, b"d" * 16_384) * 2)
    assert frames(connection.data_to_send()) == [Seen(Frame.WINDOW_UPDATE, 0, 1, long(32_768))]
    connection.receive_data(data(1, b"d" * 16_384) * 30)
    updates = [frame for frame in frames(connection.data_to_send()) if frame.stream_id == 0]
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
    assert refusals == [Seen(Frame.RST_STREAM, 0, stream_id, long(ErrorCode.REFUSED_STREAM)) for stream_id in ids[-2:]]
    connection.receive_data(rst(1))
    assert len(connection.receive_data(headers(ids[-1] + 2))) == 1
