"""One client's connection to the gRPC server: its streams, and its messages in a queue until `grpc.Server` serves them.

In go its bytes, by asyncio, and turns, by the server; out come bytes. Nothing is raised.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import logging
import ssl
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final, cast

from rejoinder.extproc import http2
from rejoinder.extproc.exchange import Exchange, Metadata, Method, Step
from rejoinder.extproc.grpc_wire import OK, RESPONSE, Status, framed, refusal, take_messages, trailers

if TYPE_CHECKING:
    from rejoinder.extproc.grpc import Server

_LOG: Final = logging.getLogger("rejoinder.extproc")

MAX_PARTIAL: Final = 8 << 20
"""Bytes of a connection's messages that are not complete yet; at least MAX_MESSAGE, so that one alone always can be."""
MESSAGE_COST: Final = 1 << 10
"""In bytes: as how much a message counts beside its own size."""
MAX_WAITING: Final = 16 << 20
"""Bytes of answers that wait for a client's windows, and beyond which its exchanges pass."""
WRITE_BUFFER: Final = 1 << 20
"""Bytes of answers that wait for a client to read. Beyond that neither its bytes nor its messages are looked at."""
LARGE: Final = 1 << 16
"""Bytes of an answer that is written at once, and not joined with others: so that a slow client is noticed."""
KEEPALIVE: Final = 30.0
"""Seconds without a sign of life before a client is asked for one."""
KEEPALIVE_TIMEOUT: Final = 10.0
"""Seconds that it may take: the same for a client that does not read, and one that is to hang up."""

_ALIVE: Final = b"are you?"
_SHUT_DOWN: Final = b"goodbye!"


class _Call:
    """One stream."""

    __slots__ = (
        "arrived",
        "exchange",
        "held",
        "metadata",
        "method",
        "partial",
        "responding",
        "stream_id",
        "then",
        "told",
        "working",
    )

    def __init__(self, stream_id: int, method: Method, metadata: Metadata) -> None:
        self.stream_id = stream_id
        self.method = method
        self.metadata = metadata
        self.exchange: Exchange | None = None
        self.arrived = 0.0
        """When the message came that is answered."""
        self.partial = bytearray()
        """The beginning of a message."""
        self.responding = False
        """The headers have been sent."""
        self.working = False
        """A step is awaited."""
        self.then: asyncio.Task[None] | None = None
        """What awaits it, if it is of no use without the client."""
        self.held: list[bytes | None] = []
        """Messages that came meanwhile. They count as queued."""
        self.told = sum(map(len, itertools.chain.from_iterable(metadata)))
        """Bytes of the metadata, and of the messages that the exchange has had: it may keep what they say."""

    def tell(self, message: bytes | None) -> int:
        size = len(message or b"")
        self.told += size
        return size

    def step(self, message: bytes | None) -> Step | Awaitable[Step] | None:
        """What a message leads to; None: nothing, it was the end."""
        if self.exchange is None:
            self.exchange = self.method(self.metadata)
        if message is not None:
            return self.exchange.on_message(message)
        self.exchange.on_end()
        return None

    def release(self) -> list[bytes | None]:
        """The messages that were held; none are any more."""
        held, self.held = self.held, []
        return held

    def cancel(self) -> None:
        if self.then is not None:
            self.then.cancel()


class _Life:
    """The signs of life of a client."""

    __slots__ = ("asked", "heard", "unread_since")

    def __init__(self, now: float) -> None:
        self.heard = self.unread_since = now
        self.asked = False

    def is_over(self, now: float, *, unread: bool) -> bool:
        """Args: unread: there is something that it should read, since `unread_since`."""
        silent = now - self.heard > KEEPALIVE + KEEPALIVE_TIMEOUT
        return silent or (unread and now - self.unread_since > KEEPALIVE_TIMEOUT)

    def is_to_be_asked(self, now: float) -> bool:
        """Whether it has been silent for so long; once."""
        before, self.asked = self.asked, now - self.heard > KEEPALIVE
        return self.asked and not before


