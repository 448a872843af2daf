"""What a rule file means. Everything else in Rejoinder is tested against this file.

    route = the first route, in order, that fits the request (none: Envoy's own 404)
    rule  = the first rule, in order, whose scope fits the request and the route
    no rule                            -> the route's own action
    all its answers are unconditional  -> the first of them; the upstream is never contacted
    the route answers or redirects     -> the route's own action
    else forward; for the upstream's (or Envoy's own) status s: what the rule's answer table has for s

`decide` is the way in. It is asked once, when the request is known; the `Decision` it returns is asked again by
`Decision.on_status` when a status is.
"""

from __future__ import annotations

from dataclasses import dataclass

from rejoinder.rules.answers import AnswerTable, Reply, answer_table, reply
from rejoinder.rules.matching import domains_cover, fits
from rejoinder.rules.model import Answer, PathKind, Redirect, Route, Rule, Ruleset, Scope
from rejoinder.rules.request import Request

NO_ROUTE_STATUS = 404
"""What Envoy answers where no route fits."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to a request, and whose doing that is."""

    route: Route | None
    """The route that it takes; None: no route fits."""
    rule: Rule | None
    """The rule that decides about it; None: no rule fits."""
    reply: Reply | None
    """What is sent at once; None: the upstream is asked, or, with no route, Envoy answers NO_ROUTE_STATUS."""
    table: AnswerTable
    """What becomes of the status that then comes; empty where there is a `reply`, which is final."""

    def on_status(self, status: int) -> tuple[str, Reply] | None:
        """What is sent in place of a response with this status, behind the name of the rule that says so.

        Args:
            status: the upstream's, or Envoy's own.
        Returns:
            None if the response passes untouched.
        """
        choice = self.table.choose(status)
        return None if choice is None else (choice.rule, reply(choice.answer, status))


def decide(ruleset: Ruleset, request: Request, *, route_name: str | None = None) -> Decision:
    """Decide about a request.

    Args:
        ruleset: what the files say.
        request: as Envoy's router sees it.
        route_name: the route that an Envoy with routes of its own has chosen. If the rule set has a route of that
            name, the request takes it; otherwise, the first one that fits.
    """
    route = _route(ruleset, request, route_name)
    name = route_name if route is None else route.name
    rules = [rule for rule in ruleset.rules if scope_fits(rule.scope, request, name)]
    rule = rules[0] if rules else None
    if rule is not None and rule.unconditional:
        return Decision(route, rule, reply(rule.answers[0], NO_ROUTE_STATUS), AnswerTable())
    if route is not None and isinstance(route.action, Answer):
        return Decision(route, None, reply(route.action, NO_ROUTE_STATUS), AnswerTable())
    if route is not None and isinstance(route.action, Redirect):
        return Decision(route, None, redirect(route, route.action, request), AnswerTable())
    return Decision(route, rule, None, answer_table(rules))


def scope_fits(scope: Scope, request: Request, route_name: str | None) -> bool:
    """Whether a request that takes the named route (None: none) is one that a scope is about."""
    return (
        (scope.routes is None or route_name in scope.routes)
        and domains_cover(scope.domains, request.host)
        and fits(scope.request, request)
    )


def _route(ruleset: Ruleset, request: Request, name: str | None) -> Route | None:
    if name is not None:
        for route in ruleset.routes:
            if route.name == name:
                return route
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
    host, colon, old = request.authority.rpartition(":")
    left_behind = scheme != request.scheme and (request.scheme, old) in (("http", "80"), ("https", "443"))
    if colon and "]" not in old and (port or left_behind):
        return host
    return request.authority


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
