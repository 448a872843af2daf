"""The rules that answer without an upstream, and the routes, as ordered lists for Envoy's router.

A `Ruleset` goes in, a `Plan` comes out: for every domain an ordered list of routes, each with one action. Pure, and
independent of Envoy's messages, which `translate` makes. A plan means the same as `decide`: tests compare the two.
Conditional rules are answered by the program; only a `final` one in front of an unconditional one matters here, because
it keeps the unconditional one from answering.

Envoy picks the most specific domain for a host, so a list has everything that covers its domain. Rules stand in front
of the routes. A rule about certain routes, and a rule that must be asked after such a rule, are worked into the routes:
each route is then split into the requests that fit the rule, and the rest.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from rejoinder.rules.answers import Reply, reply
from rejoinder.rules.decide import NO_ROUTE_STATUS
from rejoinder.rules.matching import EVERYTHING, Meet, host_test, meet, wider_domains, wider_paths
from rejoinder.rules.model import (
    Answer,
    Forward,
    PathKind,
    PathMatch,
    Redirect,
    Route,
    Rule,
    Ruleset,
    native_rules,
)
from rejoinder.xds.remember import REMEMBERED

SMALL: Final = 64
"""The plan of a domain with at most this many routes and rules is remembered as a whole."""

REPEATED: Final = 1000
MAX_REPEATED: Final = 2
"""How many routes may be repeated so that the domains of rules have lists of their own: REPEATED, plus MAX_REPEATED for
each route, rule and domain. Beyond that, rules stand in the list of a wider domain, with a test of the host."""

LONG_DOMAIN: Final = 64
"""In characters. A longer domain always has a list of its own: Envoy limits the size of regular expressions."""

MOST_KEPT_AWAY: Final = 64
"""A rule that passes gets one route for each later rule that it keeps from answering, up to this many; with more, it
gets one route for everything that it passes."""

Entry = TypeVar("Entry")
Action = Reply | Redirect | Forward | None

_Asked = tuple[Rule, Meet]
"""A rule as it stands in one list: with a test of the host where the list is for more hosts than the rule."""


@dataclass(frozen=True, slots=True)
class PlannedRoute:
    """One route as Envoy will have it."""

    match: Meet
    action: Action
    """None: Envoy's own 404."""
    route: Route | None
    """The route of the file that the request takes; None: there is none, or it does not matter."""
    rule: str = ""
    """The name of the rule that answers."""
    passed: str = ""
    """The name of the rule that passes, and keeps a later rule from answering."""

    def __hash__(self) -> int:
        return hash((self.route, self.rule))  # quick to compute, and rarely equal for two

    @property
    def name(self) -> str:
        """Leads back to the rule file; the route's own name where the request takes that route."""
        name = self.route.name if self.route else ""
        return "/".join(filter(None, (name, "rule", self.rule))) if self.rule else name


@dataclass(frozen=True, slots=True)
class PlannedDomain:
    """The routes for one domain; the first that fits takes the request, and if none fits, Envoy answers 404."""

    domain: str
    routes: tuple[PlannedRoute, ...]

    def __hash__(self) -> int:
        return hash(self.domain)


@dataclass(frozen=True, slots=True)
class PlannedGroup:
    """The plan of one group of listeners."""

    domains: tuple[PlannedDomain, ...]
    """One for every domain that has a list of its own, and `*`, in order of mention."""
    forwarding: tuple[tuple[Route, Forward], ...]
    """The routes of the file that ask an upstream, and how."""
    largest_body: int
    """The size in bytes of the largest body that is sent without asking an upstream."""
    leads_nowhere: bool
    """Whether some route is for requests that get Envoy's own 404."""


Plan = Mapping[str, PlannedGroup]
"""By the name of the group."""


def plan(ruleset: Ruleset) -> Plan:
    """Work the rules that answer without an upstream, and the routes, into lists."""
    native = native_rules(ruleset.rules)
    last = max((number for number, rule in enumerate(native) if rule.unconditional), default=-1)
    rules = native[: last + 1]
    return {group: _plan_group(ruleset.of_group(group).routes, rules) for group in ruleset.groups}


