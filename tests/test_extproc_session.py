"""One ext_proc stream by calls: which message leads to which, and what is in it."""

from __future__ import annotations

from typing import Any, Final

import pytest
from envoy_data_plane.envoy.service.ext_proc import v3 as ext_proc

from rejoinder.extproc.session import MAX_DRAINED, Rules, Session, request_of
from rejoinder.extproc.wire import Message, Other, RequestHeaders, ResponseHeaders, decode
from rejoinder.rules.answers import AnswerTable, answer_table
from rejoinder.rules.model import (
    Answer,
    Header,
    PathKind,
    PathMatch,
    Redirect,
    RequestMatch,
    Route,
    Rule,
    Ruleset,
    Scope,
    StatusPattern,
)
from rejoinder.rules.request import Request
from rejoinder.xds.protobuf import message_class

_ProcessingRequest: Final = message_class(ext_proc.ProcessingRequest)
_ProcessingResponse: Final = message_class(ext_proc.ProcessingResponse)


def _scope(path: str) -> Scope:
    return Scope(request=RequestMatch(PathMatch(PathKind.PREFIX, path)))


def _rule(name: str, path: str, *answers: Answer) -> Rule:
    return Rule(name, answers, _scope(path))


_BUSY: Final = Answer(
    503, (("set-cookie", "a=1"), ("set-cookie", "b=2"), ("etag", "x")), b'{"busy":1}', (StatusPattern("503"),)
)
_ORIGINAL: Final = Answer(None, (), b"it said so", (StatusPattern("5"),))
_RULES: Final = Rules(
    Ruleset(
        routes=(
            Route("robots", Answer(200, (), b"Disallow: /"), request=_scope("/robots.txt").request),
            Route("moved", Redirect(host="b.example"), request=_scope("/old").request),
        ),
        rules=(
            _rule("mock", "/mock", Answer(201, (("x-mock", "1"),), b"{}")),
            Rule("theirs", (Answer(202),), Scope(routes=("their-route",))),
            _rule("errors", "/api", _BUSY, _ORIGINAL),
        ),
    ),
    {},
)
_TABLE: Final = answer_table(_RULES.ruleset.rules[2:])


def _request(path: str, route_name: str | None = None) -> RequestHeaders:
    headers = ((":method", "GET"), (":scheme", "https"), (":authority", "A.example:443"), (":path", path))
    return RequestHeaders(headers, route_name)


def _response(status: int, *, length: int | None = 6, end: bool = False) -> ResponseHeaders:
    return ResponseHeaders(status, ("content-length", "etag", "server"), length, end)


def _parsed(message: bytes) -> Any:
    return _ProcessingResponse.FromString(message)


def _headers(mutation: Any) -> list[Header]:
    return [(option.header.key, option.header.raw_value.decode()) for option in mutation.set_headers]


@pytest.mark.parametrize(
    ("table", "messages", "sent", "rule"),
    [
        pytest.param(_TABLE, [_response(503)], ["response_headers"], "errors", id="managed-answered"),
        pytest.param(_TABLE, [_response(404)], [None], None, id="managed-passes"),
        pytest.param(_TABLE, [_response(0)], [None], None, id="managed-no-status"),
        pytest.param(AnswerTable(), [_response(503)], [None], None, id="managed-empty-table"),
        pytest.param(None, [_request("/mock")], ["immediate_response"], "mock", id="unconditional"),
        pytest.param(None, [_request("/robots.txt")], ["immediate_response"], "robots", id="route-answers"),
        pytest.param(None, [_request("/old/x")], ["immediate_response"], "moved", id="route-redirects"),
        pytest.param(None, [_request("/", "their-route")], ["immediate_response"], "theirs", id="route-of-envoy"),
        pytest.param(None, [_request("/")], [None], None, id="no-rule"),
        pytest.param(
            None, [_request("/api"), _response(503)], ["request_headers", "response_headers"], "errors", id="answered"
        ),
        pytest.param(None, [_request("/api"), _response(404)], ["request_headers", None], None, id="passes"),
        pytest.param(None, [_response(503)], [None], None, id="request-was-never-seen"),
    ],
)
def test_stream_leads_to(
    table: AnswerTable | None, messages: list[Message], sent: list[str | None], rule: str | None
) -> None:
    session = Session(_RULES, table)
    outputs = []
    for message in messages:
        assert not session.done
        outputs.append(session.on_message(message))
    assert session.done
    assert [_parsed(output.message).WhichOneof("response") for output in outputs] == sent
    assert [output.rule for output in outputs] == [None] * (len(messages) - 1) + [rule]
    assert {output.unexpected for output in outputs} == {None}


@pytest.mark.parametrize(
    ("table", "messages", "expected"),
    [
        pytest.param(_TABLE, [_request("/")], "expected the headers of a response, got RequestHeaders", id="managed"),
        pytest.param(None, [_request("/api"), _request("/api")], "expected the headers of a response", id="twice"),
        pytest.param(None, [Other("request_body")], "expected the headers of a request, got Other", id="body"),
        pytest.param(_TABLE, [Other("")], "expected the headers of a response, got Other(kind='')", id="nothing"),
    ],
)
def test_message_that_makes_no_sense_ends_the_stream_without_a_word(
    table: AnswerTable | None, messages: list[Message], expected: str
) -> None:
    session = Session(_RULES, table)
    *_, output = [session.on_message(message) for message in messages]
    assert session.done
    assert (output.message, output.rule) == (b"", None)
    assert (output.unexpected or "").startswith(expected)


