"""The decision program: the rules compiled once, so that asking them costs the same for ten and for ten thousand.

In: rules (`compile_rules`). Out: a `Program`, which decides about a `Request` and the name of its route. Pure; nothing
is raised. It knows only the names of routes. docs/program.md says what is asked and how rules are found; `decide`
defines the meaning, linear and readable, and tests compare the two. `program_bytes` writes a program for the module's
core.
"""

from __future__ import annotations

import functools
import heapq
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from rejoinder.rules.answers import Choice, claims, templates
from rejoinder.rules.matching import fits, rule_fits
from rejoinder.rules.model import EVERY_PATH, STATUSES, PathKind, RequestMatch, Rule, Scope, StringKind, Upstream
from rejoinder.rules.remote import told
from rejoinder.rules.request import Request, Response
from rejoinder.rules.template import Name

_NOTHING_MORE: Final = RequestMatch()


@dataclass(slots=True)
class Seen:
    """The names of rules that fit and give no answer."""

    observed: list[str] = field(default_factory=list)
    """Rules that would have answered, but only observe."""
    passed: str = ""
    """The rule that has let a response pass that others may answer, or a request that another rule answers."""


class _Compiled(NamedTuple):
    """A compiled rule."""

    name: str
    named: Mapping[int, int]
    """As in `Claims`."""
    choices: tuple[Choice, ...]
    """The rule's answers, by their numbers."""
    otherwise: Choice | None
    unconditional: bool
    final: bool
    passes: bool
    """It has no answers: it only stops the search."""
    observe: bool
    routes: frozenset[str] | None
    """The names of its routes; None: the index has tested the route already."""
    match: RequestMatch | None
    """The tests that the index has not made; None: none."""
    whole: Rule | None
    """The rule, if all of it must be tested; None: `match` is enough."""


@dataclass(slots=True)
class _Paths:
    """The rules of one domain pattern."""

    by_path: dict[str, dict[str | None, list[int]]] = field(default_factory=dict)
    """By path (see `_path_key`) and the name of a route or None: the numbers of rules, ascending."""
    elements: int = 0
    """The number of elements of the longest prefix."""


@dataclass(frozen=True, slots=True)
class Program:
    """The compiled rules."""

    rules: tuple[Rule, ...]
    """What it was compiled from."""
    statuses: frozenset[int]
    """The statuses that some conditional rule has an answer for."""
    asks_requests: bool
    """Whether some rule answers without an upstream."""
    has_handlers: bool
    """Whether a Python handler makes some answer."""
    _compiled: tuple[_Compiled, ...] = field(compare=False, repr=False)
    _domains: dict[str, _Paths] = field(compare=False, repr=False)

    def __bool__(self) -> bool:
        return bool(self.rules)

    def on_request(self, request: Request, route: str | None, seen: Seen | None = None) -> Choice | None:
        """The answer to a request, before any upstream is asked; None: none.

        Args:
            request: as Envoy's router sees it.
            route: the name of the route that it takes; None: none.
            seen: gets the names of rules that fit and give no answer.
        """
        if not self.asks_requests:
            return None
        seen = seen or Seen()
        fitting = self._fitting(request, route, None)
        for rule in fitting:
            if rule.observe:
                if rule.unconditional:
                    seen.observed.append(rule.name)
            elif rule.unconditional:
                return rule.otherwise
            elif rule.final:
                if rule.passes and any(other.unconditional and not other.observe for other in fitting):
                    seen.passed = rule.name
                return None
        return None

    def on_status(
        self, request: Request, route: str | None, response: Response, seen: Seen | None = None
    ) -> Choice | None:
        """The answer in place of a response, an upstream's or Envoy's own; None: the response passes.

        Args: as for `on_request`.
        """
        if response.status not in self.statuses:
            return None
        seen = seen or Seen()
        for rule in self._fitting(request, route, response):
            if not rule.unconditional:
                number = rule.named.get(response.status)
                choice = rule.otherwise if number is None else rule.choices[number]
                if rule.observe:
                    if choice is not None and not choice.answer.passes:
                        seen.observed.append(rule.name)
                    continue
                if choice is not None and not choice.answer.passes:
                    return choice
                if choice is not None or rule.passes:
                    seen.passed = rule.name
                    return None
            if rule.final and not rule.observe:
                return None
        return None

    def found(self, request: Request, route: str | None) -> tuple[Rule, ...]:
        """The rules that the index finds by domain, path and route, in order; only these are tested. Args as above."""
        return tuple(self.rules[number] for number in _merged(list(self._found(request.host, request.path, route))))

    def _fitting(self, request: Request, route: str | None, response: Response | None) -> Iterator[_Compiled]:
        for number in _merged(list(self._found(request.host, request.path, route))):
            rule = self._compiled[number]
            if (
                (rule.routes is None or route in rule.routes)
                and (rule.match is None or fits(rule.match, request))
                and (rule.whole is None or rule_fits(rule.whole, request, route, response))
            ):
                yield rule

    def _found(self, host: str, path: str, route: str | None) -> Iterator[list[int]]:
        """The lists of rules that the index has for domain, path and route."""
        names = (None,) if route is None else (None, route)
        for domain in _covering(host):
            paths = self._domains.get(domain)
            if paths is None:
                continue
            for key in _path_keys(path, paths.elements):
                by_route = paths.by_path.get(key)
                if by_route is not None:
                    for name in names:
                        if (rule := by_route.get(name)) is not None:
                            yield rule


