"""The gRPC server: with real clients (grpcio, h2, h2load), and over a wire without a network or a clock."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import socket
import ssl
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import h2.config
import h2.connection
import h2.events
import pytest
from grpc_bench import PATH, Echo, grpcio, run, serving
from http2_bytes import REQUEST, message
from machine import SECONDS
from test_tls import certificate

from rejoinder.extproc.grpc import Server
from rejoinder.extproc.grpc_wire import MAX_MESSAGE

OK: Final = ("grpc-status", "0")


# With grpcio's client.


def test_stream_of_messages() -> None:
    async def main() -> None:
        async with serving() as (server, port), grpcio(port) as channel:
            stream = channel.stream_stream(PATH)()
            for said in (b"one", b"two", b"later", b"last"):
                await stream.write(said)
                assert await stream.read() == said
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
    (record,) = (line for line in caplog.records if line.name == "rejoinder.extproc")  # grpcio logs, too
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
        async with serving() as (server, port):
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
        with pytest.raises(OSError, match=rf"^cannot listen on {re.escape(address)}: "):
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
