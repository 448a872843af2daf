"""The examples in docstrings, run."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path
from typing import Final

import pytest

PROJECT: Final = Path(__file__).parents[1]
MODULES: Final = [
    file.relative_to(PROJECT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for folder in ("rules", "xds", "extproc", "envoy", "cli")
    for file in sorted((PROJECT / folder).rglob("*.py"))
    if "\n    >>> " in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_as_they_say(name: str) -> None:
    module = importlib.import_module(f"rejoinder.{name}")
    assert doctest.testmod(module).failed == 0
