"""Routes: the virtual hosts of a plan, each route's match and action, and what it tells the filters.

Envoy takes one path specifier for a route. Where a rule's path meets a route's and one does not cover the other, what
is left is a header test on PATH_HEADER, which the listener sets before Envoy looks for the route: `:path` would not do,
as it has the query in it and no regex can be kept from reaching into that.

A route configuration is one resource, so that the edit of one rule sends ten thousand. `split_route_configurations`
makes each virtual host a resource of its own (VHDS), for clients that can take that. Where there is one domain only,
virtual hosts are made of its buckets, and Envoy picks them by PATH_HEADER in place of the host.
https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/vhds
"""

from __future__ import annotations

import base64
import enum
import functools
import re
import sys
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from rejoinder.rules.answers import Reply
from rejoinder.rules.decide import NO_ROUTE_STATUS
from rejoinder.rules.files import MAX_FILE_SIZE
from rejoinder.rules.matching import Meet
from rejoinder.rules.model import EVERY_PATH, Forward, PathKind, PathMatch, Redirect, Route, StringKind, StringMatch
from rejoinder.xds.plan import SMALL, Plan, PlannedDomain, PlannedRoute
from rejoinder.xds.remember import REMEMBERED, by_identity
from rejoinder.xds.translate.buckets import ROOT, Start, buckets
from rejoinder.xds.translate.filters import CORS, answer_table_override, rate_limit_metadata, rate_limit_override
from rejoinder.xds.translate.forwarding import (
    cors_policy,
    header_changes,
    header_option,
    leads_nowhere,
    quote,
    route_action,
)
from rejoinder.xds.translate.settings import PATH_HEADER, ROUTES_NAME, Json, Placement, Settings, typed

# Envoy's own limit where none is configured.
_DEFAULT_MAX_BODY: Final = 4096

_REDIRECT_CODES: Final = {
    301: "MOVED_PERMANENTLY",
    302: "FOUND",
    303: "SEE_OTHER",
    307: "TEMPORARY_REDIRECT",
    308: "PERMANENT_REDIRECT",
}

_ROUTE_TYPES: Final = "envoy.config.route.v3."

# A quantifier makes the character before it optional.
_PLAIN: Final = re.compile(r"[A-Za-z0-9/_~%-]+")
_QUANTIFIERS: Final = ("*", "?", "{")

_PLAIN_PATH: Final = re.compile(r"[!-)+-~]*")
"""ASCII without spaces and `*`."""

_STRING_FIELDS: Final = {
    StringKind.EXACT: "exact",
    StringKind.PREFIX: "prefix",
    StringKind.SUFFIX: "suffix",
    StringKind.CONTAINS: "contains",
}


class Layout(enum.Enum):
    """How the routes of a group of listeners are told to Envoy. It shows in the route configuration's name, as Envoy
    does not change over from one to another without a gap; a listener that is told another name does."""

    __hash__ = object.__hash__

    WHOLE = ""
    """All in one resource."""
    DOMAINS = ":domains"
    """Each domain a resource."""
    PATHS = ":paths"
    """Each bucket of the only domain a resource."""


def layouts(plan: Plan, settings: Settings) -> dict[str, Layout]:
    """For clients that can take virtual hosts as resources: the layout of each group of listeners."""
    return {group: _layout(part, settings) for group, part in plan.by_group().items()}


def _layout(plan: Plan, settings: Settings) -> Layout:
    if sum(len(domain.routes) for domain in plan.domains) < settings.many_routes:
        return Layout.WHOLE
    return Layout.DOMAINS if len(plan.domains) > 1 else Layout.PATHS


def routes_name(group: str, layout: Layout) -> str:
    """How the route configuration of a group of listeners is called."""
    return (f"{ROUTES_NAME}/{group}" if group else ROUTES_NAME) + layout.value


def needs_path_header(plan: Plan, layout: Layout) -> bool:
    """Whether the listener has to set PATH_HEADER."""
    return plan.splits_paths or layout is Layout.PATHS


