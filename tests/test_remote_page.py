"""Pages of another service (docs/answers.md), at the real Envoy, in all four ways."""

from __future__ import annotations

import contextlib
import http.server
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from gateway import Gateway, Upstream, ruleset
from machine import SECONDS, HttpServer, accepting

from rejoinder.rules.counts import Kind
from rejoinder.xds.translate import Placement

HTML = "<h1>Sorry</h1>"

RULES = """
upstreams: {{up: "http://127.0.0.1:{up}", errors: "http://127.0.0.1:{errors}", stuck: "http://127.0.0.1:{stuck}",
  dead: "http://127.0.0.1:1", odd: "http://127.0.0.1:{odd}", long: "http://127.0.0.1:{very_long}"}}
routes:
  - {{name: dead, prefix: /dead, upstream: dead}}
  - {{name: odd, prefix: /odd, upstream: odd}}
  - {{name: up, upstream: up}}
rules:
  - name: closed
    match: {{prefix: /closed}}
    status_code: 503
    headers: [Retry-After=9]
    page: {{upstream: errors}}
    body: own
  - {{name: kept, match: {{prefix: /kept}}, enable_on_status: [5xx], page: {{upstream: errors, cache: 60s}}, body: own}}
  - {{name: away, match: {{prefix: /away}}, enable_on_status: [5xx], page: {{upstream: dead}}, body: own}}
  - {{name: stays, match: {{prefix: /stays}}, enable_on_status: [5xx], page: {{upstream: dead}}}}
  - name: late
    match: {{prefix: /late}}
    enable_on_status: [5xx]
    page: {{upstream: stuck, timeout: 100ms}}
    body: own
  - {{name: slow, match: {{prefix: /odd/slow}}, enable_on_status: [5xx], page: {{upstream: stuck}}, body: own}}
  - {{name: waits, match: {{prefix: /waits}}, enable_on_status: [5xx], page: {{upstream: stuck, timeout: 100ms}}}}
  - {{name: gone, match: {{prefix: /gone}}, enable_on_status: [5xx], page: {{upstream: stuck, timeout: 1m}}}}
  - name: long
    match: {{prefix: /long}}
    enable_on_status: [5xx]
    page: {{upstream: long, timeout: 1m}}
    body: own
  - name: errors
    enable_on_status: [400, 404, 5xx]
    page: {{upstream: errors, headers: {{x-namespace: shop, x-host: "{{{{ request.host }}}}"}}}}
    headers: {{x-ours: "1"}}
    keep_headers: [etag]
    body: own
"""


