"""One client's connection to the gRPC server: its streams, and its messages in a queue until `grpc.Server` serves them.

In: its bytes, from asyncio, and turns, from the server. Out: bytes. Nothing is raised.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import ssl
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from rejoinder.extproc import http2
from rejoinder.extproc.exchange import Exchange, Method, Next, Step
from rejoinder.extproc.grpc_wire import OK, RESPONSE, Status, framed, refusal, take_messages, trailers

if TYPE_CHECKING:
    from rejoinder.extproc.grpc import Server

_LOG: Final = logging.getLogger("rejoinder.extproc")

MAX_PARTIAL: Final = 8 << 20
"""Bytes of a connection's incomplete messages; at least MAX_MESSAGE, so that one message always has room."""
MESSAGE_COST: Final = 1 << 10
"""Bytes that a message counts for besides its own size."""
MAX_WAITING: Final = 16 << 20
"""Bytes of answers that wait for a client's windows; beyond it, its exchanges pass."""
WRITE_BUFFER: Final = 1 << 20
"""Bytes of answers that a client has not read. Beyond it, its bytes are not read, and its messages not answered."""
LARGE: Final = 1 << 16
"""Bytes of an answer that is written at once, not joined with others, so that a slow client is noticed."""
KEEPALIVE: Final = 30.0
"""Seconds of silence after which a client gets a ping."""
KEEPALIVE_TIMEOUT: Final = 10.0
"""Seconds that it may take to answer, or to read, or to close a connection that is ending."""

_ALIVE: Final = b"are you?"
_SHUT_DOWN: Final = b"goodbye!"


@dataclass(slots=True, eq=False)
class _Call:
    """One stream."""

    stream_id: int
    method: Method
    exchange: Exchange | None = None
    told: int = 0
    """Bytes of the messages that the exchange has received: it may keep their content."""
    arrived: float = 0.0
    """When the message came that is being answered."""
    partial: bytearray = field(default_factory=bytearray)
    """The beginning of a message."""
    responding: bool = False
    """The headers have been sent."""
    working: bool = False
    """A step is being awaited."""
    then: asyncio.Task[None] | None = None
    """The task that awaits it, if it is useless without the client."""
    held: list[bytes | None] = field(default_factory=list)
    """Messages that came meanwhile. They still count as queued."""

    def on_message(self, message: bytes) -> Step | Awaitable[Next]:
        self.told += len(message)
        self.exchange = self.exchange or self.method()
        return self.exchange(message)

    def release(self) -> list[bytes | None]:
        """Take the held messages, so that none are left."""
        held, self.held = self.held, []
        return held


def _cost(message: bytes | None) -> int:
    return MESSAGE_COST + len(message or b"")


