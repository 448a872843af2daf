"""The gRPC server: with real clients (grpcio, h2, h2load), and over a wire without a network or a clock."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import h2.config
import h2.connection
import h2.events
import pytest
from gateway import SECONDS
from http2_bytes import BLOCK, OPENING, REQUEST, Seen, Wire, data, frames, headers, message, request
from test_tls import certificate

from rejoinder.extproc.client import KEEPALIVE, KEEPALIVE_TIMEOUT, MESSAGE_COST, Client
from rejoinder.extproc.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    MAX_WINDOW,
    ErrorCode,
    Frame,
    Setting,
    frame,
    settings,
)
from rejoinder.extproc.grpc import SLICE, TURN, Metadata, Server, Step
from rejoinder.extproc.grpc_wire import MAX_MESSAGE
from rejoinder.extproc.headers import Blocks, encode

PATH: Final = dict(REQUEST)[":path"]
OK: Final = ("grpc-status", "0")


class Echo:
    """Says what it hears. Some messages are orders."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = dict(metadata)
        self.ended = False

    def on_message(self, data: bytes) -> Step | Awaitable[Step]:
        if data == b"metadata":
            return Step(self._metadata["x-text"].encode(), False)
        if data == b"fail":
            raise ValueError("as told")
        if data == b"nothing":
            return Step(b"", False)
        if data == b"silence":
            return Step(b"", True)
        if data.startswith(b"last"):
            return Step(data, True)
        if data.startswith(b"later"):
            return self._later(data)
        return Step(data, False)

    async def _later(self, data: bytes) -> Step:
        await asyncio.sleep(0)
        if data == b"later fail":
            raise ValueError("as told, later")
        return Step(data, False)

    def on_end(self) -> None:
        self.ended = True


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, SECONDS))


@contextlib.asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[tuple[Server, int]]:
    server = Server({PATH: Echo}, tls=tls, **options)
    port = await server.listen("127.0.0.1:0")
    try:
        yield server, port
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def grpcio(port: int, **options: Any) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", **options) as channel:
        yield channel


# With grpcio's client.


def test_stream_of_messages() -> None:
    async def main() -> None:
        async with serving() as (server, port), grpcio(port) as channel:
            stream = channel.stream_stream(PATH)(metadata=(("x-text", "ours"),))
            for said in (b"one", b"two", b"later", b"metadata", b"last"):
                await stream.write(said)
                assert await stream.read() == (b"ours" if said == b"metadata" else said)
            assert await stream.read() is grpc.aio.EOF
            assert await stream.code() is grpc.StatusCode.OK
            assert (server.streams, len(server.connections), server.failures) == (0, 1, 0)

    run(main())


def test_client_that_ends_first() -> None:
    async def main() -> None:
        async with serving() as (_, port), grpcio(port) as channel:
            stream = channel.stream_stream(PATH)()
            await stream.write(b"one")
            await stream.write(b"later")
            await stream.write(b"nothing")
            await stream.done_writing()
            assert [await stream.read() for _ in range(3)] == [b"one", b"later", grpc.aio.EOF]
            assert await stream.code() is grpc.StatusCode.OK

    run(main())


def test_unary_calls() -> None:
    async def main() -> None:
        async with serving() as (_, port), grpcio(port) as channel:
            call = channel.unary_unary(PATH)
            said = [b"last %d" % number for number in range(500)]
            assert await asyncio.gather(*map(call, said)) == said

    run(main())


def test_messages_larger_than_windows_and_frames() -> None:
    async def main() -> None:
        large = b"last" + bytes(2 << 20)
        async with serving() as (_, port), grpcio(port) as channel:
            assert await asyncio.gather(*(channel.unary_unary(PATH)(large) for _ in range(3))) == [large] * 3

    run(main())


