"""Long ordered lists cut into short ones, so that the last of 10,000 routes costs Envoy no more than the last of 10.

Envoy scans a virtual host's routes in order. Its matcher tree finds the longest key that a path starts with, and scans
the routes under that key alone. So each key's list must hold, in order, all routes that may fit a path that starts
with this key and with no longer one: those whose own path starts so, and those that may fit anywhere (regexes, tests of
headers alone, shorter prefixes). Repeating the latter under every key would be quadratic; `buckets` makes a key only
where it separates at least as many routes as it repeats, and repeats at most MAX_REPEATED times as many in all.
"""

from __future__ import annotations

import os.path
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Final, TypeVar

T = TypeVar("T")

MAX_REPEATED: Final = 2
"""How many repeated routes there may be for each route."""

ROOT: Final = "/"
"""What every path starts with."""


def buckets(routes: Sequence[tuple[str | None, T]]) -> dict[str, list[T]]:
    """The list of routes for each key.

    >>> buckets([("/a/x", 1), ("/a/y", 2), (None, 3)])
    {'/': [3], '/a/': [3], '/a/x': [1, 3], '/a/y': [2, 3]}

    Args:
        routes: in order, each with what every path that fits it starts with; None: nothing is known.
    """
    allowed = MAX_REPEATED * len(routes)
    result: dict[str, list[T]] = {}
    # Places in `routes`, in order, that may fit a path that starts with a key. Breadth first: the keys that separate
    # most come first, if not all are allowed.
    pending = deque([(ROOT, list(range(len(routes))))])
    while pending:
        key, places = pending.popleft()
        longer: dict[str, list[int]] = defaultdict(list)
        kept: list[int] = []
        for place in places:
            start = routes[place][0]
            if start is None or len(start) <= len(key):
                kept.append(place)
            else:
                longer[start[: len(key) + 1]].append(place)
        repeated = list(kept)
        for group in longer.values():
            if len(repeated) <= min(len(group), allowed):
                allowed -= len(repeated)
                starts = [routes[place][0] or "" for place in group]
                common = os.path.commonprefix(starts)  # noqa: RUF071 - characters are meant, not path elements
                pending.append((common, sorted([*repeated, *group])))
            else:
                kept += group
        result[key] = [routes[place][1] for place in sorted(kept)]
    return result
