"""Warnings about what can never decide: the cases as a table, and that none is wrong as a property."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from hypothesis import given, settings
from random_rules import STATUSES, rule_files
from test_plan import REQUESTS

from rejoinder.rules.decide import decide
from rejoinder.rules.load import load
from rejoinder.rules.matching import covers
from rejoinder.rules.model import Answer, PathKind, PathMatch, RequestMatch, Rule, Ruleset, Scope
from rejoinder.rules.shadow import shadowed


def warnings(folder: Path, text: str) -> list[str]:
    """What hides what: `later < earlier`."""
    (folder / "rules.yaml").write_text(text, encoding="utf-8")
    loaded = load([folder / "rules.yaml"])
    assert loaded.ruleset is not None, loaded.problems
    names = [re.findall(r'(?:rule|route) "([^"]+)"', problem.message) for problem in shadowed(loaded.ruleset)]
    return [f"{later} < {' + '.join(earlier)}" for later, *earlier in names]


@pytest.mark.parametrize(
    ("earlier", "later", "hidden"),
    [
        pytest.param("", "", True, id="everything"),
        pytest.param("match: {prefix: /a}", "match: {path: /a/b}", True, id="a path below a prefix"),
        pytest.param("match: {prefix: /a}", "match: {prefix: /a/b}", True, id="a prefix below a prefix"),
        pytest.param("match: {prefix: /a/b}", "match: {prefix: /a}", False, id="a prefix above it"),
        pytest.param("match: {prefix: /a}", "match: {prefix: /ab}", False, id="half an element"),
        pytest.param("match: {regex: /a.*}", "match: {path: /ab}", True, id="a path that a regex fits"),
        pytest.param("match: {regex: /a.*}", "match: {regex: /a.*}", True, id="the same regex"),
        pytest.param("", "match: {regex: /a.*}", True, id="a regex behind everything"),
        pytest.param("match: {domains: ['*.x.test']}", "match: {domains: [a.x.test]}", True, id="a narrower domain"),
        pytest.param("match: {domains: ['*.x.test']}", "match: {domains: [x.test]}", False, id="the domain itself"),
        pytest.param(
            "match: {domains: [x.test]}", "match: {domains: [x.test, y.test]}", False, id="one of two domains"
        ),
        pytest.param("match: {domains: ['*']}", "", True, id="every domain, said and unsaid"),
        pytest.param("match: {routes: [r, s]}", "match: {routes: [s]}", True, id="one of two routes"),
        pytest.param("match: {routes: [r]}", "match: {routes: [s, r]}", False, id="two routes behind one"),
        pytest.param("match: {routes: [r]}", "", False, id="every route behind one"),
        pytest.param("", "match: {routes: [r]}", True, id="one route behind every one"),
        pytest.param("match: {methods: [GET, PUT]}", "match: {methods: [PUT]}", True, id="one of two methods"),
        pytest.param("match: {methods: [GET]}", "", False, id="every method behind one"),
        pytest.param(
            "match: {headers: {a: {contains: x}}}", "match: {headers: {A: yxz, b: z}}", True, id="a narrower header"
        ),
        pytest.param("match: {query: {a: x}}", "match: {query: {a: y}}", False, id="another parameter value"),
    ],
)
def test_a_rule_that_an_earlier_one_hides_is_named(tmp_path: Path, earlier: str, later: str, hidden: bool) -> None:
    def rule(name: str, more: str) -> str:
        return "\n".join(filter(None, (f"  - name: {name}", "enable_on_status: [503]", "body: x", more))).replace(
            "\n", "\n    "
        )

    text = f"""
