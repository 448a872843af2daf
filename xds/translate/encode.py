"""A configuration as bytes: what `translate` says in dictionaries, made into a snapshot of encoded resources.

A field that Envoy's API does not have, or a value of the wrong type, fails here and not in Envoy; that would be a
mistake of ours, and is raised as `json_mapping.MappingError`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Final

import betterproto2
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.route.v3 import FilterConfig, RouteConfiguration, RouteList, VirtualHost
from envoy_data_plane.envoy.extensions.common.matching.v3 import ExtensionWithMatcher
from envoy_data_plane.envoy.extensions.filters.common.matcher.action.v3 import SkipFilter
from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import Cors, CorsPolicy
from envoy_data_plane.envoy.extensions.filters.http.dynamic_modules.v3 import (
    DynamicModuleFilter,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import ExternalProcessor
from envoy_data_plane.envoy.extensions.filters.http.local_ratelimit.v3 import LocalRateLimit
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.http.set_filter_state.v3 import Config as SetFilterState
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManager
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import HeaderMutation
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import DownstreamTlsContext, UpstreamTlsContext
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import HttpProtocolOptions
from envoy_data_plane.envoy.type.matcher.v3 import (
    HttpRequestHeaderMatchInput,
    HttpResponseHeaderMatchInput,
    HttpResponseStatusCodeMatchInput,
)

from rejoinder.xds.json_mapping import Encoder, encoder
from rejoinder.xds.protobuf import message_class
from rejoinder.xds.remember import REMEMBERED, REMEMBERED_BYTES, by_identity, size
from rejoinder.xds.snapshot import (
    CLUSTERS,
    EXTENSIONS,
    LISTENERS,
    ROUTES,
    VIRTUAL_HOSTS,
    Reference,
    Resource,
    ResourceType,
    Snapshot,
)
from rejoinder.xds.translate import Configuration
from rejoinder.xds.translate.forwarding import NO_UPSTREAM
from rejoinder.xds.translate.settings import Json

_MESSAGES: Final[dict[ResourceType, type[betterproto2.Message]]] = {
    CLUSTERS: Cluster,
    LISTENERS: Listener,
    ROUTES: RouteConfiguration,
    VIRTUAL_HOSTS: VirtualHost,
    EXTENSIONS: TypedExtensionConfig,
}

# What stands in an Any somewhere: the parser must know it.
_EXTENSIONS: Final[tuple[type[betterproto2.Message], ...]] = (
    Cors,
    CorsPolicy,
    DownstreamTlsContext,
    DynamicModuleFilter,
    ExtensionWithMatcher,
    ExternalProcessor,
    FilterConfig,
    HeaderMutation,
    HttpConnectionManager,
    HttpProtocolOptions,
    HttpRequestHeaderMatchInput,
    HttpResponseHeaderMatchInput,
    HttpResponseStatusCodeMatchInput,
    LocalRateLimit,
    RouteList,
    Router,
    SetFilterState,
    SkipFilter,
    UpstreamTlsContext,
)


def snapshot(configuration: Configuration) -> Snapshot:
    """The snapshot that an Envoy is told to have a configuration."""
    split = snapshot(configuration.split) if configuration.split else None
    without_module = snapshot(configuration.without_module) if configuration.without_module else None
    by_type = (
        (CLUSTERS, configuration.clusters),
        (LISTENERS, configuration.listeners),
        (ROUTES, configuration.routes),
        (VIRTUAL_HOSTS, configuration.virtual_hosts),
        (EXTENSIONS, configuration.extensions),
    )
    return Snapshot(
        tuple(_resource(kind, message) for kind, messages in by_type for message in messages), split, without_module
    )


@by_identity(REMEMBERED_BYTES, lambda resource: size(resource.encoded))
def _resource(kind: ResourceType, message: Json) -> Resource:
    # An extension is for Envoys with clusters of their own.
    references = frozenset() if kind is EXTENSIONS else frozenset(_references(message))
    return Resource(kind, message["name"], _encoders()[kind](message), references)


@functools.cache
def _encoders() -> dict[ResourceType, Encoder]:
    for extension in _EXTENSIONS:
        message_class(extension)
    return {kind: encoder(message_class(message).DESCRIPTOR) for kind, message in _MESSAGES.items()}


def _references(message: object) -> Iterator[Reference]:
    """What a message needs: all that it names as a cluster, a route configuration or a filter that is fetched."""
    if isinstance(message, dict):
        if "config_discovery" in message:
            yield EXTENSIONS, message["name"]
        for key, value in message.items():
            if key in ("cluster", "cluster_name") and isinstance(value, str):
                if value != NO_UPSTREAM:
                    yield CLUSTERS, value
            elif key == "weighted_clusters":
                yield from ((CLUSTERS, each["name"]) for each in value["clusters"] if each["name"] != NO_UPSTREAM)
            elif key == "route_config_name":
                yield ROUTES, value
            elif isinstance(value, dict):
                # The list of routes under a key; below, a route and a virtual host: there are ten thousand of either.
                yield from _remembered_references(value) if "action" in value else _references(value)
            else:
                yield from _references(value)
    elif isinstance(message, list):
        for value in message:
            remembered = isinstance(value, dict) and ("match" in value or ("domains" in value and "routes" in value))
            yield from _remembered_references(value) if remembered else _references(value)


@by_identity(REMEMBERED)  # as their bytes are
def _remembered_references(message: Json) -> frozenset[Reference]:
    return frozenset(_references(message))
