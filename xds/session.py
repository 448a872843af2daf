"""One client's ADS stream, state of the world, as a state machine without I/O and without a clock.

In go the client's requests (`Session.on_request`) and the snapshots that it is to have (`Session.on_snapshot`); out
come values: `Response`s to be sent in this order, and the news that the client has taken (`Accepted`) or refused
(`Nack`) a snapshot. Nothing is raised: whatever a client sends has a meaning, if only that it is ignored. Whatever
changes the state of a stream is in this file. The protocol:
https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol

A change goes out so that no request meets a route whose cluster is missing (make before break):

    clusters (the new ones beside the old)
        endpoints, right behind: Envoy acknowledges a changed cluster only when it has its endpoints
    listeners, once the clusters are acknowledged
    routes, once the listeners are; routes that a listener has just asked for, at once
    clusters again, without those that nothing uses any more

There is one response of a type under way at a time. A newer snapshot therefore never queues behind an older one: the
next response of each type is simply made from the newest, and a client that is slow skips what lay between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from rejoinder.xds.snapshot import (
    CLUSTERS,
    ENDPOINTS,
    LISTENERS,
    RESOURCE_TYPES,
    ROUTES,
    Resource,
    Resources,
    ResourceType,
    Snapshot,
    content_version,
)

_TYPES_BY_URL: Final = {kind.url: kind for kind in RESOURCE_TYPES}

_PARENTS: Final = {ENDPOINTS: CLUSTERS, ROUTES: LISTENERS}
"""Envoy asks for the one because of what stands in the other."""


@dataclass(frozen=True, slots=True)
class Request:
    """A DiscoveryRequest: a subscription, and the answer to the last response."""

    type_url: str
    names: tuple[str, ...] = ()
    version: str = ""
    """The last one that the client accepted, also on an earlier stream."""
    nonce: str = ""
    """Of the response that is answered; empty: the stream's first request for the type."""
    error: str | None = None
    """Why the client rejects that response; None: it does not."""
    node: str = ""
    """The client's id; only the stream's first request is sure to have it."""


