"""A configuration as bytes: the dictionaries of `translate`, made into a snapshot of encoded resources.

A field that Envoy's API does not have, or a value of the wrong type, fails here and not in Envoy; that would be a
mistake of ours, and is raised as `protobuf.MappingError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rejoinder.xds.protobuf import encoder
from rejoinder.xds.remember import Frozen, by_size, frozen
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
from rejoinder.xds.translate.logs import logged
from rejoinder.xds.translate.settings import Json


def snapshot(configuration: Configuration) -> Snapshot:
    """The snapshot that gives an Envoy a configuration."""
    split = snapshot(configuration.split) if configuration.split else None
    without_module = snapshot(configuration.without_module) if configuration.without_module else None
    by_type = (
        (CLUSTERS, configuration.clusters),
        (LISTENERS, configuration.listeners),
        (ROUTES, configuration.routes),
        (VIRTUAL_HOSTS, configuration.virtual_hosts),
        (EXTENSIONS, configuration.extensions),
    )
    resources = (
        _resource(kind, frozen(message), frozenset(_references(kind, message, configuration)))
        for kind, messages in by_type
        for message in messages
    )
    return Snapshot(tuple(resources), split, without_module)


@by_size(lambda resource: len(resource.encoded))
def _resource(kind: ResourceType, message: Frozen[str, Any], references: frozenset[Reference]) -> Resource:
    encode = encoder(kind.message)
    with_logs = (lambda counts, lines: encode(logged(message, counts, lines))) if kind is LISTENERS else None
    return Resource(kind, message["name"], encode(message), references, with_logs)


def _references(kind: ResourceType, message: Json, configuration: Configuration) -> Iterator[Reference]:
    """The resources that a resource refers to. (An extension is for Envoys with clusters of their own, too.)"""
    if kind is ROUTES:
        yield from ((CLUSTERS, upstream) for upstream in configuration.upstreams[message["name"]])
    elif kind is LISTENERS:
        for manager in (one["typed_config"] for chain in message["filter_chains"] for one in chain["filters"]):
            if "rds" in manager:
                yield ROUTES, manager["rds"]["route_config_name"]
            yield from ((EXTENSIONS, one["name"]) for one in manager["http_filters"] if "config_discovery" in one)
