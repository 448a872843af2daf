"""Reading the fields of a document, so that every mistake is reported with its place.

In: a `Place`: a node and its name in messages. Out: plain values. A reader is a function from a place to a value
that raises `FieldError` if the value is wrong. `Fields.get`, `Place.each` and `Place.attempt` catch it, note the
problem and go on with a default: a document with three mistakes reports three, and the values of a document with
errors are never used. Nothing but `FieldError` is raised.

    def redirect(place: Place) -> Redirect:
        fields = place.fields(REDIRECT)
        return Redirect(host=fields.get("host", Place.string, None), path=fields.get("path", Place.string, None))
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from rejoinder.rules.document import List, Map, Node, Scalar, ScalarKind, describe, quoted
from rejoinder.rules.files import Files, UnreadableError
from rejoinder.rules.model import Position
from rejoinder.rules.problem import Problem, Severity
from rejoinder.rules.shape import DURATION, Shape

_SHOWN_NAMES: Final = 20
"""How many names a message lists: all fields of a mapping, but not ten thousand routes."""

MAX_ITEMS: Final = 100_000
"""Of a list; and of all rules, routes and objects together. With so many rules, a start takes a minute and most of a
gigabyte. Without this limit, files of the allowed size could have millions of small rules."""

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST: Final = 8760 * 3600.0
"""A year; durations in protobuf can be 10,000 years."""

T = TypeVar("T")
D = TypeVar("D")


class FieldError(Exception):
    """A value that cannot be used, reported to its author."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Mention:
    """A name that must exist once all files are read."""

    place: Place
    name: str


@dataclass(slots=True)
class Source:
    """One file while it is read, and the notes made while reading."""

    file: str
    """Its path as the user gave it."""
    files: Files
    prefix: str = ""
    """What the names of unnamed rules start with."""
    problems: list[Problem] = field(default_factory=list)
    routes: list[Mention] = field(default_factory=list)
    upstreams: list[Mention] = field(default_factory=list)
    rules: int = 0
    """The number of rules read so far."""
    beside: dict[Path, bytes] = field(default_factory=dict)
    """The files that it names, with their content."""
    operated: bool = False
    """The author may name files and functions of this machine. Authors of Kubernetes objects may not."""
    lenient: bool = False
    """Unknown fields are warnings, because the software that the file is written for ignores them."""


