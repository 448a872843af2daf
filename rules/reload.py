"""Reads a rule file again after an edit: of thousands of rules, only those whose text is another than before.

In: a file's text and the way to read it all. Out: what that would give, and the same notes in the `Source`. `Memory` is
the way in. Nothing is raised. It is for the ordinary file: one document, with a `rules:` whose entries each start on a
line of their own. Anything that could make a rule depend on the text beside it (anchors, several documents, a mistake)
has the whole file read, as does a change outside of `rules`.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from rejoinder.rules import document, native
from rejoinder.rules.document import List
from rejoinder.rules.fields import Mention, Place, Source
from rejoinder.rules.model import Position, Rule
from rejoinder.rules.native import default_rule_name

_MOST_CHANGED: Final = 100
"""Beyond so many changed rules, reading all of them is not much slower."""

_RULES: Final = re.compile(r"^rules:[ ]*(?:#.*)?\n(?:[ ]*(?:#.*)?\n)*(?=([ ]*)-[ ])", re.MULTILINE)
_END: Final = {True: re.compile(r"^[^\s#]", re.MULTILINE), False: re.compile(r"^[^\s#-]", re.MULTILINE)}
"""Where the entries end, by whether they are indented."""
_UNUSUAL: Final = re.compile(r"^(?:---|\.\.\.|%)|[\s\[{,]&\w|[\r\x85\u2028\u2029\ufeff]|body_file", re.MULTILINE)
"""Several documents, anchors, other line ends, files beside this one."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One of `rules`."""

    number: int
    """Counted from 1."""
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class _Layout:
    """A file's text in three."""

    head: str
    entries: tuple[_Entry, ...]
    tail: str
    lines: int
    """How many stand before the tail."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A rule that was read, and the names in it that must exist."""

    entry: _Entry
    rule: Rule
    mentions: tuple[Mention, ...]


@dataclass(frozen=True, slots=True)
class _File:
    """What a file held, and what it said."""

    layout: _Layout
    part: Any
    routes: tuple[Mention, ...]
    """Of the head and the tail; `upstreams` likewise."""
    upstreams: tuple[Mention, ...]
    by_text: dict[str, _Known]


P = TypeVar("P")
"""`load.Part`."""


class Memory:
    """What the rule files said when they were last read. For one thread at a time."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, str], _File] = {}
        """By path, and what the names of unnamed rules start with."""

    def read(self, source: Source, data: bytes, read: Callable[[Source, bytes], list[P]]) -> list[P]:
        """The parts of a file.

        Args:
            source: of a file that has just been opened; what is found is noted in it.
            data: what the file holds.
            read: how to read all of it.
        """
        layout = _layout(data)
        key = (source.file, source.prefix)
        known = self._files.pop(key, None)
        if layout and known and (again := _again(source, layout, known)):
            self._files[key] = again
            return [replace(again.part, rules=tuple(each.rule for each in again.by_text.values()))]
        parts = read(source, data)
        if layout and (file := _known(source, layout, parts)):
            self._files[key] = file
        return parts


def _layout(data: bytes) -> _Layout | None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    start = _RULES.search(text)
    if start is None or _UNUSUAL.search(text):
        return None
    end = _END[start[1] != ""].search(text, start.end())
    stop = end.start() if end else len(text)
    dash = re.compile(rf"^{start[1]}-[ ]", re.MULTILINE)
    starts = [each.start() for each in dash.finditer(text, start.end(), stop)]
    line = text.count("\n", 0, start.end()) + 1
    entries = []
    for number, (begin, until) in enumerate(zip(starts, [*starts[1:], stop], strict=True), start=1):
        entries.append(_Entry(number, line, text[begin:until]))
        line += text.count("\n", begin, until)
    return _Layout(text[: start.end()], tuple(entries), text[stop:], line - 1)


def _known(source: Source, layout: _Layout, parts: Sequence[Any]) -> _File | None:
    """What is to be remembered of a file that was read in full."""
    if source.problems or len(parts) != 1:
        return None
    rules: tuple[Rule, ...] = parts[0].rules
    if [rule.position.line for rule in rules] != [entry.line for entry in layout.entries]:
        return None
    lines = [entry.line for entry in layout.entries]
    mentions: list[list[Mention]] = [[] for _ in rules]
    elsewhere: list[Mention] = []
    for mention in source.routes:
        line = mention.place.node.line
        inside = lines[0] <= line <= layout.lines
        (mentions[bisect.bisect_right(lines, line) - 1] if inside else elsewhere).append(mention)
    by_text = {
        entry.text: _Known(entry, rule, tuple(mentioned))
        for entry, rule, mentioned in zip(layout.entries, rules, mentions, strict=True)
    }
    if len(by_text) != len(rules):
        return None
    return _File(layout, parts[0], tuple(elsewhere), tuple(source.upstreams), by_text)


def _again(source: Source, layout: _Layout, file: _File) -> _File | None:
    """What a file says after an edit; None: it has to be read in full."""
    before = file.layout
    if (before.head, before.tail) != (layout.head, layout.tail) or (layout.tail and before.lines != layout.lines):
        return None
    reusable = [_reusable(file.by_text.get(entry.text), entry, source.prefix) for entry in layout.entries]
    if reusable.count(None) > _MOST_CHANGED:
        return None
    by_text: dict[str, _Known] = {}
    for entry, known in zip(layout.entries, reusable, strict=True):
        now = _moved(known, entry, source) if known else _read_entry(entry, source)
        if now is None or entry.text in by_text:
            return None
        by_text[entry.text] = now
    source.routes += _noted(file.routes, source)
    source.routes += (mention for known in by_text.values() for mention in known.mentions)
    source.upstreams += _noted(file.upstreams, source)
    return replace(file, layout=layout, by_text=by_text)


def _reusable(known: _Known | None, entry: _Entry, prefix: str) -> _Known | None:
    if (
        known
        and known.entry.number != entry.number
        and known.rule.name == default_rule_name(prefix, known.entry.number)
    ):
        return None  # it may have its name from its place in the file
    return known


def _read_entry(entry: _Entry, source: Source) -> _Known | None:
    # Empty lines in front have everything say its line in the file.
    nodes, problems = document.parse(("\n" * (entry.line - 1) + entry.text).encode(), source.file)
    if problems or len(nodes) != 1 or not isinstance(nodes[0], List) or len(nodes[0].items) != 1:
        return None
    own = Source(source.file, source.files, source.prefix, rules=entry.number - 1)
    rules = Place(nodes[0], own, path="rules").attempt(native.rules, ())
    if own.problems or len(rules) != 1:
        return None
    return _Known(entry, rules[0], _noted(tuple(own.routes), source))


def _moved(known: _Known, entry: _Entry, source: Source) -> _Known:
    down = entry.line - known.entry.line
    rule = known.rule
    if down:
        rule = replace(rule, position=Position(source.file, rule.position.line + down))
    return _Known(entry, rule, _noted(known.mentions, source, down))


def _noted(mentions: tuple[Mention, ...], source: Source, down: int = 0) -> tuple[Mention, ...]:
    """The same, noted in this source, and some lines further down."""

    def place(of: Place) -> Place:
        return replace(of, source=source, node=replace(of.node, line=of.node.line + down))

    return tuple(replace(mention, place=place(mention.place)) for mention in mentions)
