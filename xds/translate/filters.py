"""The HTTP filter chain: what stands in it, in which order, and what it is told for a route.

The chain hardly ever changes, for a changed chain makes Envoy replace the listener's connections. So what depends on
the rules is no part of it: the filters that answer for rules are extension configurations, which Envoy fetches by the
filter's name (ECDS). They are on for every request, that which fits no route as well; routes that answer by themselves
switch them off. (Only where there are no such rules they are left out.) What some routes need stands in every chain,
switched off, which costs nothing, and these routes switch it on.
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
"""What keeps the host for ext_proc."""
RATE_LIMIT: Final = "rejoinder.rate_limit"
CORS: Final = "rejoinder.cors"
PASSING: Final = "rejoinder.passing"
"""What marks the requests on whose route a rule passes, for access logs."""
UNTYPED: Final = "rejoinder.untyped"
"""What takes away the `content-type` that Envoy gives each answer of its own."""
ROUTER: Final = "envoy.filters.http.router"

# As requests pass them; responses pass them backwards, so that who has seen the request is asked first. Envoy's 429
# goes through all of them wherever it is made.
ORDER: Final = (PASSING, UNTYPED, CORS, HOST, RULES, REQUESTS, RATE_LIMIT, ROUTER)


def http_filters(program: Program, conditional: Placement) -> list[Json]:
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
        **{name: discovered(*TYPES[name]) for name in answering(program, conditional)},
        ROUTER: _ROUTER,
    }
    return [{"name": name, **made[name]} for name in ORDER if name in made]


def part_filters(program: Program) -> list[Json]:
    """What brings the parts of a large program to the module, in a chain that no request takes; empty: it has none."""
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
"""The messages that may be a filter's configuration."""


def answering(program: Program, conditional: Placement) -> tuple[str, ...]:
    """The names of the filters that answer for rules; none where there are no such rules."""
    if not program:
        return ()
    return (RULES,) if conditional is Placement.MODULE else (RULES, HOST, REQUESTS)


_ADS: Final = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}


def discovered(*types: str, source: Json = _ADS) -> Json:
    """A filter's configuration, of one of these types, that Envoy fetches."""
    urls = [f"type.googleapis.com/{name}" for name in types]
    return {"config_discovery": {"config_source": source, "type_urls": urls}}


class Off(NamedTuple):
    """The filters that a route switches off which answers by itself."""

    for_rule: tuple[str, ...]
    """... for a rule."""
    for_itself: tuple[str, ...]
    """... with its own answer, before which rules may have one."""


def to_switch_off(program: Program, conditional: Placement) -> Off:
    """What has nothing to say about an answer of a route's."""
    asked = () if not program.asks_requests else (RULES,) if conditional is Placement.MODULE else (REQUESTS,)
    idle = (HOST,) if ext_proc.sees_requests(program) else (HOST, REQUESTS)
    off = tuple(name for name in answering(program, conditional) if name not in idle)
    return Off(off, tuple(name for name in off if name not in asked))


def switched_off(filters: tuple[str, ...]) -> Json:
    """What such a route says to filters: `typed_per_filter_config`."""
    return {name: typed("envoy.config.route.v3.FilterConfig", disabled=True) for name in filters}


SWITCHED_ON: Final = typed("envoy.config.route.v3.FilterConfig", config={})
"""What a route says to a filter that is switched off in the chain."""

_MUTATION: Final = "envoy.extensions.filters.http.header_mutation.v3"
WITHOUT_TYPE: Final = typed(
    f"{_MUTATION}.HeaderMutationPerRoute", mutations={"response_mutations": [{"remove": "content-type"}]}
)
"""What a route says to UNTYPED whose answer has no type."""

_ROUTER: Final = {"typed_config": typed("envoy.extensions.filters.http.router.v3.Router")}
_LOCAL_RATE_LIMIT: Final = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"


def rate_limit_override(limits: dict[str, RateLimit]) -> tuple[str, Json]:
    """What a route configuration says to have routes limited, each by a bucket of its own.

    The buckets hang on the route configuration and are found by the routes' metadata, so that all the Envoy routes
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


def metadata(**told: str) -> Json:
    """What a metadata, a route's for one, says; empty: nothing.

    Args:
        told: `rule`: the name of the one that the route answers for; `passed`: of the one that has kept others from
            answering; `route`: under this name its requests are limited.
    """
    named = {key: name for key, name in told.items() if name}
    return {"filter_metadata": {METADATA: named}} if named else {}
