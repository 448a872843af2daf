"""What the control plane reports about its clients: what happens to them (`Event`), and their state (`Status`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from rejoinder.xds.counts import Counted
from rejoinder.xds.snapshot import ResourceType, Snapshot


@dataclass(frozen=True, slots=True)
class Connected:
    """A client has sent its first request."""

    node: str
    """The client's node id, as its bootstrap says."""
    peer: str
    """Its address, as gRPC writes it: `ipv4:127.0.0.1:40312`."""
    envoy: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A client's stream has ended, for whatever reason."""

    node: str
    peer: str


@dataclass(frozen=True, slots=True)
class _News:
    node: str
    peer: str = field(default="", compare=False, kw_only=True)
    """The client's address, as gRPC writes it, which the server knows."""


@dataclass(frozen=True, slots=True)
class Accepted(_News):
    """The client has all resources of a snapshot that it has asked for. On a stream for all types, it has asked for
    more than clusters, which Envoy asks for first."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Nack(_News):
    """The client has rejected a part of a snapshot."""

    type: ResourceType
    snapshot: Snapshot
    message: str
    instead: Snapshot | None = None
    """The snapshot that it is sent because of that; None: none. It keeps what it accepted, or gets a newer snapshot."""
    had: bool = False
    """Whether it goes back to its own previous snapshot, rather than to one that others have accepted."""


@dataclass(frozen=True, slots=True)
class Unable(_News):
    """The client cannot load the module, or what a program needs there, and gets the ext_proc filter instead."""

    message: str


Event = Connected | Disconnected | Accepted | Nack | Unable | Counted


@dataclass(frozen=True, slots=True)
class ClientStatus:
    """One connected client: an Envoy, by its node id and address. (On a Unix socket, all have the same address.)"""

    node: str
    peer: str
    version: str
    """Of the snapshot that it last had in full; empty: none yet."""
    target: str
    """Of the snapshot that it is being brought to; empty: none yet. The same as `version` when it has arrived."""
    nack: Nack | None
    """The rejection on this stream: of the last published snapshot, or else the last rejection of an earlier one; None:
    none, since the client accepted what had been published."""
    envoy: tuple[int, int] | None
    unable: str
    """Its error message, if it cannot use the module and gets the ext_proc filter instead."""
    streams: int = 1
    """How many streams it has: one, or one for each type or filter."""


def merged(streams: Iterable[ClientStatus]) -> ClientStatus:
    """The status of a client with several streams: its version is the one that all of them have."""
    first, *others = streams
    every = (first, *others)
    return replace(
        first,
        version=first.version if all(other.version == first.version for other in others) else "",
        target=first.target if all(other.target == first.target for other in others) else "",
        nack=next((stream.nack for stream in every if stream.nack), None),
        unable=max(stream.unable for stream in every),
        streams=len(every),
    )


@dataclass(frozen=True, slots=True)
class Status:
    """The state of the control plane at one moment."""

    version: str
    """Of the snapshot that clients are brought to; empty: nothing has been published."""
    clients: tuple[ClientStatus, ...]
    nack: Nack | None
    """The last rejection by any client."""
