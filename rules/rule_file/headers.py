"""`headers` of an answer, and names of headers in general."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from rejoinder.rules.document import List, Map, Scalar, ScalarKind, quoted
from rejoinder.rules.fields import Place
from rejoinder.rules.http import CONNECTION_HEADERS, TOKEN
from rejoinder.rules.model import MAX_HEADERS, Header
from rejoinder.rules.rule_file.values import at_most
from rejoinder.rules.shape import any_of, by_name, like, listed, one_or_more

MAX_HEADER_SIZE: Final = 16384
"""In bytes, for a name or a value: Envoy refuses a longer `HeaderValue`."""

_OVERWRITTEN_HEADERS: Final = frozenset({"date", "server"})

_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_PAIR: Final = rf"[ \t]*{TOKEN.pattern}[ \t]*={_VALUE.pattern}"

HEADER_NAME: Final = like(TOKEN)
HEADERS: Final = any_of(
    listed(like(_PAIR)), by_name(HEADER_NAME, one_or_more(any_of(like(_VALUE), {"type": "number"})))
)
"""The schema of `headers` of an answer."""


def headers(place: Place) -> tuple[Header, ...]:
    """An answer's headers: a list of `name=value`, or a mapping from names to one or several values."""
    given: list[Header | None]
    if isinstance(place.node, Map):
        given = [value for name, member in place.members() for value in _header_values(name, member)]
    elif isinstance(place.node, List):
        given = [item.attempt(_header_pair, None) for item in place.items()]
    else:
        raise place.expected("a list of name=value, or a mapping")
    kept = at_most(place, MAX_HEADERS, "headers", tuple(header for header in given if header is not None))
    if sum(name == "content-type" for name, _ in kept) > 1:
        place.error("content-type is given twice")
    return kept


# A list of values is a header that is sent several times.
def _header_values(name: str, place: Place) -> Sequence[Header | None]:
    return place.attempt(lambda it: it.one_or_more(lambda item: _header(item, name, _value_text(item))), ())


def _value_text(place: Place) -> str:
    # `Retry-After: 30` is usually written without quotes, and a number is sent as it is written.
    node = place.node
    if isinstance(node, Scalar) and node.kind in (ScalarKind.INTEGER, ScalarKind.FLOAT):
        return node.text
    return place.string()


def _header_pair(place: Place) -> Header | None:
    if isinstance(place.node, Map) and len(place.node.entries) == 1:
        (entry,) = place.node.entries.items()
        value = entry[1].value.text if isinstance(entry[1].value, Scalar) else "..."
        raise place.mistake(f"expected name=value, got a mapping: write {quoted(f'{entry[0]}={value}')}")
    name, equals, value = place.string().partition("=")
    if not equals:
        raise place.expected("name=value")
    return _header(place, name, value)


# None: the header is left out, and a warning says so.
def _header(place: Place, name: str, value: str) -> Header | None:
    name, value = header_name(place, name.strip(" \t")), value.strip(" \t")
    if name in CONNECTION_HEADERS:
        raise place.mistake(f"the header {name} cannot be set by an answer: Envoy sets it")
    if name == "content-length":
        place.warn("content-length is left out: it is always computed")
        return None
    if name in _OVERWRITTEN_HEADERS:
        place.warn(f"the header {name} has no effect: Envoy writes its own")
    if not _VALUE.fullmatch(value):
        raise place.mistake(f"the value of {name} has a line break or control character: {quoted(value)}")
    if len(value.encode()) > MAX_HEADER_SIZE:
        raise place.mistake(f"Envoy takes at most {MAX_HEADER_SIZE:,} bytes in a header's value")
    return name, value


def header_name(place: Place, text: str) -> str:
    """A header's name in lower case; an error names the place."""
    if not TOKEN.fullmatch(text):
        raise place.mistake(f"expected a header name, got {quoted(text)}")
    if len(text) > MAX_HEADER_SIZE:
        raise place.mistake(f"Envoy takes at most {MAX_HEADER_SIZE:,} bytes in a header's name")
    return text.lower()
