"""How long an edit takes to reach a fleet of Envoys, and what the fleet costs the control plane.

    python bench/fleet.py [--clients 1000] [--rules 1000] [--variant delta|sotw] [--rounds 5] [--json FILE]

One `rejoinder serve`, and simulated Envoys in another process: each is a gRPC connection of its own that asks for
clusters, listeners and routes over one ADS stream and accepts what comes. Measured is, from the save of the rule file,
when each of them has the routes with the edit. Then the same beside troublemakers (TROUBLE of a hundred clients of each
kind): they never read, leave in the middle and come back, or reject everything. At last all connections are closed at
once and made again. Nothing but the package and its dependencies is needed; memory and CPU time of the control plane are
those that Linux tells (/proc).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc.aio
from envoy_data_plane.envoy.service.discovery import v3 as discovery

from rejoinder.xds.protobuf import message_class
from rejoinder.xds.server import ADS
from rejoinder.xds.snapshot import CLUSTERS, LISTENERS, ROUTES, ResourceType

TROUBLE: Final = 1
"""Percent of the clients, for each kind of trouble."""
PATIENCE: Final = 60.0
"""Seconds after which a round is given up."""
MARKER: Final = re.compile(rb"generation-([0-9]+)-")


def rules(count: int, generation: int) -> str:
    """A rule file; one rule in it tells the generation."""
    lines = ["rules:"]
    lines += [f"- {{name: rule-{n}, match: {{path: /path/{n}}}, body: body-{n}}}" for n in range(count - 1)]
    lines += [f"- {{name: marker, match: {{path: /marker}}, body: generation-{generation}-}}"]
    return "\n".join(lines) + "\n"


# ---- a simulated Envoy


@dataclass(slots=True)
class Client:
    """One connection and one stream."""

    address: str
    name: str
    delta: bool
    on_generation: Callable[[int], None]
    error: str | None = None
    """What it answers to every change; None: it accepts."""
    received: int = 0
    """Bytes."""
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    """What it has, by type URL and name."""
    channel: Any = None
    stream: Any = None

    async def connect(self) -> None:
        """Connect, and ask for everything."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        self.channel = grpc.aio.insecure_channel(self.address, options=options)
        method = "DeltaAggregatedResources" if self.delta else "StreamAggregatedResources"
        self.stream = self.channel.stream_stream(f"/{ADS}/{method}")()
        for kind in (CLUSTERS, LISTENERS, ROUTES):
            await self.stream.write(self._first_request(kind))

    async def run(self) -> None:
        """Answer until the stream ends."""
        with contextlib.suppress(grpc.RpcError, asyncio.CancelledError):
            while (data := await self.stream.read()) is not grpc.aio.EOF:
                self.received += len(data)
                message = (DELTA_RESPONSE if self.delta else RESPONSE).FromString(data)
                if self.delta:
                    has = self.versions.setdefault(message.type_url, {})
                    has.update((each.name, each.version) for each in message.resources)
                await self.stream.write(self._answer(message))
                if message.type_url == ROUTES.url and (found := MARKER.search(data)):
                    self.on_generation(int(found[1]))

    async def close(self) -> None:
        if self.stream is not None:
            self.stream.cancel()
            await self.channel.close()

    def _first_request(self, kind: ResourceType) -> bytes:
        names = ["rejoinder"] if kind is ROUTES else []
        node = {"id": self.name}
        if self.delta:
            request = DELTA_REQUEST(type_url=kind.url, resource_names_subscribe=names, node=node)
            request.initial_resource_versions.update(self.versions.get(kind.url, {}))
        else:
            request = REQUEST(type_url=kind.url, resource_names=names, node=node)
        encoded: bytes = request.SerializeToString()
        return encoded

    def _answer(self, message: Any) -> bytes:
        if self.delta:
            request = DELTA_REQUEST(type_url=message.type_url, response_nonce=message.nonce)
        else:
            request = REQUEST(type_url=message.type_url, response_nonce=message.nonce)
            request.version_info = message.version_info
            request.resource_names.extend(["rejoinder"] if message.type_url == ROUTES.url else [])
        if self.error:
            request.error_detail.message = self.error
        encoded: bytes = request.SerializeToString()
        return encoded


REQUEST = message_class(discovery.DiscoveryRequest)
RESPONSE = message_class(discovery.DiscoveryResponse)
DELTA_REQUEST = message_class(discovery.DeltaDiscoveryRequest)
DELTA_RESPONSE = message_class(discovery.DeltaDiscoveryResponse)


# ---- the control plane


@dataclass(slots=True)
class Serve:
    """`rejoinder serve` as a process."""

    process: asyncio.subprocess.Process
    address: str
    file: Path

    def memory(self) -> int:
        """In bytes, what of it is in RAM."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()

    def cpu(self) -> float:
        """Seconds so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def save(self, text: str) -> float:
        """Replace the rule file, as editors do; the time at which that was done."""
        draft = self.file.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(self.file)
        return time.monotonic()


@contextlib.asynccontextmanager
async def serving(folder: Path, text: str) -> AsyncIterator[Serve]:
    file, port = folder / "rules.yaml", free_port()
    file.write_text(text)
    command = [sys.executable, "-m", "rejoinder.cli", "serve", str(file)]
    command += ["--xds", f"127.0.0.1:{port}", "--ext-proc", f"127.0.0.1:{free_port()}"]
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        try:
            while process.returncode is None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                await asyncio.sleep(0.1)
            yield Serve(process, f"127.0.0.1:{port}", file)
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# ---- what is measured


