"""`rejoinder init`: a first rule file, with comments, and beside it the schema that its first line names."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
from pathlib import Path
from typing import Final

from rejoinder.cli import console
from rejoinder.rules.model import printable
from rejoinder.rules.model.matches import MAX_PATH
from rejoinder.rules.schema import schema

SCHEMA: Final = ".rejoinder.schema.json"
"""With a dot: in a folder that is a SOURCE, it is no rule file."""


def run(options: argparse.Namespace) -> int:
    file: Path = options.file
    text = Path(__file__).with_name("first.yaml").read_text("utf-8")
    shown = "rules.yaml" if file == Path("-") else printable(str(file), MAX_PATH)
    text = text.replace("SCHEMA", SCHEMA).replace("FILE", shlex.quote(shown))
    if file == Path("-"):
        console.out(text.rstrip("\n"))
        return 0
    try:
        _write(file, text)
        with contextlib.suppress(FileExistsError):
            _write(file.with_name(SCHEMA), json.dumps(schema(), indent=2, ensure_ascii=False) + "\n")
    except FileExistsError:
        return console.fail(f"{file} is there already, and is never overwritten: name another file, or - to print")
    except OSError as error:
        return console.fail(f"{error.filename or file.parent}: {error.strerror}")
    console.say(f"{file} is written; start with: rejoinder up {shlex.quote(str(file))}")
    return 0


def _write(file: Path, text: str) -> None:
    with file.open("x", encoding="utf-8") as new:
        try:
            new.write(text)
            new.flush()
        except OSError:  # else half a file would be there the next time
            file.unlink()
            raise
