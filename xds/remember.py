"""Results remembered by the identity of what they were made from: for dictionaries, which have no hash."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, TypeVar

REMEMBERED: Final = 1 << 15
"""How many results are kept, and how many routes `translate` keeps: three times the rules of a large installation."""

R = TypeVar("R")


def by_identity(function: Callable[[Any], R]) -> Callable[[Any], R]:
    """Call a function once for each object. An object must not be changed after that."""
    results: dict[int, tuple[Any, R]] = {}

    @functools.wraps(function)
    def remembering(value: Any) -> R:
        found = results.get(id(value))
        if found is None:
            if len(results) == REMEMBERED:
                results.clear()
            # Being kept, the object keeps its id from being given to another one.
            found = results[id(value)] = (value, function(value))
        return found[1]

    return remembering
