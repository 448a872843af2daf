"""The rules that answer without an upstream, and the routes, as ordered lists for Envoy's router.

A `Ruleset` goes in, a `Plan` comes out: for every domain an ordered list of routes, each with one action. Pure, and
ignorant of Envoy's messages: those are `translate`'s. What a plan means is what `decide` says about requests: tests
hold the two against each other. Conditional rules are the program's matter; only a `final` one in front of an
unconditional one counts here, for it keeps that one from answering.

Envoy picks the most specific domain for a host, so a list has what covers its domain. Rules stand in front of the
routes. Only where a rule is about some routes, or another such rule must be asked before it, it has to be worked into
the routes: each one is then split into the requests that fit the rule, and the rest.
"""

from __future__ import annotations

import bisect
import functools
import operator
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

from rejoinder.rules.answers import Reply, reply
from rejoinder.rules.decide import NO_ROUTE_STATUS
from rejoinder.rules.matching import EVERYTHING, Meet, host_test, meet, wider_domains, wider_paths
from rejoinder.rules.model import (
    EVERY_PATH,
    RULE_FILES,
    Answer,
    Forward,
    PathKind,
    PathMatch,
    RateLimit,
    Redirect,
    RequestMatch,
    Route,
    Rule,
    Ruleset,
)
from rejoinder.xds.remember import REMEMBERED

SMALL: Final = 64
"""What is made of a domain with at most so many routes and rules is remembered as a whole."""

REPEATED: Final = 1000
MAX_REPEATED: Final = 2
"""How many routes may be repeated so that the domains of rules have lists of their own: so many, and so many for each
route, rule and domain. Beyond that, rules stand in the list of a wider domain, with a test of the host."""

LONG_DOMAIN: Final = 64
"""In characters. A longer one always has a list of its own: Envoy limits the size of regular expressions."""

Entry = TypeVar("Entry")
Key = TypeVar("Key", bound=Hashable)
Action = Reply | Redirect | Forward | None


@dataclass(frozen=True, slots=True)
class PlannedRoute:
    """One route as Envoy gets it."""

    match: Meet
    action: Action
    """None: Envoy's own 404."""
    route: Route | None
    """The route of the file that the request takes; None: there is none, or it does not matter."""
    rule: str = ""
    """The name of the rule that answers."""

    def __hash__(self) -> int:
        return hash((self.route, self.rule))  # quick, and rarely the same for two

    @property
    def name(self) -> str:
        """Leads back to the file; the route's own name where the request takes it."""
        name = self.route.name if self.route else ""
        return "/".join(filter(None, (name, "rule", self.rule))) if self.rule else name

    @property
    def rate_limit(self) -> RateLimit | None:
        return self.route.rate_limit if self.route and isinstance(self.action, Forward) else None


@dataclass(frozen=True, slots=True)
class PlannedDomain:
    """The routes for one domain; the first that fits takes the request, and if none does, Envoy says 404."""

    domain: str
    routes: tuple[PlannedRoute, ...]
    group: str = RULE_FILES
    """The listeners that it is for."""
    forwarding: tuple[tuple[Route, Forward], ...] = field(init=False, compare=False, repr=False)
    """The routes of the file that ask an upstream, and how."""
    largest_body: int = field(init=False, compare=False, repr=False)
    """Of those that are sent without asking an upstream, in bytes."""
    splits_paths: bool = field(init=False, compare=False, repr=False)
    """Whether some route has more than one test of the path."""
    leads_nowhere: bool = field(init=False, compare=False, repr=False)
    """Whether some route is for requests that get Envoy's own 404."""

    def __post_init__(self) -> None:
        forwarding: dict[tuple[Route, Forward], None] = {}
        largest, splits, nowhere = 0, False, False
        for planned in self.routes:
            action = planned.action
            if isinstance(action, Reply):
                largest = max(largest, len(action.body))
            elif isinstance(action, Forward) and planned.route:
                forwarding[planned.route, action] = None
            nowhere = nowhere or action is None
            splits = splits or len(planned.match.paths) > 1
        object.__setattr__(self, "forwarding", tuple(forwarding))
        object.__setattr__(self, "largest_body", largest)
        object.__setattr__(self, "splits_paths", splits)
        object.__setattr__(self, "leads_nowhere", nowhere)


@dataclass(frozen=True, slots=True)
class Plan:
    domains: tuple[PlannedDomain, ...]
    """For each group of listeners, one for every domain that has a list of its own, and `*`, in order of mention."""

    def by_group(self) -> dict[str, Plan]:
        """The plan of each group of listeners."""
        groups = dict.fromkeys(domain.group for domain in self.domains)
        return {group: Plan(tuple(each for each in self.domains if each.group == group)) for group in groups}

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

    @property
    def leads_nowhere(self) -> bool:
        """Whether some route is for requests that get Envoy's own 404."""
        return any(domain.leads_nowhere for domain in self.domains)


class _Asked(NamedTuple):
    """A rule as it stands in one domain's list."""

    place: int
    """In the order of the rules."""
    rule: Rule
    match: Meet
    """With a test of the host where the list is for more hosts than the rule."""


