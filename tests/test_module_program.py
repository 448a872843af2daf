"""The module's core reads the bytes of a program and says what `decide` says: about any rules and requests."""

from __future__ import annotations

import ctypes
import datetime
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import core
import handmade as h
import pytest
from core import Core, RejectedError
from gateway import Upstream, ruleset
from hypothesis import given, settings
from hypothesis import strategies as st
from random_rules import requests as requests_strategy
from random_rules import rule_files
from test_program import rules_of

from rejoinder.rules.answers import Asked, Choice, Reply
from rejoinder.rules.decide import NO_ROUTE_STATUS, decide
from rejoinder.rules.model import STATUSES, Rule, Ruleset
from rejoinder.rules.program import Seen, compile_rules
from rejoinder.rules.program_bytes import encode
from rejoinder.rules.request import LOCAL, UPSTREAM, Request, Response


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("core") / "libprogram.so"
    return core.library(core.compiled(target, core.of_core(*core.PROGRAM), "-shared", "-fPIC", "-O2"))


def reads(loaded: ctypes.CDLL, data: bytes) -> closing[Core]:
    return closing(Core(loaded, data))


CLIENTS = ("127.0.0.1", "10.1.2.3", "192.0.2.7", "::1", "2001:db8::7", "::ffff:127.0.0.9", "fe80::1%eth0", "")
RESPONSE_HEADERS = (*Upstream.HEADERS, ("etag", "1"), ("x-from", "xéz"), ("x-from", ""), ("content-length", "9"))
NOW = 1_800_000_000

