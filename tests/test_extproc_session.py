"""One ext_proc stream by calls: which message leads to which, and what is in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest

from rejoinder.extproc.session import Output, Rules, Session
from rejoinder.extproc.wire import PASS_REQUEST, Message, Other, RequestHeaders, ResponseHeaders, decode
from rejoinder.rules import attributes
from rejoinder.rules.answers import Asked
from rejoinder.rules.handlers import HandlerError, Reply
from rejoinder.rules.model import Answer, Header, PathKind, PathMatch, RequestMatch, Rule, Scope, StatusPattern
from rejoinder.rules.program import compile_rules
from rejoinder.rules.request import Request, Response
from rejoinder.xds.protobuf import message_class

_ProcessingRequest: Final = message_class("envoy.service.ext_proc.v3.ProcessingRequest")
_ProcessingResponse: Final = message_class("envoy.service.ext_proc.v3.ProcessingResponse")


def _rule(name: str, path: str, *answers: Answer) -> Rule:
    return Rule(name, answers, Scope(request=RequestMatch(PathMatch(PathKind.PREFIX, path))))


_BUSY: Final = Answer(
    503, (("set-cookie", "a=1"), ("set-cookie", "b=2"), ("etag", "x")), b'{"busy":1}', (StatusPattern("503"),)
)
_ORIGINAL: Final = Answer(None, (), b"it said so", (StatusPattern("5"),))
_HANDLED: Final = Answer(enable_on_status=(StatusPattern("418"),), handler="teapots:pot")
_PLAIN: Final = (
    _rule("mock", "/mock", Answer(201, (("x-mock", "1"),), b"{}")),
    Rule("theirs", (Answer(202),), Scope(routes=("their-route",))),
    _rule("errors", "/api", _BUSY, _ORIGINAL),
)


def _pot(request: Any, response: Any) -> Reply | None:
    if request.query == "pass":
        return None
    if request.query == "fail":
        raise ValueError("cold")
    return Reply(response.status, (), f"{request.route} {request.path} {response.header('x-from')}".encode())


_RULES: Final = Rules(compile_rules(_PLAIN))
_WITH_HANDLERS: Final = Rules(compile_rules((*_PLAIN, _rule("pots", "/tea", _HANDLED))))


def _told(session: Session, message: Message) -> Output:
    """What a message leads to, with the handler called that it calls for."""
    output = session.on_message(message)
    if (call := output.call) is None:
        return output
    assert not session.done
    try:
        made: Reply | HandlerError | None = _pot(call.request, call.response)
    except ValueError:
        made = HandlerError()
    return session.on_reply(call, made)


def _request(path: str, route_name: str = "") -> RequestHeaders:
    headers = ((":method", "GET"), (":scheme", "https"), (":authority", "A.example:443"), (":path", path))
    return RequestHeaders(headers, {attributes.ROUTE_NAME: route_name})


def _response(status: int, path: str = "/api", details: str = "via_upstream") -> ResponseHeaders:
    told = {attributes.PATH: path, attributes.CODE_DETAILS: details}
    return ResponseHeaders(status, (("x-from", "up"),), told)


def _parsed(message: bytes) -> Any:
    return _ProcessingResponse.FromString(message)


def _headers(mutation: Any) -> list[Header]:
    return [(option.header.key, option.header.raw_value.decode()) for option in mutation.set_headers]


@pytest.mark.parametrize(
    ("rules", "messages", "sent", "rule"),
    [
        pytest.param(_RULES, [_response(503)], ["immediate_response"], "errors", id="answered"),
        pytest.param(_RULES, [_response(404)], [None], None, id="no-rule-for-the-status"),
        pytest.param(_RULES, [_response(503, "/other")], [None], None, id="no-rule-for-the-request"),
        pytest.param(_RULES, [_response(0)], [None], None, id="no-status"),
        pytest.param(_RULES, [_response(503, details="direct_response")], [None], None, id="route-answers"),
        pytest.param(_RULES, [_response(503, details="rejoinder:errors")], [None], None, id="answered-already"),
        pytest.param(_RULES, [_response(503, details="upstream_reset")], ["immediate_response"], "errors", id="local"),
        pytest.param(_RULES, [_request("/mock")], ["immediate_response"], "mock", id="unconditional"),
        pytest.param(_RULES, [_request("/", "their-route")], ["immediate_response"], "theirs", id="route-of-envoy"),
        pytest.param(_RULES, [_request("/api")], [None], None, id="conditional-needs-no-request"),
        pytest.param(_RULES, [_response(503, "/mock")], [None], None, id="unconditional-at-a-response"),
        pytest.param(
            _WITH_HANDLERS,
            [_request("/tea"), _response(418)],
            ["request_headers", "immediate_response"],
            "pots",
            id="handler",
        ),
        pytest.param(
            _WITH_HANDLERS,
            [_request("/tea?pass"), _response(418)],
            ["request_headers", None],
            None,
            id="handler-passes",
        ),
        pytest.param(_WITH_HANDLERS, [_response(418, "/tea")], [None], None, id="handler-without-request"),
        pytest.param(
            _WITH_HANDLERS,
            [_request("/api"), _response(503)],
            ["request_headers", "immediate_response"],
            "errors",
            id="request-and-response",
        ),
    ],
)
def test_stream_leads_to(rules: Rules, messages: list[Message], sent: list[str | None], rule: str | None) -> None:
    session = Session(rules)
    outputs = []
    for message in messages:
        assert not session.done
        outputs.append(_told(session, message))
    assert session.done
    assert [_parsed(output.message).WhichOneof("response") for output in outputs] == sent
    assert [output.rule for output in outputs] == [None] * (len(messages) - 1) + [rule]
    assert {output.unexpected for output in outputs} == {None}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        pytest.param(
            [_request("/tea"), _request("/tea")], "expected headers (response), got RequestHeaders", id="twice"
        ),
        pytest.param([Other()], "expected headers (start), got Other", id="body"),
    ],
)
def test_message_that_makes_no_sense_ends_the_stream_without_a_word(messages: list[Message], expected: str) -> None:
    session = Session(_WITH_HANDLERS)
    *_, output = [session.on_message(message) for message in messages]
    assert session.done
    assert (output.message, output.rule) == (b"", None)
    assert (output.unexpected or "").startswith(expected)


def test_handler_sees_request_response_and_route() -> None:
    session = Session(_WITH_HANDLERS)
    session.on_message(_request("/tea/green?x", "tea-route"))
    reply = _parsed(_told(session, _response(418)).message).immediate_response
    assert (reply.status.code, reply.body) == (418, b"tea-route /tea/green up")


def test_handler_that_fails_lets_the_response_pass() -> None:
    session = Session(_WITH_HANDLERS)
    session.on_message(_request("/tea?fail"))
    output = _told(session, _response(418))
    assert (output.message, output.rule) == (b"", None)


@pytest.mark.parametrize("query", ["pass", "fail"])
def test_handler_of_requests_that_makes_no_reply_leaves_the_response_to_the_others(query: str) -> None:
    mock = _rule("mock", "/tea", Answer(handler="teapots:mock"))
    session = Session(Rules(compile_rules((mock, _rule("pots", "/tea", _HANDLED)))))
    output = session.on_message(_request(f"/tea?{query}"))
    assert output.call is not None
    output = session.on_reply(output.call, None if query == "pass" else HandlerError())
    assert output.message == PASS_REQUEST
    call = session.on_message(_response(418)).call
    assert call is not None
    assert (call.choice.answer.handler, call.choice.rule) == ("teapots:pot", "pots")


def _watching(*rules: Rule) -> Session:
    trials = (
        Rule("asked", (Answer(),), observe=True),
        Rule("came", (Answer(enable_on_status=(StatusPattern(""),)),), observe=True),
    )
    return Session(Rules(compile_rules((*trials, *rules))))


@pytest.mark.parametrize(
    ("session", "messages", "told"),
    [
        pytest.param(_watching(*_PLAIN), [_request("/mock")], ["asked"], id="answered at once"),
        pytest.param(_watching(*_PLAIN), [_response(503)], ["came"], id="answered"),
        pytest.param(_watching(), [_response(503)], ["came"], id="passed"),
        pytest.param(
            _watching(_rule("pots", "/tea", _HANDLED)),
            [_request("/tea?pass"), _response(418)],
            ["asked", ""],
            id="the handler passes, and the other stream is asked",
        ),
        pytest.param(
            _watching(_rule("pots", "/tea", _HANDLED)),
            [_request("/tea"), _response(418)],
            ["asked", "came"],
            id="the handler answers, and no other stream is asked",
        ),
        pytest.param(
            _watching(_rule("pots", "/tea", _HANDLED), *_PLAIN),
            [_request("/api"), _response(503)],
            ["asked", "came"],
            id="another rule answers, and no other stream is asked",
        ),
    ],
)
def test_who_only_observes_is_told_once(session: Session, messages: list[Message], told: list[str]) -> None:
    outputs = [_told(session, message) for message in messages]
    assert [",".join(output.seen.observed) for output in outputs] == told
    metadata = [_parsed(output.message).dynamic_metadata for output in outputs]
    assert [fields["rejoinder"]["observed"] if "rejoinder" in fields else "" for fields in metadata] == told


_SHIELD = Rule("shield", (), Scope(request=RequestMatch(PathMatch(PathKind.EXACT, "/a"))), final=True)
_LET = Rule("let", (Answer(enable_on_status=(StatusPattern("503"),), passes=True),))
_ERRORS = Rule("errors", (Answer(enable_on_status=(StatusPattern("5"),)),))


@pytest.mark.parametrize(
    ("rules", "path", "told"),
    [
        pytest.param((_LET, _ERRORS), "/a", ["", "let"], id="for a status"),
        pytest.param((_SHIELD, _ERRORS), "/a", ["", "shield"], id="for every status"),
        pytest.param((_SHIELD, _ERRORS), "/b", ["", ""], id="another request's"),
        pytest.param((_SHIELD, _rule("mock", "/a", Answer()), _LET), "/a", ["shield", ""], id="told when it was asked"),
        pytest.param((_SHIELD, _rule("mock", "/b", Answer()), _LET), "/a", ["", "shield"], id="nothing was kept away"),
        pytest.param((replace(_LET, observe=True), _ERRORS), "/b", ["", ""], id="a trial"),
        pytest.param((replace(_ERRORS, final=True), _LET), "/b", ["", ""], id="behind one that answers"),
    ],
)
def test_who_lets_something_pass_is_told_once(rules: tuple[Rule, ...], path: str, told: list[str]) -> None:
    of_rules = Rules(compile_rules(rules))
    outputs = [Session(of_rules).on_message(message) for message in (_request(path), _response(503, path))]
    assert [output.seen.passed for output in outputs] == told
    metadata = [_parsed(output.message).dynamic_metadata for output in outputs]
    assert [struct.fields["rejoinder"].struct_value.fields["passed"].string_value for struct in metadata] == told


def test_reply_has_status_headers_body_and_the_rule() -> None:
    message = _parsed(Session(_RULES).on_message(_response(503)).message)
    reply = message.immediate_response
    assert (reply.status.code, reply.body, reply.details) == (503, _BUSY.body, "rejoinder:errors")
    assert _headers(reply.headers) == [("content-type", "application/json; charset=utf-8"), *_BUSY.headers]
    assert [option.append.value for option in reply.headers.set_headers] == [False] * 2 + [True, False]
    assert not reply.headers.remove_headers
    assert message.dynamic_metadata["rejoinder"]["rule"] == "errors"


def test_a_header_that_is_kept_may_be_no_utf_8() -> None:
    answer = Answer(None, enable_on_status=(StatusPattern("503"),), keep_headers=("*",))
    rules = Rules(compile_rules([_rule("r", "/", answer)]))
    came = ResponseHeaders(503, (("x-a", "caf\udce9"),), {})
    (header,) = _parsed(Session(rules).on_message(came).message).immediate_response.headers.set_headers
    assert (header.header.key, header.header.raw_value) == ("x-a", b"caf\xe9")


def test_details_have_no_spaces() -> None:
    rules = Rules(compile_rules([_rule("a  b\tc", "/", Answer(200))]))
    message = _parsed(Session(rules).on_message(_request("/")).message)
    assert message.immediate_response.details == "rejoinder:a_b_c"


def test_original_status_is_that_of_each_response() -> None:
    def status(upstream: int) -> int:
        code: int = _parsed(Session(_RULES).on_message(_response(upstream)).message).immediate_response.status.code
        return code

    assert [status(upstream) for upstream in (500, 599, 500)] == [500, 599, 500]


def test_reply_is_encoded_once() -> None:
    request = Request("GET", "a.example", "/api")
    choices = [_RULES.program.on_status(request, None, Response(503)) for _ in range(2)]
    assert choices[0] is not None
    assert choices[0] is choices[1]
    asked = Asked(request)
    assert _RULES.ready(choices[0], 503, asked) is _RULES.ready(choices[0], 503, asked)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        pytest.param(
            {
                attributes.METHOD: "POST",
                attributes.HOST: "A.example:8443",
                attributes.PATH: "/a//b?x=1?y",
                attributes.HEADER % "accept": "a,b",
            },
            Request("POST", "a.example", "/a//b", "x=1?y", (("accept", "a,b"),), authority="A.example:8443"),
            id="all",
        ),
        pytest.param(
            {attributes.HEADER % "x-a": "a,b, c", attributes.HEADER % "via": "a,b"},
            Request("", "", "", headers=(("x-a", "a,b, c"), ("x-a", "a"), ("x-a", "b, c"), ("via", "a,b"))),
            id="headers-in-several-lines",
        ),
        pytest.param({attributes.PATH: "*"}, Request("", "", "*"), id="no-path"),
        pytest.param(
            {attributes.PATH: "/new", attributes.ORIGINAL_PATH: "/old?q"},
            Request("", "", "/old", "q", (("x-envoy-original-path", "/old?q"),)),
            id="rewritten-path",
        ),
        pytest.param(
            {attributes.HOST: "new", attributes.ORIGINAL_HOST: "old:80"},
            Request("", "old", "", authority="old:80"),
            id="rewritten-host",
        ),
    ],
)
def test_request_is_taken_as_envoy_tells_it(told: dict[str, str], expected: Request) -> None:
    assert attributes.request_of(told) == expected


def _encoded(kind: str, headers: list[tuple[str, bytes]], told: dict[str, str] | None = None) -> bytes:
    message = _ProcessingRequest()
    part = getattr(message, kind)
    part.end_of_stream = False
    for key, value in headers:
        part.headers.headers.add(key=key, raw_value=value)
    for name, said in (told or {}).items():
        message.attributes["a.filter"][name] = said
    encoded: bytes = message.SerializeToString()
    return encoded


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(
            _encoded("request_headers", [(":path", b"/\xc3\xa4"), ("a", b"\xff")]),
            RequestHeaders(((":path", "/ä"), ("a", "\udcff")), {}),
            id="request",
        ),
        pytest.param(
            _encoded("request_headers", [], {"xds.route_name": "r"}),
            RequestHeaders((), {"xds.route_name": "r"}),
            id="attributes",
        ),
        pytest.param(
            _encoded("response_headers", [(":status", b"503"), ("a", b""), ("a", b"1")]),
            ResponseHeaders(503, (("a", ""), ("a", "1")), {}),
            id="response",
        ),
        pytest.param(_encoded("response_headers", [(":status", b"x")]), ResponseHeaders(0, (), {}), id="odd-number"),
        pytest.param(
            _ProcessingRequest(
                response_headers={"headers": {"headers": [{"key": ":status", "value": "200"}]}}
            ).SerializeToString(),
            ResponseHeaders(200, (), {}),
            id="value-as-text",
        ),
        pytest.param(
            _encoded("response_headers", [], {"a": "12"}).replace(b"12", b"\xff1"),
            ResponseHeaders(0, (), {"a": "\udcff1"}),
            id="attribute-that-is-no-utf8",
        ),
        pytest.param(_ProcessingRequest(response_body={}).SerializeToString(), Other(), id="body"),
        pytest.param(
            _encoded("response_headers", [], {"aa": "1"}).replace(b"aa", b"\xffa"),
            ResponseHeaders(0, (), {"\udcffa": "1"}),
            id="attribute-with-a-name-that-is-no-utf8",
        ),
        pytest.param(b"", Other(), id="nothing"),
        pytest.param(b"\xff\xff", Other(), id="garbage"),
    ],
)
def test_decode(data: bytes, expected: Message) -> None:
    assert decode(data) == expected