_place: Final = operator.itemgetter(0)


def plan(ruleset: Ruleset) -> Plan:
    """Work the rules that answer without an upstream, and the routes, into lists."""
    rules = tuple(_relevant(ruleset.rules))
    groups = ((group, ruleset.of_group(group).routes) for group in ruleset.groups)
    return Plan(tuple(domain for group, routes in groups for domain in _plan_group(group, routes, rules)))


def _relevant(rules: Sequence[Rule]) -> Iterator[Rule]:
    """The unconditional rules, and the final ones in front of them."""
    last = max((number for number, rule in enumerate(rules) if rule.unconditional), default=-1)
    return (rule for rule in rules[: last + 1] if rule.unconditional or rule.final)


def _plan_group(group: str, routes: Sequence[Route], rules: Sequence[Rule]) -> Iterator[PlannedDomain]:
    by_domain = _Index((route, route.domains or ("*",)) for route in routes)
    rules_by_domain = _Index((rule, rule.scope.domains or ("*",)) for rule in rules)
    lists = dict.fromkeys([*by_domain, "*"])
    others = [domain for domain in rules_by_domain if domain not in lists]
    repeated = sum(by_domain.count(wider_domains(domain)) for domain in others)
    affordable = repeated <= REPEATED + MAX_REPEATED * (len(routes) + len(rules) + len(others))
    lists = dict.fromkeys([*lists, *(each for each in others if affordable or len(each) > LONG_DOMAIN)])
    tested: dict[str, list[str]] = defaultdict(list)
    for domain in others:
        if domain not in lists:
            tested[next(wider for wider in wider_domains(domain) if wider in lists)].append(domain)
    for domain in sorted(lists, key=lambda each: each == "*"):
        wider = wider_domains(domain)
        asked = {
            place: _Asked(place, rule, _own_match(rule.scope.request)) for place, rule in rules_by_domain.find(wider)
        }
        narrower = (
            _Asked(place, rule, host_test(_own_match(rule.scope.request), other))
            for other in tested.get(domain, ())
            for place, rule in rules_by_domain.find((other,))
            if place not in asked
        )
        # Numbered anew, so that a rule more or less elsewhere leaves this list what it was.
        in_order = sorted((*asked.values(), *narrower), key=_place)
        its_rules = tuple(each._replace(place=place) for place, each in enumerate(in_order))
        its_routes = tuple(route for _, route in by_domain.find(wider))
        plan_domain = _plan_small_domain if len(its_routes) + len(its_rules) <= SMALL else _plan_domain
        yield plan_domain(domain, group, its_routes, its_rules)


class _Index(Generic[Entry, Key]):
    """Entries of an ordered list by their keys; what is found comes in the order of the list, with its place."""

    def __init__(self, entries: Iterable[tuple[Entry, Iterable[Key]]]) -> None:
        self._by_key: dict[Key, list[tuple[int, Entry]]] = defaultdict(list)
        for place, (entry, keys) in enumerate(entries):
            for key in keys:
                self._by_key[key].append((place, entry))

    def __iter__(self) -> Iterator[Key]:
        return iter(self._by_key)

    def count(self, keys: Iterable[Key]) -> int:
        """At least how many entries would be found."""
        return sum(len(self._by_key[key]) for key in keys if key in self._by_key)

    def find(self, keys: Iterable[Key]) -> list[tuple[int, Entry]]:
        lists = [self._by_key[key] for key in keys if key in self._by_key]
        if len(lists) == 1:
            return lists[0]
        return sorted({each[0]: each for found in lists for each in found}.values(), key=_place)


def _plan_domain(domain: str, group: str, routes: Sequence[Route], rules: Sequence[_Asked]) -> PlannedDomain:
    return PlannedDomain(domain, tuple(_plan_list(routes, rules)), group)


# There may be ten thousand of them, and an edit is about one.
_plan_small_domain: Final = functools.lru_cache(maxsize=REMEMBERED)(_plan_domain)


def _plan_list(routes: Sequence[Route], rules: Sequence[_Asked]) -> Iterator[PlannedRoute]:
    worked_in: list[_Asked] = []
    taking = _Taking(routes)
    for asked in rules:
        # Which route a request takes matters, or an earlier rule for which it does.
        own = asked.rule.scope.routes is not None or not asked.rule.unconditional
        if own or taking.some_of(asked.match):
            worked_in.append(asked)
            taking.add(asked)
            continue
        yield _answering(asked.match, None, asked.rule)
        if asked.match == EVERYTHING:
            return  # what stands behind it is never reached
    by_route = _by_route(worked_in)
    taken: set[PathMatch] = set()
    for route in (*routes, None):
        match = EVERYTHING if route is None else _own_match(route.request)
        for planned in _plan_route(route, match, by_route):
            if not (taken and _is_taken(planned.match, taken)):
                yield planned
        if match == EVERYTHING:
            return
        if match == Meet(match.paths):
            taken.update(match.paths)


