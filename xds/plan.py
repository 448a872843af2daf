"""The rules worked into each domain's routes, so that Envoy's router does all the matching.

A `Ruleset` goes in, a `Plan` comes out: for every domain an ordered list of routes, each with one action and, where the
upstream's status matters, an answer table. Pure, and ignorant of Envoy's messages: those are `translate`'s. What a plan
means is what `decide` says: tests hold the two against each other.

For every domain that anything names, Envoy picks the most specific one that fits the host; so a route or rule belongs
to a domain's list exactly if one of its own patterns covers that domain. Within the list, each route of the file is
split by the rules that add conditions of their own: first the requests that fit such a rule, then the rest.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import operator
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from rejoinder.rules.answers import AnswerTable, Reply, answer_table, reply
from rejoinder.rules.decide import NO_ROUTE_STATUS
from rejoinder.rules.matching import EVERYTHING, Meet, meet, wider_domains, wider_paths
from rejoinder.rules.model import (
    EVERY_PATH,
    RULE_FILES,
    Answer,
    Forward,
    PathKind,
    PathMatch,
    RateLimit,
    Redirect,
    Route,
    Rule,
    Ruleset,
)
from rejoinder.rules.problem import Problem
from rejoinder.xds.remember import REMEMBERED

# Rules that fall through and add conditions split a route in two each, with all the rules behind them: every
# combination has its own table. Twelve of them that do not exclude each other are 4,096 Envoy routes, and a few of them
# before thousands of rules that do not fall through are tens of thousands: more than anybody can have meant.
MAX_OVERLAPPING: Final = 12
MAX_COMBINATIONS: Final = 2**16


SMALL: Final = 64
"""What is made of a domain with at most so many routes and rules is remembered as a whole."""

NO_TABLE: Final = AnswerTable()

NO_ROUTE_NAME: Final = "no-route"
"""How the route is named that catches what no route of the file fits."""

Entry = TypeVar("Entry")
Key = TypeVar("Key", bound=Hashable)
Action = Reply | Redirect | Forward | None


class PlanError(ValueError):
    """The rules cannot be worked into routes; `problem` tells their author why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True, slots=True)
class PlannedRoute:
    """One route as Envoy gets it."""

    match: Meet
    action: Action
    """None: no route of the file fits, so this is Envoy's 404."""
    route: Route | None
    """The route of the file that the request takes."""
    rules: tuple[str, ...] = ()
    """The names of the rules that decide, in the order in which they are asked."""
    table: AnswerTable = NO_TABLE
    """What becomes of the status; empty where there is nothing to do."""

    def __hash__(self) -> int:
        return hash((self.route, self.rules))  # quick, and rarely the same for two

    @property
    def name(self) -> str:
        """Leads back to the file: the route's name, and behind `/rule/` the rules that decide, joined by `+`."""
        base = self.route.name if self.route else NO_ROUTE_NAME
        return f"{base}/rule/{'+'.join(self.rules)}" if self.rules else base

    @property
    def rate_limit(self) -> RateLimit | None:
        return self.route.rate_limit if self.route and isinstance(self.action, Forward) else None


@dataclass(frozen=True, slots=True)
class PlannedDomain:
    """The routes for one domain; the first that fits takes the request, and the last one fits every request."""

    domain: str
    routes: tuple[PlannedRoute, ...]
    group: str = RULE_FILES
    """The listeners that it is for."""
    forwarding: tuple[tuple[Route, Forward], ...] = field(init=False, compare=False, repr=False)
    """The routes of the file that ask an upstream, and how."""
    tables: tuple[AnswerTable, ...] = field(init=False, compare=False, repr=False)
    """Every answer table in use, once."""
    largest_body: int = field(init=False, compare=False, repr=False)
    """Of those that are sent without asking an upstream, in bytes."""
    splits_paths: bool = field(init=False, compare=False, repr=False)
    """Whether some route has more than one test of the path."""

    def __post_init__(self) -> None:
        forwarding: dict[tuple[Route, Forward], None] = {}
        tables: dict[AnswerTable, None] = {}
        largest, splits = 0, False
        for planned in self.routes:
            action = planned.action
            if isinstance(action, Reply):
                largest = max(largest, len(action.body))
            elif isinstance(action, Forward) and planned.route:
                forwarding[planned.route, action] = None
            if planned.table is not NO_TABLE and planned.table:
                tables[planned.table] = None
            splits = splits or len(planned.match.paths) > 1
        object.__setattr__(self, "forwarding", tuple(forwarding))
        object.__setattr__(self, "tables", tuple(tables))
        object.__setattr__(self, "largest_body", largest)
        object.__setattr__(self, "splits_paths", splits)


