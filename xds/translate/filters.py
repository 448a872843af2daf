"""The HTTP filter chain: what stands in it, in which order, and what it is told for a route.

The chain hardly ever changes, for a changed chain makes Envoy replace the listener's connections: filters stand there
disabled, and are switched on by the configuration of the routes (or of all routes) that need them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rejoinder.rules.answers import ROUTE_KEY, TABLE_KEY, AnswerTable
from rejoinder.rules.model import STATUSES, RateLimit
from rejoinder.xds.plan import Plan, PlannedRoute
from rejoinder.xds.translate.forwarding import duration
from rejoinder.xds.translate.module import module_filter, module_route
from rejoinder.xds.translate.settings import EXT_PROC_CLUSTER, Json, Placement, typed

MODULE: Final = "rejoinder.module"
EXT_PROC: Final = "rejoinder.ext_proc"
RATE_LIMIT: Final = "rejoinder.rate_limit"
CORS: Final = "rejoinder.cors"
ROUTER: Final = "envoy.filters.http.router"

METADATA: Final = "rejoinder"
"""The name of this project's part of metadata, a route's and a request's."""

# As requests pass them; responses pass them backwards. Envoy's 429 goes through all of them wherever it is made.
ORDER: Final = (CORS, MODULE, EXT_PROC, RATE_LIMIT, ROUTER)


def http_filters(plan: Plan, conditional: Placement) -> list[Json]:
    """The filter chain of every listener."""
    made = {ROUTER: _router()}
    if plan.tables() and conditional is Placement.EXT_PROC:
        made[EXT_PROC] = _ext_proc(plan)
    if plan.tables() and conditional is Placement.MODULE:
        made[MODULE] = {"disabled": True, "typed_config": module_filter()}
    if plan.has_cors():
        made[CORS] = {"disabled": True, "typed_config": typed("envoy.extensions.filters.http.cors.v3.Cors")}
    if plan.rate_limits():
        made[RATE_LIMIT] = _rate_limit()
    return [{"name": name, **made[name]} for name in ORDER if name in made]


def _router() -> Json:
    return {"typed_config": typed("envoy.extensions.filters.http.router.v3.Router")}


def _ext_proc(plan: Plan) -> Json:
    """The ext_proc filter behind a gate that lets only responses through to it whose status some table names."""
    mode = {"request_header_mode": "SKIP", "response_header_mode": "SEND"}
    return {
        "disabled": True,
        "typed_config": typed(
            "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
            extension_config={"name": "ext_proc", "typed_config": ext_proc_filter(processing_mode=mode)},
            xds_matcher=_gate(plan.tables()),
        ),
    }


def ext_proc_filter(**mode: object) -> Json:
    """The ext_proc filter, as docs/ext_proc.md explains it.

    Args:
        mode: `processing_mode`, and what else depends on it.
    """
    return typed(
        "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": EXT_PROC_CLUSTER}},
        **mode,
        failure_mode_allow=True,  # fail open: the service slow, dead or restarting, responses pass through
        message_timeout="1s",  # the first call after a start can take longer than Envoy's 200 ms
        mutation_rules={"allow_envoy": True},  # x-envoy-* headers of the upstream's response are dropped, too
        metadata_options={"receiving_namespaces": {"untyped": [METADATA]}},  # which rule answered, for access logs
    )


def _gate(tables: Iterable[AnswerTable]) -> Json:
    skip = {"name": "skip", "typed_config": typed("envoy.extensions.filters.common.matcher.action.v3.SkipFilter")}
    status = {
        "name": "status",
        "typed_config": typed("envoy.type.matcher.v3.HttpResponseStatusCodeMatchInput"),
    }
    named = {"input": status, "value_match": {"safe_regex": {"google_re2": {}, "regex": _statuses(tables)}}}
    unnamed = {"not_matcher": {"single_predicate": named}}
    return {"matcher_list": {"matchers": [{"predicate": unnamed, "on_match": {"action": skip}}]}}


def _statuses(tables: Iterable[AnswerTable]) -> str:
    """A regex of the statuses that tables name, short where they come by the hundred or by the ten."""
    named: set[int] = set()
    for table in tables:
        if table.default:
            return "[0-9]+"
        named.update(status for status, _ in table.by_status)
    parts: list[str] = []
    for hundred in range(STATUSES.start, STATUSES.stop, 100):
        parts += _digits(named, hundred, 100)
    return "|".join(parts) or "none"


def _digits(named: set[int], start: int, size: int) -> list[str]:
    block = range(start, start + size)
    if named.issuperset(block):
        return [str(start // size) + "[0-9]" * (len(str(size)) - 1)]
    if named.isdisjoint(block):
        return []
    return [part for sub in range(start, start + size, size // 10) for part in _digits(named, sub, size // 10)]


def answer_table_override(planned: PlannedRoute, conditional: Placement) -> tuple[str, Json]:
    """What a route says to have its responses answered from its table: the filter's name and its configuration."""
    if conditional is Placement.MODULE:
        return MODULE, module_route(planned.table, planned.route.name if planned.route else "")
    overrides: Json = {"grpc_initial_metadata": [{"key": TABLE_KEY, "value": planned.table.name}]}
    if planned.table.has_handlers:
        # They get the request to see: here each request costs a stream.
        overrides["processing_mode"] = {"request_header_mode": "SEND", "response_header_mode": "SEND"}
        if planned.route:
            overrides["grpc_initial_metadata"].append({"key": ROUTE_KEY, "value": planned.route.name})
    return EXT_PROC, typed("envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute", overrides=overrides)


_LOCAL_RATE_LIMIT: Final = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"


def _rate_limit() -> Json:
    return {"disabled": True, "typed_config": typed(_LOCAL_RATE_LIMIT, stat_prefix="rate_limit")}


def rate_limit_override(limits: dict[str, RateLimit]) -> tuple[str, Json]:
    """What a route configuration says to have routes limited, each by a bucket of its own.

    The buckets hang on the route configuration and are found by `rate_limit_metadata`, so that all the Envoy routes
    that one route of the file becomes draw from one bucket.
    """
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return RATE_LIMIT, typed(
        _LOCAL_RATE_LIMIT,
        stat_prefix="rate_limit",
        filter_enabled=always,
        filter_enforced=always,
        rate_limits=[
            {
                "actions": [
                    {
                        "metadata": {
                            "descriptor_key": "route",
                            "metadata_key": {"key": METADATA, "path": [{"key": "route"}]},
                            "source": "ROUTE_ENTRY",
                        }
                    }
                ]
            }
        ],
        # Requests that no descriptor is about draw from this one: as good as endless.
        token_bucket={"max_tokens": 2**32 - 1, "tokens_per_fill": 2**32 - 1, "fill_interval": "1s"},
        always_consume_default_token_bucket=False,
        descriptors=[
            {
                "entries": [{"key": "route", "value": name}],
                "token_bucket": {
                    "max_tokens": limit.requests,
                    "tokens_per_fill": limit.requests,
                    "fill_interval": duration(limit.interval),
                },
            }
            for name, limit in limits.items()
        ],
    )


def rate_limit_metadata(route: str) -> Json:
    """What a route's metadata says to be counted under the name of the file's route."""
    return {"filter_metadata": {METADATA: {"route": route}}}