def compile_rules(rules: Iterable[Rule]) -> Program:
    """Compile rules, in their order."""
    return _compile(tuple(rules))


# After an edit of other rules, the conditional rules are the same as before.
@functools.lru_cache(maxsize=4)
def _compile(rules: tuple[Rule, ...]) -> Program:
    compiled: list[_Compiled] = []
    domains: dict[str, _Paths] = defaultdict(_Paths)
    statuses: set[int] = set()
    for number, rule in enumerate(rules):
        made, claimed = _compiled_rule(rule)
        compiled.append(made)
        if claimed and not statuses.issuperset(claimed):
            statuses.update(claimed)
        path = rule.scope.request.path
        key = _path_key(path.kind, path.value)
        for domain in rule.scope.domains or ("*",):
            paths = domains[domain]
            if path.kind is PathKind.PREFIX:
                paths.elements = max(paths.elements, path.value.count("/"))
            by_route = paths.by_path.setdefault(key, {})
            for route in rule.scope.routes or () if _is_found_by_routes(rule) else (None,):
                by_route.setdefault(route, []).append(number)
    return Program(
        rules,
        statuses=frozenset(statuses),
        asks_requests=any(rule.unconditional for rule in rules),
        has_handlers=any(answer.handler for rule in rules for answer in rule.answers),
        _compiled=tuple(compiled),
        _domains=dict(domains),
    )


@functools.lru_cache(maxsize=1 << 15)  # after an edit, nearly all rules are the same as before
def _compiled_rule(rule: Rule) -> tuple[_Compiled, Collection[int]]:
    """A rule, and the statuses that it has answers for."""
    claimed = claims(rule)
    match = rule.scope.request
    if match.path.kind is not PathKind.REGEX:
        match = RequestMatch(EVERY_PATH, match.methods, match.headers, match.query)
    untested = rule.scope.routes is None or _is_found_by_routes(rule)
    choices = tuple(Choice(rule.name, answer) for answer in rule.answers)
    made = _Compiled(
        name=rule.name,
        named=claimed.named,
        choices=choices,
        otherwise=None if claimed.otherwise is None else Choice(rule.name, claimed.otherwise),
        unconditional=rule.unconditional,
        final=rule.final,
        passes=not rule.answers,
        observe=rule.observe,
        routes=None if untested else frozenset(rule.scope.routes or ()),
        match=None if match == _NOTHING_MORE else match,
        whole=rule if rule.unless or rule.scope.clients or rule.sees_responses else None,
    )
    if rule.unconditional or not rule.answers:
        return made, ()
    return made, STATUSES if claimed.otherwise else claimed.named.keys()


def _is_found_by_routes(rule: Rule) -> bool:
    # With several domains the index would grow with their product.
    return rule.scope.routes is not None and len(rule.scope.domains) <= 1


_EVERY: Final = ""
"""The key of rules that cannot be found by a path."""


def _path_key(kind: PathKind, value: str) -> str:
    if kind is PathKind.EXACT:
        return "=" + value
    return _EVERY if kind is PathKind.REGEX or value == EVERY_PATH.value else value


