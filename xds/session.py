"""One client's xDS stream as a state machine without I/O and without a clock: what both variants of the protocol share.

In go the client's requests (`on_request` of `sotw.StateOfTheWorld` and `delta.Incremental`) and the snapshots that it
is to have (`Session.on_snapshot`); out come values: `Response`s to be sent in this order, and the news that the client
has taken (`Accepted`) or refused (`Nack`) a snapshot. Nothing is raised: whatever a client sends has a meaning, if only
that it is ignored. The two variants read requests; what is sent, and when, is decided in this file. A client that can
take virtual hosts as resources of their own is brought to `Snapshot.split`. The protocol:
https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol

A change goes out so that no request meets a route whose cluster is missing (make before break):

    clusters (the new ones beside the old)
        endpoints, right behind: Envoy acknowledges a changed cluster only when it has its endpoints
    listeners, once the clusters are acknowledged (and what they would use at once in an old form: `_come_back`)
    routes, once the listeners are; routes that a listener has just asked for, at once
        virtual hosts that are resources of their own, right behind: the listener waits for them, too
    clusters again, without those that nothing uses any more (incremental: the names of these, as removed)

There is one response of a type under way at a time. A newer snapshot therefore never queues behind an older one: the
next response of each type is simply made from the newest, and a client that is slow skips what lay between.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import ClassVar, Final

from rejoinder.xds.remember import by_identity
from rejoinder.xds.snapshot import (
    CLUSTERS,
    ENDPOINTS,
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
    routes_of,
)

_TYPES_BY_URL: Final = {kind.url: kind for kind in RESOURCE_TYPES}

_NOTHING: Final[Resources] = {}
"""One for all clients: see `_changed`."""

_NOTHING_PROVEN: Final[Mapping[ResourceType, Snapshot]] = {}

_ROUTING: Final = (ROUTES, VIRTUAL_HOSTS)

MODULE_SINCE: Final = (1, 38)
"""From which version of Envoy on the module is loaded: an earlier one has another interface."""

NO_MODULE: Final = "dynamic module"
"""In the words of an Envoy that cannot load it, or whose module rejects the program: it lacks a Python for it, say."""

_PARENTS: Final = {ENDPOINTS: CLUSTERS, ROUTES: LISTENERS, VIRTUAL_HOSTS: ROUTES}
"""Envoy asks for the one because of what stands in the other."""


@dataclass(frozen=True, slots=True)
class Response:
    """A DiscoveryResponse or DeltaDiscoveryResponse."""

    type: ResourceType
    version: str
    nonce: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...] = ()
    """Incremental only: the names of resources that are no more, or that the client has asked for and are not there."""

    @property
    def names(self) -> frozenset[str]:
        """Whatever it says something about."""
        return frozenset(resource.name for resource in self.resources).union(self.removed)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The client has a snapshot in full: all that it has asked for of it, and of a stream for all types more than the
    clusters, which Envoy asks for first."""

    node: str
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Nack:
    """The client has rejected a part of a snapshot."""

    node: str
    type: ResourceType
    snapshot: Snapshot
    """The rejected one."""
    message: str
    """The client's words."""
    instead: Snapshot | None = None
    """What it is sent because of that; None: nothing. It keeps what it took, or a newer one than the rejected comes."""
    had: bool = False
    """Whether it goes back to what it had, rather than to what others have."""


@dataclass(frozen=True, slots=True)
class Unable:
    """The client cannot load the module, or what a program needs in it, and gets the ext_proc filter instead."""

    node: str
    message: str
    """Its words."""


Output = Response | Accepted | Nack | Unable


@dataclass(frozen=True, slots=True)
class Subscription:
    """Which resources of a type a client wants."""

    wildcard: bool = False
    """All there are."""
    names: frozenset[str] = frozenset()
    named: bool = False
    """State of the world: names have been given before, so that none now means none."""

    def of(self, resources: Resources) -> Resources:
        if self.wildcard:
            return resources
        return {name: resources[name] for name in sorted(self.names) if name in resources}


