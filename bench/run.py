"""Run all benchmarks, and write docs/performance.md from their results.

    python bench/run.py            all of it, about twelve minutes
    python bench/run.py --short    as CI does: to see that everything works, not to believe the numbers
    python bench/run.py --write    only write the page again, from bench/results/

Needs wrk and h2load (Debian packages `wrk` and `nghttp2-client`) and the package's extra `bench`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from harness import RESULTS, arguments

HERE: Final = Path(__file__).parent
DOCS: Final = HERE.parent / "docs"


# In the order of the page.
BENCHMARKS: Final = (
    "foreign",
    "placements",
    "answers",
    "outage",
    "program",
    "matching",
    "sizes",
    "compile",
    "reload",
    "fleet",
    "counting",
    "grpc_servers",
    "workers",
    "hostile",
    "commands",
)


def main() -> None:
    parser = arguments(__doc__, "each once")
    parser.add_argument("--write", action="store_true", help="only write the page again")
    options = parser.parse_args()
    for name in BENCHMARKS if not options.write else ():
        run(name, *(["--short"] if options.short else []))
    if not options.short:
        (DOCS / "performance.md").write_text(page(), encoding="utf-8")


def run(name: str, *words: str) -> None:
    """Run one of the scripts."""
    print(f"\n== {name}", flush=True)
    # (gRPC logs a line for every connection that the fleet loses on purpose.)
    environ = {**os.environ, "GRPC_VERBOSITY": "ERROR"}
    subprocess.run([sys.executable, str(HERE / f"{name}.py"), *words], check=True, env=environ)


def page() -> str:
    """The page, and beside it a picture for each result that has a plot."""
    results = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in BENCHMARKS}
    machine = next(iter(results.values()))["machine"]
    parts = [
        "# Performance\n",
        "Written by `python bench/run.py` from `bench/results/`; run it to get the figures of your machine. Only the "
        "ratios within one table mean anything.\n",
        f"Machine: {machine['cores']} cores, {machine['cpu']}, Python {machine['python']}, Envoy 1.40.\n",
        "## Wanted and measured\n\nThe medians of the tables below, beside what they are to reach.\n",
        table([["what", "wanted", "measured", "reached"], ["---"] * 4, *goals(results.values())]),
    ]
    for name, result in results.items():
        parts.append(f"## {result['title']}\n\n{result['text']} Again: `python bench/{name}.py`.\n")
        if result["plot"]:
            picture = f"performance/{name}.svg"
            draw(result["plot"], DOCS / picture)
            parts.append(f"![{result['plot']['title']}]({picture})\n")
        parts.append(table([result["columns"], ["---"] * len(result["columns"]), *result["rows"]]))
        if result["conclusion"]:
            parts.append(f"{result['conclusion']}\n")
    return "\n".join(parts)


def goals(results: Iterable[dict[str, Any]]) -> list[list[str]]:
    """The targets, as rows."""
    return [
        [goal["what"], goal["wanted"], goal["measured"], "yes" if goal["reached"] else "**no**"]
        for result in results
        for goal in result["goals"]
    ]


def table(rows: list[list[str]]) -> str:
    """Rows as Markdown."""
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def draw(plot: dict[str, Any], file: Path) -> None:
    """A plot as SVG."""
    import matplotlib as mpl  # noqa: PLC0415 - only to write the page, which CI does not
    import matplotlib.pyplot as plt  # noqa: PLC0415

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "rejoinder"  # the same numbers make the same file
    figure, axes = plt.subplots(figsize=(8, 4))
    for number, series in enumerate(plot["series"]):
        spreads = [spread for _, spread in series["points"]]
        medians = [spread["median"] for spread in spreads]
        errors = [
            [spread["median"] - spread["low"] for spread in spreads],
            [spread["high"] - spread["median"] for spread in spreads],
        ]
        if plot["logarithmic"]:
            places = [x for x, _ in series["points"]]
            axes.errorbar(places, medians, yerr=errors, marker="o", capsize=3, label=series["name"])
        else:
            width = 0.8 / len(plot["series"])
            places = [place + number * width for place in range(len(medians))]
            axes.bar(places, medians, width, yerr=errors, capsize=3, label=series["name"])
            middles = [place + 0.4 - width / 2 for place in range(len(medians))]
            axes.set_xticks(middles, [str(x) for x, _ in series["points"]], rotation=20, ha="right")
    if plot["logarithmic"]:
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set(title=plot["title"], xlabel=plot["x"], ylabel=plot["y"])
    axes.legend()
    figure.tight_layout()
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
