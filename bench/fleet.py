"""How long an edit takes to reach a fleet of Envoys, and what the fleet costs the control plane.

    python bench/fleet.py [--short] [--clients 1000] [--rules 1000] [--rounds 5]

One `rejoinder serve`, and simulated Envoys in another process: each is a gRPC connection of its own that asks for
clusters, listeners and routes over one ADS stream and accepts what comes. Measured is, from the save of the rule file,
when each of them has the routes with the edit. Then the same beside troublemakers (TROUBLE for a hundred clients, of
each kind): they never read, leave in the middle and come back, or reject everything. At last all connections are closed
and made again at once. Both variants of the protocol. Memory and CPU time of the control plane are what Linux says.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import re
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc.aio
from envoy_data_plane.envoy.service.discovery import v3 as discovery
from harness import Report, Spread, cpu_seconds, publish

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
        return cpu_seconds(self.process.pid)

    def save(self, text: str) -> None:
        """Replace the rule file, as editors do."""
        draft = self.file.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(self.file)


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

    async def edit(self) -> Edit:
        """Save another generation of the rule file; what happens."""
        self.generation += 1
        self.arrivals.expect(self.generation)
        meter = Meter(self)
        self.serve.save(rules(self.count, self.generation))
        return await meter.read()


@dataclass(frozen=True, slots=True)
class Edit:
    """How a generation has reached the clients. Times in seconds."""

    arrived: int
    """How many clients got it."""
    median: float
    last: float
    cpu: float
    """CPU time of the control plane."""
    received: float
    """Bytes, for one client."""
    memory: float
    """Of the control plane afterwards, in MB."""


class Meter:
    """Measures from when it is made."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._cpu = fleet.serve.cpu()
        self._received = self._all_received()
        self._started = time.monotonic()

    async def read(self) -> Edit:
        """Wait until the generation has arrived everywhere."""
        times = await self._fleet.arrivals.times()
        await asyncio.sleep(0.5)  # for the answers, which cost CPU time too
        return Edit(
            len(times),
            statistics.median(times) - self._started,
            times[-1] - self._started,
            self._fleet.serve.cpu() - self._cpu,
            (self._all_received() - self._received) / len(self._fleet.clients),
            self._fleet.serve.memory() / 1e6,
        )

    def _all_received(self) -> int:
        return sum(client.received for client in self._fleet.clients)


async def measure(options: argparse.Namespace, variant: str) -> dict[str, list[Edit]]:
    """What happened in each situation; `connect` and `reconnect` have one entry."""
    with tempfile.TemporaryDirectory() as folder:
        async with serving(Path(folder), rules(options.rules, 0)) as serve:
            arrivals = Arrivals(options.clients)
            clients = [
                Client(serve.address, name, variant == "delta", functools.partial(arrivals.note, name))
                for name in (f"envoy-{number}" for number in range(options.clients))
            ]
            fleet = Fleet(serve, clients, arrivals, options.rules)
            result: dict[str, list[Edit]] = {}

            arrivals.expect(0)
            meter = Meter(fleet)
            running = await fleet.connect()
            result["connect"] = [await meter.read()]

            result["edit"] = [await fleet.edit() for _ in range(options.rounds)]

            trouble = [asyncio.ensure_future(each) for each in troublemakers(options.clients, serve.address, variant)]
            await asyncio.sleep(2)
            result["edit, beside troublemakers"] = [await fleet.edit() for _ in range(options.rounds)]
            await cancelled(trouble)

            await asyncio.gather(*(client.close() for client in clients))
            await cancelled(running)
            fleet.generation += 1
            arrivals.expect(fleet.generation)
            meter = Meter(fleet)
            serve.save(rules(options.rules, fleet.generation))
            running = await fleet.connect()
            result["edit while all reconnect"] = [await meter.read()]
            await asyncio.gather(*(client.close() for client in clients))
            await cancelled(running)
            return result


async def cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def troublemakers(clients: int, address: str, variant: str) -> list[Coroutine[Any, Any, None]]:
    def client(name: str) -> Client:
        return Client(address, name, variant == "delta", lambda _: None)

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

    count = max(1, clients * TROUBLE // 100)
    return [each(f"{each.__name__}-{n}") for each in (never_reads, leaves, rejects) for n in range(count)]


def report(results: dict[str, dict[str, list[Edit]]], options: argparse.Namespace) -> Report:
    rows = []
    for variant, situations in results.items():
        for situation, edits in situations.items():
            columns = ("median", "last", "cpu", "received", "memory")
            spreads = {name: Spread.of([getattr(edit, name) for edit in edits]) for name in columns}
            arrived = min(edit.arrived for edit in edits)
            rows.append(
                (
                    f"{variant}: {situation}",
                    f"{arrived} of {options.clients}",
                    *(str(spreads[name]) for name in ("median", "last", "cpu")),
                    f"{spreads['received'].median:,.0f}",
                    f"{spreads['memory'].high:.0f}",
                )
            )
    return Report(
        title="An edit reaches a fleet",
        text=(
            f"{options.clients} simulated Envoys on one `rejoinder serve` with {options.rules} rules in one file; "
            "seconds from the save of an edit of one rule until a client has the new routes, and CPU seconds of the "
            f"control plane. Medians (and ranges) of {options.rounds} edits. Troublemakers: for a hundred clients, "
            f"{TROUBLE} that never reads, {TROUBLE} that leaves and comes back all the time, {TROUBLE} that rejects "
            "everything. The clients run on the same machine and take their share of it."
        ),
        columns=("", "arrived", "median client", "last client", "CPU", "bytes per client", "memory (MB)"),
        rows=tuple(rows),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="few clients, once")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rules", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.short:
        options.clients, options.rules, options.rounds = 20, 20, 1
    # Each connection is a file descriptor on either side; the control plane inherits the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    results = {variant: asyncio.run(measure(options, variant)) for variant in ("delta", "sotw")}
    publish("fleet", report(results, options))


if __name__ == "__main__":
    main()