def route_configurations(plan: Plan, settings: Settings) -> Iterator[Json]:
    """One RouteConfiguration for each group of listeners."""
    for group, part in plan.by_group().items():
        hosts = [_virtual_host(domain.domain, domain, settings) for domain in part.domains]
        yield {**_head(group, part, Layout.WHOLE), "virtual_hosts": hosts}


def split_route_configurations(
    plan: Plan, settings: Settings, layouts: Mapping[str, Layout]
) -> Iterator[tuple[Json, list[Json]]]:
    """One RouteConfiguration for each group of listeners whose layout is not WHOLE, and its virtual hosts."""
    for group, part in plan.by_group().items():
        layout = layouts[group]
        if layout is Layout.WHOLE:
            continue
        head = _head(group, part, layout)
        if layout is Layout.DOMAINS:
            hosts = [_virtual_host(f"{head['name']}/{domain.domain}", domain, settings) for domain in part.domains]
        else:
            hosts = list(_hosts_by_path(head["name"], part.domains[0], settings))
        ads = {"ads": {}, "resource_api_version": "V3"}
        yield {**head, "vhds": {"config_source": ads}}, hosts


def _head(group: str, plan: Plan, layout: Layout) -> Json:
    """A RouteConfiguration without virtual hosts."""
    head: Json = {"name": routes_name(group, layout)}
    if layout is Layout.PATHS:
        head["vhost_header"] = PATH_HEADER
    else:
        head["ignore_port_in_host_matching"] = True
    # Virtual hosts come and go one by one: this must not change with the largest of their bodies.
    largest = plan.largest_body if layout is Layout.WHOLE else MAX_FILE_SIZE
    if largest > _DEFAULT_MAX_BODY:
        head["max_direct_response_body_size_bytes"] = largest
    if needs_path_header(plan, layout):
        head["request_headers_to_remove"] = [PATH_HEADER]
    if limits := plan.rate_limits():
        rate_limit, override = rate_limit_override(limits)
        head["typed_per_filter_config"] = {rate_limit: override}
    if any(leads_nowhere(forward) for _, forward in plan.forwarding()):
        head["validate_clusters"] = False
    return head


def _virtual_host(name: str, domain: PlannedDomain, settings: Settings) -> Json:
    host = _small_host if len(domain.routes) <= SMALL else _host
    return host(sys.intern(name), domain, settings.long_list, settings.conditional)


def _host(name: str, domain: PlannedDomain, long_list: int, conditional: Placement) -> Json:
    placed = [_placed(route, conditional) for route in domain.routes]
    return {"name": name, "domains": [domain.domain], **_list(placed, long_list)}


_small_host: Final = by_identity(REMEMBERED)(_host)