@dataclass(frozen=True, slots=True)
class Plan:
    domains: tuple[PlannedDomain, ...]
    """For each group of listeners, one for every domain that a route or rule names, and `*`, in order of mention."""

    def by_group(self) -> dict[str, Plan]:
        """The plan of each group of listeners."""
        groups = dict.fromkeys(domain.group for domain in self.domains)
        return {group: Plan(tuple(each for each in self.domains if each.group == group)) for group in groups}

    def tables(self) -> tuple[AnswerTable, ...]:
        """Every answer table in use, once."""
        return tuple(dict.fromkeys(table for domain in self.domains for table in domain.tables))

    def forwarding(self) -> Iterator[tuple[Route, Forward]]:
        """The routes of the file that ask an upstream, and how; some more than once."""
        return (each for domain in self.domains for each in domain.forwarding)

    def has_cors(self) -> bool:
        """Whether any route says which origins may read its responses."""
        return any(forward.cors is not None for _, forward in self.forwarding())

    def rate_limits(self) -> dict[str, RateLimit]:
        """The limits in use, by the name of the file's route."""
        return {route.name: route.rate_limit for route, _ in self.forwarding() if route.rate_limit}

    @property
    def largest_body(self) -> int:
        """Of those that are sent without asking an upstream, in bytes."""
        return max((domain.largest_body for domain in self.domains), default=0)

    @property
    def splits_paths(self) -> bool:
        """Whether some route has more than one test of the path."""
        return any(domain.splits_paths for domain in self.domains)


def plan(ruleset: Ruleset) -> Plan:
    """Work the rules into the routes of each domain.

    Raises:
        PlanError: rules with `fallthrough` that overlap in too many ways; show its problem to the author.
    """
    rules = _Index((rule, rule.scope.domains or ("*",)) for rule in ruleset.rules)
    groups = ((group, ruleset.of_group(group).routes) for group in ruleset.groups)
    return Plan(tuple(domain for group, routes in groups for domain in _plan_group(group, routes, rules)))


def _plan_group(group: str, routes: Iterable[Route], rules: _Index[Rule, str]) -> Iterator[PlannedDomain]:
    by_domain = _Index((route, route.domains or ("*",)) for route in routes)
    for domain in dict.fromkeys([*by_domain.keys(), *rules.keys(), "*"]):
        wider = wider_domains(domain)
        its_routes, its_rules = tuple(by_domain.find(wider)), tuple(rules.find(wider))
        plan_domain = _plan_small_domain if len(its_routes) + len(its_rules) <= SMALL else _plan_domain
        yield plan_domain(domain, group, its_routes, its_rules)


def _placed_by_key(entries: Iterable[tuple[Entry, Iterable[Key]]]) -> dict[Key, list[tuple[int, Entry]]]:
    """The entries of an ordered list by their keys, with their places."""
    by_key: dict[Key, list[tuple[int, Entry]]] = defaultdict(list)
    for place, (entry, keys) in enumerate(entries):
        for key in keys:
            by_key[key].append((place, entry))
    return by_key


