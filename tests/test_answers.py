"""Replies and claims: what is sent for a status, and which answer of a rule it is."""

from __future__ import annotations

from typing import Final

import pytest

from rejoinder.rules import attributes
from rejoinder.rules.answers import Asked, Choice, Reply, claims, reply
from rejoinder.rules.matching import client_fits
from rejoinder.rules.model import STATUSES, Answer, Rule, StatusPattern
from rejoinder.rules.request import Request

JSON: Final = ("content-type", "application/json; charset=utf-8")
TEXT: Final = ("content-type", "text/plain; charset=utf-8")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b'{"a": 1}', JSON, id="an object"),
        pytest.param(b" [1, 2]\n", JSON, id="a list with blanks around it"),
        pytest.param(b"12", JSON, id="a number"),
        pytest.param(b'"text"', JSON, id="a string"),
        pytest.param('"grüße"'.encode(), JSON, id="not ASCII"),
        pytest.param(b"text", TEXT, id="a text"),
        pytest.param(b"{'a': 1}", TEXT, id="nearly JSON"),
        pytest.param(b"NaN", TEXT, id="NaN is no JSON"),
        pytest.param(b'{"a": -Infinity}', TEXT, id="nor is infinity"),
        pytest.param(b"\xff\xfe1", TEXT, id="not UTF-8"),
        pytest.param('{"a": 1}'.encode("utf-16"), TEXT, id="UTF-16 is not UTF-8"),
        pytest.param(b"[" * 100_000, TEXT, id="nested to explode"),
        pytest.param(b"9" * 5000, TEXT, id="a number longer than Python reads"),
    ],
)
def test_a_body_without_content_type_gets_one(body: bytes, expected: tuple[str, str]) -> None:
    assert reply(Answer(body=body), 200) == Reply(200, (expected,), body)


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        pytest.param(Answer(), 503, Reply(200, (), b""), id="200 by default, no body no content-type"),
        pytest.param(Answer(503), 429, Reply(503, (), b""), id="the given status"),
        pytest.param(Answer(None), 503, Reply(503, (), b""), id="the original status"),
        pytest.param(Answer(None, (), b"1"), 204, Reply(204, (), b""), id="an original 204 has no body"),
        pytest.param(Answer(None, (("etag", "1"),), b"1"), 304, Reply(304, (("etag", "1"),), b""), id="nor a 304"),
        pytest.param(
            Answer(200, (("a", "1"), ("content-type", "x/y"), ("a", "2")), b"{}"),
            200,
            Reply(200, (("a", "1"), ("content-type", "x/y"), ("a", "2")), b"{}"),
            id="headers in their order, their content-type wins",
        ),
    ],
)
def test_an_answer_makes_a_reply(answer: Answer, status: int, expected: Reply) -> None:
    assert reply(answer, status) == expected


def on(*patterns: str, body: str = "") -> Answer:
    """An answer that is known by its body."""
    return Answer(
        body=body.encode() or b",".join(map(str.encode, patterns)), enable_on_status=tuple(map(StatusPattern, patterns))
    )


def chosen(rule: Rule, status: int) -> str | None:
    answer = claims(rule).answer(status)
    return None if answer is None else answer.body.decode()


@pytest.mark.parametrize(
    ("answers", "status", "expected"),
    [
        pytest.param([on("5"), on("503")], 503, "503", id="exact before pattern"),
        pytest.param([on("5"), on("50")], 502, "50", id="more digits before fewer"),
        pytest.param([on("5"), on("50"), on("503")], 511, "5", id="the pattern that is left"),
        pytest.param([on("50", body="one"), on("50", body="two")], 500, "one", id="written order among equals"),
        pytest.param([on("4", "503"), on("5", "404")], 404, "5,404", id="each pattern counts for itself"),
        pytest.param([on(body="default"), on("503")], 503, "503", id="any pattern before the default"),
        pytest.param([on(body="default"), on("503")], 200, "default", id="the default for every other status"),
        pytest.param([on("503"), on(body="one"), on(body="two")], 200, "one", id="the first default"),
        pytest.param([on("503")], 200, None, id="none: the rule has nothing to say"),
        pytest.param([on(body="default"), on("503")], 101, None, id="interim statuses always pass"),
        pytest.param([on("2")], 299, "2", id="the last status of a pattern"),
        pytest.param([on("2")], 300, None, id="and the one behind it"),
        pytest.param([], 200, None, id="no answers at all"),
    ],
)
def test_a_status_is_given_the_most_specific_answer(answers: list[Answer], status: int, expected: str | None) -> None:
    assert chosen(Rule("r", tuple(answers)), status) == expected


def test_claims_are_sorted_by_status() -> None:
    claimed = claims(Rule("r", (on("503"), on("20"), on("404"))))
    assert list(claimed.named) == [*range(200, 210), 404, 503]
    assert set(claimed.named) <= set(STATUSES)


def test_answers_that_share_a_status_are_told_apart_by_content_not_by_the_name_of_their_rule() -> None:
    # Two rules of one name never are in one set, but a rule is edited, and what was claimed before is remembered.
    before, after = (Rule("r", (on("503", body=body),)) for body in ("before", "after"))
    assert [chosen(before, 503), chosen(after, 503), chosen(before, 503)] == ["before", "after", "before"]


def test_a_choice_makes_the_reply_of_its_answer() -> None:
    choice = Choice("r", Answer(None, body=b"x"))
    assert choice.reply(503) == Reply(503, (TEXT,), b"x")


def test_of_a_header_in_several_lines_a_template_has_all_as_envoy_joins_them() -> None:
    made = Answer(200, body=b"{{ request.header.x-a }}", template=True)
    sent = Request("GET", "a.test", "/", headers=(("x-a", "1"), ("x-a", "1"), ("x-a", "2, 3")))
    told = attributes.request_of({attributes.of_header("x-a"): "1,1,2, 3"})
    assert [reply(made, 200, Asked(request)).body for request in (sent, told)] == [b"1,1,2, 3"] * 2


@pytest.mark.parametrize("text", ["::ffff:10.0.0.0/104", "10.0.0.0/8"])
def test_a_network_of_mapped_addresses_is_one_of_ipv4(text: str) -> None:
    assert client_fits((text,), "10.1.2.3")
    assert client_fits((text,), "::ffff:10.1.2.3")
    assert not client_fits((text,), "11.1.2.3")


@pytest.mark.parametrize(
    ("body", "sent", "of"),
    [
        (b'{"status": {{ status }}, "path": "{{ request.path }}"}', b'{"status": 200, "path": "/\\u0022"}', JSON),
        (b"{{ request.path }}", b'/"', TEXT),
        (b"{{ request.path }} is not here", b'/" is not here', TEXT),
    ],
)
def test_a_template_is_json_where_it_is_with_values_in_it(body: bytes, sent: bytes, of: tuple[str, str]) -> None:
    made = reply(Answer(200, body=body, template=True), 200, Asked(Request("GET", "a.test", '/"')))
    assert (made.body, made.headers) == (sent, (of,))
