"""Reads a rule file again after an edit: of thousands of rules, only those whose text has changed.

In: the text of a file, and a function that reads all of it. Out: the result of that function, and the same notes in the
`Source`. `Memory` is the way in. Nothing is raised. It works for ordinary files: one document, with a `rules:` whose
entries start on a line of their own. The whole file is read if a rule may depend on other text (anchors, several
documents, a mistake), or if something outside of `rules` has changed. `Memory` also keeps the content of manifests,
which `load` uses if they become unusable.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from rejoinder.rules import document
from rejoinder.rules.document import List
from rejoinder.rules.fields import Mention, Place, Source
from rejoinder.rules.files import UnreadableError
from rejoinder.rules.kubernetes import LastGood
from rejoinder.rules.model import Position, Rule
from rejoinder.rules.rule_file.rules import default_rule_name
from rejoinder.rules.rule_file.rules import rules as read_rules

_MOST_CHANGED: Final = 100
"""If more rules have changed, reading all of them is not much slower."""

_RULES: Final = re.compile(r"^rules:[ ]*(?:#.*)?\n(?:[ ]*(?:#.*)?\n)*(?=([ ]*)-[ ])", re.MULTILINE)
_END: Final = {True: re.compile(r"\n(?=[^\s#])"), False: re.compile(r"\n(?=[^\s#-])")}
"""The end of the last entry, by whether entries are indented."""
_UNUSUAL: Final = ("\n---", "\n...", "\n%", "\r", "\x85", "\u2028", "\u2029", "\ufeff")
"""Several documents, other line ends."""
_ANCHOR: Final = re.compile(r"&(?<=[\s\[{,]&)\w")  # begins with a plain character, which is fast to search


@dataclass(frozen=True, slots=True)
class _Layout:
    """The text of a file in three parts."""

    head: str
    entries: tuple[str, ...]
    """Each of `rules`, without the dash in front."""
    dash: str
    tail: str


class _Known(NamedTuple):
    """An entry that was read."""

    number: int
    """Counted from 1."""
    line: int
    lines: int
    """How many it has."""
    rule: Rule
    mentions: tuple[Mention, ...]
    """The names in it that must exist."""


@dataclass(frozen=True, slots=True)
class _File:
    """The text of a file, and what was read from it."""

    head: str
    tail: str
    start: int
    """The line of the first entry."""
    end: int
    """The line behind the last one."""
    part: Any
    upstreams: tuple[Mention, ...]
    """Of the head and the tail. Routes are named in rules only."""
    beside: Mapping[Path, bytes]
    """The files that it names, with their content."""
    by_text: dict[str, _Known]


P = TypeVar("P")
"""`load.Part`."""


class Memory:
    """What was read from the files when they last had no mistake. For one thread at a time."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, str], _File] = {}
        """By path, and what the names of unnamed rules start with."""
        self.manifests: dict[str, list[Any]] = {}
        """The parts of each file with nothing but Kubernetes objects, by path."""
        self.objects: LastGood = {}

    def forget_rules(self) -> None:
        """Read all rules again at the next load."""
        self._files.clear()

    def read(self, source: Source, data: bytes, read: Callable[[Source, bytes], list[P]]) -> list[P]:
        """The parts of a file.

        Args:
            source: of a file that has just been opened; it gets the notes.
            data: the content of the file.
            read: reads all of it.
        """
        layout = _layout(data)
        key = (source.file, source.prefix)
        known = self._files.get(key)
        if layout and known and (again := _again(source, layout, known)):
            self._files[key] = again
            return [replace(again.part, rules=tuple(entry.rule for entry in again.by_text.values()))]
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
    if start is None or any(mark in "\n" + text for mark in _UNUSUAL) or _ANCHOR.search(text):
        return None
    end = _END[start[1] != ""].search(text, start.end())
    stop = end.end() if end else len(text)
    dash = f"{start[1]}- "
    entries = text[start.end() + len(dash) : stop].split("\n" + dash)
    with_line_ends = (*(entry + "\n" for entry in entries[:-1]), entries[-1])
    return _Layout(text[: start.end()], with_line_ends, dash, text[stop:])


