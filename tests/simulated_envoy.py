"""A client that asks and answers in the order in which Envoy does, for both variants of xDS: by calls, no sockets.

What it does with virtual hosts as resources of their own was tried with Envoy 1.40.0.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from simulated import Client, IncrementalClient, StateOfTheWorldClient, apply, describe, hosts_of, named, ours

from rejoinder.xds.delta import Incremental
from rejoinder.xds.snapshot import (
    CLUSTERS,
    LISTENERS,
    ROUTES,
    VIRTUAL_HOSTS,
    Resource,
    ResourceType,
    Snapshot,
    routes_of,
)
from rejoinder.xds.sotw import StateOfTheWorld
from rejoinder.xds.stream import Response
from rejoinder.xds.translate.route_configurations import Layout

SPLIT: Final = ":hosts"
SPLITS: Final = (SPLIT, Layout.DOMAINS.value, Layout.PATHS.value)
"""The ends of the names of route configurations whose virtual hosts are resources of their own."""


class Envoy(Client):
    """A client that asks and answers in the order in which Envoy does. It rejects what has a body of `bad`.

    Of route configurations whose names end in SPLIT it gets the virtual hosts one by one, by a wildcard that it asks
    for once in a stream. A listener is at work when its route configurations are there with their virtual hosts; until
    then the one that it replaces is. That one goes on in the background for a while with the route configurations that
    it has (`draining`), whatever is said about them.
    """

    bad: str | None = None

    def start(self, bad: str | None = None, before: Envoy | None = None) -> None:
        """Args: before: the same Envoy with its previous stream."""
        self.bad = bad
        self._given = [self.session.target] if self.session.target else []
        self.at_work: dict[str, Resource] = before.at_work if before else {}
        """The listeners that answer requests."""
        self.draining: set[str] = before.draining if before else set()
        """The names of the route configurations of listeners that have been replaced."""
        self.waiting: set[str] = before.waiting if before else set()
        """The names of the route configurations that have been told nothing about virtual hosts so far."""
        self.subscribe(CLUSTERS)
        if before:  # it asks for all at once
            for kind in (LISTENERS, ROUTES, VIRTUAL_HOSTS):
                if before.names.get(kind):
                    self.subscribe(kind, *sorted(before.names[kind] - {"*"}))

    def give(self, snapshot: Snapshot) -> list[Response]:
        self._given.append(snapshot)
        return super().give(snapshot)

    def step(self) -> bool:
        """Ask for something, or answer one response; False: there is nothing to do."""
        if self._ask(ROUTES, self._in_use()):
            return True
        for response in sorted(self.unanswered.values(), key=lambda response: int(response.nonce)):
            if (
                any(resource.name.endswith(SPLITS) for resource in response.resources)
                and VIRTUAL_HOSTS not in self.names
            ):
                self.subscribe(VIRTUAL_HOSTS)
            if any(self._is_bad(resource) for resource in response.resources):
                self.nack(response.type)
            else:
                self.ack(response.type)
            if response.type is CLUSTERS and LISTENERS not in self.names:
                self.subscribe(LISTENERS)
            if self.session.accepted:
                self.no_route_leads_nowhere()
            return True
        if LISTENERS not in self.names:
            self.subscribe(LISTENERS)  # nothing was sent: it had all clusters already
            return True
        return False

    def settle(self) -> list[str]:
        """Go on until there is nothing more to do; give what has been sent since the last time."""
        for _ in range(300):
            if not self.step():
                sent, self.sent = self.sent, []
                return sent
        raise AssertionError("it goes on and on")

    def drained(self) -> None:
        """The listeners that were replaced are gone."""
        self.draining.clear()

    def take(self, response: Response) -> None:
        if response.type is ROUTES:
            self._take_routes(response.resources)
        elif response.type is VIRTUAL_HOSTS:
            self._take_hosts(set(map(routes_of, response.names)), response)
        else:
            super().take(response)
        self._put_to_work()

    def nack(self, kind: ResourceType, error: str = "no") -> list[Response]:
        response = self.unanswered[kind]
        # One route configuration has nothing to do with the other.
        if kind is ROUTES:
            good = [resource for resource in response.resources if not self._is_bad(resource)]
            self._take_routes([resource for resource in good if resource.name in self.names[ROUTES]])
        elif kind is VIRTUAL_HOSTS:
            bad = {routes_of(resource.name) for resource in response.resources if self._is_bad(resource)}
            self._take_hosts(set(map(routes_of, response.names)) - bad, response)
            self.waiting -= bad
        self._put_to_work()
        return super().nack(kind, error)  # type: ignore[safe-super]

    def drop(self, kind: ResourceType, *names: str) -> list[Response]:
        if kind is ROUTES:
            self.waiting -= set(names)
            hosts = self.has[VIRTUAL_HOSTS]
            self.has[VIRTUAL_HOSTS] = {name: host for name, host in hosts.items() if routes_of(name) not in names}
        return super().drop(kind, *names)  # type: ignore[safe-super]

    def _take_routes(self, resources: Iterable[Resource]) -> None:
        # That one is no more means nothing to Envoy, as long as there is a listener that uses it.
        for resource in resources:
            if resource.name.endswith(SPLITS) and resource.name not in self.has[ROUTES]:
                self.waiting.add(resource.name)
            self.has[ROUTES][resource.name] = resource

    def _take_hosts(self, routes: set[str], response: Response) -> None:
        """Of these route configurations; of those that it does not have, it has recorded virtual hosts alone."""
        for name in routes & self.waiting if self._given else ():
            said = hosts_of(name, response.resources)
            whole = [hosts_of(name, ours(snapshot)[VIRTUAL_HOSTS].values()) for snapshot in self._given]
            assert said in whole, f"{name} is put to work with some of its virtual hosts: {describe(response)}"
        self.waiting -= routes
        taken = routes & self.has[ROUTES].keys()
        apply(
            self.has[VIRTUAL_HOSTS],
            (host for host in response.resources if routes_of(host.name) in taken),
            (name for name in response.removed if routes_of(name) in taken),
        )

    def _put_to_work(self) -> None:
        for name in self.at_work.keys() - self.has[LISTENERS].keys():
            self.draining |= named(ROUTES, [self.at_work.pop(name)])
        for name, listener in self.has[LISTENERS].items():
            needed, before = named(ROUTES, [listener]), self.at_work.get(name)
            if listener != before and needed <= self.has[ROUTES].keys() - self.waiting:
                self.draining |= named(ROUTES, [before] if before else [])
                self.at_work[name] = listener

    def _in_use(self) -> set[str]:
        return named(ROUTES, [*self.has[LISTENERS].values(), *self.at_work.values()]) | self.draining

    def _is_bad(self, resource: Resource) -> bool:
        return self.bad is not None and resource.body.startswith(self.bad.encode())

    def _ask(self, kind: ResourceType, names: set[str]) -> bool:
        before = self.names.get(kind, set())
        if names == before or (not self.session.incremental and kind in self.unanswered):
            return False
        if before - names:
            self.drop(kind, *sorted(before - names))
        else:
            self.subscribe(kind, *sorted(names - before))
        return True

    def no_route_leads_nowhere(self) -> None:
        """Of the listeners at work: those that are draining keep what they had."""
        for name in named(ROUTES, self.at_work.values()):
            for resource in (self.has[ROUTES][name], *hosts_of(name, self.has[VIRTUAL_HOSTS].values()).values()):
                for _, of in resource.references:
                    assert of in self.has[CLUSTERS], f"{resource.name} leads to {of}, which Envoy does not have"


class StateOfTheWorldEnvoy(Envoy, StateOfTheWorldClient):
    """It asks for other names when it has answered what is under way."""


class IncrementalEnvoy(Envoy, IncrementalClient):
    """It says the difference alone, and waits for nothing."""


def start_envoy(
    snapshot: Snapshot | None = None, bad: str | None = None, before: IncrementalEnvoy | None = None
) -> IncrementalEnvoy:
    """An Envoy that speaks the incremental variant, as ours do."""
    made = IncrementalEnvoy(Incremental(snapshot), before.has if before else None)
    if before:
        made.recorded = before.recorded
    made.start(bad, before)
    return made


def start_older_envoy(bad: str | None = None) -> StateOfTheWorldEnvoy:
    made = StateOfTheWorldEnvoy(StateOfTheWorld())
    made.start(bad)
    return made


def has_all_of(envoy: Envoy, wanted: Snapshot) -> bool:
    """And nothing else, and it is at work."""
    of = ours(wanted)
    in_use = named(ROUTES, of[LISTENERS].values())
    hosts = {name for name in of[VIRTUAL_HOSTS] if routes_of(name) in in_use}
    return (
        all(envoy.has[kind] == of[kind] for kind in (CLUSTERS, LISTENERS))
        and envoy.has[ROUTES] == {name: of[ROUTES][name] for name in in_use}
        and envoy.has[VIRTUAL_HOSTS] == {name: of[VIRTUAL_HOSTS][name] for name in hosts}
        and envoy.at_work == envoy.has[LISTENERS]
    )
