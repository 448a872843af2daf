"""Explanations, in words: what a rule or route tests, and why it does not fit a request. `rejoinder explain` and the
console show them beside the decision.

Pure. `misfit` and `rule_misfit` return None exactly if `decide` finds that a scope, or a rule, fits; tests compare
them.
"""

from __future__ import annotations

from collections.abc import Iterator

from rejoinder.rules.matching import client_fits, domains_cover, path_fits, value_fits
from rejoinder.rules.model import EVERY_PATH, PathKind, PathMatch, RequestMatch, Rule, Scope, StringKind, StringMatch
from rejoinder.rules.request import UPSTREAM, Request, Response


def in_words(scope: Scope) -> Iterator[str]:
    """The tests of a scope, one text each; none if every request fits the scope."""
    for names, kind in ((scope.routes, "route"), (scope.domains, "domain"), (scope.request.methods, "method")):
        if names:
            yield _either(names, kind)
    if scope.request.path != EVERY_PATH:
        yield _path(scope.request.path)
    for name, test in scope.request.headers:
        yield _test("header", name, test)
    for name, test in scope.request.query:
        yield _test("query parameter", name, test)
    if scope.clients:
        yield _either(scope.clients, "client")
    for name, test in scope.response_headers:
        yield _test("response header", name, test, "responses")


def rule_misfit(rule: Rule, request: Request, route: str | None, response: Response | None) -> str | None:
    """The first reason why a rule does not fit; None: it does. Args as for `misfit`."""
    reason = misfit(rule.scope, request, route, response)
    if reason is not None:
        return reason
    if response is None and rule.sees_responses:
        return "it is about responses, and there is none yet"
    if rule.unless is not None and misfit(rule.unless, request, route, response) is None:
        return "its `unless` fits"
    if rule.source and response is not None and response.source != rule.source:
        wanted, came = ("an upstream", "Envoy itself")[:: 1 if rule.source == UPSTREAM else -1]
        return f"it is about responses of {wanted}, this one is of {came}"
    return None


def misfit(scope: Scope, request: Request, route: str | None, response: Response | None = None) -> str | None:
    """The first reason why a scope does not fit; None: it does. Args as for `matching.scope_fits`; a route's scope is
    one with its domains and request match."""
    if scope.routes is not None and route not in scope.routes:
        return (
            f"it is about {_either(scope.routes, 'route')}, the request takes {_quoted(route) if route else 'no route'}"
        )
    if not domains_cover(scope.domains, request.host):
        return f"it is about {_either(scope.domains, 'domain')}, the host is {_quoted(request.host)}"
    reason = _request_misfit(scope.request, request)
    if reason is not None:
        return reason
    if scope.clients and not client_fits(scope.clients, request.client):
        came = f"the client is {request.client}" if request.client else "the client is not known"
        return f"it is about {_either(scope.clients, 'client')}, {came}"
    for name, test in scope.response_headers:
        if response is None:
            return "it is about responses, and there is none yet"
        if not any(value_fits(test, value) for value in response.header(name)):
            return f"it is about {_test('response header', name, test, 'responses')}, {_came(response.header(name))}"
    return None


def _request_misfit(match: RequestMatch, request: Request) -> str | None:
    if match.methods and request.method not in match.methods:
        return f"it is about {_either(match.methods, 'method')}, the method is {_quoted(request.method)}"
    if not path_fits(match.path, request.path):
        return f"it is about {_path(match.path)}, the path is {_quoted(request.path)}"
    for name, test in match.headers:
        if not any(value_fits(test, value) for value in request.header(name)):
            return f"it is about {_test('header', name, test)}, {_came(request.header(name))}"
    for name, test in match.query:
        if not any(value_fits(test, value) for value in request.parameter(name)):
            return f"it is about {_test('query parameter', name, test)}, {_came(request.parameter(name))}"
    return None


def _path(match: PathMatch) -> str:
    kinds = {PathKind.EXACT: "the path", PathKind.PREFIX: "paths below", PathKind.REGEX: "paths like"}
    return f"{kinds[match.kind]} {_quoted(match.value)}"


def _test(what: str, name: str, test: StringMatch, whose: str = "requests") -> str:
    if test.kind is StringKind.PRESENT:
        return f"{whose} with a {what} {_quoted(name)}"
    relation = {StringKind.EXACT: "being", StringKind.CONTAINS: "containing", StringKind.REGEX: "like"}
    return f"a {what} {_quoted(name)} {relation.get(test.kind, f'with the {test.kind.value}')} {_quoted(test.value)}"


def _came(values: list[str]) -> str:
    return f"it is {' and '.join(map(_quoted, values))}" if values else "there is none"


def _either(names: tuple[str, ...], kind: str) -> str:
    return f"the {kind} {' or '.join(map(_quoted, names))}"


def _quoted(text: str) -> str:
    return f'"{text}"'
