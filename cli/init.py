"""`rejoinder init`: a first rule file, with comments, and beside it the schema that its first line names."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from pathlib import Path
from typing import Final

from rejoinder.cli import console
from rejoinder.rules.document import printable
from rejoinder.rules.schema import schema

SCHEMA: Final = ".rejoinder.schema.json"
"""With a dot: in a folder that is a SOURCE, it is no rule file."""

MAX_NAME: Final = 4096
"""Of a file, in its comments: more than a path can have."""


def run(options: argparse.Namespace) -> int:
    file: Path = options.file
    text = Path(__file__).with_name("first.yaml").read_text("utf-8")
    shown = "rules.yaml" if file == Path("-") else printable(str(file), MAX_NAME)
    text = text.replace("SCHEMA", SCHEMA).replace("FILE", shlex.quote(shown))
    if file == Path("-"):
        console.out(text.rstrip("\n"))
        return 0
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
        if not os.path.lexists(beside := file.with_name(SCHEMA)):
            beside.write_text(json.dumps(schema(), indent=2, ensure_ascii=False) + "\n", "utf-8")
    except FileExistsError:
        return console.fail(f"{file} is there already, and is never overwritten: name another file, or - to print")
    except OSError as error:
        return console.fail(f"{error.filename}: {error.strerror}")
    console.say(f"{file} is written; start with: rejoinder up {shlex.quote(str(file))}")
    return 0
