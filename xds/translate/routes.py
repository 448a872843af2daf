"""Routes: their matches and actions, and their configuration of filters.

Envoy takes one path specifier for a route. If a rule's path meets a route's and neither covers the other, one of them
becomes a header test on PATH_HEADER, which the listener sets before Envoy looks for the route. `:path` would not do,
because it includes the query, and a regex cannot be kept from matching that.
"""

from __future__ import annotations

import base64
import functools
import re
from typing import Final

from rejoinder.rules.answers import Reply
from rejoinder.rules.matching import Meet, quote
from rejoinder.rules.model import EVERY_PATH, Forward, PathKind, PathMatch, Redirect, Route, StringKind, StringMatch
from rejoinder.rules.request import PATH_HEADER
from rejoinder.xds.plan import PlannedRoute
from rejoinder.xds.remember import REMEMBERED, Frozen
from rejoinder.xds.translate.buckets import Start
from rejoinder.xds.translate.filters import (
    CORS,
    PASSING,
    SWITCHED_ON,
    UNTYPED,
    WITHOUT_TYPE,
    Off,
    metadata,
    switched_off,
)
from rejoinder.xds.translate.forwarding import NO_UPSTREAM, cors_policy, header_changes, header_option, route_action
from rejoinder.xds.translate.settings import Json

_REDIRECT_CODES: Final = {
    301: "MOVED_PERMANENTLY",
    302: "FOUND",
    303: "SEE_OTHER",
    307: "TEMPORARY_REDIRECT",
    308: "PERMANENT_REDIRECT",
}

# The first quantifier makes the character before it optional.
_PLAIN: Final = re.compile(r"[A-Za-z0-9/_~%-]+")
_QUANTIFIERS: Final = ("*", "?", "{")


@functools.lru_cache(maxsize=REMEMBERED)
def placed(planned: PlannedRoute, off: Off) -> tuple[Start, Json]:
    """The known start of a route's path, and the Route; `off`: the filters that answering routes switch off."""
    start = max(map(_path_start, planned.match.paths), key=lambda start: len(start.text), default=Start())
    return start, Frozen(_route(planned, off))


def _path_start(path: PathMatch) -> Start:
    if path.kind is PathKind.REGEX:
        return Start(_regex_start(path.value))
    return Start(path.value, "" if path.kind is PathKind.EXACT else "/")


def _regex_start(regex: str) -> str:
    """The plain characters that a regex begins with, if all texts that it fits begin with them.

    >>> _regex_start("/api/v[0-9]+"), _regex_start("/ab+"), _regex_start("/a|/b")
    ('/api/v', '/ab', '')
    >>> _regex_start("/ab*"), _regex_start("/ab?"), _regex_start("/ab{0,2}")
    ('/a', '/a', '/a')
    """
    plain = _PLAIN.match(regex)
    if plain is None or "|" in regex:
        return ""
    return plain[0][:-1] if regex[plain.end() : plain.end() + 1] in _QUANTIFIERS else plain[0]


def _route(planned: PlannedRoute, off: Off) -> Json:
    named = {"name": planned.name} if planned.name else {}
    route: Json = {**named, "match": _match(planned.match), **_action(planned)}
    answers = isinstance(planned.action, Reply | Redirect)
    overrides: Json = switched_off(off.for_rule if planned.rule else off.for_itself) if answers else {}
    if isinstance(planned.action, Forward) and planned.action.cors:
        overrides[CORS] = cors_policy(planned.action.cors)
    if isinstance(planned.action, Reply) and planned.action.is_untyped:
        overrides[UNTYPED] = WITHOUT_TYPE
    if planned.passed:
        overrides[PASSING] = SWITCHED_ON
    if overrides:
        route["typed_per_filter_config"] = overrides
    limited = isinstance(planned.action, Forward) and planned.route and planned.route.rate_limit
    if told := metadata(rule=planned.rule, passed=planned.passed, route=planned.name if limited else ""):
        route["metadata"] = told
    return route


