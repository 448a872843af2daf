"""Routes: the virtual hosts of a plan, each route's match and action, and what it tells the filters.

Envoy takes one path specifier for a route. Where a rule's path meets a route's and one does not cover the other, what
is left is a header test on PATH_HEADER, which the listener sets before Envoy looks for the route: `:path` would not do,
as it has the query in it and no regex can be kept from reaching into that.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Final

from rejoinder.rules.answers import Reply
from rejoinder.rules.decide import NO_ROUTE_STATUS
from rejoinder.rules.matching import Meet
from rejoinder.rules.model import EVERY_PATH, Forward, PathKind, PathMatch, Redirect, StringKind, StringMatch
from rejoinder.xds.plan import Plan, PlannedDomain, PlannedRoute
from rejoinder.xds.translate.filters import answer_table_override, rate_limit_metadata, rate_limit_override
from rejoinder.xds.translate.settings import PATH_HEADER, ROUTES_NAME, Json, Placement

# Envoy's own limit where none is configured.
_DEFAULT_MAX_BODY: Final = 4096

_REDIRECT_CODES: Final = {
    301: "MOVED_PERMANENTLY",
    302: "FOUND",
    303: "SEE_OTHER",
    307: "TEMPORARY_REDIRECT",
    308: "PERMANENT_REDIRECT",
}

_STRING_FIELDS: Final = {
    StringKind.EXACT: "exact",
    StringKind.PREFIX: "prefix",
    StringKind.SUFFIX: "suffix",
    StringKind.CONTAINS: "contains",
}


def route_configuration(plan: Plan, conditional: Placement) -> Json:
    """The one RouteConfiguration."""
    routes = [route for domain in plan.domains for route in domain.routes]
    largest = max((len(route.action.body) for route in routes if isinstance(route.action, Reply)), default=0)
    configuration: Json = {
        "name": ROUTES_NAME,
        "ignore_port_in_host_matching": True,
        "virtual_hosts": [_virtual_host(domain, conditional) for domain in plan.domains],
    }
    if largest > _DEFAULT_MAX_BODY:
        configuration["max_direct_response_body_size_bytes"] = largest
    if needs_path_header(plan):
        configuration["request_headers_to_remove"] = [PATH_HEADER]
    if limits := plan.rate_limits():
        name, override = rate_limit_override(limits)
        configuration["typed_per_filter_config"] = {name: override}
    return configuration


def needs_path_header(plan: Plan) -> bool:
    """Whether some route's path cannot be said in one specifier."""
    return any(len(route.match.paths) > 1 for domain in plan.domains for route in domain.routes)


def _virtual_host(domain: PlannedDomain, conditional: Placement) -> Json:
    routes = [_route(route, conditional) for route in domain.routes]
    return {"name": domain.domain, "domains": [domain.domain], "routes": routes}


def _route(planned: PlannedRoute, conditional: Placement) -> Json:
    route: Json = {"name": planned.name, "match": _match(planned.match), **_action(planned)}
    if planned.table:
        name, override = answer_table_override(planned, conditional)
        route["typed_per_filter_config"] = {name: override}
    if planned.route and planned.rate_limit:
        route["metadata"] = rate_limit_metadata(planned.route.name)
    return route


def _match(match: Meet) -> Json:
    # A regex first: it is the one that cannot be told from the path with its query.
    first, *others = sorted(match.paths or (EVERY_PATH,), key=lambda path: path.kind is not PathKind.REGEX)
    headers = [_header(PATH_HEADER, _path_test(path)) for path in others]
    if match.methods:
        headers.append(_header(":method", _any_of(match.methods)))
    headers += [_header(name, test) for name, test in match.headers]
    result = _path_specifier(first)
    if headers:
        result["headers"] = headers
    if match.query:
        result["query_parameters"] = [_header(name, test) for name, test in match.query]
    return result


def _path_specifier(path: PathMatch) -> Json:
    if path == EVERY_PATH:
        return {"prefix": "/"}
    match path.kind:
        case PathKind.EXACT:
            return {"path": path.value}
        case PathKind.PREFIX:
            return {"path_separated_prefix": path.value}
        case PathKind.REGEX:
            return {"safe_regex": {"regex": path.value}}


