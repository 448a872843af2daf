"""Long ordered lists cut into short ones, so that the last of 10,000 routes costs Envoy no more than the last of 10.

Envoy scans a virtual host's routes in order. Its matcher tree finds the longest key that a path starts with, and scans
the routes under that key alone. So each key's list must hold, in order, all routes that may fit a path that starts
with this key and with no longer one: those whose own path starts so, and those that may fit anywhere (regexes, tests of
headers alone, shorter prefixes). Repeating the latter under every key would be quadratic; `buckets` makes a key only
where it separates at least as many routes as it repeats, and repeats at most MAX_REPEATED times as many in all.
"""

from __future__ import annotations

import bisect
import operator
import os.path
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

T = TypeVar("T")

MAX_REPEATED: Final = 2

ROOT: Final = "/"


class Start(NamedTuple):
    """What is known of the paths that fit a route."""

    text: str = ""
    """They all start with this text."""
    next: str | None = None
    """The characters that may follow it: empty: none; None: any."""


def buckets(routes: Sequence[tuple[Start, T]], short: int = 0) -> dict[str, list[T]]:
    """The list of routes for each key.

    >>> buckets([(Start("/a/x", ""), 1), (Start("/a/y", "/"), 2), (Start(), 3)])
    {'/': [3], '/a/': [3], '/a/y': [2, 3], '/a/x': [1, 3]}

    Args:
        routes: in order.
        short: lists with at most this many routes are not cut any further.
    """
    # Sorted, all texts that start with a key are neighbours: the work grows with the keys, not with the routes.
    starts = [start.text for start, _ in routes]
    order = sorted((place for place, text in enumerate(starts) if text.startswith(ROOT)), key=starts.__getitem__)
    texts = [starts[place] for place in order]
    result: dict[str, list[T]] = {}
    # Entries: a key, the part of `order` that starts with it, the routes that may fit all of this part, and the
    # repetitions so far for each route of the part.
    anywhere = [place for place, text in enumerate(starts) if not text.startswith(ROOT)]
    pending = [(ROOT, 0, len(order), anywhere, 0.0)]
    while pending:
        key, begin, end, above, repetitions = pending.pop()
        longer = bisect.bisect_right(texts, key, begin, end)
        own = order[begin:longer]
        kept = [*above, *own]
        if len(above) + end - begin <= short:
            kept += order[longer:end]
            longer = end
        while longer < end:
            next_char = texts[longer][len(key)]
            until = bisect.bisect_right(texts, next_char, longer, end, key=operator.itemgetter(len(key)))
            repeated = [*above, *(place for place in own if routes[place][0].next in (None, next_char))]
            spent = repetitions + len(repeated) / (until - longer)
            if len(repeated) <= until - longer and spent <= MAX_REPEATED:
                common = os.path.commonprefix([texts[longer], texts[until - 1]])  # noqa: RUF071 - of characters
                pending.append((common, longer, until, repeated, spent))
            else:
                kept += order[longer:until]
            longer = until
        result[key] = [routes[place][1] for place in sorted(kept)]
    return result
