"""Results remembered by the identity of what they were made from: for dictionaries, which have no hash.

Text and numbers count by their value.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, TypeVar

from rejoinder.rules.leftovers import OTHERS

REMEMBERED: Final = 1 << 15
"""How many results are kept of a function that is called for each rule: three times those of a large installation."""

REMEMBERED_BYTES: Final = REMEMBERED << 10
"""How many bytes, where results may be large: of what does not come in small pieces, a few dozen edits."""

_MOST_VALUES: Final = 256
"""A result of more than that is not remembered: ten thousand routes in one list, with every edit another list."""

R = TypeVar("R")


def size(encoded: bytes) -> int:
    """As how many bytes a result counts, with what it was made from."""
    return len(encoded) + 1024


def by_identity(kept: int, weigh: Callable[[Any], int] = lambda _: 1) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Call a function once for the same objects, or equal texts and numbers, in the same order. What it is called with
    must not be changed after that.

    Args:
        kept: how many results, those that were asked for last.
        weigh: as how many a result counts.
    """

    def decorated(function: Callable[..., R]) -> Callable[..., R]:
        results: OrderedDict[tuple[str | int, ...], tuple[tuple[Any, ...], R]] = OrderedDict()
        weight, lock = 0, threading.Lock()

        def empty() -> None:
            nonlocal weight
            with lock:
                results.clear()
                weight = 0

        OTHERS.append(empty)

        @functools.wraps(function)
        def remembering(*values: Any) -> R:
            nonlocal weight
            if len(values) > _MOST_VALUES:
                return function(*values)
            key = tuple([value if isinstance(value, str | int) else id(value) for value in values])
            with lock:
                found = results.get(key)
                if found is not None:
                    results.move_to_end(key)
                    return found[1]
            result = function(*values)
            with lock:
                # Being kept, the objects keep their ids from being given to other ones.
                if key not in results:
                    results[key] = values, result
                    weight += weigh(result)
                while weight > kept:
                    _, (_, oldest) = results.popitem(last=False)
                    weight -= weigh(oldest)
            return result

        return remembering

    return decorated
