"""How long the short commands take, compared with a Python that does nothing.

    python bench/commands.py [--short]

That Python is the one of the present environment. If Rejoinder is installed in editable mode (`pip install -e`), Python
takes twice as long to start, because of the finder of the package: the ratios are then half of those elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from harness import Goal, Report, Spread, arguments, in_turns, publish

EXAMPLES: Final = Path(__file__).parents[1] / "examples"
NOTHING: Final = "python -c pass"
COMMANDS: Final = {
    "rejoinder --help": ("--help",),
    "rejoinder check quickstart.yaml": ("check", str(EXAMPLES / "quickstart.yaml")),
    "rejoinder check kgateway": ("check", str(EXAMPLES / "kgateway")),
}
WANTED: Final = {"rejoinder --help": 2.5, "rejoinder check quickstart.yaml": 5.0}

# Bytecode is kept, as for users; some test environments switch that off.
_ENVIRON: Final = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


async def seconds(name: str) -> float:
    words = ("-m", "rejoinder.cli", *COMMANDS[name]) if name in COMMANDS else ("-c", "pass")
    before = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=_ENVIRON)
    return time.perf_counter() - before


async def main(rounds: int = 20) -> None:
    names = (NOTHING, *COMMANDS)
    await in_turns(names, 1, seconds)  # compiles the bytecode
    times = await in_turns(names, rounds, seconds)
    ratios = {name: Spread.of_ratios(times[name], times[NOTHING]) for name in COMMANDS}
    nothing = Spread.of(times[NOTHING]).median * 1e3
    publish(
        "commands",
        Report(
            title="Short commands",
            text=f"With `{NOTHING}` = 1 ({nothing:.0f} ms). Medians (and ranges) of {rounds} interleaved rounds.",
            columns=("", "time"),
            rows=tuple((f"`{name}`", str(ratio)) for name, ratio in ratios.items()),
            goals=tuple(
                Goal.at_most(f"`{name}`, against `{NOTHING}`", wanted, ratios[name].median)
                for name, wanted in WANTED.items()
            ),
        ),
    )


if __name__ == "__main__":
    asyncio.run(main(1) if arguments(__doc__, "once").parse_args().short else main())
