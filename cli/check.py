"""`rejoinder check`: say what is wrong with rule files."""

from __future__ import annotations

import argparse

from rejoinder.cli import console
from rejoinder.rules.load import load
from rejoinder.rules.problem import Problem, Severity
from rejoinder.xds.plan import PlanError, plan


def run(options: argparse.Namespace) -> int:
    loaded = load(options.sources, upstreams=dict(options.upstream))
    problems = list(loaded.problems)
    if loaded.ruleset:
        try:
            plan(loaded.ruleset)
        except PlanError as error:
            problems.append(error.problem)
    errors = sum(problem.severity is Severity.ERROR for problem in problems)
    if options.format == "json":
        console.print_json([_json(problem) for problem in problems])
    else:
        console.print_problems(problems, console.out)
        if loaded.ruleset and not errors:
            ruleset = loaded.ruleset
            counts = (("upstream", ruleset.upstreams), ("route", ruleset.routes), ("rule", ruleset.rules))
            console.say(f"fine: {', '.join(count(len(things), name) for name, things in counts)}", "green")
    return 1 if errors else 0


def count(number: int, name: str) -> str:
    """A number of things in words: `1 rule`, `2 rules`."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _json(problem: Problem) -> dict[str, str | int]:
    return {
        "file": problem.position.file,
        "line": problem.position.line,
        "severity": problem.severity.value,
        "message": problem.message,
    }