class Client(asyncio.BufferedProtocol):
    """One client's connection. Made by `Server`."""

    def __init__(self, server: Server) -> None:
        self.http2 = http2.Connection()
        self.queued = 0
        """The cost of the messages in the queue, or held by a call."""
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._calls: dict[int, _Call] = {}
        self._queue: collections.deque[tuple[float, _Call, bytes | None]] = collections.deque()
        """The time of arrival, the call, and a message; None: the end."""
        self._partial = self._told = 0
        self.kept = 0
        """Approximate memory of this connection, except queued messages, as of the last `flush`."""
        self._paused = self._drained = self._asked = False
        self._heard = self._unread_since = server.clock()
        """The last sign of life, and since when the client has something to read."""

    # Called by asyncio.

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
        self._heard, self._asked = self._server.clock(), False
        for event in self.http2.receive_data(bytes(self._server.buffer[:nbytes])):
            if isinstance(event, http2.Request):
                self._on_request(event)
            elif isinstance(event, http2.Data):
                self._on_data(event)
            elif isinstance(event, http2.Reset):
                self._forget(event.stream_id)
            elif event.data == _SHUT_DOWN:
                self._drained = True  # the client knows that it must not open more streams
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

    # Called by the server.

    def serve(self, turn: int) -> int:
        """Answer at most `turn` messages; returns how many."""
        done = 0
        while self._queue and done < turn and not self._paused:
            arrived, call, message = self._queue.popleft()
            done += 1
            if call.working and self._calls.get(call.stream_id) is call:
                call.held.append(message)
                continue
            self.queued -= _cost(message)
            if self._calls.get(call.stream_id) is not call:
                continue  # the stream has been reset
            late = self._server.clock() - arrived > self._server.max_wait or self.http2.waiting > MAX_WAITING
            if message is None or late:
                self._server.overloaded += message is not None
                self._finish(call, Status.OK)
            else:
                call.arrived = arrived
                self._answer(call, message)
        if self._queue and not self._paused:
            self._server.busy[self] = None
        return done

    def flush(self) -> None:
        """Write the pending bytes."""
        if self._transport is None or self._transport.is_closing():
            return
        if data := self.http2.data_to_send():
            self._transport.write(data)
        if self.http2.closed:
            if self.http2.error:
                _LOG.warning("a client's connection is broken off: %s", self.http2.error)
            self._unread_since = self._server.clock()
            self._drop()
            self._transport.close()
        elif self._drained and not self.http2.open_streams:
            self.close()
        else:
            streams, unread = self.http2.open_streams * MESSAGE_COST, self._transport.get_write_buffer_size()
            self._server.keep(self, streams + self._partial + self._told + self.http2.waiting + unread)

    def shut_down(self) -> None:
        """Let no new streams in, and close the connection when the last one has ended."""
        self.http2.shut_down()
        self.http2.ping(_SHUT_DOWN)
        self.flush()

    def close(self) -> None:
        """End all streams, and close the connection when everything is written."""
        if self._transport is not None and not self.http2.closed:
            self.http2.close()
            self.flush()

    def abort(self) -> None:
        self._drop()
        self.http2.close()
        if self._transport is not None:
            self._transport.abort()

    def tick(self, now: float) -> None:
        self.http2.forgive()
        silent = now - self._heard
        unread = now - self._unread_since if self._paused or self.http2.closed else 0.0
        if silent > KEEPALIVE + KEEPALIVE_TIMEOUT or unread > KEEPALIVE_TIMEOUT:
            self.abort()
        elif silent > KEEPALIVE and not self._asked:
            self._asked = True  # by a ping
            self.http2.ping(_ALIVE)
            self.flush()

    def _drop(self) -> None:
        for stream_id in list(self._calls):
            self._forget(stream_id)
        self._queue.clear()
        self.queued = 0

    # Received messages.

    def _on_request(self, event: http2.Request) -> None:
        stream_id, headers, end_stream = event
        fields, methods = dict(headers), self._server.methods
        if (refused := refusal(fields, methods)) is not None:
            self.http2.send_trailers(stream_id, refused)
            return
        self._calls[stream_id] = call = _Call(stream_id, methods[fields[":path"]])
        if end_stream:
            self._enqueue(call, None, self._heard)

    def _on_data(self, event: http2.Data) -> None:
        if (call := self._calls.get(event.stream_id)) is None:
            return
        self._partial -= len(call.partial)
        messages, refused = take_messages(call.partial, event.data)
        self._partial += len(call.partial)
        for message in messages:
            self._enqueue(call, message, self._heard)
        if refused is not None:
            self._finish(call, *refused)
        elif self._partial > MAX_PARTIAL:
            self._finish(call, Status.RESOURCE_EXHAUSTED, "too many messages at once")
        elif event.end_stream and call.partial:
            self._finish(call, Status.INTERNAL, "the last message is not complete")
        elif event.end_stream:
            self._enqueue(call, None, self._heard)

    def _enqueue(self, call: _Call, message: bytes | None, now: float) -> None:
        if self._server.has_room(self):
            self._server.enqueue(self)
            self._queue.append((now, call, message))
            self.queued += _cost(message)
        elif self._calls.get(call.stream_id) is call:
            self._server.overloaded += 1
            self._finish(call, Status.OK)

    # Answers.

    def _answer(self, call: _Call, message: bytes) -> None:
        self._told += len(message)
        try:
            step = call.on_message(message)
            if isinstance(step, Step) and step.then is None:
                self._send(call, step)
                return
        except Exception:
            self._fail(call)
            return
        call.working = True
        task = self._server.spawn(self._awaited(call, step))
        call.then = task if isinstance(step, Step) else None

    async def _awaited(self, call: _Call, coming: Step | Awaitable[Next]) -> None:
        try:
            step = coming if isinstance(coming, Step) else Step(b"", False, then=lambda: coming)
            self._send(call, step)
            while step.then is not None:
                self.flush()
                following = await step.then()
                if self.http2.waiting > MAX_WAITING:
                    self._server.overloaded += 1
                    self._finish(call, Status.OK)
                    break
                step = following()
                self._send(call, step)
        except Exception:
            self._fail(call)
        call.working, held = False, call.release()
        self.queued -= sum(map(_cost, held))
        for message in held:
            self._enqueue(call, message, self._server.clock())
        self.flush()

    def _fail(self, call: _Call) -> None:
        self._server.failures += 1
        _LOG.exception("an exchange passes untouched, because this went wrong")
        self._finish(call, Status.OK)

    def _send(self, call: _Call, step: Step) -> None:
        data = framed(step.message)
        if data or step.end:
            self._server.note(call.arrived)
        if data and step.end and not call.responding:
            self.http2.respond(call.stream_id, RESPONSE, data, OK)
            self._forget(call.stream_id)
        else:
            if data:
                if not call.responding:
                    call.responding = True
                    self.http2.send_headers(call.stream_id, RESPONSE)
                self.http2.send_data(call.stream_id, data)
            if step.end:
                self._finish(call, step.status)
        if len(data) > LARGE:
            self.flush()

    def _finish(self, call: _Call, status: Status, message: str = "") -> None:
        self.http2.send_trailers(call.stream_id, trailers(status, message, alone=not call.responding))
        self._forget(call.stream_id)

    def _forget(self, stream_id: int) -> None:
        if (call := self._calls.pop(stream_id, None)) is not None:
            self._partial -= len(call.partial)
            self._told -= call.told
            self.queued -= sum(map(_cost, call.release()))
            if call.then is not None:
                call.then.cancel()
