"""How soon Envoy answers by an edited rule, whether a request fails meanwhile, and how many bytes travel for it.

    python bench/reload.py [--short] [--rounds 3]

`rejoinder serve`, and an Envoy that starts with what `rejoinder bootstrap ads` prints: one worker thread, so that no
other one may still have the rules of before. The rules answer by themselves, or for a status: then a second Envoy, the
upstream, gives that, and the module in the first one the answer.

A steady load (RATE) asks for all rules at random, and every tenth time
for the edited one. Three edits of one rule, in turns, each at another place of the file: its body is changed, a rule is
added behind it, that rule is removed. From the save on, the edited path is asked for every POLL seconds, until the new
answer is there; from then on the old one is wrong. Every request of load and poll counts: one fails if it gets another
status or body than the file says, no answer, or one with which Envoy closes the connection, for which no edit of a rule
is a reason. At the end every path is asked for once, for edits that a later one has undone.

The bytes are what Envoy has received from the control plane, by its own statistics; so are the updates.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from envoys import UPSTREAM, UPSTREAM_BODY, upstream
from fleet import Serve, serving
from harness import Goal, Plot, Report, Series, Spread, publish

from rejoinder.envoy import EnvoyProcess, bootstrap, find, running
from rejoinder.envoy.module import library
from rejoinder.rules.names import XDS_CLUSTER

Case = tuple[str, int]
"""What the rules answer, and how many they are."""
UNCONDITIONAL, CONDITIONAL = "without a status", "for a status"
MOST: Final = 10_000
WANTED: Final = {UNCONDITIONAL: (0.35, 1_700), CONDITIONAL: (0.5, 65_536)}
"""Of that many: seconds, and bytes for one Envoy; without a status: what it was before there were decision programs."""
CASES: Final[tuple[Case, ...]] = (
    *((UNCONDITIONAL, count) for count in (10, 100, 1_000, MOST)),
    *((CONDITIONAL, count) for count in (10, MOST)),
)
SHORT: Final[tuple[Case, ...]] = ((UNCONDITIONAL, 10), (UNCONDITIONAL, 100), (CONDITIONAL, 10))
RATE: Final = 200
"""Requests in a second."""
CONNECTIONS: Final = 4
POLL: Final = 0.005
"""Seconds."""
PATIENCE: Final = 30.0
"""Seconds after which an edit is lost."""
SLOW: Final = 5.0
"""Seconds after which a request has failed."""

LISTENER: Final = "127.0.0.1:0"
RECEIVED: Final = f"cluster.{XDS_CLUSTER}.upstream_cx_rx_bytes_total"
UPDATES: Final = {
    "listeners": "listener_manager.lds.update_success",
    "clusters": "cluster_manager.cds.update_success",
}


# ---- what is asked, and what is the right answer


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    kept: bool = True
    """The connection stays open."""


NOT_FOUND: Final = Reply(404, b"")
UNANSWERED: Final = Reply(503, UPSTREAM_BODY.encode())
"""As the upstream gave it."""


@dataclass(frozen=True, slots=True)
class Change:
    """An edit."""

    path: str
    answer: Reply
    """Afterwards."""
    text: str
    """Of the whole file."""


class Mocks:
    """The rules of a file, and which answers are right.

    Args:
        upstream: where every request is forwarded to, to get a 503, which the rules are then about; None: the rules
            answer by themselves.
    """

    def __init__(self, count: int, upstream: int | None = None) -> None:
        self._upstream = upstream
        folder = "/page" if upstream is None else "/503/page"
        self._bodies = {f"{folder}/{number:05}": f"page {number}" for number in range(count)}
        self.paths = list(self._bodies)
        self.edited = self.paths[0]
        self._before: Reply | None = None
        """What is still right for the edited path."""

    def right(self, path: str) -> frozenset[Reply]:
        if path in self._bodies:
            now = Reply(200 if self._upstream is None else 503, self._bodies[path].encode())
        else:
            now = NOT_FOUND if self._upstream is None else UNANSWERED
        return frozenset({now, self._before} if self._before and path == self.edited else {now})

    def change_body(self, place: int, number: int) -> Change:
        path = self.paths[place]
        return self._changed(path, {**self._bodies, path: f"edit {number}"})

    def add(self, place: int, number: int) -> Change:
        entries = list(self._bodies.items())
        path = f"{self.paths[place]}-{number}"
        return self._changed(path, dict([*entries[: place + 1], (path, f"added {number}"), *entries[place + 1 :]]))

    def remove(self, place: int, _: int) -> Change:
        path = self.paths[place + 1]
        return self._changed(path, {other: body for other, body in self._bodies.items() if other != path})

    def settle(self) -> None:
        """The edit is live: from now on, only the new answer is right."""
        self._before = None

    def _changed(self, path: str, bodies: dict[str, str]) -> Change:
        (self._before,) = self.right(path)
        self._bodies, self.edited, self.paths = bodies, path, list(bodies)
        (answer,) = self.right(path) - {self._before}
        return Change(path, answer, self.text())

    def text(self) -> str:
        head, status = f"listen: {LISTENER}\n", ""
        if self._upstream is not None:
            head += f"upstreams: {{up: http://127.0.0.1:{self._upstream}}}\nroutes: [{{name: all, upstream: up}}]\n"
            status = "  enable_on_status: [503]\n"
        return f"{head}rules:\n" + "".join(
            f"- name: mock{path.replace('/', '-')}\n  match: {{path: {path}}}\n{status}  body: {body}\n"
            for path, body in self._bodies.items()
        )


EDITS: Final[dict[str, Callable[[Mocks, int, int], Change]]] = {
    "body changed": Mocks.change_body,
    "rule added": Mocks.add,
    "rule removed": Mocks.remove,
}
"""In this order: what is removed is what was added."""


class Connection:
    """HTTP/1.1, kept alive, one request at a time; made when it is needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str) -> Reply:
        """Get a path.

        Raises:
            OSError, EOFError: no answer, or not in time; the next request is made on a new connection.
        """
        try:
            async with asyncio.timeout(SLOW):
                reply = await self._ask(path)
        except (OSError, EOFError):
            self.close()
            raise
        if not reply.kept:
            self.close()
        return reply

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None

    async def _ask(self, path: str) -> Reply:
        if not self._streams:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(f"GET {path} HTTP/1.1\r\nhost: bench.test\r\n\r\n".encode())
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await reader.readexactly(int(headers["content-length"]))
        return Reply(int(first.split()[1]), body, headers.get("connection") != "close")