@dataclass(slots=True)
class Stream:
    """What goes on about one type. Mappings are replaced, never changed: most clients share those of the snapshot."""

    type: ResourceType
    whole: bool
    """A response lists all resources, and what is missing is removed. Otherwise it lists those that have changed."""
    owed: bool = False
    """A response is due, even if it says nothing new."""
    subscription: Subscription | None = None
    """None: the client has not asked yet."""
    nonce: str = ""
    """Of the last response."""
    under_way: Response | None = None
    """The response that the client has not answered yet."""
    snapshot: Snapshot | None = None
    """What the last response was made from."""
    sent: Resources = field(default_factory=lambda: _NOTHING)
    """What the client has once it has accepted `under_way`."""
    accepted: Resources = field(default_factory=lambda: _NOTHING)
    """What the client is known to have."""
    absent: frozenset[str] = frozenset()
    """Incremental: names that the client asks for and has been told are not there."""
    given_up: frozenset[str] = frozenset()
    """Incremental: names that the client no longer asks for, while it asks for all, and is still to be told about."""
    rejected: Snapshot | None = None
    """The client did not take its resources of this type, and there was nothing to go back to."""
    refused: frozenset[str] = frozenset()
    """The names in the responses that were rejected then."""
    missing: frozenset[Reference] = frozenset()
    """What the client is without because of that, in any version."""
    resumed: bool = False
    """State of the world: the client has had something before this stream, and does not say what."""

    def resubscribe(self, subscription: Subscription, repeated: frozenset[str] = frozenset()) -> None:
        """Want something else from now on.

        Args:
            repeated: names that the client must be told about even if it has been before.
        """
        # A client that drops a name forgets the resource; if it wants it again, it must get it again.
        self.subscription = subscription
        self.sent = without(subscription.of(self.sent), repeated)
        self.accepted = without(subscription.of(self.accepted), repeated)
        self.absent = (self.absent - repeated) & subscription.names

    def accept(self) -> None:
        self.under_way = None
        self.accepted = self.sent


def unknown(kind: ResourceType, name: str) -> Resource:
    """A resource that the client has in a version that is not ours, or perhaps not at all; it equals none of ours."""
    return Resource(kind, name, b"")


def without(resources: Resources, names: Set[str]) -> Resources:
    """The others; the same object if that is all."""
    if names.isdisjoint(resources):
        return resources
    return {name: resource for name, resource in resources.items() if name not in names}


@dataclass(frozen=True, slots=True)
class _Due:
    """What a response is to say."""

    resources: tuple[Resource, ...]
    removed: tuple[str, ...] = ()


SHARED: Final = 32
"""How many comparisons of mappings are remembered: the mappings stay as long, and there are few at any time."""


# A thousand clients that are brought from one snapshot to the next share both mappings. Of ten thousand virtual hosts,
# they need not all be compared for each of them.
@by_identity(SHARED)
def _changed(before: Resources, after: Resources) -> tuple[Resource, ...]:
    """What is new or another one than before."""
    return tuple(each for name, each in after.items() if before.get(name) != each)


@by_identity(SHARED)
def _sent(before: Resources, wanted: Resources, resources: tuple[Resource, ...], removed: tuple[str, ...]) -> Resources:
    """What a client has after a response: what is wanted, if that is all."""
    sent = {**without(before, frozenset(removed)), **{each.name: each for each in resources}}
    return wanted if sent == wanted else sent


@by_identity(SHARED)
def _gone(before: Resources, after: Resources) -> tuple[str, ...]:
    """The names of what is no more."""
    return tuple(name for name in before if name not in after)


def _missing(stream: Stream, names: Set[str]) -> frozenset[Reference]:
    """What a client is without that rejects these: routes and filters, which listeners refer to."""
    new = names - stream.accepted.keys()
    if stream.type is VIRTUAL_HOSTS:
        there = set(map(routes_of, stream.accepted))
        return frozenset((ROUTES, routes) for routes in map(routes_of, new) if routes not in there)
    return frozenset((stream.type, name) for name in new)


