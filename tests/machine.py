"""What tests ask of the machine: processes, ports, and something that is done all the time."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import http.server
import itertools
import os
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

SECONDS = 60.0
"""How long a test waits for what must come; what must not come is not waited for."""


@dataclasses.dataclass(frozen=True)
class Response:
    status: int
    headers: list[tuple[str, str]]
    """Names in lower case."""
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for other, value in self.headers if other == name]


def children(parent: int, command: str = "") -> list[int]:
    """The processes that a process has started and that run; or those of them that run a command."""
    columns = ["ps", "-A", "-o", "pid=,ppid=,stat=,comm="]
    listed = subprocess.run(columns, capture_output=True, text=True, check=True).stdout
    lines = (line.split(None, 3) for line in listed.splitlines())
    own = [(pid, name) for pid, of, state, name in lines if int(of) == parent and state[0] != "Z"]
    return [int(pid) for pid, name in own if command in ("", name)]


def is_running(pid: int) -> bool:
    """Whether a process has not ended yet, be it that nobody has waited for its end."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


def inodes(pid: int) -> set[str]:
    """Of the sockets that a process has; of one that has ended: none."""
    sockets = set()
    with contextlib.suppress(FileNotFoundError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                sockets.update(re.findall(r"^socket:\[(\d+)\]", os.readlink(link)))
    return sockets


def tcp_ports(pids: Iterable[int]) -> set[int]:
    """The ports on which processes listen."""
    own = {inode for pid in pids for inode in inodes(pid)}
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {int(line[1].partition(":")[2], 16) for line in lines if line[3] == "0A" and line[9] in own}


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    """A port of 127.0.0.1 that nobody else can listen on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        yield port


@contextlib.contextmanager
def accepting(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port of 127.0.0.1 on which each connection is served by a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield int(server.getsockname()[1])


class HttpServer(http.server.ThreadingHTTPServer):
    """For as many connections at once as an Envoy makes."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Somebody hangs up."""


def ask(
    address: tuple[str, int], method: str, host: str, target: str, headers: Sequence[tuple[str, str]] = ()
) -> Response:
    """One request on a connection of its own; the path travels as it is."""
    connection = http.client.HTTPConnection(*address, timeout=SECONDS)
    with contextlib.closing(connection):
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        connection.putheader("host", host)
        for name, value in headers:
            connection.putheader(name, value.encode("utf-8", "surrogateescape"))
        connection.endheaders()
        response = connection.getresponse()
        # Python's client keeps the whitespace behind a value, which is no part of it (RFC 9110, section 5.5).
        given = [(name.lower(), value.strip(" \t")) for name, value in response.getheaders()]
        return Response(response.status, given, response.read())


def limited(command: Sequence[str], **limits: int) -> list[str]:
    """A command that runs within limits of its resources, by the names that `prlimit` has for them.

    Not by `preexec_fn`: that would fork this process, and gRPC's threads abort in such a child.
    """
    return ["prlimit", *(f"--{name}={limit}" for name, limit in limits.items()), *command] if limits else [*command]


@contextlib.contextmanager
def steadily(ask: Callable[[], Sequence[object]]) -> Iterator[None]:
    """Ask again and again, in three threads, while the block lasts.

    Args:
        ask: gives what was wrong. A connection that fails is wrong, too.

    Raises:
        AssertionError: something was wrong, or there was a thread that could not ask.
    """
    stop = threading.Event()
    wrong: list[object] = []
    rounds = itertools.count()

    def load() -> None:
        while not stop.is_set():
            try:
                wrong.extend(ask())
            except OSError as error:
                wrong.append(error)
            next(rounds)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert next(rounds) >= len(threads)
