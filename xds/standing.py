"""Which snapshot clients are given who come: whether the last one was rejected, and what has been proven. Pure.

A client that rejects a snapshot goes back to its previous one, and changes nothing for the others: whoever has taken a
snapshot, or is taking it, keeps it. Who connects gets it, too. Only when all who were there have rejected it, nobody
has taken it, and nobody is away who may come back and take it, it is taken back: who connects from then on gets the
last snapshot that was taken.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from rejoinder.xds.session import Session
from rejoinder.xds.snapshot import ResourceType, Snapshot

_MOST_AWAY: Final = 10_000
"""How many clients that have left are waited for. A client may call itself anything, each time anew."""


class Standing:
    """How the last snapshot stands with the clients."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        """The last one that was published."""
        self.proven: dict[ResourceType, Snapshot] = {}
        """For each type, the last snapshot that a client that asks for it had in full."""
        self._refused: ResourceType | None = None
        """The type that was rejected of the last one; None: nobody has rejected it."""
        self._taken_back = False
        """Whether nobody is offered the last one any more."""
        self._away: OrderedDict[str, None] = OrderedDict()
        """The ids of clients that had a snapshot in full and left without rejecting the last one; the latest last."""

    def publish(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._refused, self._taken_back = None, False

    def came(self, session: Session) -> None:
        self._away.pop(session.node, None)

    def accepted(self, session: Session, snapshot: Snapshot) -> None:
        self.proven.update(dict.fromkeys(session.types, snapshot))

    def rejected(self, kind: ResourceType, snapshot: Snapshot, sessions: Iterable[Session]) -> None:
        """Args: sessions: of all who are there."""
        if snapshot is self.snapshot:
            self._refused = kind
        self._take_back(sessions)

    def left(self, session: Session, sessions: Iterable[Session]) -> None:
        """Args: sessions: of all who are still there."""
        if session.accepted is not None and not (self.snapshot and session.has_rejected(self.snapshot)):
            self._away[session.node] = None
            if len(self._away) > _MOST_AWAY:
                self._away.popitem(last=False)
        self._take_back(sessions)

    def offered(self, only: ResourceType | None) -> Snapshot | None:
        """What who comes to a service is brought to."""
        if self._taken_back and self._refused:
            return self.proven.get(only or self._refused, self.snapshot)
        return self.snapshot

    def _take_back(self, sessions: Iterable[Session]) -> None:
        """Give the snapshot to nobody who comes, if it has been rejected and nobody has it or may yet take it."""
        snapshot = self.snapshot
        if snapshot is None or self._refused is None or self._away:
            return
        if snapshot not in self.proven.values() and all(session.has_rejected(snapshot) for session in sessions):
            self._taken_back = True