@dataclass(frozen=True, slots=True)
class Response:
    """A DiscoveryResponse."""

    type: ResourceType
    version: str
    nonce: str
    resources: tuple[Resource, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The client has a snapshot in full."""

    node: str
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Nack:
    """The client has rejected a part of a snapshot, and is on its way back to the last one that it had in full."""

    node: str
    type: ResourceType
    snapshot: Snapshot
    """The rejected one."""
    message: str
    """The client's words."""


Output = Response | Accepted | Nack


@dataclass(frozen=True, slots=True)
class Subscription:
    """Which resources of a type a client wants."""

    wildcard: bool = False
    names: frozenset[str] = frozenset()
    named: bool = False
    """Names have been given before, so that none now means none."""

    def updated(self, kind: ResourceType, names: tuple[str, ...]) -> Subscription:
        """The subscription after a request with these names.

        No names at all stand for `*`, if the type allows it and no name was ever given on the stream.
        https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#how-the-client-specifies-what-resources-to-return
        """
        if not names and not self.named:
            return Subscription(wildcard=kind.whole)
        return Subscription("*" in names and kind.whole, frozenset(names) - {"*"}, named=True)

    def of(self, resources: Resources) -> Resources:
        if self.wildcard:
            return resources
        return {name: resources[name] for name in sorted(self.names) if name in resources}


@dataclass(slots=True)
class _Stream:
    """What goes on about one type. Mappings are replaced, never changed: most clients share those of the snapshot."""

    subscription: Subscription | None = None
    """None: the client has not asked yet."""
    nonce: str = ""
    """Of the last response."""
    under_way: Response | None = None
    """The response that the client has not answered yet."""
    snapshot: Snapshot | None = None
    """What the last response was made from."""
    sent: Resources = field(default_factory=dict)
    """What the client has once it has accepted `under_way`."""
    accepted: Resources = field(default_factory=dict)
    """What the client is known to have."""
    owed: bool = False
    """For a whole type: a response is due, even if it says nothing new."""
    rejected: Snapshot | None = None
    """The client did not take its resources of this type, and there was nothing to go back to."""
    refused: frozenset[str] = frozenset()
    """The names in the responses that were rejected then."""

    def resubscribe(self, kind: ResourceType, subscription: Subscription) -> None:
        # A client that drops a name forgets the resource; if it wants it again, it must get it again. And a name that
        # is new is answered even if the client has the resource already, by its wildcard.
        before, self.subscription = self.subscription, subscription
        self.sent = subscription.of(self.sent)
        self.accepted = subscription.of(self.accepted)
        if kind.whole and before is not None and subscription.names - before.names:
            self.owed = True

    def accept(self) -> None:
        self.under_way = None
        self.accepted = self.sent

    def reject(self, response: Response) -> None:
        # What a rejected response has done is uncertain: Envoy takes the good listeners and clusters of a response and
        # rejects the others. So what it had is sent again.
        self.under_way = None
        if response.type.whole:
            self.sent = self.accepted
            self.owed = True
        else:
            names = {resource.name for resource in response.resources}
            self.sent = self.accepted = {n: resource for n, resource in self.accepted.items() if n not in names}


class Session:
    """One client's stream. See the module's text for the order in which things are sent.

    A client that rejects a snapshot goes back to the last one that it accepted in full; one that had none yet keeps
    what it took of this one. Either waits for the next snapshot: the rejected one is not tried again, unless it comes
    as another object, which means that somebody made it anew (perhaps the cause, such as a port in use, is gone).
    """

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        """Args: snapshot: what the client is to have; None: that is not known yet, `on_snapshot` will tell."""
        self.node = ""
        """The client's id, from its first request."""
        self.target = snapshot
        """What the client is to have."""
        self.accepted: Snapshot | None = None
        """The last snapshot that the client had in full."""
        self._rejected: Snapshot | None = None
        self._streams: Mapping[ResourceType, _Stream] = {kind: _Stream(owed=kind.whole) for kind in RESOURCE_TYPES}
        self._nonces = 0

    def on_request(self, request: Request) -> list[Output]:
        """Take a request from the client.

        Returns:
            What is to be sent and to be known because of it, in order; empty also for a type that is not ours and for
            a request that was overtaken by a response (its nonce is not the last one): the client repeats what it
            wants when it answers that response.
        """
        self.node = self.node or request.node
        kind = _TYPES_BY_URL.get(request.type_url)
        if kind is None:
            return []
        stream = self._streams[kind]
        if stream.nonce and request.nonce != stream.nonce:
            return []

        if stream.subscription is None:
            stream.subscription = Subscription().updated(kind, request.names)
            self._resume(kind, stream, request.version)
        else:
            stream.resubscribe(kind, stream.subscription.updated(kind, request.names))

        outputs: list[Output] = []
        if stream.under_way is not None:
            if request.error is None:
                stream.accept()
            else:
                outputs.append(self._reject(stream, stream.under_way, request.error))
        return outputs + list(self._advance())

    def on_snapshot(self, snapshot: Snapshot) -> list[Output]:
        """Take the snapshot that the client is to have from now on.

        Args:
            snapshot: one that passes its `check`. If it is the one that the client has just rejected, nothing happens.

        Returns:
            As for `on_request`. What cannot be sent yet follows from there, as the client answers.
        """
        if snapshot is self._rejected:
            return []
        self.target = snapshot
        return list(self._advance())

    def _resume(self, kind: ResourceType, stream: _Stream, version: str) -> None:
        # A client that comes back says which version it has. For a wildcard subscription to a whole type, the same
        # version is the same set of resources, and nothing need be sent. For the others the specification warns: the
        # client may have forgotten a resource since, or may be waiting for it.
        # https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#ack-nack-and-resource-type-instance-version
        assert stream.subscription is not None
        if self.target and stream.subscription.wildcard and version == self.target.versions[kind]:
            stream.sent = stream.accepted = self.target.by_type[kind]
            stream.owed = False

    def _reject(self, stream: _Stream, response: Response, message: str) -> Nack:
        snapshot = stream.snapshot
        assert snapshot is not None
        stream.reject(response)
        # If the target is another one by now, the client gets that next: it may well be the correction.
        if snapshot is self.target:
            self._rejected = snapshot
            if self.accepted not in {None, snapshot}:
                self.target = self.accepted
            else:
                self.accepted = None
                refused = stream.refused if stream.rejected is snapshot else frozenset()
                stream.rejected = snapshot
                stream.refused = refused.union(resource.name for resource in response.resources)
        return Nack(self.node, response.type, snapshot, message)

    def _advance(self) -> Iterator[Output]:
        """Send all that may be sent now."""
        target = self.target
        if target is None:
            return
        for kind in RESOURCE_TYPES:
            stream = self._streams[kind]
            if stream.subscription is None or stream.under_way:
                continue
            wanted = self._wanted(kind, stream.subscription, target)
            resources = self._due(kind, stream, wanted, target)
            if resources is not None:
                yield self._respond(kind, stream, wanted, resources, target)

        if self.accepted != target and self._has_all(target):
            self.accepted = target
            yield Accepted(self.node, target)

    def _wanted(self, kind: ResourceType, subscription: Subscription, target: Snapshot) -> Resources:
        """What the client is to have of a type at this point of the change."""
        wanted = subscription.of(target.by_type[kind])
        if kind is CLUSTERS and not (self._settled(LISTENERS, target) and self._settled(ROUTES, target)):
            leaving = {n: cluster for n, cluster in self._streams[CLUSTERS].sent.items() if n not in wanted}
            return {**leaving, **wanted} if leaving else wanted
        return wanted

    def _due(
        self, kind: ResourceType, stream: _Stream, wanted: Resources, target: Snapshot
    ) -> tuple[Resource, ...] | None:
        """The resources to send now; None: nothing is to be sent."""
        if kind.whole:
            if stream.rejected is target or (stream.sent == wanted and not stream.owed):
                return None
            if kind is LISTENERS and not self._made(CLUSTERS, target):
                return None
            return tuple(wanted.values())

        refused = stream.refused if stream.rejected is target else frozenset()
        due = tuple(r for name, r in wanted.items() if stream.sent.get(name) != r and name not in refused)
        if kind is ROUTES:
            if not self._made(CLUSTERS, target):
                return None
            if not self._made(LISTENERS, target):
                # A listener may be waiting for these, and its acknowledgement with it.
                due = tuple(resource for resource in due if resource.name not in stream.sent)
        return due or None

    def _respond(
        self, kind: ResourceType, stream: _Stream, wanted: Resources, resources: tuple[Resource, ...], target: Snapshot
    ) -> Response:
        if kind is CLUSTERS:
            # Envoy wants a changed cluster's endpoints again, whether or not they have changed too.
            before = stream.sent
            changed = [cluster for cluster in resources if before.get(cluster.name) != cluster]
            renewed = {name for cluster in changed for of, name in cluster.references if of is ENDPOINTS}
            endpoints = self._streams[ENDPOINTS]
            endpoints.sent = {n: resource for n, resource in endpoints.sent.items() if n not in renewed}

        self._nonces += 1
        complete = wanted is target.by_type[kind]
        version = target.versions[kind] if complete else content_version(wanted)
        response = Response(kind, version, str(self._nonces), resources)
        stream.nonce = response.nonce
        stream.under_way = response
        stream.snapshot = target
        stream.sent = wanted if kind.whole else {**stream.sent, **{r.name: r for r in resources}}
        stream.owed = False
        return response

    def _made(self, kind: ResourceType, target: Snapshot) -> bool:
        """Whether the client has all resources of a type that it wants; it may have others too."""
        stream = self._streams[kind]
        if stream.subscription is None or stream.rejected is target:
            return True
        wanted = stream.subscription.of(target.by_type[kind])
        if stream.under_way or stream.owed:
            return False
        return stream.accepted is wanted or wanted.items() <= stream.accepted.items()

    def _settled(self, kind: ResourceType, target: Snapshot) -> bool:
        """Whether the client has exactly what it wants of a type, and what it is about to want."""
        stream = self._streams[kind]
        if stream.rejected is target:
            return True
        if not self._made(kind, target):
            return False
        if kind.whole:
            return stream.subscription is None or stream.accepted == stream.subscription.of(target.by_type[kind])
        resources = target.by_type[kind]
        parents = self._streams[_PARENTS[kind]].sent.values()
        needed = (name for parent in parents for of, name in parent.references if of is kind)
        return all(stream.accepted.get(name) == resources.get(name) for name in needed)

    def _has_all(self, target: Snapshot) -> bool:
        if any(stream.rejected is target for stream in self._streams.values()):
            return False
        # Envoy asks for its listeners last, when the clusters are ready: until then it has not seen everything. (A
        # client that has its listeners from elsewhere and never asks is never counted as having a snapshot in full.)
        if self._streams[LISTENERS].subscription is None and target.by_type[LISTENERS]:
            return False
        asked = any(stream.subscription is not None for stream in self._streams.values())
        return asked and all(self._settled(kind, target) for kind in RESOURCE_TYPES)
