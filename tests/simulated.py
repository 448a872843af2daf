"""The other end of an xDS stream, for both variants of the protocol: by calls, no sockets, no time.

A `Client` does what it is told, and checks the protocol with every response; `simulated_envoy` has one that behaves as
Envoy does.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from rejoinder.xds.delta import DeltaRequest, Incremental
from rejoinder.xds.events import Accepted, Nack, Unable
from rejoinder.xds.forms import SPLITS_SINCE, Node
from rejoinder.xds.session import Output
from rejoinder.xds.snapshot import (
    CLUSTERS,
    LISTENERS,
    RESOURCE_TYPES,
    ROUTES,
    VIRTUAL_HOSTS,
    Resource,
    ResourceType,
    Snapshot,
    routes_of,
)
from rejoinder.xds.sotw import Request, StateOfTheWorld
from rejoinder.xds.stream import Response

Held = dict[ResourceType, dict[str, Resource]]
Proven = Mapping[ResourceType, Snapshot]

NODE: Final = Node("envoy-1", SPLITS_SINCE)


def resource(kind: ResourceType, name: str, *references: tuple[ResourceType, str], body: str = "1") -> Resource:
    return Resource(kind, name, body.encode(), frozenset(references))


def cluster(name: str, body: str = "1") -> Resource:
    return resource(CLUSTERS, name, body=body)


def listener(name: str, *routes: str, body: str = "1") -> Resource:
    return resource(LISTENERS, name, *((ROUTES, route) for route in routes), body=body + ",".join(routes))


def routes(name: str, *clusters: str, body: str = "1") -> Resource:
    return resource(ROUTES, name, *((CLUSTERS, of) for of in clusters), body=body + ",".join(clusters))


def host(name: str, *clusters: str, body: str = "1") -> Resource:
    return resource(VIRTUAL_HOSTS, name, *((CLUSTERS, of) for of in clusters), body=body + ",".join(clusters))


def snapshot(*resources: Resource) -> Snapshot:
    made = Snapshot(resources)
    assert made.check() == ()
    return made


def split(*resources: Resource) -> Snapshot:
    """A snapshot that has these for clients that can take virtual hosts, and nothing for others."""
    made = Snapshot((), Snapshot(resources))
    assert made.check() == ()
    return made


def ours(of: Snapshot) -> Mapping[ResourceType, Mapping[str, Resource]]:
    """What a client is to have."""
    return (of.split or of).by_type


def named(kind: ResourceType, parents: Iterable[Resource]) -> set[str]:
    return {name for parent in parents for of, name in parent.references if of is kind}


def hosts_of(name: str, hosts: Iterable[Resource]) -> dict[str, Resource]:
    return {host.name: host for host in hosts if routes_of(host.name) == name}


def describe(response: Response) -> str:
    """`clusters: a b -c`: a and b are sent, c is removed."""
    said = [
        *sorted(resource.name for resource in response.resources),
        *(f"-{name}" for name in sorted(response.removed)),
    ]
    return f"{response.type.name}: {' '.join(said)}"


def described(responses: Iterable[Response]) -> list[str]:
    return [describe(response) for response in responses]


ONE: Final = snapshot(cluster("a"), listener("l", "r"), routes("r", "a"))


class Client(abc.ABC):
    """A client that holds a session to the protocol.

    Args:
        session: or a `simulated_wire.Wire`; what comes by that is given to `receive`.
        has: what it has from an earlier stream.
        node: what it says of itself.
    """

    def __init__(self, session: Any, has: Held | None = None, node: Node = NODE) -> None:
        self.session = session
        self.node = node
        self.has: Held = has or {kind: {} for kind in RESOURCE_TYPES}
        self.sent: list[str] = []
        """What it was sent, as `describe` says."""
        self.news: list[Accepted | Nack | Unable] = []
        self.unanswered: dict[ResourceType, Response] = {}
        self.names: dict[ResourceType, set[str]] = {}
        """What was asked for and not given up."""
        self._last_nonce = 0

    @classmethod
    @abc.abstractmethod
    def new(cls, snapshot: Snapshot | None = None, proven: Proven | None = None) -> Client:
        """A client of a session of its own."""

    @abc.abstractmethod
    def subscribe(self, kind: ResourceType, *names: str) -> list[Response]:
        """Ask for something, beside what was asked for before; no names at first: for everything."""

    @abc.abstractmethod
    def drop(self, kind: ResourceType, *names: str) -> list[Response]:
        """Ask for these no longer."""

    @abc.abstractmethod
    def ack(self, kind: ResourceType) -> list[Response]:
        """Accept the response under way."""

    @abc.abstractmethod
    def nack(self, kind: ResourceType, error: str = "no") -> list[Response]:
        """Reject it."""

    def take(self, response: Response) -> None:
        """Have what an accepted response says."""
        if response.type.whole and not self.session.incremental:
            self.has[response.type].clear()
        apply(self.has[response.type], response.resources, response.removed)

    def give(self, snapshot: Snapshot) -> list[Response]:
        return self.receive(self.session.on_snapshot(snapshot))

    def ack_all(self) -> list[str]:
        """Accept until nothing more comes, oldest first; give the responses as `describe` does."""
        log = []
        while self.unanswered:
            kind = min(self.unanswered, key=lambda kind: int(self.unanswered[kind].nonce))
            log.append(describe(self.unanswered[kind]))
            self.ack(kind)
        return log

    def receive(self, outputs: Iterable[Output]) -> list[Response]:
        responses = []
        for output in outputs:
            if not isinstance(output, Response):
                self.news.append(output)
                continue
            kind = output.type
            assert kind in self.names, "not asked for"
            assert kind not in self.unanswered, "there is one under way already"
            assert int(output.nonce) > self._last_nonce
            assert output.version
            assert all(resource.type is kind for resource in output.resources)
            said = [*(resource.name for resource in output.resources), *output.removed]
            assert len(set(said)) == len(said), "one name twice"
            self._last_nonce = int(output.nonce)
            self.unanswered[kind] = output
            self.sent.append(describe(output))
            responses.append(output)
        return responses


class StateOfTheWorldClient(Client):
    def __init__(self, session: Any, has: Held | None = None, node: Node = NODE) -> None:
        super().__init__(session, has, node)
        self._nonces: dict[ResourceType, str] = {}
        self._versions: dict[ResourceType, str] = {}

    @classmethod
    def new(cls, snapshot: Snapshot | None = None, proven: Proven | None = None) -> StateOfTheWorldClient:
        return cls(StateOfTheWorld(snapshot, proven=proven or {}))

    def ask(self, kind: ResourceType, *names: str, version: str = "") -> list[Response]:
        """Ask for just these; no names: for everything, if there never were any."""
        assert kind not in self.unanswered, "answer it first"
        self.names[kind] = set(names)
        return self._send(kind, version or self._versions.get(kind, ""))

    def subscribe(self, kind: ResourceType, *names: str) -> list[Response]:
        return self.ask(kind, *sorted({*self.names.get(kind, ()), *names}))

    def drop(self, kind: ResourceType, *names: str) -> list[Response]:
        left = self.names[kind] - set(names)
        self.has[kind] = {name: resource for name, resource in self.has[kind].items() if name in left}
        return self.ask(kind, *sorted(left))

    def ack(self, kind: ResourceType, *names: str) -> list[Response]:
        """With names: and ask for these from now on."""
        response = self.unanswered.pop(kind)
        self.take(response)
        self._versions[kind] = response.version
        self.names[kind] = set(names) or self.names[kind]
        return self._send(kind, response.version)

    def nack(self, kind: ResourceType, error: str = "no") -> list[Response]:
        del self.unanswered[kind]
        return self._send(kind, self._versions.get(kind, ""), error)

    def receive(self, outputs: Iterable[Output]) -> list[Response]:
        responses = super().receive(outputs)
        for response in responses:
            assert response.resources or response.type.whole, "says nothing"
            self._nonces[response.type] = response.nonce
        return responses

    def _send(self, kind: ResourceType, version: str, error: str | None = None) -> list[Response]:
        names, nonce = tuple(sorted(self.names[kind])), self._nonces.get(kind, "")
        return self.receive(self.session.on_request(Request(kind.url, names, version, nonce, error, self.node)))


class IncrementalClient(Client):
    def __init__(self, session: Any, has: Held | None = None, node: Node = NODE) -> None:
        super().__init__(session, has, node)
        self.recorded: Held = {kind: dict(resources) for kind, resources in self.has.items()}
        """What its side of the protocol takes it to have."""

    @classmethod
    def new(
        cls, snapshot: Snapshot | None = None, proven: Proven | None = None, has: Held | None = None
    ) -> IncrementalClient:
        return cls(Incremental(snapshot, proven=proven or {}), has)

    def subscribe(self, kind: ResourceType, *names: str) -> list[Response]:
        first = kind not in self.names
        initial = {name: resource.version for name, resource in self.recorded[kind].items()} if first else {}
        self.names.setdefault(kind, set() if names else {"*"}).update(names)
        return self._send(DeltaRequest(kind.url, names, initial=initial, node=self.node))

    def drop(self, kind: ResourceType, *names: str) -> list[Response]:
        self.names[kind] -= set(names)
        if "*" not in self.names[kind]:
            for held in (self.has, self.recorded):
                held[kind] = {name: resource for name, resource in held[kind].items() if name in self.names[kind]}
        return self._send(DeltaRequest(kind.url, unsubscribe=names))

    def ack(self, kind: ResourceType) -> list[Response]:
        response = self.unanswered.pop(kind)
        # What was given up meanwhile is ignored.
        wanted = [resource for resource in response.resources if not self.names[kind].isdisjoint({"*", resource.name})]
        taken = replace(response, resources=tuple(wanted))
        self.take(taken)
        apply(self.recorded[kind], taken.resources, taken.removed)
        return self._send(DeltaRequest(kind.url, nonce=response.nonce))

    def nack(self, kind: ResourceType, error: str = "no") -> list[Response]:
        return self._send(DeltaRequest(kind.url, nonce=self.unanswered.pop(kind).nonce, error=error))

    def receive(self, outputs: Iterable[Output]) -> list[Response]:
        responses = super().receive(outputs)
        for response in responses:
            assert "*" in self.names[response.type] or self.names[response.type].issuperset(response.names), (
                "not asked for"
            )
        return responses

    def _send(self, request: DeltaRequest) -> list[Response]:
        return self.receive(self.session.on_request(request))


def apply(held: dict[str, Resource], resources: Iterable[Resource], removed: Iterable[str] = ()) -> None:
    for name in removed:
        held.pop(name, None)
    held.update((resource.name, resource) for resource in resources)


def connected(client: Client, first: Snapshot = ONE) -> Client:
    """A client that has accepted a snapshot in full."""
    client.give(first)
    for kind in (CLUSTERS, LISTENERS):
        client.subscribe(kind)
        client.ack_all()
    if first.by_type[ROUTES]:
        client.subscribe(ROUTES, *first.by_type[ROUTES])
        client.ack_all()
    assert client.news == [Accepted("envoy-1", first)]
    client.news.clear()
    return client
