"""YAML (and so JSON) text as nodes that know their line.

In: the bytes of one file. Out: a `Node` tree for every document in it, and the problems of the text itself: what is not
YAML, too large, nested too deep, given twice. Nothing is raised. `parse` is the way in; `fields` and the readers give
the nodes their meaning.

The tree is built from the parser's events and not by PyYAML's composer, for three reasons: limits apply while reading
and not after it, nothing recurses, and an alias can be counted for what it stands for.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import yaml
from yaml.resolver import Resolver

from rejoinder.rules.model import Position, printable
from rejoinder.rules.problem import Problem

MAX_DEPTH: Final = 50
"""Levels of nesting. A rule file needs 8 and a Kubernetes manifest some 15; libyaml's time grows with the square of the
nesting (20 seconds for 100,000 brackets), so it must be bounded."""

_TOO_DEEP: Final = f"nested more than {MAX_DEPTH} levels deep"

MAX_WEIGHT: Final = 1_000_000
"""What a file may hold once its aliases are expanded: every node counts 1, and another for each 64 characters of
its text. A rule is about 20 nodes. Nine lines of nested aliases expand to a billion ("billion laughs"; Go's yaml.v3 and
SnakeYAML limit aliases too)."""


class ScalarKind(enum.Enum):
    """The type of a scalar in YAML 1.1; the value is its name in messages."""

    STRING = "string"
    INTEGER = "number"
    FLOAT = "decimal number"
    BOOLEAN = "boolean"
    NULL = "nothing"
    TIMESTAMP = "date"


@dataclass(frozen=True, slots=True)
class Scalar:
    line: int
    text: str
    """As it is written, quotes and escapes resolved."""
    kind: ScalarKind
    weight: int


@dataclass(frozen=True, slots=True)
class List:
    line: int
    items: tuple[Node, ...]
    weight: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a mapping."""

    line: int
    """Where the key stands."""
    value: Node


@dataclass(frozen=True, slots=True)
class Map:
    line: int
    entries: dict[str, Entry]
    """In the order of the file; what `<<` merges in comes last."""
    weight: int


Node: TypeAlias = Scalar | List | Map


def quoted(text: str) -> str:
    """A text as messages show it: in quotes, on one line, and not too long.

    >>> quoted("a\\nb")
    '"a\\\\nb"'
    """
    return f'"{printable(text, 80)}"'


def describe(node: Node) -> str:
    """A node as the end of "expected ..., got ...".

    >>> describe(Scalar(1, "8080", ScalarKind.INTEGER, 1))
    'the number 8080'
    """
    match node:
        case Map():
            return "a mapping" if node.entries else "an empty mapping"
        case List():
            return "a list" if node.items else "an empty list"
        case Scalar(kind=ScalarKind.STRING):
            return quoted(node.text)
        case Scalar(kind=ScalarKind.NULL):
            return "nothing"
        case Scalar():
            return f"the {node.kind.value} {quoted(node.text)[1:-1]}"


def parse(data: bytes, file: str) -> tuple[list[Node], list[Problem]]:
    """Read all documents of one file.

    Args:
        data: the file's content; the caller has limited its size.
        file: its path, for the problems; `.json` at the end allows JSON's surrogate pairs.

    Returns:
        The documents that could be read, without empty ones, and the problems. Text behind a mistake that
        makes the rest unreadable is not read, but the documents in front of it are returned; none of a file that is
        too large.
    """
    problems: list[Problem] = []
    documents: list[Node] = []

    def report(line: int, message: str) -> None:
        problems.append(Problem(Position(file, line), message))

    try:
        text = _decode(data)
        if file.endswith(".json"):
            text = _SURROGATE_PAIR.sub(_one_character, text)
        documents.extend(_documents(text, report))
    except _TooLargeError as error:
        documents.clear()  # else there could be a hundred thousand problems
        report(error.line, error.message)
    except _TextError as error:
        report(error.line, error.message)
    if not documents and not problems:
        report(0, "the file is empty: expected rules, routes or an answer")
    return documents, problems


# --- from here on: how ---

_Report: TypeAlias = Callable[[int, str], None]


