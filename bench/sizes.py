"""Sizes that do not multiply: many routes beside many domains, and one page for many routes.

    python bench/sizes.py [--short]

COUNT routes beside COUNT rules with a domain of their own each: what it takes from the file to the bytes that an Envoy
on an incremental ADS stream is sent, in a process of its own, as `compile.py` measures it. And one page of PAGE bytes
for ROUTES routes: what a real Envoy with the module receives from `rejoinder serve`, and the memory that it says it has
allocated, beside the same routes without the page.

(How soon an edit of one of very many rules is live, and in how many bytes, is in `reload.py`.)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from compile import Envoy, way
from harness import Goal, Report, Spread, arguments, publish
from reload import CONDITIONAL, RECEIVED, UNCONDITIONAL, failing_upstream, gateway
from reload_visitors import LISTENER, UNANSWERED, Connection

from rejoinder.rules.reload import Memory

COUNT: Final = 1_000
ROUTES: Final = 10_000
PAGE: Final = 100_000
"""Bytes."""
PATIENCE: Final = 60.0
"""Seconds until Envoy answers by the rules."""


# ---- domains beside routes


def domains(of: str, count: int) -> str:
    """A rule file with so many routes, and as many rules with a domain of their own each."""
    status = "enable_on_status: [5xx], " if of == CONDITIONAL else ""
    routes = (f"- {{name: r{n}, prefix: /app-{n}, upstream: up}}\n" for n in range(count))
    rules = (
        f"- {{name: shop-{n}, match: {{domains: [shop-{n}.example.com]}}, {status}body: closed {n}}}\n"
        for n in range(count)
    )
    return f"{_head(1)}routes:\n{''.join(routes)}rules:\n{''.join(rules)}"


def _head(upstream: int) -> str:
    return f"listen: {LISTENER}\nupstreams: {{up: http://127.0.0.1:{upstream}}}\n"


@dataclass(frozen=True, slots=True)
class Cold:
    """From the file to the bytes."""

    seconds: float
    size: int
    """Bytes."""
    memory: float
    """Of the process, in MB, at its highest."""


def cold(of: str, count: int) -> Cold:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rules.yaml")
        file.write_text(domains(of, count))
        gone = way(file, Memory(), Envoy().connect, gc.freeze)
        return Cold(gone.all, gone.size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


def measured(of: str, count: int) -> Cold:
    """`cold` in a process of its own."""
    command = [sys.executable, __file__, "--sample", of, str(count)]
    return Cold(**json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


# ---- one page for all routes


NO_PAGE: Final = "no page"
FOR_ALL: Final = "one rule with the page"
BY_NAME: Final = "one rule that names the routes"
EACH: Final = "a rule for each route"


def page(variant: str, routes: int, upstream: int, file: Path) -> str:
    """A rule file whose routes all lead to what fails; the page is in another file."""
    names = [f"r{number}" for number in range(routes)]
    made = (f"- {{name: {name}, prefix: {_prefix(number)}, upstream: up}}\n" for number, name in enumerate(names))
    scopes = {
        NO_PAGE: [],
        FOR_ALL: [""],
        BY_NAME: [f"routes: [{', '.join(names)}]"],
        EACH: [f"routes: [{name}]" for name in names],
    }
    rules = (
        f"- {{name: page-{number}, match: {{{scope}}}, enable_on_status: [503], body_file: {file}}}\n"
        for number, scope in enumerate(scopes[variant])
    )
    return f"{_head(upstream)}routes:\n{''.join(made)}rules:\n{''.join(rules)}"


def _prefix(number: int) -> str:
    return f"/503/app-{number}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What an Envoy has after its start, in bytes."""

    received: int
    memory: int
    """Allocated, as it says itself."""


