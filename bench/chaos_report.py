"""The report of `chaos.py`."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Final

from chaos_faults import FAULTS
from chaos_site import GAP, Tally

from rejoinder.xds.translate import Placement

PAGE: Final = Path(__file__).parent.parent / "docs" / "reliability.md"


def rows(tallies: dict[Placement, Tally]) -> list[tuple[str, ...]]:
    def row(what: str, said: Callable[[Tally], str]) -> tuple[str, ...]:
        return (what, *map(said, tallies.values()))

    def counted(what: str, outcome: str) -> tuple[str, ...]:
        return row(what, lambda tally: f"{tally.outcomes[outcome]:,}")

    names = sorted({name for tally in tallies.values() for name in tally.faults}, key=list(FAULTS).index)
    return [
        ("", *(placement.value for placement in tallies)),
        ("---",) * (len(tallies) + 1),
        row("requests", lambda tally: f"{tally.requests:,}"),
        counted("... **wrong answers**", "wrong"),
        counted("... **failed, where Envoy was there**", "failed"),
        counted("... answered by one's routes and the other's filter, during an edit of both", "mixed"),
        counted("... not answered, Envoy killed", "not answered, Envoy killed"),
        counted("... answered as the rules say of a dead upstream", "answered, upstream killed"),
        counted("... passed, the service away", "passed"),
        row("longest time without an answer", lambda tally: f"{tally.longest_gap[False]:.2f} s"),
        row("... while Envoy or an upstream was away", lambda tally: f"{tally.longest_gap[True]:.2f} s"),
        row(f"times of more than {GAP:g} s without one, together", lambda tally: f"{tally.gaps[False]:.1f} s"),
        row("... while Envoy or an upstream was away", lambda tally: f"{tally.gaps[True]:.1f} s"),
        row("reloads", lambda tally: f"{tally.reloads:,}"),
        row("... from save to answer, median", lambda tally: f"{statistics.median(tally.seconds_to_live):.2f} s"),
        *(
            row(f"memory of {name}, before and after", lambda tally, name=name: memory_said(tally, name))  # type: ignore[misc]
            for name in ("serve", "workers", "Envoy")
        ),
        *(row(name, lambda tally, name=name: f"{tally.faults[name]}") for name in names),  # type: ignore[misc]
    ]


def memory_said(tally: Tally, name: str) -> str:
    return " / ".join(f"{sizes[name]:.0f}" for sizes in tally.memory) + " MB"


def is_good(tally: Tally) -> bool:
    return not (tally.outcomes["wrong"] or tally.outcomes["failed"])


def write(table: str) -> None:
    begin, end = "<!-- bench/chaos.py writes this report -->\n", "<!-- end of the report -->\n"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")
