"""A plan as Envoy resources: listeners, routes and clusters.

A `Ruleset`, its `Plan` and `Settings` go in, a `Configuration` comes out: resources as plain dictionaries in the JSON
mapping of Envoy's API, just as they would stand in an Envoy YAML file. So `render` and the golden files show what Envoy
gets, and `encode` turns the same dictionaries into the bytes that are sent. Pure; raises nothing: every ruleset that
was loaded and planned can be translated.

Reading order: `listeners` (and the filter chain, with `filters`), `extensions` (with `module` and `ext_proc`),
`early_errors`, `route_configurations`, `routes`, `clusters`, then `encode`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

from rejoinder.rules.model import RUNTIME, Ruleset, native_rules
from rejoinder.rules.program import Program, compile_rules
from rejoinder.xds.plan import Plan
from rejoinder.xds.translate.clusters import clusters
from rejoinder.xds.translate.early_errors import local_reply_config
from rejoinder.xds.translate.ext_proc import IDLE
from rejoinder.xds.translate.extensions import extensions, foreign_filters
from rejoinder.xds.translate.filters import Off, http_filters, part_filters, to_switch_off
from rejoinder.xds.translate.listeners import listeners, parts_listener
from rejoinder.xds.translate.logs import with_managers
from rejoinder.xds.translate.route_configurations import (
    Layout,
    layouts,
    route_configurations,
    routes_name,
    split_route_configurations,
)
from rejoinder.xds.translate.settings import MAX_REQUEST, Json, Placement, Settings, named_again

__all__ = ["Configuration", "Json", "Placement", "Settings", "conditional_program", "static_bootstrap", "translate"]


@dataclass(frozen=True, slots=True)
class Configuration:
    """What an Envoy needs for a ruleset."""

    listeners: tuple[Json, ...]
    """envoy.config.listener.v3.Listener, which fetch their routes by ADS."""
    routes: tuple[Json, ...]
    """envoy.config.route.v3.RouteConfiguration"""
    clusters: tuple[Json, ...]
    """envoy.config.cluster.v3.Cluster"""
    upstreams: Mapping[str, frozenset[str]]
    """The upstreams that each route configuration refers to, by its name."""
    extensions: tuple[Json, ...] = ()
    """envoy.config.core.v3.TypedExtensionConfig: the filters that answer for rules, by the filters' names."""
    virtual_hosts: tuple[Json, ...] = ()
    """envoy.config.route.v3.VirtualHost: those of route configurations that have none inside, but `vhds`."""
    split: Configuration | None = None
    """The same in smaller resources, for clients that can take virtual hosts; None: there are too few virtual hosts, or
    more than such a client may name when it connects again."""
    without_module: Configuration | None = None
    """The same with ext_proc in place of the module, for clients that cannot load it; None: not wanted."""


def translate(ruleset: Ruleset, program: Program, plan: Plan, settings: Settings) -> Configuration:
    """Make Envoy resources from a plan.

    Args:
        ruleset: the content of the files.
        program, plan: made from this ruleset.
        settings: what is not in the files: who answers upstream statuses and where, and the authorities for upstreams'
            certificates.
    """
    conditional = conditional_program(ruleset)
    foreign = tuple(extension for placement in Placement for extension in foreign_filters(program, placement))
    by_group = layouts(plan, settings)
    upstreams = {
        routes_name(group, layout): frozenset(name for _, forward in part.forwarding for name in forward.upstreams)
        for group, part in plan.items()
        for layout in Layout
    }

    @functools.cache  # both forms usually have the same routes
    def routes(off: Off) -> tuple[tuple[Json, ...], tuple[tuple[Json, list[Json]], ...]]:
        split = tuple(split_route_configurations(plan, settings, off, by_group))
        return tuple(route_configurations(plan, settings, off)), split

    def form(placement: Placement) -> Configuration:
        filters = http_filters(placement)
        parts = part_filters(conditional) if placement is Placement.MODULE else []
        carriers = (parts_listener(parts),) if parts else ()
        together, split = routes(to_switch_off(conditional, placement))
        early = local_reply_config(conditional) if placement is Placement.EXT_PROC else {}
        whole = Configuration(
            listeners=(*listeners(ruleset, filters, early), *carriers),
            routes=together,
            clusters=tuple(clusters(ruleset, conditional, replace(settings, conditional=placement))),
            upstreams=upstreams,
            extensions=(*extensions(conditional, placement), *foreign),
        )
        hosts = tuple(host for _, hosts in split for host in hosts)
        if not hosts or named_again([host["name"] for host in hosts]) > MAX_REQUEST:
            return whole
        # The whole route configurations stay, for listeners that are draining and those of others.
        in_parts = replace(
            whole,
            listeners=(*listeners(ruleset, filters, early, by_group), *carriers),
            routes=(*together, *(head for head, _ in split)),
            virtual_hosts=hosts,
        )
        return replace(whole, split=in_parts)

    configuration = form(settings.conditional)
    if settings.conditional is Placement.MODULE and settings.fallback:
        return replace(configuration, without_module=form(Placement.EXT_PROC))
    return configuration


def conditional_program(ruleset: Ruleset) -> Program:
    """The rules left to the program in Envoys of ours, where routes give the unconditional answers that they can."""
    native = {rule for rule in native_rules(ruleset.rules) if rule.unconditional}
    return compile_rules(rule for rule in ruleset.rules if rule not in native)


def static_bootstrap(configuration: Configuration) -> Json:
    """The same as one bootstrap for an Envoy without a control plane: routes and filters stand within the listeners,
    and filters that do nothing are left out.
    """
    routes = {route["name"]: route for route in configuration.routes}
    extensions = {extension["name"]: extension for extension in configuration.extensions}
    return {
        "layered_runtime": RUNTIME,
        "static_resources": {
            "listeners": [
                with_managers(listener, lambda manager: _complete(manager, routes, extensions))
                for listener in configuration.listeners
            ],
            "clusters": list(configuration.clusters),
        },
    }


def _complete(manager: Json, routes: dict[str, Json], extensions: dict[str, Json]) -> Json:
    complete = dict(manager)
    if "rds" in complete:
        complete["route_config"] = routes[complete.pop("rds")["route_config_name"]]
    filters = (extensions[one["name"]] if "config_discovery" in one else one for one in complete["http_filters"])
    complete["http_filters"] = [one for one in filters if one["typed_config"] != IDLE]
    return complete
