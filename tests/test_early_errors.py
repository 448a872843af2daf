"""What Envoy refuses before any filter has seen it: answered once, or left alone, in each of the four ways."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import http.client
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from gateway import Gateway, ruleset
from http2_bytes import OPENING, frames, headers
from machine import SECONDS, Response

from rejoinder.extproc.frames import END_HEADERS, END_STREAM, Frame
from rejoinder.extproc.headers import encode
from rejoinder.rules.model import Ruleset
from rejoinder.rules.program import compile_rules
from rejoinder.xds.events import Accepted
from rejoinder.xds.translate import Placement
from rejoinder.xds.translate.early_errors import local_reply_config
from rejoinder.xds.translate.encode import snapshot

BODY: Final = "<p>100% é %LOCAL_REPLY_BODY% ours"
RULES: Final = f"""
upstreams: {{echo: builtin:echo}}
routes:
  - {{name: own, path: /own, respond: {{status_code: 400, body: its own}}}}
  - {{name: all, upstream: echo}}
rules:
  - {{name: some, match: {{domains: some.test}}, enable_on_status: [4xx], body: for some}}
  - name: early
    enable_on_status: [4xx]
    headers: {{content-type: text/html, x-percent: "100%", set-cookie: [a=1, b=2]}}
    body: "{BODY}"
