"""The processes of one placement under load in `chaos.py`, and the check of their answers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import chaos_upstream
from chaos_processes import Clock, children, free_ports, memory, started
from chaos_requests import (
    SLOW,
    UNTOLD,
    Asked,
    Connection,
    Response,
    asked,
    conditional,
    mixed,
    random_request,
    right,
    unanswered,
)
from chaos_rules import MARKERS, Rules

from rejoinder import envoy
from rejoinder.envoy.module import library
from rejoinder.rules.answers import Reply
from rejoinder.rules.load import load
from rejoinder.rules.model import Ruleset
from rejoinder.xds.translate import Placement

RATE: Final = 100
"""Requests in a second, for each placement."""
CONNECTIONS: Final = 16
PATIENCE: Final = 60.0
"""Seconds after which an edit is lost, or a process does not come back."""
WORKERS: Final = 2
GAP: Final = 0.25
"""Seconds without an answer that are counted as time without answers."""


@dataclass(slots=True)
class Tally:
    requests: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    """Examples of forbidden outcomes."""
    reloads: int = 0
    seconds_to_live: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    longest_gap: dict[bool, float] = field(default_factory=lambda: {False: 0.0, True: 0.0})
    """Between two answers, in seconds; by whether Envoy or an upstream was away meanwhile."""
    gaps: dict[bool, float] = field(default_factory=lambda: {False: 0.0, True: 0.0})
    """The sum of those of more than GAP."""
    memory: list[dict[str, float]] = field(default_factory=list)


@dataclass(slots=True)
class Window:
    """A time in which certain outcomes are allowed."""

    kind: str
    begin: float
    end: float = float("inf")


ENVOY_KILLED, UPSTREAM_KILLED, SERVICE, STOPPED = "Envoy killed", "upstream killed", "service away", "stopped"


class Site:
    """One placement: `serve`, Envoy, upstreams, and the load."""

    def __init__(self, placement: Placement, folder: Path, disk: Path, seed: int) -> None:
        self.placement = placement
        self.chance = random.Random(f"{seed} {placement.value}")
        self.folder = folder
        self.disk = disk
        """The rule file, and the log of `serve`."""
        self.clock = Clock(folder)
        listen, xds, self.admin, a, b, self.ext_proc, *_ = free_ports(6 + WORKERS)
        self.listen, self.xds = listen, xds
        self.upstreams = {"a": a, "b": b}
        self.file = disk / "rules.yaml"
        self.rules = Rules(self.chance, listen, self.upstreams)
        self.tally = Tally()
        self.windows: list[Window] = []
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._sets: list[Ruleset] = []
        self._oldest = 0
        """The first of the sets that may be in force."""
        self._answered = time.monotonic()
        self._monitor = Connection(listen)

    # Processes.

    def start(self, name: str) -> None:
        environ: dict[str, str] = {}
        match name:
            case "serve":
                ports = {"--xds": self.xds, "--ext-proc": self.ext_proc, "--admin": self.admin}
                command = [sys.executable, "-m", "rejoinder.cli", "serve", str(self.file), "--workers", str(WORKERS)]
                command += [text for key, port in ports.items() for text in (key, f"127.0.0.1:{port}")]
                command += ["--conditional", self.placement.value]
            case "envoy":
                config = json.dumps(envoy.bootstrap(("127.0.0.1", self.xds), node_id=self.placement.value))
                command = [str(envoy.find().path), "--config-yaml", config, "--log-level", "error"]
                command += ["--disable-hot-restart", "--concurrency", "1", "--drain-time-s", "5"]
                environ = library.environment()
            case _:
                command = [sys.executable, chaos_upstream.__file__, name, str(self.upstreams[name])]
        log = (self.disk if name == "serve" else self.folder) / f"{name}.log"
        self.running[name] = started(command, log, {**environ, **self.clock.environ})

    async def end(self, name: str) -> None:
        """kill -9."""
        process = self.running.pop(name)
        process.kill()
        await asyncio.to_thread(process.wait)

    def workers(self) -> list[int]:
        return children(self.running["serve"].pid)

    def sizes(self) -> dict[str, float]:
        return {
            "serve": memory(self.running["serve"].pid),
            "workers": sum(map(memory, self.workers())),
            "Envoy": memory(self.running["envoy"].pid),
        }

    def said(self) -> str:
        """The ends of the logs, and which processes run."""
        logs = {**{name: self.folder / f"{name}.log" for name in self.running}, "serve": self.disk / "serve.log"}
        states = {name: process.poll() for name, process in self.running.items()}
        ends = (f"{name}: {log.read_text(errors='replace')[-2000:]}" for name, log in logs.items())
        return "\n".join([f"ended: {states}", *ends])

    # Rules.

    def know(self, text: str) -> bool:
        """A text will be written to the file, so its rules may be in force from now on; whether it has valid rules."""
        scratch = self.folder / "rules.yaml"
        scratch.write_text(text)
        loaded = load([scratch])
        if loaded.ruleset is not None:
            self._sets.append(loaded.ruleset)
        return loaded.ruleset is not None

    def save(self, text: str) -> None:
        assert self.know(text), text
        if self.chance.random() < 0.5:
            self.file.write_text(text)
        else:
            new = self.file.with_name("new")
            new.write_text(text)
            new.replace(self.file)

    async def live(self, since: float | None = None) -> None:
        """Wait until the last set is in force in all places that answer: then no other set is."""
        number, right_ones = str(self.rules.number).encode(), 0
        since = since or time.monotonic()
        async with asyncio.timeout(PATIENCE):
            # (Workers are asked in turn: every one is asked within this many requests.)
            while right_ones < 4 * WORKERS + len(MARKERS):
                target = MARKERS[min(right_ones, len(MARKERS) - 1)]
                try:
                    reply = await self._monitor.ask(asked("GET", "a.test", target, (("x-status", "418"),), 418))
                    right_ones = right_ones + 1 if reply.body == number else 0
                except (OSError, EOFError):
                    right_ones = 0
                await asyncio.sleep(0 if right_ones else 0.01)
        self._oldest = len(self._sets) - 1
        self.tally.reloads += 1
        self.tally.seconds_to_live.append(time.monotonic() - since)

    async def edit(self) -> None:
        since = time.monotonic()
        self.save(self.rules.edit())
        await self.live(since)

    async def problems(self) -> None:
        """Wait until `serve` has reported that the rules cannot be used."""
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(OSError, EOFError):
                    connection = Connection(self.admin)
                    reply = await connection.ask(asked("GET", "localhost", "/status", (), 200))
                    connection.close()
                    if json.loads(reply.body)["problems"]:
                        return
                await asyncio.sleep(0.02)

    # The load.

    def was(self, since: float, *kinds: str) -> bool:
        return any(window.kind in kinds and window.end >= since for window in self.windows)

    @contextlib.contextmanager
    def window(self, *kinds: str) -> Iterator[None]:
        """Allow outcomes for as long as the block lasts: end it when all answers are right again."""
        made = [Window(kind, time.monotonic()) for kind in kinds]
        self.windows += made
        try:
            yield
        finally:
            for window in made:
                window.end = time.monotonic()
            self.windows = [window for window in self.windows if window.end > time.monotonic() - 2 * SLOW]

    async def ask(self, connection: Connection, asked: Asked) -> None:
        self.tally.requests += 1
        begin, oldest = time.monotonic(), self._oldest
        try:
            response = await connection.ask(asked)
        except (OSError, EOFError) as error:
            outcome = "not answered, Envoy killed" if self.was(begin, ENVOY_KILLED) else "failed"
            self._note(outcome, f"{type(error).__name__} {error}", asked, begin)
            return
        outcome = self._judged(response, asked, begin, self._sets[oldest:])
        self._note(outcome, str(response), asked, begin)
        if outcome != "wrong":
            now, away = time.monotonic(), self.was(self._answered, ENVOY_KILLED, UPSTREAM_KILLED, STOPPED)
            gap, self._answered = now - self._answered, now
            self.tally.longest_gap[away] = max(self.tally.longest_gap[away], gap)
            self.tally.gaps[away] += gap if gap > GAP else 0

    def _judged(self, response: Response, asked: Asked, begin: float, sets: Sequence[Ruleset]) -> str:
        def is_one(wanted: Callable[..., list[Reply | int]], sets: Iterable[Ruleset], **options: Any) -> bool:
            replies = (reply for one in sets for reply in wanted(one, asked, **options))
            return any(response.is_(reply, asked.request.method) for reply in replies)

        down = self.was(begin, UPSTREAM_KILLED)
        if is_one(right, sets):
            return "answered"
        if down and is_one(right, sets, down=True):
            return "answered, upstream killed"
        pairs = list(itertools.permutations(sets, 2))
        mixtures = [mixed(*pair) for pair in pairs]
        late = [mixed(routes, of_rules) for routes, rules in pairs for of_rules in (rules, conditional(rules))]
        if is_one(right, mixtures, down=down):
            return "mixed"
        # One set's filter has not asked before the upstream, or sends too little, and the other set's rules answer.
        if self.placement is Placement.EXT_PROC and any(
            is_one(right, late, down=down, untold=untold) for untold in UNTOLD
        ):
            return "mixed"
        away = self.placement is Placement.EXT_PROC and self.was(begin, SERVICE)
        return "passed" if away and is_one(unanswered, [*sets, *mixtures], down=down) else "wrong"

    def _note(self, outcome: str, what: str, asked: Asked, begin: float) -> None:
        self.tally.outcomes[outcome] += 1
        if outcome in ("wrong", "failed") and len(self.tally.examples) < 20:
            request = asked.request
            sets = self._sets[self._oldest :]
            self.tally.examples.append(
                f"{self.placement.value} {time.monotonic() - begin:.3f} s, "
                f"last fault {self.last}: {outcome}: {request.method} {request.host}{request.target} "
                f"{request.headers}: {what[:400]}; wanted {[r for one in sets for r in right(one, asked)]}"
            )

    last = "none"

    async def load(self, number: int) -> None:
        connection, chance = Connection(self.listen), random.Random(number)
        period = CONNECTIONS / RATE
        due = time.monotonic() + number / RATE
        with contextlib.closing(connection):
            while True:
                await asyncio.sleep(due - time.monotonic())
                # Requests that are late by more than a second are skipped: the load is bounded.
                due = max(due + period, time.monotonic() - 1)
                await self.ask(connection, random_request(chance))