responses = st.builds(
    Response,
    st.sampled_from((100, 199, 200, 201, 204, 302, 304, 404, 418, 429, 500, 502, 503, 599)),
    st.lists(st.sampled_from(RESPONSE_HEADERS), max_size=4).map(tuple),
    st.sampled_from((UPSTREAM, LOCAL)),
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    request, _, _ = draw(requests_strategy())
    more = draw(st.lists(st.sampled_from((("x-request-id", "id"), ("x-a", "more"), ("accept-language", "fr, de")))))
    return replace(
        request,
        headers=(*request.headers, *more),
        scheme=draw(st.sampled_from(("http", "https"))),
        client=draw(st.sampled_from(CLIENTS)),
    )


def meant(rules: tuple[Rule, ...], request: Request, route: str, response: Response) -> list[Any]:
    """What `decide` says about a request, and about a response if it says nothing; each behind who observes it, and
    with whom the program in Python has let it pass."""
    decision = decide(Ruleset(rules=rules), request, route_name=route)
    at_once = [*decision.observed]
    asked = Asked(request, route or None, time=datetime.datetime.fromtimestamp(NOW, datetime.UTC).strftime(RFC_3339))
    if decision.rule:
        choice = Choice(decision.rule.name, decision.rule.answers[0])
        return [Seen(at_once), sent(choice, NO_ROUTE_STATUS, asked), Seen(), None]
    observed: list[str] = []
    chosen = decision.choose(response, observed) if response.status in STATUSES else None
    program, first, later = compile_rules(rules), Seen(), Seen()
    program.on_request(request, route or None, first)
    program.on_status(request, route or None, response, later)
    first, later = Seen(at_once, first.passed), Seen(observed, later.passed)
    return [first, None, later, sent(chosen, response.status, replace(asked, response=response))]


RFC_3339 = "%Y-%m-%dT%H:%M:%SZ"


def sent(choice: Choice | None, status: int, asked: Asked) -> Any:
    if choice is None:
        return None
    return choice.rule, Reply(0, (), b"") if choice.answer.handler else ordered(choice.reply(status, asked))


def ordered(reply: Reply) -> Reply:
    """In the bytes, templates are behind other headers."""
    return replace(reply, headers=tuple(sorted(reply.headers)))


def said(program: Core, request: Request, route: str, response: Response) -> list[Any]:
    seen = Seen(), Seen()
    at_once = program.ask(request, route, None, NOW, seen[0])
    later = None if at_once else program.ask(request, route, response, NOW, seen[1])
    first, second = (reply and (reply[0], ordered(reply[1])) for reply in (at_once, later))
    return [seen[0], first, seen[1], second]


@settings(max_examples=200)
@given(
    document=rule_files(),
    asked=st.lists(st.tuples(requests(), responses), min_size=6, max_size=6),
    route=st.sampled_from(("", "route0", "route1", "route2")),
)
def test_the_core_says_what_decide_says(
    loaded: ctypes.CDLL, document: dict[str, Any], asked: list[tuple[Request, Response]], route: str
) -> None:
    rules = rules_of(document)
    with reads(loaded, encode(compile_rules(rules))) as program:
        for request, response in asked:
            assert said(program, request, route, response) == meant(rules, request, route, response)


A_HEADER = '{name: r, body: "[{{ request.header.x-a }}]", headers: {x-b: "{{ request.header.x-a }} "}, template: true}'


@pytest.mark.parametrize(
    ("lines", "joined"),
    [((), ""), (("",), ""), (("", "b"), ",b"), (("",) * 40, "," * 39), (("a", "", "b"), "a,,b"), ((" a",), " a")],
)
def test_of_lines_without_a_value_commas_are_left_and_values_of_headers_have_no_blanks_around_them(
    loaded: ctypes.CDLL, tmp_path: Path, lines: tuple[str, ...], joined: str
) -> None:
    (tmp_path / "rules.yaml").write_text(f"rules: [{A_HEADER}]")
    request = Request("GET", "a.test", "/", headers=tuple(("x-a", line) for line in lines))
    rules = ruleset(tmp_path / "rules.yaml").rules
    with reads(loaded, encode(compile_rules(rules))) as program:
        answer = program.ask(request, "", None)
    assert answer is not None
    assert answer == ("r", decide(Ruleset(rules=rules), request).reply)
    assert answer[1].body == f"[{joined}]".encode()
    assert dict(answer[1].headers)["x-b"] == joined.strip()


def test_a_body_that_becomes_empty_has_no_type(loaded: ctypes.CDLL, tmp_path: Path) -> None:
    body = 'body: "{{ request.query.none }}", template: true, headers: {content-type: "text/{{ status }}", x-a: "1"}'
    (tmp_path / "rules.yaml").write_text(f"rules: [{{name: r, {body}}}]")
    request = Request("GET", "a.test", "/")
    rules = ruleset(tmp_path / "rules.yaml").rules
    with reads(loaded, encode(compile_rules(rules))) as program:
        answer = program.ask(request, "", None)
    assert answer == ("r", Reply(200, (("x-a", "1"),), b"")) == ("r", decide(Ruleset(rules=rules), request).reply)


GOOD = h.reply([(503, 503)], 503, headers=[("x-a", "1")], body=b"busy")


ID = h.template((1, h.HTML, ""))
ID_OF_HEADER = h.template((1, h.HEADER, ""))


def with_content(body: bytes = b"", **about: Any) -> bytes:
    return h.rule("r", [h.reply(contents=[h.content(body, **about)])])


CONTENT = len(with_content(b"x")) - len(h.body(b"x"))
NO_BODY = h.program(with_content())


def broken(whole: bytes, at: int, by: bytes) -> bytes:
    return whole[:at] + by + whole[at + len(by) :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "byte 0: expected a program or a part of one", id="empty"),
        pytest.param(b"RJNDX\0\1\0", "byte 0: expected a program", id="magic"),
        pytest.param(b"RJNDR\0\1\0\0\0\0\0", "byte 8: expected version 3", id="version"),
        pytest.param(b"RJNDR\0\3\0\1\0\0\0", "byte 12: expected a list of that length", id="parts"),
        pytest.param(h.program(h.record(4, b"")), "byte 12: expected a kind of record: 1 to 3", id="record-kind"),
        pytest.param(h.program(h.record(0, b"")), "byte 12: expected a kind of record: 1 to 3", id="record-zero"),
        pytest.param(h.program(b"\1\xff\0\0\0"), "byte 17: expected a record of that length", id="record-length"),
        pytest.param(h.program(h.record(1, b"short")), "byte 17: expected the id of a body", id="body-id"),
        pytest.param(h.program(h.rule("r", [GOOD], flags=16)), "expected the flags of a rule", id="flags"),
        pytest.param(h.program(h.rule("r", [GOOD], source=3)), "a source: 0 to 2", id="source"),
        pytest.param(h.program(h.rule("r", [GOOD], flags=h.UNLESS)), "expected", id="no-unless"),
        pytest.param(h.program(h.rule("r", [GOOD], unless=h.scope(path=(4, "")))), "a kind of path", id="unless"),
        pytest.param(h.program(h.rule("r", [])), "expected a reply", id="no-reply"),
        pytest.param(h.program(h.rule("r", [], flags=3)), "expected a reply", id="no-reply-at-once"),
        pytest.param(
            h.program(h.rule("r", [GOOD], clients=["::1/128"])).replace(h.network("::1/128"), b"\x81" + bytes(16)),
            "the length of a prefix: 0 to 128",
            id="client",
        ),
        pytest.param(h.program(h.rule("r", [GOOD], response=[h.test("a", 6, "")])), "0 to 5", id="response-test"),
        pytest.param(h.program(h.rule("r", [GOOD], path=(4, ""))), "a kind of path: 0 to 3", id="path-kind"),
        pytest.param(h.program(h.rule("r", [GOOD], path=(0, "/"))), "an empty text, for every path", id="path-empty"),
        pytest.param(h.program(h.rule("r", [GOOD], headers=[h.test("a", 6, "")])), "0 to 5", id="test-kind"),
        pytest.param(h.program(h.rule("r", [GOOD], query=[h.test("a", 5, "x")])), "a test of presence", id="present"),
        pytest.param(h.program(h.rule("r", [h.reply([(199, 300)])])), "statuses from 200", id="status-low"),
        pytest.param(h.program(h.rule("r", [h.reply([(300, 600)])])), "statuses from 200", id="status-high"),
        pytest.param(h.program(h.rule("r", [h.reply([(503, 502)])])), "a range of them", id="range"),
        pytest.param(h.program(h.rule("r", [h.reply([], 600)])), "a status from 200 to 599, or 0", id="reply-status"),
        pytest.param(h.program(h.rule("r", [GOOD], flags=2)), "the rule is unconditional", id="unconditional"),
        pytest.param(h.program(h.rule("r", [h.reply(), GOOD])), "no reply behind one for every", id="behind"),
        pytest.param(h.program(h.rule("r", [h.reply(headers=[("A", "1")])])), "a header", id="header-upper-case"),
        pytest.param(h.program(h.rule("r", [h.reply(headers=[(":a", "1")])])), "a header", id="header-pseudo"),
        pytest.param(h.program(h.rule("r", [h.reply(headers=[("", "1")])])), "a header", id="header-without-name"),
        pytest.param(h.program(h.rule("r", [h.reply(headers=[("a", "1\r\nb: 2")])])), "a header", id="header-lines"),
        pytest.param(h.program(with_content(templates=[("A", ID)])), "a header", id="template-upper-case"),
        pytest.param(
            h.program(with_content(templates=[("a", h.template((1, h.RAW, "")))])), "a header", id="raw-in-a-header"
        ),
        pytest.param(h.program(with_content(templates=[("a", h.template("1\r\nb: 2"))])), "a header", id="lines"),
        pytest.param(h.program(with_content(ID + b"x", is_template=True)), "the end of the record", id="template-end"),
        pytest.param(h.program(with_content(b"\1\0\0\0", is_template=True)), "a list of that length", id="template"),
        pytest.param(h.program(with_content(h.template((18, 0, "")), is_template=True)), "0 to 17", id="variable"),
        pytest.param(
            h.program(with_content(ID, is_template=True)[len(h.record(3, bytes(16) + ID)) :]),
            "rule r: the body of a reply",
            id="no-template",
        ),
        pytest.param(
            h.program(h.record(1, h.identity(ID) + ID) + with_content(ID, is_template=True)[-CONTENT:]),
            "rule r: the body of a reply",
            id="a-body-is-no-template",
        ),
        pytest.param(
            h.program(with_content(h.template(h.identity(b"x")), is_template=True)),
            "a text of a template is in no record",
            id="no-text-of-a-template",
        ),
        pytest.param(h.program(with_content(b"\1\0\0\0\xffshort", is_template=True)), "the id of a text", id="text-id"),
        pytest.param(
            h.program(h.rule("r", [h.reply(asks=h.remote("s", [("a", h.template((1, h.RAW, "")))]))])),
            "a header",
            id="told-raw",
        ),
        pytest.param(
            h.program(h.rule("r", [h.reply(asks=h.remote("s", stays=2))])), "whether the response stays", id="stays"
        ),
        pytest.param(h.program(h.rule("r", [h.reply(grpc=b"\0" + h.template())])), "1 to 16", id="grpc-ok"),
        pytest.param(h.program(h.rule("r", [h.reply(grpc=b"\x11" + h.template())])), "1 to 16", id="grpc-status"),
        pytest.param(broken(NO_BODY, len(NO_BODY) - 1, b"\2"), "1 and the id of a body, 3 and", id="kind-of-body"),
        pytest.param(
            h.program(h.rule("r", [GOOD])[len(h.body(b"busy")) :]), "rule r: the body of a reply", id="no-body"
        ),
        pytest.param(
            h.program(h.body(b"x"), h.record(1, h.identity(b"x") + b"y")), "another body with this id", id="two-bodies"
        ),
        pytest.param(h.program(h.rule("r", [GOOD])) + b"\2", "the length of a record", id="behind-the-end"),
        pytest.param(broken(h.program(h.rule("r", [h.reply()])), 12 + 5 + 1 + 4, b"\xff"), "in UTF-8", id="no-text"),
    ],
)
def test_reject_a_program(loaded: ctypes.CDLL, data: bytes, message: str) -> None:
    with pytest.raises(RejectedError) as caught:
        Core(loaded, data)
    assert message in str(caught.value)