class _Index(Generic[Entry, Key]):
    """Entries of an ordered list by their keys; what is found comes in the order of the list."""

    def __init__(self, entries: Iterable[tuple[Entry, Iterable[Key]]]) -> None:
        self._by_key = _placed_by_key(entries)

    def keys(self) -> Iterable[Key]:
        return self._by_key

    def find(self, keys: Iterable[Key]) -> list[Entry]:
        found = {place: entry for key in keys for place, entry in self._by_key.get(key, ())}
        return [found[place] for place in sorted(found)]


def _plan_domain(domain: str, group: str, routes: Sequence[Route], rules: Sequence[Rule]) -> PlannedDomain:
    return PlannedDomain(domain, tuple(_plan_routes(routes, rules)), group)


# There may be ten thousand of them, and an edit is about one.
_plan_small_domain: Final = functools.lru_cache(maxsize=REMEMBERED)(_plan_domain)


def _plan_routes(routes: Sequence[Route], rules: Sequence[Rule]) -> Iterator[PlannedRoute]:
    candidates = _Candidates(rules)
    taken: set[PathMatch] = set()
    for route in (*routes, None):
        match = EVERYTHING if route is None else _own_match(route)
        for planned in _plan_route(route, match, candidates):
            if not (taken and _is_taken(planned.match, taken)):
                yield planned
        if match == EVERYTHING:
            return  # what stands behind it is never reached
        if match == Meet(match.paths):
            taken.update(match.paths)


def _is_taken(match: Meet, taken: Set[PathMatch]) -> bool:
    """Whether an earlier route, for some path and all that can be with it, takes every request that fits."""
    return any(wider in taken for path in match.paths for wider in wider_paths(path))


def _plan_route(route: Route | None, match: Meet, candidates: _Candidates) -> list[PlannedRoute]:
    planned = list(_Splitting(route, candidates).parts(match, -1, (), 0))
    # A part that does the same as the rest behind it need not be told apart from it.
    kept: list[PlannedRoute] = []
    for new in reversed(planned):
        if not (kept and kept[-1].match == match and (new.action, new.table) == (kept[-1].action, kept[-1].table)):
            kept.append(new)
    return kept[::-1]


