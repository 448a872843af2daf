"""Which snapshot newly connected clients get: whether the last one was rejected, and which one is proven. Pure.

A client that rejects a snapshot goes back to its previous one, which changes nothing for the others: clients that have
accepted the snapshot, or are being brought to it, keep it, and new clients get it too. It is withdrawn only if all
connected clients have rejected it, none has accepted it, and no client is away that may return and accept it. From then
on, new clients get the last snapshot that was accepted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from rejoinder.xds.session import Session
from rejoinder.xds.snapshot import ResourceType, Snapshot

_MOST_AWAY: Final = 10_000
"""How many clients that have left are remembered. A client may use any id, and a new one each time."""


class Standing:
    """The state of the last snapshot among the clients."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        """The last one that was published."""
        self.proven: dict[ResourceType, Snapshot] = {}
        """For each type, the last snapshot that was fully accepted by a client that asks for the type."""
        self._refused: ResourceType | None = None
        """The type of the last snapshot that was rejected; None: no client has rejected it."""
        self._taken_back = False
        """Whether new clients do not get the last snapshot any more."""
        self._away: OrderedDict[str, None] = OrderedDict()
        """The ids of clients that had a full snapshot and left without rejecting the last one; the latest last."""

    def publish(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._refused, self._taken_back = None, False

    def came(self, session: Session) -> None:
        self._away.pop(session.node, None)

    def accepted(self, session: Session, snapshot: Snapshot) -> None:
        self.proven.update(dict.fromkeys(session.types, snapshot))

    def rejected(self, kind: ResourceType, snapshot: Snapshot, sessions: Iterable[Session]) -> None:
        """Args: sessions: of all connected clients."""
        if snapshot is self.snapshot:
            self._refused = kind
        self._take_back(sessions)

    def left(self, session: Session, sessions: Iterable[Session]) -> None:
        """Args: sessions: of all clients that are still connected."""
        if session.accepted is not None and not (self.snapshot and session.has_rejected(self.snapshot)):
            self._away[session.node] = None
            if len(self._away) > _MOST_AWAY:
                self._away.popitem(last=False)
        self._take_back(sessions)

    def offered(self, only: ResourceType | None) -> Snapshot | None:
        """The snapshot for a new client of a service."""
        if self._taken_back and self._refused:
            return self.proven.get(only or self._refused, self.snapshot)
        return self.snapshot

    def _take_back(self, sessions: Iterable[Session]) -> None:
        """Withdraw the snapshot, if it has been rejected and no client has it or may yet accept it."""
        snapshot = self.snapshot
        if snapshot is None or self._refused is None or self._away:
            return
        if snapshot not in self.proven.values() and all(session.has_rejected(snapshot) for session in sessions):
            self._taken_back = True
