"""What a rule file means. Everything else in Rejoinder is tested against this file.

    route    = the first route, in order, that fits the request (none: Envoy's own 404)
    request:   the first rule, in order, that fits it and answers without a status -> its answer, no upstream is asked
    else       the route's own action; what answers or redirects by itself is final
    response:  the first rule, in order, that fits the request and has an answer for the status -> that answer
    none    -> the response passes untouched

A rule that fits and is `final` ends the search in both phases: no rule behind it is asked.

`decide` is the way in. It is asked once, when the request is known; the `Decision` it returns is asked again by
`Decision.on_status` when a status is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rejoinder.rules.answers import Choice, Reply, claims, reply
from rejoinder.rules.http import split_port
from rejoinder.rules.matching import domains_cover, fits
from rejoinder.rules.model import Answer, PathKind, Redirect, Route, Rule, Ruleset, Scope
from rejoinder.rules.request import Request

NO_ROUTE_STATUS = 404
"""What Envoy answers where no route fits."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to a request, and whose doing that is."""

    route: Route | None
    """The route that it takes; None: no route fits, or the routes are not ours."""
    rule: Rule | None
    """The rule that answers the request; None: no rule does."""
    reply: Reply | None
    """What is sent at once; None: the upstream is asked, or, with no route, Envoy answers NO_ROUTE_STATUS."""
    chain: tuple[Rule, ...]
    """The rules that are asked in turn about the status that then comes; empty where there is a `reply`, which is
    final."""

    def choose(self, status: int) -> Choice | None:
        """The answer that a status calls for; None: the response passes untouched.

        Args:
            status: the upstream's, or Envoy's own.
        """
        answers = ((rule, claims(rule).answer(status)) for rule in self.chain)
        return next((Choice(rule.name, answer) for rule, answer in answers if answer is not None), None)

    def on_status(self, status: int) -> tuple[str, Reply] | None:
        """What is sent in place of a response with this status, behind the name of the rule that says so; None: the
        response passes untouched. Not where a handler is to be asked."""
        choice = self.choose(status)
        return None if choice is None else (choice.rule, choice.reply(status))


def decide(ruleset: Ruleset, request: Request, *, route_name: str | None = None) -> Decision:
    """Decide about a request.

    Args:
        ruleset: what the files say.
        request: as Envoy's router sees it.
        route_name: for an Envoy with routes of its own: the name of the one that it has chosen, empty if that has none
            or none fits. The routes of the rule set then count for nothing.
    """
    route = _route(ruleset, request) if route_name is None else None
    chain = tuple(_asked(ruleset, request, route_name or (route.name if route else None)))
    rule = next((rule for rule in chain if rule.unconditional), None)
    if rule is not None:
        return Decision(route, rule, reply(rule.answers[0], NO_ROUTE_STATUS), ())
    if route is not None and isinstance(route.action, Answer):
        return Decision(route, None, reply(route.action, NO_ROUTE_STATUS), ())
    if route is not None and isinstance(route.action, Redirect):
        return Decision(route, None, redirect(route, route.action, request), ())
    return Decision(route, None, None, chain)


def _asked(ruleset: Ruleset, request: Request, route: str | None) -> Iterator[Rule]:
    """The rules that fit, in order, up to the first final one."""
    for rule in ruleset.rules:
        if scope_fits(rule.scope, request, route):
            yield rule
            if rule.final:
                return


def scope_fits(scope: Scope, request: Request, route: str | None) -> bool:
    """Whether a request that takes the named route (None: none) is one that a scope is about."""
    return (
        (scope.routes is None or route in scope.routes)
        and domains_cover(scope.domains, request.host)
        and fits(scope.request, request)
    )


def _route(ruleset: Ruleset, request: Request) -> Route | None:
    for route in ruleset.routes:
        if domains_cover(route.domains, request.host) and fits(route.request, request):
            return route
    return None


def redirect(route: Route, action: Redirect, request: Request) -> Reply:
    """The reply of a redirecting route, as Envoy makes it."""
    scheme = action.scheme or request.scheme
    host = action.host or _redirect_host(request, scheme, action.port)
    port = f":{action.port}" if action.port else ""
    return Reply(
        action.status_code, (("location", f"{scheme}://{host}{port}{_redirect_target(route, action, request)}"),), b""
    )


def _redirect_host(request: Request, scheme: str, port: int | None) -> str:
    # The port in Host stays, unless the redirect names another, or it is the own port of a scheme that does not stay.
    host, old = split_port(request.authority)
    left_behind = scheme != request.scheme and (request.scheme, old) in (("http", "80"), ("https", "443"))
    return host if port or left_behind else request.authority


def _redirect_target(route: Route, action: Redirect, request: Request) -> str:
    if action.path is not None and "?" in action.path:
        return action.path  # its own query takes the place of the request's
    query = "" if request.query is None else f"?{request.query}"
    if action.path is not None:
        return action.path + query
    if action.prefix is not None:
        return replace_prefix(route, action.prefix, request.path) + query
    return request.path + query


def replace_prefix(route: Route, prefix: str, path: str) -> str:
    """A path with the route's prefix replaced, by whole path elements.

    `/old` -> `/new` makes `/new/x` of `/old/x`; `/old` -> `/` makes `/x` of it. A route with an exact path or a regex
    has its whole path replaced.
    """
    match = route.request.path
    if match.kind is not PathKind.PREFIX:
        return prefix
    rest = path if match.value == "/" else path[len(match.value) :]
    return (prefix.rstrip("/") + rest) or "/"
