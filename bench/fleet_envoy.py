"""A client that requests the same as an Envoy; there can be a thousand of them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc.aio

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from simulated_envoy import IncrementalEnvoy, StateOfTheWorldEnvoy
from simulated_wire import Wire

from rejoinder.xds.forms import SPLITS_SINCE, Node
from rejoinder.xds.snapshot import LISTENERS, ROUTES, VIRTUAL_HOSTS

PATIENCE: Final = 120.0
"""Seconds after which a round is given up."""
MARKER: Final = re.compile(rb"generation-([0-9]+)-")


class Client:
    """A simulated Envoy with one connection and one stream at a time. After a reconnect it reports what it has.

    (An Envoy gives up a route configuration when the last connection of a listener has ended, which is not seen here:
    no edit changes the listeners.)
    """

    def __init__(self, address: str, name: str, delta: bool, on_generation: Callable[[int], None]) -> None:
        self.on_generation = on_generation
        self.received = 0
        """Bytes."""
        self._address = address
        self._node = Node(name, SPLITS_SINCE)
        self._delta = delta
        self._wire: Wire | None = None
        self._envoy: IncrementalEnvoy | StateOfTheWorldEnvoy | None = None

    async def connect(self, *routes: str) -> None:
        """Connect, and ask for all known resources; with the names of route configurations, for all there may be."""
        before, self._wire = self._envoy, Wire(self._address, self._delta)
        self._envoy = (IncrementalEnvoy if self._delta else StateOfTheWorldEnvoy)(
            self._wire, before.has if before else None, self._node
        )
        self._envoy.start(before=before)
        if routes:
            self._envoy.subscribe(LISTENERS)
            self._envoy.subscribe(ROUTES, *routes)
            self._envoy.subscribe(VIRTUAL_HOSTS)
        await self._wire.flush()

    def reject(self) -> None:
        """Reject everything from now on."""
        assert self._envoy
        self._envoy.bad = ""

    async def run(self) -> None:
        """Answer until the stream ends."""
        assert self._envoy
        assert self._wire
        with contextlib.suppress(grpc.RpcError, asyncio.CancelledError):
            while response := await self._wire.read():
                self.received += len(self._wire.data)
                self._envoy.receive([response])
                while self._envoy.step():
                    pass
                await self._wire.flush()
                if response.type in (ROUTES, VIRTUAL_HOSTS) and (marker := MARKER.search(self._wire.data)):
                    self.on_generation(int(marker[1]))

    async def close(self) -> None:
        if self._wire:
            await self._wire.close()


# ---- what is measured


class Arrivals:
    """When which client got a generation."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._generation = 0
        self._times: dict[str, float] = {}
        self._all = asyncio.Event()

    def expect(self, generation: int) -> None:
        self._generation = generation
        self._times.clear()
        self._all.clear()

    def note(self, name: str, generation: int) -> None:
        if generation == self._generation:
            self._times.setdefault(name, time.monotonic())
            if len(self._times) == self._wanted:
                self._all.set()

    async def times(self) -> list[float]:
        """When each of them had it, in order; those that never got it are missing."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all.wait(), PATIENCE)
        return sorted(self._times.values())
