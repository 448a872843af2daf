"""`rejoinder check`: say what is wrong with rule files, and what has become of each Kubernetes object."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rejoinder.cli import console
from rejoinder.cli.sources import loaded_from
from rejoinder.rules.files import SUFFIXES
from rejoinder.rules.problem import Problem, Severity
from rejoinder.rules.request import now

if TYPE_CHECKING:
    from rejoinder.rules.kubernetes import Status


def run(options: argparse.Namespace) -> int:
    if not options.each:
        return _check(options, options.sources)
    codes = [_check(options, [path], f"{path}: ") for source in options.sources for path in _apart(source)]
    return max(codes, default=1)


def _apart(source: Path) -> Iterator[Path]:
    """A file; or of a folder, each of its files, and each folder below it. The files of a folder below are one set."""
    ahead, seen = [source], set[str]()  # links may lead round in circles
    while ahead:
        path = ahead.pop()
        if not path.is_dir():
            yield path
        elif (real := os.path.realpath(path)) not in seen:
            seen.add(real)
            below = sorted((inner for inner in path.iterdir() if not inner.name.startswith(".")), reverse=True)
            files = {inner for inner in below if inner.suffix in SUFFIXES and not inner.is_dir()}
            if files and path != source:
                yield path
            ahead += (inner for inner in below if (inner in files and path == source) or inner.is_dir())


def _check(options: argparse.Namespace, sources: Sequence[Path], label: str = "") -> int:
    loaded = loaded_from(sources, options)
    problems = list(loaded.problems)
    if loaded.ruleset and any(answer.handler for rule in loaded.ruleset.rules for answer in rule.answers):
        from rejoinder.cli.handlers import folders_of, missing  # noqa: PLC0415 - few rule files have handlers

        problems += missing(loaded.ruleset.rules, folders_of(sources))
    bad = {Severity.ERROR, Severity.WARNING} if options.strict else {Severity.ERROR}
    good = not any(problem.severity in bad for problem in problems) and all(status.good for status in loaded.statuses)
    if options.format == "json":
        time = now()
        console.print_json([*map(_json, problems), *(status.to_json(time) for status in loaded.statuses)])
    else:
        console.print_problems(problems, console.out)
        for status in loaded.statuses:
            _print_status(status)
        if loaded.ruleset and good:
            ruleset = loaded.ruleset
            counts = (("upstream", ruleset.upstreams), ("route", ruleset.routes), ("rule", ruleset.rules))
            console.say(f"{label}fine: {', '.join(count(len(things), name) for name, things in counts)}", "green")
    return 0 if good else 1


def _print_status(status: Status) -> None:
    """What has become of an object: a line for it, and one for each condition."""
    console.out((status.object.title, "bold"), f" ({status.object.position})")
    for where, condition in status.said():
        about = f"{where}: " if where else ""
        place = f" ({condition.position})" if condition.position.line and not condition.good else ""
        console.out((f"  {about}{condition}{place}", "" if condition.good else "bold red"))


def count(number: int, name: str) -> str:
    """A number of things in words: `1 rule`, `2 rules`."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _json(problem: Problem) -> dict[str, str | int]:
    return {**problem.position._asdict(), "severity": problem.severity.value, "message": problem.message}
