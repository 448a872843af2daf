"""The history of the files since the start: each edit, what it changed, and what Envoys reported about it.

The event loop writes it, other threads may read. A client may cause any number of events, so all of it is bounded.
"""

from __future__ import annotations

import bisect
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rejoinder.rules.model import Listener, Route, Rule, Ruleset, Upstream, printable
from rejoinder.xds.translate.listeners import listener_name

MOST_EDITS: Final = 50
MOST_NODES: Final = 1000
"""For each edit, of how many Envoys it is kept whether they accepted or rejected it."""
MOST_NAMES: Final = 20
MOST_SAID: Final = 3
"""Names in a line, of each kind."""
LONGEST_NAME: Final = 60


@dataclass(frozen=True, slots=True)
class Names:
    """Some of the things that are new, changed or removed."""

    number: int
    some: tuple[str, ...]


Changes = Mapping[str, Mapping[str, Names]]
"""By kind (`rules`, `routes`, `upstreams`, `listeners`), and by `added`, `changed`, `removed` and `moved`."""


@dataclass(frozen=True, slots=True)
class Rejection:
    message: str
    """Envoy's words."""
    about: tuple[str, ...]
    """The places in the files that the message is about, as `blame` finds them."""
    what_now: str


@dataclass(slots=True)
class Edit:
    """What the files said at one time."""

    version: str
    """Of the snapshot; empty: it could not be used."""
    errors: int
    changes: Changes
    time: float = field(default_factory=time.time)
    accepted: dict[str, None] = field(default_factory=dict)
    """By node."""
    rejected: dict[str, Rejection] = field(default_factory=dict)


@dataclass(slots=True)
class History:
    edits: deque[Edit] = field(default_factory=lambda: deque(maxlen=MOST_EDITS))
    """The latest last."""

    def accepted(self, node: str, version: str) -> None:
        if (edit := self.of(version)) and len(edit.accepted) < MOST_NODES:
            edit.accepted[node] = None

    def rejected(self, node: str, version: str, rejection: Rejection) -> None:
        if (edit := self.of(version)) and len(edit.rejected) < MOST_NODES:
            edit.rejected[node] = rejection

    def of(self, version: str) -> Edit | None:
        return next((edit for edit in reversed(tuple(self.edits)) if edit.version == version), None)


def differences(before: Ruleset, after: Ruleset) -> Changes:
    """What differs in `after`, by name."""
    changes: dict[str, dict[str, Names]] = {}
    for kind in ("rules", "routes", "upstreams", "listeners"):
        old, new = ({_name(thing): thing for thing in getattr(side, kind)} for side in (before, after))
        groups = {
            "added": [name for name in new if name not in old],
            "changed": [name for name, thing in new.items() if name in old and old[name] != thing],
            "removed": [name for name in old if name not in new],
        }
        if kind in ("rules", "routes"):  # the order of the others has no meaning
            groups["moved"] = _moved(list(old), [name for name in new if name in old])
        if named := {word: Names(len(of), tuple(of[:MOST_NAMES])) for word, of in groups.items() if of}:
            changes[kind] = named
    return changes


def in_words(changes: Changes, after: Ruleset) -> str:
    """What an edit has changed, in one line that is not too long: of each kind, the first names, and how many more."""
    return ", ".join(
        f"{word} {'' if kind == 'rules' else kind.removesuffix('s') + ' '}{_listed(names, _places(kind, word, after))}"
        for kind, groups in changes.items()
        for word, names in groups.items()
    )


def _places(kind: str, word: str, after: Ruleset) -> Mapping[str, str]:
    """The positions of the new things in the files, by name."""
    of_kind = getattr(after, kind) if word == "added" and kind != "listeners" else ()
    return {thing.name: f" ({thing.position})" for thing in of_kind if thing.position.line}


def _listed(names: Names, places: Mapping[str, str]) -> str:
    shown = [f"{printable(name, LONGEST_NAME)}{places.get(name, '')}" for name in names.some[:MOST_SAID]]
    more = names.number - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _name(thing: Rule | Route | Upstream | Listener) -> str:
    return listener_name(thing) if isinstance(thing, Listener) else thing.name


def _moved(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """The smallest set of names without which the others keep their order.

    >>> _moved("abcd", "dabc"), _moved("abcd", "abd"), _moved("abcd", "cdab")
    (['d'], [], ['c', 'd'])
    """
    place = {name: number for number, name in enumerate(before)}
    # A longest ascending run of places (https://en.wikipedia.org/wiki/Longest_increasing_subsequence): for each length,
    # the smallest place at which such a run ends; and for each name, its predecessor in its run.
    ends: list[int] = []
    previous: dict[int, int | None] = {}
    for at in map(place.__getitem__, after):
        length = bisect.bisect(ends, at)
        previous[at] = ends[length - 1] if length else None
        ends[length : length + 1] = [at]
    kept, last = set[int](), ends[-1] if ends else None
    while last is not None:
        kept.add(last)
        last = previous[last]
    return [name for name in after if place[name] not in kept]