routes: [{{name: r, path: /r, respond: {{body: r}}}}, {{name: s, path: /s, respond: {{body: s}}}}]
rules:
{rule("earlier", earlier)}
{rule("later", later)}
"""
    assert warnings(tmp_path, text) == (["later < earlier"] if hidden else [])


A_503: Final = "{name: a-503, enable_on_status: [503], body: x}"
A_5XX: Final = "{name: a-5xx, enable_on_status: [5xx], body: x}"
A_4XX: Final = "{name: a-4xx, enable_on_status: [4xx], body: x}"
PAGE: Final = "{name: page, body: x}"
SHOP_FINAL: Final = "{name: shop, match: {prefix: /shop}, final: true, enable_on_status: [503], body: x}"
PLUG_IN: Final = "{name: all, rules: [{enable_on_status: [503], body: x}, {body: y}]}"


@pytest.mark.parametrize(
    ("rules", "hidden"),
    [
        pytest.param([A_503, A_5XX], [], id="a narrower status in front leaves the rest"),
        pytest.param([A_5XX, A_503], ["a-503 < a-5xx"], id="a wider one takes all"),
        pytest.param([A_4XX, A_503], [], id="other statuses"),
        pytest.param(
            [A_5XX, A_4XX, "{name: both, enable_on_status: [404, 503], body: x}"],
            ["both < a-5xx + a-4xx"],
            id="two rules together take all",
        ),
        pytest.param(
            [A_5XX, A_4XX, "{name: both, enable_on_status: [404, 503, 200], body: x}"], [], id="and leave one status"
        ),
        pytest.param(
            [A_5XX, A_503, "{name: more, enable_on_status: [503, 504], body: x}"],
            ["a-503 < a-5xx", "more < a-5xx"],
            id="who is hidden hides nobody",
        ),
        pytest.param(["{name: trial, observe: true, body: x}", PAGE], [], id="who only observes takes nothing"),
        pytest.param(
            ["{name: trial, observe: true, final: true, enable_on_status: [5xx], body: x}", A_503],
            [],
            id="even if it is final",
        ),
        pytest.param([A_5XX, PAGE], ["a-5xx < page"], id="an unconditional rule answers before a status is known"),
        pytest.param([PAGE, A_5XX], ["a-5xx < page"], id="and leaves no status to ask about"),
        pytest.param([PLUG_IN, A_4XX], ["a-4xx < all"], id="an answer for every other status takes all of them"),
        pytest.param([PLUG_IN, PAGE], ["all < page"], id="but not what answers at once"),
        pytest.param(
            [SHOP_FINAL, "{name: mock, match: {path: /shop/mock}, body: x}"],
            ["mock < shop"],
            id="a final rule takes the requests that fit it",
        ),
        pytest.param([SHOP_FINAL, A_4XX], [], id="and no others"),
    ],
)
def test_a_rule_is_hidden_if_nothing_is_left_to_it(tmp_path: Path, rules: list[str], hidden: list[str]) -> None:
    assert warnings(tmp_path, "rules:\n" + "".join(f"  - {rule}\n" for rule in rules)) == hidden


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        pytest.param(
            [A_5XX, A_503],
            'rule "a-503": can never decide, because rule "a-5xx" (rules.yaml:2) stands before it and takes all its '
            "statuses",
            id="statuses of one",
        ),
        pytest.param(
            [A_5XX, A_4XX, "{name: both, enable_on_status: [404, 503], body: x}"],
            'rule "both": can never decide, because rule "a-5xx" (rules.yaml:2) and rule "a-4xx" (rules.yaml:3) stand '
            "before it and take all its statuses",
            id="statuses of two",
        ),
        pytest.param(
            [PAGE, A_503],
            'rule "a-503": can never decide, because rule "page" (rules.yaml:2) stands before it and takes all its '
            "requests",
            id="requests",
        ),
    ],
)
def test_a_warning_says_what_is_taken_and_by_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rules: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rules.yaml").write_text("rules:\n" + "".join(f"  - {rule}\n" for rule in rules), encoding="utf-8")
    assert [problem.message for problem in load([Path("rules.yaml")]).problems] == [message]


@pytest.mark.parametrize(
    ("rules", "hidden"),
    [
        pytest.param(["{name: a, enable_on_status: [5xx], body: x}", "{name: all, body: x}"], ["a"], id="all"),
        pytest.param(
            ["{name: a, final: true, enable_on_status: [5xx], body: x}", "{name: all, body: x}"], [], id="final"
        ),
        pytest.param(
            ["{name: a, enable_on_status: [5xx], body: x}", "{name: some, match: {path: /}, body: x}"], [], id="some"
        ),
    ],
)
def test_a_rule_whose_requests_a_later_one_answers_is_named(
    tmp_path: Path, rules: list[str], hidden: list[str]
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("rules:\n" + "".join(f"  - {rule}\n" for rule in rules), encoding="utf-8")
    messages = [problem.message for problem in load([file]).problems if "about an upstream" in problem.message]
    assert [message.split('"')[1] for message in messages] == hidden


@pytest.mark.parametrize(
    ("match", "said"),
    [
        ("headers: {x-envoy-retry-on: 5xx}", 'Envoy removes the header "x-envoy-retry-on" from requests'),
        ("headers: {X-Rejoinder-Path: /}", 'the header "x-rejoinder-path" is Rejoinder\'s own'),
        ("methods: [QUERY]", "over HTTP/2 alone, because Envoy refuses QUERY in HTTP/1.1"),
        ("methods: [QUERY, GET], headers: {x-request-id: '1'}", None),
    ],
)
def test_a_match_on_what_never_comes_is_named(tmp_path: Path, match: str, said: str | None) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(
        f"routes: [{{name: route, {match}, respond: {{body: a}}}}]\n"
        f"rules: [{{name: rule, match: {{{match}}}, body: a}}]\n"
    )
    loaded = load([file])
    assert [str(problem).split('"')[1] for problem in loaded.problems] == (["route", "rule"] if said else [])
    assert all(said is not None and said in problem.message for problem in loaded.problems)


def test_routes_hide_each_other_too(tmp_path: Path) -> None:
    text = """