@dataclass(frozen=True, slots=True)
class Place:
    """A node, and its name in messages."""

    node: Node
    source: Source
    subject: str = ""
    """The named thing that it belongs to, such as `rule "errors"`."""
    path: str = ""
    """Its field within that thing, such as `match.path`."""

    @property
    def position(self) -> Position:
        return Position(self.source.file, self.node.line)

    def mistake(self, message: str) -> FieldError:
        """A mistake to raise, about this place."""
        return FieldError(self._problem(message, Severity.ERROR))

    def expected(self, what: str) -> FieldError:
        """A mistake to raise: this place does not hold `what`."""
        return self.mistake(f"expected {what}, got {describe(self.node)}")

    def error(self, message: str) -> None:
        """Note a mistake and go on."""
        self.source.problems.append(self._problem(message, Severity.ERROR))

    def warn(self, message: str) -> None:
        """Note something that has no effect or is probably not meant."""
        self.source.problems.append(self._problem(message, Severity.WARNING))

    def _problem(self, message: str, severity: Severity) -> Problem:
        text = ": ".join(part for part in (self.subject, self.path, message) if part)
        return Problem(self.position, text, severity)

    def attempt(self, read: Callable[[Place], T], default: D) -> T | D:
        """Read this place; if that fails, note the mistake and take the default."""
        try:
            return read(self)
        except FieldError as mistake:
            self.source.problems.append(mistake.problem)
            return default

    def about(self, subject: str) -> Place:
        """The same place, as a named thing in messages."""
        return replace(self, subject=subject, path="")

    def string(self) -> str:
        node = self.node
        if isinstance(node, Scalar) and node.kind is ScalarKind.STRING:
            return node.text
        fixable = isinstance(node, Scalar) and node.kind is not ScalarKind.NULL
        raise self.mistake(f"expected a string, got {describe(node)}" + (" - put it in quotes" if fixable else ""))

    def choice(self, *words: str) -> str:
        """One of these words."""
        text = self.string()
        if text not in words:
            raise self.expected(" or ".join(filter(None, (", ".join(words[:-1]), words[-1]))))
        return text

    def integer(self, allowed: range, what: str = "a number") -> int:
        """A number within a range; `what` is its name in messages."""
        # Decimal digits only: YAML 1.1 would read 0644 as octal, 1:30 as 90 and 1_000 as 1000.
        if (
            isinstance(self.node, Scalar)
            and self.node.kind is ScalarKind.INTEGER
            and re.fullmatch("0|[1-9][0-9]{0,17}", self.node.text)
            and int(self.node.text) in allowed
        ):
            return int(self.node.text)
        raise self.expected(f"{what} from {allowed.start} to {allowed.stop - 1}")

    def duration(
        self, least: float = 0.0, why: str = "", most: float = _LONGEST, limit: str = "8760h, a year"
    ) -> float:
        """A duration in seconds, such as `100ms`, from `least` to `most`; `why` and `limit` name these limits in
        messages."""
        text = self.node.text if isinstance(self.node, Scalar) else ""
        match = DURATION.fullmatch(text)
        if match is None:
            raise self.expected('a duration such as "1s", "100ms", "1m" or "1h"')
        seconds = float(match[1]) * _SECONDS[match[2]]
        if seconds < least:
            raise self.expected(f"a duration of at least {why}")
        if seconds > most:
            raise self.expected(f"a duration of at most {limit}")
        return seconds

    def boolean(self) -> bool:
        if isinstance(self.node, Scalar) and self.node.kind is ScalarKind.BOOLEAN:
            return self.node.text.lower() in ("true", "yes", "on")
        raise self.expected("true or false")

    def items(self) -> list[Place]:
        """The entries of a list, each a place."""
        if not isinstance(self.node, List):
            raise self.expected("a list")
        if len(self.node.items) > MAX_ITEMS:
            raise self.mistake(f"expected at most {MAX_ITEMS:,} entries, got {len(self.node.items):,}")
        return [replace(self, node=node, path=f"{self.path}[{at}]") for at, node in enumerate(self.node.items)]

    def each(self, read: Callable[[Place], T]) -> tuple[T, ...]:
        """Read every entry of a list; an entry with a mistake is noted and left out."""
        return tuple(value for item in self.items() for value in item.attempt(lambda place: (read(place),), ()))

    def one_or_more(self, read: Callable[[Place], T]) -> tuple[T, ...]:
        """Read a list that is not empty, or a single value in place of a list of one."""
        if not isinstance(self.node, List):
            return (read(self),)
        if not self.node.items:
            raise self.expected("at least one entry")
        return self.each(read)

    def members(self) -> list[tuple[str, Place]]:
        """The entries of a mapping whose keys are up to the user."""
        if not isinstance(self.node, Map):
            raise self.expected("a mapping")
        return [(name, self.field(name)) for name in self.node.entries]

    def fields(self, shape: Shape) -> Fields:
        """The fields of a mapping; deviations from its shape are noted as mistakes.

        Raises:
            FieldError: it is not a mapping.
        """
        if not isinstance(self.node, Map):
            raise self.expected(f"a mapping with {_one_of(tuple(shape.fields))}")
        unknown = [name for name in self.node.entries if name not in shape.fields]
        for name in unknown:
            if self.source.lenient:
                self.key(name).warn(f"the field {quoted(name)} is ignored, {closest(name, shape.fields)}")
            else:
                self.unknown(name, shape.fields, shape.hints.get(name))
        given = {name: self.field(name) for name in self.node.entries if name in shape.fields}
        given = {name: it for name, it in given.items() if not (name in shape.sections and it.empty)}
        misspelled = bool(unknown) and not self.source.lenient
        self._check_together(shape, given, misspelled)
        return Fields(self, given, misspelled)

    def _check_together(self, shape: Shape, given: Mapping[str, Place], misspelled: bool) -> None:
        for name in shape.required if not misspelled else ():
            if name not in given:
                self.error(f"{name} is missing")
        for group in shape.some_of if not misspelled else ():
            if given.keys().isdisjoint(group):
                self.error(f"expected {'' if group in shape.one_of else 'at least '}one of {', '.join(group)}")
        for group in shape.one_of:
            first, *more = [name for name in group if name in given] or [""]
            for name in more:
                given[name].error(f"give only one of {', '.join(group)}; {first} is given too")
        for name, (why, others) in shape.alone.items():
            for other in others if name in given else ():
                if other in given:
                    given[other].error(f"is not allowed beside {name}: {why}")
        for name, other in shape.needs.items():
            if name in given and other not in given and not misspelled:
                given[name].error(f"is not allowed without {other}")

    def unknown(self, name: str, known: Iterable[str], hint: str | None = None) -> None:
        """Note that a given field does not exist."""
        self.key(name).error(f"unknown field {quoted(name)}, {hint or closest(name, known)}")

    def key(self, name: str) -> Place:
        """The place of the name of a given field."""
        assert isinstance(self.node, Map)
        return replace(self, node=Scalar(self.node.entries[name].line, name, ScalarKind.STRING, 1))

    @property
    def empty(self) -> bool:
        """Whether there is no value here, as behind the key of a list whose last entry was commented out."""
        return isinstance(self.node, Scalar) and self.node.kind is ScalarKind.NULL

    def has(self, *names: str) -> bool:
        """Whether this is a mapping with any of these fields."""
        return isinstance(self.node, Map) and any(name in self.node.entries for name in names)

    def field(self, name: str) -> Place:
        """A field that is given: see `has`."""
        assert isinstance(self.node, Map)
        return replace(self, node=self.node.entries[name].value, path=f"{self.path}.{name}" if self.path else name)


