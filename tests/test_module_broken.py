"""Responses that break off, at an Envoy with the module."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import handmade as h
import httpx
import pytest
from machine import SECONDS, Response, accepting, ask
from module_static import (
    BODY,
    FORWARD,
    JSON,
    Address,
    _binary,  # noqa: F401 - a fixture
    config,
    module,
    started,
)

# --- broken responses ---

HEAD = b"HTTP/1.1 503 Down\r\ncontent-type: text/html\r\n"

PART = HEAD + b"content-length: 100\r\n\r\nhello"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"

BROKEN: dict[str, tuple[tuple[bytes, float], ...]] = {
    "close": ((PART, 0),),
    "stall": ((PART, 2 * SECONDS),),
    "reset": ((PART, 0.5),),
    "close-soon": ((PART, 0.03),),
    "chunk-close": ((CHUNKED + b"5\r\nhello\r\n", 0),),
    "chunks-endless": ((CHUNKED, 0), *((b"5\r\nhello\r\n", 0.02),) * 6000),
    "headers-close": ((HEAD + b"content-length: 100\r\n\r\n", 0),),
    "no-chunk": ((CHUNKED + b"no\r\n", 0),),
}
"""What an upstream writes by path, with seconds behind each, until it closes the connection or resets it."""

AT_THE_SAME_TIME = ("headers-close", "chunk-close", "no-chunk")
"""Where the module is told of headers, then of the end, and of nothing between: from HTTP/2 on, Envoy cannot be kept
from a text of its own then (docs/module.md)."""


def breaking() -> AbstractContextManager[int]:
    """An upstream that breaks its responses off, by path."""

    def serve(peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            path = peer.recv(65536).split(b" ")[1].decode().strip("/")
            for data, seconds in BROKEN[path]:
                peer.sendall(data)
                time.sleep(seconds)
            if path == "reset":
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return accepting(serve)


def breaking_http2(at_once: bool) -> AbstractContextManager[int]:
    """The same over HTTP/2: headers, some of the body, and a reset, at once or soon; or nothing more (`/stall`)."""

    def serve(peer: socket.socket) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        with peer, contextlib.suppress(OSError):
            peer.sendall(connection.data_to_send())
            while data := peer.recv(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        answer(peer, connection, event)
                peer.sendall(connection.data_to_send())

    def answer(peer: socket.socket, connection: Any, event: Any) -> None:
        connection.send_headers(event.stream_id, [(":status", "503"), ("content-length", "100")])
        connection.send_data(event.stream_id, b"hello")
        if dict(event.headers)[b":path"] == b"/stall":
            return
        if not at_once:
            peer.sendall(connection.data_to_send())
            time.sleep(0.03)
        connection.reset_stream(event.stream_id, 2)

    return accepting(serve)


def fetched(bound: Address, path: str, http2: bool) -> tuple[int, bytes]:
    """Before the upstream ends what it does not end soon."""
    with httpx.Client(http1=not http2, http2=http2, timeout=SECONDS) as client:
        answer = client.get(f"http://{bound[0]}:{bound[1]}/{path}")
    return answer.status_code, answer.content


@pytest.fixture(scope="module", params=[BODY, b""], ids=["body", "no body"])
def broken(binary: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Address, bytes]]:
    program = h.program(h.rule("all", [h.reply([(400, 599)], 0, headers=JSON, body=request.param)]))
    with breaking() as port, started(binary, config([module(program)], [FORWARD], {"up": port})) as bound:
        yield bound, request.param


@pytest.mark.parametrize("client", ["HTTP/1", "HTTP/2"])
@pytest.mark.parametrize("path", BROKEN)
def test_a_broken_response_is_answered_in_full(broken: tuple[Address, bytes], path: str, client: str) -> None:
    bound, body = broken
    status, content = fetched(bound, path, client == "HTTP/2")
    if client == "HTTP/2" and path in AT_THE_SAME_TIME and status == 502:
        assert content.startswith(b"upstream connect error")
    else:
        assert (status, content) == (503, body)


@pytest.mark.parametrize("client", ["HTTP/1", "HTTP/2"])
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "soon"])
def test_a_broken_response_over_http_2_is_answered_in_full(binary: Path, client: str, at_once: bool) -> None:
    program = h.program(h.rule("all", [h.reply([(400, 599)], 0, headers=JSON, body=BODY)]))
    with breaking_http2(at_once) as port:
        made = config([module(program)], [FORWARD], {"up": port}, http2=True)
        with started(binary, made) as bound:
            for path in ("reset", "stall") * 3:
                assert fetched(bound, path, client == "HTTP/2") == (503, BODY)


def test_envoy_goes_on_after_many_broken_responses(broken: tuple[Address, bytes]) -> None:
    """Whatever the module holds of a stream that has broken off must not be used again."""
    bound, body = broken
    wrong: list[Response] = []

    def load() -> None:
        for n in range(60):
            answer = ask(bound, "GET", "a", "/" + ("close", "close-soon", "chunk-close")[n % 3])
            if (answer.status, answer.body) != (503, body):
                wrong.append(answer)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