@pytest.mark.parametrize(
    ("path", "said", "options", "code"),
    [
        pytest.param("/package.Service/Other", b"", {}, grpc.StatusCode.UNIMPLEMENTED, id="no such method"),
        pytest.param(PATH, bytes(MAX_MESSAGE + 1), {}, grpc.StatusCode.RESOURCE_EXHAUSTED, id="too large"),
        pytest.param(
            PATH, bytes(1000), {"compression": grpc.Compression.Gzip}, grpc.StatusCode.UNIMPLEMENTED, id="compressed"
        ),
    ],
)
def test_what_is_refused(path: str, said: bytes, options: dict[str, Any], code: grpc.StatusCode) -> None:
    async def main() -> None:
        async with serving() as (_, port), grpcio(port, **options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await channel.unary_unary(path)(said)
            assert raised.value.code() is code
            assert await channel.stream_stream("/nothing")().code() is grpc.StatusCode.UNIMPLEMENTED

    run(main())


@pytest.mark.parametrize("order", [b"fail", b"later fail"])
def test_exchange_that_fails_ends_well_and_is_logged(order: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving() as (server, port), grpcio(port) as channel:
            stream = channel.stream_stream(PATH)()
            await stream.write(b"one")
            assert await stream.read() == b"one"
            await stream.write(order)
            assert await stream.read() is grpc.aio.EOF
            assert await stream.code() is grpc.StatusCode.OK
            assert (server.failures, server.streams) == (1, 0)

    run(main())
    (record,) = (each for each in caplog.records if each.name == "rejoinder.extproc")  # grpcio logs, too
    assert record.exc_info is not None
    assert "as told" in str(record.exc_info[1])


def test_cancelled_streams_are_forgotten() -> None:
    async def main() -> None:
        async with serving() as (server, port), grpcio(port) as channel:
            streams = [channel.stream_stream(PATH)() for _ in range(10)]
            for stream in streams:
                await stream.write(b"one")
                await stream.read()
            assert server.streams == 10
            for stream in streams:
                stream.cancel()
            while server.streams:
                await asyncio.sleep(0.01)
            assert await channel.unary_unary(PATH)(b"last") == b"last"

    run(main())


def test_stop_waits_for_running_streams() -> None:
    async def main() -> None:
        server = Server({PATH: Echo})
        port = await server.listen("127.0.0.1:0")
        async with grpcio(port) as channel:
            stream = channel.stream_stream(PATH)()
            await stream.write(b"one")
            await stream.read()
            stopping = asyncio.create_task(server.stop(grace=SECONDS))
            await asyncio.sleep(0)
            await stream.write(b"last")
            assert await stream.read() == b"last"
            assert await stream.code() is grpc.StatusCode.OK
            await stopping
            assert not server.connections
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await channel.unary_unary(PATH)(b"last")
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE

    run(main())


def test_stop_without_grace_ends_them() -> None:
    async def main() -> None:
        server = Server({PATH: Echo})
        port = await server.listen("127.0.0.1:0")
        async with grpcio(port) as channel:
            stream = channel.stream_stream(PATH)()
            await stream.write(b"one")
            await stream.read()
            await server.stop()
            assert await stream.code() is grpc.StatusCode.UNAVAILABLE
            assert not server.connections

    run(main())


# With h2, over TLS.


@pytest.mark.parametrize("alpn", [["h2"], ["http/1.1"], []])
def test_tls_with_alpn(alpn: list[str], tmp_path: Path) -> None:
    crt, key = certificate(tmp_path, "localhost")
    theirs = ssl.create_default_context(cafile=str(crt))
    if alpn:
        theirs.set_alpn_protocols(alpn)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(crt, key)

    async def main() -> None:
        async with serving(ours) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=theirs, server_hostname="localhost")
            client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
            client.initiate_connection()
            client.send_headers(1, REQUEST)
            client.send_data(1, message(b"last"), end_stream=True)
            writer.write(client.data_to_send())
            events: list[h2.events.Event] = []
            with contextlib.suppress(ConnectionError):
                while not any(isinstance(event, h2.events.StreamEnded) for event in events):
                    received = await reader.read(65536)
                    if not received:
                        break
                    events += client.receive_data(received)
            answers = [event.data for event in events if isinstance(event, h2.events.DataReceived)]
            assert answers == ([message(b"last")] if alpn == ["h2"] else [])
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    run(main())


# With h2load (Debian package nghttp2-client); .ci/run installs it.


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load (nghttp2-client) is not installed")
def test_h2load(tmp_path: Path) -> None:
    body = tmp_path / "message"
    body.write_bytes(message(b"last" + bytes(300)))

    async def main() -> None:
        async with serving(max_wait=SECONDS) as (server, port):
            process = await asyncio.create_subprocess_exec(
                *("h2load", "-n", "4000", "-c", "4", "-m", "100", "-d", str(body)),
                *("-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{port}{PATH}"),
                stdout=asyncio.subprocess.PIPE,
            )
            text = (await process.communicate())[0].decode()
            assert "4000 succeeded, 0 failed, 0 errored, 0 timeout" in text
            assert (server.overloaded, server.failures, server.streams) == (0, 0, 0)

    run(main())


# Listening.


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:70000", "192.0.2.1:0", "[::g]:0", "127.0.0.1:-1"])
def test_address_that_cannot_be(address: str) -> None:
    async def main() -> None:
        with pytest.raises(OSError, match=r"^cannot listen on .*: it is in use, or not this machine's$"):
            await Server({}).listen(address)

    run(main())


def test_taken_port() -> None:
    async def main() -> None:
        async with serving() as (_, port):
            with pytest.raises(OSError, match=f"^cannot listen on 127.0.0.1:{port}: "):
                await Server({}).listen(f"127.0.0.1:{port}")

    run(main())


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_ipv6() -> None:
    async def main() -> None:
        server = Server({PATH: Echo})
        try:
            port = await server.listen("[::1]:0")
        except OSError:
            pytest.skip("no IPv6 here")
        channel: Any
        async with grpc.aio.insecure_channel(f"[::1]:{port}") as channel:
            assert await channel.unary_unary(PATH)(b"last") == b"last"
        await server.stop()

    run(main())


# Over a wire without a network.


class Bench:
    """A server with wires, and a time of its own."""

    def __init__(self, method: Callable[[Metadata], Any] = Echo, **options: Any) -> None:
        self.now = 0.0
        self.server = Server({PATH: method}, clock=lambda: self.now, **options)

    def wire(self, opening: bytes = OPENING) -> Wire:
        wire = Wire(Client(self.server))
        wire.bring(opening)
        wire.frames()
        return wire

    async def served(self) -> None:
        """Until nothing is left to do."""
        await asyncio.sleep(0)
        while self.server.busy or self.server.tasks:
            await asyncio.sleep(0)
        await asyncio.sleep(0)


def replies(sent: list[Seen]) -> dict[int, list[object]]:
    """By stream: its headers as a dictionary each, its data, and the code of a reset."""
    blocks = Blocks()
    found: dict[int, list[object]] = {}
    for kind, flags, stream_id, payload in sent:
        said: object = None
        if kind == Frame.HEADERS:
            said = dict(blocks.decode(payload)[1])
            assert isinstance(said, dict)
            said |= {"end": "yes"} if flags & END_STREAM else {}
        elif kind == Frame.DATA:
            said = payload
        elif kind == Frame.RST_STREAM:
            said = ErrorCode(int.from_bytes(payload, "big"))
        if said is not None:
            found.setdefault(stream_id, []).append(said)
    return found


HEADERS: Final = {":status": "200", "content-type": "application/grpc"}
END: Final = {"grpc-status": "0", "end": "yes"}
PASSED: Final = [{**HEADERS, **END}, ErrorCode.NO_ERROR]
"""What lets a response pass: only trailers, and nothing more is asked of the client."""


def answered(said: bytes) -> list[object]:
    return [HEADERS, message(said), END, ErrorCode.NO_ERROR]


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
        assert b"".join(each for each in sent if isinstance(each, bytes)) == b"".join(map(message, said))
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


def test_messages_that_wait_for_a_step_are_limited_like_the_others() -> None:
    async def main() -> None:
        bench = Bench(max_queued=3 * MESSAGE_COST)
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
        made: list[Metadata] = []
        bench = Bench(lambda metadata: made.append(metadata) or Echo(metadata))  # type: ignore[func-returns-value]
        wire = bench.wire()
        wire.bring(request(1, b"last", 0) + frame(Frame.RST_STREAM, 0, 1, b"\0\0\0\x08"))
        await bench.served()
        assert made == []

    run(main())


@pytest.mark.parametrize("end", [True, False])
def test_large_answers_are_written_one_by_one(end: bool) -> None:
    class Large(Echo):
        def on_message(self, data: bytes) -> Step:
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


def test_exchange_that_finds_the_queue_full_passes_at_once() -> None:
    async def main() -> None:
        bench = Bench(max_queued=3 * MESSAGE_COST)
        wire = bench.wire()
        wire.bring(b"".join(request(stream_id, b"last", 0) for stream_id in (1, 3, 5, 7)))
        assert replies(wire.frames()) == {7: PASSED}
        await bench.served()
        assert replies(wire.frames()) == {each: answered(b"last") for each in (1, 3, 5)}
        assert bench.server.overloaded == 1
        wire.bring(request(9, b"last", 0))  # and there is room again
        await bench.served()
        assert replies(wire.frames()) == {9: answered(b"last")}

    run(main())


def test_full_queue_of_one_client_leaves_room_for_another() -> None:
    async def main() -> None:
        bench = Bench(max_queued=100 * MESSAGE_COST)
        flood, other = bench.wire(), bench.wire()
        flood.bring(b"".join(request(stream_id, b"last", 0) for stream_id in range(1, 2001, 2)))
        assert bench.server.overloaded > 800
        other.bring(request(1, b"last", 0))
        await bench.served()
        assert replies(other.frames()) == {1: answered(b"last")}

    run(main())


def test_queue_is_shared_by_those_that_wait() -> None:
    async def main() -> None:
        bench = Bench(max_queued=100 * MESSAGE_COST)
        wires = [bench.wire() for _ in range(50)]
        for wire in wires:
            wire.bring(b"".join(request(stream_id, b"last", 0) for stream_id in range(1, 201, 2)))
        waiting = [client.queued // MESSAGE_COST for client in bench.server.busy]
        assert min(waiting) >= 2
        assert sum(waiting) < 100 * (1 + 4)  # the sum of 1/n for 50 of them
        await bench.served()

    run(main())


def test_flood_of_one_client_does_not_delay_another() -> None:
    order: list[str] = []

    class Noted(Echo):
        def __init__(self, metadata: Metadata) -> None:
            super().__init__(metadata)
            order.append(dict(metadata)["x-client"])

    def asked(stream_id: int, client: str) -> bytes:
        return headers(stream_id, encode((*REQUEST, ("x-client", client)))) + data(stream_id, message(b"last"))

    async def main() -> None:
        bench = Bench(Noted)
        flood, other = bench.wire(), bench.wire()
        flood.bring(b"".join(asked(stream_id, "flood") for stream_id in range(1, 2001, 2)))
        other.bring(asked(1, "other"))
        await bench.served()
        assert len(order) == 1001
        assert order.index("other") == TURN

    run(main())


def test_sockets_are_read_between_slices() -> None:
    async def main() -> None:
        bench = Bench()
        wire = bench.wire()
        wire.bring(b"".join(request(stream_id, b"last", 0) for stream_id in range(1, 2001, 2)))
        await asyncio.sleep(0)
        assert len([each for each in wire.frames() if each.kind == Frame.DATA]) == SLICE

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


def test_of_clients_that_take_too_much_memory_the_largest_is_hung_up_on() -> None:
    async def main() -> None:
        bench = Bench(max_kept=100 * MESSAGE_COST)
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


def test_connections_beyond_the_limit_are_hung_up_on() -> None:
    async def main() -> None:
        async with serving(max_connections=1) as (server, port), grpcio(port) as channel:
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
