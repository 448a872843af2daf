"""Results remembered by the identity of what they were made from: for dictionaries, which have no hash."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, TypeVar

REMEMBERED: Final = 1 << 15
"""How many results are kept, and how many routes `translate` keeps: three times the rules of a large installation."""

R = TypeVar("R")


def by_identity(function: Callable[..., R]) -> Callable[..., R]:
    """Call a function once for the same objects in the same order. They must not be changed after that."""
    results: dict[tuple[int, ...], tuple[tuple[Any, ...], R]] = {}

    @functools.wraps(function)
    def remembering(*values: Any) -> R:
        key = tuple(map(id, values))
        found = results.get(key)
        if found is None:
            if len(results) >= REMEMBERED:
                results.clear()
            # Being kept, the objects keep their ids from being given to other ones.
            found = results[key] = (values, function(*values))
        return found[1]

    return remembering
