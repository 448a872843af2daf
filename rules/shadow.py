"""Warnings about rules and routes that can never decide, because an earlier one takes all their requests.

A ruleset goes in, warnings come out. Only what is certain is said: no warning does not mean that there is nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from rejoinder.rules.matching import covers, domains_cover, path_covers, wider_domains, wider_paths
from rejoinder.rules.model import EVERY_PATH, PathKind, PathMatch, Position, Ruleset, Scope
from rejoinder.rules.problem import Problem, Severity


@dataclass(frozen=True, slots=True)
class _Entry:
    """A rule or a route, as far as this file cares."""

    name: str
    position: Position
    scope: Scope
    final: bool


def shadowed(ruleset: Ruleset) -> list[Problem]:
    """One warning for each rule and route that an earlier one hides, naming both."""
    routes = (
        _Entry(route.name, route.position, Scope(domains=route.domains, request=route.request), True)
        for route in ruleset.routes
        if not route.title  # others stand in the order of a specification, which hides what is meant to be hidden
    )
    rules = (_Entry(rule.name, rule.position, rule.scope, rule.final) for rule in ruleset.rules)
    return [*_warnings("route", routes), *_warnings("rule", rules)]


def _warnings(kind: str, entries: Iterable[_Entry]) -> Iterator[Problem]:
    earlier = _Earlier()
    for entry in entries:
        if hiding := earlier.hiding(entry.scope):
            message = (
                f'{kind} "{entry.name}": can never decide, because {kind} "{hiding.name}" ({hiding.position}) '
                "stands before it and takes all its requests"
            )
            yield Problem(entry.position, message, Severity.WARNING)
        elif entry.final:
            earlier.add(entry)


@dataclass(slots=True)
class _Earlier:
    """The entries that came before, found by what a scope must have to cover another: 10,000 rules need an index."""

    _by_key: dict[tuple[PathMatch, str | None, str], list[_Entry]] = field(default_factory=lambda: defaultdict(list))
    _regexes: dict[PathMatch, None] = field(default_factory=dict)

    def add(self, entry: _Entry) -> None:
        path = entry.scope.request.path
        if path.kind is PathKind.REGEX:
            self._regexes[path] = None
        for route in (None,) if entry.scope.routes is None else entry.scope.routes:
            for domain in entry.scope.domains or ("*",):
                self._by_key[path, route, domain].append(entry)

    def hiding(self, scope: Scope) -> _Entry | None:
        # One route and one domain of the scope are enough to find every entry that may cover it; _takes_all tells.
        routes = (None, *(scope.routes or ())[:1])
        domains = wider_domains(scope.domains[0] if scope.domains else "*")
        for path in self._wider_paths(scope.request.path):
            for route in routes:
                for domain in domains:
                    for entry in self._by_key.get((path, route, domain), ()):
                        if _takes_all(entry.scope, scope):
                            return entry
        return None

    def _wider_paths(self, path: PathMatch) -> Iterator[PathMatch]:
        yield from wider_paths(path)
        yield EVERY_PATH
        yield from (regex for regex in self._regexes if path_covers(regex, path))


def _takes_all(scope: Scope, other: Scope) -> bool:
    return (
        (scope.routes is None or (other.routes is not None and set(other.routes) <= set(scope.routes)))
        and all(domains_cover(scope.domains, domain) for domain in other.domains or ("*",))
        and covers(scope.request, other.request)
    )
