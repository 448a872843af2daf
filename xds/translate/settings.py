"""What a configuration depends on besides the rule files, and the few names that several of its parts share."""

from __future__ import annotations

import base64
import enum
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from rejoinder.rules.model import Endpoint
from rejoinder.rules.names import TRUSTED_CA
from rejoinder.transport.addresses import Address
from rejoinder.transport.envoy_side import EnvoyTls

Json = dict[str, Any]
"""A message of Envoy's API in its JSON mapping, with the field names of the .proto files."""

ROUTES_NAME: Final = "rejoinder"
"""The route configuration of the routes in rule files; that of another group of listeners ends in the group's name."""

EXT_PROC_CLUSTER: Final = "rejoinder_ext_proc"

MAX_REQUEST: Final = 4 << 20
"""In bytes. An Envoy that connects again names all its resources with their versions (`named_again`): at most forty
thousand upstreams or virtual hosts with names of 70 characters, and 61 kB about itself. An Envoy that has counted
answers of each of 20,000 rules reports that in 3 MB. gRPC keeps the beginning of a request until the rest has come,
for every client: so the limit is no larger than that."""

_NODE: Final = 64 << 10
_ENTRY: Final = 28
"""In bytes: an Envoy's node; and each entry besides its name: a version of 20 characters, and lengths."""


class Placement(enum.Enum):
    """Where the answers to an upstream's status are given."""

    __hash__ = object.__hash__  # called for every route

    MODULE = "module"
    """In Envoy itself, by our dynamic module."""
    EXT_PROC = "ext_proc"
    """In a gRPC service outside Envoy."""


@dataclass(frozen=True, slots=True)
class Settings:
    ext_proc: Endpoint | Address
    """Where Envoy finds the ext_proc service."""
    ext_proc_ports: int = field(default=1, kw_only=True)
    """The number of consecutive ports, or sockets, from that one on."""
    envoy_tls: EnvoyTls | None = field(default=None, kw_only=True)
    """Envoy's TLS for it; None: without TLS."""
    conditional: Placement = Placement.EXT_PROC
    """Where the answers to an upstream's status are given."""
    fallback: bool = False
    """Whether Envoys that cannot load the module are told to ask the ext_proc service instead."""
    long_list: int = 64
    """From this number of routes on, the list of a domain is cut into buckets; see `buckets`."""
    many_routes: int = 1000
    """From this number of routes on, the virtual hosts of a group of listeners are resources of their own, for clients
    that can take them; see `route_configurations`."""
    trusted_ca: str = TRUSTED_CA
    """The authorities (PEM, a path on Envoy's machine) that verify `https://` upstreams."""


def named_again(names: Collection[str]) -> int:
    """The size of a request in which an Envoy names all its resources: each in `initial_resource_versions`."""
    return _NODE + _ENTRY * len(names) + sum(map(len, map(str.encode, names)))


def typed(type_name: str, **fields: Any) -> Json:
    """A message in an Any: its type's full name, and its fields."""
    return {"@type": f"type.googleapis.com/{type_name}", **fields}


def inline(content: bytes) -> Json:
    """A DataSource with the bytes themselves: our files may not exist on Envoy's machine."""
    return {"inline_bytes": base64.b64encode(content).decode()}
