"""What is of no use on an HTTP/2 connection, in large numbers; and header blocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

import hpack
import pytest
from http2_bytes import PING, REQUEST, TRAILERS, data, headers
from http2_said import STREAM_1, block, opened, rst, set_to, started, window
from hypothesis import example, given
from hypothesis import strategies as st

from rejoinder.extproc.frames import (
    ACK,
    PREFACE,
    BrokenConnectionError,
    Frame,
    frame,
)
from rejoinder.extproc.headers import MAX_REMEMBERED, Blocks, Kind, encode
from rejoinder.extproc.http2 import (
    MAX_USELESS,
    SMALL,
    Connection,
    Request,
)


def rapid_resets() -> Iterator[bytes]:
    for stream_id in itertools.count(1, 2):
        yield headers(stream_id) + rst(stream_id)


FLOODS: Final = {
    "pings": lambda: itertools.repeat(PING),
    "settings": lambda: itertools.repeat(set_to(INITIAL_WINDOW_SIZE=1)),
    "acknowledgements": lambda: itertools.repeat(frame(Frame.SETTINGS, ACK, 0, b"")),
    "rapid resets": rapid_resets,
    "malformed requests": lambda: (headers(stream_id, b"\x20") for stream_id in itertools.count(1, 2)),
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
    first, second, third = (connection.receive_data(headers(stream_id))[0] for stream_id in (1, 3, 5))
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
    opening = [event for n in (1, 3) for event in connection.receive_data(headers(n, blocks[n // 2]))]
    encoder.header_table_size = 0
    connection.receive_data(frame(Frame.SETTINGS, ACK, 0, b""))
    opening += [event for n in (5, 7) for event in connection.receive_data(headers(n, encoder.encode(REQUEST)))]
    assert opening == [opened(n) for n in (1, 3, 5, 7)]
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
    except BrokenConnectionError:
        return
    assert kind in Kind
    assert all(isinstance(text, str) for pair in fields for text in pair)
