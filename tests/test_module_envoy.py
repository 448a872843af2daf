"""The dynamic module in a real Envoy, with upstreams whose responses end in every way that there is."""

from __future__ import annotations

import contextlib
import re
import socketserver
import threading
from collections.abc import Iterator

import httpx
import pytest
from gateway import Gateway, ruleset
from machine import SECONDS

from rejoinder.xds.translate import Placement

ANSWER = b'{"busy": true}'

LARGE = 1024 * 1024

RULES = """
upstreams: {{raw: "http://127.0.0.1:{port}"}}
routes: [{{name: all, upstream: raw}}]
rules:
  - {{name: none-204, match: {{path: /204}}, enable_on_status: [503], status_code: 204}}
  - {{name: none-304, match: {{path: /304}}, enable_on_status: [503], status_code: 304}}
  - {{name: empty-value, match: {{path: /empty-value}}, enable_on_status: [503], status_code: 503, headers: [x-empty=]}}
  - {{name: large, match: {{domains: large.test}}, enable_on_status: [503], status_code: 503, body_file: large}}
  - name: busy
    enable_on_status: [503]
    status_code: 502
    body: '{{"busy": true}}'
    headers: [x-twice=1, x-twice=2]
"""

# What an upstream writes, by path; behind each, whether its connection can live on when its response is replaced.
RESPONSES: dict[str, tuple[bytes, bool]] = {
    "/length": (b"HTTP/1.1 503 no\r\ncontent-length: 4\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\r\nbody", True),
    "/empty": (b"HTTP/1.1 503 no\r\ncontent-length: 0\r\nx-upstream: 1\r\n\r\n", True),
    "/chunked": (b"HTTP/1.1 503 no\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", True),
    "/trailers": (
        b"HTTP/1.1 503 no\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\ngrpc-status: 14\r\nx-sum: 1\r\n\r\n",
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
    **dict.fromkeys(("/204", "/304", "/empty-value"), (b"HTTP/1.1 503 no\r\ncontent-length: 4\r\n\r\nbody", False)),
    "/ok": (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nx-upstream: 1\r\n\r\nfine", True),
}


REPLACED = [path for path in RESPONSES if path not in ("/ok", "/204", "/304", "/empty-value")]


class RawUpstream:
    """Writes RESPONSES as they stand there, and counts connections."""

    def __init__(self) -> None:
        upstream = self
        self.connections = 0

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                upstream.connections += 1
                with contextlib.suppress(OSError):  # Envoy resets what it does not want to wait for
                    self.answer()

            def answer(self) -> None:
                while line := self.rfile.readline():
                    method, path, _ = line.decode().split(" ")
                    while self.rfile.readline() not in (b"\r\n", b""):
                        pass
                    data, _ = RESPONSES[path]
                    head = data.index(b"\r\n\r\n") + 4
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
def module(
    request: pytest.FixtureRequest, upstream: RawUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    file = tmp_path_factory.mktemp("module") / "rules.yaml"
    file.with_name("large").write_bytes(b"x" * LARGE)
    file.write_text(RULES.format(port=upstream.port))
    with Gateway(concurrency=request.param, conditional=Placement.MODULE) as gateway:
        gateway.apply(ruleset(file))
        yield gateway


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", REPLACED)
def test_a_response_is_replaced_however_it_ends(module: Gateway, method: str, path: str) -> None:
    answer = module.ask(method, "a.test", path)
    assert answer.status == 502
    assert answer.body == (ANSWER if method == "GET" else b"")
    assert sorted(name for name, _ in answer.headers) == [
        "content-length",
        "content-type",
        "date",
        "server",
        "x-twice",
        "x-twice",
    ]
    assert answer.values("content-length") == [str(len(ANSWER))]
    assert answer.values("x-twice") == ["1", "2"]


@pytest.mark.parametrize("path", REPLACED)
def test_a_body_beyond_every_buffer_of_envoy_is_sent(module: Gateway, path: str) -> None:
    answer = module.ask("GET", "large.test", path)
    assert (answer.status, len(answer.body)) == (503, LARGE)


@pytest.mark.parametrize("path", [path for path, (_, lives) in RESPONSES.items() if lives])
def test_the_upstream_connection_lives_on(module: Gateway, upstream: RawUpstream, path: str) -> None:
    before = upstream.connections
    for _ in range(30):
        module.ask("GET", "a.test", path)
    assert upstream.connections - before <= 4  # one for each worker, at most


@pytest.mark.parametrize("path", REPLACED)
def test_over_http_2_a_replaced_response_ends(module: Gateway, path: str) -> None:
    host, port = module.address
    with httpx.Client(http1=False, http2=True, timeout=SECONDS) as client:
        answer = client.get(f"http://{host}:{port}{path}")
    assert (answer.status_code, answer.content) == (502, ANSWER)
    assert answer.headers["content-length"] == str(len(ANSWER))


def test_a_status_that_no_rule_names_passes(module: Gateway) -> None:
    answer = module.ask("GET", "a.test", "/ok")
    assert (answer.status, answer.body, answer.values("x-upstream")) == (200, b"fine", ["1"])


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_neither_body_nor_length(module: Gateway, status: int) -> None:
    answer = module.ask("GET", "a.test", f"/{status}")
    assert (answer.status, answer.body, answer.values("content-length")) == (status, b"", [])


def test_a_header_without_a_value_is_sent(module: Gateway) -> None:
    answer = module.ask("GET", "a.test", "/empty-value")
    assert (answer.status, answer.values("x-empty")) == (503, [""])


def test_each_rule_has_a_counter(module: Gateway) -> None:
    def counted() -> int:
        page = module.run(module.envoy.admin.get("/stats/prometheus")).decode()
        counter = re.search(r'^envoy_rejoinder_replies\{rule="busy"\} (\d+)$', page, re.MULTILINE)
        return int(counter[1]) if counter else 0

    before = counted()
    for _ in range(3):
        module.ask("GET", "a.test", "/length")
    assert counted() == before + 3
