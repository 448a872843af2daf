"""Empties the caches of this package when edits have left too much in them.

In: the rules before and after an edit. The caches are large, so that nothing is computed twice for ten thousand rules;
for few rules with large bodies they would keep thousands of versions. So they are emptied when that may be much; the
next edit then costs as much as a start. Nothing is raised. `Leftovers` is the way in.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Final

from rejoinder.rules.model import Rule

MOST: Final = 64 << 20
"""Bytes."""
OF_EDIT: Final = 256 << 10
"""... of each edit, however many rules it changes."""
OF_RULE: Final = 8 << 10
"""... of each changed rule, beside its bodies."""
COPIES: Final = 4
"""Of a body, in the caches."""

OTHERS: Final[list[Callable[[], None]]] = []
"""Functions that empty caches other than those of `functools`."""


class Leftovers:
    """Of one process."""

    def __init__(self) -> None:
        self._bytes = 0

    def add(self, before: Iterable[Rule], after: Iterable[Rule]) -> None:
        """Rules have taken the place of others. May be called by any thread."""
        known = frozenset(before)
        self._bytes += OF_EDIT + sum(_size(rule) for rule in after if rule not in known)
        if self._bytes > MOST:
            self._bytes = 0
            _empty()


def _size(rule: Rule) -> int:
    bodies = [body for answer in rule.answers for body in (answer.body, *(variant.body for variant in answer.variants))]
    return OF_RULE + COPIES * sum(map(len, bodies))


def _empty() -> None:
    ours = [module for name, module in list(sys.modules.items()) if name.startswith("rejoinder.")]
    for cache in (
        value for module in ours for value in list(vars(module).values()) if hasattr(value, "cache_parameters")
    ):
        if cache.cache_parameters()["maxsize"] is not None:  # the others hold constants
            cache.cache_clear()
    for empty in OTHERS:
        empty()
