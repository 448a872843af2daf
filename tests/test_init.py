"""`rejoinder init`: the first rule file is a good one, and nothing is overwritten."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import test_schema
from command_line import Command, get

from rejoinder.cli import main
from rejoinder.rules.load import load
from rejoinder.rules.schema import schema


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_first_rule_file_is_fine_and_names_the_schema_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init"]) == main(["schema"]) == 0
    text = Path("rules.yaml").read_text(encoding="utf-8")
    match = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert match
    beside = Path(match[1]).read_text(encoding="utf-8")
    assert beside == capsys.readouterr().out, "as `rejoinder schema` writes it anew"
    assert json.loads(beside) == schema()
    for sources in ("rules.yaml", "."):
        loaded = load([Path(sources)])
        assert (loaded.ruleset is not None, loaded.problems) == (True, ())
    assert test_schema.complaints(text) == []


def test_its_maintenance_rule_can_be_switched_on() -> None:
    assert main(["init", "a file.yaml"]) == 0
    text = Path("a file.yaml").read_text(encoding="utf-8")
    assert "rejoinder up 'a file.yaml'" in text
    begin, end = text.index("  # - name: maintenance"), text.index("  # One status")
    text = text[:begin] + text[begin:end].replace("  # ", "  ") + text[end:]
    Path("rules.yaml").write_text(text, encoding="utf-8")
    loaded = load([Path("rules.yaml")])
    assert loaded.ruleset is not None
    assert ([rule.name for rule in loaded.ruleset.rules], loaded.problems) == (
        ["hello", "maintenance", "throttled", "errors"],
        (),
    )


@pytest.mark.parametrize("there", ["rules.yaml", ".rejoinder.schema.json"])
def test_what_is_there_is_never_overwritten(there: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(there).write_text("mine")
    assert main(["init"]) == (there == "rules.yaml")
    assert Path(there).read_text() == "mine"
    assert ("is never overwritten" in capsys.readouterr().err) is (there == "rules.yaml")


@pytest.mark.parametrize("name", [b"\xff.yaml", b"a\nb.yaml"], ids=["no UTF-8", "a new line"])
def test_whatever_the_file_is_called_it_is_fine(name: bytes) -> None:
    file = Path(os.fsdecode(name))
    assert main(["init", str(file)]) == 0
    loaded = load([file])
    assert (loaded.ruleset is not None, loaded.problems) == (True, ())


def test_a_link_to_nowhere_in_place_of_the_schema_stays_one() -> None:
    Path(".rejoinder.schema.json").symlink_to("elsewhere")
    assert main(["init"]) == 0
    assert not Path("elsewhere").exists()


def test_what_cannot_be_written_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "nowhere/rules.yaml"]) == 1
    assert capsys.readouterr().err == "rejoinder: nowhere/rules.yaml: No such file or directory\n"


def test_a_dash_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "-"]) == 0
    assert main(["init"]) == 0
    assert capsys.readouterr().out == Path("rules.yaml").read_text(encoding="utf-8")
    assert {path.name for path in Path().iterdir()} == {"rules.yaml", ".rejoinder.schema.json"}


def test_schema_prints_what_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()


def test_up_starts_with_it_and_an_edit_of_it_is_live() -> None:
    assert main(["init"]) == 0
    with Command("up", "rules.yaml", "--listen", "127.0.0.1:0", "--concurrency", "1") as up:
        [address] = up.addresses()
        assert get(address, "/hello").body == b'{"hello":"world"}'
        assert get(address, "/status/429").status == 302
        assert b"503" in get(address, "/status/503").body
        assert get(address, "/robots.txt").body.startswith(b"User-agent")
