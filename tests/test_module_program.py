"""The module's core reads the bytes of a program and says what `decide` says: about any rules and requests."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import core
import handmade as h
import pytest
from core import Core, RejectedError
from hypothesis import given, settings
from hypothesis import strategies as st
from test_differential import requests as requests_strategy
from test_differential import rule_files
from test_program import meant, rules_of

from rejoinder.rules.answers import Choice
from rejoinder.rules.program import compile_rules
from rejoinder.rules.program_bytes import encode
from rejoinder.rules.request import Request


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("core") / "libprogram.so"
    return core.library(core.compiled(target, core.of_core(*core.PROGRAM), "-shared", "-fPIC", "-O2"))


def reads(loaded: ctypes.CDLL, data: bytes) -> closing[Core]:
    return closing(Core(loaded, data))


def said(asked: Core, request: Request, route: str, status: int) -> tuple[Any, Any]:
    values = (request.method, request.authority or request.host, request.target, request.headers, route)
    at_once = asked.ask(*values, 0)
    return at_once, None if at_once else asked.ask(*values, status)


def sent(choice: Choice | None, status: int) -> Any:
    """What the core should say for what `decide` has chosen."""
    if choice is None:
        return None
    if choice.answer.handler:
        return choice.rule, 0, (), b""
    made = choice.reply(status)
    return choice.rule, made.status, made.headers, made.body


@settings(max_examples=400, deadline=None)
@given(
    document=rule_files(),
    asked=requests_strategy(),
    route=st.sampled_from(("", "route0", "route1", "route2")),
    status=st.sampled_from((100, 199, 200, 201, 204, 302, 304, 404, 418, 429, 500, 502, 503, 599)),
)
def test_the_core_says_what_decide_says(
    loaded: ctypes.CDLL, document: dict[str, Any], asked: tuple[Request, str, Any], route: str, status: int
) -> None:
    rules = rules_of(document)
    with reads(loaded, encode(compile_rules(rules))) as program:
        got = said(program, asked[0], route, status)
    wanted = meant(rules, asked[0], route, status)
    # `0` is the upstream's status.
    filled = tuple(found and (found[0], found[1] or status, *found[2:]) for found in got)
    handled = tuple(choice is not None and bool(choice.answer.handler) for choice in wanted)
    assert [found and found[0] for found in filled] == [choice and choice.rule for choice in wanted]
    if not any(handled):
        assert filled == tuple(sent(choice, status) for choice in wanted)


GOOD = h.reply([(503, 503)], 503, headers=[("x-a", "1")], body=b"busy")


def broken(whole: bytes, at: int, by: bytes) -> bytes:
    return whole[:at] + by + whole[at + len(by) :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "byte 0: expected a program or a part of one", id="empty"),
        pytest.param(b"RJNDX\0\1\0", "byte 0: expected a program", id="magic"),
        pytest.param(b"RJNDR\0\2\0\0\0\0\0", "byte 8: expected version 1", id="version"),
        pytest.param(b"RJNDR\0\1\0\1\0\0\0", "byte 12: expected a list of that length", id="parts"),
        pytest.param(h.program(h.record(3, b"")), "byte 12: expected a kind of record: 1 or 2", id="record-kind"),
        pytest.param(h.program(h.record(0, b"")), "byte 12: expected a kind of record: 1 or 2", id="record-zero"),
        pytest.param(h.program(b"\1\xff\0\0\0"), "byte 17: expected a record of that length", id="record-length"),
        pytest.param(h.program(h.record(1, b"short")), "byte 17: expected the id of a body", id="body-id"),
        pytest.param(h.program(h.rule("r", [GOOD], flags=4)), "expected the flags of a rule", id="flags"),
        pytest.param(h.program(h.rule("r", [])), "expected a reply", id="no-reply"),
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
        [GOOD, h.reply([(500, 502), (504, 599)], 0, handler="a:b"), h.reply(status=200)],
        flags=h.FINAL,
        domains=["a.test", "*.b.test"],
        routes=["r"],
        path=(h.PREFIX, "/a"),
        methods=["GET"],
        headers=[h.test("x", 0, "1")],
        query=[h.test("q", 4, "a+")],
    )
    whole = h.program(record)
    Core(loaded, whole).close()
    for length in range(12, len(whole)):
        if length not in (12, 12 + len(h.body(b"busy"))):  # a program without the rest is one, too
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
        pytest.param(h.body(b"x") * LONG + h.rule("r", [h.reply()]), id="the same body"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_reading_and_asking_take_time_that_is_linear(loaded: ctypes.CDLL, record: bytes) -> None:
    with reads(loaded, h.program(record)) as program:
        for host in ("a.test", ".a" * LONG, "a" * LONG):
            for path in ("/", "/a" * LONG, "/" * LONG):
                program.ask("GET", host, path, (), "0", 503)


def test_a_status_that_has_no_name_is_every_other_one(loaded: ctypes.CDLL) -> None:
    with reads(loaded, h.program(h.rule("r", [h.reply([(599, 599)], 418), h.reply()]))) as program:
        found = {status: program.ask("GET", "a", "/", (), "", status) for status in (101, 200, 598, 599, 700)}
    assert found == {101: None, **dict.fromkeys((200, 598), ("r", 0, (), b"")), 700: None, 599: ("r", 418, (), b"")}