def test_each_byte_less_is_rejected(loaded: ctypes.CDLL) -> None:
    record = h.rule(
        "rule",
        [
            GOOD,
            h.reply([(500, 502), (504, 599)], 0, handler="a:b"),
            h.reply([(404, 404)], passes=True),
            h.reply([(405, 405)], asks=h.remote("s", [("a", ID_OF_HEADER)]), grpc=b"\1" + h.template("x")),
            h.reply(
                status=200,
                keep=["x-*"],
                contents=[h.content(content_type="text/html", templates=[("a", ID)]), h.content(ID, is_template=True)],
            ),
        ],
        flags=h.FINAL,
        domains=["a.test", "*.b.test"],
        routes=["r"],
        path=(h.PREFIX, "/a"),
        methods=["GET"],
        headers=[h.test("x", 0, "1")],
        query=[h.test("q", 4, "a+")],
        clients=["192.0.2.0/24"],
        response=[h.test("x", 5, "")],
        source=h.LOCAL,
        unless=h.scope(domains=["a.test"], path=(h.EXACT, "/a")),
    )
    whole = h.program(record)
    Core(loaded, whole).close()
    for length in range(12, len(whole)):
        if length not in (12, 12 + len(h.body(b"busy")), 12 + len(h.body(b"busy")) + len(h.record(3, bytes(16) + ID))):
            # a program without the rest is one, too
            with pytest.raises(RejectedError):
                Core(loaded, whole[:length])


