"""What a client gets from the whole path: a rule file, a real Envoy, a real upstream, the real ext_proc service."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gateway import Gateway, Upstream, only_for, ruleset
from machine import SECONDS, Response, steadily, taken_port

from rejoinder.rules.model import Listener
from rejoinder.xds.blame import blame
from rejoinder.xds.events import Nack
from rejoinder.xds.translate import Placement

Apply = Callable[..., Gateway]
UPSTREAM_ONLY = ("x-from", "etag", "x-envoy-upstream-service-time")


@pytest.fixture
def apply(gateway: Gateway, tmp_path: Path) -> Apply:
    def apply(text: str, **files: str) -> Gateway:
        for name, content in files.items():
            (tmp_path / name).write_text(content)
        (tmp_path / "rules.yaml").write_text(text)
        gateway.apply(ruleset(tmp_path / "rules.yaml"))
        return gateway

    return apply


def test_mock_is_sent_and_the_upstream_sees_nothing(apply: Apply) -> None:
    gateway = apply(
        """
        upstreams: {up: builtin:echo}
        routes: [{name: all, upstream: up}]
        rules:
          - {name: mock, headers: [Content-Type=application/json, Hello=World], body: '{"hello":"world"}'}
        """
    )
    before = len(gateway.upstream.requests)
    response = gateway.ask("GET", "any.test", "/x")
    assert response.status == 200
    assert response.values("content-type") == ["application/json"]
    assert response.values("hello") == ["World"]
    assert response.values("content-length") == ["17"]
    assert response.body == b'{"hello":"world"}'
    assert len(gateway.upstream.requests) == before


@pytest.mark.parametrize("body", ["enable_on_status: [503], body: x", "body: '{{ status }}', template: true"])
def test_connections_live_on_when_the_last_rule_of_a_filter_goes(apply: Apply, body: str) -> None:
    """The listener that is replaced has the filter until it has drained."""
    text = "upstreams: {up: builtin:echo}\nroutes: [{name: all, upstream: up}]\n"
    gateway = apply(f"{text}rules: [{{name: last, match: {{path: /x}}, {body}}}]")
    with contextlib.closing(http.client.HTTPConnection(*gateway.address, timeout=SECONDS)) as connection:
        connection.request("GET", "/")
        assert connection.getresponse().read() == Upstream.BODY
        apply(text)
        connection.request("GET", "/")
        assert connection.getresponse().read() == Upstream.BODY


def test_a_path_with_two_tests_is_tested_on_connections_that_were_there_before(apply: Apply) -> None:
    text = "upstreams: {up: builtin:echo}\nroutes: [{name: a, prefix: /a, upstream: up}, {name: all, upstream: up}]\n"
    gateway = apply(f"{text}rules: [{{name: other, match: {{path: /other}}, body: x}}]")
    with contextlib.closing(http.client.HTTPConnection(*gateway.address, timeout=SECONDS)) as connection:
        connection.request("GET", "/a/b")
        assert connection.getresponse().read() == Upstream.BODY
        apply(f"{text}rules: [{{name: new, match: {{routes: a, regex: '/a/.*'}}, body: new}}]")
        connection.request("GET", "/a/b")
        assert connection.getresponse().read() == b"new"


THROTTLED = """
upstreams: {up: builtin:echo}
routes:
  - {name: limited, prefix: /limited, upstream: up, rate_limit: {requests: 2, per: 60s}}
  - {name: all, upstream: up}
