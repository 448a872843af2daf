"""envoy/Dockerfile, read: what each target says, with what it has from the one below it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[1]
_TEXT: Final = (PROJECT / "envoy" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")

_ADDRESS: Final = re.compile(r"'127\.0\.0\.1', \d+")


def instructions(target: str) -> list[tuple[str, str]]:
    """Name and arguments, in order."""
    for stage in re.split(r"^(?=FROM )", _TEXT, flags=re.MULTILINE):
        lines = [line.partition(" ") for line in stage.splitlines() if re.match("[A-Z]+ ", line)]
        if lines and lines[0][2].endswith(f" AS {target}"):
            below = lines[0][2].split()[0]
            return [*instructions(below), *((name, arguments.strip()) for name, _, arguments in lines)]
    return []


def last(target: str, instruction: str) -> str:
    """What counts, where it is said several times."""
    return [arguments for name, arguments in instructions(target) if name == instruction][-1]


def words(target: str, instruction: str, **replaced: str) -> list[str]:
    """Of a command, which must be in the form without a shell; its words may be replaced, by themselves."""
    given = [
        str(word) for word in json.loads(last(target, instruction).partition("CMD ")[2] or last(target, instruction))
    ]
    return [replaced.pop(word, word) for word in given]


def healthcheck(target: str, address: str) -> list[str]:
    """The command of the health check, for a service that listens here instead."""
    host, _, port = address.rpartition(":")
    program, flag, code = words(target, "HEALTHCHECK", python3=sys.executable)
    assert _ADDRESS.search(code)
    return [program, flag, _ADDRESS.sub(f"'{host}', {port}", code)]
