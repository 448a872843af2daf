"""How things are printed: colours and tables where the output is a terminal, plain lines where it is not.

What a command was asked for goes to standard output, everything else (problems, progress) to standard error.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable
from typing import Any, Final, TextIO, cast

import yaml
from rich.console import Console
from rich.text import Text

from rejoinder.rules.model import Ruleset
from rejoinder.rules.problem import Problem, Severity

_STYLES: Final = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}

_GONE: Final = (OSError, ValueError, AttributeError)
"""What is raised by a stream that is broken, or closed, or None."""


class _Lasting:
    """A standard stream, written to for as long as it can be: a reader that has gone, or a full disk, is no reason to
    end."""

    def __init__(self, name: str) -> None:
        self._name = name

    def write(self, text: str) -> int:
        with contextlib.suppress(*_GONE):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(*_GONE):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    # Asked for each time: tests replace it, and so does whoever ends with a broken pipe.
    @property
    def _stream(self) -> TextIO:
        stream: TextIO = getattr(sys, self._name)
        return stream


# soft_wrap everywhere: a line stays a line, so that it can be grepped and its file name clicked.
out: Final = Console(highlight=False, soft_wrap=True)
err: Final = Console(highlight=False, soft_wrap=True, file=cast(TextIO, _Lasting("stderr")))
_news: Final = Console(highlight=False, soft_wrap=True, file=cast(TextIO, _Lasting("stdout")))


def print_problems(problems: Iterable[Problem], console: Console = err) -> None:
    """One line each: where, which severity, what."""
    for problem in problems:
        severity = Text(f"{problem.severity.value}: ", _STYLES[problem.severity])
        console.print(Text.assemble(Text(f"{problem.position}: ", "bold"), severity, problem.message))


def say(text: str, style: str = "") -> None:
    """A line about what is going on."""
    err.print(Text(text, style))


def announce(text: str) -> None:
    """A line on standard output by a command that goes on whether somebody reads it or not."""
    _news.print(text)


def fail(text: str) -> int:
    """A line about why the command cannot go on; returns its exit code."""
    err.print(Text.assemble(Text("rejoinder: ", "bold red"), text))
    return 1


def print_json(value: Any) -> None:
    out.out(json.dumps(value, indent=2, ensure_ascii=False), highlight=False)


class _BlockDumper(yaml.CSafeDumper):
    """YAML as people write it: long texts as blocks, no anchors. In C: it may be megabytes."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the base class's
        return True


def _text(dumper: yaml.CSafeDumper, value: str) -> yaml.Node:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)


_BlockDumper.add_representer(str, _text)


def print_yaml(value: Any) -> None:
    # Not by way of rich, which looks at every line of it.
    yaml.dump(value, out.file, Dumper=_BlockDumper, sort_keys=False, allow_unicode=True, width=120)


def warn_of_echo(ruleset: Ruleset) -> None:
    """Say that `builtin:echo` has no address outside `up`."""
    for upstream in ruleset.upstreams:
        if upstream.echo:
            say(
                f'warning: upstream "{upstream.name}": builtin:echo runs inside `rejoinder up` only, so this upstream '
                f"has no address; say where another one is with --upstream {upstream.name}=URL",
                "yellow",
            )
