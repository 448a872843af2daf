"""A gRPC server on asyncio, for methods that answer a message with a message, and at low cost.

The entry point is `Server`. In: methods by their path, and clients' bytes (`client`); each stream becomes an
`Exchange`, whose `Step`s are sent. An exchange that fails, or would be answered too late, is ended with status OK and
without a message: for Envoy this means "continue without me". Only `Server.listen` raises.

Messages read from all clients within a turn of the event loop are queued. Then the queue is served, one client after
the other. So the waiting time of every message is known, and a client that sends too much delays only itself.
"""

from __future__ import annotations

import asyncio
import bisect
import collections
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Final

from rejoinder.extproc.client import Client
from rejoinder.extproc.exchange import Method
from rejoinder.transport import accepting, unix
from rejoinder.transport.addresses import parse

_LOG: Final = logging.getLogger("rejoinder.extproc")

MAX_WAIT: Final = 0.5
"""How many seconds a message may wait for its turn: half of the `message_timeout` of docs/ext_proc.md, after which
Envoy would let the response pass anyway."""
MAX_QUEUED: Final = 16 << 20
"""Bytes of messages that wait for an answer, each counted with MESSAGE_COST more: some 12,000 of Envoy's. It is divided
among the connections that have such messages, so no connection can fill it."""
MAX_KEPT: Final = 128 << 20
"""Bytes of memory that all connections together may take besides that, as far as known; beyond it, the connection with
the largest part is closed. It is enough for a hundred thousand streams that wait for their responses; an Envoy has
thousands. Without it, each connection could use as much as its own limits allow."""
READ_BUFFER: Final = 1 << 16
"""Bytes of a client that are read at once, some two hundred requests; then it is the turn of the others."""
TURN: Final = 16
"""Messages of a client that are answered before the next client has its turn."""
SLICE: Final = 32
"""Messages that are answered before sockets are read again. It is less than what is read from one client: otherwise
messages would wait in the kernel, for an unknown time."""
MAX_CONNECTIONS: Final = 1024
"""Envoy has one connection for each of its threads."""
TICK: Final = 1.0
"""Seconds between two checks of all clients."""

BOUNDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Of the histogram of durations, in seconds."""


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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        methods: by path; each makes a stream's exchange, from its first message.
        tls: for TLS; `h2` is added to its ALPN protocols.
        max_wait, clock: in place of MAX_WAIT and the time.
        """
        self.failures = 0
        """Exchanges that have raised an exception, which is logged."""
        self.durations = [0] * (len(BOUNDS) + 1)
        """How many messages were answered within each of BOUNDS, including their wait, and how many took longer."""
        self.seconds = 0.0
        """The sum of these times."""
        self.overloaded = 0
        """Exchanges that passed because they had waited too long, or were too many."""
        self.methods, self.max_wait, self.clock = methods, max_wait, clock
        self.connections: set[Client] = set()
        self.busy: collections.OrderedDict[Client, None] = collections.OrderedDict()
        """The connections with messages to answer, in turn."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.buffer = memoryview(bytearray(READ_BUFFER))
        """One buffer for all connections: asyncio reads into it, and hands over the bytes at once."""
        self._kept = 0
        self._tls = tls
        self._listening: socket.socket | None = None
        self._accepting: asyncio.Task[None]
        self._ticking: asyncio.TimerHandle | None = None
        self._serving = False
        self._all_closed = asyncio.Event()
        if tls is not None:
            tls.set_alpn_protocols(["h2"])

    @property
    def streams(self) -> int:
        """How many are open."""
        return sum(connection.http2.open_streams for connection in self.connections)

    async def listen(self, address: str, mode: int = unix.MODE, given: socket.socket | None = None) -> int:
        """Begin to serve.

        Args:
            address: `HOST:PORT`, IPv6 in brackets; port 0: any free one. `unix:/PATH`: a Unix socket, without TLS.
            mode: of a Unix socket.
            given: a socket that already listens there.

        Returns:
            The port; 0 for a Unix socket.

        Raises:
            OSError: the address is in use or not this machine's; the text says which address. Choose another.
        """
        try:
            where, tls = parse(address), self._tls
        except ValueError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error
        if isinstance(where, Path):
            tls, listening = None, given or unix.listen(where, mode, MAX_CONNECTIONS)
        else:
            listening = given or accepting.listen(where, MAX_CONNECTIONS)
        loop = asyncio.get_running_loop()
        self._listening = listening
        self._accepting = loop.create_task(accepting.accept(listening, lambda: Client(self), tls))
        self._ticking = loop.call_later(TICK, self.tick)
        return 0 if isinstance(where, Path) else int(listening.getsockname()[1])

    async def stop(self, grace: float = 0.0) -> None:
        """Stop listening and end all connections.

        Args:
            grace: how many seconds streams have to end by themselves; no new ones are accepted meanwhile.
        """
        if self._listening is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
            self._listening.close()
            self._listening = None
        if self._ticking is not None:
            self._ticking.cancel()
        for close, seconds in ((Client.shut_down, grace), (Client.close, 1.0), (Client.abort, 1.0)):
            self._all_closed.clear()
            for connection in list(self.connections):
                close(connection)
            with contextlib.suppress(TimeoutError):  # what is left is closed by force next
                if self.connections and seconds:
                    async with asyncio.timeout(seconds):
                        await self._all_closed.wait()
        for task in self._tasks:
            task.cancel()

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Start the periodic check, if not done before."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def tick(self) -> None:
        """Check all connections; called every second."""
        if self._ticking is not None:
            self._ticking = asyncio.get_running_loop().call_later(TICK, self.tick)
        for connection in list(self.connections):
            connection.tick(self.clock())

    def admit(self, connection: Client) -> bool:
        """Register a new connection. Returns whether there is room for it."""
        if len(self.connections) >= MAX_CONNECTIONS:
            return False
        self.connections.add(connection)
        return True

    def note(self, arrived: float) -> None:
        """Count an answered message."""
        took = self.clock() - arrived
        self.durations[bisect.bisect_left(BOUNDS, took)] += 1
        self.seconds += took

    def keep(self, connection: Client, size: int) -> None:
        """Note how much memory a connection uses now."""
        self._kept += size - connection.kept
        connection.kept = size
        if self._kept > MAX_KEPT:
            largest = max(self.connections, key=lambda client: client.kept, default=connection)
            _LOG.warning("clients take more than %d MB: the one with the most is hung up on", MAX_KEPT >> 20)
            self._kept -= largest.kept
            largest.kept = 0
            largest.abort()

    def forget(self, connection: Client) -> None:
        self._kept -= connection.kept
        connection.kept = 0
        self.connections.discard(connection)
        if not self.connections:
            self._all_closed.set()

    def has_room(self, connection: Client) -> bool:
        """Whether there is room for one more message of a connection in the queue."""
        return connection.queued * max(len(self.busy), 1) < MAX_QUEUED

    def enqueue(self, connection: Client) -> None:
        """Put a connection that has messages to answer into the queue."""
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
        for connection in served:
            connection.flush()
        for connection in self.busy:
            self.enqueue(connection)  # go on after the sockets have been read
            break
