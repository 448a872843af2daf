"""systemd: notifications about this process, and sockets that systemd opens for it.

In: environment variables of systemd. Out: datagrams (`tell`), and sockets by their addresses (`sockets`), each
for the option that names the same address. Where there is no systemd, nothing happens.
https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from rejoinder.cli.control import Control, summary
from rejoinder.rules.problem import Severity
from rejoinder.transport.accepting import accept
from rejoinder.transport.addresses import Address, show
from rejoinder.transport.tls import Files, Reloading

SECONDS: Final = 1.0
"""Between two notifications, status or watchdog: less than half of any sensible `WatchdogSec`."""

_FIRST: Final = 3
"""The file descriptor of the first socket."""
_READ: Final = 1 << 16
"""Bytes of a client that are relayed at once."""

Sockets = Mapping[Address, socket.socket]


def sockets(*options: Address | None) -> Sockets:
    """The sockets that this process was given.

    Args:
        options: the addresses to listen on.

    Raises:
        OSError: no option names the address of a socket, whose clients would wait for ever; or it is no socket.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    given: dict[Address, socket.socket] = {}
    count = os.environ.get("LISTEN_FDS", "0")
    if not count.isdecimal():
        raise OSError(f"LISTEN_FDS: expected the number of sockets from systemd, got {count!r}")
    for number in range(_FIRST, _FIRST + int(count)):
        try:
            os.set_inheritable(number, False)
            listening = socket.socket(fileno=number)
        except OSError as error:
            said = f"LISTEN_FDS={count}: expected a socket from systemd at file descriptor {number}"
            raise OSError(f"{said}: {error.strerror}") from error
        listening.setblocking(False)
        name = listening.getsockname()
        given[name[:2] if isinstance(name, tuple) else Path(os.fsdecode(name))] = listening
    if strangers := [show(address) for address in given if address not in options]:
        wanted = ", ".join(show(option) for option in options if option is not None)
        raise OSError(f"systemd listens on {', '.join(strangers)} for this service, and its options say {wanted}")
    return given


@contextlib.asynccontextmanager
async def relayed(listening: socket.socket | None, address: Address, tls: Files | None) -> AsyncIterator[Address]:
    """The address for a server that cannot take a socket: the address itself, or, with a socket, one behind a relay.

    Raises:
        OSError: the files for TLS cannot be used.
    """
    if listening is None:
        yield address
        return
    context = Reloading(tls) if tls and isinstance(address, tuple) else None
    if context:
        context.set_alpn_protocols(["h2"])
    with tempfile.TemporaryDirectory(prefix="rejoinder-") as folder:
        behind = Path(folder, "xds")

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError), contextlib.closing(writer):
                back, forth = await asyncio.open_unix_connection(behind)
                with contextlib.closing(forth):
                    copies = [asyncio.create_task(_copy(*pair)) for pair in ((reader, forth), (back, writer))]
                    await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
                    for copy in copies:
                        copy.cancel()
                    await asyncio.gather(*copies, return_exceptions=True)

        accepting = asyncio.create_task(
            accept(listening, lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(), relay), context)
        )
        try:
            yield behind
        finally:
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
            listening.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_READ):
        writer.write(data)
        await writer.drain()


async def tell(control: Control) -> None:
    """Tell systemd that this process is ready, its status, and that it lives, until this is cancelled."""
    watched = ["WATCHDOG=1"] if "WATCHDOG_USEC" in os.environ else []
    try:
        while _notify("READY=1", f"STATUS={(told := _status(control))}"):
            while _status(control) == told:
                await asyncio.sleep(SECONDS)
                _notify(*watched)
        await asyncio.Event().wait()
    finally:
        _notify("STOPPING=1")


def _status(control: Control) -> str:
    """In a line, for `systemctl status`."""
    wrong = next((problem for problem in control.problems if problem.severity is Severity.ERROR), None)
    served = summary(control.current) if control.current else "nothing is served"
    if control.last_good.served:
        served += f": the last good set, of {control.last_good.served}"
    if control.envoys.rejected:
        served += "; an Envoy rejects that"
    return " ".join(f"{served}; not in force: {wrong}".split()) if wrong else served


def _notify(*lines: str) -> bool:
    """Whether there is a systemd to notify."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path and lines:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(SECONDS)
            told = "\n".join(lines).encode(errors="backslashreplace")  # a name in it need not be text
            sender.sendto(told, path.replace("@", "\0", 1) if path[0] == "@" else path)
    return bool(path)
