"""An HTTP/2 connection, whatever bytes come."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final, NamedTuple

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from fuzz import http2 as fuzz
from http2_bytes import BLOCK, OPENING, REQUEST, TRAILERS
from http2_said import long, opened, talk
from hypothesis import given
from hypothesis import strategies as st

from rejoinder.extproc import http2
from rejoinder.extproc.frames import (
    MAX_WINDOW,
    PREFACE,
    frame,
)
from rejoinder.extproc.headers import encode
from rejoinder.extproc.http2 import (
    Connection,
    Data,
    Event,
    Pong,
    Request,
)

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