def _path_keys(path: str, elements: int) -> Iterator[str]:
    """The keys of rules whose paths may fit this path; `elements`: as many as the longest prefix has."""
    yield _EVERY
    yield "=" + path
    end = 0
    for _ in range(elements):
        end = path.find("/", end + 1)
        if end < 0:
            yield path
            return
        yield path[:end]


def _covering(host: str) -> Iterator[str]:
    """The domain patterns that cover a host."""
    yield "*"
    yield host
    dot = host.find(".", 1)
    while dot > 0:
        yield "*" + host[dot:]
        dot = host.find(".", dot + 1)


def _merged(lists: list[list[int]]) -> Iterable[int]:
    """The numbers of all lists in order, each once."""
    if len(lists) <= 1:
        return lists[0] if lists else ()
    # A rule with two domains that cover a host is in two lists.
    return dict.fromkeys(heapq.merge(*lists)) if len(lists) > 2 else dict.fromkeys(sorted(lists[0] + lists[1]))


@dataclass(frozen=True, slots=True)
class Needs:
    """What a program and its answers need to know of requests and responses."""

    headers: tuple[str, ...]
    """The names of the request's headers that are looked at, sorted."""
    response_headers: tuple[str, ...]
    """... of the response's; `a*`: all whose names begin with `a`."""
    routes: bool
    """Whether the name of the route is looked at."""
    hosts: bool
    """... the host."""
    paths: bool
    """... the path or the query."""
    methods: bool
    clients: bool
    """... the client's address."""
    schemes: bool


def _scopes(rule: Rule) -> tuple[Scope, ...]:
    return (rule.scope,) if rule.unless is None else (rule.scope, rule.unless)


def needs_python(rule: Rule) -> bool:
    """Whether the module asks Python about a rule: for a regular expression, or a handler."""
    scopes = _scopes(rule)
    tests = (
        test for scope in scopes for test in (*scope.request.headers, *scope.request.query, *scope.response_headers)
    )
    return (
        any(scope.request.path.kind is PathKind.REGEX for scope in scopes)
        or any(test.kind is StringKind.REGEX for _, test in tests)
        or any(answer.handler for answer in rule.answers)
    )


def services_asked(program: Program) -> set[Upstream]:
    """The services that are asked for pages."""
    asked = (answer.remote and answer.remote.service for rule in program.rules for answer in rule.answers)
    return {service for service in asked if service}


@functools.lru_cache(maxsize=4)
def needs(program: Program) -> Needs:
    """What a program needs to know."""
    scopes = [scope for rule in program.rules for scope in _scopes(rule)]
    answers = [answer for rule in program.rules for answer in rule.answers if not answer.fixed]
    used = {template for answer in answers for template in templates(answer)}
    used |= {template for answer in answers if answer.remote for _, template in told(answer.remote)}
    names = {name for template in used for name in template.names}
    headers = {name for scope in scopes for name, _ in scope.request.headers}
    headers.update(name for template in used for name in template.headers)
    headers.update(name for answer in answers if answer.variants for name in ("accept", "accept-language"))
    headers.update(["x-request-id"] if Name.REQUEST_ID in names else [])
    headers.update(["content-type"] if any(answer.remote or answer.grpc for answer in answers) else [])
    return Needs(
        headers=tuple(sorted(headers - {"host"})),  # which is the authority
        response_headers=tuple(
            sorted(
                {name for scope in scopes for name, _ in scope.response_headers}
                | {name for answer in answers for name in answer.keep_headers}
            )
        ),
        routes=any(scope.routes is not None for scope in scopes) or Name.ROUTE in names,
        hosts=any(set(scope.domains) - {"*"} for scope in scopes)
        or "host" in headers
        or not names.isdisjoint((Name.REQUEST_HOST, Name.REQUEST_URL)),
        paths=any(scope.request.path != EVERY_PATH or scope.request.query for scope in scopes)
        or not names.isdisjoint((Name.REQUEST_PATH, Name.REQUEST_URL, Name.REQUEST_TARGET, Name.REQUEST_QUERY)),
        methods=any(scope.request.methods for scope in scopes) or Name.REQUEST_METHOD in names,
        clients=any(scope.clients for scope in scopes) or Name.CLIENT in names,
        schemes=not names.isdisjoint((Name.REQUEST_SCHEME, Name.REQUEST_URL)),
    )
