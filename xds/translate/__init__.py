"""A plan in Envoy's words: listeners, routes and clusters.

A `Ruleset`, its `Plan` and `Settings` go in, a `Configuration` comes out: resources as plain dictionaries in the JSON
mapping of Envoy's API, just as they would stand in an Envoy YAML file. So `render` and the golden files show what Envoy
gets, and `encode` turns the same dictionaries into the bytes that travel. Pure; raises nothing: a ruleset that loaded
and could be planned can be translated.

Reading order: `listeners` (and the filter chain, with `filters`), `routes`, `clusters`, then `encode`.
"""

from __future__ import annotations

from dataclasses import dataclass

from rejoinder.rules.model import Ruleset
from rejoinder.xds.plan import Plan
from rejoinder.xds.translate.clusters import clusters
from rejoinder.xds.translate.listeners import listeners
from rejoinder.xds.translate.routes import route_configuration
from rejoinder.xds.translate.settings import Json, Settings

__all__ = ["Configuration", "Json", "Settings", "translate"]


@dataclass(frozen=True, slots=True)
class Configuration:
    """What an Envoy needs for a ruleset."""

    listeners: tuple[Json, ...]
    """envoy.config.listener.v3.Listener, with their routes to be fetched by ADS."""
    routes: tuple[Json, ...]
    """envoy.config.route.v3.RouteConfiguration"""
    clusters: tuple[Json, ...]
    """envoy.config.cluster.v3.Cluster"""


def translate(ruleset: Ruleset, plan: Plan, settings: Settings) -> Configuration:
    """Say in Envoy's words what a plan says.

    Args:
        ruleset: what the files say.
        plan: made of this ruleset.
        settings: what is not in the files: where the answering service is, and whom upstreams' certificates must
            come from.
    """
    return Configuration(
        listeners=tuple(listeners(ruleset, plan)),
        routes=(route_configuration(plan),),
        clusters=tuple(clusters(ruleset, plan, settings)),
    )