class _TextError(Exception):
    def __init__(self, line: int, message: str) -> None:
        self.line, self.message = line, message


class _TooLargeError(_TextError):
    pass


# The complement of YAML 1.1's c-printable, https://yaml.org/spec/1.1/#c-printable. libyaml refuses these too, but
# tells no line.
_NOT_PRINTABLE: Final = yaml.reader.Reader.NON_PRINTABLE  # to compile it takes 3 ms

# JSON writes a character beyond U+FFFF as two escapes, https://www.rfc-editor.org/rfc/rfc8259#section-7; YAML has no
# such pairs. The group in front keeps an escaped backslash from being taken for the start of an escape.
_SURROGATE_PAIR: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")


def _one_character(pair: re.Match[str]) -> str:
    high, low = int(pair[2], 16), int(pair[3], 16)
    return pair[1] + chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))


def _decode(data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _TextError(line, f"not UTF-8 text: byte 0x{data[error.start]:02x}") from None
    if odd := _NOT_PRINTABLE.search(text):
        line = text.count("\n", 0, odd.start()) + 1
        raise _TextError(line, f"not YAML: control character U+{ord(odd[0]):04X}")
    return text


_KINDS: Final = {
    "tag:yaml.org,2002:str": ScalarKind.STRING,
    "tag:yaml.org,2002:value": ScalarKind.STRING,  # a lone `=`
    "tag:yaml.org,2002:int": ScalarKind.INTEGER,
    "tag:yaml.org,2002:float": ScalarKind.FLOAT,
    "tag:yaml.org,2002:bool": ScalarKind.BOOLEAN,
    "tag:yaml.org,2002:null": ScalarKind.NULL,
    "tag:yaml.org,2002:timestamp": ScalarKind.TIMESTAMP,
}
_MERGE: Final = "tag:yaml.org,2002:merge"
_COLLECTION_TAGS: Final = {None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}


@dataclass(slots=True)
class _OpenList:
    line: int
    anchor: str | None
    items: list[Node] = field(default_factory=list)
    weight: int = 1

    def add(self, node: Node) -> None:
        self.items.append(node)

    def close(self) -> List:
        return List(self.line, tuple(self.items), self.weight)


@dataclass(slots=True)
class _OpenMap:
    line: int
    anchor: str | None
    report: _Report
    entries: dict[str, Entry] = field(default_factory=dict)
    merged: list[Map] = field(default_factory=list)
    key: Node | None = None
    weight: int = 1

    def add(self, node: Node) -> None:
        if self.key is None:
            self.key = node
            return
        key, self.key = self.key, None
        if not isinstance(key, Scalar):
            self.report(key.line, f"expected a name as key, got {describe(key)}")
        elif key is _MERGE_KEY:
            self._merge(node)
        elif key.kind is not ScalarKind.STRING and key.text.lower() not in _WORDS:
            self.report(key.line, f"expected a name as key, got {describe(key)} - put it in quotes")
        elif (first := self.entries.get(key.text)) is not None:
            self.report(key.line, f"the key {quoted(key.text)} is given twice, first in line {first.line}")
        else:
            if isinstance(node, Scalar) and not node.text:
                node = replace(node, line=key.line)  # the parser says where the next token is
            self.entries[key.text] = Entry(key.line, node)

    # https://yaml.org/type/merge.html: keys of the mapping itself win, then those of earlier mappings.
    def _merge(self, node: Node) -> None:
        for part in node.items if isinstance(node, List) else (node,):
            if isinstance(part, Map):
                self.merged.append(part)
            else:
                self.report(part.line, f"<<: expected a mapping or a list of them, got {describe(part)}")

    def close(self) -> Map:
        for part in self.merged:
            for name, entry in part.entries.items():
                self.entries.setdefault(name, entry)
        return Map(self.line, self.entries, self.weight)


# Booleans in YAML 1.1, but not in YAML 1.2; no key here is a boolean.
_WORDS: Final = ("on", "off", "yes", "no")

_MERGE_KEY: Final = Scalar(0, "<<", ScalarKind.STRING, 1)


# Makes trees of events. `stack` holds the collections that are open, the outermost first; a finished node goes into the
# last one, or is a document itself.
@dataclass(slots=True)
class _Builder:
    report: _Report
    stack: list[_OpenList | _OpenMap] = field(default_factory=list)
    anchors: dict[str, Node] = field(default_factory=dict)
    weight: int = 0  # of the documents that are finished

    # Returns a document when one is finished.
    def feed(self, event: yaml.Event, line: int) -> Node | None:
        match event:
            case yaml.DocumentStartEvent():
                self.anchors.clear()
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._open(event, line)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                done = self.stack.pop()
                return self._finish(done.close(), done.anchor, line)
            case yaml.ScalarEvent():
                return self._finish(self._scalar(event, line), event.anchor, line)
            case yaml.AliasEvent(anchor=name):
                return self._finish(self._named(name, line), None, line)
        return None

    def _open(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent, line: int) -> None:
        if event.tag not in _COLLECTION_TAGS:
            raise _TextError(line, f"tags are not supported, got {quoted(str(event.tag))}")
        if len(self.stack) == MAX_DEPTH:
            raise _TextError(line, _TOO_DEEP)
        is_map = isinstance(event, yaml.MappingStartEvent)
        self.stack.append(_OpenMap(line, event.anchor, self.report) if is_map else _OpenList(line, event.anchor))

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> Scalar:
        tag: str | None = event.tag
        if tag is None or tag == "!":
            tag = _resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag == _MERGE:
            top = self.stack[-1] if self.stack else None
            if isinstance(top, _OpenMap) and top.key is None:
                return _MERGE_KEY
            tag = "tag:yaml.org,2002:str"
        if tag not in _KINDS:
            raise _TextError(line, f"tags are not supported, got {quoted(str(tag))}")
        return Scalar(line, event.value, _KINDS[tag], 1 + len(event.value) // 64)

    def _named(self, name: str | None, line: int) -> Node:
        if any(name == anchored.anchor for anchored in self.stack):
            raise _TextError(line, f"the alias *{name} is inside of the node that it names")
        if name is None or name not in self.anchors:
            raise _TextError(line, f"the alias *{name} names nothing")
        return self.anchors[name]

    def _finish(self, node: Node, anchor: str | None, line: int) -> Node | None:
        if anchor is not None:
            self.anchors[anchor] = node
        top = self.stack[-1] if self.stack else self
        top.weight += node.weight
        if top.weight + (self.weight if self.stack else 0) > MAX_WEIGHT:
            raise _TooLargeError(line, f"too large: more than {MAX_WEIGHT:,} entries with all aliases expanded")
        if not self.stack:
            return node
        self.stack[-1].add(node)
        return None


def _documents(text: str, report: _Report) -> Iterator[Node]:
    builder = _Builder(report)
    for event in _events(text):
        node = builder.feed(event, event.start_mark.line + 1 if event.start_mark else 0)
        if node is not None and not (isinstance(node, Scalar) and node.kind is ScalarKind.NULL):
            yield node


# PyYAML's own rules for what a plain scalar is.
_resolve: Final[Callable[..., str]] = Resolver().resolve


def _events(text: str) -> Iterator[yaml.Event]:
    try:
        yield from yaml.parse(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else 0
        if "nesting depth" in str(error.problem):  # libyaml has had a limit of its own since 0.2.6, and reads ahead
            raise _TextError(line, _TOO_DEEP) from None
        if mark and text[mark.index : mark.index + 1] == "\t":
            raise _TextError(line, "not YAML: a tab cannot indent, use spaces") from None
        if "alias" in str(error.context):
            raise _TextError(line, 'not YAML: what starts with * stands in quotes, such as "*.example.com"') from None
        if "mapping values are not allowed" in str(error.problem):
            raise _TextError(line, f"not YAML: {error.problem}: put a text with a colon in quotes") from None
        within = f" ({error.context} from line {error.context_mark.line + 1})" if error.context_mark else ""
        raise _TextError(line, f"not YAML: {error.problem}{within}") from None
    except yaml.YAMLError as error:
        raise _TextError(0, f"not YAML: {quoted(str(error))[1:-1]}") from None
