"""A file that is read again after an edit says what it says when it is read for the first time."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rejoinder.rules.fields import Place
from rejoinder.rules.load import Loaded, load
from rejoinder.rules.model import Position, Rule, Ruleset
from rejoinder.rules.reload import Memory
from rejoinder.rules.rule_file.rules import rules

HEAD = """\
upstreams: {up: "http://127.0.0.1:8000"}
routes:
  - {name: a, prefix: /a, upstream: up}
rules:  # in order
  # the first
"""
ENTRIES = {
    "flow": "  - {name: flow, match: {path: /flow}, body: x}\n",
    "block": '  - name: block\n    match:\n      routes: [a]\n    body: "x"\n\n  # a comment\n',
    "unnamed": "  - match: {path: /unnamed}\n    body: one\n",
    "unnamed too": "  - match: {path: /other}\n    body: two\n",
    "several lines": '  - name: long\n    match: {path: /long}\n    body: "one\n      two\n\n      three"\n',
    "literal": "  - name: literal\n    match: {path: /literal}\n    body: |\n      - name: x\n        body: y\n",
}
TAIL = "listen: 127.0.0.1:10000\n"
FILE = HEAD + "".join(ENTRIES.values()) + TAIL


def said(loaded: Loaded) -> tuple[Loaded, list[Position]]:
    """With positions, which do not count when values are compared."""
    rules = loaded.ruleset or Ruleset()
    things: tuple[Any, ...] = (*rules.rules, *rules.routes, *rules.upstreams, *rules.listeners)
    return dataclasses.replace(loaded, fingerprints={}), [thing.position for thing in things]


def check(file: Path, *texts: str) -> Memory:
    """Read the texts one after the other, remembering; each must say what it says by itself."""
    memory = Memory()
    for text in texts:
        file.write_text(text)
        assert said(load([file], memory=memory)) == said(load([file]))
    return memory


EDITS = {
    "nothing": FILE,
    "a value": FILE.replace("body: x", "body: y"),
    "a line more": FILE.replace("body: one", "body: one\n    status_code: 503"),
    "a line more without a tail": (FILE.replace("body: one", "body: one\n    status_code: 503")).replace(TAIL, ""),
    "a rule more": FILE.replace(TAIL, "  - {name: new, match: {path: /new}, body: x}\n" + TAIL),
    "an unnamed rule in front": FILE.replace("  # the first\n", "  - {match: {path: /new}, body: x}\n"),
    "a rule between": FILE.replace(
        ENTRIES["block"], "  - {name: new, match: {path: /new}, body: x}\n" + ENTRIES["block"]
    ),
    "a rule less": FILE.replace(ENTRIES["unnamed"], ""),
    "another order": HEAD + "".join(reversed(ENTRIES.values())) + TAIL,
    "a rule twice": FILE.replace(ENTRIES["flow"], ENTRIES["flow"] * 2),
    "a name twice": FILE.replace("name: flow", "name: block"),
    "an unknown route": FILE.replace("[a]", "[b]"),
    "the route is gone": FILE.replace("name: a,", "name: b,"),
    "a mistake": FILE.replace("body: x", "boby: x"),
    "not YAML": FILE.replace("body: x}", "body: x"),
    "a quote that takes in the rules behind it": FILE.replace('body: "x"\n', 'body: "x\n'),
    "a quote before the rules": "x: '\n" + FILE,
    "a literal block becomes rules": FILE.replace("body: |\n    ", "body: z\n"),
    "an anchor": FILE.replace("body: one", "body: &one one").replace("body: two", "body: *one"),
    "two documents": FILE.replace("  # a comment\n", "---\nrules:\n"),
    "another line end": FILE.replace("\n", "\r\n"),
    "not UTF-8": FILE.replace("body: x", "body: \udcff").encode("utf-8", "surrogateescape").decode("latin-1"),
    "a warning": FILE.replace("body: one", "body: one\n    headers: [Server=me]"),
    "a final rule": FILE.replace("body: one", "body: one\n    final: true"),
    "the last rule commented out": HEAD + "".join(ENTRIES.values()).replace("  ", "  # ") + TAIL,
    "a body file that is missing": FILE.replace("body: one", "body_file: one"),
    "rules twice": FILE + "rules: []\n",
    "no rules": HEAD.replace("rules:", "#"),
    "empty": "",
}


@pytest.mark.parametrize("indented", [True, False], ids=["indented", "not indented"])
@pytest.mark.parametrize("edited", EDITS.values(), ids=EDITS)
def test_an_edited_file_says_what_it_says_when_it_is_read_for_the_first_time(
    tmp_path: Path, edited: str, indented: bool
) -> None:
    texts = [FILE, edited, FILE, edited, edited]
    check(tmp_path / "rules.yaml", *(text if indented else text.replace("\n  ", "\n") for text in texts))


@pytest.mark.parametrize(
    ("name", "gone"),
    [("routes: [a]", "routes: [elsewhere]"), ("upstream: up", "upstream: elsewhere")],
    ids=["in a rule", "of an upstream"],
)
def test_names_that_lead_nowhere_are_told_with_their_lines(tmp_path: Path, name: str, gone: str) -> None:
    texts = (FILE, FILE.replace("body: one", "body: uno"), EDITS["a rule between"])
    check(tmp_path / "rules.yaml", *(text.replace(name, gone).replace(TAIL, "") for text in texts))


@settings(max_examples=60)
@given(st.lists(st.lists(st.sampled_from(sorted(ENTRIES))), min_size=2, max_size=4), st.booleans())
def test_so_does_any_order_of_rules(tmp_path: Path, orders: list[list[str]], tail: bool) -> None:
    texts = [HEAD + "".join(ENTRIES[name] for name in names) + (TAIL if tail else "") for names in orders]
    check(tmp_path / "rules.yaml", *texts)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, len(FILE)), st.integers(0, 3), st.sampled_from(["", '"', "'", "\n", "- ", "  "])))
)
def test_so_does_any_edit(tmp_path: Path, edits: list[tuple[int, int, str]]) -> None:
    texts = [FILE]
    for at, less, more in edits[:4]:
        texts.append(texts[-1][:at] + more + texts[-1][at + less :])
    check(tmp_path / "rules.yaml", *texts)


@pytest.mark.parametrize("mistakes", [(), ("a mistake", "not YAML")], ids=["right away", "after mistakes"])
@pytest.mark.parametrize("edit", ["a value", "a line more without a tail"])
def test_only_what_has_changed_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: str, mistakes: tuple[str, ...]
) -> None:
    before = FILE.replace(TAIL, "") if "without a tail" in edit else FILE
    memory = check(tmp_path / "rules.yaml", before, *(EDITS[mistake] for mistake in mistakes))
    (tmp_path / "rules.yaml").write_text(EDITS[edit])
    read: list[int] = []

    def counting(place: Place) -> tuple[Rule, ...]:
        numbers = rules(place)
        read.append(len(numbers))
        return numbers

    for module in ("load", "reload"):
        monkeypatch.setattr(f"rejoinder.rules.{module}.read_rules", counting)
    load([tmp_path / "rules.yaml"], memory=memory)
    assert read == [1]


@pytest.mark.parametrize("named", ["branding", "body_file"])
def test_a_file_that_is_named_is_read_again_and_watched(tmp_path: Path, named: str) -> None:
    beside, file = tmp_path / "beside.svg", tmp_path / "rules.yaml"
    answer = "body_file: beside.svg" if named == "body_file" else "status_code: 503, page: builtin"
    page = ENTRIES["flow"].replace("body: x", answer)
    branding = "branding: {logo_file: beside.svg}\n" if named == "branding" else ""
    text = branding + FILE.replace(ENTRIES["flow"], page)
    memory = Memory()
    for content, entries in (
        ("<svg></svg>", text),
        ("<svg><g/></svg>", text),
        ("<svg></svg>", text.replace("body: one", "body: uno")),
    ):
        beside.write_text(content)
        file.write_text(entries)
        again, first = load([file], memory=memory), load([file])
        assert first.ruleset
        assert said(again) == said(first)
        assert again.fingerprints == first.fingerprints
    beside.unlink()
    assert said(load([file], memory=memory)) == said(load([file]))


def test_unnamed_rules_are_named_after_their_file_once_there_are_two(tmp_path: Path) -> None:
    files = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    files[0].write_text(FILE)
    files[1].write_text("rules: [{body: x}]\n")
    memory = Memory()
    for named in (files[:1], files, files[:1]):
        assert said(load(named, memory=memory)) == said(load(named))
