"""The control plane: an xDS server that keeps every connected Envoy at the snapshot that was last published.

In: snapshots (`Server.publish`). Out: bytes to the Envoys, and `events` for the listener, among them what Envoys have
counted. `session` decides everything about one client, `standing` what concerns the clients together; this file is the
loop around them.

One event loop, one task for each client. A client that does not read holds up its own task only, and gets the newest
snapshot when it reads again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from rejoinder.transport import tls, unix
from rejoinder.transport.standard import Standard
from rejoinder.xds.counts import SERVICE, decode
from rejoinder.xds.delta import DeltaRequest, Incremental
from rejoinder.xds.events import Accepted, ClientStatus, Connected, Disconnected, Event, Nack, Status, Unable, merged
from rejoinder.xds.listening import handlers, listen
from rejoinder.xds.session import Output, Session
from rejoinder.xds.snapshot import CLUSTERS, EXTENSIONS, LISTENERS, ROUTES, ResourceType, Snapshot
from rejoinder.xds.sotw import Request, StateOfTheWorld
from rejoinder.xds.standing import Standing
from rejoinder.xds.stream import Response
from rejoinder.xds.translate.settings import MAX_REQUEST, named_again
from rejoinder.xds.wire import (
    MAX_NAMES,
    TooManyNamesError,
    decode_delta_request,
    decode_request,
    encode_delta_response,
    encode_response,
)

ADS: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"

_SERVICES: Final[tuple[tuple[str, str, ResourceType | None], ...]] = (
    (ADS, "AggregatedResources", None),
    ("envoy.service.cluster.v3.ClusterDiscoveryService", "Clusters", CLUSTERS),
    ("envoy.service.listener.v3.ListenerDiscoveryService", "Listeners", LISTENERS),
    ("envoy.service.route.v3.RouteDiscoveryService", "Routes", ROUTES),
    ("envoy.service.extension.v3.ExtensionConfigDiscoveryService", "ExtensionConfigs", EXTENSIONS),
)
"""The discovery services with the names in their methods (`StreamClusters`, `DeltaClusters`), and their only type."""

MAX_CONNECTIONS: Final = 4_096
"""An Envoy has one connection, or one for each type and one for its counters. A thousand Envoys are a large fleet. Each
connection takes 15 kB. Further ones are closed."""

MAX_STREAMS: Final = 8_192
"""Of all connections together; each stream takes 20 kB, besides what the client asks for."""

MAX_ALL_NAMES: Final = 1_000_000
"""On all streams together; each name takes about a hundred bytes. An Envoy names some dozen resources: it asks for all
virtual hosts at once, without their names."""

SILENT_SECONDS: Final = 10.0
"""How long a new connection may take to speak HTTP/2, and a new stream to send its first request: both take memory
until then."""

UNREAD_SECONDS: Final = 60.0
"""How long a client may take to read a response, which is kept for it meanwhile. With 20 MB this is 3 Mbit/s."""

_OPTIONS: Final = (
    # A second server on the port is an error. By default the kernel would distribute the connections over both.
    ("grpc.so_reuseport", 0),
    # A route configuration can have any size; gRPC's limit is 4 MB.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", MAX_REQUEST),
    # An Envoy has one stream for ADS, or one for each type, and one for its counters; for more, it opens another
    # connection. Each stream may hold a request that is not complete yet.
    ("grpc.max_concurrent_streams", len(_SERVICES)),
    # For streams that wait for their turn, gRPC keeps what they send: at most 64 kB, however fast a client sends.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
    # Connections without a complete handshake of TLS or HTTP/2: gRPC would keep them for 2 minutes.
    ("grpc.server_handshake_timeout_ms", int(SILENT_SECONDS * 1000)),
    # Connections without a stream.
    ("grpc.max_connection_idle_ms", 60_000),
    # Streams live for weeks and are silent most of the time. Pings find clients that have vanished, which then leave
    # the list. Clients may ping every 10 s; by default, gRPC takes more than one ping in 5 minutes for an attack.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)


_LOG: Final = logging.getLogger("rejoinder.xds")
_TOO_LARGE: Final = "an Envoy that connects again is not let in: its names of %s take more than %d bytes"


class InconsistentSnapshotError(ValueError):
    """A snapshot is inconsistent, and was not sent. The mistake is in the code that made it, not in a rule file."""


class _Variant(NamedTuple):
    """A variant of the protocol."""

    session: type[StateOfTheWorld] | type[Incremental]
    decode: Callable[[bytes], Any]
    """Decodes the session's requests; see `wire` for what it raises."""
    encode: Callable[[Response], bytes]
    messages: str
    """The prefix of its messages' names."""


