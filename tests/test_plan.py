"""What is planned means what `decide` says: random rule files, without an Envoy (test_differential.py has one).

pytest tests/test_plan.py                       as in CI: a fixed seed and few examples
pytest tests/test_plan.py --differential 5000   so many rule files at random
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from gateway import ruleset
from hypothesis import given, settings
from random_rules import HOSTS, rule_files
from test_matching import meet_fits

from rejoinder.rules.answers import Reply, reply
from rejoinder.rules.decide import Decision, decide, redirect
from rejoinder.rules.matching import EVERYTHING, Meet, meet, wider_domains
from rejoinder.rules.model import (
    EVERY_PATH,
    EVERY_REQUEST,
    RULE_FILES,
    Answer,
    Forward,
    PathKind,
    PathMatch,
    Redirect,
    RequestMatch,
    Route,
    Rule,
    Ruleset,
    Scope,
    StatusPattern,
    StringKind,
    StringMatch,
    native_rules,
)
from rejoinder.rules.request import Request, parse
from rejoinder.xds.plan import MAX_REPEATED, MOST_KEPT_AWAY, Plan, PlannedRoute, plan

# Combinations rather than samples: what several rules have in common is seldom hit by chance.
REQUESTS: Final = [
    parse(method, host, path + query, headers)
    for method, host, path, query, headers in itertools.product(
        ("GET", "POST"),
        HOSTS,
        ("/", "/a", "/a/b", "/ab", "/b/a/b", "/A/~", "/a.b"),
        ("", "?q=1", "?r=json&q="),
        ((), (("x-a", "1"),), (("x-b", "12"), ("accept", "text/json"), ("x-a", ""))),
    )
]


def planned_route(planned: Plan, request: Request) -> PlannedRoute:
    """The route that Envoy's router picks: the first that fits, of the most specific domain."""
    domains = {domain.domain: domain for domain in planned[RULE_FILES].domains}
    domain = next(domains[pattern] for pattern in wider_domains(request.host) if pattern in domains)
    return next(
        (route for route in domain.routes if meet_fits(route.match, request)), PlannedRoute(EVERYTHING, None, None)
    )


def assert_same(route: PlannedRoute, decision: Decision, request: Request) -> None:
    assert route.rule == (decision.rule.name if decision.rule else "")
    if not route.rule:
        assert route.route == decision.route
    match route.action:
        case Reply() as reply:
            assert reply == decision.reply
        case Redirect() as action:
            assert route.route is not None
            assert redirect(route.route, action, request) == decision.reply
        case action:
            assert decision.reply is None
            assert action == (decision.route and decision.route.action)