@dataclass(slots=True)
class Visitors:
    """Who asks, and whether the answers are right."""

    mocks: Mocks
    port: int
    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """By what was wrong."""

    async def ask(self, connection: Connection, path: str) -> Reply | None:
        """What is answered to one request; None: nothing."""
        self.requests += 1
        right = self.mocks.right(path)
        try:
            reply = await connection.ask(path)
        except (OSError, EOFError) as error:
            self.failures[type(error).__name__] += 1
            return None
        # (An edit may have begun, or its end been seen, while the answer was on its way.)
        if not reply.kept:
            self.failures["connection closed"] += 1
        elif reply not in right | self.mocks.right(path):
            self.failures[f"wrong answer, {reply.status}"] += 1
        return reply

    @contextlib.asynccontextmanager
    async def steadily(self) -> AsyncIterator[None]:
        """Ask, for as long as the block lasts."""
        tasks = [asyncio.ensure_future(self._steadily(number)) for number in range(CONNECTIONS)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):  # it would have asked nothing any more
                raise error

    async def _steadily(self, number: int) -> None:
        connection, choose, period = Connection(self.port), random.Random(number), CONNECTIONS / RATE
        due = time.monotonic() + number / RATE
        with contextlib.closing(connection):
            while True:
                await asyncio.sleep(due - time.monotonic())  # what is late is made up for
                due += period
                await self.ask(
                    connection, choose.choice(self.mocks.paths) if choose.random() < 0.9 else self.mocks.edited
                )

    async def until(self, path: str, answer: Reply) -> float:
        """When this is answered at last.

        Raises:
            TimeoutError: never.
        """
        with contextlib.closing(Connection(self.port)) as connection:
            async with asyncio.timeout(PATIENCE):
                while await self.ask(connection, path) != answer:
                    await asyncio.sleep(POLL)
                return time.monotonic()

    async def ask_for_all(self) -> None:
        with contextlib.closing(Connection(self.port)) as connection:
            for path in self.mocks.paths:
                await self.ask(connection, path)