class Service:
    """Sends what it is told to send, with the status that it is asked about, and remembers how it was asked."""

    def __init__(self) -> None:
        service = self
        self.asked: list[dict[str, str]] = []
        self.connections = 0
        self.status: int | None = None
        self.headers: list[tuple[str, str]] = []
        self.body = b""

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                service.connections += 1

            def do_GET(self) -> None:
                service.asked.append({":path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
                self.send_response(service.status or int(self.headers["x-code"]))
                for name, value in service.headers:
                    self.send_header(name, value)
                self.send_header("content-length", str(len(service.body)))
                self.end_headers()
                self.wfile.write(service.body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        self._server = HttpServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def sends(self, body: bytes = HTML.encode(), *headers: tuple[str, str], status: int | None = None) -> None:
        self.asked.clear()
        self.body, self.headers, self.status = body, list(headers or [("content-type", "text/html")]), status


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.close()


def _odd(connection: socket.socket) -> None:
    """An upstream whose 503 has a body that is long, breaks off, or does not end."""
    with connection, contextlib.suppress(OSError):
        while asked := connection.recv(4096):
            if b"/odd/long" in asked:
                connection.sendall(b"HTTP/1.1 503 no\r\ncontent-length: 300000\r\n\r\n" + b"x" * 300_000)
                continue
            connection.sendall(b"HTTP/1.1 503 no\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
            if b"/odd/breaks" in asked:
                return
            time.sleep(2)


HUNG_UP_ON: list[bytes] = []


def _never(connection: socket.socket) -> None:
    asked = b""
    with connection:
        while data := connection.recv(4096):
            asked += data
    HUNG_UP_ON.append(asked)


READ_TO_THE_END: list[bytes] = []


def _very_long(connection: socket.socket) -> None:
    """200 MB that are no page for their type, or for their size."""
    with connection, contextlib.suppress(OSError):
        page = b"content-type: text/html\r\n" if b"x-code: 503" not in connection.recv(4096) else b""
        connection.sendall(b"HTTP/1.1 200 OK\r\n%stransfer-encoding: chunked\r\n\r\n" % page)
        for _ in range(3000):
            connection.sendall(b"10000\r\n" + b"x" * (1 << 16) + b"\r\n")
        READ_TO_THE_END.append(page)


@pytest.fixture(scope="module")
def gateway(any_gateway: Gateway, service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """With the rules above in it."""
    file = tmp_path_factory.mktemp("rules") / "rules.yaml"
    with accepting(_never) as stuck, accepting(_odd) as odd, accepting(_very_long) as very_long:
        up = any_gateway.upstream.address[1]
        file.write_text(RULES.format(up=up, errors=service.port, stuck=stuck, odd=odd, very_long=very_long))
        any_gateway.apply(ruleset(file))
        yield any_gateway


@pytest.fixture(autouse=True)
def _page(service: Service) -> None:
    service.sends()


def ask(gateway: Gateway, path: str, status: int = 503, method: str = "GET", **more: str) -> Any:
    headers = [("x-status", str(status)), *((name.replace("_", "-"), value) for name, value in more.items())]
    return gateway.ask(method, "a.test", path, headers)


def failed(gateway: Gateway, rule: str) -> int:
    """How many pages have not come."""
    if gateway.conditional is Placement.MODULE:
        return sum(gateway.stats(rf"^rejoinder\.page_failures\.rule\.{rule}$").values())
    told = gateway.processor.counters().counts.of(Kind.NO_PAGE)
    return sum(number for series, number in told if series.rule == rule)


def test_the_page_is_sent_with_the_answers_status_and_headers(gateway: Gateway, service: Service) -> None:
    answer = ask(gateway, "/x?y=1", 503, accept="text/html", accept_language="de", x_request_id="nonsense")
    assert (answer.status, answer.body) == (503, HTML.encode())
    assert answer.values("content-type") == ["text/html"]
    assert (answer.values("x-ours"), answer.values("etag"), answer.values("x-from")) == (["1"], ['"1"'], [])
    (told,) = service.asked
    wanted = {
        ":path": "/",
        "host": f"127.0.0.1:{service.port}",
        "x-code": "503",
        "x-format": "text/html",
        "accept": "text/html",
        "accept-language": "de",
        "x-original-uri": "/x?y=1",
        "x-ingress-name": "up",
        "x-namespace": "shop",
        "x-host": "a.test",
    }
    assert {name: told.get(name) for name in wanted} == wanted
    assert len(told["x-request-id"]) == 36
    envoys_own = {"x-forwarded-for", "x-envoy-internal", "x-envoy-expected-rq-timeout-ms"}
    by_module = gateway.conditional is Placement.MODULE
    assert told.keys() - wanted.keys() == {"x-request-id"} | (envoys_own if by_module else set())
    ask(gateway, "/x")
    assert service.asked[-1].keys().isdisjoint({"accept", "x-format", "accept-language"})


@pytest.mark.parametrize("empty", [{}, {"x_empty": "1"}], ids=["body", "no body"])
def test_one_for_every_response_whoever_made_it(gateway: Gateway, service: Service, empty: dict[str, str]) -> None:
    for path, status in (("/x", 404), ("/x", 502), ("/dead", 503)):
        answer = ask(gateway, path, status, **empty)
        assert (answer.status, answer.body) == (status, HTML.encode())
    assert [told["x-code"] for told in service.asked] == ["404", "502", "503"]
    assert ask(gateway, "/x", 200).body in (Upstream.BODY, b"")


def test_head_gets_no_body(gateway: Gateway, service: Service) -> None:
    answer = ask(gateway, "/x", method="HEAD")
    assert (answer.status, answer.body, answer.values("content-type")) == (503, b"", ["text/html"])
    assert len(service.asked) == 1


def test_without_an_upstream(gateway: Gateway, service: Service) -> None:
    for method in ("GET", "POST", "HEAD"):
        answer = ask(gateway, "/closed", method=method)
        assert (answer.status, answer.values("retry-after")) == (503, ["9"])
        assert answer.body == (b"" if method == "HEAD" else HTML.encode())
    assert len(service.asked) == 3


def test_of_the_page_only_its_type_and_language_get_through(gateway: Gateway, service: Service) -> None:
    hostile = [("set-cookie", "a=1"), ("location", "/"), ("x-ours", "2"), ("x-evil", "1" * 20_000)]
    service.sends(
        b"x", ("content-type", "text/plain; a=\xe9"), ("content-language", "fr"), *hostile, ("connection", "close")
    )
    answer = ask(gateway, "/x")
    assert (answer.body, answer.values("content-language"), answer.values("x-ours")) == (b"x", ["fr"], ["1"])
    assert answer.values("content-type") == ["text/plain; a=\xe9"]
    assert not {"set-cookie", "location", "x-evil"} & {name for name, _ in answer.headers}


def test_what_is_no_page_is_not_sent(gateway: Gateway, service: Service) -> None:
    html, encoded = ("content-type", "text/html"), ("content-encoding", "gzip")
    for body, headers, status in (
        (b"x" * ((1 << 20) + 1), [html], None),
        (b"", [html], None),
        (b"x", [html], 500),
        (b"x", [html], 302),
        (b"x", [html, encoded], None),
        (b"x", [encoded], None),
        (b"x", [("x", "1")], None),
        (b"x", [("content-type", "text/html\x01")], None),
        (b"x", [html, ("content-language", "de\x7f")], None),
    ):
        service.sends(body, *headers, status=status)
        answer = ask(gateway, "/x")
        assert (answer.status, answer.body, answer.values("x-ours")) == (503, b"own", ["1"])
    service.sends(b"x" * (1 << 20))
    assert ask(gateway, "/x").body == service.body


def test_a_dead_or_slow_service_leaves_the_answer_or_the_response(gateway: Gateway) -> None:
    for path, body in (("/away", b"own"), ("/late", b"own"), ("/stays", Upstream.BODY), ("/waits", Upstream.BODY)):
        answer = ask(gateway, path)
        assert (answer.status, answer.body) == (503, body)
        assert answer.values("x-from") == ([] if body == b"own" else ["upstream"])
    assert ask(gateway, "/stays", x_empty="1").values("x-from") == ["upstream"]


def test_what_is_no_page_is_not_read_to_its_end(gateway: Gateway) -> None:
    for status in (502, 503):
        answer = ask(gateway, "/long", status)
        assert (answer.status, answer.body) == (status, b"own")
    assert READ_TO_THE_END == []


@pytest.mark.parametrize("path", ["/odd/long", "/odd/endless"])
def test_whatever_becomes_of_the_upstreams_body(gateway: Gateway, path: str) -> None:
    assert (ask(gateway, path).status, ask(gateway, path).body) == (503, HTML.encode())


def test_an_upstream_that_breaks_off_while_the_page_is_waited_for(gateway: Gateway) -> None:
    answer = ask(gateway, "/odd/slow/odd/breaks")
    by_module = gateway.conditional is Placement.MODULE
    assert (answer.status, answer.body == b"own") == ((503, True) if by_module else (502, False))


def test_clients_go_while_a_page_is_waited_for(gateway: Gateway) -> None:
    for _ in range(20):
        with socket.create_connection(gateway.address, timeout=SECONDS) as client:
            client.sendall(b"GET /odd/slow/odd/long HTTP/1.1\r\nhost: a.test\r\n\r\n")
            time.sleep(0.01)
    assert ask(gateway, "/x").body == HTML.encode()


def test_nobody_is_asked_any_more_for_a_client_that_has_gone(gateway: Gateway) -> None:
    HUNG_UP_ON.clear()
    with socket.create_connection(gateway.address, timeout=SECONDS) as client:
        client.sendall(b"GET /gone HTTP/1.1\r\nhost: a.test\r\nx-status: 503\r\n\r\n")
        time.sleep(0.1)
    gateway.wait_for(lambda: any(b"/gone" in asked for asked in HUNG_UP_ON))
    assert failed(gateway, "gone") == 0  # nobody has waited until it was too late


def test_a_client_that_speaks_grpc_gets_no_page(gateway: Gateway, service: Service) -> None:
    answer = ask(gateway, "/x", content_type="application/grpc")
    assert (answer.status, answer.values("grpc-status"), answer.body) == (200, ["14"], b"")
    answer = ask(gateway, "/stays", content_type="application/grpc")
    assert (answer.status, answer.values("x-from"), answer.values("grpc-status")) == (503, ["upstream"], [])
    assert service.asked == []


def test_pages_that_do_not_come_are_counted_and_the_log_says_why(
    gateway: Gateway, service: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tests in front of this one have written what it may write in a minute.
    monkeypatch.setattr(logging.getLogger("rejoinder.extproc.pages"), "filters", [])

    before = failed(gateway, "errors"), failed(gateway, "late")
    for headers in ([("content-type", "text/html"), ("content-encoding", "gzip")], [("x-a", "1")]):
        service.sends(HTML.encode(), *headers)
        assert ask(gateway, "/x").body == b"own"
    service.sends(status=404)
    assert ask(gateway, "/x").body == b"own"
    assert ask(gateway, "/x", content_type="application/grpc").status == 200
    assert ask(gateway, "/late").body == b"own"
    assert (failed(gateway, "errors"), failed(gateway, "late")) == (before[0] + 3, before[1] + 1)

    def said() -> list[str]:
        return [message for message in caplog.messages if "no page from" in message]

    if gateway.conditional is Placement.EXT_PROC:
        reasons = ["Content-Encoding gzip", "no Content-Type", "status 404"]
        assert said() == [*(f"no page from errors: {why}" for why in reasons), "no page from stuck: not within 0.1 s"]
        return
    for status in (418, 418, 419):  # here each reason is said once
        service.sends(status=status)
        ask(gateway, "/x")
    gateway.wait_for(lambda: any("errors: status 419" in line for line in said()))
    assert sum("no page from errors: status 418" in line for line in said()) == 1


def test_a_page_is_kept_for_others_who_ask_for_the_same(gateway: Gateway, service: Service) -> None:
    language = f"x-{time.monotonic_ns()}"  # not kept yet
    for _ in range(3):
        assert ask(gateway, "/kept/a", accept_language=language).body == HTML.encode()
    (told,) = service.asked
    assert told.keys().isdisjoint({"x-original-uri", "x-request-id"})
    ask(gateway, "/kept/b", 502, accept_language=language)
    ask(gateway, "/kept/b", 502, accept_language=language, accept="text/html")
    assert [told["x-code"] for told in service.asked] == ["503", "502", "502"]


def test_a_request_that_envoy_refuses_does_not_wait(gateway: Gateway, service: Service) -> None:
    with socket.create_connection(gateway.address, timeout=SECONDS) as client:
        client.sendall(b"NONSENSE / HTTP/1.1\r\nhost: a.test\r\n\r\n")
        said = client.makefile("rb").read()
    assert said.startswith(b"HTTP/1.1 400 ")
    assert said.endswith(b"own" if gateway.conditional is Placement.MODULE else b"")
    assert service.asked == []


def test_many_at_once_share_connections(gateway: Gateway, service: Service) -> None:
    before = service.connections
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask(gateway, "/x"), range(200)))
    assert {(answer.status, answer.body) for answer in answers} == {(503, HTML.encode())}
    assert service.connections - before <= 32
