"""A plan in Envoy's words: listeners, routes and clusters.

A `Ruleset`, its `Plan` and `Settings` go in, a `Configuration` comes out: resources as plain dictionaries in the JSON
mapping of Envoy's API, just as they would stand in an Envoy YAML file. So `render` and the golden files show what Envoy
gets, and `encode` turns the same dictionaries into the bytes that travel. Pure; raises nothing: a ruleset that loaded
and could be planned can be translated.

Reading order: `listeners` (and the filter chain, with `filters`), `route_configurations`, `routes`, `clusters`,
`extensions`, then `encode`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rejoinder.rules.model import Ruleset
from rejoinder.xds.plan import Plan
from rejoinder.xds.translate.clusters import clusters
from rejoinder.xds.translate.extensions import extensions
from rejoinder.xds.translate.filters import http_filters
from rejoinder.xds.translate.listeners import listeners
from rejoinder.xds.translate.route_configurations import (
    layouts,
    route_configurations,
    split_route_configurations,
)
from rejoinder.xds.translate.settings import Json, Placement, Settings

__all__ = ["Configuration", "Json", "Placement", "Settings", "static_bootstrap", "translate"]


@dataclass(frozen=True, slots=True)
class Configuration:
    """What an Envoy needs for a ruleset."""

    listeners: tuple[Json, ...]
    """envoy.config.listener.v3.Listener, with their routes to be fetched by ADS."""
    routes: tuple[Json, ...]
    """envoy.config.route.v3.RouteConfiguration"""
    clusters: tuple[Json, ...]
    """envoy.config.cluster.v3.Cluster"""
    extensions: tuple[Json, ...] = ()
    """envoy.config.core.v3.TypedExtensionConfig: for Envoys with listeners and routes of their own."""
    virtual_hosts: tuple[Json, ...] = ()
    """envoy.config.route.v3.VirtualHost: those of route configurations that have none in them, and say `vhds`."""
    split: Configuration | None = None
    """The same in smaller resources, for clients that can take virtual hosts; None: it would not be worth while."""


def translate(ruleset: Ruleset, plan: Plan, settings: Settings) -> Configuration:
    """Say in Envoy's words what a plan says.

    Args:
        ruleset: what the files say.
        plan: made of this ruleset.
        settings: what is not in the files: who answers upstream statuses and where, and whom upstreams' certificates
            must come from.
    """
    filters = http_filters(plan, settings.conditional)
    whole = Configuration(
        listeners=tuple(listeners(ruleset, plan, filters)),
        routes=tuple(route_configurations(plan, settings)),
        clusters=tuple(clusters(ruleset, plan, settings)),
        extensions=tuple(extensions()),
    )
    return replace(whole, split=_split(whole, ruleset, plan, filters, settings))


def _split(
    whole: Configuration, ruleset: Ruleset, plan: Plan, filters: list[Json], settings: Settings
) -> Configuration | None:
    by_group = layouts(plan, settings)
    split = list(split_route_configurations(plan, settings, by_group))
    if not split:
        return None
    # The whole route configurations stay, for listeners that are draining and those of others.
    return replace(
        whole,
        listeners=tuple(listeners(ruleset, plan, filters, by_group)),
        routes=(*whole.routes, *(head for head, _ in split)),
        virtual_hosts=tuple(host for _, hosts in split for host in hosts),
    )


def static_bootstrap(configuration: Configuration) -> Json:
    """The same as one bootstrap for an Envoy without a control plane: routes stand within the listeners."""
    routes = {route["name"]: route for route in configuration.routes}
    return {
        "static_resources": {
            "listeners": [_with_routes(listener, routes) for listener in configuration.listeners],
            "clusters": list(configuration.clusters),
        }
    }


def _with_routes(listener: Json, routes: dict[str, Json]) -> Json:
    def chain_with_routes(chain: Json) -> Json:
        return {**chain, "filters": [filter_with_routes(each) for each in chain["filters"]]}

    def filter_with_routes(network_filter: Json) -> Json:
        manager = dict(network_filter["typed_config"])
        manager["route_config"] = routes[manager.pop("rds")["route_config_name"]]
        return {**network_filter, "typed_config": manager}

    return {**listener, "filter_chains": [chain_with_routes(chain) for chain in listener["filter_chains"]]}