"""
GET: Final = b"GET / HTTP/1.1\r\nhost: a.test\r\n"
REFUSED: Final = {
    # what is sent: (the bytes, the status)
    "no request line": (b"no request\r\n\r\n", 400),
    "not HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "no path": (b"GET a HTTP/1.1\r\nhost: a.test\r\n\r\n", 400),
    "a method that there is not": (b"METHOD / HTTP/1.1\r\nhost: a.test\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "a host that is none": (b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n", 400),
    "a header with a NUL": (GET + b"x: a\0b\r\n\r\n", 400),
    "two lengths": (GET + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", 400),
    "100 kB of headers": (GET + b"x: " + b"x" * 100_000 + b"\r\n\r\n", 431),
    "200 headers": (GET + b"x: 1\r\n" * 200 + b"\r\n", 431),
}


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Ruleset:
    return _rules(tmp_path_factory.mktemp("rules"), RULES)


@pytest.fixture(scope="module")
def answering(any_gateway: Gateway, rules: Ruleset) -> Gateway:
    any_gateway.apply(rules)
    return any_gateway


def _rules(folder: Path, text: str) -> Ruleset:
    path = folder / "rules.yaml"
    path.write_text(text, encoding="utf-8")
    return ruleset(path)


@contextlib.contextmanager
def _sent(gateway: Gateway, data: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(gateway.address, SECONDS) as client:
        client.sendall(data)
        yield client


def _asked(gateway: Gateway, data: bytes) -> Response:
    """The only response to some bytes, behind which the connection ends."""
    with _sent(gateway, data) as client, contextlib.closing(http.client.HTTPResponse(client)) as response:
        response.begin()
        answer = Response(
            response.status, [(name.lower(), value) for name, value in response.getheaders()], response.read()
        )
        with contextlib.suppress(ConnectionResetError):  # Envoy has not read all
            assert client.recv(1) == b"", "there is more"
        return answer


def _streams(gateway: Gateway) -> int:
    return sum(gateway.stats(r"ext_proc\.streams_started$").values())


def _answers(gateway: Gateway) -> bool:
    # ext_proc beside an Envoy that is not ours must let such responses pass, and nothing else answers them there.
    return not gateway.foreign or gateway.conditional is Placement.MODULE


def _is_answer(gateway: Gateway, response: Response, status: int) -> None:
    assert response.status == status
    if _answers(gateway):
        assert response.body.decode() == BODY
        assert response.values("content-type") == ["text/html"]
        assert response.values("x-percent") == ["100%"]
        assert response.values("set-cookie") == ["a=1", "b=2"]
    else:
        assert response.body.decode() in ("", "Bad Request", "Request Header Fields Too Large", "request timeout")
        assert response.values("x-percent") == []


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_answered_once(answering: Gateway, data: bytes, status: int) -> None:
    streams = _streams(answering)
    _is_answer(answering, _asked(answering, data), status)
    assert _streams(answering) == streams, "ext_proc is asked about it"


def test_what_others_say_is_theirs(answering: Gateway) -> None:
    assert answering.ask("GET", "a.test", "/own").body == b"its own"
    # A path that is refused is no rule's, in any placement.
    assert answering.ask("GET", "a.test", "/a%00").body == b""
    answer = answering.ask("GET", "a.test", "/", [("x-status", "400")])
    assert (answer.status, answer.body.decode(), answer.values("set-cookie")) == (400, BODY, ["a=1", "b=2"])
    assert answering.ask("GET", "some.test", "/", [("x-status", "408")]).body == b"for some"


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(((":nope", "1"),), id="an unknown pseudo header"),
        pytest.param((("X", "1"),), id="upper case"),
        pytest.param(tuple((f"x-{number}", "x" * 1000) for number in range(100)), id="100 kB of headers"),
    ],
)
def test_over_http2_envoy_has_no_words_for_what_it_refuses(
    answering: Gateway, more: tuple[tuple[str, str], ...]
) -> None:
    block = encode(((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test"), *more))
    cut = [block[start : start + 16_000] for start in range(0, len(block), 16_000)]
    sent = OPENING + headers(1, cut[0], END_STREAM | (END_HEADERS if len(cut) == 1 else 0))
    for number, part in enumerate(cut[1:], 2):
        sent += headers(1, part, END_HEADERS if number == len(cut) else 0).replace(
            bytes((Frame.HEADERS,)), bytes((Frame.CONTINUATION,)), 1
        )
    with _sent(answering, sent) as client:
        came = b""
        with contextlib.suppress(ConnectionError):
            while not any(frame.kind in (Frame.RST_STREAM, Frame.GOAWAY) for frame in frames(came)):
                if not (part := client.recv(65_536)):
                    break
                came += part
    assert not any(frame.kind in (Frame.HEADERS, Frame.DATA) for frame in frames(came))


def test_a_request_that_does_not_come_to_its_end_is_answered_once(any_gateway: Gateway, rules: Ruleset) -> None:
    any_gateway.apply(rules)
    built = any_gateway.build(rules)
    listeners = copy.deepcopy(built.configuration.listeners)
    for listener in listeners:
        listener["filter_chains"][0]["filters"][0]["typed_config"]["request_timeout"] = "0.3s"
    hurried = snapshot(dataclasses.replace(built.configuration, listeners=listeners))
    assert isinstance(any_gateway.publish(dataclasses.replace(built, snapshot=hurried)), Accepted)
    any_gateway.wait_for(lambda: _asked(any_gateway, GET).status == 408)
    _is_answer(any_gateway, _asked(any_gateway, GET), 408)


@pytest.mark.parametrize("foreign", [False, True])
def test_no_handler_holds_what_is_refused(tmp_path: Path, foreign: bool) -> None:
    rules_ = """
    upstreams: {echo: builtin:echo}
    routes: [{name: all, upstream: echo}]
    rules:
      - {name: handled, match: {path: /handled}, enable_on_status: [404], handler: "problem:page"}
      - {name: large, enable_on_status: [431], body: too large}
      - {name: wrong, enable_on_status: [400], status_code: 302, headers: {location: /}}
    """
    with Gateway(foreign=foreign) as gateway:
        gateway.apply(_rules(tmp_path, rules_))
        large = _asked(gateway, REFUSED["200 headers"][0])
        assert (large.status, large.body == b"too large") == (431, not foreign)
        # ext_proc would be asked about a 302, for all it knows.
        assert _asked(gateway, REFUSED["no path"][0]).status == 400


# ---- which rules the connection manager has answers of

TABLE: Final = {
    "of every request": ("{enable_on_status: [431], body: a}", {431: "a"}),
    "by pattern": ("{enable_on_status: [41x, 431], body: a}", {413: "a", 431: "a"}),
    "one status": ("{enable_on_status: [400], status_code: 302, headers: [location=/], body: a}", {400: "a"}),
    "without a body": ("{enable_on_status: [400], status_code: 204}", {400: ""}),
    "Envoy's own": ("{enable_on_status: [400], source: local, body: a}", {400: "a"}),
    "an upstream's": ("{enable_on_status: [400], source: upstream, body: a}", {}),
    "of some requests": ("{enable_on_status: [400], match: {path: /a}, body: a}", {}),
    "not of some": ("{enable_on_status: [400], unless: {path: /a}, body: a}", {}),
    "none such": ("{enable_on_status: [5xx, 404], body: a}", {}),
    "before any": ("{body: a}", {}),
    "depends on who asks": ("{enable_on_status: [400], page: builtin}", {}),
    "a trial": ("{enable_on_status: [400], observe: true, body: a}", {}),
    "the first": ("{enable_on_status: [400], body: a}, {enable_on_status: [4x0, 431], body: b}", {400: "a", 431: "b"}),
    "a first one about some": (
        "{enable_on_status: [431], match: {path: /a}, body: a, final: true}, {enable_on_status: [431], body: b}",
        {431: "b"},
    ),
    "a final one": ("{enable_on_status: [404], body: a, final: true}, {enable_on_status: [400], body: b}", {}),
    "passes": ("{enable_on_status: [431], pass: true}, {enable_on_status: [431, 400], body: b}", {400: "b"}),
    "a status that rules are about": ("{enable_on_status: [431, 404], status_code: 404, body: a}", {}),
    "any status, beside a handler": (
        "{enable_on_status: [404], handler: 'a:b'}, {enable_on_status: [431], status_code: 302, body: a}",
        {},
    ),
    "the same status, beside a handler": (
        "{enable_on_status: [404], handler: 'a:b'}, {enable_on_status: [431], body: a}",
        {431: "a"},
    ),
    "two of these": ("{enable_on_status: [431, 400], status_code: 400, body: a}", {400: "a", 431: "a"}),
}


@pytest.mark.parametrize(("text", "answers"), TABLE.values(), ids=TABLE)
def test_which_rules_answer(tmp_path: Path, text: str, answers: dict[int, str]) -> None:
    named = ", ".join(
        f"{{name: r{number}, {line[1:]}" for number, line in enumerate(text.replace("}, {", "}\n{").split("\n"))
    )
    rules_ = _rules(tmp_path, f"rules: [{named}]")
    bodies: dict[int, str] = {}
    for mapper in local_reply_config(compile_rules(rules_.rules)).get("mappers", ()):
        expression = mapper["filter"]["extension_filter"]["typed_config"]["expression"]
        statuses = expression.partition("[")[2].partition("]")[0].split(", ")
        bodies |= {status: mapper.get("body", {}).get("inline_string", "") for status in map(int, statuses)}
    assert bodies == answers
