"""The HTTP filter chain: its filters, their order, and what routes configure for them.

The chain never changes, because a changed chain makes Envoy replace the listener, and cut off what still runs when the
old one has drained. So nothing in it depends on the rules: the filters that answer for rules are extension
configurations, which Envoy fetches by the filter's name (ECDS), and which do nothing if there are no such rules. They
are on for every request, even one that fits no route; routes that answer by themselves switch them off. Filters that
only some routes need stand in every chain, switched off, which costs nothing, and these routes switch them on.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from rejoinder.rules.model import RateLimit
from rejoinder.rules.names import METADATA
from rejoinder.rules.program import Program
from rejoinder.rules.program_bytes import Part, cut
from rejoinder.xds.translate import ext_proc, module
from rejoinder.xds.translate.forwarding import duration
from rejoinder.xds.translate.logs import PASSES
from rejoinder.xds.translate.settings import Json, Placement, typed

RULES: Final = "rejoinder.rules"
"""The filter that answers for rules: the module, or ext_proc for responses."""
REQUESTS: Final = "rejoinder.requests"
"""ext_proc for requests: in Envoys of ours, for handlers."""
HOST: Final = "rejoinder.host"
"""The filter that keeps the host for ext_proc."""
RATE_LIMIT: Final = "rejoinder.rate_limit"
CORS: Final = "rejoinder.cors"
PASSING: Final = "rejoinder.passing"
"""The filter that marks requests on whose route a rule passes, for access logs."""
UNTYPED: Final = "rejoinder.untyped"
"""The filter that removes the `content-type` that Envoy adds to its own answers."""
ROUTER: Final = "envoy.filters.http.router"

# In the order of requests; responses pass them backwards, so that the filter that has seen the request is asked first.
# Envoy's 429 passes all of them, whichever filter makes it.
ORDER: Final = (PASSING, UNTYPED, CORS, HOST, RULES, REQUESTS, RATE_LIMIT, ROUTER)


def http_filters(conditional: Placement) -> list[Json]:
    """The filter chain of every listener."""
    mark = {"metadata_namespace": METADATA, "value": {PASSES: True}}
    off = {
        PASSING: typed("envoy.extensions.filters.http.set_metadata.v3.Config", metadata=[mark]),
        UNTYPED: typed(f"{_MUTATION}.HeaderMutation"),
        CORS: typed("envoy.extensions.filters.http.cors.v3.Cors"),
        RATE_LIMIT: typed(_LOCAL_RATE_LIMIT, stat_prefix="rate_limit"),
    }
    made = {
        **{name: {"disabled": True, "typed_config": config} for name, config in off.items()},
        **{name: discovered(*TYPES[name]) for name in answering(conditional)},
        ROUTER: _ROUTER,
    }
    return [{"name": name, **made[name]} for name in ORDER if name in made]


def part_filters(program: Program) -> list[Json]:
    """The filters that bring the parts of a large program to the module, in a chain without requests; empty: none."""
    parts = cut(program)[1]
    filters = [{"name": part_name(part), **discovered(module.TYPE)} for part in parts]
    return [*filters, {"name": ROUTER, **_ROUTER}] if filters else []


def part_name(part: Part) -> str:
    return f"rejoinder.part.{part.name}"


TYPES: Final = {
    RULES: (module.TYPE, *ext_proc.TYPES),
    REQUESTS: ext_proc.TYPES,
    HOST: ext_proc.TYPES,
}
"""The possible message types of a filter's configuration."""


def answering(conditional: Placement) -> tuple[str, ...]:
    """The names of the filters that answer for rules, whether there are such rules or not."""
    return (RULES,) if conditional is Placement.MODULE else (RULES, HOST, REQUESTS)


_ADS: Final = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}


def discovered(*types: str, source: Json = _ADS) -> Json:
    """A filter whose configuration, of one of these types, Envoy fetches."""
    urls = [f"type.googleapis.com/{name}" for name in types]
    return {"config_discovery": {"config_source": source, "type_urls": urls}}


class Off(NamedTuple):
    """The filters that are switched off by routes that answer by themselves."""

    for_rule: tuple[str, ...]
    """... with a rule's answer."""
    for_itself: tuple[str, ...]
    """... with the route's own answer, before which rules may answer."""


def to_switch_off(program: Program, conditional: Placement) -> Off:
    """The filters that do nothing for the answer of a route."""
    asked = () if not program.asks_requests else (RULES,) if conditional is Placement.MODULE else (REQUESTS,)
    idle = (HOST,) if ext_proc.sees_requests(program) else (HOST, REQUESTS)
    off = tuple(name for name in answering(conditional) if name not in idle)
    return Off(off, tuple(name for name in off if name not in asked))


def switched_off(filters: tuple[str, ...]) -> Json:
    """The `typed_per_filter_config` of such a route."""
    return {name: typed("envoy.config.route.v3.FilterConfig", disabled=True) for name in filters}


SWITCHED_ON: Final = typed("envoy.config.route.v3.FilterConfig", config={})
"""The per-route configuration that switches on a filter of the chain."""

_MUTATION: Final = "envoy.extensions.filters.http.header_mutation.v3"
WITHOUT_TYPE: Final = typed(
    f"{_MUTATION}.HeaderMutationPerRoute", mutations={"response_mutations": [{"remove": "content-type"}]}
)
"""The per-route configuration of UNTYPED for an answer without a type."""

_ROUTER: Final = {"typed_config": typed("envoy.extensions.filters.http.router.v3.Router")}
_LOCAL_RATE_LIMIT: Final = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"


def rate_limit_override(limits: dict[str, RateLimit]) -> tuple[str, Json]:
    """The rate limits in a route configuration: one bucket for each limited route of the file.

    The buckets belong to the route configuration and are selected by the routes' metadata, so that all Envoy routes
    that are made from one route of the file share one bucket.
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
        # The bucket of requests without a descriptor: practically unlimited.
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


def metadata(**told: str) -> Json:
    """The content of a `metadata` field, such as a route's; empty: none.

    Args:
        told: `rule`: the rule that the route answers for; `passed`: the rule that has kept others from answering;
            `route`: the name under which its requests are limited.
    """
    named = {key: name for key, name in told.items() if name}
    return {"filter_metadata": {METADATA: named}} if named else {}
