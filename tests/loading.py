"""Files for the tests of `load`, and what comes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rejoinder.rules.load import Loaded, load
from rejoinder.rules.model import (
    Ruleset,
)
from rejoinder.rules.problem import Severity


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # so that messages have short paths


def load_text(text: str | bytes, name: str = "rules.yaml") -> Loaded:
    Path(name).write_bytes(text.encode() if isinstance(text, str) else text)
    return load([Path(name)])


def ruleset_of(text: str) -> Ruleset:
    loaded = load_text(text)
    assert loaded.ruleset is not None, loaded.problems
    return loaded.ruleset


def errors_of(loaded: Loaded) -> list[str]:
    return [str(problem) for problem in loaded.problems if problem.severity is Severity.ERROR]


# --- files ---


def write(files: dict[str, str]) -> None:
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