# ---- what is measured


@dataclass(frozen=True, slots=True)
class Numbers:
    """What has been counted so far."""

    received: int
    """Bytes, by Envoy from the control plane."""
    updates: dict[str, int]
    """At Envoy, by what was updated."""
    requests: int
    failed: int


@dataclass(frozen=True, slots=True)
class Edit:
    """What became of one."""

    seconds: float
    """From the save to the new answer."""
    before: Numbers
    after: Numbers
    """When the control plane was done with it."""

    @property
    def received(self) -> int:
        return self.after.received - self.before.received

    @property
    def requests(self) -> int:
        return self.after.requests - self.before.requests

    @property
    def failed(self) -> int:
        return self.after.failed - self.before.failed


@dataclass(frozen=True, slots=True)
class Sample:
    """Of one file."""

    start: Numbers
    end: Numbers
    edits: dict[str, list[Edit]]
    failures: Counter[str]


@dataclass(frozen=True, slots=True)
class Site:
    serve: Serve
    envoy: EnvoyProcess
    visitors: Visitors

    async def edit(self, kind: str, place: int, number: int) -> Edit:
        before = await self.numbers()
        change = EDITS[kind](self.visitors.mocks, place, number)
        self.serve.save(change.text)
        saved = time.monotonic()
        try:
            answered = await self.visitors.until(change.path, change.answer)
        except TimeoutError:
            log = self.serve.file.with_name("log").read_text()
            raise RuntimeError(f"{kind}: lost after {PATIENCE:g} s; the control plane says:\n{log}") from None
        self.visitors.mocks.settle()
        await self.serve.quiet()
        return Edit(answered - saved, before, await self.numbers())

    async def numbers(self) -> Numbers:
        stats = await self.envoy.admin.stats("|".join((RECEIVED, *UPDATES.values())))
        updates = {what: stats[name] for what, name in UPDATES.items()}
        return Numbers(stats[RECEIVED], updates, self.visitors.requests, self.visitors.failures.total())


@contextlib.asynccontextmanager
async def gateway(text: str) -> AsyncIterator[tuple[Serve, EnvoyProcess, int]]:
    """`rejoinder serve` with one file, and an Envoy that has it all from there and uses the module; Envoy's port."""
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        serve = await stack.enter_async_context(serving(Path(folder), text, "--conditional", "module"))
        host, port = serve.address.split(":")
        config = bootstrap((host, int(port)), admin=("127.0.0.1", 0))
        binary = find().path
        environ = {**os.environ, **library.environment(library.find(binary))}
        envoy = await stack.enter_async_context(running(binary, config, concurrency=1, environ=environ))
        bound = await envoy.ready([LISTENER])
        yield serve, envoy, bound[LISTENER][0][1]


@contextlib.asynccontextmanager
async def failing_upstream() -> AsyncIterator[int]:
    """An Envoy that answers paths below /503 with that; its port."""
    async with running(find().path, upstream(), concurrency=1, log_level="error") as envoy:
        yield (await envoy.ready([UPSTREAM]))[UPSTREAM][0][1]