@pytest.mark.parametrize(
    "text", [b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80", b"\xf8\x88\x80\x80"]
)
def test_what_is_no_utf_8_is_rejected(loaded: ctypes.CDLL, text: bytes) -> None:
    good = h.program(h.rule("x" * len(text), [h.reply()]))
    with pytest.raises(RejectedError, match="UTF-8"):
        Core(loaded, good.replace(b"x" * len(text), text))
    Core(loaded, h.program(h.rule("grün € 𝄞", [h.reply()]))).close()


@pytest.fixture
def quick() -> Iterator[None]:
    """What takes a second by the processor's time is not linear."""
    start = time.process_time()
    yield
    assert time.process_time() - start < 1.5


LONG = 20_000


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(h.rule("r", [h.reply()], domains=["a.test"] * LONG, path=(1, "/" * LONG)), id="a domain again"),
        pytest.param(
            h.rule("r", [h.reply()], domains=[f"{n}.test" for n in range(LONG)], path=(1, "/" * LONG)), id="domains"
        ),
        pytest.param(
            h.rule("r", [h.reply()], routes=[str(n) for n in range(LONG)], path=(2, "/a" * LONG)), id="routes"
        ),
        pytest.param(h.rule("r", [h.reply()], domains=["*" + ".a" * LONG], path=(2, "/a" * LONG)), id="depth"),
        pytest.param(h.rule("r", [h.reply([(500, 599)] * LONG)]), id="ranges"),
        pytest.param(h.rule("r", [h.reply()]) * LONG, id="the same rule"),
        pytest.param(h.rule("r", [h.reply()], clients=["::/0"] * LONG), id="clients"),
        pytest.param(h.rule("r", [h.reply()], unless=h.scope(domains=["b.test"] * LONG)), id="unless"),
        pytest.param(h.rule("r", [h.reply(contents=[h.content(content_type="a/b")] * 99)]), id="contents"),
        pytest.param(h.rule("r", [h.reply(keep=["x"] * LONG)]), id="kept"),
        pytest.param(
            h.rule("r", [h.reply(contents=[h.content(h.template(*[(8, 1, "accept")] * 99), is_template=True)])]),
            id="values",
        ),
        pytest.param(h.body(b"x") * LONG + h.rule("r", [h.reply()]), id="the same body"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_reading_and_asking_take_time_that_is_linear(loaded: ctypes.CDLL, record: bytes) -> None:
    with reads(loaded, h.program(record)) as program:
        for host in ("a.test", ".a" * LONG, "a" * LONG):
            for path in ("/", "/a" * LONG, "/" * LONG):
                program.ask(
                    Request("GET", host, path, headers=(("accept", "a," * LONG), ("accept", "a"))), "0", Response(503)
                )


def test_a_status_that_has_no_name_is_every_other_one(loaded: ctypes.CDLL) -> None:
    with reads(loaded, h.program(h.rule("r", [h.reply([(599, 599)], 418), h.reply()]))) as program:
        asked = (101, 200, 598, 599, 700)
        answers = {status: program.ask(Request("GET", "a", "/"), "", Response(status)) for status in asked}
    assert {status: answer and answer[1].status for status, answer in answers.items()} == {
        101: None,
        200: 200,
        598: 598,
        599: 418,
        700: None,
    }
