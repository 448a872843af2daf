"""Route configurations: the virtual hosts of a plan, in one resource or as resources of their own.

A route configuration is one resource, so the edit of one rule sends all ten thousand. `split_route_configurations`
makes each virtual host a resource of its own (VHDS), for clients that can take that. If there is only one domain, each
of its buckets becomes a virtual host, and Envoy picks it by PATH_HEADER instead of the host.
https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/vhds
"""

from __future__ import annotations

import enum
import functools
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from rejoinder.rules.files import MAX_FILE_SIZE
from rejoinder.rules.request import PATH_HEADER
from rejoinder.xds.plan import SMALL, Plan, PlannedDomain, PlannedGroup
from rejoinder.xds.remember import REMEMBERED, Frozen
from rejoinder.xds.translate.buckets import ROOT, Start, buckets
from rejoinder.xds.translate.filters import Off, rate_limit_override
from rejoinder.xds.translate.forwarding import leads_nowhere
from rejoinder.xds.translate.routes import placed
from rejoinder.xds.translate.settings import ROUTES_NAME, Json, Settings, typed

# Envoy's default limit.
_DEFAULT_MAX_BODY: Final = 4096

_AT_A_TIME: Final = 4
"""How many domains are remembered with all their routes."""

_PLAIN_PATH: Final = re.compile(r"[!-)+-~]*")
"""ASCII without spaces and `*`."""


_Placed = tuple[Start, Json]
"""The result of `placed`."""


class Layout(enum.Enum):
    """How Envoy gets the routes of a group of listeners. The layout is part of the route configuration's name: Envoy
    cannot change the layout of a route configuration without a gap, but it can switch a listener to another one."""

    __hash__ = object.__hash__

    WHOLE = ""
    """All in one resource."""
    DOMAINS = ":domains"
    """Each domain a resource."""
    PATHS = ":paths"
    """Each bucket of the only domain a resource."""


def layouts(plan: Plan, settings: Settings) -> dict[str, Layout]:
    """For clients that can take virtual hosts as resources: the layout of each group of listeners."""

    def layout(part: PlannedGroup) -> Layout:
        if sum(len(domain.routes) for domain in part.domains) < settings.many_routes:
            return Layout.WHOLE
        return Layout.DOMAINS if len(part.domains) > 1 else Layout.PATHS

    return {group: layout(part) for group, part in plan.items()}


def routes_name(group: str, layout: Layout) -> str:
    """The name of the route configuration of a group of listeners."""
    return (f"{ROUTES_NAME}/{group}" if group else ROUTES_NAME) + layout.value


def route_configurations(plan: Plan, settings: Settings, off: Off) -> Iterator[Json]:
    """One RouteConfiguration for each group of listeners; `off`: the filters that are switched off by routes that
    answer by themselves."""
    for group, part in plan.items():
        hosts = [_virtual_host(domain.domain, domain, settings, off) for domain in part.domains]
        yield {**_head(group, part, Layout.WHOLE), "virtual_hosts": hosts}


def split_route_configurations(
    plan: Plan, settings: Settings, off: Off, layouts: Mapping[str, Layout]
) -> Iterator[tuple[Json, list[Json]]]:
    """One RouteConfiguration for each group of listeners whose layout is not WHOLE, and its virtual hosts."""
    for group, part in plan.items():
        layout = layouts[group]
        if layout is Layout.WHOLE:
            continue
        head = _head(group, part, layout)
        if layout is Layout.DOMAINS:
            hosts = [_virtual_host(f"{head['name']}/{domain.domain}", domain, settings, off) for domain in part.domains]
        else:
            hosts = list(_hosts_by_path(head["name"], part.domains[0], settings, off))
        ads = {"ads": {}, "resource_api_version": "V3"}
        yield {**head, "vhds": {"config_source": ads}}, hosts


