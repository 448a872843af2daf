"""One client's xDS stream as a state machine without I/O and without a clock: what both variants of the protocol share.

In go the client's requests (`on_request` of `sotw.StateOfTheWorld` and `delta.Incremental`) and the snapshots that it
is to have (`Session.on_snapshot`); out come values: `Response`s to be sent in this order, and the news that the client
has accepted (`Accepted`) or rejected (`Nack`) a snapshot. Nothing is raised: every request of a client has a meaning,
if only that it is ignored. The two variants read requests; what is sent, and when, is decided here. The state of one
type is a `stream.Stream`; `virtual_hosts` has what is special about these, `forms` which form of a snapshot a client
gets. The protocol: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol

A change goes out so that no request meets a route whose cluster is missing (make before break): `_ORDER` says how.

One response of a type is under way at a time. A newer snapshot therefore never queues behind an older one: the next
response of each type is made from the newest, and a slow client skips the snapshots between.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from rejoinder.xds.forms import Forms
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

if TYPE_CHECKING:
    from rejoinder.xds.delta import DeltaRequest
    from rejoinder.xds.sotw import Request


class _Order(NamedTuple):
    """When resources of a type are sent. What comes first in a change stands first in `RESOURCE_TYPES`."""

    after: tuple[ResourceType, ...] = ()
    """Nothing is sent before the client has what it wants of these."""
    changes_after: tuple[ResourceType, ...] = ()
    """Likewise; but what a listener may be waiting for is sent at once (`Stream.waited_for`)."""
    removed_after: tuple[ResourceType, ...] = ()
    """What is no more stays until the client has exactly what it wants of these."""


_ORDER: Final = {
    CLUSTERS: _Order(removed_after=(LISTENERS, ROUTES, VIRTUAL_HOSTS)),
    LISTENERS: _Order(after=(CLUSTERS,)),  # and after what they would use at once in an old form: `come_back`
    ROUTES: _Order(after=(CLUSTERS,), changes_after=(LISTENERS,), removed_after=(LISTENERS,)),
    VIRTUAL_HOSTS: _Order(after=(CLUSTERS,), changes_after=(LISTENERS,)),  # `removed_early` has the rest
    EXTENSIONS: _Order(),
}

_TYPES_BY_URL: Final = {kind.url: kind for kind in RESOURCE_TYPES}

_UNKNOWN: Final = Snapshot(())


@dataclass(frozen=True, slots=True)
class _News:
    node: str
    peer: str = field(default="", compare=False, kw_only=True)
    """The client's address, as gRPC writes it, which the server knows."""