routes:
  - {name: a, prefix: /a, respond: {body: a}}
  - {name: b, path: /a/b, respond: {body: b}}
  - {name: c, domains: [c.test], prefix: /c, respond: {body: c}}
  - {name: d, prefix: /c, respond: {body: d}}
"""
    assert warnings(tmp_path, text) == ["b < a"]


ASKED: Final = (*STATUSES, 203, 299, 400, 410, 415, 501, 509, 550)
"""Those that the files name, and others that their patterns do."""


@settings(max_examples=80)
@given(document=rule_files())
def test_what_is_called_hidden_never_decides(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    file = tmp_path_factory.getbasetemp() / "shadow.yaml"
    file.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    rules = load([file]).ruleset
    assert rules is not None
    hidden = {tuple(problem.message.split('"')[:2]) for problem in shadowed(rules)}
    for request in REQUESTS:
        decision = decide(rules, request)
        choices = [decision.choose(status) for status in ASKED]
        deciding = {("rule ", choice.rule) for choice in choices if choice}
        deciding |= {("rule ", decision.rule.name)} if decision.rule else set()
        deciding |= {("route ", decision.route.name)} if decision.route else set()
        assert hidden.isdisjoint(deciding)


def test_ten_thousand_rules_are_not_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def counting(match: RequestMatch, other: RequestMatch) -> bool:
        compared.append(match)
        return covers(match, other)

    def path(number: int) -> RequestMatch:
        return RequestMatch(PathMatch(PathKind.EXACT, f"/a/{number}"))

    monkeypatch.setattr("rejoinder.rules.shadow.covers", counting)
    rules = Ruleset(rules=tuple(Rule(f"r{n}", (Answer(),), Scope(request=path(n))) for n in range(10_000)))
    assert shadowed(rules) == []
    assert len(compared) <= len(rules.rules)
    again = Ruleset(rules=(*rules.rules, Rule("again", (Answer(),), Scope(request=path(7)))))
    assert [problem.message.split('"')[1] for problem in shadowed(again)] == ["again"]