def _plan_group(routes: Sequence[Route], rules: Sequence[Rule]) -> PlannedGroup:
    domains = tuple(_plan_domains(routes, rules))
    planned = [route for domain in domains for route in domain.routes]
    return PlannedGroup(
        domains,
        forwarding=tuple((route, route.action) for route in routes if isinstance(route.action, Forward)),
        largest_body=max((len(route.action.body) for route in planned if isinstance(route.action, Reply)), default=0),
        leads_nowhere=any(route.action is None for route in planned),
    )


def _plan_domains(routes: Sequence[Route], rules: Sequence[Rule]) -> Iterator[PlannedDomain]:
    routes_of = _by_domain((route, route.domains) for route in routes)
    rules_of = _by_domain((rule, rule.scope.domains) for rule in rules)
    lists = dict.fromkeys([*routes_of, "*"])
    others = [domain for domain in rules_of if domain not in lists]
    repeated = sum(len(routes_of.get(wider, ())) for domain in others for wider in wider_domains(domain))
    affordable = repeated <= REPEATED + MAX_REPEATED * (len(routes) + len(rules) + len(others))
    lists.update((domain, None) for domain in others if affordable or len(domain) > LONG_DOMAIN)
    narrower: dict[str, list[str]] = defaultdict(list)
    for domain in others:
        if domain not in lists:
            narrower[next(wider for wider in wider_domains(domain) if wider in lists)].append(domain)
    for domain in sorted(lists, key="*".__eq__):
        asked = [(place, (rule, _own_match(rule.scope.request))) for place, rule in _covering(rules_of, domain)]
        own = {place for place, _ in asked}
        for other in narrower.get(domain, ()):
            tested = ((place, rule) for place, rule in rules_of[other] if place not in own)
            asked += ((place, (rule, host_test(_own_match(rule.scope.request), other))) for place, rule in tested)
        its_rules = tuple(rule for _, rule in sorted(asked, key=_place))
        its_routes = tuple(route for _, route in _covering(routes_of, domain))
        plan_domain = _plan_small_domain if len(its_routes) + len(its_rules) <= SMALL else _plan_domain
        yield plan_domain(domain, its_routes, its_rules)


_place: Final = operator.itemgetter(0)
"""In the order of routes or rules."""


def _by_domain(entries: Iterable[tuple[Entry, Sequence[str]]]) -> dict[str, list[tuple[int, Entry]]]:
    by_domain: dict[str, list[tuple[int, Entry]]] = defaultdict(list)
    for place, (entry, domains) in enumerate(entries):
        for domain in domains or ("*",):
            by_domain[domain].append((place, entry))
    return dict(by_domain)


def _covering(entries: dict[str, list[tuple[int, Entry]]], domain: str) -> list[tuple[int, Entry]]:
    """The entries for all hosts of a domain, in order."""
    lists = [entries[wider] for wider in wider_domains(domain) if wider in entries]
    if len(lists) == 1:
        return lists[0]
    return sorted({entry[0]: entry for entry in itertools.chain.from_iterable(lists)}.values(), key=_place)


def _plan_domain(domain: str, routes: Sequence[Route], rules: Sequence[_Asked]) -> PlannedDomain:
    return PlannedDomain(domain, tuple(_plan_list(routes, rules)))


# There may be ten thousand domains, and an edit usually changes one.
_plan_small_domain: Final = functools.lru_cache(maxsize=REMEMBERED)(_plan_domain)


def _plan_list(routes: Sequence[Route], rules: Sequence[_Asked]) -> Iterator[PlannedRoute]:
    worked_in, shielded = _Index(), _Index()
    pending: list[_Asked] = []
    """Rules that are worked in, but are not in `shielded` yet."""

    def meets_earlier(match: Meet) -> bool:
        while pending:
            rule, own = pending.pop()
            only = rule.scope.routes
            of = [EVERYTHING] if only is None else (_own_match(route.request) for route in routes if route.name in only)
            for part in filter(None, (meet(requests, own) for requests in of)):
                shielded.add((None,), 0, (rule, part))
        return any(meet(match, other) is not None for _, (_, other) in shielded.find(None, match))

    for place, (rule, match) in enumerate(rules):
        # It matters which route a request takes, for this rule or for an earlier one that it meets.
        names = rule.scope.routes
        if names is not None or not rule.unconditional or meets_earlier(match):
            worked_in.add((None,) if names is None else names, place, (rule, match))
            pending.append((rule, match))
            continue
        yield _answering(match, None, rule)
        if match == EVERYTHING:
            return  # nothing after it is ever reached
    taken: set[PathMatch] = set()
    """Paths for which an earlier route takes every request."""
    for route in (*routes, None):
        match = EVERYTHING if route is None else _own_match(route.request)
        for planned in _plan_route(route, match, worked_in):
            if not any(wider in taken for path in planned.match.paths for wider in wider_paths(path)):
                yield planned
        if match == EVERYTHING:
            return
        if match == Meet(match.paths):
            taken.update(match.paths)


