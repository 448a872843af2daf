"""What messages to the gRPC server lead to, without a network."""

from __future__ import annotations

import asyncio

import pytest
from grpc_bench import END, HEADERS, PASSED, Bench, Echo, answered, replies, run
from http2_bytes import OPENING, REQUEST, data, headers, message, request

from rejoinder.extproc.client import MESSAGE_COST
from rejoinder.extproc.exchange import Step
from rejoinder.extproc.frames import (
    END_HEADERS,
    END_STREAM,
    MAX_WINDOW,
    ErrorCode,
    Frame,
    Setting,
    frame,
    settings,
)
from rejoinder.extproc.grpc_wire import MAX_MESSAGE
from rejoinder.extproc.headers import encode


def test_whole_exchange_is_one_write() -> None:
    async def main() -> None:
        bench = Bench()
        wire = bench.wire()
        before = wire.writes
        wire.bring(request(1, b"last", 0) + request(3, b"last", 0))
        await bench.served()
        assert replies(wire.frames()) == {1: answered(b"last"), 3: answered(b"last")}
        assert wire.writes == before + 1

    run(main())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param([message(b"one") + message(b"two") + message(b"last")], [b"one", b"two", b"last"], id="in one"),
        pytest.param([bytes((byte,)) for byte in message(b"one") + message(b"last")], [b"one", b"last"], id="cut"),
        pytest.param([message(b"one") + message(b"last")[:6], message(b"last")[6:]], [b"one", b"last"], id="both"),
        pytest.param([message(b""), message(b"last")], [b"last"], id="empty"),
    ],
)
def test_messages_in_frames(body: list[bytes], said: list[bytes]) -> None:
    async def main() -> None:
        bench = Bench()
        wire = bench.wire()
        wire.bring(headers(1) + b"".join(data(1, part) for part in body))
        await bench.served()
        sent = replies(wire.frames())[1]
        assert b"".join(part for part in sent if isinstance(part, bytes)) == b"".join(map(message, said))
        assert sent[-2:] == [END, ErrorCode.NO_ERROR]

    run(main())


def changed(**fields: str | None) -> bytes:
    named = {("content-type" if name == "content_type" else name): value for name, value in fields.items()}
    named = {(f":{name}" if name in ("method", "path") else name): value for name, value in named.items()}
    kept = {**dict(REQUEST), **named}
    return headers(1, encode((name, value) for name, value in kept.items() if value is not None))


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param(changed(te=None) + data(1, message(b"last")), answered(b"last"), id="no te"),
        pytest.param(
            changed(content_type="application/grpc+proto") + data(1, message(b"last")), answered(b"last"), id="+proto"
        ),
        pytest.param(
            changed(content_type="text/html"), [{":status": "415", "end": "yes"}, ErrorCode.NO_ERROR], id="no gRPC"
        ),
        pytest.param(
            changed(method="GET"), [{":status": "405", "allow": "POST", "end": "yes"}, ErrorCode.NO_ERROR], id="GET"
        ),
        pytest.param(
            changed(path="/other"),
            [
                {**HEADERS, "grpc-status": "12", "grpc-message": "no such method", "end": "yes"},
                ErrorCode.NO_ERROR,
            ],
            id="unknown",
        ),
        pytest.param(
            headers(1) + data(1, message(b"one")[:5], END_STREAM),
            [{**HEADERS, "grpc-status": "13", "grpc-message": "the last message is not complete", "end": "yes"}],
            id="cut off",
        ),
        pytest.param(headers(1, flags=END_HEADERS | END_STREAM), [{**HEADERS, **END}], id="no message"),
        pytest.param(headers(1) + data(1, message(b"silence")), PASSED, id="no answer"),
        pytest.param(headers(1) + data(1, message(b"one", END_STREAM) * 0, END_STREAM), [{**HEADERS, **END}], id="end"),
    ],
)
def test_what_a_request_leads_to(sent: bytes, expected: list[object]) -> None:
    async def main() -> None:
        bench = Bench()
        wire = bench.wire()
        wire.bring(sent)
        await bench.served()
        assert replies(wire.frames()) == {1: expected}
        assert bench.server.streams == 0

    run(main())


