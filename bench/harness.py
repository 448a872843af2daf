"""Shared by the benchmarks: a load, the CPU time that it costs a process, and medians of interleaved rounds.

Only ratios within one run mean anything; so everything that is compared is measured in turns, round after round. CPU
time is the operating system's accounting (/proc), which a noisy machine disturbs less than the clock.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import math
import os
import platform
import re
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

T = TypeVar("T")

RESULTS: Final = Path(__file__).parent / "results"
"""Where results are kept, of runs that are about the numbers."""


def arguments(description: str | None, short: str) -> argparse.ArgumentParser:
    """The options of every benchmark: `--short`, which `short` describes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help=f"{short}: to see that it works; no result is kept")
    return parser


@dataclass(frozen=True, slots=True)
class Load:
    """The results of a load."""

    requests: int
    seconds: float
    errors: int = 0
    """The number of requests that got a status from 400 on."""

    @property
    def throughput(self) -> float:
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one measurement."""

    cpu_us: float
    """CPU time of the gateway for one request, in microseconds."""
    throughput: float
    """Requests in a second."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Of several rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}-{self.high:.3g})"

    def over(self, base: float) -> Spread:
        """The same in relation to something."""
        return Spread(*(ratio(value, base) for value in (self.median, self.low, self.high)))

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    @classmethod
    def of_ratios(cls, values: Sequence[float], bases: Sequence[float]) -> Spread:
        """The ratios of values of the same round: effects on a whole round do not count."""
        return cls.of(list(map(ratio, values, bases)))


def ratio(value: float, base: float) -> float:
    """Below the resolution of the clock: any number of times."""
    return value / base if base else math.inf


async def wrk(port: int, path: str, *, seconds: float, connections: int = 32, headers: Mapping[str, str] = {}) -> Load:
    """Put a port of 127.0.0.1 under load with wrk (Debian package `wrk`), one thread.

    Raises:
        RuntimeError: some request failed; the text is what wrk says. (Statuses from 400 on are no failures; they are
            counted in `Load.errors`.)
    """
    options = [f"-H{name}: {value}" for name, value in headers.items()]
    process = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout=10s"),
        *(*options, f"http://127.0.0.1:{port}{path}"),
        stdout=asyncio.subprocess.PIPE,
    )
    text = (await process.communicate())[0].decode()
    counted = re.search(r"(\d+) requests in ([\d.]+)s", text)
    if counted is None or "Socket errors" in text:
        raise RuntimeError(f"wrk failed: {text}")
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return Load(int(counted[1]), float(counted[2]), int(errors[1]) if errors else 0)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used so far, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def in_turns(names: Sequence[str], rounds: int, measure: Callable[[str], Awaitable[T]]) -> dict[str, list[T]]:
    """Measure each of these, round after round; by name."""
    results: dict[str, list[T]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            results[name].append(await measure(name))
    return results


async def interleaved(
    names: Sequence[str], rounds: int, measure: Callable[[str], Awaitable[Cost]]
) -> dict[str, tuple[Spread, Spread]]:
    """Measure each of these in turns; CPU and throughput by name."""
    return {
        name: (Spread.of([cost.cpu_us for cost in costs]), Spread.of([cost.throughput for cost in costs]))
        for name, costs in (await in_turns(names, rounds, measure)).items()
    }


async def gateway_cost(pid: int, load: Awaitable[Load]) -> Cost:
    """What a load costs a process."""
    before = cpu_seconds(pid)
    done = await load
    return Cost(ratio(cpu_seconds(pid) - before, done.requests) * 1e6, done.throughput)


@contextlib.asynccontextmanager
async def script(name: str, *words: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run one of the scripts beside this one, for as long as the block lasts; the process, and its first line."""
    command = (sys.executable, str(Path(__file__).with_name(f"{name}.py")), *words)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process, (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


def machine() -> dict[str, Any]:
    """The machine, to be printed beside the numbers."""
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cores": os.cpu_count(),
        "cpu": model[1] if model else platform.machine(),
        "python": platform.python_version(),
    }


@dataclass(frozen=True, slots=True)
class Series:
    """A line, or a group of bars, of a plot."""

    name: str
    points: tuple[tuple[float | str, Spread], ...]
    """The values of the x axis, and the measured ones."""


@dataclass(frozen=True, slots=True)
class Plot:
    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    logarithmic: bool = False
    """Both axes; else bars are drawn."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A target for a figure."""

    what: str
    wanted: str
    measured: str
    reached: bool

    @classmethod
    def at_most(cls, what: str, wanted: float, measured: float, unit: str = "") -> Goal:
        return cls(what, f"<= {_said(wanted, unit)}", _said(measured, unit), measured <= wanted)

    @classmethod
    def at_least(cls, what: str, wanted: float, measured: float, unit: str = "") -> Goal:
        return cls(what, f">= {_said(wanted, unit)}", _said(measured, unit), measured >= wanted)


def _said(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"
    return f"{number}{'' if unit in ('', '%') else ' '}{unit}"


@dataclass(frozen=True, slots=True)
class Report:
    """The results of a benchmark."""

    title: str
    text: str
    """What was measured and how, with the parameters."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    plot: Plot | None = None
    conclusion: str = ""
    goals: tuple[Goal, ...] = ()


def publish(name: str, report: Report) -> None:
    """Print a report, and keep it as `results/NAME.json` for `run.py`, unless this is a run with `--short`."""
    print(f"{report.title}\n{report.text}\n")
    widths = [max(map(len, column)) for column in zip(report.columns, *report.rows, strict=True)]
    for row in (report.columns, *report.rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if report.conclusion:
        print(f"\n{report.conclusion}")
    for goal in report.goals:
        print(f"{'   ' if goal.reached else 'NOT'} {goal.what}: {goal.measured} (wanted {goal.wanted})")
    if "--short" in sys.argv:
        return
    text = json.dumps({"machine": machine(), **dataclasses.asdict(report)}, indent=2)
    (RESULTS / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
