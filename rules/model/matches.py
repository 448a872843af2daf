"""Tests of requests and responses: paths, headers, query parameters, statuses; and the limits that Envoy sets."""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass
from typing import Final, NamedTuple

Header = tuple[str, str]
"""One header field: the name in lower case, the value as it is sent."""

STATUSES: Final = range(200, 600)
"""The statuses that an answer may have and may be asked for: final ones (RFC 9110, section 15)."""

MAX_REGEX_SIZE: Final = 5000
"""In instructions of RE2's program: each byte of the tested text may take as many steps."""

RUNTIME: Final = {
    "layers": [
        {"name": "rejoinder", "static_layer": {"re2.max_program_size.error_level": 2 * MAX_REGEX_SIZE}},
        {"name": "admin", "admin_layer": {}},  # present by default; it overrides the others
    ]
}
"""`layered_runtime` of an Envoy. Its own limit is 100 instructions: a UUID has 72. This is twice our limit, as versions
of RE2 differ."""

MAX_HEADERS: Final = 500
"""In a list: Envoy refuses a route that adds more than 1,000, and they may come from two lists."""

MAX_TEXT: Final = 4096
"""In bytes, for a path and any other text that becomes a regular expression in Envoy: each takes an instruction."""


MAX_PATH: Final = 4096
"""Characters of a path: https://man7.org/linux/man-pages/man7/path_resolution.7.html"""


class Position(NamedTuple):
    """Where something stands in the files that were loaded."""

    file: str
    """The file's path, as the user gave it."""
    line: int
    """Counted from 1; 0 where the file as a whole is meant."""

    def __str__(self) -> str:
        file = printable(self.file, MAX_PATH)
        return f"{file}:{self.line}" if self.line else file


def printable(text: str, most: int) -> str:
    """A text from outside, for a terminal or a log: on one line, without control characters, and cut.

    >>> printable("a\\nb\\x1b[2J", 80)
    'a\\\\nb\\\\x1b[2J'
    """
    shown = text if len(text) <= most else text[: most - 3] + "..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)


class PathKind(enum.Enum):
    __hash__ = object.__hash__  # members are compared by identity; an Enum's own hash is ten times as slow

    EXACT = "path"
    PREFIX = "prefix"
    REGEX = "regex"


@dataclass(frozen=True, slots=True)
class PathMatch:
    """A test of the path as Envoy normalizes it, without the query."""

    kind: PathKind
    value: str
    """EXACT: the whole path. PREFIX: whole path elements, so `/a` fits `/a` and `/a/b`, not `/ab`; no `/` at the end
    unless it is `/` itself, which fits every path. REGEX: RE2 syntax, must fit the whole path."""

    def __hash__(self) -> int:
        return hash(self.value)


EVERY_PATH: Final = PathMatch(PathKind.PREFIX, "/")


class StringKind(enum.Enum):
    __hash__ = object.__hash__

    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    CONTAINS = "contains"
    REGEX = "regex"
    PRESENT = "present"


@dataclass(frozen=True, slots=True)
class StringMatch:
    """A test of the value of a header or query parameter; case matters. A missing one never fits."""

    kind: StringKind
    value: str = ""
    """Empty for PRESENT. REGEX: RE2 syntax, must fit the whole value."""


@dataclass(frozen=True, slots=True)
class RequestMatch:
    """What a request must be like. All that is given must fit; the default fits every request."""

    path: PathMatch = EVERY_PATH
    methods: tuple[str, ...] = ()
    """Any of these, exactly; empty: every method."""
    headers: tuple[tuple[str, StringMatch], ...] = ()
    """By name in lower case. If a header is sent in several lines, any of them may fit, except for headers that Envoy
    joins (`request.JOINED_HEADERS`)."""
    query: tuple[tuple[str, StringMatch], ...] = ()
    """By parameter name, as it stands in the URL (nothing is decoded). If a parameter is sent several times, the
    first value counts."""


EVERY_REQUEST: Final = RequestMatch()


@functools.lru_cache(maxsize=4096)  # there are some thousand patterns, and ten thousand rules that say 5xx
def _statuses(pattern: str) -> tuple[int, ...]:
    return tuple(
        status
        for status in STATUSES
        if all(digit in ("x", given) for digit, given in zip(pattern, str(status), strict=True))
    )


@dataclass(frozen=True, slots=True)
class StatusPattern:
    """Upstream statuses, as `enable_on_status` names them: `503`, `50x`, `5xx`."""

    digits: str
    """Up to three digits; `x`, and what is missing at the end, fits every digit. Three digits are one exact status."""

    def statuses(self) -> tuple[int, ...]:
        """The statuses of upstream responses that fit it."""
        return _statuses(str(self))

    @property
    def exactness(self) -> int:
        """How many digits it names."""
        return sum(digit.isdigit() for digit in self.digits)

    def __str__(self) -> str:
        return self.digits.ljust(3, "x")