def _path_test(path: PathMatch) -> StringMatch:
    regex = path.value if path.kind is PathKind.REGEX else f"{_quote(path.value)}(?:/.*)?"
    return StringMatch(StringKind.REGEX, regex)


def _any_of(values: tuple[str, ...]) -> StringMatch:
    if len(values) == 1:
        return StringMatch(StringKind.EXACT, values[0])
    return StringMatch(StringKind.REGEX, "|".join(map(_quote, values)))


def _quote(text: str) -> str:
    return re.sub(r"([^A-Za-z0-9_/-])", r"\\\1", text)


def _header(name: str, test: StringMatch) -> Json:
    # A HeaderMatcher and a QueryParameterMatcher say it with the same fields.
    match test.kind:
        case StringKind.PRESENT:
            return {"name": name, "present_match": True}
        case StringKind.REGEX:
            return {"name": name, "string_match": {"safe_regex": {"regex": test.value}}}
        case _:
            return {"name": name, "string_match": {_STRING_FIELDS[test.kind]: test.value}}


def _action(planned: PlannedRoute) -> Json:
    match planned.action:
        case None:
            return {"direct_response": {"status": NO_ROUTE_STATUS}}
        case Reply() as reply:
            return _direct_response(reply)
        case Redirect() as redirect:
            return {"redirect": _redirect(planned, redirect)}
        case Forward(upstream):
            return {"route": {"cluster": upstream}}


def _direct_response(reply: Reply) -> Json:
    result: Json = {"direct_response": {"status": reply.status}}
    if reply.body:
        result["direct_response"]["body"] = _data_source(reply.body)
    headers = list(_headers_to_add(reply))
    if headers:
        result["response_headers_to_add"] = headers
    if (reply.status == 201 or 300 <= reply.status < 400) and not any(name == "location" for name, _ in reply.headers):
        # Envoy would say that the new resource, or the place to go to, is the URL that was asked for.
        result["response_headers_to_remove"] = ["location"]
    return result


def _data_source(body: bytes) -> Json:
    try:
        return {"inline_string": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"inline_bytes": base64.b64encode(body).decode()}


def _headers_to_add(reply: Reply) -> Iterator[Json]:
    seen: set[str] = set()
    for name, value in reply.headers:
        yield {
            # Envoy replaces %COMMANDS% in values; a doubled percent sign is a plain one.
            "header": {"key": name, "value": value.replace("%", "%%")},
            # The first value takes the place of what Envoy would say itself (content-type), the others join it.
            "append_action": "APPEND_IF_EXISTS_OR_ADD" if name in seen else "OVERWRITE_IF_EXISTS_OR_ADD",
            "keep_empty_value": True,
        }
        seen.add(name)


def _redirect(planned: PlannedRoute, redirect: Redirect) -> Json:
    result: Json = {"response_code": _REDIRECT_CODES[redirect.status_code]}
    if redirect.scheme:
        result["scheme_redirect"] = redirect.scheme
    if redirect.host:
        result["host_redirect"] = redirect.host
    if redirect.port:
        result["port_redirect"] = redirect.port
    if redirect.path is not None:
        result["path_redirect"] = redirect.path
    if redirect.prefix is not None and planned.route:
        result.update(_prefix_redirect(planned.route.request.path, redirect.prefix))
    return result


def _prefix_redirect(path: PathMatch, prefix: str) -> Json:
    """Replace a prefix as `decide.replace_prefix` does: Envoy's `prefix_rewrite` knows characters, not elements."""
    if path.kind is not PathKind.PREFIX:
        return {"path_redirect": prefix}
    stripped = prefix.rstrip("/")
    if path == EVERY_PATH:
        return {"prefix_rewrite": f"{stripped}/"}
    if stripped:
        return {"prefix_rewrite": stripped}
    return {"regex_rewrite": {"pattern": {"regex": f"^{_quote(path.value)}/?"}, "substitution": "/"}}
