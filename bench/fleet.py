"""How long an edit takes to reach a fleet of Envoys, and its cost for the control plane.

    python bench/fleet.py [--short] [--rounds 3]
    python bench/fleet.py --only delta 10000 1000

One `rejoinder serve`, and simulated Envoys in another process: each has a gRPC connection of its own, asks for
everything over one ADS stream, as Envoy does (see `Client`), and accepts all responses. Measured is the time from the
save of the rule file until each of them has the edited rule: in its route configuration or, with incremental xDS and
many rules, in its virtual host. Then the same with troublemakers (TROUBLE for a hundred clients, of each kind): they
never read, leave in the middle and return, or reject everything. At the end all connections are closed and made again
at once. Memory and CPU time of the control plane are Linux's figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chaos_processes import free_ports
from fleet_envoy import Arrivals, Client
from harness import Report, Spread, arguments, cpu_seconds, publish

from rejoinder.cli.envoys import KEPT_BUILDS
from rejoinder.xds.translate.route_configurations import Layout, routes_name


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured in one go."""

    variant: str
    """One of VARIANTS."""
    rules: int
    clients: int

    @property
    def delta(self) -> bool:
        return self.variant == "delta"


VARIANTS: Final = {"delta": "incremental", "sotw": "state of the world"}

# State of the world sends all routes to every client after every edit, for 10,000 rules 1.6 MB: with a thousand
# clients, this process cannot receive that in a reasonable time. So the two variants are compared with fewer clients.
SETUPS: Final[tuple[Setup, ...]] = (
    Setup("delta", 100, 1_000),
    Setup("sotw", 100, 1_000),
    Setup("delta", 10_000, 1_000),
    Setup("delta", 10_000, 50),
    Setup("sotw", 10_000, 50),
)
SHORT: Final[tuple[Setup, ...]] = (Setup("delta", 20, 20), Setup("sotw", 20, 20), Setup("delta", 1_000, 20))
TROUBLE: Final = 1
"""Percent of the clients, for each kind of trouble."""
MANY_CLIENTS: Final = 1_000
"""From this number of clients on, their memory can be distinguished from other changes."""
EDIT: Final = "edit"
"""The situation that is nothing but that."""
QUIET: Final = 0.5
"""Seconds without work after which the control plane counts as idle."""