class Session(abc.ABC):
    """One client's stream. See the module's text for the order in which things are sent.

    A client that rejects a snapshot goes back to the last one of which it had all that it had asked for; one that had
    none yet gets what others have taken of the type (`proven`), and if there is none, keeps what it took of this one,
    but for listeners whose routes or filters it has not taken.
    Either waits for the next snapshot: the rejected one is not tried again, unless it comes as another object, which
    means that somebody made it anew (perhaps the cause, such as a port in use, is gone).
    """

    incremental: ClassVar[bool]
    """The variant of the protocol."""

    def __init__(
        self,
        snapshot: Snapshot | None = None,
        only: ResourceType | None = None,
        proven: Mapping[ResourceType, Snapshot] = _NOTHING_PROVEN,
    ) -> None:
        """
        Args:
            snapshot: what the client is to have; None: that is not known yet, `on_snapshot` will tell.
            only: the type that the stream is for, in a discovery service of one type; None: ADS.
            proven: for each type, the last snapshot of which a client has taken it. It may change at any time.
        """
        self.node = ""
        """The client's id, from its first request."""
        self.target = snapshot
        """What the client is to have."""
        self.accepted: Snapshot | None = None
        """The last snapshot that the client had in full (see `Accepted`)."""
        self.only = only
        self._proven = proven
        self._had: Snapshot | None = None
        """The last snapshot of which the client had all that it had asked for by then."""
        self.envoy: tuple[int, int] | None = None
        """Its version, if it is an Envoy and says so."""
        self._splits = False
        """Whether the client can take virtual hosts as resources of their own."""
        self._without_module = False
        """Whether it has been seen to be unable to load the module."""
        self._refused_by_module: Snapshot | None = None
        """The module of this client does not take its program: it lacks a Python, say."""
        self._rejected: tuple[Snapshot, ...] = ()
        """Since the last one that came."""
        self._renewed: frozenset[str] = frozenset()
        """The names of the route configurations that were sent as new ones since virtual hosts were sent last. Envoy
        waits for the first virtual hosts of such a one, and takes them for all."""
        self._streams: Mapping[ResourceType, Stream] = {
            kind: Stream(kind, whole=kind.whole and not self.incremental) for kind in RESOURCE_TYPES
        }
        self._nonces = 0

    def _of(self, target: Snapshot) -> Snapshot:
        """What this client is sent to bring it to a snapshot."""
        old = self.envoy is not None and self.envoy < MODULE_SINCE
        unable = self._without_module or old or target is self._refused_by_module
        form = target.without_module if unable and target.without_module else target
        return form.split if self._splits and form.split else form

    @abc.abstractmethod
    def _distrust(self, stream: Stream, response: Response) -> None:
        """Have all that a rejected response was about sent again, in its new form or (if there is none) the old one.

        What such a response has done is uncertain: Envoy takes the good listeners and clusters of it and rejects the
        others.
        """

    def _asked(self, type_url: str, node: str, envoy: tuple[int, int] | None) -> tuple[ResourceType, Stream] | None:
        """What a request is about; None: nothing of ours. A service of one type need not be told the type."""
        self.node = self.node or node
        self.envoy = self.envoy or envoy
        kind = self.only if self.only and not type_url else _TYPES_BY_URL.get(type_url)
        if kind is None or (self.only and kind is not self.only):
            return None
        return kind, self._streams[kind]

    def _answered(self, stream: Stream, error: str | None) -> list[Output]:
        """Take the answer to the response under way, if there is one, and go on."""
        outputs: list[Output] = []
        if stream.under_way is not None:
            if error is None:
                stream.accept()
            else:
                outputs.append(self._reject(stream, stream.under_way, error))
        return outputs + list(self._advance())

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
        """Whether the client did not want the snapshot and is not to be brought to it again."""
        return any(rejected is snapshot for rejected in self._rejected)

    @property
    def types(self) -> tuple[ResourceType, ...]:
        """What the client has asked for."""
        return tuple(kind for kind, stream in self._streams.items() if stream.subscription is not None)

    def names(self) -> Iterator[str]:
        """What the client has asked for by its name, whether it exists or not."""
        for stream in self._streams.values():
            yield from stream.subscription.names if stream.subscription else ()

    def _reject(self, stream: Stream, response: Response, message: str) -> Nack | Unable:
        snapshot = stream.snapshot
        assert snapshot is not None
        stream.under_way = None
        missing = frozenset() if stream.resumed else _missing(stream, response.names)
        self._distrust(stream, response)
        has_it = not self._without_module and snapshot is not self._refused_by_module
        if stream.type is EXTENSIONS and NO_MODULE in message and snapshot.without_module and has_it:
            self._without_module = f"load {NO_MODULE}" in message  # else its next program may be one that it takes
            self._refused_by_module = snapshot
            return Unable(self.node, message)
        # If the target is another one by now, the client gets that next: it may well be the correction.
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
        """Send all that may be sent now."""
        target = self.target
        if target is None:
            return
        for kind in RESOURCE_TYPES:
            stream = self._streams[kind]
            if stream.subscription is None or stream.under_way:
                continue
            wanted = self._wanted(stream, target)
            due = self._due(stream, stream.subscription, wanted, target)
            if due is not None:
                yield self._respond(stream, wanted, due, target)

        if self.accepted != target and self._has_all(target):
            self._had = target
            if self._is_whole(target):
                self.accepted = target
                yield Accepted(self.node, target)

    def _wanted(self, stream: Stream, target: Snapshot) -> Resources:
        """What the client is to have of a type at this point of the change."""
        wanted = self._asked_for(stream, target)
        if stream.type is CLUSTERS and not all(self._settled(kind, target) for kind in (LISTENERS, *_ROUTING)):
            leaving = {n: cluster for n, cluster in stream.sent.items() if n not in wanted}
            return {**leaving, **wanted} if leaving else wanted
        return wanted

    def _asked_for(self, stream: Stream, target: Snapshot) -> Resources:
        """What a snapshot has of what the client wants of a type."""
        subscription, ours = stream.subscription or Subscription(), self._of(target)
        if stream.type is VIRTUAL_HOSTS and subscription.wildcard:
            # Of the route configurations that it has been sent: others Envoy acknowledges and forgets.
            return ours.virtual_hosts(frozenset(self._streams[ROUTES].sent))
        wanted = subscription.of(ours.by_type[stream.type])
        if stream.type is LISTENERS:
            refused = (each for each in self._streams.values() if each.rejected is target)
            if missing := frozenset[Reference]().union(*(each.missing for each in refused)):
                # Without its routes, it would answer everything with 404.
                return {name: each for name, each in wanted.items() if missing.isdisjoint(each.references)}
        return wanted

    def _due(self, stream: Stream, subscription: Subscription, wanted: Resources, target: Snapshot) -> _Due | None:
        """What is to be sent now; None: nothing."""
        if stream.type in (LISTENERS, *_ROUTING) and not self._made(CLUSTERS, target):
            return None
        if stream.type is LISTENERS and self._come_back(target):
            return None
        if stream.whole:
            if stream.rejected is target or (stream.sent == wanted and not stream.owed):
                return None
            return _Due(tuple(wanted.values()))

        refused = stream.refused if stream.rejected is target else frozenset()
        changed = _changed(stream.sent, wanted)
        if refused:
            changed = tuple(resource for resource in changed if resource.name not in refused)
        if changed and stream.type in _ROUTING and not self._made(LISTENERS, target):
            changed = self._waited_for(stream, changed)
        if stream.type is ROUTES and stream.rejected is target:
            changed = changed[:1]  # to find out which of them it is
        removed: tuple[str, ...] = ()
        if self.incremental:
            removed = tuple(name for name in self._removed(stream, subscription, wanted, target) if name not in refused)
        return _Due(changed, removed) if changed or removed or stream.owed else None

    def _waited_for(self, stream: Stream, changed: tuple[Resource, ...]) -> tuple[Resource, ...]:
        """Those for which a listener may be waiting, and its acknowledgement with it."""
        if stream.type is ROUTES:
            return tuple(resource for resource in changed if resource.name not in stream.sent)
        there = self._with_hosts()
        return tuple(host for host in changed if routes_of(host.name) not in there)

    def _with_hosts(self) -> Set[str]:
        """The names of the route configurations that the client has with virtual hosts. Others are waiting for them."""
        return {routes_of(name) for name in self._streams[VIRTUAL_HOSTS].sent} - self._renewed

    def _come_back(self, target: Snapshot) -> bool:
        """Whether the client has route configurations in some old form, with clusters that are no more.

        It has, if it has been told that they are no more while a listener is still draining that uses them. A listener
        that is to use them again would do so at once.
        """
        routes, hosts = self._streams[ROUTES], self._streams[VIRTUAL_HOSTS]
        if routes.subscription is None or routes.rejected is target:
            return False
        if self._asked_for(routes, target).keys() - routes.accepted.keys():
            return True
        if hosts.rejected is target:
            return False
        if hosts.under_way:
            return True
        return bool(self._renewed and self._waited_for(hosts, _changed(hosts.sent, self._asked_for(hosts, target))))

    def _removed(
        self, stream: Stream, subscription: Subscription, wanted: Resources, target: Snapshot
    ) -> Iterator[str]:
        """The names that the client has to be told are not there (any more)."""
        parent = _PARENTS.get(stream.type)
        gone = self._left_over(stream, stream.sent, wanted, target)
        if stream.type is VIRTUAL_HOSTS:
            # With the new ones, never before: an Envoy that is waiting for those would go on without any.
            there = self._with_hosts() if gone and not self._made(LISTENERS, target) else frozenset()
            yield from (name for name in gone if routes_of(name) not in there)
        elif parent is None or self._settled(parent, target):
            yield from gone
        if names := subscription.names | stream.given_up:
            yield from sorted(names - wanted.keys() - stream.sent.keys() - stream.absent)

    def _left_over(self, stream: Stream, has: Resources, wanted: Resources, target: Snapshot) -> Sequence[str]:
        """The names of what the client has and must be told to drop."""
        gone = _gone(has, wanted)
        if gone and stream.type is VIRTUAL_HOSTS:
            # Of a route configuration that is no more, they stay for as long as a listener is draining that uses it.
            # Then Envoy gives up the one and drops the others, but without a word from us it would go on to list them
            # when it comes back.
            routes = self._streams[ROUTES]
            if routes.subscription is None:
                return ()
            asked, there = routes.subscription.names, routes.sent.keys() & self._of(target).by_type[ROUTES].keys()
            return [name for name in gone if routes_of(name) in there or routes_of(name) not in asked]
        return gone

    def _respond(self, stream: Stream, wanted: Resources, due: _Due, target: Snapshot) -> Response:
        kind = stream.type
        if kind is CLUSTERS:
            # Envoy wants a changed cluster's endpoints again, whether or not they have changed too.
            before = stream.sent
            changed = [cluster for cluster in due.resources if before.get(cluster.name) != cluster]
            renewed = {name for cluster in changed for of, name in cluster.references if of is ENDPOINTS}
            endpoints = self._streams[ENDPOINTS]
            endpoints.sent = without(endpoints.sent, renewed)
        elif kind is ROUTES:
            self._renew_hosts(frozenset(each.name for each in due.resources if each.name not in stream.sent))
        elif kind is VIRTUAL_HOSTS:
            self._renewed = frozenset()

        self._nonces += 1
        ours = self._of(target)
        version = ours.versions[kind] if wanted is ours.by_type[kind] else content_version(wanted)
        response = Response(kind, version, str(self._nonces), due.resources, due.removed)
        stream.nonce = response.nonce
        stream.under_way = response
        stream.snapshot = target
        if stream.whole:
            stream.sent = wanted
        else:
            stream.sent = _sent(stream.sent, wanted, due.resources, due.removed)
        if stream.subscription and stream.subscription.names:
            stream.absent = stream.absent.union(due.removed).intersection(stream.subscription.names) - wanted.keys()
        stream.given_up = frozenset()
        stream.owed = False
        return response

    def _renew_hosts(self, routes: frozenset[str]) -> None:
        # Of route configurations that the client has just asked for, it has no virtual hosts, whatever it was sent; of
        # those that it has rejected, or has been told are no more, perhaps some.
        hosts = self._streams[VIRTUAL_HOSTS]
        names = [name for name in hosts.sent if routes_of(name) in routes] if routes else []
        if names:
            doubtful = dict.fromkeys(names, unknown(VIRTUAL_HOSTS, ""))
            hosts.sent = {**hosts.sent, **doubtful}
            hosts.accepted = {**hosts.accepted, **doubtful}
        self._renewed |= routes

    def _made(self, kind: ResourceType, target: Snapshot) -> bool:
        """Whether the client has all resources of a type that it wants; it may have others too."""
        stream = self._streams[kind]
        if stream.subscription is None or stream.rejected is target:
            return True
        if stream.under_way or stream.owed:
            return False
        return not _changed(stream.accepted, self._asked_for(stream, target))

    def _settled(self, kind: ResourceType, target: Snapshot) -> bool:
        """Whether the client has exactly what it wants of a type, and what it is about to want."""
        stream = self._streams[kind]
        if stream.rejected is target:
            return True
        if not self._made(kind, target):
            return False
        if kind.whole:
            return stream.subscription is None or not _gone(stream.accepted, self._asked_for(stream, target))
        ours = self._of(target)
        if kind is VIRTUAL_HOSTS:
            if stream.subscription is None:
                hosts = ours.virtual_hosts(frozenset(self._streams[ROUTES].sent))
            else:
                hosts = self._asked_for(stream, target)
            return not _changed(stream.accepted, hosts) and not self._left_over(stream, stream.accepted, hosts, target)
        resources = ours.by_type[kind]
        parents = self._streams[_PARENTS[kind]].sent.values() if kind in _PARENTS else ()
        needed = (name for parent in parents for of, name in parent.references if of is kind)
        return all(stream.accepted.get(name) == resources.get(name) for name in needed)

    def _has_all(self, target: Snapshot) -> bool:
        if any(stream.rejected is target for stream in self._streams.values()):
            return False
        if self.only:
            return self._streams[self.only].subscription is not None and self._settled(self.only, target)
        return bool(self.types) and all(self._settled(kind, target) for kind in RESOURCE_TYPES)

    def _is_whole(self, target: Snapshot) -> bool:
        """Whether the client has asked for all that it will, as far as one can tell."""
        # Envoy asks for its clusters first, and for more when they are ready: listeners, or what its own listeners are
        # to have. Of one that has asked for clusters alone nobody knows whether that is all.
        asked = set(self.types) - {CLUSTERS, ENDPOINTS}
        return bool(self.only or asked) or not self._of(target).by_type[LISTENERS]