_VARIANTS: Final = {
    "Stream": _Variant(StateOfTheWorld, decode_request, encode_response, "envoy.service.discovery.v3.Discovery"),
    "Delta": _Variant(
        Incremental, decode_delta_request, encode_delta_response, "envoy.service.discovery.v3.DeltaDiscovery"
    ),
}
"""By the prefix of the names of its methods."""


class _EndError(Exception):
    """A client's stream must be ended: with a `grpc.StatusCode`, and a text that says why."""


@dataclass(eq=False, slots=True)
class _Client:
    peer: str
    session: StateOfTheWorld | Incremental
    nack: Nack | None = None
    unable: str = ""
    names: int = 0
    """How many names it asks for."""

    def status(self) -> ClientStatus:
        it = self.session
        versions = _version(it.accepted), _version(it.target)
        return ClientStatus(it.node, self.peer, *versions, self.nack, it.forms.envoy, self.unable)


class Server:
    """The discovery services, for one event loop.

    server = Server(on_event=print)
    port = await server.start("127.0.0.1:18000")
    server.publish(snapshot)
    ...
    await server.stop()
    """

    def __init__(self, on_event: Callable[[Event], None] = lambda _: None) -> None:
        """Args: on_event: is told what happens to clients, in the event loop; it must neither block nor raise."""
        self._on_event = on_event
        self._standing = Standing()
        self._nack: Nack | None = None
        self._clients: set[_Client] = set()
        self._names = 0
        """The number of names that all clients ask for."""
        self._changed = asyncio.Event()
        """Set, and replaced by a new one, when there is another snapshot."""
        self._standard = Standard(
            {
                service: {
                    f"{prefix}{named}": (f"{variant.messages}Request", f"{variant.messages}Response")
                    for prefix, variant in _VARIANTS.items()
                }
                for service, named, _ in _SERVICES
            }
        )
        self._grpc: Any = None

    async def start(self, address: str, files: tls.Files | None = None, mode: int = unix.MODE) -> int:
        """Listen. Args, Returns, Raises: as for `listen`."""
        server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=MAX_STREAMS)
        services: dict[str, dict[str, Any]] = {
            service: {f"{prefix}{named}": self._handler(variant, only) for prefix, variant in _VARIANTS.items()}
            for service, named, only in _SERVICES
        }
        services[SERVICE] = {"Export": grpc.unary_unary_rpc_method_handler(self._take_counts)}
        services |= handlers(self._standard)
        server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(*service) for service in services.items())
        )
        port = listen(server, address, files, mode)
        await server.start()
        self._grpc = server
        return port

    async def stop(self) -> None:
        """End all streams and stop listening. Envoys keep what they have, and connect again and again."""
        if self._grpc is not None:
            await self._grpc.stop(grace=None)
            self._grpc = None

    def publish(self, snapshot: Snapshot) -> None:
        """Bring all clients, now and in the future, to a snapshot. Returns at once; events report the progress.

        A snapshot with the same content as a rejected one is tried once more: publishing it again is on purpose.

        Raises:
            InconsistentSnapshotError: it does not pass its `check`. Clients stay with the previous one.
        """
        if problems := snapshot.check():
            raise InconsistentSnapshotError("; ".join(problems))
        for kind, resources in (snapshot.split or snapshot).by_type.items():
            if named_again(resources) > MAX_REQUEST:
                _LOG.warning(_TOO_LARGE, kind.name, MAX_REQUEST)
        self._standing.publish(snapshot)
        self._changed.set()
        self._changed = asyncio.Event()
        self._standard.serve()

    def status(self) -> Status:
        """May be called by any thread."""

        def who(status: ClientStatus) -> tuple[str, str]:
            return status.node, status.peer

        streams = sorted((client.status() for client in tuple(self._clients)), key=who)
        clients = tuple(merged(group) for _, group in itertools.groupby(streams, who))
        return Status(_version(self._standing.offered(None)), clients, self._nack)

    def _handler(self, variant: _Variant, only: ResourceType | None) -> Any:
        async def serve(_: object, context: Any) -> None:
            def client() -> _Client:
                session = variant.session(self._standing.offered(only), only, self._standing.proven)
                return _Client(context.peer(), session)

            try:
                return await self._serve(client(), variant.decode, context)
            except _EndError as error:
                end = error.args
            # gRPC keeps this exception for ever, with all local variables of its frames: so none of them is the client.
            await context.abort(*end)

        return grpc.stream_stream_rpc_method_handler(serve, response_serializer=variant.encode)

    async def _serve(self, client: _Client, decode: Callable[[bytes], Any], context: Any) -> None:
        """One client's stream, from its beginning to its end."""
        reading = asyncio.ensure_future(context.read())
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            if not (await asyncio.wait({reading}, timeout=SILENT_SECONDS))[0]:
                raise _EndError(grpc.StatusCode.DEADLINE_EXCEEDED, "nothing has been asked for")
            while True:
                await asyncio.wait({reading, changed}, return_when=asyncio.FIRST_COMPLETED)
                outputs = []
                if changed.done():
                    changed = asyncio.ensure_future(self._changed.wait())
                    assert self._standing.snapshot is not None
                    outputs += client.session.on_snapshot(self._standing.snapshot)
                if reading.done():
                    data = reading.result()
                    if data is grpc.aio.EOF:
                        return
                    request = _read(decode, data, client.session)
                    outputs += client.session.on_request(request)
                    if self._asks_too_much(client, request):
                        raise _EndError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many names")
                    reading = asyncio.ensure_future(context.read())
                    if client not in self._clients:
                        self._clients.add(client)
                        self._standing.came(client.session)
                        self._on_event(Connected(client.session.node, client.peer, client.session.forms.envoy))
                await self._give(client, outputs, context)
        except grpc.aio.InternalError:
            # The client has left while it was written to. Where gRPC sees that first, it cancels this task.
            raise asyncio.CancelledError from None
        finally:
            reading.cancel()
            changed.cancel()
            self._names -= client.names
            if client in self._clients:
                self._clients.remove(client)
                self._standing.left(client.session, self._sessions())
                self._on_event(Disconnected(client.session.node, client.peer))

    async def _give(self, client: _Client, outputs: Sequence[Output], context: Any) -> None:
        for output in outputs:
            if not isinstance(output, Response):
                self._learn(client, output)
                continue
            try:
                async with asyncio.timeout(UNREAD_SECONDS):
                    await context.write(output)
            except TimeoutError:
                raise _EndError(grpc.StatusCode.DEADLINE_EXCEEDED, "a response has not been read") from None

    def _asks_too_much(self, client: _Client, request: Request | DeltaRequest) -> bool:
        """Whether a stream's requests together have more names than one request may have, or all clients too many."""
        if isinstance(request, Request):
            changes = bool(request.names or client.names)
        else:
            changes = bool(request.subscribe or request.unsubscribe)
        if not changes:
            return False
        lengths = [len(name) for name in client.session.names()]
        self._names += len(lengths) - client.names
        client.names = len(lengths)
        return self._names > MAX_ALL_NAMES or len(lengths) > MAX_NAMES or sum(lengths) > MAX_REQUEST

    async def _take_counts(self, data: bytes, context: Any) -> bytes:
        try:
            counted = decode(data)
        except DecodeError:
            counted = None
        if counted is None:  # not in the `except`: gRPC would keep that exception for a while, with the report
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "these are no OTLP metrics, or too many")
        elif counted.answers or counted.handler_failures:
            self._on_event(counted)
        return b""

    def _learn(self, client: _Client, news: Accepted | Nack | Unable) -> None:
        match news:
            case Accepted(snapshot=snapshot):
                self._standing.accepted(client.session, snapshot)
                if snapshot is self._standing.snapshot:
                    client.nack = None
            case Unable(message=message):
                client.unable = message
            case Nack(type=kind, snapshot=snapshot):
                self._nack = news
                if not (client.nack and client.nack.snapshot is self._standing.snapshot):  # but what it got instead
                    client.nack = news
                self._standing.rejected(kind, snapshot, self._sessions())
        self._on_event(replace(news, peer=client.peer))

    def _sessions(self) -> Iterator[Session]:
        return (client.session for client in self._clients)


def _read(decode: Callable[[bytes], Any], data: bytes, session: Session) -> Any:
    """A request; anything else ends this stream, and no other."""
    try:
        request = decode(data)
    except DecodeError:
        raise _EndError(grpc.StatusCode.INVALID_ARGUMENT, "this is no discovery request") from None
    except TooManyNamesError as error:
        raise _EndError(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)) from None
    if session.only is None and not request.type_url:
        # https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol: "it is required for ADS".
        raise _EndError(grpc.StatusCode.INVALID_ARGUMENT, "a request on ADS must have a type_url")
    return request


def _version(snapshot: Snapshot | None) -> str:
    return snapshot.version if snapshot is not None else ""
