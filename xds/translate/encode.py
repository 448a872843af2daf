"""A configuration as bytes: what `translate` says in dictionaries, made into a snapshot of encoded resources.

A field that Envoy's API does not have, or a value of the wrong type, fails here and not in Envoy; that would be a
mistake of ours, and is raised as `protobuf.MappingError`.
"""

from __future__ import annotations

from collections.abc import Iterator

from rejoinder.xds.protobuf import encoder
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
    return Resource(kind, message["name"], encoder(kind.message)(message), references)


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
