"""A gRPC server on asyncio, for methods that answer a message with a message, and mean to do it cheaply.

The way in is `Server`. In go methods by their path, and clients' bytes; each stream becomes an `Exchange`, whose
`Step`s are sent. An exchange that fails, or that would be answered too late, is ended with status OK and without a
message: to Envoy that means "go on as if I were not here". Nothing is raised but by `Server.listen`.

What is read from all clients within a turn of the event loop is queued. Then the queue is served, for each client in
its turn. So it is known how long a message has waited, and a client that sends too much waits by itself.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import enum
import functools
import logging
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, Protocol, cast

from rejoinder.extproc import http2
from rejoinder.extproc.headers import Headers, encode
from rejoinder.rules.http import parse_address

_LOG: Final = logging.getLogger("rejoinder.extproc")

MAX_MESSAGE: Final = 4 << 20
"""Of a client, in bytes: gRPC's usual limit."""
MAX_PARTIAL: Final = 8 << 20
"""Bytes of a connection's messages that are not complete yet; at least MAX_MESSAGE, so that one alone always can be."""
MAX_WAIT: Final = 0.5
"""Seconds that a message may wait for its turn: half of the `message_timeout` of docs/ext_proc.md, after which Envoy
would let the response pass anyway."""
MAX_QUEUED: Final = 16 << 20
"""Bytes of messages that wait for an answer, each with MESSAGE_COST for what is around it: some 12,000 of Envoy's. It
is divided among the connections that have some, so one cannot fill it."""
MESSAGE_COST: Final = 1 << 10
MAX_WAITING: Final = 16 << 20
"""Bytes of answers that wait for a client's windows, and beyond which its exchanges pass."""
WRITE_BUFFER: Final = 1 << 20
"""Bytes of answers that wait for a client to read. Beyond that neither its bytes nor its messages are looked at."""
LARGE: Final = 1 << 16
"""Bytes of an answer that is written at once, and not joined with others: so that a slow client is noticed."""
READ_BUFFER: Final = 1 << 16
"""Bytes of a client that are read at once, some two hundred requests; then the others have their turn."""
TURN: Final = 16
"""Messages of a client that are answered before it is another one's turn."""
SLICE: Final = 32
"""Messages that are answered before sockets are read again. Less than what is read from one client, or messages would
wait in the kernel, where nobody knows how long."""
MAX_CONNECTIONS: Final = 1024
"""Envoy has one for each of its threads."""
KEEPALIVE: Final = 30.0
"""Seconds without a sign of life before a client is asked for one."""
KEEPALIVE_TIMEOUT: Final = 10.0
"""Seconds that it may take: the same for a client that does not read, and one that is to hang up."""
TICK: Final = 1.0
"""Seconds between two looks at all clients."""

Metadata = Headers
"""A request's headers, with the pseudo headers."""


class Step(NamedTuple):
    """What a message leads to."""

    message: bytes
    """To be sent; empty: nothing is."""
    end: bool
    """The stream is to be ended."""


class Exchange(Protocol):
    """One stream."""

    def on_message(self, data: bytes) -> Step | Awaitable[Step]:
        """What a message leads to. What takes time is awaited, and the stream's next message with it."""

    def on_end(self) -> None:
        """The client has said all, and so have we. (Not called where it has reset the stream, or gone away.)"""


Method = Callable[[Metadata], Exchange]


class Status(enum.IntEnum):
    """https://grpc.io/docs/guides/status-codes/"""

    OK = 0
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13


_HEADERS: Final = ((":status", "200"), ("content-type", "application/grpc"))
_RESPONSE: Final = encode(_HEADERS)
_OK: Final = encode((("grpc-status", "0"),))
_NOT_GRPC: Final = encode(((":status", "415"),))
_NOT_POST: Final = encode(((":status", "405"), ("allow", "POST")))
_PREFIX: Final = struct.Struct(">BL")
_ALIVE: Final = b"are you?"
_SHUT_DOWN: Final = b"goodbye!"


@functools.cache
def _trailers(status: Status, message: str, *, alone: bool) -> bytes:
    """Trailers; alone: without headers in front, so they have to be headers themselves."""
    fields = [("grpc-status", str(int(status)))] + ([("grpc-message", message)] if message else [])
    return encode((*(_HEADERS if alone else ()), *fields))


