"""What a rule file means. Everything else in Rejoinder is tested against this file.

    route    = the first route, in order, that fits the request (none: Envoy's own 404)
    request:   the first rule, in order, that fits it and answers without a status -> its answer, no upstream is asked
    else       the route's own action; what answers or redirects by itself is final
    response:  the first rule, in order, that fits and has an answer for the status -> that answer
    none    -> the response passes untouched

A rule that fits and is `final` ends the search in both phases: no later rule is asked. An answer that passes does the
same for its statuses. For an answer that asks another service for a page, the result is what is sent without the page.
A rule that tests the response does not fit before there is a response. A rule that only observes is skipped, `final` or
not; it is listed where it would have answered.

`decide` is the way in. It is asked once, when the request is known; the `Decision` it returns is asked again by
`Decision.choose` when a response is.
"""

from __future__ import annotations

from dataclasses import dataclass

from rejoinder.rules.answers import Asked, Choice, Reply, claims, reply
from rejoinder.rules.http import split_port
from rejoinder.rules.matching import domains_cover, fits, rule_fits
from rejoinder.rules.model import Answer, PathKind, Redirect, Route, Rule, Ruleset
from rejoinder.rules.remote import stays
from rejoinder.rules.request import Request, Response

NO_ROUTE_STATUS = 404
"""What Envoy answers where no route fits."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to a request, and which route and rule decide that."""

    route: Route | None
    """The route that it takes; None: no route fits, or the routes are not ours."""
    rule: Rule | None
    """The rule that answers the request; None: no rule does."""
    reply: Reply | None
    """What is sent at once; None: the rule's handler makes it. Without a rule, or if the handler returns None, the
    upstream is asked; without a route, Envoy answers NO_ROUTE_STATUS."""
    chain: tuple[Rule, ...]
    """The rules that are asked, in order, about the response that then comes; empty if there is a `reply`, which is
    final."""
    request: Request
    route_name: str | None
    """The name of the request's route; None: it has none."""
    observed: tuple[str, ...] = ()
    """The names of rules that would have answered at once, but only observe."""

    def choose(self, response: Response | int, observed: list[str] | None = None) -> Choice | None:
        """The answer for a response; None: it passes untouched.

        Args:
            response: of an upstream, or of Envoy; a number: a response with this status, and nothing else is known.
            observed: gets the names of rules that would have answered, but only observe.
        """
        response = Response(response) if isinstance(response, int) else response
        for rule in self.chain:
            if rule_fits(rule, self.request, self.route_name, response):
                answer = claims(rule).answer(response.status)
                if rule.observe:
                    if answer is not None and not answer.passes and observed is not None:
                        observed.append(rule.name)
                    continue
                if answer is not None:
                    return None if answer.passes else Choice(rule.name, answer)
                if rule.final:
                    break
        return None

    def on_status(self, response: Response | int) -> tuple[str, Reply] | None:
        """The name of the rule that answers in place of a response, and the reply; None: it passes untouched. Not for
        answers with a handler."""
        response = Response(response) if isinstance(response, int) else response
        choice = self.choose(response)
        asked = Asked(self.request, self.route_name, response)
        if choice is None or stays(choice.answer, response.status, asked):
            return None
        return choice.rule, choice.reply(response.status, asked)


def decide(ruleset: Ruleset, request: Request, *, route_name: str | None = None) -> Decision:
    """Decide about a request.

    Args:
        ruleset: what the files say.
        request: as Envoy's router sees it.
        route_name: for an Envoy with routes of its own: the name of the chosen route, empty if it has no name or none
            fits. The routes of the rule set are then ignored.
    """
    routes = ruleset.routes if route_name is None else ()
    fitting = (route for route in routes if domains_cover(route.domains, request.host) and fits(route.request, request))
    route = next(fitting, None)
    named = route_name or (route.name if route else None)
    asked = Asked(request, named)
    chain: list[Rule] = []
    observed: list[str] = []
    handled: Rule | None = None
    for rule in ruleset.rules:
        if rule_fits(rule, request, named, None):
            if rule.unconditional and rule.observe:
                observed += [rule.name] if handled is None else []
                continue
            if rule.unconditional and handled is None:
                answer = rule.answers[0]
                if not answer.handler:
                    at_once = reply(answer, NO_ROUTE_STATUS, asked, rule.name)
                    return Decision(route, rule, at_once, (), request, named, tuple(observed))
                handled = rule  # the other rules are asked about the response if it returns None
            elif not rule.unconditional:
                chain.append(rule)
            if rule.final and not rule.observe:
                break
        elif rule.sees_responses:
            chain.append(rule)  # may fit the response
    action = route.action if route else None
    made = None
    if handled is None and isinstance(action, Answer):
        made = reply(action, NO_ROUTE_STATUS, asked)
    elif handled is None and route and isinstance(action, Redirect):
        made = redirect(route, action, request)
    asked_next = () if isinstance(action, Answer | Redirect) else tuple(chain)
    return Decision(route, handled, made, asked_next, request, named, tuple(observed))


def redirect(route: Route, action: Redirect, request: Request) -> Reply:
    """The reply of a redirecting route, as Envoy makes it."""
    scheme = action.scheme or request.scheme
    host = action.host or _redirect_host(request, scheme, action.port)
    port = f":{action.port}" if action.port else ""
    return Reply(
        action.status_code, (("location", f"{scheme}://{host}{port}{_redirect_target(route, action, request)}"),), b""
    )


def _redirect_host(request: Request, scheme: str, port: int | None) -> str:
    # The port in Host stays, unless the redirect has a port, or it is the default port of a scheme that changes.
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