class _Taking:
    """What the rules that are worked into the routes may be about."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes
        self._added: list[_Asked] = []
        """Those that `_found` has not yet."""
        self._found = _ByPath()

    def add(self, asked: _Asked) -> None:
        self._added.append(asked)

    def some_of(self, match: Meet) -> bool:
        """Whether they may be about some of the requests that fit."""
        added, self._added = self._added, []
        for asked in added:
            for part in self._parts(asked):
                self._found.add(asked._replace(match=part))
        return any(_meeting(match, other.match) is not None for other in self._found.find(match))

    def _parts(self, asked: _Asked) -> Iterator[Meet]:
        names = asked.rule.scope.routes
        if names is None:
            yield asked.match
            return
        for route in self._routes:
            if route.name in names and (part := _meeting(_own_match(route.request), asked.match)) is not None:
                yield part


def _is_taken(match: Meet, taken: Set[PathMatch]) -> bool:
    """Whether an earlier route, for some path and all that can be with it, takes every request that fits."""
    return any(wider in taken for path in match.paths for wider in wider_paths(path))


def _by_route(rules: Iterable[_Asked]) -> dict[str | None, _ByPath]:
    """The rules by the names of the routes that they are about; None: every one."""
    found: dict[str | None, _ByPath] = defaultdict(_ByPath)
    for asked in rules:
        for name in (None,) if asked.rule.scope.routes is None else asked.rule.scope.routes:
            found[name].add(asked)
    return dict(found)


def _plan_route(route: Route | None, match: Meet, by_route: dict[str | None, _ByPath]) -> list[PlannedRoute]:
    names = (None, route.name) if route else (None,)
    found = [asked for name in names if name in by_route for asked in by_route[name].find(match)]
    planned: list[PlannedRoute] = []
    answered: set[Meet] = set()
    for _, rule, own in sorted(found, key=_place):
        part = _meeting(match, own)
        if part is None or part in answered:
            continue
        answered.add(part)
        planned.append(_answering(part, route, rule) if rule.unconditional else _passing(part, route))
        if part == match:
            break
    else:
        if route is not None:
            planned.append(_passing(match, route))
    # Behind the last rule that answers, what does the same as the rest need not be told apart from it.
    while len(planned) > 1 and not planned[-2].rule and planned[-2].action == planned[-1].action:
        del planned[-2]
    if route is None:
        while planned and planned[-1].action is None:
            del planned[-1]
    return planned


class _ByPath:
    """Rules by their paths: finds those that may meet a match without a look at ten thousand others."""

    def __init__(self) -> None:
        self._loose: list[_Asked] = []
        """Those that no path can be found by."""
        self._by_path: dict[str, list[_Asked]] = {}
        self._paths: list[str] = []
        """Sorted."""

    def add(self, asked: _Asked) -> None:
        path = _plain_path(asked.match)
        if path is None:
            self._loose.append(asked)
        elif path.value in self._by_path:
            self._by_path[path.value].append(asked)
        else:
            self._by_path[path.value] = [asked]
            bisect.insort(self._paths, path.value)

    def find(self, match: Meet) -> Iterator[_Asked]:
        yield from self._loose
        path = _plain_path(match)
        if path is None:
            values: Iterable[str] = self._paths
        else:
            wider = [each.value for each in wider_paths(path)]
            if path.kind is PathKind.PREFIX:  # what begins with it and `/`, which comes before `0`
                begin, end = (bisect.bisect_left(self._paths, path.value + after) for after in "/0")
                wider += self._paths[begin:end]
            values = dict.fromkeys(wider)
        for value in values:
            yield from self._by_path.get(value, ())


def _plain_path(match: Meet) -> PathMatch | None:
    """One that is no regex, if there is one."""
    return next((path for path in match.paths if path.kind is not PathKind.REGEX), None)


# What follows from the same route and rules is remembered: after an edit, nearly all are the same as before.


@functools.lru_cache(maxsize=REMEMBERED)
def _own_match(request: RequestMatch) -> Meet:
    match = meet(EVERYTHING, request)
    assert match is not None, "a single match always meets everything"
    return match


def _meeting(first: Meet, second: Meet) -> Meet | None:
    """What fits both; None: certainly nothing does."""
    found: Meet | None = first
    for path in second.paths or (EVERY_PATH,):
        if found is not None:
            found = meet(found, RequestMatch(path, second.methods, second.headers, second.query))
    return found


@functools.lru_cache(maxsize=REMEMBERED)
def _answering(match: Meet, route: Route | None, rule: Rule) -> PlannedRoute:
    return PlannedRoute(match, reply(rule.answers[0], NO_ROUTE_STATUS), route, rule.name)


@functools.lru_cache(maxsize=REMEMBERED)
def _passing(match: Meet, route: Route | None) -> PlannedRoute:
    """What the route does by itself."""
    action = None if route is None else route.action
    return PlannedRoute(match, reply(action, NO_ROUTE_STATUS) if isinstance(action, Answer) else action, route)