class Server:
    """A server.

    server = Server({"/package.Service/Method": method})
    port = await server.listen("127.0.0.1:18001")
    ...
    await server.stop()
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        *,
        tls: ssl.SSLContext | None = None,
        max_wait: float = MAX_WAIT,
        max_queued: int = MAX_QUEUED,
        max_connections: int = MAX_CONNECTIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        methods: by path; each makes an exchange of a stream's metadata, with its first message.
        tls: for TLS; it is made to offer `h2` by ALPN.
        max_wait, max_queued, max_connections: in place of the constants of these names.
        clock: in place of the time.
        """
        self.failures = 0
        """Exchanges that have raised something; the log has each."""
        self.overloaded = 0
        """Exchanges that were let pass because they had waited too long, or there were too many."""
        self.methods, self.max_wait, self.max_queued, self.clock = methods, max_wait, max_queued, clock
        self.connections: set[Client] = set()
        self.busy: collections.OrderedDict[Client, None] = collections.OrderedDict()
        """The connections with messages to answer, in turn."""
        self.tasks: set[asyncio.Task[None]] = set()
        self.buffer = memoryview(bytearray(READ_BUFFER))
        """For all connections: what asyncio reads into it, it hands over at once."""
        self._max_connections = max_connections
        self._tls = tls
        self._listening: asyncio.Server | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._serving = False
        self._all_closed = asyncio.Event()
        if tls is not None:
            tls.set_alpn_protocols(["h2"])

    @property
    def streams(self) -> int:
        """How many are open."""
        return sum(connection.http2.open_streams for connection in self.connections)

    async def listen(self, address: str) -> int:
        """Begin to serve.

        Args:
            address: `HOST:PORT`, IPv6 in brackets; port 0: any free one.

        Returns:
            The port.

        Raises:
            OSError: the address is in use or not this machine's; the text says which address. Choose another.
        """
        loop = asyncio.get_running_loop()
        try:
            host, port = parse_address(address)
            # Without SO_REUSEPORT: a second server on the port is an error.
            self._listening = await loop.create_server(
                lambda: Client(self), host, port, ssl=self._tls, backlog=MAX_CONNECTIONS
            )
        except (OSError, OverflowError, ValueError) as error:
            raise OSError(f"cannot listen on {address}: it is in use, or not this machine's") from error
        self._ticking = loop.call_later(TICK, self._tick_again)
        bound: int = self._listening.sockets[0].getsockname()[1]
        return bound

    async def stop(self, grace: float = 0.0) -> None:
        """Stop listening and end all connections.

        Args:
            grace: seconds that streams may take to end by themselves; no new ones are let in meanwhile.
        """
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if self._ticking is not None:
            self._ticking.cancel()
        for close, seconds in ((Client.shut_down, grace), (Client.close, 1.0), (Client.abort, 1.0)):
            self._all_closed.clear()
            for connection in list(self.connections):
                close(connection)
            with contextlib.suppress(TimeoutError):  # what is still there is closed in a harder way next
                if self.connections and seconds:
                    await asyncio.wait_for(self._all_closed.wait(), seconds)
        for task in self.tasks:
            task.cancel()

    def _tick_again(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(TICK, self._tick_again)
        self.tick()

    def tick(self) -> None:
        """Look after all connections; done every second."""
        for connection in list(self.connections):
            connection.tick(self.clock())

    def admit(self, connection: Client) -> bool:
        """A connection was made. Whether there is room for it."""
        if len(self.connections) >= self._max_connections:
            return False
        self.connections.add(connection)
        return True

    def forget(self, connection: Client) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._all_closed.set()

    def has_room(self, connection: Client) -> bool:
        """Whether one more message of a connection may wait."""
        return connection.queued * max(len(self.busy), 1) < self.max_queued

    def enqueue(self, connection: Client) -> None:
        """A connection has something to answer."""
        self.busy[connection] = None
        if not self._serving:
            self._serving = True
            asyncio.get_running_loop().call_soon(self._serve)

    def _serve(self) -> None:
        self._serving = False
        served: dict[Client, None] = {}
        left = SLICE
        while self.busy and left > 0:
            connection, _ = self.busy.popitem(last=False)
            left -= connection.serve(TURN)
            served[connection] = None
            if connection.has_work:
                self.busy[connection] = None
        for connection in served:
            connection.flush()
        for connection in self.busy:
            self.enqueue(connection)  # go on after the sockets have been read
            break


class _Call:
    """One stream."""

    __slots__ = ("exchange", "held", "metadata", "method", "partial", "responding", "stream_id", "working")

    def __init__(self, stream_id: int, method: Method, metadata: Metadata) -> None:
        self.stream_id = stream_id
        self.method = method
        self.metadata = metadata
        self.exchange: Exchange | None = None
        self.partial = bytearray()
        """The beginning of a message."""
        self.responding = False
        """The headers have been sent."""
        self.working = False
        """A step is awaited."""
        self.held: list[bytes | None] = []
        """What is to be done after that. It counts as queued."""


def _cost(message: bytes | None) -> int:
    return MESSAGE_COST + len(message or b"")


def _messages(partial: bytearray, data: bytes) -> tuple[list[bytes], tuple[Status, str] | None]:
    """The messages that some more data completes, and why the stream is to be ended then, if it is. What is left
    over is in `partial`."""
    buffer: bytes | bytearray = data
    if partial:
        partial += data
        buffer = partial
    messages: list[bytes] = []
    refused: tuple[Status, str] | None = None
    position, end = 0, len(buffer)
    while end - position >= _PREFIX.size:
        compressed, size = _PREFIX.unpack_from(buffer, position)
        if compressed:
            refused = Status.UNIMPLEMENTED, "messages may not be compressed"
        elif size > MAX_MESSAGE:
            refused = Status.RESOURCE_EXHAUSTED, "the message is too large"
        start = position + _PREFIX.size
        if refused is not None or start + size > end:
            break
        position = start + size
        messages.append(bytes(buffer[start:position]))
    if buffer is partial:
        del partial[:position]
    elif position < end:
        partial += data[position:]
    return messages, refused


class Client(asyncio.BufferedProtocol):
    """One client's connection. Made by `Server`."""

    def __init__(self, server: Server) -> None:
        self.http2 = http2.Connection()
        self.queued = 0
        """The cost of what is in the queue, or held by a call."""
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._calls: dict[int, _Call] = {}
        self._queue: collections.deque[tuple[float, _Call, bytes | None]] = collections.deque()
        """When it came, whose it is, and a message; None: the end."""
        self._partial = 0
        self._paused = False
        self._heard = self._unread_since = server.clock()
        self._pinged = False
        self._drained = False

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if (tls is not None and tls.selected_alpn_protocol() != "h2") or not self._server.admit(self):
            transport.abort()
            return
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self.flush()

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._heard = now = self._server.clock()
        for event in self.http2.receive_data(bytes(self._server.buffer[:nbytes])):
            if isinstance(event, http2.Request):
                self._on_request(event, now)
            elif isinstance(event, http2.Data):
                self._on_data(event, now)
            elif isinstance(event, http2.Reset):
                self._forget(event.stream_id)
            elif event.data == _SHUT_DOWN:
                self._drained = True  # it has heard that it is to open no more streams
        self.flush()

    def pause_writing(self) -> None:
        self._paused, self._unread_since = True, self._server.clock()
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            if self._queue:
                self._server.enqueue(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._transport = None
        self._drop()
        self._server.forget(self)

    # What the server calls.

    @property
    def has_work(self) -> bool:
        return bool(self._queue) and not self._paused

    def serve(self, turn: int) -> int:
        """Answer some messages; how many it were."""
        done = 0
        while self._queue and done < turn and not self._paused:
            arrived, call, message = self._queue.popleft()
            done += 1
            if call.working and self._calls.get(call.stream_id) is call:
                call.held.append(message)
                continue
            self.queued -= _cost(message)
            if self._calls.get(call.stream_id) is not call:
                continue  # it has been reset
            if message is not None and (
                self._server.clock() - arrived > self._server.max_wait or self.http2.waiting > MAX_WAITING
            ):
                self._server.overloaded += 1
                self._finish(call, Status.OK)
            else:
                self._answer(call, message)
        return done

    def flush(self) -> None:
        """Write what is to be written."""
        if self._transport is None or self._transport.is_closing():
            return
        data = self.http2.data_to_send()
        if data:
            self._transport.write(data)
        if self._drained and not self.http2.open_streams:
            self.close()
        elif self.http2.closed:
            if self.http2.error:
                _LOG.warning("a client's connection is broken off: %s", self.http2.error)
            self._hang_up()

    def shut_down(self) -> None:
        """Let no new streams in, and hang up when there are none any more."""
        self.http2.shut_down()
        self.http2.ping(_SHUT_DOWN)
        self.flush()

    def close(self) -> None:
        """End all streams, and hang up when what was said is written."""
        if self._transport is not None and not self.http2.closed:
            self.http2.close()
            self._drained = False
            self.flush()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def tick(self, now: float) -> None:
        self.http2.forgive()
        silent = now - self._heard
        unread = now - self._unread_since if self._paused or self.http2.closed else 0
        if unread > KEEPALIVE_TIMEOUT or silent > KEEPALIVE + KEEPALIVE_TIMEOUT:
            self.abort()
        elif silent > KEEPALIVE and not self._pinged:
            self.http2.ping(_ALIVE)
            self.flush()
        self._pinged = silent > KEEPALIVE

    def _hang_up(self) -> None:
        self._unread_since = self._server.clock()
        self._drop()
        if self._transport is not None:
            self._transport.close()

    def _drop(self) -> None:
        for stream_id in list(self._calls):
            self._forget(stream_id)
        self._queue.clear()
        self.queued = 0

    # What comes in.

    def _on_request(self, event: http2.Request, now: float) -> None:
        stream_id, headers, end_stream = event
        fields = dict(headers)
        method = self._server.methods.get(fields[":path"])
        if fields[":method"] != "POST":
            self.http2.send_trailers(stream_id, _NOT_POST)
        elif not fields.get("content-type", "").startswith("application/grpc"):
            self.http2.send_trailers(stream_id, _NOT_GRPC)
        elif method is None:
            self.http2.send_trailers(stream_id, _trailers(Status.UNIMPLEMENTED, "no such method", alone=True))
        else:
            self._calls[stream_id] = call = _Call(stream_id, method, headers)
            if end_stream:
                self._enqueue(call, None, now)

    def _on_data(self, event: http2.Data, now: float) -> None:
        stream_id, data, end_stream = event
        call = self._calls.get(stream_id)
        if call is None:
            return
        self._partial -= len(call.partial)
        messages, refused = _messages(call.partial, data)
        self._partial += len(call.partial)
        for message in messages:
            self._enqueue(call, message, now)
        if refused is not None:
            self._finish(call, *refused)
        elif self._partial > MAX_PARTIAL:
            self._finish(call, Status.RESOURCE_EXHAUSTED, "too many messages at once")
        elif end_stream and call.partial:
            self._finish(call, Status.INTERNAL, "the last message is not complete")
        elif end_stream:
            self._enqueue(call, None, now)

    def _enqueue(self, call: _Call, message: bytes | None, now: float) -> None:
        if self._server.has_room(self):
            if not self._queue:
                self._server.enqueue(self)
            self._queue.append((now, call, message))
            self.queued += _cost(message)
        elif self._calls.get(call.stream_id) is call:
            self._server.overloaded += 1
            self._finish(call, Status.OK)

    # What goes out.

    def _answer(self, call: _Call, message: bytes | None) -> None:
        try:
            if call.exchange is None:
                call.exchange = call.method(call.metadata)
            if message is None:
                call.exchange.on_end()
                self._finish(call, Status.OK)
                return
            step = call.exchange.on_message(message)
            if isinstance(step, Step):
                self._send(call, step)
                return
        except Exception:
            self._fail(call)
            return
        call.working = True
        task = asyncio.get_running_loop().create_task(self._awaited(call, step))
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    async def _awaited(self, call: _Call, coming: Awaitable[Step]) -> None:
        try:
            self._send(call, await coming)
        except Exception:
            self._fail(call)
        call.working = False
        for message in self._release(call):
            self._enqueue(call, message, self._server.clock())
        self.flush()

    def _fail(self, call: _Call) -> None:
        self._server.failures += 1
        _LOG.exception("an exchange passes untouched, because this went wrong")
        self._finish(call, Status.OK)

    def _send(self, call: _Call, step: Step) -> None:
        message, end = step
        data = _PREFIX.pack(0, len(message)) + message if message else b""
        if data and end and not call.responding:
            self.http2.respond(call.stream_id, _RESPONSE, data, _OK)
            self._forget(call.stream_id)
        else:
            if data:
                if not call.responding:
                    call.responding = True
                    self.http2.send_headers(call.stream_id, _RESPONSE)
                self.http2.send_data(call.stream_id, data)
            if end:
                self._finish(call, Status.OK)
        if len(data) > LARGE:
            self.flush()

    def _finish(self, call: _Call, status: Status, message: str = "") -> None:
        self.http2.send_trailers(call.stream_id, _trailers(status, message, alone=not call.responding))
        self._forget(call.stream_id)

    def _forget(self, stream_id: int) -> None:
        call = self._calls.pop(stream_id, None)
        if call is not None:
            self._partial -= len(call.partial)
            self._release(call)

    def _release(self, call: _Call) -> list[bytes | None]:
        held, call.held = call.held, []
        self.queued -= sum(map(_cost, held))
        return held
