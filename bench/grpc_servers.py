"""The cost of an exchange for the gRPC server of the ext_proc service: by itself, and compared with grpc.aio's.

    python bench/grpc_servers.py [--short]

Both answer each message with the same bytes and end the stream, as the service does. The load is h2load's (Debian
package `nghttp2-client`).
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from harness import Cost, Report, Spread, arguments, cpu_seconds, interleaved, machine, publish

from rejoinder.extproc.exchange import Step
from rejoinder.extproc.frames import ACK, END_HEADERS, MAX_WINDOW, PREFACE, Frame, frame
from rejoinder.extproc.grpc import Server
from rejoinder.extproc.headers import encode
from rejoinder.extproc.http2 import Connection, Data

PATH: Final = "/package.Service/Method"
REQUEST: Final = bytes(300)
ANSWER: Final = bytes(150)
"""About the size of Envoy's message about a response, and of an answer."""
CONNECTIONS: Final = 4
STREAMS: Final = 32
"""At once, on each of the connections."""


async def _ours() -> int:
    answer = Step(ANSWER, True)
    return await Server({PATH: lambda: lambda _: answer}, max_wait=60).listen("127.0.0.1:0")


_KEPT: Final[list[grpc.aio.Server]] = []


async def _grpc_aio() -> int:
    async def answer(messages: AsyncIterator[bytes], context: Any) -> None:
        async for _ in messages:
            await context.write(ANSWER)
            return

    server = grpc.aio.server()
    service, method = PATH[1:].split("/")
    handler: Any = grpc.stream_stream_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _KEPT.append(server)
    return port


SERVERS: Final = {"this server": _ours, "grpc.aio": _grpc_aio}


async def _serve(name: str) -> None:
    print(await SERVERS[name](), flush=True)
    await asyncio.Event().wait()


async def _h2load(port: int, body: Path, requests: int) -> float:
    """Requests in a second.

    Raises:
        RuntimeError: some request failed; the text is what h2load says.
    """
    process = await asyncio.create_subprocess_exec(
        *("h2load", f"-n{requests}", f"-c{CONNECTIONS}", f"-m{STREAMS}", "-d", str(body)),
        *("-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{port}{PATH}"),
        stdout=asyncio.subprocess.PIPE,
    )
    text = (await process.communicate())[0].decode()
    rate = re.search(r"([\d.]+) req/s", text)
    if rate is None or f"{requests} succeeded" not in text:
        raise RuntimeError(f"h2load failed: {text}")
    return float(rate[1])


async def main(rounds: int, requests: int) -> None:
    processes = {
        name: await asyncio.create_subprocess_exec(sys.executable, __file__, "--serve", name, stdout=-1)
        for name in SERVERS
    }
    try:
        ports = {name: int(await process.stdout.readline()) for name, process in processes.items() if process.stdout}
        with tempfile.TemporaryDirectory() as folder:
            body = Path(folder, "message")
            body.write_bytes(b"\0" + len(REQUEST).to_bytes(4, "big") + REQUEST)

            async def measure(name: str) -> Cost:
                before = cpu_seconds(processes[name].pid)
                throughput = await _h2load(ports[name], body, requests)
                return Cost((cpu_seconds(processes[name].pid) - before) / requests * 1e6, throughput)

            for name in SERVERS:
                await measure(name)  # to warm up
            costs = await interleaved(list(SERVERS), rounds, measure)
    finally:
        for process in processes.values():
            process.kill()
            await process.wait()
    publish("grpc_servers", _report(costs, f"{rounds} interleaved rounds of {requests} exchanges"))


def _connection_alone(exchanges: int) -> float:
    """Microseconds of CPU for an exchange on the connection without I/O; thirty come at a time."""
    fields = {":method": "POST", ":scheme": "http", ":path": PATH, "content-type": "application/grpc"}
    block = encode(fields.items())
    body = b"\0" + len(REQUEST).to_bytes(4, "big") + REQUEST
    headers, answer, trailers = encode([(":status", "200")]), bytes(5) + ANSWER, encode([("grpc-status", "0")])
    connection = Connection()
    opening = (frame(Frame.SETTINGS, 0, 0, b""), frame(Frame.SETTINGS, ACK, 0, b""))
    window = frame(Frame.WINDOW_UPDATE, 0, 0, (MAX_WINDOW >> 1).to_bytes(4, "big"))
    connection.receive_data(PREFACE + b"".join(opening) + window)
    ids = range(1, 2 * exchanges, 2)
    asked = [frame(Frame.HEADERS, END_HEADERS, id_, block) + frame(Frame.DATA, 0, id_, body) for id_ in ids]
    reads = [b"".join(asked[start : start + 30]) for start in range(0, exchanges, 30)]
    began = time.process_time()
    for read in reads:
        for event in connection.receive_data(read):
            if isinstance(event, Data):
                connection.respond(event.stream_id, headers, answer, trailers)
        connection.data_to_send()
    return (time.process_time() - began) / exchanges * 1e6


def _report(costs: dict[str, tuple[Spread, Spread]], rounds: str) -> Report:
    base = costs["this server"]
    return Report(
        title="The gRPC server of the ext_proc service",
        text=(
            f"One message of {len(REQUEST)} bytes in, one of {len(ANSWER)} out, and the end of the stream. CPU of the "
            f"server's process for an exchange, and throughput, with this server = 1 ({base[0].median:.0f} us, "
            f"{base[1].median:.0f}/s). Medians (and ranges) of {rounds}, {CONNECTIONS} connections with {STREAMS} "
            f"streams each at once; the load takes its share of the {machine()['cores']} cores. The connection without "
            f"sockets and gRPC: {_connection_alone(20_000):.1f} us."
        ),
        columns=("", "CPU per exchange", "throughput"),
        rows=tuple(
            (name, str(cpu.over(base[0].median)), str(throughput.over(base[1].median)))
            for name, (cpu, throughput) in costs.items()
        ),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        asyncio.run(_serve(sys.argv[2]))
    else:
        short = arguments(__doc__, "a third of the exchanges, once").parse_args().short
        # A clock tick of the CPU time is a thousand exchanges.
        asyncio.run(main(1, 10_000) if short else main(3, 30_000))