def rules(count: int, generation: int) -> str:
    """A rule file; the rule in the middle tells the generation."""
    bodies = [f"body-{number}" for number in range(count)]
    bodies[count // 2] = f"generation-{generation}-"
    lines = (f"- {{name: rule-{n}, match: {{path: /path/{n}}}, body: {body}}}\n" for n, body in enumerate(bodies))
    return "rules:\n" + "".join(lines)


# ---- the control plane


@dataclass(slots=True)
class Serve:
    """`rejoinder serve` as a process."""

    process: asyncio.subprocess.Process
    address: str
    file: Path

    def memory(self) -> int:
        """Resident memory in bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()

    def cpu(self) -> float:
        """Seconds so far."""
        return cpu_seconds(self.process.pid)

    def save(self, text: str) -> None:
        """Replace the rule file, as editors do."""
        draft = self.file.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(self.file)

    async def quiet(self) -> None:
        """Wait until it is idle: when rules are live, it still looks for hidden ones."""
        used = self.cpu()
        while True:
            await asyncio.sleep(QUIET)
            if (now := self.cpu()) - used < 0.02:  # the clock ticks every 0.01 s
                return
            used = now


@contextlib.asynccontextmanager
async def serving(folder: Path, text: str, *words: str) -> AsyncIterator[Serve]:
    file, (port, ext_proc) = folder / "rules.yaml", free_ports(2)
    file.write_text(text)
    command = [sys.executable, "-m", "rejoinder.cli", "serve", str(file)]
    command += ["--xds", f"127.0.0.1:{port}", "--ext-proc", f"127.0.0.1:{ext_proc}", *words]
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


@dataclass(slots=True)
class Fleet:
    serve: Serve
    clients: list[Client]
    arrivals: Arrivals
    rules: int
    """How many."""
    generation: int = 0
    idle: int = 0
    """Bytes of memory of the control plane without clients."""

    async def edit_without_clients(self) -> None:
        """Find out how much memory the control plane itself uses when it keeps as many generations as it may."""
        for _ in range(KEPT_BUILDS):
            self.save()
            await self.serve.quiet()
        self.idle = self.serve.memory()

    async def connect(self) -> list[asyncio.Task[None]]:
        await asyncio.gather(*(client.connect() for client in self.clients))
        return [asyncio.ensure_future(client.run()) for client in self.clients]

    async def edit(self) -> Edit:
        """Save another generation of the rule file, and measure."""
        meter = self.save()
        return await meter.read()

    def save(self) -> Meter:
        """Without waiting for anybody."""
        self.generation += 1
        text = rules(self.rules, self.generation)
        self.arrivals.expect(self.generation)
        meter = Meter(self)
        self.serve.save(text)
        return meter


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
    memory_per_client: float
    """The part of it that was not there without clients, in kB."""


class Meter:
    """Measures from its construction on."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._cpu = fleet.serve.cpu()
        self._received = self._all_received()
        self._started = time.monotonic()

    async def read(self) -> Edit:
        """Wait until the generation has arrived everywhere."""
        times = await self._fleet.arrivals.times()
        await asyncio.sleep(0.5)  # for the answers, which cost CPU time too
        clients, memory = len(self._fleet.clients), self._fleet.serve.memory()
        return Edit(
            arrived=len(times),
            median=statistics.median(times) - self._started,
            last=times[-1] - self._started,
            cpu=self._fleet.serve.cpu() - self._cpu,
            received=(self._all_received() - self._received) / clients,
            memory=memory / 1e6,
            memory_per_client=(memory - self._fleet.idle) / clients / 1e3,
        )

    def _all_received(self) -> int:
        return sum(client.received for client in self._fleet.clients)


async def measure(setup: Setup, rounds: int) -> dict[str, list[Edit]]:
    """The results of each situation; those of all clients at once have one entry."""
    with tempfile.TemporaryDirectory() as folder:
        async with serving(Path(folder), rules(setup.rules, 0)) as serve:
            arrivals = Arrivals(setup.clients)
            clients = [
                Client(serve.address, name, setup.delta, functools.partial(arrivals.note, name))
                for name in (f"envoy-{number}" for number in range(setup.clients))
            ]
            fleet = Fleet(serve, clients, arrivals, setup.rules)
            await fleet.edit_without_clients()
            result: dict[str, list[Edit]] = {}

            meter = Meter(fleet)
            running = await fleet.connect()
            result["connect"] = [await meter.read()]

            await serve.quiet()
            result[EDIT] = [await fleet.edit() for _ in range(rounds)]

            trouble = [asyncio.ensure_future(troublemaker) for troublemaker in troublemakers(setup, serve.address)]
            await asyncio.sleep(2)
            result["edit, beside troublemakers"] = [await fleet.edit() for _ in range(rounds)]
            await cancelled(trouble)

            await asyncio.gather(*(client.close() for client in clients))
            await cancelled(running)
            meter = fleet.save()
            running = await fleet.connect()
            result["edit while all reconnect"] = [await meter.read()]
            await asyncio.gather(*(client.close() for client in clients))
            await cancelled(running)
            return result


async def cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def troublemakers(setup: Setup, address: str) -> list[Coroutine[Any, Any, None]]:
    def client(name: str) -> Client:
        return Client(address, name, setup.delta, lambda _: None)

    async def never_reads(name: str) -> None:
        stuck = client(name)
        # It asks for all there may be, as it will never know.
        await stuck.connect(*(routes_name("", layout) for layout in (Layout.WHOLE, Layout.PATHS)))
        try:
            await asyncio.Event().wait()
        finally:
            await stuck.close()

    async def leaves(name: str) -> None:
        while True:
            hasty = client(name)
            await hasty.connect()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hasty.run(), 0.2)
            await hasty.close()

    async def rejects(name: str) -> None:
        picky = client(name)
        picky.on_generation = lambda _: picky.reject()  # from now on; what it has is fine
        await picky.connect()
        try:
            await picky.run()
        finally:
            await picky.close()

    count = max(1, setup.clients * TROUBLE // 100)
    return [behavior(f"{behavior.__name__}-{n}") for behavior in (never_reads, leaves, rejects) for n in range(count)]


def report(results: dict[Setup, dict[str, list[Edit]]], rounds: int) -> Report:
    rows = []
    for setup, situations in results.items():
        for situation, edits in situations.items():
            shares = situation == EDIT and setup.clients >= MANY_CLIENTS
            times = [Spread.of([getattr(edit, name) for edit in edits]) for name in ("median", "last", "cpu")]
            rows.append(
                (
                    f"{setup.rules:,}",
                    VARIANTS[setup.variant],
                    situation,
                    f"{min(edit.arrived for edit in edits):,} of {setup.clients:,}",
                    *map(str, times),
                    f"{statistics.median(edit.received for edit in edits):,.0f}",
                    f"{max(edit.memory for edit in edits):.0f}",
                    f"{statistics.median(edit.memory_per_client for edit in edits):.0f}" if shares else "",
                )
            )
    return Report(
        title="An edit reaches a fleet",
        text=(
            "Simulated Envoys on one `rejoinder serve` with so many rules in one file; seconds from the save of an "
            "edit of one rule until a client has it, CPU seconds of the control plane, and bytes of what it sends to "
            f"one client. Medians (and ranges) of {rounds} edits. Troublemakers: for a hundred clients, {TROUBLE} that "
            f"never reads, {TROUBLE} that leaves and comes back all the time, {TROUBLE} that rejects everything. The "
            "clients run on the same machine and take their share of it. Of many rules, Envoys on an incremental "
            "stream are sent the virtual hosts that have changed, those on a stream of the state of the world all "
            "routes: of that, the machine can only give to fewer. Memory: the control plane's, at its highest; per "
            "client: what of it was not there before they came. (Of fewer, it would drown in what comes and goes.)"
        ),
        columns=(
            "rules",
            "variant",
            "",
            "arrived",
            "median client",
            "last client",
            "CPU",
            "bytes per client",
            "memory (MB)",
            "per client (kB)",
        ),
        rows=tuple(rows),
    )


def main() -> None:
    parser = arguments(__doc__, "few clients, once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only", nargs=3, metavar=("VARIANT", "RULES", "CLIENTS"), help="one setup; variants: delta, sotw"
    )
    options = parser.parse_args()
    # Each connection is a file descriptor on either side; the control plane inherits the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rounds = 1 if options.short else options.rounds
    setups = SHORT if options.short else SETUPS
    if options.only:
        variant, count, clients = options.only
        setups = (Setup(variant, int(count), int(clients)),)
    publish("fleet", report({setup: asyncio.run(measure(setup, rounds)) for setup in setups}, rounds))


if __name__ == "__main__":
    main()
