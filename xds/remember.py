"""What is remembered between builds, by the content of the arguments.

`functools.lru_cache` keeps a number of results, `by_size` a number of bytes. `Frozen` makes a key of a dictionary.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, Final, ParamSpec, TypeVar

from cachetools import LRUCache, cached

from rejoinder.rules.leftovers import OTHERS

REMEMBERED: Final = 1 << 15
"""How many results of a function called for every rule are kept: three times as many as a large site has rules."""

_REMEMBERED_BYTES: Final = REMEMBERED << 10

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")
P = ParamSpec("P")


class Frozen(dict[K, V]):
    """A dictionary that is never changed. Its hash is computed once, from its content."""

    __slots__ = ("_hash",)

    def __hash__(self) -> int:  # type: ignore[override]
        try:
            return self._hash
        except AttributeError:
            self._hash: int = hash(_hashable(dict(self)))
            return self._hash


def frozen(values: dict[K, V]) -> Frozen[K, V]:
    return values if isinstance(values, Frozen) else Frozen(values)


def _hashable(value: dict[Any, Any] | list[Any]) -> Hashable:
    inner = value.values() if isinstance(value, dict) else value
    parts = [_hashable(part) if type(part) in _PLAIN else part for part in inner]
    return frozenset(zip(value, parts, strict=True)) if isinstance(value, dict) else tuple(parts)


_PLAIN: Final = (dict, list)


def by_size(size: Callable[[Any], int]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Remember the most recently used results of a function, up to 32 MB of them.

    Args:
        size: of a result, in bytes; the arguments count as one kilobyte.
    """
    results: LRUCache[Any, Any] = LRUCache(_REMEMBERED_BYTES, lambda result: size(result) + 1024)
    lock = threading.Lock()

    def empty() -> None:
        with lock:
            results.clear()

    OTHERS.append(empty)
    return cached(results, lock=lock)
