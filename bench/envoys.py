"""Envoys with configurations written by hand, for the benchmarks.

Every listener forwards everything to one upstream (`listener`); the upstream is another Envoy, which answers with the
status that the path begins with (`upstream`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rejoinder.envoy import bootstrap
from rejoinder.rules.answers import Reply, reply
from rejoinder.rules.model import Answer, Endpoint, Rule, StatusPattern
from rejoinder.rules.program import Program, needs
from rejoinder.xds.translate import Json, Placement
from rejoinder.xds.translate.clusters import ext_proc_cluster
from rejoinder.xds.translate.ext_proc import sees_requests
from rejoinder.xds.translate.extensions import foreign_filters
from rejoinder.xds.translate.settings import typed

STATUSES: Final = (200, 503)
"""The upstream's statuses: the second one for `/503` and all paths below it."""
UPSTREAM_BODY: Final = "x" * 100

ANSWER: Final = Answer(
    502, (("content-type", "application/json"), ("retry-after", "30")), b'{"error":"busy"}' + b" " * 84
)
RULE: Final = Rule("busy", (dataclasses.replace(ANSWER, enable_on_status=(StatusPattern("503"),)),))
"""The answer in most benchmarks."""
SENT: Final[Reply] = reply(ANSWER, 503)

_MANAGER: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


UPSTREAM: Final = "upstream"
"""The cluster, and the upstream's listener."""
FORWARD: Final = ({"match": {"prefix": "/"}, "route": {"cluster": UPSTREAM}},)


def listener(name: str, filters: Iterable[Json] = (), routes: Sequence[Json] = FORWARD) -> Json:
    """A listener on a free port, with these filters in front of the router."""
    manager = typed(
        _MANAGER,
        stat_prefix=name,
        http_filters=[
            *filters,
            {"name": "router", "typed_config": typed("envoy.extensions.filters.http.router.v3.Router")},
        ],
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": list(routes)}]},
    )
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def cluster(name: str, port: int) -> Json:
    """An upstream's cluster, without limits, so that it gets all requests at once."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    most = 1_000_000
    return {
        "name": name,
        "circuit_breakers": {
            "thresholds": [{"max_connections": most, "max_pending_requests": most, "max_requests": most}]
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def service(name: str, port: int) -> Json:
    """An ext_proc service's cluster, under a name of its own."""
    made = ext_proc_cluster(Endpoint("127.0.0.1", port))
    return {**made, "name": name, "load_assignment": {**made["load_assignment"], "cluster_name": name}}


def config(listeners: Sequence[Json], clusters: Sequence[Json] = (), **more: Any) -> Json:
    """The whole configuration."""
    return {
        "admin": bootstrap(admin=("127.0.0.1", 0))["admin"],
        "static_resources": {"listeners": list(listeners), "clusters": list(clusters)},
        **more,
    }


def upstream() -> Json:
    """The configuration of an Envoy that answers by itself."""
    routes = [
        {
            "match": {"path_separated_prefix": f"/{status}"},
            "direct_response": {"status": status, "body": {"inline_string": UPSTREAM_BODY}},
        }
        for status in STATUSES
    ]
    return config([listener(UPSTREAM, routes=routes)])


# ---- other people's filters, which answer a 503 as the rule does


def ask_about_everything(cluster: str) -> Json:
    """ext_proc as it would be configured for a service written by hand: asked about every response."""
    return {
        "name": "by_hand",
        "typed_config": typed(
            "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
            grpc_service={"envoy_grpc": {"cluster_name": cluster}},
            processing_mode={"request_header_mode": "SKIP", "response_header_mode": "SEND"},
            failure_mode_allow=True,
            message_timeout="1s",
        ),
    }


def custom_response(sent: Reply) -> Json:
    status = {"name": "status", "typed_config": typed("envoy.type.matcher.v3.HttpResponseStatusCodeMatchInput")}
    policy = typed(
        "envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy",
        status_code=sent.status,
        body={"inline_string": sent.body.decode()},
        response_headers_to_add=[
            {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for name, value in sent.headers
        ],
    )
    matcher = {
        "predicate": {"single_predicate": {"input": status, "value_match": {"exact": "503"}}},
        "on_match": {"action": {"name": "action", "typed_config": policy}},
    }
    return {
        "name": "custom_response",
        "typed_config": typed(
            "envoy.extensions.filters.http.custom_response.v3.CustomResponse",
            custom_response_matcher={"matcher_list": {"matchers": [matcher]}},
        ),
    }


def lua(sent: Reply) -> Json:
    headers = "".join(f'headers:replace("{name}", "{value}") ' for name, value in sent.headers)
    code = f"""
    function envoy_on_response(handle)
      local headers = handle:headers()
      if headers:get(":status") == "503" then
        headers:replace(":status", "{sent.status}") {headers}
        handle:body():setBytes('{sent.body.decode()}')
      end
    end"""
    return {
        "name": "lua",
        "typed_config": typed("envoy.extensions.filters.http.lua.v3.Lua", default_source_code={"inline_string": code}),
    }


def printed_filters(program: Program) -> list[Json]:
    """The filters that `rejoinder bootstrap ext_proc RULES` prints: those that these rules need."""
    needless = {"requests": not sees_requests(program), "host": not needs(program).hosts}
    filters = foreign_filters(program, Placement.EXT_PROC)
    return [entry for entry in filters if not needless.get(entry["name"].rpartition(".")[2])]


def asked_elsewhere(made: Json, clusters: Mapping[str, str]) -> Json:
    """A listener or a filter, with other names of the clusters of its services."""

    def renamed(value: Any) -> Any:
        match value:
            case dict():
                return {
                    key: clusters.get(field, field) if key == "cluster_name" else renamed(field)
                    for key, field in value.items()
                }
            case list():
                return [renamed(item) for item in value]
        return value

    copy: Json = renamed(made)
    return copy
