"""What the fields of routes and upstreams do in a real Envoy: upgrades, time limits, retries, rewrites, HTTP/1.0."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gateway import Gateway, free_port, ruleset
from machine import SECONDS, accepting

HANDSHAKE = "GET {path} HTTP/1.1\r\nhost: a.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"


class RawUpstream:
    """Keeps what it is asked for. `/chat` is a handshake, `/fails` fails once, `/slow` takes a second."""

    url: str

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []

    def answer(self, peer: socket.socket) -> None:
        with peer:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                if not (more := peer.recv(65536)):
                    return
                head += more
            path = head.split()[1].decode()
            host = next(line[6:] for line in head.decode().split("\r\n") if line.lower().startswith("host: "))
            self.requests.append((path, host))
            if path == "/chat":
                peer.sendall(b"HTTP/1.1 101 Switching\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n")
                peer.sendall(peer.recv(100))
            elif path == "/busy" or (path == "/fails" and len(self.requests) == 1):
                peer.sendall(b"HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            else:
                if path == "/slow":
                    time.sleep(1)
                peer.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")


@pytest.fixture
def upstream() -> Iterator[RawUpstream]:
    made = RawUpstream()
    with accepting(made.answer) as port:
        made.url = f"http://127.0.0.1:{port}"
        yield made


Apply = Callable[[str], Gateway]


@pytest.fixture
def apply(gateway: Gateway, tmp_path: Path) -> Apply:
    def apply(text: str) -> Gateway:
        (tmp_path / "rules.yaml").write_text(text)
        gateway.apply(ruleset(tmp_path / "rules.yaml"))
        return gateway

    return apply


def exchange(gateway: Gateway, request: str, last: bytes = b"", then: bytes = b"") -> bytes:
    """What comes back on a connection, until it ends or what is to come last is there; `then` is sent in between."""
    with socket.create_connection(gateway.address, SECONDS) as connection:
        connection.sendall(request.encode())
        received = connection.recv(65536)
        connection.sendall(then)
        while not received.endswith(last) and (more := connection.recv(65536)):
            received += more
        return received


def test_h03_a_handshake_reaches_the_upstream(apply: Apply, upstream: RawUpstream) -> None:
    gateway = apply(
        f"""
        upstreams: {{app: "{upstream.url}"}}
        routes: [{{name: app, upstream: app}}]
        rules: [{{enable_on_status: [4xx, 5xx], status_code: original, body: sorry}}]
        """
    )
    received = exchange(gateway, HANDSHAKE.format(path="/chat"), b"through", b"through")
    assert received.startswith(b"HTTP/1.1 101 ")
    assert received.endswith(b"through")
    refused = exchange(gateway, HANDSHAKE.format(path="/busy"), b"sorry")
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert refused.endswith(b"sorry")


@pytest.mark.parametrize(
    "answers",
    [
        "routes: [{name: app, upstream: app}]\n"
        "rules: [{name: closed, status_code: 503, headers: [Retry-After=30], body: maintenance}]",
        "routes: [{name: app, respond: {status_code: 503, headers: [Retry-After=30], body: maintenance}}]",
    ],
    ids=["a rule", "a route"],
)
def test_h04_a_handshake_that_meets_an_answer_gets_it(apply: Apply, upstream: RawUpstream, answers: str) -> None:
    gateway = apply(f'upstreams: {{app: "{upstream.url}"}}\n{answers}')
    received = exchange(gateway, HANDSHAKE.format(path="/chat"), b"maintenance").lower()
    assert received.startswith(b"http/1.1 503 ")
    assert b"retry-after: 30" in received
    assert received.endswith(b"maintenance")
    assert upstream.requests == []


def test_a_route_without_upgrades_refuses_handshakes(apply: Apply, upstream: RawUpstream) -> None:
    gateway = apply(f'upstreams: {{app: "{upstream.url}"}}\nroutes: [{{name: app, upstream: app, upgrades: []}}]')
    assert exchange(gateway, HANDSHAKE.format(path="/chat")).startswith(b"HTTP/1.1 403 ")


def test_h06_only_a_timeout_that_is_given_ends_a_response(apply: Apply, upstream: RawUpstream) -> None:
    gateway = apply(
        f"""
        upstreams: {{app: "{upstream.url}"}}
        routes:
          - {{name: hurried, domains: [a.test], upstream: app, timeout: 200ms}}
          - {{name: idle, domains: [b.test], upstream: app, idle_timeout: 200ms}}
          - {{name: app, upstream: app}}
        """
    )
    assert gateway.ask("GET", "a.test", "/slow").status == 504
    assert gateway.ask("GET", "b.test", "/slow").status == 504
    assert gateway.ask("GET", "c.test", "/slow").status == 200


def test_retries_and_rewrites(apply: Apply, upstream: RawUpstream) -> None:
    gateway = apply(
        f"""
        upstreams: {{app: {{urls: "{upstream.url}", host: app.internal}}}}
        routes:
          - {{name: again, path: /fails, upstream: app, retries: {{attempts: 2, on: [503]}}}}
          - {{name: prefix, prefix: /old, upstream: app, rewrite: {{prefix: /new, host: new.internal}}}}
          - {{name: path, path: /one, upstream: app, rewrite: {{path: /other}}}}
        """
    )
    assert gateway.ask("GET", "a.test", "/fails").status == 200
    gateway.ask("GET", "a.test", "/old/x?a=1")
    gateway.ask("GET", "a.test", "/one?a=1")
    assert upstream.requests == [
        *[("/fails", "app.internal")] * 2,
        ("/new/x?a=1", "new.internal"),
        ("/other?a=1", "app.internal"),
    ]


@pytest.mark.parametrize("host", ["host: x\r\n", ""], ids=["with a host", "without one"])
def test_h15_a_client_that_speaks_http_1_0_is_served(apply: Apply, host: str) -> None:
    gateway = apply("routes: [{name: robots, path: /robots.txt, respond: {body: none}}]")
    received = exchange(gateway, f"GET /robots.txt HTTP/1.0\r\n{host}\r\n", b"none")
    assert received.split(b" ")[1] == b"200"
    assert received.endswith(b"none")


def test_an_endpoint_that_fails_its_health_check_gets_nothing(apply: Apply, upstream: RawUpstream) -> None:
    gateway = apply(
        f"""
        upstreams:
          app: {{urls: ["{upstream.url}", "http://127.0.0.1:{free_port()}"], health_check: {{path: /healthz}}}}
        routes: [{{name: app, upstream: app}}]
        """
    )
    gateway.wait_for(lambda: any(path == "/healthz" for path, _ in upstream.requests))
    gateway.wait_for(lambda: gateway.ask("GET", "a.test", "/").status == 200)
    assert {gateway.ask("GET", "a.test", "/").status for _ in range(10)} == {200}