def test_parts_of_messages_are_limited_for_a_connection() -> None:
    async def main() -> None:
        bench = Bench()
        wire = bench.wire()
        piece = message(bytes(MAX_MESSAGE))[:-100]
        for stream_id in (1, 3, 5):
            wire.bring(headers(stream_id))
            for start in range(0, len(piece), 16_000):
                wire.bring(data(stream_id, piece[start : start + 16_000]))
        await bench.served()
        sent = replies(wire.frames())
        assert {stream_id: said[0]["grpc-status"] for stream_id, said in sent.items() if stream_id} == {5: "8"}  # type: ignore[index]
        wire.bring(data(1, bytes(100)))  # the others go on
        await bench.served()
        assert list(replies(wire.frames())) == [1]

    run(main())


def test_messages_wait_for_the_step_before() -> None:
    async def main() -> None:
        bench = Bench()
        wire = bench.wire()
        wire.bring(headers(1) + data(1, message(b"later") + message(b"one") + message(b"later 2") + message(b"last")))
        wire.bring(data(1, b"", END_STREAM))
        await bench.served()
        assert replies(wire.frames()) == {1: [HEADERS, *map(message, (b"later", b"one", b"later 2", b"last")), END]}

    run(main())


def test_messages_that_wait_for_a_step_are_limited_like_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr("rejoinder.extproc.grpc.MAX_QUEUED", 3 * MESSAGE_COST)
        bench = Bench()
        wire = bench.wire()
        (client,) = bench.server.connections
        wire.bring(headers(1) + data(1, message(b"later") + message(b"one") + message(b"two")))
        await asyncio.sleep(0)
        assert client.queued == 2 * MESSAGE_COST + 6
        wire.bring(data(1, message(b"three")))
        wire.bring(data(1, message(b"four")))  # there is no room for it
        await bench.served()
        assert replies(wire.frames()) == {1: PASSED}
        assert (client.queued, bench.server.overloaded) == (0, 1)

    run(main())


def test_exchange_of_a_stream_that_is_gone_is_not_made() -> None:
    async def main() -> None:
        made: list[str] = []
        bench = Bench(lambda: made.append("made") or Echo())  # type: ignore[func-returns-value]
        wire = bench.wire()
        wire.bring(request(1, b"last", 0) + frame(Frame.RST_STREAM, 0, 1, b"\0\0\0\x08"))
        await bench.served()
        assert made == []

    run(main())


@pytest.mark.parametrize("end", [True, False])
def test_large_answers_are_written_one_by_one(end: bool) -> None:
    class Large(Echo):
        def __call__(self, data: bytes) -> Step:
            return Step(data + bytes(1 << 17), end)

    async def main() -> None:
        bench = Bench(Large)
        opening = OPENING + frame(Frame.SETTINGS, 0, 0, settings({Setting.INITIAL_WINDOW_SIZE: MAX_WINDOW}))
        wire = bench.wire(opening + frame(Frame.WINDOW_UPDATE, 0, 0, b"\x7f\0\0\0"))
        (client,) = bench.server.connections
        wire.bring(b"".join(request(stream_id, b"last", 0) for stream_id in (1, 3)))
        write = wire.write
        wire.write = lambda data: (write(data), client.pause_writing())  # type: ignore[method-assign, func-returns-value, assignment]
        await bench.served()
        assert list(replies(wire.frames())) == [1]  # a slow client is noticed before there is more for it
        client.resume_writing()
        await bench.served()
        assert list(replies(wire.frames())) == [3]

    run(main())


def test_step_of_a_stream_that_is_gone_goes_nowhere() -> None:
    async def main() -> None:
        bench = Bench()
        wire = bench.wire()
        wire.bring(request(1, b"later", 0))
        await asyncio.sleep(0)
        wire.bring(frame(Frame.RST_STREAM, 0, 1, b"\0\0\0\x08"))
        await bench.served()
        assert replies(wire.frames()) == {}
        wire.bring(request(3, b"later", 0) + data(3, message(b"one")))
        await asyncio.sleep(0)
        (client,) = bench.server.connections
        wire.abort()
        await bench.served()
        assert (bench.server.failures, client.queued) == (0, 0)

    run(main())
