"""Replies and answer tables: what is sent for a status, and which answer it is."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

from rejoinder.rules.answers import AnswerTable, Choice, Reply, answer_table, reply
from rejoinder.rules.model import STATUSES, Answer, Rule, StatusPattern

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


def chosen(table: AnswerTable, status: int) -> str | None:
    choice = table.choose(status)
    return f"{choice.rule}: {choice.answer.body.decode()}" if choice else None


@pytest.mark.parametrize(
    ("answers", "status", "expected"),
    [
        pytest.param([on("5"), on("503")], 503, "r: 503", id="exact before pattern"),
        pytest.param([on("5"), on("50")], 502, "r: 50", id="more digits before fewer"),
        pytest.param([on("5"), on("50"), on("503")], 511, "r: 5", id="the pattern that is left"),
        pytest.param([on("50", body="one"), on("50", body="two")], 500, "r: one", id="written order among equals"),
        pytest.param([on("4", "503"), on("5", "404")], 404, "r: 5,404", id="each pattern counts for itself"),
        pytest.param([on(body="default"), on("503")], 503, "r: 503", id="any pattern before the default"),
        pytest.param([on(body="default"), on("503")], 200, "r: default", id="the default for every other status"),
        pytest.param([on("503"), on(body="one"), on(body="two")], 200, "r: one", id="the first default"),
        pytest.param([on("503")], 200, None, id="none: it passes"),
        pytest.param([on(body="default"), on("503")], 101, None, id="interim statuses always pass"),
        pytest.param([on("2")], 299, "r: 2", id="the last status of a pattern"),
        pytest.param([on("2")], 300, None, id="and the one behind it"),
    ],
)
def test_a_status_is_given_the_most_specific_answer(answers: list[Answer], status: int, expected: str | None) -> None:
    assert chosen(answer_table([Rule("r", tuple(answers))]), status) == expected


FALLING: Final = Rule("falling", (on("503"), on("4")), fallthrough=True)


@pytest.mark.parametrize(
    ("rules", "status", "expected"),
    [
        pytest.param([FALLING, Rule("next", (on("5"),))], 503, "falling: 503", id="the first rule has an answer"),
        pytest.param([FALLING, Rule("next", (on("404"),))], 404, "falling: 4", id="its pattern before another's exact"),
        pytest.param([FALLING, Rule("next", (on("5"),))], 500, "next: 5", id="the next rule is asked"),
        pytest.param([FALLING, Rule("next", (on("500"),)), Rule("z", (on("5"),))], 502, None, id="which does not fall"),
        pytest.param([FALLING, FALLING, Rule("z", (on("5"),))], 502, "z: 5", id="through two rules"),
        pytest.param([FALLING, Rule("all", (on(body="x"),))], 200, "all: x", id="into an unconditional rule"),
        pytest.param([FALLING], 200, None, id="into nothing"),
        pytest.param(
            [Rule("all", (on("5"), on(body="x")), fallthrough=True), Rule("z", (on("404"),))],
            404,
            "all: x",
            id="a rule with a default never falls through",
        ),
    ],
)
def test_rules_that_fall_through_share_a_table(rules: list[Rule], status: int, expected: str | None) -> None:
    assert chosen(answer_table(rules), status) == expected


def test_an_empty_table_is_false_and_one_with_anything_true() -> None:
    assert not answer_table([])
    assert not answer_table([Rule("r", (), fallthrough=True)])
    assert answer_table([Rule("r", (on("503"),))])
    assert answer_table([Rule("r", (on(),))])


def test_a_table_is_sorted_by_status() -> None:
    table = answer_table([Rule("r", (on("503"), on("20"), on("404")))])
    statuses = [status for status, _ in table.by_status]
    assert statuses == [*range(200, 210), 404, 503]
    assert set(statuses) <= set(STATUSES)


def test_tables_have_one_name_only_if_they_are_equal() -> None:
    answers = [on("503"), on("504"), on(), Answer(None), Answer(201), Answer(200, (("a", "b"),)), on("503", body="x")]
    tables = [answer_table([Rule(rule, (answer,))]) for answer in answers for rule in ("r", "s")]
    tables.append(AnswerTable(((503, Choice("r", on("5"))),)))
    assert len({table.name for table in tables}) == len(tables)
    assert [answer_table([Rule("r", (answer,))]).name for answer in answers] == [table.name for table in tables[:-1:2]]


def test_a_table_has_the_same_name_in_every_process() -> None:
    # Envoy names to a restarted service the tables that the one before it made.
    table = answer_table([Rule("r", (on("503"), on("4", body="ä"), on()))])
    program = f"from rejoinder.rules.answers import *; from rejoinder.rules.model import *\nprint(({table!r}).name)"
    for hash_seed in ("1", "2"):
        printed = subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": hash_seed}, capture_output=True, check=True
        ).stdout
        assert printed.decode().strip() == table.name