def _plan_route(route: Route | None, match: Meet, rules: _Index) -> list[PlannedRoute]:
    asked = [*rules.find(None, match), *(rules.find(route.name, match) if route else ())]
    planned: dict[Meet, PlannedRoute] = {}
    for place, (rule, own) in sorted(asked, key=_place):
        part = meet(match, own)
        if part is None:
            continue
        for kept in [part] if rule.unconditional or rule.answers else _kept_away(route, part, place, rules):
            if kept not in planned:
                planned[kept] = _answering(kept, route, rule) if rule.unconditional else _passing(kept, route, rule)
        if part == match:
            break
    planned.setdefault(match, _passing(match, route))
    parts = list(planned.values())
    # After the last rule that answers, parts with the same action as the rest need no route of their own.
    while len(parts) > 1 and not (parts[-2].rule or parts[-2].passed) and parts[-2].action == parts[-1].action:
        del parts[-2]
    while parts and route is None and parts[-1].action is None:
        del parts[-1]
    return parts


def _kept_away(route: Route | None, part: Meet, place: int, rules: _Index) -> list[Meet]:
    """The part of what a rule passes that later rules would answer; only this needs a mark and a counter."""
    asked = [*rules.find(None, part), *(rules.find(route.name, part) if route else ())]
    parts: dict[Meet, None] = {}
    for at, (rule, own) in asked:
        kept = meet(part, own) if at > place and rule.unconditional else None
        if kept is not None:
            parts[kept] = None
        if kept == part or len(parts) > MOST_KEPT_AWAY:
            return [part]
    return list(parts)


class _Index:
    """Rules by route names (None: all routes) and paths: finds those that may meet a match, among ten thousand."""

    def __init__(self) -> None:
        self._found: dict[tuple[str | None, str, str], list[tuple[int, _Asked]]] = defaultdict(list)
        """By route, and by path: the rules `at` it, those `below` it, those for which `any` may fit, and `all`."""

    def add(self, routes: Sequence[str | None], place: int, asked: _Asked) -> None:
        path = _plain_path(asked[1])
        keys = {("all", ""), ("any", "") if path is None else ("at", path.value)}
        if path is not None:
            keys |= {("below", wider.value) for wider in wider_paths(path) if wider.value != path.value}
        for route, key in itertools.product(routes, keys):
            self._found[route, *key].append((place, asked))

    def find(self, route: str | None, match: Meet) -> list[tuple[int, _Asked]]:
        path = _plain_path(match)
        if path is None or not self._found:
            return self._found.get((route, "all", ""), [])
        keys = {("any", ""), ("below", path.value), *(("at", wider.value) for wider in wider_paths(path))}
        return [asked for key in keys for asked in self._found.get((route, *key), ())]


def _plain_path(match: Meet) -> PathMatch | None:
    """A path that is no regex, if there is one."""
    return next((path for path in match.paths if path.kind is not PathKind.REGEX), None)


# Results for the same route and rules are remembered: after an edit, nearly all are the same as before.

_own_match: Final = functools.lru_cache(maxsize=REMEMBERED)(Meet.of)


@functools.lru_cache(maxsize=REMEMBERED)
def _answering(match: Meet, route: Route | None, rule: Rule) -> PlannedRoute:
    return PlannedRoute(match, reply(rule.answers[0], NO_ROUTE_STATUS), route, rule.name)


@functools.lru_cache(maxsize=REMEMBERED)
def _passing(match: Meet, route: Route | None, rule: Rule | None = None) -> PlannedRoute:
    """The route's own action; rule: the one that passes."""
    action = None if route is None else route.action
    done = reply(action, NO_ROUTE_STATUS) if isinstance(action, Answer) else action
    return PlannedRoute(match, done, route, passed=rule.name if rule and not rule.answers else "")