class Arrivals:
    """When which client got a generation."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._generation = 0
        self._times: dict[str, float] = {}
        self._all = asyncio.Event()

    def expect(self, generation: int) -> None:
        self._generation = generation
        self._times.clear()
        self._all.clear()

    def note(self, name: str, generation: int) -> None:
        if generation == self._generation:
            self._times.setdefault(name, time.monotonic())
            if len(self._times) == self._wanted:
                self._all.set()

    async def times(self) -> list[float]:
        """When each of them had it, in order; those that never got it are missing."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all.wait(), PATIENCE)
        return sorted(self._times.values())


@dataclass(slots=True)
class Fleet:
    serve: Serve
    clients: list[Client]
    arrivals: Arrivals
    count: int
    """How many rules."""
    generation: int = 0

    async def connect(self) -> list[asyncio.Task[None]]:
        await asyncio.gather(*(client.connect() for client in self.clients))
        return [asyncio.ensure_future(client.run()) for client in self.clients]

    async def edit(self) -> dict[str, Any]:
        """Save another generation of the rule file; what happens."""
        self.generation += 1
        self.arrivals.expect(self.generation)
        cpu, received = self.serve.cpu(), sum(client.received for client in self.clients)
        saved = self.serve.save(rules(self.count, self.generation))
        times = await self.arrivals.times()
        await asyncio.sleep(0.5)  # for the answers, which cost CPU time too
        return {
            "arrived": len(times),
            "first_s": round(times[0] - saved, 3),
            "median_s": round(statistics.median(times) - saved, 3),
            "last_s": round(times[-1] - saved, 3),
            "cpu_s": round(self.serve.cpu() - cpu, 2),
            "bytes_per_client": (sum(client.received for client in self.clients) - received) // len(self.clients),
        }


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    delta = options.variant == "delta"
    with tempfile.TemporaryDirectory() as folder:
        async with serving(Path(folder), rules(options.rules, 0)) as serve:
            arrivals = Arrivals(options.clients)
            fleet = Fleet(serve, [], arrivals, options.rules)
            for number in range(options.clients):
                name = f"envoy-{number}"
                fleet.clients.append(
                    Client(serve.address, name, delta, lambda generation, name=name: arrivals.note(name, generation))
                )
            result: dict[str, Any] = {"memory_idle_mb": round(serve.memory() / 1e6, 1)}
            memory, cpu, started = serve.memory(), serve.cpu(), time.monotonic()
            running = await fleet.connect()
            times = await arrivals.times()
            result["connect"] = {
                "arrived": len(times),
                "last_s": round(times[-1] - started, 3),
                "cpu_s": round(serve.cpu() - cpu, 2),
                "memory_per_client_kb": round((serve.memory() - memory) / options.clients / 1e3, 1),
            }
            result["edits"] = [await fleet.edit() for _ in range(options.rounds)]
            result["memory_mb"] = round(serve.memory() / 1e6, 1)

            trouble = [asyncio.ensure_future(each) for each in troublemakers(options, serve.address, delta)]
            await asyncio.sleep(2)
            result["edits_beside_trouble"] = [await fleet.edit() for _ in range(options.rounds)]
            await cancelled(trouble)

            await asyncio.gather(*(client.close() for client in fleet.clients))
            await cancelled(running)
            received = sum(client.received for client in fleet.clients)
            cpu = serve.cpu()
            running = await fleet.connect()
            result["after_reconnect_of_all"] = await fleet.edit()
            result["after_reconnect_of_all"]["cpu_s"] = round(serve.cpu() - cpu, 2)
            result["after_reconnect_of_all"]["bytes_per_client"] = (
                sum(client.received for client in fleet.clients) - received
            ) // len(fleet.clients)
            await asyncio.gather(*(client.close() for client in fleet.clients))
            await cancelled(running)
            return result


async def cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def troublemakers(options: argparse.Namespace, address: str, delta: bool) -> list[Any]:
    def client(name: str, error: str | None = None) -> Client:
        return Client(address, name, delta, lambda _: None, error)

    async def never_reads(name: str) -> None:
        stuck = client(name)
        await stuck.connect()
        try:
            await asyncio.Event().wait()
        finally:
            await stuck.close()

    async def leaves(name: str) -> None:
        while True:
            hasty = client(name)
            await hasty.connect()
            await asyncio.sleep(0.2)
            await hasty.close()

    async def rejects(name: str) -> None:
        picky = client(name)
        await picky.connect()
        running = asyncio.ensure_future(picky.run())
        try:
            await asyncio.sleep(1)
            picky.error = "no"  # from now on; what it has is fine
            await running
        finally:
            await picky.close()

    count = max(1, options.clients * TROUBLE // 100)
    return [each(f"{each.__name__}-{n}") for each in (never_reads, leaves, rejects) for n in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rules", type=int, default=1000)
    parser.add_argument("--variant", choices=("delta", "sotw"), default="delta")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the result; by default it is only printed")
    options = parser.parse_args()
    # Each connection is a file descriptor on either side; the control plane inherits the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    parameters = {name: getattr(options, name) for name in ("clients", "rules", "variant", "rounds")}
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    result = {"parameters": parameters, "machine": machine, **asyncio.run(measure(options))}
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