class _Candidates:
    """The rules of a domain; finds those that a route must be split by, without a look at ten thousand others."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        by_route = _placed_by_key((rule, rule.scope.routes or (None,)) for rule in rules)
        self._by_route: dict[str | None, _ByPath] = {name: _ByPath(placed) for name, placed in by_route.items()}

    def find(self, route: Route | None, match: Meet, behind: int) -> Iterable[_Placed]:
        """At least the rules that may fit a request that takes the route and fits the match, in order, with places.

        Args:
            behind: the place after which to begin; -1: with the first.
        """
        of_all, own = (self._by_route.get(name, NO_RULES) for name in (None, route.name if route else None))
        found = of_all.find(match, behind)
        return sorted([*found, *own.find(match, behind)], key=_place) if route and own is not NO_RULES else found


_Placed = tuple[int, Rule]
"""A rule, and its place in the order of all."""

_place: Final = operator.itemgetter(0)


class _ByPath:
    """Some rules by their paths."""

    def __init__(self, placed: list[_Placed]) -> None:
        self._placed = placed
        self._loose: list[_Placed] = []
        """Those that no path can be found by."""
        self._by_path: dict[str, list[_Placed]] | None = None
        """The others; made when it is needed."""
        self._paths: list[str] = []
        """Sorted."""

    def find(self, match: Meet, behind: int) -> list[_Placed]:
        path = next((path for path in match.paths if path.kind is not PathKind.REGEX), None)
        found = self._placed if path is None else self._meeting(path)
        return found[bisect.bisect_right(found, behind, key=_place) :] if behind >= 0 else found

    def _meeting(self, path: PathMatch) -> list[_Placed]:
        by_path = self._index() if self._by_path is None else self._by_path
        wider = (each.value for each in wider_paths(path))
        narrower: list[str] = []
        if path.kind is PathKind.PREFIX:  # what begins with it and `/`, which comes before `0`
            begin, end = (bisect.bisect_left(self._paths, path.value + after) for after in "/0")
            narrower = self._paths[begin:end]
        found = (by_path.get(value, ()) for value in dict.fromkeys((*wider, *narrower)))
        return sorted(itertools.chain(self._loose, *found), key=_place)

    def _index(self) -> dict[str, list[_Placed]]:
        by_path: dict[str, list[_Placed]] = defaultdict(list)
        for placed in self._placed:
            path = placed[1].scope.request.path
            loose = path.kind is PathKind.REGEX or path == EVERY_PATH
            (self._loose if loose else by_path[path.value]).append(placed)
        self._by_path = dict(by_path)
        self._paths = sorted(by_path)
        return self._by_path


NO_RULES: Final = _ByPath([])


@dataclass(slots=True)
class _Splitting:
    """A route on its way into the parts that differ in the rules that are asked."""

    route: Route | None
    candidates: _Candidates
    combinations: int = 0

    def parts(self, match: Meet, behind: int, chain: tuple[Rule, ...], depth: int) -> Iterator[PlannedRoute]:
        """The parts of what fits a match, in the order in which Envoy must try them.

        Args:
            behind: the place of the last rule that was looked at; -1: none was.
            chain: the rules that are asked before the others.
            depth: how many of these add conditions to the route's own.
        """
        for place, rule in self.candidates.find(self.route, match, behind):
            if depth:
                alone, part = None, meet(match, rule.scope.request)
            else:
                alone = _alone(self.route, rule)
                part = alone.match if alone else None
            if part is None:
                continue
            if part == match:
                chain = (*chain, rule)
                if rule.final:
                    break
            elif rule.final:
                if depth:
                    self._count(rule, depth)
                yield alone if alone and not chain else _outcome(self.route, part, (*chain, rule))
            else:
                self._count(rule, depth + 1)
                yield from self.parts(part, place, (*chain, rule), depth + 1)
        yield _outcome(self.route, match, chain)

    def _count(self, rule: Rule, depth: int) -> None:
        self.combinations += 1
        if self.combinations > MAX_COMBINATIONS or depth > MAX_OVERLAPPING:
            raise PlanError(_too_many(rule))


# What follows from the same route and rules is remembered: after an edit, nearly all are the same as before.


@functools.lru_cache(maxsize=REMEMBERED)
def _own_match(route: Route) -> Meet:
    match = meet(EVERYTHING, route.request)
    assert match is not None, "a single match always meets everything"
    return match


@functools.lru_cache(maxsize=REMEMBERED)
def _alone(route: Route | None, rule: Rule) -> PlannedRoute | None:
    """What becomes of the requests that take the route and fit the rule, if no other is asked; None: there are none."""
    part = meet(_own_match(route) if route else EVERYTHING, rule.scope.request)
    return None if part is None else _outcome(route, part, (rule,))


def _too_many(rule: Rule) -> Problem:
    message = (
        f'rule "{rule.name}": expected rules with fallthrough that overlap in at most {MAX_COMBINATIONS:,} ways, with '
        f"each other and the rules behind them, and at most {MAX_OVERLAPPING} at once; got more: each combination of "
        "their conditions needs a route of its own. Give fewer of them conditions"
    )
    return Problem(rule.position, message)


@functools.lru_cache(maxsize=REMEMBERED)
def _outcome(route: Route | None, match: Meet, chain: tuple[Rule, ...]) -> PlannedRoute:
    """What `decide` says about the requests that fit, given the rules that fit them, in order."""
    names = tuple(rule.name for rule in chain)
    if chain and chain[0].unconditional:
        return PlannedRoute(match, reply(chain[0].answers[0], NO_ROUTE_STATUS), route, names[:1])
    action = None if route is None else route.action
    if isinstance(action, Answer):
        return PlannedRoute(match, reply(action, NO_ROUTE_STATUS), route)
    if isinstance(action, Redirect):
        return PlannedRoute(match, action, route)
    return PlannedRoute(match, action, route, names, answer_table(chain))