async def sample(of: str, count: int, rounds: int) -> Sample:
    async with contextlib.AsyncExitStack() as stack:
        behind = await stack.enter_async_context(failing_upstream()) if of == CONDITIONAL else None
        mocks = Mocks(count, behind)
        serve, envoy, port = await stack.enter_async_context(gateway(mocks.text()))
        last = mocks.paths[-1]
        (answer,) = mocks.right(last)
        await Visitors(mocks, port).until(last, answer)  # what comes before that is no failure
        site = Site(serve, envoy, Visitors(mocks, port))
        await serve.quiet()
        start = await site.numbers()
        edits: dict[str, list[Edit]] = {kind: [] for kind in EDITS}
        async with site.visitors.steadily():
            for number in range(1, rounds + 1):
                for kind, done in edits.items():
                    done.append(await site.edit(kind, count * number // (rounds + 1), number))
        await site.visitors.ask_for_all()
        return Sample(start, await site.numbers(), edits, site.visitors.failures)


def report(samples: dict[Case, Sample], rounds: int) -> Report:
    seconds = {
        (kind, case): Spread.of([edit.seconds for edit in edits])
        for case, each in samples.items()
        for kind, edits in each.edits.items()
    }
    return Report(
        title="An edit reaches an Envoy under load",
        text=(
            "One `rejoinder serve` and one Envoy with one worker; exact paths in one file, each with an answer of its "
            "own, or with one in place of the upstream's 503, which the module gives. Seconds from the save of an edit "
            f"of one rule until Envoy gives the new answer, asked for every {POLL * 1e3:g} ms; bytes that Envoy "
            "receives from the control plane for it, and at its start for everything. Medians (and ranges) of "
            f"{rounds} edits. Meanwhile {RATE} requests/s on {CONNECTIONS} connections ask for all rules. Failed is "
            "what gets another answer than the file's, none, or one that closes the connection."
        ),
        columns=("rules", "answer", "edit", "seconds", "bytes", "bytes at start", "requests", "failed"),
        rows=tuple(
            (
                f"{case[1]:,}",
                case[0],
                kind,
                str(seconds[kind, case]),
                f"{statistics.median(edit.received for edit in edits):,.0f}",
                f"{each.start.received:,}",
                f"{sum(edit.requests for edit in edits):,}",
                str(sum(edit.failed for edit in edits)),
            )
            for case, each in samples.items()
            for kind, edits in each.edits.items()
        ),
        plot=Plot(
            "From a save to the new answer",
            "rules",
            "seconds",
            tuple(
                Series(f"{kind}, {of}", tuple((case[1], seconds[kind, case]) for case in samples if case[0] == of))
                for of in (UNCONDITIONAL, CONDITIONAL)
                for kind in EDITS
            ),
            logarithmic=True,
        ),
        conclusion=conclusion(samples),
        goals=goals(samples, seconds),
    )


def goals(samples: dict[Case, Sample], seconds: dict[tuple[str, Case], Spread]) -> tuple[Goal, ...]:
    """Of the slowest kind of edit, and the one with the most bytes, of the most rules."""
    made = []
    for of, (most_seconds, most_bytes) in WANTED.items():
        case = (of, MOST)
        if case not in samples:
            continue
        slowest = max(seconds[kind, case].median for kind in EDITS)
        sent = max(statistics.median(edit.received for edit in edits) for edits in samples[case].edits.values())
        made += [
            Goal.at_most(f"an edit of one of {MOST:,} rules, answer {of}: live after", most_seconds, slowest, "s"),
            Goal.at_most("... bytes for one Envoy", most_bytes, sent),
        ]
    return tuple(made)


def conclusion(samples: dict[Case, Sample]) -> str:
    requests = sum(each.end.requests for each in samples.values())
    failures = sum((each.failures for each in samples.values()), Counter[str]())
    causes = f" ({'; '.join(f'{cause}: {times}' for cause, times in failures.items())})" if failures else ""
    edits = sum(len(edits) for each in samples.values() for edits in each.edits.values())
    updates = (
        f"its {what} {sum(each.end.updates[what] - each.start.updates[what] for each in samples.values())} times"
        for what in UPDATES
    )
    return (
        f"Of {requests:,} requests, with one for every path after the last edit, {failures.total()} failed{causes}. "
        f"The {edits} edits made Envoy update {' and '.join(updates)}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="few rules, once")
    parser.add_argument("--rounds", type=int, default=3, help="edits of each kind (default 3)")
    options = parser.parse_args()
    rounds, cases = (1, SHORT) if options.short else (options.rounds, CASES)
    publish("reload", report({case: asyncio.run(sample(*case, rounds)) for case in cases}, rounds))


if __name__ == "__main__":
    main()
