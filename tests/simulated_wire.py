"""The one gRPC stream by which simulated clients (`simulated`, `simulated_envoy`) talk to an xDS server."""

from __future__ import annotations

import functools
from typing import Any, Final

import grpc.aio
from google.protobuf.message import DecodeError

from rejoinder.xds.delta import DeltaRequest
from rejoinder.xds.forms import Node
from rejoinder.xds.protobuf import message_class
from rejoinder.xds.server import ADS
from rejoinder.xds.snapshot import LISTENERS, RESOURCE_TYPES, ROUTES, Reference, Resource, ResourceType
from rejoinder.xds.sotw import Request
from rejoinder.xds.stream import Response

DiscoveryRequest = message_class("envoy.service.discovery.v3.DiscoveryRequest")
DiscoveryResponse = message_class("envoy.service.discovery.v3.DiscoveryResponse")
DeltaDiscoveryRequest = message_class("envoy.service.discovery.v3.DeltaDiscoveryRequest")
DeltaDiscoveryResponse = message_class("envoy.service.discovery.v3.DeltaDiscoveryResponse")
HttpConnectionManager = message_class(
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)

KINDS: Final = {kind.url: kind for kind in RESOURCE_TYPES}


class Wire:
    """In place of a client's session: what it is asked is written by `flush`, and `read` gives what comes.

    Args:
        method: of which service; None: ADS, all types.
    """

    target = accepted = None

    def __init__(self, address: str, incremental: bool, method: str | None = None) -> None:
        self.incremental = incremental
        self.received = 0
        """Bytes."""
        self.data = b""
        """What was read last."""
        # Each client has its connection, as each Envoy has.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        self._channel = grpc.aio.insecure_channel(address, options=options)
        method = method or f"{ADS}/{'Delta' if incremental else 'Stream'}AggregatedResources"
        self.stream: Any = self._channel.stream_stream(f"/{method}")()
        self._pending: list[bytes] = []

    def on_request(self, request: Request | DeltaRequest) -> list[Response]:
        self._pending.append(encode(request))
        return []

    async def flush(self) -> None:
        pending, self._pending = self._pending, []
        for data in pending:
            await self.stream.write(data)

    async def read(self) -> Response | None:
        """None: the stream has ended."""
        data = await self.stream.read()
        if data is grpc.aio.EOF:
            return None
        self.data = data
        self.received += len(data)
        return decode(data, self.incremental)

    async def close(self) -> None:
        self.stream.cancel()
        await self._channel.close()


def encode(request: Request | DeltaRequest) -> bytes:
    message: Any
    if isinstance(request, Request):
        message = DiscoveryRequest(resource_names=request.names, version_info=request.version)
    else:
        message = DeltaDiscoveryRequest(
            resource_names_subscribe=request.subscribe,
            resource_names_unsubscribe=request.unsubscribe,
            initial_resource_versions=dict(request.initial),
        )
    message.type_url, message.response_nonce = request.type_url, request.nonce
    if request.error is not None:
        message.error_detail.message = request.error
    if request.node != Node():
        message.node.id = request.node.id
        if request.node.envoy:
            message.node.user_agent_name = "envoy"
            version = message.node.user_agent_build_version.version
            version.major_number, version.minor_number = request.node.envoy
    encoded: bytes = message.SerializeToString()
    return encoded


@functools.lru_cache(maxsize=32)  # what all clients are told is read once: Envoys have a process each
def decode(data: bytes, incremental: bool) -> Response:
    if incremental:
        message = DeltaDiscoveryResponse.FromString(data)
        kind, version = KINDS[message.type_url], message.system_version_info
        resources = [(resource.name, resource.resource.value) for resource in message.resources]
        removed = tuple(message.removed_resources)
    else:
        message = DiscoveryResponse.FromString(data)
        kind, version, removed = KINDS[message.type_url], message.version_info, ()
        resources = [(_name(kind, resource.value), resource.value) for resource in message.resources]
    made = tuple(Resource(kind, name, body, _references(kind, body)) for name, body in resources)
    return Response(kind, version, message.nonce, made, removed)


def _name(kind: ResourceType, body: bytes) -> str:
    try:
        return str(message_class(kind.message).FromString(body).name)
    except DecodeError:
        return ""  # the body of a test


def _references(kind: ResourceType, body: bytes) -> frozenset[Reference]:
    """The route configurations that a listener fetches."""
    if kind is not LISTENERS:
        return frozenset()
    try:
        chains = message_class(kind.message).FromString(body).filter_chains
    except DecodeError:
        return frozenset()
    managers = (HttpConnectionManager.FromString(one.typed_config.value) for chain in chains for one in chain.filters)
    return frozenset((ROUTES, manager.rds.route_config_name) for manager in managers if manager.HasField("rds"))
