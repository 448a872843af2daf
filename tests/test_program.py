"""The program says what `decide` says, about any rules and requests; its bytes are cut as docs/program.md has it."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from random_rules import requests as requests_strategy
from random_rules import rule_files

from rejoinder.rules.answers import Choice
from rejoinder.rules.decide import decide
from rejoinder.rules.document import parse
from rejoinder.rules.fields import Place, Source
from rejoinder.rules.files import Files
from rejoinder.rules.model import (
    STATUSES,
    Answer,
    PathKind,
    PathMatch,
    RequestMatch,
    Rule,
    Ruleset,
    Scope,
    StatusPattern,
)
from rejoinder.rules.program import Program, compile_rules, needs
from rejoinder.rules.program_bytes import PART_SIZE, cut, encode
from rejoinder.rules.request import Request, Response
from rejoinder.rules.rule_file.rules import rules


def rules_of(document: dict[str, Any]) -> tuple[Rule, ...]:
    """The rules of a rule file, whatever routes there are."""
    nodes, _ = parse(yaml.safe_dump(document.get("rules", [])).encode(), "rules.yaml")
    source = Source("rules.yaml", Files())
    return rules(Place(nodes[0], source))


def said(program: Program, request: Request, route: str, status: int) -> tuple[Choice | None, Choice | None]:
    """What a program says about a request, and about a status if it says nothing."""
    name = route or None
    at_once = program.on_request(request, name)
    return at_once, None if at_once else program.on_status(request, name, Response(status))


def meant(rules: tuple[Rule, ...], request: Request, route: str, status: int) -> tuple[Choice | None, Choice | None]:
    """The same by `decide`."""
    decision = decide(Ruleset(rules=rules), request, route_name=route)
    if decision.rule is not None:
        return Choice(decision.rule.name, decision.rule.answers[0]), None
    return None, decision.choose(status)


@settings(max_examples=400)
@given(
    document=rule_files(),
    asked=requests_strategy(),
    route=st.sampled_from(("", "route0", "route1", "route2")),
    status=st.sampled_from((100, 199, 200, 201, 204, 302, 304, 404, 418, 429, 500, 502, 503, 599)),
)
def test_a_program_says_what_decide_says(
    document: dict[str, Any], asked: tuple[Request, str, Any], route: str, status: int
) -> None:
    rules = rules_of(document)
    assert said(compile_rules(rules), asked[0], route, status) == meant(rules, asked[0], route, status)


def rule(number: int, body: bytes = b"busy", **scope: Any) -> Rule:
    return Rule(f"rule-{number}", (Answer(503, (), body, (StatusPattern("503"),)),), Scope(**scope))


def test_a_rule_of_several_domains_and_routes_is_found_by_each_of_them() -> None:
    program = compile_rules([rule(1, domains=("a.test", "*.a.test", "*"), routes=("x", "y"))])
    for host in ("a.test", "b.a.test", "other"):
        for route, answered in (("x", True), ("y", True), ("z", False), (None, False)):
            answer = program.on_status(Request("GET", host, "/"), route, Response(503))
            assert (answer is not None) is answered, (host, route)


def test_a_path_of_many_elements_is_looked_up_no_deeper_than_the_rules_go() -> None:
    program = compile_rules([rule(1, request=RequestMatch(PathMatch(PathKind.PREFIX, "/a/b")))])
    assert program.on_status(Request("GET", "h", "/a/b" + "/c" * 100_000), None, Response(503))
    assert len(list(program._found("h", "/a/b" + "/c" * 100_000, None))) == 1
    assert not program.on_status(Request("GET", "h", "/a/bc"), None, Response(503))


def test_odd_hosts_and_paths_are_no_trouble() -> None:
    program = compile_rules(
        [rule(1, domains=("*.a.test",)), rule(2, request=RequestMatch(PathMatch(PathKind.EXACT, "/")))]
    )
    for host in ("", ".", ".a.test", "..", "[::1]", "a" * 10_000, "." * 10_000):
        for path in ("", "*", "/", "//", "a"):
            request = Request("GET", host, path)
            assert said(program, request, "", 503) == meant(program.rules, request, "", 503), (host, path)


def test_what_a_program_needs_is_what_its_rules_look_at() -> None:
    document = {
        "rules": [
            {"name": "a", "match": {"headers": {"X-B": "1", "x-a": {"regex": "a+"}}, "routes": ["r"]}, "body": "x"},
            {
                "name": "b",
                "match": {"domains": ["a.test"], "query": {"q": "1"}},
                "enable_on_status": [500],
                "body": "x",
            },
        ]
    }
    needed = needs(compile_rules(rules_of(document)))
    assert needed.headers == ("x-a", "x-b")
    assert (needed.routes, needed.hosts, needed.paths) == (True, True, True)
    nothing = needs(compile_rules([rule(1)]))
    assert not any(dataclasses.astuple(nothing))


# --- bytes ---


def records(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<BI", data, at)
        yield kind, data[at + 5 : at + 5 + length]
        at += 5 + length


def test_a_body_is_in_a_program_once() -> None:
    page = b"x" * 100_000
    program = compile_rules([rule(n, page, routes=(f"route-{n}",)) for n in range(1000)])
    whole = encode(program)
    assert whole.count(page) == 1
    names, parts = cut(program)
    assert sum(part.data.count(page) for part in parts) == 1
    assert len(names) + sum(len(part.data) for part in parts) < 100_000 + 1000 * 200


def many(count: int = 2000) -> list[Rule]:
    return [rule(n, b"busy %d" % n, domains=(f"d{n}.test",)) for n in range(count)]


def test_parts_hold_the_records_of_the_whole() -> None:
    program = compile_rules(many())
    names, parts = cut(program)
    head = len(b"RJNDR\0") + 2 + 4
    assert names[head:] == b"".join(part.id for part in parts)
    assert b"".join(part.data[8 + 16 :] for part in parts) == encode(program)[head:]
    assert {kind for part in parts for kind, _ in records(part.data[8 + 16 :])} == {1, 2}
    assert max(len(part.data) for part in parts) < PART_SIZE * 5
    assert len(parts) > 5


def test_an_edit_anywhere_changes_one_part() -> None:
    rules = many()
    before = set(cut(compile_rules(rules))[1])
    changes = {
        "edited": [*rules[:700], rule(700, b"another", domains=("d700.test",)), *rules[701:]],
        "added": [rule(9999, b"new"), *rules],
        "removed": [*rules[:1234], *rules[1235:]],
    }
    for kind, changed in changes.items():
        new = set(cut(compile_rules(changed))[1]) - before
        assert len(new) <= 2, kind  # a cut may have gone with the rule


def test_a_small_program_is_in_one_piece() -> None:
    program = compile_rules(many(20))
    assert cut(program) == (encode(program), ())


def test_every_status_of_a_pattern_is_claimed() -> None:
    program = compile_rules([Rule("r", (Answer(None, (), b"", (StatusPattern("5"), StatusPattern("404"))),))])
    assert program.statuses == {404, *range(500, 600)}
    everything = compile_rules([Rule("r", (Answer(None, (), b"", (StatusPattern("5"),)), Answer(200)))])
    assert everything.statuses == set(STATUSES)
