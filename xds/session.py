"""One client's xDS stream as a state machine without I/O and without a clock: what both protocol variants share.

In: the client's requests (`on_request` of `sotw.StateOfTheWorld` and `delta.Incremental`) and the snapshots that it is
to have (`Session.on_snapshot`). Out: `Response`s to be sent in this order, and the events that the client has accepted
(`Accepted`) or rejected (`Nack`) a snapshot. Nothing is raised: every request of a client has a meaning, even if it is
only ignored. The two variants read requests; `session` decides what follows from a rejection, `order` what is sent and
when. The state of one type is a `stream.Stream`; `virtual_hosts` has what is special about these, `forms` decides which
form of a snapshot a client gets. The protocol:
https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol

One response of a type is under way at a time. A newer snapshot therefore never queues behind an older one: the next
response of each type is made from the newest, and a slow client skips the snapshots between.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Final

from rejoinder.xds.events import Accepted, Nack, Unable
from rejoinder.xds.forms import Forms
from rejoinder.xds.order import Change
from rejoinder.xds.snapshot import (
    CLUSTERS,
    LISTENERS,
    RESOURCE_TYPES,
    ROUTES,
    VIRTUAL_HOSTS,
    Reference,
    ResourceType,
    Snapshot,
)
from rejoinder.xds.stream import Response, Stream
from rejoinder.xds.virtual_hosts import VirtualHosts

if TYPE_CHECKING:
    from rejoinder.xds.delta import DeltaRequest
    from rejoinder.xds.sotw import Request

_TYPES_BY_URL: Final = {kind.url: kind for kind in RESOURCE_TYPES}

_UNKNOWN: Final = Snapshot(())

Output = Response | Accepted | Nack | Unable


class Session(abc.ABC):
    """One client's stream.

    A client that rejects a snapshot goes back to the last one of which it had everything that it had asked for. Without
    such a snapshot, it gets what others have accepted of the type (`proven`). Without that too, it keeps what it
    accepted of this snapshot, except the listeners whose routes or filters it has rejected. Then it waits for the next
    snapshot. The rejected one is not tried again, unless it comes as a new object: then somebody has built it again on
    purpose (perhaps the cause, such as a port in use, is gone).
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
            snapshot: what the client is to have; None: not known yet, `on_snapshot` will follow.
            only: the type of the stream, in a discovery service for one type; None: ADS.
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
        """The last snapshot of which the client had everything that it had asked for by then."""
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
        """The names that the client has asked for, whether they exist or not."""
        for stream in self._streams.values():
            yield from stream.subscription.names if stream.subscription else ()

    def on_snapshot(self, snapshot: Snapshot) -> list[Output]:
        """Take the snapshot that the client is to have from now on.

        Args:
            snapshot: one that passes its `check`. If the client has just rejected this very object, nothing happens.

        Returns:
            What is to be sent and reported because of it, in order. What cannot be sent yet is returned by
            `on_request`, as the client answers.
        """
        if self.has_rejected(snapshot):
            return []
        self._rejected = ()
        self.target = snapshot
        return list(self._advance())

    def has_rejected(self, snapshot: Snapshot) -> bool:
        """Whether the client has rejected the snapshot, which is then not tried again."""
        return any(rejected is snapshot for rejected in self._rejected)

    @abc.abstractmethod
    def _distrust(self, stream: Stream, response: Response) -> None:
        """Send again all resources of a rejected response, in their new form or (if there is none) the old one.

        The effect of a rejected response is uncertain: Envoy applies its good listeners and clusters and rejects the
        others.
        """

    def _asked(self, request: Request | DeltaRequest) -> Stream | None:
        """The stream of a request's type; None: not ours. A request to a service of one type may omit its type."""
        self.node = self.node or request.node.id
        self.forms.envoy = self.forms.envoy or request.node.envoy
        self.forms.access_log |= request.node.access_log
        kind = self.only if self.only and not request.type_url else _TYPES_BY_URL.get(request.type_url)
        if kind is None or (self.only and kind is not self.only):
            return None
        return self._streams[kind]

    def _answered(self, stream: Stream, error: str | None) -> list[Output]:
        """Handle the answer to the response under way, if there is one, and go on."""
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
        # If there is another target by now, the client gets that next: it may be the correction.
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
        change = Change(self.target, self.ours, self._streams, self._hosts, self.incremental)
        for stream in self._streams.values():
            if response := change.response(stream, str(self._nonces + 1)):
                self._nonces += 1
                yield response
        if self.accepted != self.target and change.is_over(self.only):
            self._had = self.target
            if self._is_whole():
                self.accepted = self.target
                yield Accepted(self.node, self.target)

    def _is_whole(self) -> bool:
        """Whether the client has probably asked for everything that it will ask for."""
        # Envoy asks for clusters first, and for more when they are ready: listeners, or what its own listeners need. A
        # client that has asked for clusters alone may ask for more.
        return bool(self.only or set(self.types) - {CLUSTERS}) or not self.ours.by_type[LISTENERS]