def _known(source: Source, layout: _Layout, parts: Sequence[Any]) -> _File | None:
    """What to remember of a file that was read in full."""
    if source.problems or len(parts) != 1:
        return None
    rules: tuple[Rule, ...] = parts[0].rules
    counts = [entry.count("\n") for entry in layout.entries]
    start = layout.head.count("\n") + 1
    *lines, end = itertools.accumulate(counts, initial=start)
    if [rule.position.line for rule in rules] != lines:
        return None
    mentions: list[list[Mention]] = [[] for _ in rules]
    for mention in source.routes:
        mentions[bisect.bisect_right(lines, mention.place.node.line) - 1].append(mention)
    entries = map(_Known, itertools.count(1), lines, counts, rules, map(tuple, mentions))
    by_text = dict(zip(layout.entries, entries, strict=True))
    if len(by_text) != len(rules):
        return None
    return _File(layout.head, layout.tail, start, end, parts[0], tuple(source.upstreams), source.beside, by_text)


def _again(source: Source, layout: _Layout, file: _File) -> _File | None:
    """The parts of a file after an edit; None: it must be read in full."""
    if (file.head, file.tail) != (layout.head, layout.tail) or not _hold(source, file.beside):
        return None
    by_text: dict[str, _Known] = {}
    line, changed = file.start, 0
    for number, text in enumerate(layout.entries, start=1):
        known = file.by_text.get(text)
        if known and (known.line != line or known.number != number):
            known = _moved(known, number, line, source)
        if known is None:
            changed += 1
            known = _read_entry(text, number, line, layout.dash, source) if changed <= _MOST_CHANGED else None
        if known is None or text in by_text:
            return None
        by_text[text] = known
        line += known.lines
    if layout.tail and line != file.end:
        return None
    source.routes += (noted for known in by_text.values() if known.mentions for noted in _noted(known.mentions, source))
    source.upstreams += _noted(file.upstreams, source)
    return replace(file, end=line, by_text=by_text)


def _hold(source: Source, beside: Mapping[Path, bytes]) -> bool:
    """Whether files have the same content as before. They are read by this load, too."""
    try:
        return [source.files.read(path) for path in beside] == [*beside.values()]
    except UnreadableError:
        return False


def _moved(known: _Known, number: int, line: int, source: Source) -> _Known | None:
    """An entry at another place in the file; None: it must be read again."""
    rule = known.rule
    if number != known.number and rule.name == default_rule_name(source.prefix, known.number):
        return None  # its name may depend on its place
    down = line - known.line
    position = Position(source.file, rule.position.line + down)
    moved = replace(rule, position=position)
    return _Known(number, line, known.lines, moved, _noted(known.mentions, source, down))


def _read_entry(text: str, number: int, line: int, dash: str, source: Source) -> _Known | None:
    # With empty lines in front, all positions have their line in the file.
    nodes, problems = document.parse(("\n" * (line - 1) + dash + text).encode(), source.file)
    if problems or len(nodes) != 1 or not isinstance(nodes[0], List) or len(nodes[0].items) != 1:
        return None
    own = Source(source.file, source.files, source.prefix, rules=number - 1, operated=source.operated)
    rules = Place(nodes[0], own, path="rules").attempt(read_rules, ())
    if own.problems or own.beside or len(rules) != 1:
        return None
    return _Known(number, line, text.count("\n"), rules[0], tuple(own.routes))


def _noted(mentions: tuple[Mention, ...], source: Source, down: int = 0) -> tuple[Mention, ...]:
    """The same mentions, for this source, and moved by some lines."""

    def place(of: Place) -> Place:
        return replace(of, source=source, node=replace(of.node, line=of.node.line + down))

    return tuple([replace(mention, place=place(mention.place)) for mention in mentions])
