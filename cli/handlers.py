"""Python handlers as commands see them: where they are, and whether they can be imported.

In: the sources of a command, and rules. Out: folders, and `Problem`s. A handler's module is the user's code, which may
do anything when it is imported. So it is imported in a separate process.
"""

from __future__ import annotations

import difflib
import functools
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from rejoinder.rules.handlers import HandlerError, Handlers
from rejoinder.rules.model import Rule
from rejoinder.rules.problem import Problem, Severity

SECONDS: Final = 10.0
"""The limit for the import of a handler."""


def folders_of(sources: Iterable[Path]) -> list[Path]:
    """Where Python handlers are: beside the rule files."""
    return list(dict.fromkeys((source if source.is_dir() else source.parent).resolve() for source in sources))


def find_in(folders: Iterable[Path]) -> None:
    """Let the ext_proc processes, which inherit the path of this one, find handlers there."""
    sys.path += [str(folder) for folder in folders if str(folder) not in sys.path]


def missing(rules: Iterable[Rule], folders: list[Path]) -> Iterator[Problem]:
    """Warnings about handlers that cannot be imported here: in Envoy it may be different."""
    reason = functools.cache(lambda name: _reason(name, folders))
    for rule in rules:
        for name in dict.fromkeys(answer.handler for answer in rule.answers if answer.handler):
            if why := reason(name):
                yield Problem(rule.position, f'rule "{rule.name}": {why}', Severity.WARNING)


def _reason(name: str, folders: list[Path]) -> str:
    """Why a handler cannot be imported; empty: it can."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_find, args=(there, folders, name), daemon=True)
    process.start()
    there.close()
    try:
        return str(here.recv()) if here.poll(SECONDS) else f"handler {name}: its import takes more than {SECONDS:g} s"
    except EOFError:
        return f"handler {name}: its import ends the process"
    finally:
        process.kill()
        process.join()
        here.close()


def _find(pipe: Connection, folders: list[Path], name: str) -> None:
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what it prints does not belong to the report
    find_in(folders)
    reason = ""
    try:
        Handlers(lambda _: None).find(name)
    except HandlerError as error:
        reason = str(error)
        module = name.partition(":")[0].partition(".")[0]
        if isinstance(error.__cause__, ModuleNotFoundError) and error.__cause__.name == module:
            stems = [file.stem for folder in folders for file in folder.glob("*.py")]
            reason += "".join(f': did you mean "{stem}"?' for stem in difflib.get_close_matches(module, stems, 1))
    pipe.send(reason)
