"""The rules worked into each domain's routes, so that Envoy's router does all the matching.

A `Ruleset` goes in, a `Plan` comes out: for every domain an ordered list of routes, each with one action and, where the
upstream's status matters, an answer table. Pure, and ignorant of Envoy's messages: those are `translate`'s. What a plan
means is what `decide` says: tests hold the two against each other.

For every domain that anything names, Envoy picks the most specific one that fits the host; so a route or rule belongs
to a domain's list exactly if one of its own patterns covers that domain. Within the list, each route of the file is
split by the rules that add conditions of their own: first the requests that fit such a rule, then the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from rejoinder.rules.answers import AnswerTable, Reply, answer_table, reply
from rejoinder.rules.decide import NO_ROUTE_STATUS
from rejoinder.rules.matching import EVERYTHING, Meet, meet, wider_domains
from rejoinder.rules.model import RULE_FILES, Answer, Forward, RateLimit, Redirect, Route, Rule, Ruleset
from rejoinder.rules.problem import Problem

# Rules that fall through and add conditions split a route in two each, with all the rules behind them: every
# combination has its own table. Twelve of them that do not exclude each other are 4,096 Envoy routes, and a few of them
# before thousands of rules that do not fall through are tens of thousands: more than anybody can have meant.
MAX_OVERLAPPING: Final = 12
MAX_COMBINATIONS: Final = 2**16


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
        return tuple({route.table: None for domain in self.domains for route in domain.routes if route.table})

    def has_cors(self) -> bool:
        """Whether any route says which origins may read its responses."""
        actions = (route.action for domain in self.domains for route in domain.routes)
        return any(isinstance(action, Forward) and action.cors is not None for action in actions)

    def rate_limits(self) -> dict[str, RateLimit]:
        """The limits in use, by the name of the file's route."""
        routes = (route for domain in self.domains for route in domain.routes)
        return {route.route.name: route.rate_limit for route in routes if route.route and route.rate_limit}


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
        yield PlannedDomain(domain, tuple(_plan_domain(by_domain.find(wider), rules.find(wider))), group)


class _Index(Generic[Entry, Key]):
    """Entries of an ordered list by their keys; what is found comes in the order of the list."""

    def __init__(self, entries: Iterable[tuple[Entry, Iterable[Key]]]) -> None:
        self._by_key: dict[Key, list[tuple[int, Entry]]] = defaultdict(list)
        for place, (entry, keys) in enumerate(entries):
            for key in keys:
                self._by_key[key].append((place, entry))

    def keys(self) -> Iterable[Key]:
        return self._by_key

    def find(self, keys: Iterable[Key]) -> list[Entry]:
        found = {place: entry for key in keys for place, entry in self._by_key.get(key, ())}
        return [found[place] for place in sorted(found)]


def _plan_domain(routes: list[Route], rules: list[Rule]) -> Iterator[PlannedRoute]:
    by_route: _Index[Rule, str | None] = _Index((rule, rule.scope.routes or (None,)) for rule in rules)
    for route in (*routes, None):
        match = EVERYTHING if route is None else meet(EVERYTHING, route.request)
        assert match is not None, "a single match always meets everything"
        yield from _plan_route(route, match, by_route.find((None,) if route is None else (None, route.name)))
        if match == EVERYTHING:
            return  # what stands behind it is never reached


def _plan_route(route: Route | None, match: Meet, rules: list[Rule]) -> list[PlannedRoute]:
    planned = [_outcome(route, part, chain) for part, chain in _split(match, rules)]
    # A part that does the same as the rest behind it need not be told apart from it.
    kept: list[PlannedRoute] = []
    for new in reversed(planned):
        if not (kept and kept[-1].match == match and (new.action, new.table) == (kept[-1].action, kept[-1].table)):
            kept.append(new)
    return kept[::-1]


_Part = tuple[Meet, tuple[Rule, ...]]


def _split(match: Meet, rules: Sequence[Rule]) -> list[_Part]:
    """The parts of a match, in the order in which Envoy must try them, each with the rules that are asked in turn."""
    combinations = 0

    def count(rule: Rule, depth: int) -> None:
        nonlocal combinations
        combinations += 1
        if combinations > MAX_COMBINATIONS or depth > MAX_OVERLAPPING:
            raise PlanError(_too_many(rule))

    def walk(match: Meet, start: int, chain: tuple[Rule, ...], depth: int) -> Iterator[_Part]:
        for place in range(start, len(rules)):
            rule = rules[place]
            part = meet(match, rule.scope.request)
            if part is None:
                continue
            if part == match:
                chain = (*chain, rule)
                if rule.final:
                    break
            elif rule.final:
                if depth:
                    count(rule, depth)
                yield part, (*chain, rule)
            else:
                count(rule, depth + 1)
                yield from walk(part, place + 1, (*chain, rule), depth + 1)
        yield match, chain

    return list(walk(match, 0, (), 0))


def _too_many(rule: Rule) -> Problem:
    message = (
        f'rule "{rule.name}": expected rules with fallthrough that overlap in at most {MAX_COMBINATIONS:,} ways, with '
        f"each other and the rules behind them, and at most {MAX_OVERLAPPING} at once; got more: each combination of "
        "their conditions needs a route of its own. Give fewer of them conditions"
    )
    return Problem(rule.position, message)


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
