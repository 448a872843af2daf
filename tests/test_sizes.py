"""What is too long to be read at once is split: files, and classes."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import pytest

PROJECT: Final = Path(__file__).parents[1]
MOST: Final = {"file": 400, "class": 250}
"""In lines."""

FILES: Final = [
    path
    for folder in ("rules", "xds", "extproc", "envoy", "transport", "cli", "tests", "bench", "examples", ".ci")
    for path in sorted((PROJECT / folder).rglob("*.py"))
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_file_or_class_is_too_long(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MOST["file"]
    classes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef))
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in classes}
    assert {name: lines for name, lines in lengths.items() if lines > MOST["class"]} == {}
