"""What the benchmarks share: a load, the CPU time that it costs a process, and medians of interleaved rounds.

Only ratios within one run mean anything; so everything that is compared is measured in turns, round after round. CPU
time is the operating system's accounting (/proc), which a noisy machine disturbs less than the clock.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import platform
import re
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(os.environ.get("BENCH_RESULTS", Path(__file__).parent / "results"))
"""Where results are kept; a run that is not about the numbers says where else."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a load did."""

    requests: int
    seconds: float

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
        return Spread(self.median / base, self.low / base, self.high / base)

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


async def wrk(port: int, path: str, *, seconds: float, connections: int = 32, headers: Mapping[str, str] = {}) -> Load:
    """Put a port of 127.0.0.1 under load with wrk (Debian package `wrk`), one thread.

    Raises:
        RuntimeError: some request failed; the text is what wrk says. (Statuses from 400 on are no failures.)
    """
    options = [f"-H{name}: {value}" for name, value in headers.items()]
    process = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", *options, f"http://127.0.0.1:{port}{path}"),
        stdout=asyncio.subprocess.PIPE,
    )
    text = (await process.communicate())[0].decode()
    found = re.search(r"(\d+) requests in ([\d.]+)s", text)
    if found is None or "Socket errors" in text:
        raise RuntimeError(f"wrk failed: {text}")
    return Load(int(found[1]), float(found[2]))


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used so far, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def interleaved(
    names: Sequence[str], rounds: int, measure: Callable[[str], Awaitable[Cost]]
) -> dict[str, tuple[Spread, Spread]]:
    """Measure each of these in turns; CPU and throughput by name."""
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            costs[name].append(await measure(name))
    return {
        name: (Spread.of([cost.cpu_us for cost in each]), Spread.of([cost.throughput for cost in each]))
        for name, each in costs.items()
    }


async def gateway_cost(pid: int, load: Awaitable[Load]) -> Cost:
    """What a load costs a process."""
    before = cpu_seconds(pid)
    done = await load
    return Cost((cpu_seconds(pid) - before) / done.requests * 1e6, done.throughput)


def machine() -> dict[str, Any]:
    """Where this runs, for beside the numbers."""
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
    """What stands on the x axis, and what was measured there."""


@dataclass(frozen=True, slots=True)
class Plot:
    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    logarithmic: bool = False
    """Both axes; else bars are drawn."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a benchmark has found out."""

    title: str
    text: str
    """What was measured and how, with the parameters."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    plot: Plot | None = None
    conclusion: str = ""


def publish(name: str, report: Report) -> None:
    """Print a report, and keep it as `results/NAME.json` for `run.py`."""
    print(f"{report.title}\n{report.text}\n")
    widths = [max(map(len, column)) for column in zip(report.columns, *report.rows, strict=True)]
    for row in (report.columns, *report.rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if report.conclusion:
        print(f"\n{report.conclusion}")
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"machine": machine(), **dataclasses.asdict(report)}, indent=2)
    (RESULTS / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