async def loaded(variant: str, routes: int) -> Loaded:
    with tempfile.NamedTemporaryFile("wb", suffix=".html") as file:
        file.write(b"x" * PAGE)
        file.flush()
        async with failing_upstream() as behind:
            text = page(variant, routes, behind, Path(file.name))
            async with gateway(text) as (serve, envoy, port):
                await _answered(port, _prefix(routes - 1), UNANSWERED.body if variant == NO_PAGE else b"x" * PAGE)
                await serve.quiet()
                received = (await envoy.admin.stats(RECEIVED))[RECEIVED]
                memory = json.loads(await envoy.admin.get("/memory"))
                return Loaded(received, int(memory["allocated"]))


async def _answered(port: int, path: str, body: bytes) -> None:
    """Wait until this is what comes.

    Raises:
        TimeoutError: it does not.
    """
    async with asyncio.timeout(PATIENCE):
        with contextlib.closing(Connection(port)) as connection:
            while (await connection.ask(path)).body != body:
                await asyncio.sleep(0.1)


# ---- what is reported


def report(
    colds: Mapping[str, Sequence[Cold]], pages: Mapping[str, Sequence[Loaded]], count: int, routes: int
) -> Report:
    rows = []
    goals = []
    for of, processes in colds.items():
        seconds, memory = Spread.of([one.seconds for one in processes]), max(one.memory for one in processes)
        size = processes[0].size
        rows.append((f"{count:,}", f"{count:,} domains, {of}", str(seconds), f"{size:,}", f"{memory:.0f}"))
        goals += [
            Goal.at_most(f"{count:,} routes beside {count:,} domains, {of}: cold to the bytes", 2, seconds.median, "s"),
            Goal.at_most("... bytes", 1_500_000, size),
            Goal.at_most("... memory of the process", 200, memory, "MB"),
        ]
    received = {name: statistics.median(one.received for one in loads) for name, loads in pages.items()}
    memories = {name: Spread.of([one.memory / 1e6 for one in loads]) for name, loads in pages.items()}
    rows += [(f"{routes:,}", name, "", f"{received[name]:,.0f}", str(memory)) for name, memory in memories.items()]
    more = memories[FOR_ALL].median - memories[NO_PAGE].median
    goals += [
        Goal.at_most(
            f"{routes:,} routes and one page for all: bytes above the routes'",
            150_000,
            received[FOR_ALL] - received[NO_PAGE],
        ),
        Goal.at_most(
            "... Envoy's memory above that without the page",
            20,
            more,
            "MB",
        ),
    ]
    return Report(
        title="Sizes",
        text=(
            "Routes beside rules with a domain of their own each: seconds from the file to the bytes that an "
            "Envoy on an incremental ADS stream is sent, and the memory of that process at its highest. And a page of "
            f"{PAGE:,} bytes for what all routes lead to: what an Envoy with the module has received from `rejoinder "
            "serve` after its start, and the memory that it has allocated, as it says itself. Medians (and ranges) of "
            f"{len(next(iter(colds.values())))} starts."
        ),
        columns=("routes", "rules", "seconds", "bytes", "memory (MB)"),
        rows=tuple(rows),
        goals=tuple(goals),
    )


def main() -> None:
    parser = arguments(__doc__, "a tenth of it, once")
    parser.add_argument("--sample", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sample:
        of, count = options.sample
        print(json.dumps(asdict(cold(of, int(count)))))
        return
    count, routes, rounds = (COUNT // 10, ROUTES // 10, 1) if options.short else (COUNT, ROUTES, 2)
    colds: dict[str, list[Cold]] = {of: [] for of in (CONDITIONAL, UNCONDITIONAL)}
    pages: dict[str, list[Loaded]] = {variant: [] for variant in (NO_PAGE, FOR_ALL, BY_NAME, EACH)}
    for _ in range(rounds):
        for of, processes in colds.items():
            processes.append(measured(of, count))
        for variant, loads in pages.items():
            loads.append(asyncio.run(loaded(variant, routes)))
    publish("sizes", report(colds, pages, count, routes))


if __name__ == "__main__":
    main()
