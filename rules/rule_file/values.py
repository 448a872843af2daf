"""Values that several sections of a rule file have: names, statuses, lists without repetition."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sized
from typing import Final, TypeVar

from rejoinder.rules.document import Map, Scalar, quoted
from rejoinder.rules.fields import Place, text_that
from rejoinder.rules.model import STATUSES, StatusPattern
from rejoinder.rules.shape import any_of, integer, like

_NAME: Final = re.compile(r"[A-Za-z0-9._/-]+")  # becomes part of Envoy resource names and statistics
_STATUS: Final = "[2-5][0-9]{2}"
_STATUS_PATTERN: Final = re.compile(_STATUS + "|(?=.*[xX])[1-5xX][0-9xX]{2}")

# Their schemas, for shapes.
NAME: Final = like(_NAME)
STATUS: Final = any_of(integer(STATUSES), like(_STATUS))
STATUS_OR_ORIGINAL: Final = any_of(integer(STATUSES), like(_STATUS, "original"))
STATUS_PATTERN: Final = any_of(integer(STATUSES), like(_STATUS_PATTERN))

T = TypeVar("T", bound=Sized)


name: Final = text_that(_NAME.fullmatch, "a name of letters, digits and . _ / -")
"""A reader for names that become part of Envoy's resource names."""


def named(place: Place, kind: str, default_name: str) -> Place:
    """A place as a named thing in messages; without a name, messages have the path of the place."""
    given = default_name
    if isinstance(place.node, Map) and "name" in place.node.entries:
        node = place.node.entries["name"].value
        if isinstance(node, Scalar) and node.text:
            given = node.text
    return place.about(f"{kind} {quoted(given)}") if given else place


def as_list(place: Place) -> Place:
    """A place that must be a list; for a mapping, the error says how to write a list."""
    if isinstance(place.node, Map) and place.node.entries:
        raise place.mistake('expected a list, got a mapping: begin each entry with "- "')
    return place


def distinct(values: Iterable[str]) -> tuple[str, ...]:
    """Values in their order, without repetition."""
    return tuple(dict.fromkeys(values))


def at_most(place: Place, most: int, what: str, value: T) -> T:
    """The value, if Envoy accepts its length; `what` names its parts in the message."""
    if len(value) > most:
        raise place.mistake(f"expected at most {most:,} {what}, got {len(value):,}")
    return value


def status(place: Place) -> int:
    """A status that an answer can have."""
    node = place.node
    # The plug-in takes numbers in quotes too.
    if isinstance(node, Scalar) and re.fullmatch("[0-9]{3}", node.text) and int(node.text) in STATUSES:
        return int(node.text)
    raise place.expected("a status from 200 to 599")


def status_pattern(place: Place) -> StatusPattern:
    """One entry of `enable_on_status`."""
    text = place.node.text if isinstance(place.node, Scalar) else ""
    if not _STATUS_PATTERN.fullmatch(text):
        raise place.expected("a status from 200 to 599, or three characters such as 5xx or 40x")
    pattern = StatusPattern(text.lower().rstrip("x"))
    if not pattern.statuses():
        place.warn(f"no response has a status such as {text}: they are 200 to 599")
    return pattern
