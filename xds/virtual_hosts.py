"""Virtual hosts as resources of their own (VHDS), as Envoy treats them. Everything special about them is here.

A client that can use them is brought to `Snapshot.split`. What Envoy was seen to do, and what follows:

- It asks for virtual hosts once, without names, and applies those of the route configurations that it has; it
  acknowledges and forgets all others. So they are sent after their route configuration (`wanted`).
- For a new route configuration, it waits for the first virtual hosts, takes these for all, and holds back the
  acknowledgement of the listener meanwhile. So all of them are sent in one response, whatever was sent before
  (`renew`), without waiting for the listener (`waited_for`).
- An older listener may still drain with a route configuration. If a listener is switched back to it, it uses it as it
  is. So the route configuration is brought up to date before the listener is sent (`come_back`).
- When the last listener of a route configuration has drained, it drops that with its virtual hosts, but lists them when
  it connects again. So they are named as removed then, not before (`left_over`).
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from rejoinder.xds.remember import Frozen
from rejoinder.xds.snapshot import ROUTES, VIRTUAL_HOSTS, Reference, Resource, Resources, Snapshot, routes_of
from rejoinder.xds.stream import Response, Stream, changed, unknown


@dataclass(slots=True)
class VirtualHosts(Stream):
    """The stream of virtual hosts; its parent is that of the route configurations."""

    renewed: frozenset[str] = frozenset()
    """The names of the route configurations that were sent as new ones since the last virtual hosts were sent."""

    @property
    def routes(self) -> Stream:
        assert self.parent is not None
        return self.parent

    def renew(self, routes: frozenset[str]) -> None:
        """Note that route configurations with these names are sent as new ones.

        If the client has just asked for a route configuration, it has none of its virtual hosts, whatever it was sent.
        If it has rejected one, or was told that it no longer exists, it may have some.
        """
        names = [name for name in self.sent if routes_of(name) in routes] if routes else []
        if names:
            doubtful = dict.fromkeys(names, unknown(VIRTUAL_HOSTS, ""))
            self.sent = Frozen({**self.sent, **doubtful})
            self.accepted = Frozen({**self.accepted, **doubtful})
        self.renewed |= routes

    def wanted(self, ours: Snapshot) -> Resources:
        if self.subscription and self.subscription.wildcard:
            return ours.virtual_hosts(frozenset(self.routes.sent))
        return Stream.wanted(self, ours)

    def send(self, response: Response, wanted: Resources, target: Snapshot) -> None:
        Stream.send(self, response, wanted, target)
        self.renewed = frozenset()

    def come_back(self, target: Snapshot, ours: Snapshot) -> bool:
        """Whether the client may have a wanted route configuration in an old form, with clusters that no longer exist.

        This is so if the route configuration was removed while a listener is still draining with it. A listener that
        uses the route configuration again would use the old form at once.
        """
        routes = self.routes
        if routes.subscription is None or routes.rejected is target:
            return False
        if routes.wanted(ours).keys() - routes.accepted.keys():
            return True
        if self.rejected is target:
            return False
        return bool(self.under_way or (self.renewed and self.waited_for(changed(self.sent, self.wanted(ours)))))

    def waited_for(self, changes: tuple[Resource, ...]) -> tuple[Resource, ...]:
        complete = self._complete()
        return tuple(host for host in changes if routes_of(host.name) not in complete)

    def _complete(self) -> Set[str]:
        """The names of the route configurations that the client has with virtual hosts. Others wait for them."""
        return {routes_of(name) for name in self.sent} - self.renewed

    def left_over(self, has: Resources, wanted: Resources, ours: Snapshot) -> Sequence[str]:
        names = Stream.left_over(self, has, wanted, ours)
        routes = self.routes
        if not names or routes.subscription is None:
            return ()
        asked, there = routes.subscription.names, routes.sent.keys() & ours.by_type[ROUTES].keys()
        return [name for name in names if routes_of(name) in there or routes_of(name) not in asked]

    def removed_early(self, names: Sequence[str]) -> Sequence[str]:
        """Of these names, those that may be removed while a listener waits: together with the new virtual hosts of
        their route configuration, never before, because Envoy would go on without any."""
        complete = self._complete() if names else frozenset()
        return [name for name in names if routes_of(name) not in complete]

    def lost(self, names: Set[str]) -> frozenset[Reference]:
        there, new = set(map(routes_of, self.accepted)), set(map(routes_of, names - self.accepted.keys()))
        return frozenset((ROUTES, routes) for routes in new - there)

    def settled(self, wanted: Resources, ours: Snapshot) -> bool:
        hosts = wanted if self.subscription else ours.virtual_hosts(frozenset(self.routes.sent))
        return not changed(self.accepted, hosts) and not self.left_over(self.accepted, hosts, ours)