def _head(group: str, plan: PlannedGroup, layout: Layout) -> Json:
    """A RouteConfiguration without virtual hosts."""
    head: Json = {"name": routes_name(group, layout), "request_headers_to_remove": [PATH_HEADER]}
    if layout is Layout.PATHS:
        head["vhost_header"] = PATH_HEADER
    else:
        head["ignore_port_in_host_matching"] = True
    # Virtual hosts come and go one by one: the limit must not change with their largest body.
    largest = plan.largest_body if layout is Layout.WHOLE else MAX_FILE_SIZE
    if largest > _DEFAULT_MAX_BODY:
        head["max_direct_response_body_size_bytes"] = largest
    if limits := {route.name: route.rate_limit for route, _ in plan.forwarding if route.rate_limit}:
        rate_limit, override = rate_limit_override(limits)
        head["typed_per_filter_config"] = {rate_limit: override}
    if plan.leads_nowhere or any(leads_nowhere(forward) for _, forward in plan.forwarding):
        head["validate_clusters"] = False
    return head


def _virtual_host(name: str, domain: PlannedDomain, settings: Settings, off: Off) -> Json:
    make = _small_host if len(domain.routes) <= SMALL else _host
    return make(name, domain, settings.long_list, off)


def _host(name: str, domain: PlannedDomain, long_list: int, off: Off) -> Json:
    routes = _routes(domain, off)
    lists = functools.partial(_buckets, domain, off, long_list // 4)
    return Frozen({"name": name, "domains": [domain.domain], **_list(routes, long_list, lists)})


_small_host: Final = functools.lru_cache(REMEMBERED)(_host)


def _list(routes: Sequence[_Placed], long_list: int, lists: Callable[[], Mapping[str, Sequence[_Placed]]]) -> Json:
    if len(routes) < long_list:
        return {"routes": [route for _, route in routes]}
    path = typed("envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=":path")
    tree = {
        "input": {"name": "path", "typed_config": path},
        "prefix_match_map": {"map": {key: _route_list(bucket) for key, bucket in lists().items()}},
    }
    return {"matcher": {"matcher_tree": tree}}


def _hosts_by_path(routes_name: str, domain: PlannedDomain, settings: Settings, off: Off) -> Iterator[Json]:
    routes, short = _routes(domain, off), settings.long_list // 4
    folded = [(_folded(route[0]), route) for route in routes]
    same = all(start == route[0] for start, route in folded)
    for key, bucket in (_buckets(domain, off, short) if same else buckets(folded, short)).items():
        # Resource names have a `/` before their last part, which has no other `/` in it.
        name = f"{routes_name}/{urllib.parse.quote(key, safe='')}"
        # `/a*` matches paths that are longer than `/a` and begin with it.
        domains = ["*"] if key == ROOT else [key, f"{key}*"]
        lists = functools.partial(buckets, [(route[0], route) for route in bucket], short)
        yield {"name": name, "domains": domains, **_list(bucket, settings.long_list, lists)}


@functools.lru_cache(maxsize=REMEMBERED)
def _folded(start: Start) -> Start:
    """The part by which Envoy can pick a virtual host: it ignores case, and `*` has a special meaning."""
    plain = _PLAIN_PATH.match(start.text)
    text = plain[0].lower() if plain else ""
    return Start(text, start.next if len(text) == len(start.text) else None)


# Both forms are made from the same domain, one directly after the other.


@functools.lru_cache(_AT_A_TIME)
def _routes(domain: PlannedDomain, off: Off) -> tuple[_Placed, ...]:
    return tuple([placed(route, off) for route in domain.routes])


@functools.lru_cache(_AT_A_TIME)
def _buckets(domain: PlannedDomain, off: Off, short: int) -> dict[str, list[_Placed]]:
    return buckets([(route[0], route) for route in _routes(domain, off)], short)


def _route_list(routes: Sequence[_Placed]) -> Json:
    config = typed("envoy.config.route.v3.RouteList", routes=[route for _, route in routes])
    return {"action": {"name": "routes", "typed_config": config}}
