"""How soon Envoy answers by an edited rule, whether a request fails meanwhile, and how many bytes are sent for it.

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

import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from envoys import UPSTREAM, upstream
from fleet import Serve, serving
from harness import Goal, Plot, Report, Series, Spread, arguments, publish
from reload_visitors import CONNECTIONS, EDITS, LISTENER, PATIENCE, POLL, RATE, Mocks, Visitors

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
RECEIVED: Final = f"cluster.{XDS_CLUSTER}.upstream_cx_rx_bytes_total"
UPDATES: Final = {
    "listeners": "listener_manager.lds.update_success",
    "clusters": "cluster_manager.cds.update_success",
}


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
    """The result of one edit."""

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
        await Visitors(mocks, port).until(last, answer)  # other answers before that are no failures
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
        for case, measured in samples.items()
        for kind, edits in measured.edits.items()
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
                f"{measured.start.received:,}",
                f"{sum(edit.requests for edit in edits):,}",
                str(sum(edit.failed for edit in edits)),
            )
            for case, measured in samples.items()
            for kind, edits in measured.edits.items()
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
    requests = sum(sample.end.requests for sample in samples.values())
    failures = sum((sample.failures for sample in samples.values()), Counter[str]())
    causes = f" ({'; '.join(f'{cause}: {times}' for cause, times in failures.items())})" if failures else ""
    edits = sum(len(edits) for sample in samples.values() for edits in sample.edits.values())
    updates = (
        f"its {what} {sum(sample.end.updates[what] - sample.start.updates[what] for sample in samples.values())} times"
        for what in UPDATES
    )
    return (
        f"Of {requests:,} requests, with one for every path after the last edit, {failures.total()} failed{causes}. "
        f"The {edits} edits made Envoy update {' and '.join(updates)}."
    )


def main() -> None:
    parser = arguments(__doc__, "few rules, once")
    parser.add_argument("--rounds", type=int, default=3, help="edits of each kind (default 3)")
    options = parser.parse_args()
    rounds, cases = (1, SHORT) if options.short else (options.rounds, CASES)
    publish("reload", report({case: asyncio.run(sample(*case, rounds)) for case in cases}, rounds))


if __name__ == "__main__":
    main()