rules:
  - {name: other, match: {prefix: /limited/b}, final: true, enable_on_status: [418], body: teapot}
  - {name: mock, match: {headers: {x-mock: "1"}}, body: mock}
  - {name: throttled, enable_on_status: [429], status_code: 302, headers: [Location=https://example.com]}
"""


def assert_redirected(response: Response) -> None:
    assert response.status == 302
    assert response.values("location") == ["https://example.com"]
    assert response.body == b""
    for name in UPSTREAM_ONLY:
        assert response.values(name) == []


def test_third_request_of_a_limited_route_is_redirected(apply: Apply) -> None:
    gateway = apply(THROTTLED)
    # The final rule on /limited/b makes two Envoy routes of the one in the file; they draw from one bucket.
    assert [gateway.ask("GET", "a.test", path).status for path in ("/limited", "/limited/b")] == [200, 200]
    assert_redirected(gateway.ask("GET", "a.test", "/limited"))
    assert gateway.ask("GET", "a.test", "/limited/b").status == 429
    assert gateway.ask("GET", "a.test", "/elsewhere").status == 200


def test_upstreams_own_429_is_redirected_too(apply: Apply) -> None:
    assert_redirected(apply(THROTTLED).ask("GET", "a.test", "/x", [("x-status", "429")]))


def test_statuses_that_no_rule_names_cause_no_ext_proc_stream(apply: Apply) -> None:
    gateway = apply(THROTTLED)
    only_for(gateway, Placement.EXT_PROC)
    counter = "ext_proc.streams_started"

    def streams() -> int:
        return sum(value for name, value in gateway.stats(counter).items() if name.endswith(counter))

    before = streams()
    for status in ("200", "404", "500", "503"):
        assert gateway.ask("GET", "a.test", "/x", [("x-status", status)]).status == int(status)
    assert streams() == before
    gateway.ask("GET", "a.test", "/x", [("x-status", "429")])
    assert streams() == before + 1


STATUSES = """
upstreams: {up: builtin:echo, dead: "http://127.0.0.1:1"}
routes:
  - {name: dead, prefix: /dead, upstream: dead}
  - {name: own, prefix: /own, respond: {status_code: 503, body: own}}
  - {name: up, prefix: /up, upstream: up}
rules:
  - {name: first, match: {prefix: /up/first}, enable_on_status: [500], status_code: 200, body: from first}
  - {name: early, match: {path: /up/mock}, enable_on_status: [503], body: early}
  - {name: mock, match: {path: /up/mock}, body: mock}
  - {name: shield, match: {prefix: /up/final}, final: true, enable_on_status: [500], body: from shield}
  - {name: mock-behind, match: {path: /up/final/mock}, body: mock}
  - name: errors
    match: {domains: ["*.example.com"]}
    rules:
      - {enable_on_status: [503], status_code: 503, body: exact, headers: [Set-Cookie=a=1, Set-Cookie=b=2]}
      - {enable_on_status: [50x], status_code: original, body: tens}
      - {enable_on_status: [5xx], status_code: original, body: hundreds}
      - {enable_on_status: [404], status_code: 404, body: nothing here}
  - {name: teapot, enable_on_status: [418, 503], body: teapot, match: {domains: [a.example.com]}}
"""


@pytest.mark.parametrize(
    ("path", "status", "host", "expected"),
    [
        pytest.param("/up", 503, "a.example.com", (503, b"exact"), id="exact before pattern"),
        pytest.param("/up", 502, "a.example.com", (502, b"tens"), id="more digits before fewer"),
        pytest.param("/up", 599, "a.example.com", (599, b"hundreds"), id="the pattern with one digit"),
        pytest.param("/up", 401, "a.example.com", (401, Upstream.BODY), id="no answer: it passes"),
        pytest.param(
            "/up", 418, "a.example.com", (418, b"teapot"), id="a rule without an answer keeps no later one away"
        ),
        pytest.param("/up", 503, "example.com", (503, Upstream.BODY), id="*.example.com is not example.com"),
        pytest.param("/up", 503, "a.b.EXAMPLE.com:8080", (503, b"exact"), id="letter case and port do not matter"),
        pytest.param("/up/first", 500, "a.example.com", (200, b"from first"), id="the first rule that fits decides"),
        pytest.param("/up/first", 503, "a.example.com", (503, b"exact"), id="the next one where it has no answer"),
        pytest.param("/up/first", 503, "b.test", (503, Upstream.BODY), id="nobody, if nothing else fits"),
        pytest.param("/up/mock", 503, "b.test", (200, b"mock"), id="an unconditional rule behind one on a status"),
        pytest.param("/up/final", 500, "a.example.com", (500, b"from shield"), id="a final rule's own answer"),
        pytest.param("/up/final", 503, "a.example.com", (503, Upstream.BODY), id="and nobody's behind it"),
        pytest.param("/up/final/mock", 200, "b.test", (200, Upstream.BODY), id="also not an unconditional one"),
        pytest.param("/dead", 200, "a.example.com", (503, b"exact"), id="503 of a dead upstream"),
        pytest.param("/nowhere", 200, "a.example.com", (404, b"nothing here"), id="404 of no route"),
        pytest.param("/nowhere", 200, "b.test", (404, b""), id="404 of no route, no rule"),
        pytest.param("/own", 200, "a.example.com", (503, b"own"), id="a route's own answer is final"),
    ],
)
def test_a_status_gets_its_answer(apply: Apply, path: str, status: int, host: str, expected: tuple[int, bytes]) -> None:
    response = apply(STATUSES).ask("GET", host, path, [("x-status", str(status))])
    assert (response.status, response.body) == expected
    if response.body == b"exact":
        assert response.values("set-cookie") == ["a=1", "b=2"]
    if response.body != Upstream.BODY:
        for name in UPSTREAM_ONLY:
            assert response.values(name) == []


def test_large_bodies_and_body_files(apply: Apply) -> None:
    body = "0123456789" * 900
    gateway = apply(
        f"""
        upstreams: {{up: builtin:echo}}
        routes:
          - {{name: native, prefix: /native, respond: {{body: "{body}"}}}}
          - {{name: all, upstream: up}}
        rules:
          - {{name: page, enable_on_status: [503], body_file: page.html}}
        """,
        **{"page.html": f"<p>{body}</p>"},
    )
    assert gateway.ask("GET", "a.test", "/native").body.decode() == body
    page = gateway.ask("GET", "a.test", "/x", [("x-status", "503")])
    assert page.body.decode() == f"<p>{body}</p>"
    assert page.values("content-type") == ["text/html; charset=utf-8"]
    assert page.status == 503


def test_head_gets_the_headers_without_the_body(apply: Apply) -> None:
    gateway = apply(STATUSES)
    response = gateway.ask("HEAD", "a.example.com", "/up", [("x-status", "503")])
    assert (response.status, response.body) == (503, b"")
    assert response.values("content-length") == ["5"]


def test_reload_under_load_fails_no_request(gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"

    def rules(generation: int) -> str:
        # Every kind of resource changes: upstreams, routes, rules and the statuses that the listener's filter lets by.
        return f"""
        upstreams: {{up: builtin:echo, spare{generation}: builtin:echo}}
        routes:
          - {{name: native, path: /native, respond: {{body: "{generation}"}}}}
          - {{name: r{generation}, upstream: spare{generation}}}
        rules:
          - {{name: e, enable_on_status: [503, {400 + generation}], status_code: 503, body: "{generation}"}}
        """

    file.write_text(rules(0))
    gateway.apply(ruleset(file))

    def ask() -> list[Response]:
        wrong = []
        for path, status, wanted in (("/native", "200", 200), ("/x", "200", 200), ("/x", "503", 503)):
            response = gateway.ask("GET", "a.test", path, [("x-status", status)])
            if response.status != wanted or (wanted == 503 and response.body == Upstream.BODY):
                wrong.append(response)
        return wrong

    with steadily(ask):
        for generation in range(1, 15):
            file.write_text(rules(generation))
            gateway.apply(ruleset(file))
            time.sleep(0.02)


def test_rejected_rules_are_rolled_back_and_reported_with_their_place(gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(
        "upstreams: {up: builtin:echo}\nroutes: [{name: all, upstream: up}]\nrules: [{name: a, body: good}]"
    )
    good = ruleset(file)
    gateway.apply(good)
    # Somebody else listens there: our files are fine, and only Envoy can know.
    with taken_port() as port:
        file.write_text(f"listen: [127.0.0.1:{port}]\nupstreams: {{up: builtin:echo}}\nrules: [{{name: b, body: bad}}]")
        bad = ruleset(file)
        built = gateway.build(bad, listeners=(Listener(*gateway.address), bad.listeners[0]))
        event = gateway.publish(built)
    assert isinstance(event, Nack), event
    assert "Address already in use" in event.message
    assert blame(event.message, built, None) == [f'{file}:1: listener "127.0.0.1:{port}"']
    gateway.wait_for(lambda: gateway.ask("GET", "a.test", "/").body == b"good")
    gateway.apply(good)


def test_ext_proc_service_killed_lets_responses_pass_and_back_again_answers(apply: Apply) -> None:
    gateway = apply(STATUSES)
    only_for(gateway, Placement.EXT_PROC)

    def ask() -> bytes:
        return gateway.ask("GET", "a.example.com", "/up", [("x-status", "503")]).body

    assert ask() == b"exact"
    gateway.run(gateway.processor.stop())
    assert ask() == Upstream.BODY
    gateway.run(gateway.processor.start(f"127.0.0.1:{gateway.ext_proc_port}"))
    gateway.wait_for(lambda: ask() == b"exact")