@pytest.mark.parametrize(
    ("response", "form"),
    [
        pytest.param(_response(503), "response_headers", id="known-length"),
        pytest.param(_response(503, length=MAX_DRAINED), "response_headers", id="longest"),
        pytest.param(_response(503, length=MAX_DRAINED + 1), "immediate_response", id="too-long"),
        pytest.param(_response(503, length=None), "immediate_response", id="unknown-length"),
        pytest.param(_response(503, length=0, end=True), "immediate_response", id="no-body"),
        pytest.param(_response(503, length=6, end=True), "immediate_response", id="head"),
    ],
)
def test_reply_is_written_over_a_body_that_is_known_to_end_soon(response: ResponseHeaders, form: str) -> None:
    assert _parsed(Session(_RULES, _TABLE).on_message(response).message).WhichOneof("response") == form


def test_written_over_reply_removes_all_headers_and_sets_its_own() -> None:
    message = _parsed(Session(_RULES, _TABLE).on_message(_response(503)).message)
    response = message.response_headers.response
    assert response.status == ext_proc.CommonResponseResponseStatus.CONTINUE_AND_REPLACE
    assert sorted(response.header_mutation.remove_headers) == ["content-length", "etag", "server"]
    content_type = ("content-type", "application/json; charset=utf-8")
    assert _headers(response.header_mutation) == [(":status", "503"), content_type, *_BUSY.headers]
    assert [option.append.value for option in response.header_mutation.set_headers] == [False] * 3 + [True, False]
    assert response.body_mutation.body == _BUSY.body
    assert message.dynamic_metadata["rejoinder"]["rule"] == "errors"


def test_immediate_reply_has_status_headers_body_and_the_rule() -> None:
    message = _parsed(Session(_RULES, _TABLE).on_message(_response(503, length=None)).message)
    reply = message.immediate_response
    assert (reply.status.code, reply.body, reply.details) == (503, _BUSY.body, "rejoinder:errors")
    assert _headers(reply.headers) == [("content-type", "application/json; charset=utf-8"), *_BUSY.headers]
    assert not reply.headers.remove_headers
    assert message.dynamic_metadata["rejoinder"]["rule"] == "errors"


def test_details_have_no_spaces() -> None:
    rules = Rules(Ruleset(rules=(_rule("a  b\tc", "/", Answer(200)),)), {})
    message = _parsed(Session(rules).on_message(_request("/")).message)
    assert message.immediate_response.details == "rejoinder:a_b_c"


def test_original_status_is_that_of_each_response() -> None:
    def status(upstream: int) -> str:
        message = _parsed(Session(_RULES, _TABLE).on_message(_response(upstream)).message)
        return dict(_headers(message.response_headers.response.header_mutation))[":status"]

    assert [status(upstream) for upstream in (500, 599, 500)] == ["500", "599", "500"]


def test_reply_is_encoded_once() -> None:
    choice = _TABLE.choose(503)
    assert choice is not None
    assert _RULES.ready(choice, 503) is _RULES.ready(choice, 503)


def test_request_is_taken_as_envoy_sends_it() -> None:
    headers = (
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "A.example:8443"),
        (":path", "/a//b?x=1?y"),
        ("accept", "a"),
        ("accept", "b"),
    )
    assert request_of(headers) == Request(
        method="POST",
        host="a.example",
        path="/a//b",
        query="x=1?y",
        headers=(("accept", "a"), ("accept", "b")),
        scheme="https",
        authority="A.example:8443",
    )
    assert request_of(((":path", "*"),)).path == "*"


def _encoded(kind: str, headers: list[tuple[str, bytes]], *, end: bool = False, route_name: str | None = None) -> bytes:
    message = _ProcessingRequest()
    part = getattr(message, kind)
    part.end_of_stream = end
    for key, value in headers:
        part.headers.headers.add(key=key, raw_value=value)
    if route_name is not None:
        message.attributes["a.filter"]["xds.route_name"] = route_name
    encoded: bytes = message.SerializeToString()
    return encoded


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(
            _encoded("request_headers", [(":path", b"/\xc3\xa4"), ("a", b"\xff")]),
            RequestHeaders(((":path", "/ä"), ("a", "\ufffd")), None),
            id="request",
        ),
        pytest.param(_encoded("request_headers", [], route_name="r"), RequestHeaders((), "r"), id="route-name"),
        pytest.param(_encoded("request_headers", [], route_name=""), RequestHeaders((), None), id="unnamed-route"),
        pytest.param(
            _encoded("response_headers", [(":status", b"503"), ("content-length", b"12"), ("a", b""), ("a", b"")]),
            ResponseHeaders(
                503, ("content-length", "a", "a"), 12, False, (("content-length", "12"), ("a", ""), ("a", ""))
            ),
            id="response",
        ),
        pytest.param(
            _encoded("response_headers", [(":status", b"x"), ("content-length", b"-1")], end=True),
            ResponseHeaders(0, ("content-length",), None, True, (("content-length", "-1"),)),
            id="odd-numbers",
        ),
        pytest.param(
            _ProcessingRequest(
                response_headers={"headers": {"headers": [{"key": ":status", "value": "200"}]}}
            ).SerializeToString(),
            ResponseHeaders(200, (), None, False),
            id="value-as-text",
        ),
        pytest.param(_ProcessingRequest(response_body={}).SerializeToString(), Other("response_body"), id="body"),
        pytest.param(b"", Other(""), id="nothing"),
    ],
)
def test_decode(data: bytes, expected: Message) -> None:
    assert decode(data) == expected
