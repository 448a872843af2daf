"""What a configuration depends on beside the rule files, and the few names that several of its parts share."""

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
"""The route configuration of what stands in rule files; another group of listeners has its name behind it."""

EXT_PROC_CLUSTER: Final = "rejoinder_ext_proc"

MAX_REQUEST: Final = 4 << 20
"""In bytes. An Envoy that comes back names all that it has, with the versions (`named_again`): forty thousand upstreams
or virtual hosts with names of 70 characters, and 61 kB about itself. One that has counted answers of each of 20,000
rules says so in 3 MB. gRPC keeps what has come of a request as long as the rest is missing, for whoever connects: so
it is no larger than that."""

_NODE: Final = 64 << 10
_ENTRY: Final = 28
"""In bytes: what an Envoy says of itself; and of an entry beside the name, a version of 20 characters and lengths."""


class Placement(enum.Enum):
    """Where the answers to an upstream's status are given."""

    __hash__ = object.__hash__  # it is asked for with every route

    MODULE = "module"
    """In Envoy itself, by our dynamic module."""
    EXT_PROC = "ext_proc"
    """In a gRPC service beside it."""


@dataclass(frozen=True, slots=True)
class Settings:
    ext_proc: Endpoint | Address
    """Where Envoy finds the ext_proc service."""
    ext_proc_ports: int = field(default=1, kw_only=True)
    """On how many ports, or sockets, it listens, from that one on."""
    envoy_tls: EnvoyTls | None = field(default=None, kw_only=True)
    """With what Envoy reaches it; None: without TLS."""
    conditional: Placement = Placement.EXT_PROC
    """Where the answers to an upstream's status are given."""
    fallback: bool = False
    """Whether Envoys that cannot load the module are told to ask the ext_proc service instead."""
    long_list: int = 64
    """From how many routes on the list of a domain is cut into buckets; see `buckets`."""
    many_routes: int = 1000
    """From how many routes on a group of listeners has its virtual hosts as resources of their own, for clients that
    can take them; see `route_configurations`."""
    trusted_ca: str = TRUSTED_CA
    """The certificates (PEM, a path on Envoy's machine) that `https://` upstreams are verified with."""


def named_again(names: Collection[str]) -> int:
    """The bytes of a request in which an Envoy names what it has: each in `initial_resource_versions`."""
    return _NODE + _ENTRY * len(names) + sum(map(len, map(str.encode, names)))


def typed(type_name: str, **fields: Any) -> Json:
    """A message in an Any: its type's full name, and its fields."""
    return {"@type": f"type.googleapis.com/{type_name}", **fields}


def inline(content: bytes) -> Json:
    """A DataSource that holds bytes: what stands in a file of ours may not be there where Envoy runs."""
    return {"inline_bytes": base64.b64encode(content).decode()}
