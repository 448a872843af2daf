"""How things are printed: colours and tables where the output is a terminal, plain lines where it is not.

What a command was asked for goes to standard output, everything else (problems, progress) to standard error. For
`serve` and `up`, which call `start_log`, the latter is a log: `say` is the door to it, beside `logging`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

import yaml

from rejoinder.rules.model import Ruleset
from rejoinder.rules.problem import Problem, Severity

Part: TypeAlias = str | tuple[str, str]
"""A part of a line: a text, or a text and its style."""

_STYLES: Final = {"bold": "1", "bold red": "1;31", "dim": "2", "green": "32", "yellow": "33"}
"""By name: https://en.wikipedia.org/wiki/ANSI_escape_code#Select_Graphic_Rendition_parameters"""
_SEVERITIES: Final = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}

_LEVELS: Final = {"bold red": "error", "yellow": "warning"}
"""By style; else `info`."""

_dated = False
"""Lines have time and level: see `start_log`."""

_GONE: Final = (OSError, ValueError, AttributeError)
"""The exceptions of a stream that is broken, closed, or None."""


def out(*parts: Part) -> None:
    """A line of a command's result."""
    _print("stdout", parts)


def err(*parts: Part) -> None:
    """A line about what is going on. A closed pipe or a full disk does not end the process."""
    with contextlib.suppress(*_GONE):
        _print("stderr", parts)


def _print(name: str, parts: Iterable[Part]) -> None:
    stream = getattr(sys, name)  # looked up each time: a broken pipe replaces it at the end
    coloured = stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
    print("".join(_text(part, coloured) for part in parts), file=stream, flush=True)


def _text(part: Part, coloured: bool) -> str:
    text, style = (part, "") if isinstance(part, str) else part
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if coloured and style else text


def start_log(log_format: str | None, level: int, message: str) -> None:
    """From now on, what is said and logged becomes lines of a log.

    Args:
        log_format: of `--log-format`; None: as $REJOINDER_LOG_FORMAT says.
        level: what is logged below it is not written.
        message: what of a record of `logging` stands in a line of text.
    """
    from rejoinder.rules import log  # noqa: PLC0415 - other commands have no log

    global _dated  # noqa: PLW0603 - as `logging` itself has it: a process has one log
    if log_format:
        os.environ[log.VARIABLE] = log_format
    _dated = log.start(level, message)


def say(text: str, style: str = "", *, event: str = "note", **fields: Any) -> None:
    """A line about what is going on; `event` and `fields` as for `log.line`."""
    _tell(err, _LEVELS.get(style, "info"), event, fields, (text, style))


def announce(text: str, *, event: str, **fields: Any) -> None:
    """A line on standard output, for a command that goes on even if nobody reads it."""
    with contextlib.suppress(*_GONE):
        _tell(out, "info", event, fields, text)


def fail(text: str) -> int:
    """A line about why the command cannot go on; returns its exit code."""
    _tell(err, "error", "failed", {}, ("rejoinder: ", "bold red"), text)
    return 1


def print_problems(problems: Iterable[Problem], line: Callable[..., None] = err) -> None:
    """One line each: where, which severity, what."""
    for problem in problems:
        style, severity = _SEVERITIES[problem.severity], problem.severity.value
        level = _LEVELS.get(style, "info")
        said = "" if _dated and severity == level else f"{severity}: "  # the line begins with it
        parts = (f"{problem.position}: ", "bold"), (said, style), problem.message
        fields = {**problem.position._asdict(), "severity": severity}
        _tell(line, level, "problem", fields, *parts, message=problem.message)


def _tell(
    line: Callable[..., None], level: str, event: str, fields: Mapping[str, Any], *parts: Part, message: str = ""
) -> None:
    if not _dated:
        line(*parts)
        return
    from rejoinder.rules import log  # noqa: PLC0415 - as in `start_log`

    text = "".join(part if isinstance(part, str) else part[0] for part in parts)
    if log.as_json():
        line(log.line(level, event, message or text, fields))
    elif line is err:
        line(log.line(level, event, text, fields))
    else:
        line(*parts)


def print_json(value: Any) -> None:
    out(json.dumps(value, indent=2, ensure_ascii=False))


class _BlockDumper(yaml.CSafeDumper):
    """YAML as people write it: long texts as blocks, no anchors. In C: it may be megabytes."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the base class's
        return True


def _block(dumper: yaml.CSafeDumper, value: str) -> yaml.Node:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)


_BlockDumper.add_representer(str, _block)
_BlockDumper.add_multi_representer(dict, yaml.CSafeDumper.represent_dict)


def print_yaml(value: Any) -> None:
    yaml.dump(value, sys.stdout, Dumper=_BlockDumper, sort_keys=False, allow_unicode=True, width=120)


def warn_of_echo(ruleset: Ruleset) -> None:
    """Say that `builtin:echo` has no address outside `up`."""
    text = 'upstream "{0}": builtin:echo runs inside `rejoinder up` only: say where it is with --upstream {0}=URL'
    print_problems(
        Problem(upstream.position, text.format(upstream.name), Severity.WARNING)
        for upstream in ruleset.upstreams
        if upstream.echo
    )
