"""Counts of what rules have done, in one form for all placements: a value (`Counts`), and `Tally`, which makes it.

In: answers as they are given, or as Envoys report them. Out: plain numbers. Pure; nothing is raised. However many
statuses upstreams invent, there are at most MOST_SERIES series, and one more for each rule, placement and kind.
"""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

NONE: Final = "none"
"""In place of the original status, for an answer that is given without asking an upstream."""

OTHER: Final = "other"
"""In place of statuses that are counted together, because there are too many."""

MOST_SERIES: Final = 20_000
"""Series with their exact statuses. A rule mostly has one or two."""


class Kind(enum.StrEnum):
    """What is counted; the value is the name of the metric."""

    ANSWERED = "answers"
    """The rule has answered."""
    OBSERVED = "observed"
    """The rule would have answered, but only observes."""
    PASSED = "passed"
    """The rule has let a response pass that later rules may answer, or a request that a later rule answers."""
    ROUTE = "route_answers"
    """No rule: a route has answered or redirected by itself."""
    NO_PAGE = "page_failures"
    """The service that the rule asks for a page did not send one. Statuses are not counted."""


class Series(NamedTuple):
    """What is counted separately."""

    rule: str
    """The rule's name; for ROUTE, the route's."""
    placement: str
    """Where: `native`, `module` or `ext_proc`."""
    original_status: str
    """The status of the upstream or of Envoy itself; NONE: no upstream was asked; or OTHER."""
    status: str
    """The status that was sent, or OTHER."""
    kind: Kind = Kind.ANSWERED


@dataclass(frozen=True, slots=True)
class RuleCounts:
    """What one rule has done, in all placements and all known Envoys."""

    hits: int = 0
    """Answers."""
    last_hit: float | None = None
    """When the last answer was given, or reported, in UNIX seconds; None: never."""
    by_original_status: Mapping[str, int] = field(default_factory=dict)
    """The answers, by original status; see `Series`."""
    observed: int = 0
    """Responses that it would have answered if it did not only observe."""
    passed: int = 0
    """Responses and requests that it has let pass."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What rules have done so far."""

    series: Mapping[Series, int] = field(default_factory=dict)
    last: Mapping[str, float] = field(default_factory=dict)
    """When a rule has last answered, by its name, in UNIX seconds."""

    def total(self, kind: Kind = Kind.ANSWERED) -> dict[str, int]:
        """By the names of rules, or of routes."""
        total: Counter[str] = Counter()
        for series, number in self.of(kind):
            total[series.rule] += number
        return dict(total)

    def of(self, kind: Kind) -> list[tuple[Series, int]]:
        return [(series, number) for series, number in self.series.items() if series.kind is kind]

    def by_rule(self) -> dict[str, RuleCounts]:
        """The rules that have done something, by their names."""
        hits, observed, passed = map(self.total, (Kind.ANSWERED, Kind.OBSERVED, Kind.PASSED))
        statuses: dict[str, Counter[str]] = defaultdict(Counter)
        for series, number in self.of(Kind.ANSWERED):
            statuses[series.rule][series.original_status] += number
        return {
            name: RuleCounts(
                hits.get(name, 0), self.last.get(name), dict(statuses[name]), observed.get(name, 0), passed.get(name, 0)
            )
            for name in hits | observed | passed
        }


class Tally:
    """Counts that one thread makes, and any thread may read."""

    def __init__(self) -> None:
        self._series: dict[Series, int] = {}
        self._last: dict[str, float] = {}

    def add(self, series: Series, when: float, number: int = 1) -> None:
        """Args: when: in UNIX seconds."""
        known = self._series.get(series)
        if known is None and len(self._series) >= MOST_SERIES:
            series = series._replace(original_status=OTHER, status=OTHER)
            known = self._series.get(series)
        self._series[series] = (known or 0) + number
        if series.kind is Kind.ANSWERED:
            self._last[series.rule] = when

    def keep(self, rules: Collection[str], routes: Collection[str] = ()) -> None:
        """Forget all other rules and routes."""
        self._series = {
            series: number
            for series, number in self._series.items()
            if series.rule in (routes if series.kind is Kind.ROUTE else rules)
        }
        self._last = {rule: when for rule, when in self._last.items() if rule in rules}

    def counts(self) -> Counts:
        return Counts(dict(self._series), dict(self._last))


def added(counts: Iterable[Counts]) -> Counts:
    """The sum of several counts."""
    series: Counter[Series] = Counter()
    last: dict[str, float] = {}
    for count in counts:
        series.update(count.series)
        for rule, when in count.last.items():
            last[rule] = max(when, last.get(rule, when))
    return Counts(series, last)