Reader: TypeAlias = Callable[[Place], T]


def text_that(fits: Callable[[str], object], what: str) -> Reader[str]:
    """A reader for a string that fits; `what` is its name in messages."""

    def read(place: Place) -> str:
        text = place.string()
        if not fits(text):
            raise place.expected(what)
        return text

    return read


@dataclass(frozen=True, slots=True)
class Fields:
    """The known fields of a mapping that are given."""

    place: Place
    """The mapping."""
    given: dict[str, Place]
    unknown: bool = False
    """There were unknown fields, which were noted: a field that seems to be missing may be misspelled."""

    def __contains__(self, name: str) -> bool:
        return name in self.given

    def __getitem__(self, name: str) -> Place:
        return self.given[name]

    def get(self, name: str, read: Reader[T], default: D) -> T | D:
        """Read a field; the default if it is not given, or if it is wrong. A mistake is noted."""
        return self.given[name].attempt(read, default) if name in self.given else default

    def require(self, name: str, read: Reader[T], stand_in: D) -> T | D:
        """Read a field; if it is not given, that is noted as a mistake."""
        if name not in self.given and not self.unknown:
            self.place.error(f"{name} is missing")
        return self.get(name, read, stand_in)

    def first(self, *names: str) -> str | None:
        """Which of these fields is given, None if none is."""
        return next((name for name in names if name in self.given), None)


def closest(name: str, known: Iterable[str]) -> str:
    """A suggestion of the name that was probably meant, as the end of a message.

    >>> closest("pahts", ["path", "methods"])
    'did you mean "path"?'
    """
    known = list(known)
    if similar := similar_to(name, known):
        return f"did you mean {quoted(similar)}?"
    return f"expected {_one_of(known)}"


def similar_to(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The most similar name, None if none is similar; `cutoff` as in `difflib.get_close_matches`."""
    import difflib  # noqa: PLC0415 - for mistakes alone

    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=cutoff)), None)


def _one_of(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN_NAMES])
    rest = len(names) - _SHOWN_NAMES
    return f"one of {shown}" + (f" and {rest} more" if rest > 0 else "")


def content_beside(place: Place) -> bytes:
    """The content of the file that a place names, relative to the document's file.

    Raises:
        FieldError: it cannot be read, or the document's author may not name files.
    """
    name = place.string()
    if not place.source.operated:
        raise place.mistake("a Kubernetes object cannot name a file of this machine: write its content here")
    try:
        content = place.source.files.read(path := Path(place.source.file).parent / name)
    except UnreadableError as reason:
        raise place.mistake(f"{quoted(name)} {reason}") from None
    place.source.beside[path] = content
    return content
