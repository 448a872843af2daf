"""The gRPC server with a client, for its tests."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final

import grpc
import grpc.aio
from http2_bytes import OPENING, REQUEST, Seen, Wire, message
from machine import SECONDS

from rejoinder.extproc.client import Client
from rejoinder.extproc.exchange import Next, Step
from rejoinder.extproc.frames import (
    END_STREAM,
    ErrorCode,
    Frame,
)
from rejoinder.extproc.grpc import Server
from rejoinder.extproc.headers import Blocks

PATH: Final = dict(REQUEST)[":path"]


class Echo:
    """Says what it hears. Some messages are orders."""

    def __call__(self, data: bytes) -> Step | Awaitable[Next]:
        if data == b"fail":
            raise ValueError("as told")
        if data == b"nothing":
            return Step(b"", False)
        if data == b"silence":
            return Step(b"", True)
        if data.startswith(b"last"):
            return Step(data, True)
        if data.startswith(b"later"):
            return self._later(data)
        return Step(data, False)

    async def _later(self, data: bytes) -> Next:
        await asyncio.sleep(0)
        if data == b"later fail":
            raise ValueError("as told, later")
        return lambda: Step(data, False)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, SECONDS))


@contextlib.asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[tuple[Server, int]]:
    # However busy the machine is, nothing is let pass for having waited.
    server = Server({PATH: Echo}, tls=tls, **{"max_wait": SECONDS, **options})
    port = await server.listen("127.0.0.1:0")
    try:
        yield server, port
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def grpcio(port: int, **options: Any) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", **options) as channel:
        yield channel


# Over a wire without a network.


class Bench:
    """A server with wires, and a time of its own."""

    def __init__(self, method: Callable[[], Any] = Echo, **options: Any) -> None:
        self.now = 0.0
        self.server = Server({PATH: method}, clock=lambda: self.now, **options)

    def wire(self, opening: bytes = OPENING) -> Wire:
        wire = Wire(Client(self.server))
        wire.bring(opening)
        wire.frames()
        return wire

    async def served(self) -> None:
        """Until nothing is left to do."""
        await asyncio.sleep(0)
        while self.server.busy or self.server._tasks:
            await asyncio.sleep(0)
        await asyncio.sleep(0)


def replies(sent: list[Seen]) -> dict[int, list[object]]:
    """By stream: its headers as a dictionary each, its data, and the code of a reset."""
    blocks = Blocks()
    by_stream: dict[int, list[object]] = {}
    for kind, flags, stream_id, payload in sent:
        said: object = None
        if kind == Frame.HEADERS:
            said = dict(blocks.decode(payload)[1])
            assert isinstance(said, dict)
            said |= {"end": "yes"} if flags & END_STREAM else {}
        elif kind == Frame.DATA:
            said = payload
        elif kind == Frame.RST_STREAM:
            said = ErrorCode(int.from_bytes(payload, "big"))
        if said is not None:
            by_stream.setdefault(stream_id, []).append(said)
    return by_stream


HEADERS: Final = {":status": "200", "content-type": "application/grpc"}
END: Final = {"grpc-status": "0", "end": "yes"}
PASSED: Final = [{**HEADERS, **END}, ErrorCode.NO_ERROR]
"""What lets a response pass: only trailers, and nothing more is asked of the client."""


def answered(said: bytes) -> list[object]:
    return [HEADERS, message(said), END, ErrorCode.NO_ERROR]
