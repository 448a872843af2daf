"""Which form of a snapshot a client gets: this depends on its version, and on what it has reported about the module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from rejoinder.xds.snapshot import EXTENSIONS, ResourceType, Snapshot

MODULE_SINCE: Final = (1, 38)
"""The first version of Envoy that loads the module: earlier ones have another interface."""

SPLITS_SINCE: Final = (1, 40)
"""The first version of Envoy that gets virtual hosts as resources of their own. An older one may not know
`vhost_header`, and would pick the wrong virtual hosts without an error."""

COUNTS_SINCE: Final = (1, 39)
"""The first version of Envoy that counts answers: in an earlier one, nothing limits the number of counters."""

NO_MODULE: Final = "dynamic module"
"""In the error of an Envoy that cannot load it, or whose module rejects the program (because it has no Python, say)."""


class Node(NamedTuple):
    """What a client reports about itself. Only a stream's first request is sure to have it."""

    id: str = ""
    envoy: tuple[int, int] | None = None
    """Its version, if it is an Envoy and reports one."""
    access_log: bool = False
    """Whether it wants an access log."""


NOBODY: Final = Node()


@dataclass(slots=True)
class Forms:
    """What is known of one client; some of it from its `Node`."""

    may_split: bool
    """Its stream is incremental and for all types."""
    envoy: tuple[int, int] | None = None
    access_log: bool = False
    without_module: bool = False
    refused: Snapshot | None = None
    """The last snapshot whose program its module rejected."""

    def of(self, snapshot: Snapshot) -> Snapshot:
        """The form of a snapshot that the client gets."""
        old = self.envoy is not None and self.envoy < MODULE_SINCE
        if (old or self.without_module or snapshot is self.refused) and snapshot.without_module:
            snapshot = snapshot.without_module
        if self.may_split and self._since(SPLITS_SINCE):
            snapshot = snapshot.split or snapshot
        return snapshot.logged(self._since(COUNTS_SINCE), self.access_log)

    def _since(self, version: tuple[int, int]) -> bool:
        return self.envoy is not None and self.envoy >= version

    def learn(self, kind: ResourceType, snapshot: Snapshot, message: str) -> bool:
        """Note that a client has rejected resources of a snapshot.

        Returns:
            Whether the module is the reason, and the client now gets another form of the snapshot.
        """
        if kind is not EXTENSIONS or NO_MODULE not in message or not snapshot.without_module:
            return False
        if self.without_module or snapshot is self.refused:
            return False
        self.without_module = f"load {NO_MODULE}" in message  # otherwise it may accept the next program
        self.refused = snapshot
        return True
