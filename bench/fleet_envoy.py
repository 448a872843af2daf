"""A client that takes what an Envoy takes, of which there can be a thousand."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc.aio

from rejoinder.xds.forms import SPLITS_SINCE
from rejoinder.xds.protobuf import message_class
from rejoinder.xds.server import ADS
from rejoinder.xds.snapshot import CLUSTERS, LISTENERS, ROUTES, VIRTUAL_HOSTS, ResourceType

VERSION: Final = dict(zip(("major_number", "minor_number"), SPLITS_SINCE, strict=True))
"""Of the Envoys that the clients say they are."""
PATIENCE: Final = 120.0
"""Seconds after which a round is given up."""
MARKER: Final = re.compile(rb"generation-([0-9]+)-")


# ---- a simulated Envoy


@dataclass(slots=True)
class Client:
    """One connection and one stream.

    It asks for clusters and listeners; for the route configurations that these name, when it has read them; and for all
    virtual hosts, once, when the first of those says that it has them elsewhere. (Envoy asks for listeners when it has
    its clusters. It gives up a route configuration when the last connection of a listener has ended, which is not seen
    here: no edit changes the listeners.) Who comes back asks for all of it at once, and says what it has.
    """

    address: str
    name: str
    delta: bool
    on_generation: Callable[[int], None]
    error: str | None = None
    """What it answers to every change; None: it accepts."""
    received: int = 0
    """Bytes."""
    routes: dict[str, None] = field(default_factory=dict)
    """The names of the route configurations that it wants, in order."""
    wants_hosts: bool = False
    """Whether it has asked for virtual hosts."""
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    """What it has, by type URL and name; incremental only."""
    channel: Any = None
    stream: Any = None

    async def connect(self) -> None:
        """Connect, and ask for all that it knows of."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        self.channel = grpc.aio.insecure_channel(self.address, options=options)
        method = "DeltaAggregatedResources" if self.delta else "StreamAggregatedResources"
        self.stream = self.channel.stream_stream(f"/{ADS}/{method}")()
        for kind, asked in (
            (CLUSTERS, True),
            (LISTENERS, True),
            (ROUTES, bool(self.routes)),
            (VIRTUAL_HOSTS, self.wants_hosts),
        ):
            if asked:
                await self.stream.write(self._request(kind, tuple(self.routes) if kind is ROUTES else ()))

    async def run(self) -> None:
        """Answer until the stream ends."""
        with contextlib.suppress(grpc.RpcError, asyncio.CancelledError):
            while (data := await self.stream.read()) is not grpc.aio.EOF:
                self.received += len(data)
                message = (DELTA_RESPONSE if self.delta else RESPONSE).FromString(data)
                if self.delta:
                    has = self.versions.setdefault(message.type_url, {})
                    has.update(
                        (sys.intern(resource.name), sys.intern(resource.version)) for resource in message.resources
                    )
                    for name in message.removed_resources:
                        has.pop(name, None)
                # Envoy asks for what it has just heard of before it answers.
                for request in (*self._further_requests(message), self._answer(message)):
                    await self.stream.write(request)
                if message.type_url in RULES and (found := MARKER.search(data)):
                    self.on_generation(int(found[1]))

    async def close(self) -> None:
        if self.stream is not None:
            self.stream.cancel()
            await self.channel.close()

    def _further_requests(self, message: Any) -> Iterator[bytes]:
        """For what a response speaks of."""
        if message.type_url == LISTENERS.url:
            named = (name for each in self._bodies(message) for name in routes_of_listener(each))
            if new := [name for name in dict.fromkeys(named) if name not in self.routes]:
                self.routes.update(dict.fromkeys(new))
                yield self._request(ROUTES, tuple(new if self.delta else self.routes))
        elif message.type_url == ROUTES.url and self.delta and not self.wants_hosts:
            self.wants_hosts = any(map(has_hosts_elsewhere, self._bodies(message)))
            if self.wants_hosts:
                yield self._request(VIRTUAL_HOSTS)

    def _bodies(self, message: Any) -> Iterator[bytes]:
        return ((resource.resource if self.delta else resource).value for resource in message.resources)

    def _request(self, kind: ResourceType, names: Sequence[str] = ()) -> bytes:
        """Ask; incremental: for these, too."""
        node = {"id": self.name, "user_agent_name": "envoy", "user_agent_build_version": {"version": VERSION}}
        if self.delta:
            request = DELTA_REQUEST(type_url=kind.url, resource_names_subscribe=names, node=node)
            request.initial_resource_versions.update(self.versions.get(kind.url, {}))
        else:
            request = REQUEST(type_url=kind.url, resource_names=names, node=node)
        encoded: bytes = request.SerializeToString()
        return encoded

    def _answer(self, message: Any) -> bytes:
        if self.delta:
            request = DELTA_REQUEST(type_url=message.type_url, response_nonce=message.nonce)
        else:
            request = REQUEST(type_url=message.type_url, response_nonce=message.nonce)
            request.version_info = message.version_info
            request.resource_names.extend(self.routes if message.type_url == ROUTES.url else ())
        if self.error:
            request.error_detail.message = self.error
        encoded: bytes = request.SerializeToString()
        return encoded


REQUEST = message_class("envoy.service.discovery.v3.DiscoveryRequest")
RESPONSE = message_class("envoy.service.discovery.v3.DiscoveryResponse")
DELTA_REQUEST = message_class("envoy.service.discovery.v3.DeltaDiscoveryRequest")
DELTA_RESPONSE = message_class("envoy.service.discovery.v3.DeltaDiscoveryResponse")
LISTENER = message_class("envoy.config.listener.v3.Listener")
MANAGER = message_class("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager")
ROUTE_CONFIGURATION = message_class("envoy.config.route.v3.RouteConfiguration")

RULES: Final = (ROUTES.url, VIRTUAL_HOSTS.url)
"""Where a rule may stand."""


# What all clients are told is read once. (Envoys have a process each; these would wait for one another.)


@functools.lru_cache(maxsize=16)
def routes_of_listener(body: bytes) -> tuple[str, ...]:
    """The names of the route configurations that a listener has fetched."""
    filters = (each for chain in LISTENER.FromString(body).filter_chains for each in chain.filters)
    managers = (MANAGER.FromString(each.typed_config.value) for each in filters)
    return tuple(manager.rds.route_config_name for manager in managers)


@functools.lru_cache(maxsize=16)
def has_hosts_elsewhere(body: bytes) -> bool:
    """Whether the virtual hosts of a route configuration are to be asked for."""
    said: bool = ROUTE_CONFIGURATION.FromString(body).HasField("vhds")
    return said


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