def _list(placed: Sequence[tuple[Start, Json]], long_list: int) -> Json:
    if len(placed) < long_list:
        return {"routes": [route for _, route in placed]}
    return {"matcher": _matcher(buckets(placed, long_list // 4))}


def _hosts_by_path(routes_name: str, domain: PlannedDomain, settings: Settings) -> Iterator[Json]:
    placed = [_placed(route, settings.conditional) for route in domain.routes]
    folded = [(_folded(each[0]), each) for each in placed]
    for key, routes in buckets(folded, settings.long_list // 4).items():
        # Resource names have a `/` in front of their last part, and no other one in it.
        name = f"{routes_name}/{urllib.parse.quote(key, safe='')}"
        yield _host_by_path(settings.long_list, sys.intern(name), sys.intern(key), *routes)


@by_identity(REMEMBERED)
def _host_by_path(long_list: int, name: str, key: str, *placed: tuple[Start, Json]) -> Json:
    # `/a*` is for what begins with `/a` and goes on.
    return {"name": name, "domains": ["*"] if key == ROOT else [key, f"{key}*"], **_list(placed, long_list)}


@functools.lru_cache(maxsize=REMEMBERED)
def _folded(start: Start) -> Start:
    """What Envoy can pick a virtual host by: it folds case, and has a meaning of its own for `*`."""
    plain = _PLAIN_PATH.match(start.text)
    text = plain[0].lower() if plain else ""
    return Start(text, start.next if len(text) == len(start.text) else None)


def _matcher(lists: Mapping[str, Sequence[Json]]) -> Json:
    path = typed("envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=":path")
    return {
        "matcher_tree": {
            "input": {"name": "path", "typed_config": path},
            "prefix_match_map": {"map": {key: _route_list(*routes) for key, routes in lists.items()}},
        }
    }


@by_identity(REMEMBERED)
def _route_list(*routes: Json) -> Json:
    return {"action": {"name": "routes", "typed_config": typed(f"{_ROUTE_TYPES}RouteList", routes=list(routes))}}


def _start(match: Meet) -> Start:
    """What is known of the paths that fit."""
    return max(map(_path_start, match.paths), key=lambda start: len(start.text), default=Start())


def _path_start(path: PathMatch) -> Start:
    if path.kind is PathKind.REGEX:
        return Start(_regex_start(path.value))
    return Start(path.value, "" if path.kind is PathKind.EXACT else "/")


def _regex_start(regex: str) -> str:
    """The plain characters that a regex begins with, if whatever it fits begins with them.

    >>> _regex_start("/api/v[0-9]+"), _regex_start("/ab*"), _regex_start("/a|/b")
    ('/api/v', '/a', '')
    """
    plain = _PLAIN.match(regex)
    if plain is None or "|" in regex:
        return ""
    return plain[0][:-1] if regex[plain.end() : plain.end() + 1] in _QUANTIFIERS else plain[0]


@functools.lru_cache(maxsize=REMEMBERED)  # after an edit, most routes are the same objects: see `json_mapping`
def _placed(planned: PlannedRoute, conditional: Placement) -> tuple[Start, Json]:
    return _start(planned.match), _route(planned, conditional)


def _route(planned: PlannedRoute, conditional: Placement) -> Json:
    route: Json = {"name": planned.name, "match": _match(planned.match), **_action(planned)}
    overrides: Json = {}
    if planned.table:
        name, overrides[name] = answer_table_override(planned, conditional)
    if isinstance(planned.action, Forward) and planned.action.cors:
        overrides[CORS] = cors_policy(planned.action.cors)
    if overrides:
        route["typed_per_filter_config"] = overrides
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
    regex = path.value if path.kind is PathKind.REGEX else f"{quote(path.value)}(?:/.*)?"
    return StringMatch(StringKind.REGEX, regex)


def _any_of(values: tuple[str, ...]) -> StringMatch:
    if len(values) == 1:
        return StringMatch(StringKind.EXACT, values[0])
    return StringMatch(StringKind.REGEX, "|".join(map(quote, values)))


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
            assert planned.route is not None, "it is the route's action"
            return {"redirect": _redirect(planned.route, redirect), **_changes(planned.route)}
        case Forward() as forward:
            assert planned.route is not None, "it is the route's action"
            return {"route": route_action(forward, planned.route), **_changes(planned.route)}


def _changes(route: Route) -> Json:
    return header_changes(route.request_headers, route.response_headers)


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
        # The first value takes the place of what Envoy would say itself (content-type), the others join it.
        yield header_option((name, value), "APPEND_IF_EXISTS_OR_ADD" if name in seen else "OVERWRITE_IF_EXISTS_OR_ADD")
        seen.add(name)


def _redirect(route: Route, redirect: Redirect) -> Json:
    result: Json = {"response_code": _REDIRECT_CODES[redirect.status_code]}
    if redirect.scheme:
        result["scheme_redirect"] = redirect.scheme
    if redirect.host:
        result["host_redirect"] = redirect.host
    if redirect.port:
        result["port_redirect"] = redirect.port
    if redirect.path is not None:
        result["path_redirect"] = redirect.path
    if redirect.prefix is not None:
        result.update(_prefix_redirect(route.request.path, redirect.prefix))
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
    return {"regex_rewrite": {"pattern": {"regex": f"^{quote(path.value)}/?"}, "substitution": "/"}}
