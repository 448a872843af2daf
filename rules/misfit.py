"""Why a rule or route is not about a request, in words: what `rejoinder explain` shows beside what `decide` decides.

Pure. `misfit` says None exactly where `decide` finds that the scope fits; tests hold the two together.
"""

from __future__ import annotations

from rejoinder.rules.matching import domains_cover, path_fits, value_fits
from rejoinder.rules.model import PathKind, PathMatch, RequestMatch, Scope, StringKind, StringMatch
from rejoinder.rules.request import Request


def misfit(scope: Scope, request: Request, route: str | None) -> str | None:
    """The first reason why a scope does not fit; None: it does.

    Args:
        scope: of a rule; for a route, one with its domains and request match.
        request: as Envoy's router sees it.
        route: the name of the route that the request takes; None: no route fits.
    """
    if scope.routes is not None and route not in scope.routes:
        return (
            f"it is about {_either(scope.routes, 'route')}, the request takes {_quoted(route) if route else 'no route'}"
        )
    if not domains_cover(scope.domains, request.host):
        return f"it is about {_either(scope.domains, 'domain')}, the host is {_quoted(request.host)}"
    return _request_misfit(scope.request, request)


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


def _test(what: str, name: str, test: StringMatch) -> str:
    if test.kind is StringKind.PRESENT:
        return f"requests with a {what} {_quoted(name)}"
    relation = {StringKind.EXACT: "being", StringKind.CONTAINS: "containing", StringKind.REGEX: "like"}
    return f"a {what} {_quoted(name)} {relation.get(test.kind, f'with the {test.kind.value}')} {_quoted(test.value)}"


def _came(values: list[str]) -> str:
    return f"it is {' and '.join(map(_quoted, values))}" if values else "there is none"


def _either(names: tuple[str, ...], kind: str) -> str:
    return f"the {kind} {' or '.join(map(_quoted, names))}"


def _quoted(text: str) -> str:
    return f'"{text}"'