@dataclass(frozen=True, slots=True)
class Accepted(_News):
    """The client has a snapshot in full: all that it has asked for of it. On a stream for all types, it has asked for
    more than clusters, which Envoy asks for first."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Nack(_News):
    """The client has rejected a part of a snapshot."""

    type: ResourceType
    snapshot: Snapshot
    message: str
    instead: Snapshot | None = None
    """What it is sent because of that; None: nothing. It keeps what it accepted, or gets a newer snapshot."""
    had: bool = False
    """Whether it goes back to what it had, rather than to what others have."""


@dataclass(frozen=True, slots=True)
class Unable(_News):
    """The client cannot load the module, or what a program needs in it, and gets the ext_proc filter instead."""

    message: str


Output = Response | Accepted | Nack | Unable


class Session(abc.ABC):
    """One client's stream.

    A client that rejects a snapshot goes back to the last one of which it had all that it had asked for; one that had
    none yet gets what others have accepted of the type (`proven`), and if there is none, keeps what it accepted of this
    one, without the listeners whose routes or filters it has rejected. Then it waits for the next snapshot: the
    rejected one is not tried again, unless it comes as another object, which means that somebody made it anew (perhaps
    the cause, such as a port in use, is gone).
    """

    incremental: ClassVar[bool]
    """The variant of the protocol."""

    def __init__(
        self,
        snapshot: Snapshot | None = None,
        only: ResourceType | None = None,
        proven: Mapping[ResourceType, Snapshot] = {},
    ) -> None:
        """
        Args:
            snapshot: what the client is to have; None: that is not known yet, `on_snapshot` will tell.
            only: the type that the stream is for, in a discovery service of one type; None: ADS.
            proven: for each type, the last snapshot of which a client has accepted it. It may change at any time.
        """
        self.node = ""
        """The client's id, from its first request."""
        self.target = snapshot
        self.accepted: Snapshot | None = None
        """The last snapshot that the client had in full (see `Accepted`)."""
        self.only = only
        self.forms = Forms(may_split=self.incremental and only is None)
        self._proven = proven
        self._had: Snapshot | None = None
        """The last snapshot of which the client had all that it had asked for by then."""
        self._rejected: tuple[Snapshot, ...] = ()
        """Since the last one that came."""
        streams = {kind: Stream(kind, whole=kind.whole and not self.incremental) for kind in RESOURCE_TYPES}
        streams[ROUTES].parent = streams[LISTENERS]
        self._hosts = VirtualHosts(VIRTUAL_HOSTS, whole=False, parent=streams[ROUTES])
        self._streams: Mapping[ResourceType, Stream] = {**streams, VIRTUAL_HOSTS: self._hosts}
        self._nonces = 0

    @property
    def ours(self) -> Snapshot:
        """The target in the form that this client gets; while there is none, a snapshot without resources."""
        return self.forms.of(self.target) if self.target else _UNKNOWN

    @property
    def types(self) -> tuple[ResourceType, ...]:
        return tuple(kind for kind, stream in self._streams.items() if stream.subscription is not None)

    def names(self) -> Iterator[str]:
        """What the client has asked for by its name, whether it exists or not."""
        for stream in self._streams.values():
            yield from stream.subscription.names if stream.subscription else ()

    def on_snapshot(self, snapshot: Snapshot) -> list[Output]:
        """Take the snapshot that the client is to have from now on.

        Args:
            snapshot: one that passes its `check`. If it is the one that the client has just rejected, nothing happens.

        Returns:
            What is to be sent and to be known because of it, in order. What cannot be sent yet follows from
            `on_request`, as the client answers.
        """
        if self.has_rejected(snapshot):
            return []
        self._rejected = ()
        self.target = snapshot
        return list(self._advance())

    def has_rejected(self, snapshot: Snapshot) -> bool:
        """Whether the client has rejected the snapshot and is not to be brought to it again."""
        return any(rejected is snapshot for rejected in self._rejected)

    @abc.abstractmethod
    def _distrust(self, stream: Stream, response: Response) -> None:
        """Have all that a rejected response was about sent again, in its new form or (if there is none) the old one.

        What such a response has done is uncertain: Envoy takes the good listeners and clusters of it and rejects the
        others.
        """

    def _asked(self, request: Request | DeltaRequest) -> Stream | None:
        """The stream of a request's type; None: it is not ours. A request to a service of one type may leave it out."""
        self.node = self.node or request.node.id
        self.forms.envoy = self.forms.envoy or request.node.envoy
        self.forms.access_log |= request.node.access_log
        kind = self.only if self.only and not request.type_url else _TYPES_BY_URL.get(request.type_url)
        if kind is None or (self.only and kind is not self.only):
            return None
        return self._streams[kind]

    def _answered(self, stream: Stream, error: str | None) -> list[Output]:
        """Take the answer to the response under way, if there is one, and go on."""
        news: list[Output] = []
        if stream.under_way is not None and error is not None:
            news = [self._reject(stream, stream.under_way, error)]
        elif stream.under_way is not None:
            stream.accept()
        return [*news, *self._advance()]

    def _reject(self, stream: Stream, response: Response, message: str) -> Nack | Unable:
        snapshot = stream.snapshot
        assert snapshot is not None
        stream.under_way = None
        missing = frozenset[Reference]() if stream.resumed else stream.lost(response.names)
        self._distrust(stream, response)
        if self.forms.learn(stream.type, snapshot, message):
            return Unable(self.node, message)
        # If there is another target by now, the client gets that next: it may well be the correction.
        if snapshot is not self.target:
            return Nack(self.node, response.type, snapshot, message)
        self._rejected = (*self._rejected, snapshot)
        if self._had in self._rejected:
            self._had = self.accepted = None
        proven = self._proven.get(stream.type)
        instead = self._had or (proven if proven not in self._rejected else None)
        if instead is not None:
            self.target = instead
        else:
            if stream.rejected is not snapshot:
                stream.rejected, stream.refused, stream.missing = snapshot, frozenset(), frozenset()
            if stream.type is not ROUTES or len(response.resources) <= 1:
                stream.refused |= response.names
                stream.missing |= missing
        return Nack(self.node, response.type, snapshot, message, instead, had=self._had is not None)

    def _advance(self) -> Iterator[Output]:
        if self.target is None:
            return
        for stream in self._streams.values():
            if stream.subscription is not None and not stream.under_way:
                wanted = self._wanted(stream)
                if due := self._due(stream, wanted):
                    yield self._respond(stream, wanted, *due)

        if self.accepted != self.target and self._has_all():
            self._had = self.target
            if self._is_whole():
                self.accepted = self.target
                yield Accepted(self.node, self.target)

    def _wanted(self, stream: Stream) -> Resources:
        """What the client is to have of a type at this point of the change."""
        wanted = self._asked_for(stream)
        if stream.type.whole and not self._settled(*_ORDER[stream.type].removed_after):
            leaving = {name: resource for name, resource in stream.sent.items() if name not in wanted}
            return Frozen({**leaving, **wanted}) if leaving else wanted
        return wanted

    def _asked_for(self, stream: Stream) -> Resources:
        """What the target has of what the client wants of a type."""
        wanted = stream.wanted(self.ours)
        if stream.type is LISTENERS:
            missing = frozenset[Reference]().union(
                *(other.missing for other in self._streams.values() if other.rejected is self.target)
            )
            if missing:  # without its routes, a listener would answer everything with 404
                return Frozen((name, one) for name, one in wanted.items() if missing.isdisjoint(one.references))
        return wanted

    def _due(self, stream: Stream, wanted: Resources) -> tuple[tuple[Resource, ...], tuple[str, ...]] | None:
        """The resources that are to be sent now, and the names of those that are no more; None: there is no need."""
        order, rejected = _ORDER[stream.type], stream.rejected is self.target
        assert self.target is not None
        if not self._made(*order.after):
            return None
        if stream.type is LISTENERS and self._hosts.come_back(self.target, self.ours):
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
            changes = changes[:1]  # to find out which of them it is
        removed: tuple[str, ...] = ()
        if self.incremental:
            removed = tuple(name for name in self._removed(stream, wanted) if name not in refused)
        return (changes, removed) if changes or removed or stream.owed else None

    def _removed(self, stream: Stream, wanted: Resources) -> Iterator[str]:
        """The names that the client must be told do not exist (any more)."""
        names = stream.left_over(stream.sent, wanted, self.ours)
        if stream is self._hosts:
            yield from names if self._made(LISTENERS) else self._hosts.removed_early(names)
        elif self._settled(*_ORDER[stream.type].removed_after):
            yield from names
        yield from stream.unknown_names(wanted)

    def _respond(
        self, stream: Stream, wanted: Resources, resources: tuple[Resource, ...], removed: tuple[str, ...]
    ) -> Response:
        kind, ours = stream.type, self.ours
        assert self.target is not None
        if kind is ROUTES:
            self._hosts.renew(frozenset(resource.name for resource in resources if resource.name not in stream.sent))
        self._nonces += 1
        version = ours.versions[kind] if wanted is ours.by_type[kind] else content_version(wanted)
        response = Response(kind, version, str(self._nonces), resources, removed)
        stream.send(response, wanted, self.target)
        return response

    def _made(self, *kinds: ResourceType) -> bool:
        """Whether the client has all resources of these types that it wants; it may have others too."""
        return all(
            stream.subscription is None or stream.rejected is self.target or stream.made(self._asked_for(stream))
            for stream in map(self._streams.__getitem__, kinds)
        )

    def _settled(self, *kinds: ResourceType) -> bool:
        """Whether the client has exactly what it wants of these types, and what it is about to want."""
        return all(
            stream.rejected is self.target
            or (self._made(stream.type) and stream.settled(self._asked_for(stream), self.ours))
            for stream in map(self._streams.__getitem__, kinds)
        )

    def _has_all(self) -> bool:
        if any(stream.rejected is self.target for stream in self._streams.values()):
            return False
        if self.only:
            return self._streams[self.only].subscription is not None and self._settled(self.only)
        return bool(self.types) and self._settled(*RESOURCE_TYPES)

    def _is_whole(self) -> bool:
        """Whether the client has asked for all that it will, as far as one can tell."""
        # Envoy asks for clusters first, and for more when they are ready: listeners, or what its own listeners need. A
        # client that has asked for clusters alone may ask for more.
        return bool(self.only or set(self.types) - {CLUSTERS}) or not self.ours.by_type[LISTENERS]