def _cost(message: bytes | None) -> int:
    return MESSAGE_COST + len(message or b"")


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
        self._told = 0
        self.kept = 0
        """About how much memory this connection takes, but for what is queued, as of the last `flush`."""
        self._paused = self._drained = False
        self._life = _Life(server.clock())

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
        self._life.heard = now = self._server.clock()
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
        self._paused, self._life.unread_since = True, self._server.clock()
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

    @property
    def has_work(self) -> bool:
        return bool(self._queue) and not self._paused

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
                continue  # it has been reset
            late = self._server.clock() - arrived > self._server.max_wait
            if message is not None and (late or self.http2.waiting > MAX_WAITING):
                self._server.overloaded += 1
                self._finish(call, Status.OK)
            else:
                call.arrived = arrived
                self._answer(call, message)
        return done

    def flush(self) -> None:
        """Write what is to be written."""
        if self._transport is None or self._transport.is_closing():
            return
        if data := self.http2.data_to_send():
            self._transport.write(data)
        if self._drained and not self.http2.open_streams:
            self.close()
        elif self.http2.closed:
            if self.http2.error:
                _LOG.warning("a client's connection is broken off: %s", self.http2.error)
            self._life.unread_since = self._server.clock()
            self._drop()
            self._transport.close()
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
            self._drained = False
            self.flush()

    def abort(self) -> None:
        self._drop()
        self.http2.close()
        if self._transport is not None:
            self._transport.abort()

    def tick(self, now: float) -> None:
        self.http2.forgive()
        if self._life.is_over(now, unread=self._paused or self.http2.closed):
            self.abort()
        elif self._life.is_to_be_asked(now):
            self.http2.ping(_ALIVE)
            self.flush()

    def _drop(self) -> None:
        for stream_id in list(self._calls):
            self._forget(stream_id)
        self._queue.clear()
        self.queued = 0

    # What comes in.

    def _on_request(self, event: http2.Request, now: float) -> None:
        stream_id, headers, end_stream = event
        fields, methods = dict(headers), self._server.methods
        if (refused := refusal(fields, methods)) is not None:
            self.http2.send_trailers(stream_id, refused)
            return
        self._calls[stream_id] = call = _Call(stream_id, methods[fields[":path"]], headers)
        self._told += call.told
        if end_stream:
            self._enqueue(call, None, now)

    def _on_data(self, event: http2.Data, now: float) -> None:
        if (call := self._calls.get(event.stream_id)) is None:
            return
        self._partial -= len(call.partial)
        messages, refused = take_messages(call.partial, event.data)
        self._partial += len(call.partial)
        for message in messages:
            self._enqueue(call, message, now)
        if refused is not None:
            self._finish(call, *refused)
        elif self._partial > MAX_PARTIAL:
            self._finish(call, Status.RESOURCE_EXHAUSTED, "too many messages at once")
        elif event.end_stream and call.partial:
            self._finish(call, Status.INTERNAL, "the last message is not complete")
        elif event.end_stream:
            self._enqueue(call, None, now)

    def _enqueue(self, call: _Call, message: bytes | None, now: float) -> None:
        if self._server.has_room(self):
            self._server.enqueue(self)
            self._queue.append((now, call, message))
            self.queued += _cost(message)
        elif self._calls.get(call.stream_id) is call:
            self._server.overloaded += 1
            self._finish(call, Status.OK)

    # What goes out.

    def _answer(self, call: _Call, message: bytes | None) -> None:
        self._told += call.tell(message)
        try:
            if (step := call.step(message)) is None:
                self._finish(call, Status.OK)
                return
            if isinstance(step, Step):
                self._send(call, step)
                if step.then is None:
                    return
        except Exception:
            self._fail(call)
            return
        call.working = True
        task = self._server.spawn(self._awaited(call, step))
        call.then = task if isinstance(step, Step) else None

    async def _awaited(self, call: _Call, coming: Step | Awaitable[Step]) -> None:
        try:
            step = coming if isinstance(coming, Step) else Step(b"", False, then=lambda: coming)
            while step.then is not None:
                step = await step.then()
                self._send(call, step)
                self.flush()
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
        if data and self.http2.waiting > MAX_WAITING:
            self._server.overloaded += 1
            data, step = b"", Step(b"", True)
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
            call.cancel()
