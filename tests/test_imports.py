"""Who imports whom: as the table in docs/design.md says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

PROJECT: Final = Path(__file__).parents[1]
ROWS: Final = re.findall(r"^\| `(\w+)/` \|.*\| (.*)\|$", (PROJECT / "docs/design.md").read_text(), re.MULTILINE)
MAY_IMPORT: Final = {folder: set(re.findall(r"`(\w+)`", others)) for folder, others in ROWS}


def imported(file: Path) -> Iterator[str]:
    """The folders of this project that a file imports from, those behind TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name.split(".")[1] for name in names if name.startswith("rejoinder."))


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_it_may(folder: str) -> None:
    allowed = {folder} | MAY_IMPORT[folder]
    files = [*(PROJECT / folder).rglob("*.py")]
    wrong = {(file.name, name) for file in files for name in imported(file) if name not in allowed}
    assert files
    assert not wrong
