"""`serve` with a folder for the last good set, for its tests."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from gateway import wait_for
from machine import SECONDS, ask
from test_serve_lasts import Serve

BROKEN: Final = "rules: ]\n"
ACCEPTED: Final = "accepted"
PUBLISHED: Final = "published"


class Started(Serve):
    """A `serve --state`."""

    said = ""
    """On standard error, known when it has ended."""

    def __init__(self, file: Path, *arguments: str) -> None:
        super().__init__(file, "--state", str(state_of(file)), *arguments, stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def started(file: Path, *arguments: str, ends: int | None = 0) -> Iterator[Started]:
    """One until the block ends; it ends with this code, or is killed."""
    serve = Started(file, *arguments)
    with serve.process as process:
        try:
            yield serve
            if ends is not None:
                process.terminate()
                serve.said = process.communicate(timeout=SECONDS)[1]
                assert process.returncode == ends
        finally:
            process.kill()


def state_of(file: Path) -> Path:
    return file.parent.parent / "state"


def kept(file: Path, *texts: str, name: str = PUBLISHED) -> None:
    """Wait until a set is kept that has these texts."""
    stored = state_of(file) / name
    wait_for(lambda: all(text in stored.read_text() for text in texts))


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Path:
    (tmp_path / "rules").mkdir()
    return tmp_path / "rules" / "rules.yaml"


def metric(serve: Serve, name: str) -> str:
    lines = ask(serve.admin, "GET", "localhost", "/metrics").body.decode().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name} "))