def _match(match: Meet) -> Json:
    # A regex first: only it could match the query, if it were tested on a header.
    first, *others = sorted(match.paths or (EVERY_PATH,), key=lambda path: path.kind is not PathKind.REGEX)
    tests = [(PATH_HEADER, _path_test(path)) for path in others]
    if len(match.methods) == 1:
        tests.append((":method", StringMatch(StringKind.EXACT, match.methods[0])))
    elif match.methods:
        tests.append((":method", StringMatch(StringKind.REGEX, "|".join(map(quote, match.methods)))))
    headers = [_header(name, test) for name, test in (*tests, *match.headers)]
    result = _path_specifier(first)
    if headers:
        result["headers"] = headers
    if match.query:
        result["query_parameters"] = [_header(name, test) for name, test in match.query]
    return result


def _path_specifier(path: PathMatch) -> Json:
    if path == EVERY_PATH:
        return {"prefix": "/"}
    if path.kind is PathKind.REGEX:
        return {"safe_regex": {"regex": path.value}}
    return {"path" if path.kind is PathKind.EXACT else "path_separated_prefix": path.value}


def _path_test(path: PathMatch) -> StringMatch:
    regex = path.value if path.kind is PathKind.REGEX else f"{quote(path.value)}(?:/.*)?"
    return StringMatch(StringKind.REGEX, regex)


def _header(name: str, test: StringMatch) -> Json:
    # HeaderMatcher and QueryParameterMatcher have the same fields.
    if test.kind is StringKind.PRESENT:
        return {"name": name, "present_match": True}
    if test.kind is StringKind.REGEX:
        return {"name": name, "string_match": {"safe_regex": {"regex": test.value}}}
    return {"name": name, "string_match": {test.kind.value: test.value}}


def _action(planned: PlannedRoute) -> Json:
    match planned.action:
        case None:
            # Not a direct response: that would be final, but rules may answer this one.
            return {"route": {"cluster": NO_UPSTREAM, "cluster_not_found_response_code": "NOT_FOUND"}}
        case Reply():
            return _direct_response(planned.action)
    route = planned.route
    assert route is not None, "it is the route's action"
    changes = header_changes(route.request_headers, route.response_headers)
    if isinstance(planned.action, Redirect):
        return {"redirect": _redirect(route, planned.action), **changes}
    return {"route": route_action(planned.action, route), **changes}


def _direct_response(reply: Reply) -> Json:
    body = {"body": data_source(reply.body)} if reply.body else {}
    result: Json = {"direct_response": {"status": reply.status, **body}}
    if headers := headers_to_add(reply):
        result["response_headers_to_add"] = headers
    if (reply.status == 201 or 300 <= reply.status < 400) and not any(name == "location" for name, _ in reply.headers):
        # Envoy would add the requested URL as the location.
        result["response_headers_to_remove"] = ["location"]
    return result


def data_source(body: bytes) -> Json:
    """A body, readable if it is text."""
    try:
        return {"inline_string": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"inline_bytes": base64.b64encode(body).decode()}


def headers_to_add(reply: Reply) -> list[Json]:
    """A reply's headers, as HeaderValueOptions."""
    options: list[Json] = []
    seen: set[str] = set()
    for header in reply.headers:
        # The first value replaces Envoy's own value (content-type), the others are added.
        action = "APPEND_IF_EXISTS_OR_ADD" if header[0] in seen else "OVERWRITE_IF_EXISTS_OR_ADD"
        options.append(header_option(header, action))
        seen.add(header[0])
    return options


def _redirect(route: Route, redirect: Redirect) -> Json:
    result: Json = {"response_code": _REDIRECT_CODES[redirect.status_code]}
    parts = {"scheme_redirect": redirect.scheme, "host_redirect": redirect.host, "port_redirect": redirect.port}
    result |= {field: part for field, part in parts.items() if part}
    if redirect.path is not None:
        result["path_redirect"] = redirect.path
    if redirect.prefix is not None:
        result |= _prefix_redirect(route.request.path, redirect.prefix)
    return result


def _prefix_redirect(path: PathMatch, prefix: str) -> Json:
    """Replace a prefix as `decide.replace_prefix` does: Envoy's `prefix_rewrite` works on characters, not elements."""
    if path.kind is not PathKind.PREFIX:
        return {"path_redirect": prefix}
    stripped = prefix.rstrip("/")
    if path == EVERY_PATH:
        return {"prefix_rewrite": f"{stripped}/"}
    if stripped:
        return {"prefix_rewrite": stripped}
    return {"regex_rewrite": {"pattern": {"regex": f"^{quote(path.value)}/?"}, "substitution": "/"}}
