"""The gRPC server when there is too much to do, or a client does not read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable

import pytest
from grpc_bench import HEADERS, PASSED, PATH, Bench, Echo, answered, grpcio, replies, run, serving
from http2_bytes import BLOCK, OPENING, Seen, data, frames, headers, message, request
from machine import SECONDS

from rejoinder.extproc.client import KEEPALIVE, KEEPALIVE_TIMEOUT, MESSAGE_COST
from rejoinder.extproc.exchange import Next, Step
from rejoinder.extproc.frames import (
    ACK,
    MAX_WINDOW,
    ErrorCode,
    Frame,
    Setting,
    frame,
    settings,
)
from rejoinder.extproc.grpc import SLICE, TURN

# Overload.


def test_exchange_that_has_waited_too_long_passes() -> None:
    async def main() -> None:
        bench = Bench(max_wait=0.5)
        wire = bench.wire()
        wire.bring(request(1, b"last", 0))
        bench.now = 0.5
        wire.bring(request(3, b"last", 0))
        bench.now = 0.6
        await bench.served()
        assert replies(wire.frames()) == {1: PASSED, 3: answered(b"last")}
        assert bench.server.overloaded == 1

    run(main())


def test_exchange_that_has_waited_just_so_long_is_answered() -> None:
    async def main() -> None:
        bench = Bench(max_wait=0.5)
        wire = bench.wire()
        wire.bring(request(1, b"last", 0))
        bench.now = 0.5
        await bench.served()
        assert replies(wire.frames()) == {1: answered(b"last")}

    run(main())


def test_exchange_that_finds_the_queue_full_passes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr("rejoinder.extproc.grpc.MAX_QUEUED", 3 * MESSAGE_COST)
        bench = Bench()
        wire = bench.wire()
        wire.bring(b"".join(request(stream_id, b"last", 0) for stream_id in (1, 3, 5, 7)))
        assert replies(wire.frames()) == {7: PASSED}
        await bench.served()
        assert replies(wire.frames()) == {stream_id: answered(b"last") for stream_id in (1, 3, 5)}
        assert bench.server.overloaded == 1
        wire.bring(request(9, b"last", 0))  # and there is room again
        await bench.served()
        assert replies(wire.frames()) == {9: answered(b"last")}

    run(main())


def test_full_queue_of_one_client_leaves_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr("rejoinder.extproc.grpc.MAX_QUEUED", 100 * MESSAGE_COST)
        bench = Bench()
        flood, other = bench.wire(), bench.wire()
        flood.bring(b"".join(request(stream_id, b"last", 0) for stream_id in range(1, 2001, 2)))
        assert bench.server.overloaded > 800
        other.bring(request(1, b"last", 0))
        await bench.served()
        assert replies(other.frames()) == {1: answered(b"last")}

    run(main())


def test_queue_is_shared_by_those_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr("rejoinder.extproc.grpc.MAX_QUEUED", 100 * MESSAGE_COST)
        bench = Bench()
        wires = [bench.wire() for _ in range(50)]
        for wire in wires:
            wire.bring(b"".join(request(stream_id, b"last", 0) for stream_id in range(1, 201, 2)))
        waiting = [client.queued // MESSAGE_COST for client in bench.server.busy]
        assert min(waiting) >= 2
        assert sum(waiting) < 100 * (1 + 4)  # the sum of 1/n for 50 of them
        await bench.served()

    run(main())


def test_flood_of_one_client_does_not_delay_another() -> None:
    order: list[bytes] = []

    class Noted(Echo):
        def __call__(self, data: bytes) -> Step | Awaitable[Next]:
            order.append(data)
            return super().__call__(data)

    async def main() -> None:
        bench = Bench(Noted)
        flood, other = bench.wire(), bench.wire()
        flood.bring(b"".join(request(stream_id, b"last", 0) for stream_id in range(1, 2001, 2)))
        other.bring(request(1, b"last: other", 0))
        await bench.served()
        assert len(order) == 1001
        assert order.index(b"last: other") == TURN

    run(main())


def test_sockets_are_read_between_slices() -> None:
    async def main() -> None:
        bench = Bench()
        wire = bench.wire()
        wire.bring(b"".join(request(stream_id, b"last", 0) for stream_id in range(1, 2001, 2)))
        await asyncio.sleep(0)
        assert len([frame for frame in wire.frames() if frame.kind == Frame.DATA]) == SLICE

    run(main())


def test_client_that_does_not_open_its_windows_is_let_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rejoinder.extproc.client.MAX_WAITING", 100)

    async def main() -> None:
        bench = Bench()
        wire = bench.wire(OPENING + frame(Frame.SETTINGS, 0, 0, settings({Setting.INITIAL_WINDOW_SIZE: 0})))
        wire.bring(request(1, b"last" + bytes(200), 0))
        await bench.served()
        wire.bring(request(3, b"last", 0))
        await bench.served()
        assert replies(wire.frames()) == {1: [HEADERS], 3: PASSED}
        assert bench.server.overloaded == 1
        wire.bring(frame(Frame.WINDOW_UPDATE, 0, 1, b"\0\0\1\0"))
        assert replies(wire.frames()) == {1: answered(b"last" + bytes(200))[1:]}

    run(main())


def test_what_was_awaited_meanwhile_passes_too_and_is_not_counted_as_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rejoinder.extproc.client.MAX_WAITING", 100)
    answers: list[bytes] = []

    class Noted(Echo):
        async def _later(self, data: bytes) -> Next:
            following = await super()._later(data)

            def noted() -> Step:
                answers.append(data)
                return following()

            return noted

    async def main() -> None:
        bench = Bench(Noted)
        wire = bench.wire(OPENING + frame(Frame.SETTINGS, 0, 0, settings({Setting.INITIAL_WINDOW_SIZE: 0})))
        wire.bring(request(1, b"later", 0) + request(3, b"last" + bytes(200), 0))
        await bench.served()
        await asyncio.sleep(0)
        assert replies(wire.frames()) == {1: PASSED, 3: [HEADERS]}
        assert (bench.server.overloaded, sum(bench.server.durations), answers) == (1, 1, [])
        other = bench.wire()
        other.bring(request(1, b"later", 0))
        await bench.served()
        assert replies(other.frames()) == {1: answered(b"later")[:2]}
        assert (bench.server.overloaded, sum(bench.server.durations), answers) == (1, 2, [b"later"])

    run(main())


def test_of_clients_that_take_too_much_memory_the_largest_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr("rejoinder.extproc.grpc.MAX_KEPT", 100 * MESSAGE_COST)
        bench = Bench()
        small, large = bench.wire(), bench.wire()
        for number in range(1, 100, 2):
            small.bring(request(number, b"stays", 0))
            large.bring(request(number, b"stays" + bytes(MESSAGE_COST // 2), 0))
            await bench.served()
        assert (small.aborted, large.aborted) == (False, True)
        for number in range(101, 1000, 2):
            small.bring(request(number, b"last", 0))
            await bench.served()
        assert not small.aborted

    run(main())


def test_client_that_does_not_read_is_not_listened_to_and_then_hung_up_on() -> None:
    async def main() -> None:
        bench = Bench()
        wire = bench.wire()
        (client,) = bench.server.connections
        wire.bring(request(1, b"last", 0))
        client.pause_writing()
        assert wire.reading_paused
        await bench.served()
        assert replies(wire.frames()) == {}
        client.resume_writing()
        assert not wire.reading_paused
        await bench.served()
        assert replies(wire.frames()) == {1: answered(b"last")}
        client.pause_writing()
        bench.now = KEEPALIVE_TIMEOUT
        bench.server.tick()
        assert not wire.aborted
        bench.now += 1
        bench.server.tick()
        assert wire.aborted
        assert not bench.server.connections

    run(main())


# Connections.


def test_silent_client_is_asked_for_a_sign_of_life_and_hung_up_on() -> None:
    async def main() -> None:
        bench = Bench()
        dead, alive = bench.wire(), bench.wire()
        bench.now = KEEPALIVE
        bench.server.tick()
        assert dead.frames() == []
        bench.now = KEEPALIVE + 1
        bench.server.tick()
        bench.server.tick()
        (ping,) = dead.frames()
        assert alive.frames() == [ping]
        assert ping[:3] == (Frame.PING, 0, 0)
        alive.bring(frame(Frame.PING, ACK, 0, ping.payload))
        bench.now = KEEPALIVE + KEEPALIVE_TIMEOUT + 1
        bench.server.tick()
        assert (dead.aborted, alive.aborted) == (True, False)
        bench.now += KEEPALIVE
        bench.server.tick()
        assert alive.frames() == [ping]  # again

    run(main())


def test_stop_with_grace_over_the_wire() -> None:
    async def main() -> None:
        bench = Bench()
        wire = bench.wire()
        wire.bring(headers(1))
        stopping = asyncio.create_task(bench.server.stop(grace=SECONDS))
        await asyncio.sleep(0)
        goaway, ping = wire.frames()
        assert goaway == Seen(Frame.GOAWAY, 0, 0, MAX_WINDOW.to_bytes(4, "big") + bytes(4))
        wire.bring(request(3, b"last", 0))  # was under way
        wire.bring(frame(Frame.PING, ACK, 0, ping.payload))
        await bench.served()
        assert replies(wire.frames()) == {3: answered(b"last")}
        assert not wire.closing
        wire.bring(data(1, message(b"last")))
        await bench.served()
        *_, goaway = wire.frames()
        assert goaway == Seen(Frame.GOAWAY, 0, 0, (3).to_bytes(4, "big") + bytes(4))
        assert wire.closing
        wire.abort()
        await stopping

    run(main())


def test_stop_waits_for_what_waits_for_windows() -> None:
    async def main() -> None:
        bench = Bench()
        wire = bench.wire(OPENING + frame(Frame.SETTINGS, 0, 0, settings({Setting.INITIAL_WINDOW_SIZE: 0})))
        wire.bring(request(1, b"last", 0))
        await bench.served()
        stopping = asyncio.create_task(bench.server.stop(grace=SECONDS))
        await asyncio.sleep(0)
        *_, ping = wire.frames()
        wire.bring(frame(Frame.PING, ACK, 0, ping.payload))
        assert not wire.closing
        wire.bring(frame(Frame.WINDOW_UPDATE, 0, 1, b"\0\0\1\0"))
        assert replies(wire.frames()) == {1: answered(b"last")[1:]}
        assert wire.closing
        wire.abort()
        await stopping

    run(main())


def test_useless_frames_are_forgiven_after_a_while() -> None:
    async def main() -> None:
        bench = Bench()
        wire = bench.wire()
        for _ in range(3):
            wire.bring(frame(Frame.PING, 0, 0, b"anybody?") * 9_000)
            bench.server.tick()
        assert not wire.closing

    run(main())


def test_broken_protocol_is_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        bench = Bench()
        wire = bench.wire()
        wire.bring(request(1, b"last", 0) + headers(2))
        (goaway,) = wire.frames()
        assert goaway.payload == (1).to_bytes(4, "big") + bytes((0, 0, 0, ErrorCode.PROTOCOL_ERROR))
        assert wire.closing
        await bench.served()

    with caplog.at_level(logging.WARNING):
        run(main())
    assert caplog.messages == ["a client's connection is broken off: PROTOCOL_ERROR: 2 is no new stream"]


def test_connections_beyond_the_limit_are_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr("rejoinder.extproc.grpc.MAX_CONNECTIONS", 1)
        async with serving() as (server, port), grpcio(port) as channel:
            assert await channel.unary_unary(PATH)(b"last") == b"last"
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            assert len(server.connections) == 1
            assert await channel.unary_unary(PATH)(b"last") == b"last"

    run(main())


def test_block_of_the_tests_is_what_is_served() -> None:
    assert frames(headers(1))[0].payload == BLOCK
