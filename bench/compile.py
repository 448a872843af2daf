"""How long rules take from the file to the bytes that travel: at a start, and after an edit of one of them.

    python bench/compile.py [--short] [--rounds N]

Every measurement is a process of its own, so that nothing is remembered; importing the package is not counted. An edit
changes the body of one rule of all in one file; the same process has read the file before.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness import Plot, Report, Series, Spread, publish

from rejoinder.rules.load import load
from rejoinder.rules.model import Endpoint
from rejoinder.rules.reload import Memory
from rejoinder.xds.plan import plan
from rejoinder.xds.session import Response
from rejoinder.xds.snapshot import ROUTES
from rejoinder.xds.translate import Settings, translate
from rejoinder.xds.translate.encode import snapshot
from rejoinder.xds.wire import encode_delta_response

COUNTS: Final = (10, 100, 1_000, 10_000)
STAGES: Final = ("load", "plan", "translate", "encode")
EDITS: Final = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """Of one process. Times in seconds."""

    cold: dict[str, float]
    """By stage."""
    edits: list[dict[str, float]]
    memory: float
    """In MB, at its highest."""
    size: int
    """Bytes of the response with all routes."""


def rules(count: int, edit: int = 0) -> str:
    """A file of so many rules; one of them is different for each edit."""
    bodies = [f"body {number}" for number in range(count)]
    bodies[count // 2] = f"edit {edit}"
    return "rules:\n" + "".join(
        f"- name: mock-{n}\n  match: {{path: /path/{n}}}\n  headers: [X-Rule={n}]\n  body: {body}\n"
        for n, body in enumerate(bodies)
    )


def sample(count: int) -> Sample:
    with tempfile.TemporaryDirectory() as folder:
        file, memory = Path(folder, "rules.yaml"), Memory()
        file.write_text(rules(count))
        gc.disable()  # as at the start of `rejoinder serve`
        cold, size = compiled(file, memory)
        gc.freeze()
        gc.enable()
        edits = []
        for edit in range(1, EDITS + 1):
            file.write_text(rules(count, edit))
            edits.append(compiled(file, memory)[0])
        return Sample(cold, edits, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, size)


def compiled(file: Path, memory: Memory) -> tuple[dict[str, float], int]:
    """Go the whole way; how long each stage took, and the size of what travels."""
    times = [time.perf_counter()]
    ruleset = load([file], memory=memory, look_for_shadowed=False).ruleset  # as `serve`, which warns afterwards
    assert ruleset is not None
    times.append(time.perf_counter())
    planned = plan(ruleset)
    times.append(time.perf_counter())
    configuration = translate(ruleset, planned, Settings(Endpoint("127.0.0.1", 18001)))
    times.append(time.perf_counter())
    resources = snapshot(configuration).by_type[ROUTES].values()
    travels = encode_delta_response(Response(ROUTES, "1", "1", tuple(resources)))
    times.append(time.perf_counter())
    seconds = (after - before for before, after in itertools.pairwise(times))
    return dict(zip(STAGES, seconds, strict=True)), len(travels)


def measured(count: int) -> Sample:
    """`sample` in a process of its own."""
    command = [sys.executable, __file__, "--sample", str(count)]
    return Sample(**json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def report(samples: dict[int, list[Sample]], rounds: int) -> Report:
    def spread(count: int, stage: str) -> Spread:
        return Spread.of([each.cold[stage] for each in samples[count]])

    cold = {count: Spread.of([sum(each.cold.values()) for each in of]) for count, of in samples.items()}
    edit = {
        count: Spread.of([sum(edit.values()) for each in of for edit in each.edits]) for count, of in samples.items()
    }
    return Report(
        title="From a rule file to the bytes that travel",
        text=(
            f"Seconds, by the number of rules in one file; medians (and ranges) of {rounds} processes, and of {EDITS} "
            "edits of one rule in each. Memory is that of the whole process."
        ),
        columns=("rules", *STAGES, "all", "after an edit", "memory (MB)", "routes (bytes)"),
        rows=tuple(
            (
                f"{count:,}",
                *(str(spread(count, stage)) for stage in STAGES),
                str(cold[count]),
                str(edit[count]),
                f"{max(each.memory for each in of):.0f}",
                f"{of[0].size:,}",
            )
            for count, of in samples.items()
        ),
        plot=Plot(
            "From a rule file to the bytes that travel",
            "rules",
            "seconds",
            (Series("start", tuple(cold.items())), Series("edit of one rule", tuple(edit.items()))),
            logarithmic=True,
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="two small files, once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sample", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sample:
        made = sample(options.sample)
        print(json.dumps({name: getattr(made, name) for name in Sample.__slots__}))
        return
    rounds, counts = (1, COUNTS[:2]) if options.short else (options.rounds, COUNTS)
    samples: dict[int, list[Sample]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            samples[count].append(measured(count))
    publish("compile", report(samples, rounds))


if __name__ == "__main__":
    main()
