"""When resources are sent: in an order in which no request meets a route whose cluster is missing (make before break).

In: the snapshot that a client is brought to, and what it has of each type (`stream.Stream`). Out: the responses that
are due; the streams note them. `session` asks again whenever the client has answered. `_ORDER` has the order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from rejoinder.xds.remember import Frozen
from rejoinder.xds.snapshot import (
    CLUSTERS,
    EXTENSIONS,
    LISTENERS,
    RESOURCE_TYPES,
    ROUTES,
    VIRTUAL_HOSTS,
    Reference,
    Resource,
    Resources,
    ResourceType,
    Snapshot,
    content_version,
)
from rejoinder.xds.stream import Response, Stream, changed
from rejoinder.xds.virtual_hosts import VirtualHosts


class _Order(NamedTuple):
    """When resources of a type are sent. In a change, the types are sent in the order of `RESOURCE_TYPES`."""

    after: tuple[ResourceType, ...] = ()
    """Nothing is sent before the client has what it wants of these."""
    changes_after: tuple[ResourceType, ...] = ()
    """Likewise; but what a listener may be waiting for is sent at once (`Stream.waited_for`)."""
    removed_after: tuple[ResourceType, ...] = ()
    """Removed resources stay until the client has exactly what it wants of these."""


_ORDER: Final = {
    CLUSTERS: _Order(removed_after=(LISTENERS, ROUTES, VIRTUAL_HOSTS)),
    LISTENERS: _Order(after=(CLUSTERS,)),  # and after the route configurations that `come_back`
    ROUTES: _Order(after=(CLUSTERS,), changes_after=(LISTENERS,), removed_after=(LISTENERS,)),
    VIRTUAL_HOSTS: _Order(after=(CLUSTERS,), changes_after=(LISTENERS,)),  # `removed_early` has the rest
    EXTENSIONS: _Order(),
}


@dataclass(frozen=True, slots=True)
class Change:
    """The snapshot that a client is brought to, and how far it has come."""

    target: Snapshot
    ours: Snapshot
    """The target in the form that this client gets."""
    streams: Mapping[ResourceType, Stream]
    hosts: VirtualHosts
    """The stream of virtual hosts, which is also in `streams`."""
    incremental: bool
    """The variant of the protocol."""

    def response(self, stream: Stream, nonce: str) -> Response | None:
        """The response that is due on a stream now, with this nonce; None: there is none, or one is under way."""
        if stream.subscription is None or stream.under_way:
            return None
        wanted = self._wanted(stream)
        due = self._due(stream, wanted)
        if due is None:
            return None
        kind, (resources, removed) = stream.type, due
        if kind is ROUTES:
            self.hosts.renew(frozenset(resource.name for resource in resources if resource.name not in stream.sent))
        version = self.ours.versions[kind] if wanted is self.ours.by_type[kind] else content_version(wanted)
        response = Response(kind, version, nonce, resources, removed)
        stream.send(response, wanted, self.target)
        return response

    def is_over(self, only: ResourceType | None) -> bool:
        """Whether the client has all that it wants; `only`: the type that its stream is for, as for a `Session`."""
        if any(stream.rejected is self.target for stream in self.streams.values()):
            return False
        if only:
            return self.streams[only].subscription is not None and self._settled(only)
        asked = any(stream.subscription is not None for stream in self.streams.values())
        return asked and self._settled(*RESOURCE_TYPES)

    def _wanted(self, stream: Stream) -> Resources:
        """What the client is to have of a type at this point of the change."""
        wanted = self._asked_for(stream)
        if stream.type.whole and not self._settled(*_ORDER[stream.type].removed_after):
            leaving = {name: resource for name, resource in stream.sent.items() if name not in wanted}
            return Frozen({**leaving, **wanted}) if leaving else wanted
        return wanted

    def _asked_for(self, stream: Stream) -> Resources:
        """The resources of a type in the target that the client wants."""
        wanted = stream.wanted(self.ours)
        if stream.type is LISTENERS:
            missing = frozenset[Reference]().union(
                *(other.missing for other in self.streams.values() if other.rejected is self.target)
            )
            if missing:  # without its routes, a listener would answer all requests with 404
                return Frozen((name, one) for name, one in wanted.items() if missing.isdisjoint(one.references))
        return wanted

    def _due(self, stream: Stream, wanted: Resources) -> tuple[tuple[Resource, ...], tuple[str, ...]] | None:
        """The resources to be sent now, and the names of those to be removed; None: no response is needed."""
        order, rejected = _ORDER[stream.type], stream.rejected is self.target
        if not self._made(*order.after):
            return None
        if stream.type is LISTENERS and self.hosts.come_back(self.target, self.ours):
            return None
        if stream.whole:
            unchanged = stream.sent == wanted and not stream.owed
            return None if rejected or unchanged else (tuple(wanted.values()), ())

        changes = changed(stream.sent, wanted)
        if refused := stream.refused if rejected else frozenset():
            changes = tuple(resource for resource in changes if resource.name not in refused)
        if changes and not self._made(*order.changes_after):
            changes = stream.waited_for(changes)
        if stream.type is ROUTES and rejected:
            changes = changes[:1]  # one at a time, to find out which of them is rejected
        removed: tuple[str, ...] = ()
        if self.incremental:
            removed = tuple(name for name in self._removed(stream, wanted) if name not in refused)
        return (changes, removed) if changes or removed or stream.owed else None

    def _removed(self, stream: Stream, wanted: Resources) -> Iterator[str]:
        """The names that the client must be told do not exist (any more)."""
        names = stream.left_over(stream.sent, wanted, self.ours)
        if stream is self.hosts:
            yield from names if self._made(LISTENERS) else self.hosts.removed_early(names)
        elif self._settled(*_ORDER[stream.type].removed_after):
            yield from names
        yield from stream.unknown_names(wanted)

    def _made(self, *kinds: ResourceType) -> bool:
        """Whether the client has all resources of these types that it wants; it may have others too."""
        return all(
            stream.subscription is None or stream.rejected is self.target or stream.made(self._asked_for(stream))
            for stream in map(self.streams.__getitem__, kinds)
        )

    def _settled(self, *kinds: ResourceType) -> bool:
        """Whether the client has exactly what it wants of these types, and what it will ask for next."""
        return all(
            stream.rejected is self.target
            or (self._made(stream.type) and stream.settled(self._asked_for(stream), self.ours))
            for stream in map(self.streams.__getitem__, kinds)
        )
