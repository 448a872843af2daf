"""Accepts connections one by one: a server of asyncio accepts a hundred at a time, and any number whose TLS handshake
is not complete, each with 300 kB. I/O happens here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Callable
from typing import Final

from rejoinder.rules.log import about
from rejoinder.transport.addresses import Tcp, show
from rejoinder.transport.sparing import Sparing
from rejoinder.transport.tls import why

_LOG: Final = logging.getLogger("rejoinder.accepting")
_LOG.addFilter(Sparing(20))

MAX_HANDSHAKES: Final = 256
"""Handshakes at once. Beyond it, the oldest connection is closed: an honest client needs milliseconds."""
HANDSHAKE_SECONDS: Final = 10.0
"""How long a TLS handshake may take."""


def listen(address: Tcp, backlog: int | None = None) -> socket.socket:
    """A listening socket. A second one on the port is an error; the kernel could also distribute connections over both.

    Raises:
        OSError: the address cannot be used; the text says why.
    """
    try:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        listening = socket.create_server(address, family=family, backlog=backlog)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise OSError(f"cannot listen on {show(address)}: {reason}") from error
    listening.setblocking(False)
    return listening


async def accept(
    listening: socket.socket,
    made: Callable[[], asyncio.BaseProtocol],
    tls: ssl.SSLContext | None,
    has_room: Callable[[int], bool] = lambda _: True,
) -> None:
    """Accept connections until it is cancelled.

    Args:
        made: makes the protocol of a connection.
        has_room: whether there is room for one more, besides this number of incomplete handshakes.
    """
    loop = asyncio.get_running_loop()
    connecting: dict[asyncio.Task[None], None] = {}

    async def connect(client: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client has gone, or the handshake fails
            peer = client.getpeername()
            seconds = HANDSHAKE_SECONDS if tls else None
            try:
                await loop.connect_accepted_socket(made, client, ssl=tls, ssl_handshake_timeout=seconds)
            except ssl.SSLError as error:
                where = show(peer[:2])
                extra = about("tls_refused", peer=where)
                _LOG.warning("peer %s: TLS handshake failed: %s", where, why(error), extra=extra)

    def ended(task: asyncio.Task[None]) -> None:
        connecting.pop(task, None)

    try:
        while True:
            try:
                client, _ = await loop.sock_accept(listening)
            except OSError as error:  # no file descriptors left
                _LOG.warning("nobody is let in for a second: %s", error.strerror)
                await asyncio.sleep(1)
                continue
            if not has_room(len(connecting)):
                client.close()
            elif tls is None:
                await connect(client)
            else:
                if len(connecting) >= MAX_HANDSHAKES:
                    oldest = next(iter(connecting))
                    oldest.cancel()
                    ended(oldest)
                task = asyncio.create_task(connect(client))
                connecting[task] = None
                task.add_done_callback(ended)
            await asyncio.sleep(0)  # other tasks get their turn, however many connections come
    finally:
        for task in connecting:
            task.cancel()
