"""Results remembered by the identity of what they were made from: for dictionaries, which have no hash."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, TypeVar

REMEMBERED: Final = 1 << 15
"""How many results are kept of a function that is called for each rule: three times those of a large installation."""

_MOST_VALUES: Final = 256
"""A result of more than that is not remembered: ten thousand routes in one list, with every edit another list."""

R = TypeVar("R")


def by_identity(kept: int) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Call a function once for the same objects in the same order. They must not be changed after that.

    Args:
        kept: how many results, those that were asked for last.
    """

    def decorated(function: Callable[..., R]) -> Callable[..., R]:
        results: OrderedDict[tuple[int, ...], tuple[tuple[Any, ...], R]] = OrderedDict()

        @functools.wraps(function)
        def remembering(*values: Any) -> R:
            if len(values) > _MOST_VALUES:
                return function(*values)
            key = tuple(map(id, values))
            found = results.pop(key, None)
            if found is None:
                found = values, function(*values)
            # At the end, as the last one that was asked for. Being kept, the objects keep their ids from being given to
            # other ones. (Each step is one of the interpreter's: several threads may call this.)
            results[key] = found
            if len(results) > kept:
                results.popitem(last=False)
            return found[1]

        return remembering

    return decorated
