"""The dynamic module in a real Envoy, with upstreams whose responses end in every way that there is."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest
from gateway import Gateway, ask

from rejoinder.rules.load import load
from rejoinder.rules.model import Ruleset
from rejoinder.xds.translate import Placement

pytestmark = pytest.mark.filterwarnings("error")

ANSWER = b'{"busy": true}'

# What an upstream writes, by path; behind each, whether its connection can live on when its response is replaced.
RESPONSES: dict[str, tuple[bytes, bool]] = {
    "/length": (b"HTTP/1.1 503 no\r\ncontent-length: 4\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\r\nbody", True),
    "/empty": (b"HTTP/1.1 503 no\r\ncontent-length: 0\r\nx-upstream: 1\r\n\r\n", True),
    "/chunked": (b"HTTP/1.1 503 no\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", True),
    "/trailers": (
        b"HTTP/1.1 503 no\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\ngrpc-status: 14\r\nx-checksum: 1\r\n\r\n",
        True,
    ),
    "/trailers-only": (
        b"HTTP/1.1 503 no\r\ntransfer-encoding: chunked\r\n\r\n0\r\ngrpc-status: 14\r\n\r\n",
        True,
    ),
    "/300k": (b"HTTP/1.1 503 no\r\ncontent-length: 300000\r\n\r\n" + b"x" * 300_000, True),
    "/close": (b"HTTP/1.1 503 no\r\nconnection: close\r\n\r\nbody", False),
    "/endless": (b"HTTP/1.1 503 no\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n", False),
    "/endless-empty": (b"HTTP/1.1 503 no\r\ntransfer-encoding: chunked\r\n\r\n", False),
    "/2m": (b"HTTP/1.1 503 no\r\ncontent-length: 2000000\r\n\r\n" + b"x" * 2_000_000, False),
    "/many": (
        b"HTTP/1.1 503 no\r\ncontent-length: 4\r\n" + b"".join(b"x-%d: 1\r\n" % n for n in range(90)) + b"\r\nbody",
        True,
    ),
    "/long-names": (
        b"HTTP/1.1 503 no\r\ncontent-length: 4\r\n"
        + b"".join(b"x-%s-%d: 1\r\n" % (b"n" * 400, n) for n in range(20))
        + b"\r\nbody",
        True,
    ),
    "/ok": (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nx-upstream: 1\r\n\r\nfine", True),
}


class RawUpstream:
    """Writes RESPONSES as they stand there, and counts connections."""

    def __init__(self) -> None:
        upstream = self
        self.connections = 0

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                upstream.connections += 1
                while line := self.rfile.readline():
                    method, path, _ = line.decode().split(" ")
                    while self.rfile.readline() not in (b"\r\n", b""):
                        pass
                    data, _ = RESPONSES[path]
                    head = data.index(b"\r\n\r\n") + 4
                    with contextlib.suppress(OSError):  # Envoy resets what it does not want to wait for
                        self.wfile.write(data[:head] if method == "HEAD" else data)
                    if b"connection: close" in data[:head]:
                        return

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    running = RawUpstream()
    yield running
    running.close()


@pytest.fixture(scope="module", params=[1, 4], ids=["1 worker", "4 workers"])
def module(request: pytest.FixtureRequest, upstream: RawUpstream) -> Iterator[Gateway]:
    with Gateway(concurrency=request.param, conditional=Placement.MODULE) as gateway:
        gateway.apply(rules(upstream))
        yield gateway


def rules(upstream: RawUpstream) -> Ruleset:
    loaded = load([], texts=[]) if False else None
    assert loaded is None
    raise NotImplementedError