def test_planned_routes_decide_as_decide_does(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    file = tmp_path / "rules.yaml"
    examples = int(pytestconfig.getoption("differential"))

    @settings(max_examples=examples or 200, derandomize=not examples, database=None)
    @given(document=rule_files())
    def compare(document: dict[str, Any]) -> None:
        file.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
        rules = ruleset(file)
        planned = plan(rules)
        native = dataclasses.replace(rules, rules=native_rules(rules.rules))  # for the others, the program is asked
        for request in REQUESTS:
            assert_same(planned_route(planned, request), decide(native, request), request)

    compare()


def forward(name: str, path: str = "/") -> Route:
    return Route(name, Forward("up"), request=RequestMatch(PathMatch(PathKind.PREFIX, path)))


def header(name: str) -> RequestMatch:
    return RequestMatch(headers=((name, StringMatch(StringKind.PRESENT)),))


def path(value: str, kind: PathKind = PathKind.EXACT) -> RequestMatch:
    return RequestMatch(PathMatch(kind, value))


def rule(name: str, request: RequestMatch = EVERY_REQUEST, **more: Any) -> Rule:
    """An unconditional rule."""
    final = more.pop("final", False)
    return Rule(name, (Answer(),), Scope(request=request, **more), final)


def conditional(name: str, request: RequestMatch = EVERY_REQUEST, **more: Any) -> Rule:
    return replace(rule(name, request, **more), answers=(Answer(enable_on_status=(StatusPattern("503"),)),))


def names(planned: Plan, domain: str = "*") -> list[str]:
    return [route.name for part in planned[RULE_FILES].domains if part.domain == domain for route in part.routes]


def test_rules_stand_in_front_of_routes_and_are_named_after_the_file() -> None:
    planned = plan(Ruleset(routes=(forward("first", "/x"),), rules=(rule("a", header("a")), rule("b", path("/b")))))
    assert names(planned) == ["rule/a", "rule/b", "first"]


def test_conditional_rules_do_not_touch_the_routes() -> None:
    routes = (forward("first", "/x"), forward("all"))
    rules = tuple(conditional(f"r{n}", header(f"x-{n}"), final=n % 2 == 0) for n in range(100))
    assert plan(Ruleset(routes=routes, rules=rules)) == plan(Ruleset(routes=routes))


def test_a_rule_about_a_route_is_worked_into_it() -> None:
    routes = (forward("x", "/x"), forward("y", "/y"))
    rules = (
        rule("a", path("/x/a"), routes=("x",)),
        rule("b", routes=("y",)),
        rule("c", path("/x/a")),
        rule("d", path("/z")),
    )
    # d meets none of those in front of it, so it need not be worked in; c does, and is never reached.
    assert names(plan(Ruleset(routes=routes, rules=rules))) == ["rule/d", "x/rule/a", "x", "y/rule/b"]


def test_a_final_rule_shields_its_requests_from_those_behind_it() -> None:
    shield = conditional("shield", path("/x/a"), final=True)
    of_no_route = conditional("of-no-route", path("/s"), final=True)
    planned = plan(Ruleset(routes=(forward("x", "/x"),), rules=(shield, of_no_route, rule("a"))))
    assert names(planned) == ["x", "x/rule/a", "", "rule/a"]
    assert planned[RULE_FILES].leads_nowhere
    unneeded = plan(Ruleset(routes=(forward("x", "/x"),), rules=(rule("a", path("/b")), shield)))
    assert names(unneeded) == ["rule/a", "x"]


def test_what_stands_behind_a_route_for_every_request_is_left_out() -> None:
    assert names(plan(Ruleset(routes=(forward("all"), forward("never", "/x"))))) == ["all"]
    assert names(plan(Ruleset(routes=(forward("never"),), rules=(rule("all"), rule("too"))))) == ["rule/all"]


def test_what_an_earlier_route_takes_is_left_out() -> None:
    post = Route("post", Forward("up"), request=RequestMatch(PathMatch(PathKind.PREFIX, "/y"), methods=("POST",)))
    rules = (
        rule("first", header("a"), routes=("x", "post")),  # so that those behind it have to be worked in
        rule("a", path("/x/a")),
        rule("b", path("/y/b", PathKind.PREFIX)),
    )
    planned = plan(Ruleset(routes=(forward("x", "/x"), post), rules=rules))
    # Requests for /x/a have all taken the first route; of those for /y/b only some have taken the second.
    assert names(planned) == ["x/rule/first", "x/rule/a", "x", "post/rule/first", "post/rule/b", "post", "rule/b"]


def test_a_part_that_does_what_the_rest_does_is_left_out() -> None:
    rules = (
        conditional("shield", header("a"), final=True),
        rule("b", path("/b"), routes=("y",)),
        rule("c", path("/y")),
    )
    planned = plan(Ruleset(routes=(forward("x", "/x"), forward("y", "/y")), rules=rules))
    assert names(planned)[:2] == ["x", "y"]


def test_what_a_rule_passes_is_told_where_it_keeps_another_from_answering() -> None:
    office = Rule("office", (), Scope(request=header("a")), final=True)
    closed = [rule(f"closed{n}", path(f"/{n}")) for n in range(MOST_KEPT_AWAY + 1)]

    def passed(*rules: Rule) -> list[str]:
        planned = plan(Ruleset(routes=(forward("all", "/"),), rules=rules))
        passing = [route for route in planned[RULE_FILES].domains[0].routes if route.passed == "office"]
        return [path.value for planned_route in passing for path in planned_route.match.paths or (EVERY_PATH,)]

    assert passed(office, *closed[:2]) == ["/0", "/1"]
    assert passed(office, closed[0], rule("every", RequestMatch()), closed[1]) == ["/"]
    assert passed(replace(office, scope=Scope()), *closed[:2]) == ["/0", "/1"]
    assert passed(office, *closed) == ["/"]


def test_there_is_a_domain_for_each_that_is_named_and_for_the_rest(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(
        "routes: [{name: r, prefix: /r, domains: ['*.b.test', a.test], respond: {body: x}}]\n"
        "rules: [{match: {domains: [c.b.test]}, body: x}]"
    )
    planned = plan(ruleset(tmp_path / "rules.yaml"))
    assert [domain.domain for domain in planned[RULE_FILES].domains] == ["*.b.test", "a.test", "c.b.test", "*"]
    assert names(planned, "c.b.test") == ["rule/rule-1"]
    assert names(planned, "a.test") == ["r"]


def test_domains_of_rules_do_not_multiply_the_routes() -> None:
    routes = tuple(forward(f"r{n}", f"/{n}") for n in range(50))
    rules = tuple(rule(f"d{n}", domains=(f"d{n}.test", f"*.w{n}.test")) for n in range(50))
    planned = plan(Ruleset(routes=routes, rules=rules))
    assert len(names(planned)) == len(routes) + 2 * len(rules)
    for host, name in (("d7.test", "d7"), ("D7.test", "d7"), ("a.b.w7.test", "d7"), ("w7.test", ""), ("xd7.test", "")):
        for port in ("", ":80"):
            request = parse("GET", host + port, "/", ())
            assert planned_route(planned, request).rule == name, host + port
    few = plan(Ruleset(routes=routes[:MAX_REPEATED], rules=rules))  # there, it costs less to have lists
    assert len(few[RULE_FILES].domains) == 101


@pytest.fixture
def meetings(monkeypatch: pytest.MonkeyPatch) -> list[Meet]:
    """What rules and routes were compared with others while they were planned."""
    compared = []

    def counting(first: Meet, second: Meet) -> Meet | None:
        compared.append(second)
        return meet(first, second)

    monkeypatch.setattr("rejoinder.xds.plan.meet", counting)
    return compared


def test_a_route_is_compared_only_with_rules_that_its_path_may_meet(meetings: list[Meet]) -> None:
    routes = tuple(forward(f"route{n}", f"/{n}") for n in range(500))
    of = tuple(route.name for route in routes)
    rules = (
        *(rule(f"below{n}", path(f"/{n}/x"), routes=of) for n in range(500)),
        *(rule(f"exact{n}", path(f"/{n}"), routes=of) for n in range(500)),
        rule("regex", path("/7.*", PathKind.REGEX), routes=of),
        rule("prefix", path("/7", PathKind.PREFIX), routes=of),
    )
    planned = plan(Ruleset(routes=routes, rules=rules))
    assert [name for name in names(planned) if name.startswith("route7/")] == [
        f"route7/rule/{name}" for name in ("below7", "exact7", "regex", "prefix")
    ]
    assert len(meetings) < 7 * len(routes)


def test_only_what_has_changed_is_planned_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Answer] = []

    def counting(answer: Answer, status: int) -> Reply:
        answers.append(answer)
        return reply(answer, status)

    monkeypatch.setattr("rejoinder.xds.plan.reply", counting)
    rules = tuple(rule(f"again{n}", path(f"/again/{n}")) for n in range(100))
    plan(Ruleset(routes=(forward("r", "/1"),), rules=rules))
    assert len(answers) == len(rules)
    del answers[:]
    changed = rule("again50", path("/again/changed"))
    plan(Ruleset(routes=(forward("r", "/1"),), rules=(*rules[:50], changed, *rules[51:])))
    assert answers == [*changed.answers]
