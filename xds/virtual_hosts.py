"""Virtual hosts that are resources of their own (VHDS), as Envoy treats them. All that is special about them is here.

A client that can take them is brought to `Snapshot.split`. What Envoy was seen to do, and what follows:

- It asks for virtual hosts once, without names, and takes those of the route configurations that it has; others it
  acknowledges and forgets. So they are sent behind their route configuration (`wanted`).
- It waits for the first virtual hosts of a route configuration that is new to it, takes these for all, and holds back
  the acknowledgement of the listener meanwhile. So all of them are sent, in one response, whatever was sent before
  (`renew`), and do not wait for the listener (`waited_for`).
- A listener that is switched back to a route configuration that an older listener still drains with uses it as it is.
  So that is brought up to date before the listener is sent (`come_back`).
- It gives up a route configuration when the last listener with it has drained, and drops its virtual hosts, but lists
  them when it comes back. So they are named as removed then, not before (`left_over`).
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
    """The names of the route configurations that were sent as new ones since virtual hosts were sent last."""

    @property
    def routes(self) -> Stream:
        assert self.parent is not None
        return self.parent

    def renew(self, routes: frozenset[str]) -> None:
        """Note that route configurations with these names are sent as new ones.

        If the client has just asked for one, it has no virtual hosts of it, whatever it was sent. If it has rejected
        one, or was told that it is no more, it may have some.
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
        """Whether the client may have a wanted route configuration in an old form, with clusters that are no more.

        It has one if it was told that the route configuration is no more while a listener is still draining with it. A
        listener that uses the route configuration again would use the old form at once.
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
        """Those of the names that may be removed while a listener waits: with the new virtual hosts of their route
        configuration, never before, as Envoy would go on without any."""
        complete = self._complete() if names else frozenset()
        return [name for name in names if routes_of(name) not in complete]

    def lost(self, names: Set[str]) -> frozenset[Reference]:
        there, new = set(map(routes_of, self.accepted)), set(map(routes_of, names - self.accepted.keys()))
        return frozenset((ROUTES, routes) for routes in new - there)

    def settled(self, wanted: Resources, ours: Snapshot) -> bool:
        hosts = wanted if self.subscription else ours.virtual_hosts(frozenset(self.routes.sent))
        return not changed(self.accepted, hosts) and not self.left_over(self.accepted, hosts, ours)
