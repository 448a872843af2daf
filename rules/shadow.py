"""Warnings about rules and routes that can never decide, because earlier ones take all their requests or statuses, or
because Envoy never passes on such a request.

In: a ruleset. Out: warnings. Only certain cases are reported, so a rule without a warning may still be hidden.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from rejoinder.rules.answers import claims
from rejoinder.rules.matching import covers, domains_cover, path_covers, wider_domains, wider_paths
from rejoinder.rules.model import (
    EVERY_PATH,
    STATUSES,
    PathKind,
    PathMatch,
    Position,
    RequestMatch,
    Rule,
    Ruleset,
    Scope,
)
from rejoinder.rules.problem import Problem, Severity
from rejoinder.rules.request import METHOD, PATH_HEADER, REMOVED_HEADERS

NEVER: Final = "can never decide"
"""The message about a rule or route that earlier ones hide, behind its name."""

ALL_STATUSES: Final = frozenset(STATUSES)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What this file needs to know of a rule or route."""

    name: str
    position: Position
    scope: Scope
    takes_all: bool
    """No later entry is asked about a request that fits its scope."""
    statuses: frozenset[int] = frozenset()
    """The statuses that a conditional rule has an answer for."""
    answers: bool = False
    """The rule answers without asking an upstream."""
    narrowed: bool = False
    """It fits fewer requests than its scope, and so hides nothing."""


def shadowed(ruleset: Ruleset) -> list[Problem]:
    """One warning for each rule and route that earlier ones hide, naming all of them."""
    routes = (
        _Entry(route.name, route.position, Scope(domains=route.domains, request=route.request), True)
        for route in ruleset.routes
        if not route.title  # others are in the order of a specification, which hides them on purpose
    )
    rules = [_of_rule(rule) for rule in ruleset.rules if not rule.observe]
    return [
        *_warnings("route", routes),
        *_warnings("rule", rules),
        *_answered_before(rules),
        *dict.fromkeys(_not_sent(ruleset)),
    ]


def _not_sent(ruleset: Ruleset) -> Iterator[Problem]:
    """Warnings about what Envoy does to a client's request before any rule is asked."""
    for route in ruleset.routes:
        for reason in _reasons(route.request):
            yield Problem(route.position, f'route "{route.title or route.name}": {reason}', Severity.WARNING)
    for rule in ruleset.rules:
        for reason in _reasons(rule.scope.request):
            yield Problem(rule.position, f'rule "{rule.name}": {reason}', Severity.WARNING)


def _reasons(match: RequestMatch) -> Iterator[str]:
    for name, _ in match.headers:
        if name in REMOVED_HEADERS:
            yield f'{NEVER}, because Envoy removes the header "{name}" from requests'
        elif name == PATH_HEADER:
            yield f'the header "{name}" is Rejoinder\'s own: it has the path, where routes need it'
    if match.methods and not any(map(METHOD.fullmatch, match.methods)):
        yield f"can decide over HTTP/2 alone, because Envoy refuses {' and '.join(match.methods)} in HTTP/1.1"


def _answered_before(rules: Sequence[_Entry]) -> Iterator[Problem]:
    """A warning for each conditional rule whose requests a later rule all answers without asking an upstream."""
    later = _Earlier()
    for entry in reversed(rules):
        if entry.answers:
            later.add(entry)
            continue
        if entry.takes_all:
            later = _Earlier()  # no later rule answers the requests that it fits
        if answering := later.first(entry.scope):
            message = (
                f'rule "{entry.name}": {NEVER} about an upstream\'s status, because rule "{answering.name}" '
                f"({answering.position}) answers all its requests without asking one"
            )
            yield Problem(entry.position, message, Severity.WARNING)


def _of_rule(rule: Rule) -> _Entry:
    # Its scope does not say which requests it takes.
    narrowed = rule.unless is not None or rule.sees_responses
    if rule.unconditional:
        return _Entry(rule.name, rule.position, rule.scope, True, answers=True, narrowed=narrowed)
    claimed = claims(rule)
    statuses = ALL_STATUSES if claimed.otherwise else frozenset(claimed.named)
    return _Entry(rule.name, rule.position, rule.scope, rule.final, statuses, narrowed=narrowed)


def _warnings(kind: str, entries: Iterable[_Entry]) -> Iterator[Problem]:
    earlier = _Earlier()
    for entry in entries:
        if hiding := earlier.hiding(entry):
            what = "requests" if hiding[0].takes_all else "statuses"
            those = " and ".join(f'{kind} "{entry.name}" ({entry.position})' for entry in hiding)
            verbs = "stands before it and takes" if len(hiding) == 1 else "stand before it and take"
            message = f'{kind} "{entry.name}": {NEVER}, because {those} {verbs} all its {what}'
            yield Problem(entry.position, message, Severity.WARNING)
        else:
            earlier.add(entry)


@dataclass(slots=True)
class _Earlier:
    """The earlier entries, indexed by what a scope must have to cover another: 10,000 rules need an index."""

    _by_key: dict[tuple[PathMatch, str | None, str], list[_Entry]] = field(default_factory=lambda: defaultdict(list))
    _regexes: dict[PathMatch, None] = field(default_factory=dict)

    def add(self, entry: _Entry) -> None:
        if entry.narrowed:
            return
        path = entry.scope.request.path
        if path.kind is PathKind.REGEX:
            self._regexes[path] = None
        for route in (None,) if entry.scope.routes is None else entry.scope.routes:
            for domain in entry.scope.domains or ("*",):
                self._by_key[path, route, domain].append(entry)

    def hiding(self, entry: _Entry) -> list[_Entry]:
        """The earlier entries, one or several, that take everything from an entry; empty: something is left."""
        left, taking = set(entry.statuses), list[_Entry]()
        for other in self._wider(entry.scope):
            if other.takes_all:
                return [other]
            if not left.isdisjoint(other.statuses):
                left -= other.statuses
                taking.append(other)
        return taking if entry.statuses and not left else []

    def first(self, scope: Scope) -> _Entry | None:
        """An entry that takes all requests of a scope; None: there is none."""
        return next(self._wider(scope), None)

    def _wider(self, scope: Scope) -> Iterator[_Entry]:
        # One route and one domain of the scope find every entry that may cover it; _takes_all decides.
        routes = (None, *(scope.routes or ())[:1])
        domains = wider_domains(scope.domains[0] if scope.domains else "*")
        for path in self._wider_paths(scope.request.path):
            for route in routes:
                for domain in domains:
                    for entry in self._by_key.get((path, route, domain), ()):
                        if _takes_all(entry.scope, scope):
                            yield entry

    def _wider_paths(self, path: PathMatch) -> Iterator[PathMatch]:
        yield from wider_paths(path)
        yield EVERY_PATH
        yield from (regex for regex in self._regexes if path_covers(regex, path))


def _takes_all(scope: Scope, other: Scope) -> bool:
    return (
        (scope.routes is None or (other.routes is not None and set(other.routes) <= set(scope.routes)))
        and all(domains_cover(scope.domains, domain) for domain in other.domains or ("*",))
        and covers(scope.request, other.request)
        and (not scope.clients or scope.clients == other.clients)
    )
