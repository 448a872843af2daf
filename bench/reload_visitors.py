"""The requests while rules are edited, and their right answers."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

from envoys import UPSTREAM_BODY

RATE: Final = 200
"""Requests in a second."""
CONNECTIONS: Final = 4
POLL: Final = 0.005
"""Seconds."""
PATIENCE: Final = 30.0
"""Seconds after which an edit is lost."""
SLOW: Final = 5.0
"""Seconds after which a request has failed."""

LISTENER: Final = "127.0.0.1:0"


# ---- requests, and their right answers


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    kept: bool = True
    """The connection stays open."""


NOT_FOUND: Final = Reply(404, b"")
UNANSWERED: Final = Reply(503, UPSTREAM_BODY.encode())
"""As the upstream gave it."""


@dataclass(frozen=True, slots=True)
class Change:
    """An edit."""

    path: str
    answer: Reply
    """Afterwards."""
    text: str
    """Of the whole file."""


class Mocks:
    """The rules of a file, and which answers are right.

    Args:
        upstream: where every request is forwarded to, to get a 503, which the rules are then about; None: the rules
            answer by themselves.
    """

    def __init__(self, count: int, upstream: int | None = None) -> None:
        self._upstream = upstream
        folder = "/page" if upstream is None else "/503/page"
        self._bodies = {f"{folder}/{number:05}": f"page {number}" for number in range(count)}
        self.paths = list(self._bodies)
        self.edited = self.paths[0]
        self._before: Reply | None = None
        """What is still right for the edited path."""

    def right(self, path: str) -> frozenset[Reply]:
        if path in self._bodies:
            now = Reply(200 if self._upstream is None else 503, self._bodies[path].encode())
        else:
            now = NOT_FOUND if self._upstream is None else UNANSWERED
        return frozenset({now, self._before} if self._before and path == self.edited else {now})

    def change_body(self, place: int, number: int) -> Change:
        path = self.paths[place]
        return self._changed(path, {**self._bodies, path: f"edit {number}"})

    def add(self, place: int, number: int) -> Change:
        entries = list(self._bodies.items())
        path = f"{self.paths[place]}-{number}"
        return self._changed(path, dict([*entries[: place + 1], (path, f"added {number}"), *entries[place + 1 :]]))

    def remove(self, place: int, _: int) -> Change:
        path = self.paths[place + 1]
        return self._changed(path, {other: body for other, body in self._bodies.items() if other != path})

    def settle(self) -> None:
        """The edit is live: from now on, only the new answer is right."""
        self._before = None

    def _changed(self, path: str, bodies: dict[str, str]) -> Change:
        (self._before,) = self.right(path)
        self._bodies, self.edited, self.paths = bodies, path, list(bodies)
        (answer,) = self.right(path) - {self._before}
        return Change(path, answer, self.text())

    def text(self) -> str:
        head, status = f"listen: {LISTENER}\n", ""
        if self._upstream is not None:
            head += f"upstreams: {{up: http://127.0.0.1:{self._upstream}}}\nroutes: [{{name: all, upstream: up}}]\n"
            status = "  enable_on_status: [503]\n"
        return f"{head}rules:\n" + "".join(
            f"- name: mock{path.replace('/', '-')}\n  match: {{path: {path}}}\n{status}  body: {body}\n"
            for path, body in self._bodies.items()
        )


EDITS: Final[dict[str, Callable[[Mocks, int, int], Change]]] = {
    "body changed": Mocks.change_body,
    "rule added": Mocks.add,
    "rule removed": Mocks.remove,
}
"""In this order: what is removed is what was added."""


class Connection:
    """HTTP/1.1, kept alive, one request at a time; made when it is needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str) -> Reply:
        """Get a path.

        Raises:
            OSError, EOFError: no answer, or not in time; the next request is made on a new connection.
        """
        try:
            async with asyncio.timeout(SLOW):
                reply = await self._ask(path)
        except (OSError, EOFError):
            self.close()
            raise
        if not reply.kept:
            self.close()
        return reply

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None

    async def _ask(self, path: str) -> Reply:
        if not self._streams:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(f"GET {path} HTTP/1.1\r\nhost: bench.test\r\n\r\n".encode())
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await reader.readexactly(int(headers["content-length"]))
        return Reply(int(first.split()[1]), body, headers.get("connection") != "close")


@dataclass(slots=True)
class Visitors:
    """The clients, and the check of their answers."""

    mocks: Mocks
    port: int
    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """By what was wrong."""

    async def ask(self, connection: Connection, path: str) -> Reply | None:
        """What is answered to one request; None: nothing."""
        self.requests += 1
        right = self.mocks.right(path)
        try:
            reply = await connection.ask(path)
        except (OSError, EOFError) as error:
            self.failures[type(error).__name__] += 1
            return None
        # (An edit may have begun, or its end been seen, while the answer was on its way.)
        if not reply.kept:
            self.failures["connection closed"] += 1
        elif reply not in right | self.mocks.right(path):
            self.failures[f"wrong answer, {reply.status}"] += 1
        return reply

    @contextlib.asynccontextmanager
    async def steadily(self) -> AsyncIterator[None]:
        """Ask, for as long as the block lasts."""
        tasks = [asyncio.ensure_future(self._steadily(number)) for number in range(CONNECTIONS)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):  # it would have sent no more requests
                raise error

    async def _steadily(self, number: int) -> None:
        connection, choose, period = Connection(self.port), random.Random(number), CONNECTIONS / RATE
        due = time.monotonic() + number / RATE
        with contextlib.closing(connection):
            while True:
                await asyncio.sleep(due - time.monotonic())  # late requests are sent all the same
                due += period
                await self.ask(
                    connection, choose.choice(self.mocks.paths) if choose.random() < 0.9 else self.mocks.edited
                )

    async def until(self, path: str, answer: Reply) -> float:
        """When this is answered at last.

        Raises:
            TimeoutError: never.
        """
        with contextlib.closing(Connection(self.port)) as connection:
            async with asyncio.timeout(PATIENCE):
                while await self.ask(connection, path) != answer:
                    await asyncio.sleep(POLL)
                return time.monotonic()

    async def ask_for_all(self) -> None:
        with contextlib.closing(Connection(self.port)) as connection:
            for path in self.mocks.paths:
                await self.ask(connection, path)
