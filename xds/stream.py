"""What a client and its session have sent each other about one type of resource.

`Stream` is the state of one type: what the client wants (its subscription), what it was sent, what it has acknowledged,
and what it has rejected. It knows nothing of the other types except its parent; `order` decides when a type is sent.
`virtual_hosts` has the one type that behaves differently. Nothing is raised.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Final

from rejoinder.xds.remember import Frozen
from rejoinder.xds.snapshot import Reference, Resource, Resources, ResourceType, Snapshot

_NOTHING: Final[Resources] = Frozen()

SHARED: Final = 32
"""How many comparisons of mappings are remembered: this keeps the mappings, too, of which there are few at any time."""


@dataclass(frozen=True, slots=True)
class Response:
    """A DiscoveryResponse or DeltaDiscoveryResponse."""

    type: ResourceType
    version: str
    nonce: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...] = ()
    """Incremental only: the names of resources that no longer exist, or that were asked for and do not exist."""

    @property
    def names(self) -> frozenset[str]:
        """The names of all resources that it is about."""
        return frozenset(resource.name for resource in self.resources).union(self.removed)


@dataclass(frozen=True, slots=True)
class Subscription:
    """Which resources of a type a client wants."""

    wildcard: bool = False
    names: frozenset[str] = frozenset()
    named: bool = False
    """State of the world: names have been given before, so that no names now mean no resources."""

    def of(self, resources: Resources) -> Resources:
        if self.wildcard:
            return resources
        return Frozen({name: resources[name] for name in sorted(self.names & resources.keys())})


@dataclass(slots=True)
class Stream:
    """The state of one type. Mappings are replaced, never changed: most clients share those of the snapshot."""

    type: ResourceType
    whole: bool
    """A response lists all resources, and missing ones are removed. Otherwise it lists those that have changed."""
    parent: Stream | None = None
    """The stream of the resources that refer to these. Envoy asks for these because of them."""
    owed: bool = False
    """A response is due, even if nothing has changed."""
    subscription: Subscription | None = None
    """None: the client has not asked yet."""
    nonce: str = ""
    """Of the last response."""
    under_way: Response | None = None
    """The response that the client has not answered yet."""
    snapshot: Snapshot | None = None
    sent: Resources = field(default_factory=lambda: _NOTHING)
    """What the client has once it has accepted `under_way`."""
    accepted: Resources = field(default_factory=lambda: _NOTHING)
    """What the client is known to have."""
    absent: frozenset[str] = frozenset()
    """Incremental: names that the client asks for and that it was told do not exist."""
    given_up: frozenset[str] = frozenset()
    """Incremental: names that a client with a wildcard no longer asks for, and must still be told about."""
    rejected: Snapshot | None = None
    """The client has rejected its resources of this type, and there was nothing to go back to."""
    refused: frozenset[str] = frozenset()
    """The names in the responses that were rejected then."""
    missing: frozenset[Reference] = frozenset()
    """The resources that the client has in no version because of that."""
    resumed: bool = False
    """State of the world: the client had resources before this stream, and does not say which."""

    def resubscribe(self, subscription: Subscription, repeated: frozenset[str] = frozenset()) -> None:
        """Replace the subscription.

        Args:
            repeated: names that the client must be told about even if it was told before.
        """
        # A client that drops a name forgets the resource; if it wants it again, it must get it again.
        self.subscription = subscription
        self.sent = without(subscription.of(self.sent), repeated)
        self.accepted = without(subscription.of(self.accepted), repeated)
        self.absent = (self.absent - repeated) & subscription.names

    def wanted(self, ours: Snapshot) -> Resources:
        """The resources of a snapshot that the client wants."""
        return self.subscription.of(ours.by_type[self.type]) if self.subscription else _NOTHING

    def waited_for(self, changes: tuple[Resource, ...]) -> tuple[Resource, ...]:
        """The changes for which Envoy may hold back its acknowledgement of a listener: those new to the client."""
        return tuple(resource for resource in changes if resource.name not in self.sent)

    def left_over(self, has: Resources, wanted: Resources, ours: Snapshot) -> Sequence[str]:  # noqa: ARG002
        """The names of the resources that the client has and must drop."""
        return gone(has, wanted)

    def unknown_names(self, wanted: Resources) -> list[str]:
        """Incremental: the names that the client waits to hear about, and that do not exist."""
        names = self.given_up | (self.subscription.names if self.subscription else frozenset())
        return sorted(names - wanted.keys() - self.sent.keys() - self.absent) if names else []

    def send(self, response: Response, wanted: Resources, target: Snapshot) -> None:
        """Note a response, which brings the client towards `wanted`."""
        self.nonce, self.under_way, self.snapshot = response.nonce, response, target
        self.sent = wanted if self.whole else _after(self.sent, wanted, response.resources, response.removed)
        if self.subscription and self.subscription.names:
            self.absent = self.absent.union(response.removed).intersection(self.subscription.names) - wanted.keys()
        self.given_up, self.owed = frozenset(), False

    def accept(self) -> None:
        self.under_way = None
        self.accepted = self.sent

    def lost(self, names: Set[str]) -> frozenset[Reference]:
        """The resources that a client has in no version if it rejects those with these names."""
        return frozenset((self.type, name) for name in names - self.accepted.keys())

    def made(self, wanted: Resources) -> bool:
        """Whether the client has all of these; it may have others too."""
        return not (self.under_way or self.owed or changed(self.accepted, wanted))

    def settled(self, wanted: Resources, ours: Snapshot) -> bool:
        """Whether a client that has all it wants also has nothing else, and will ask for nothing else."""
        if self.type.whole:
            return self.subscription is None or not gone(self.accepted, wanted)
        resources = ours.by_type[self.type]
        parents = self.parent.sent.values() if self.parent else ()
        needed = (name for parent in parents for kind, name in parent.references if kind is self.type)
        return all(self.accepted.get(name) == resources.get(name) for name in needed)


def unknown(kind: ResourceType, name: str) -> Resource:
    """A resource that the client has in a version that is not ours, or perhaps not at all; it equals none of ours."""
    return Resource(kind, name, b"")


def without(resources: Resources, names: Set[str]) -> Resources:
    """The resources but those with these names; the same object if there are none of them."""
    if names.isdisjoint(resources):
        return resources
    return Frozen({name: resource for name, resource in resources.items() if name not in names})


# A thousand clients that are brought from one snapshot to the next share both mappings. Ten thousand virtual hosts need
# not be compared for each of these clients.
@functools.lru_cache(SHARED)
def changed(before: Resources, after: Resources) -> tuple[Resource, ...]:
    """The resources that are new or different."""
    return tuple(resource for name, resource in after.items() if before.get(name) != resource)


@functools.lru_cache(SHARED)
def gone(before: Resources, after: Resources) -> tuple[str, ...]:
    return tuple(name for name in before if name not in after)


@functools.lru_cache(SHARED)
def _after(before: Resources, wanted: Resources, news: tuple[Resource, ...], removed: tuple[str, ...]) -> Resources:
    """What a client has after a response; the object `wanted` itself if that is equal."""
    sent = Frozen({**without(before, frozenset(removed)), **{new.name: new for new in news}})
    return wanted if sent == wanted else sent
