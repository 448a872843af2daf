"""What an edit has changed, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from gateway import ruleset

from rejoinder.cli.control import Control
from rejoinder.cli.history import differences, in_words
from rejoinder.extproc import Workers
from rejoinder.rules.model import Ruleset
from rejoinder.xds.translate import Placement, Settings

TEXT: Final = """\
listen: 127.0.0.1:10000
upstreams: {up: "http://127.0.0.1:1"}
routes:
  - {name: all, upstream: up}
rules:
  - {name: busy, enable_on_status: [429], body: a}
  - {name: old, enable_on_status: [503], body: b}
"""
OLD: Final = "  - {name: old, enable_on_status: [503], body: b}\n"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("body: a", "body: c", "changed busy"),
        (OLD, "", "removed old"),
        (OLD, OLD.replace("old", "late"), "added late (FILE:7), removed old"),
        (OLD, OLD + "  - {name: busier, match: {path: /}, body: a}\n", "added busier (FILE:8)"),
        ("routes:", "routes:\n  - {name: new, path: /n, upstream: up}", "added route new (FILE:4)"),
        ('127.0.0.1:1"', '127.0.0.1:2"', "changed upstream up"),
        ("127.0.0.1:10000", "[127.0.0.1:10000, '[::1]:10001']", "added listener [::1]:10001"),
        ("127.0.0.1:10000", "127.0.0.1:10001", "added listener 127.0.0.1:10001, removed listener 127.0.0.1:10000"),
        ("rules:", "# about rules\nrules:", ""),
    ],
)
def test_an_edit_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(TEXT)
    before = ruleset(file)
    assert TEXT.count(old) == 1
    file.write_text(TEXT.replace(old, new))
    after = ruleset(file)
    assert in_words(differences(before, after), after) == said.replace("FILE", str(file))


def test_a_start_takes_away_nothing(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(TEXT)
    control = Control([file], [], Settings(tmp_path / "e", Placement.EXT_PROC), processor=Workers(1))
    control.start()
    assert "removed" not in str(control.history.edits[0].changes)


def test_of_very_many_changes_some_are_named(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    rules = (f"  - {{name: {'n' * 200}{number}, match: {{path: /{number}}}, body: x}}\n" for number in range(1000))
    file.write_text("rules:\n" + "".join(rules))
    after = ruleset(file)
    said = in_words(differences(Ruleset(), after), after)
    assert said.startswith("added nnn")
    assert " and 997 more" in said
    assert len(said) < 1000
