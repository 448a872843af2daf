"""What is planned means what `decide` says: random rule files, without an Envoy (test_differential.py has one).

pytest tests/test_plan.py                       as in CI: a fixed seed and few examples
pytest tests/test_plan.py --differential 5000   so many rule files at random
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from gateway import ruleset
from hypothesis import HealthCheck, given, seed, settings
from test_differential import HOSTS, rule_files
from test_matching import meet_fits

from rejoinder.rules.answers import Reply
from rejoinder.rules.decide import Decision, decide, redirect
from rejoinder.rules.matching import Meet, meet, wider_domains
from rejoinder.rules.model import (
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
)
from rejoinder.rules.request import Request, parse
from rejoinder.xds.plan import MAX_OVERLAPPING, Plan, PlanError, PlannedRoute, plan

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
    domains = {domain.domain: domain for domain in planned.domains}
    domain = next(domains[pattern] for pattern in wider_domains(request.host) if pattern in domains)
    return next(route for route in domain.routes if meet_fits(route.match, request))


def assert_same(route: PlannedRoute, decision: Decision, request: Request) -> None:
    assert route.route == decision.route
    assert route.table == decision.table
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

    @settings(max_examples=examples or 200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(document=rule_files())
    def compare(document: dict[str, Any]) -> None:
        file.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
        rules = ruleset(file)
        planned = plan(rules)
        for request in REQUESTS:
            assert_same(planned_route(planned, request), decide(rules, request), request)

    (compare if examples else seed(20261121)(compare))()


def forward(name: str, path: str = "/") -> Route:
    return Route(name, Forward("up"), request=RequestMatch(PathMatch(PathKind.PREFIX, path)))


def header(name: str) -> RequestMatch:
    return RequestMatch(headers=((name, StringMatch(StringKind.PRESENT)),))


def rule(name: str, request: RequestMatch, *, fallthrough: bool = False, status: str = "503") -> Rule:
    return Rule(name, (Answer(enable_on_status=(StatusPattern(status),)),), Scope(request=request), fallthrough)


def names(planned: Plan, domain: str = "*") -> list[str]:
    return [route.name for each in planned.domains if each.domain == domain for route in each.routes]


def test_routes_are_named_after_the_file() -> None:
    rules = (rule("a", header("a"), fallthrough=True), rule("b", RequestMatch()))
    planned = plan(Ruleset(routes=(forward("first", "/x"),), rules=rules))
    assert names(planned) == ["first/rule/a+b", "first/rule/b", "no-route/rule/a+b", "no-route/rule/b"]


def test_what_stands_behind_a_route_for_every_request_is_left_out() -> None:
    assert names(plan(Ruleset(routes=(forward("all"), forward("never", "/x"))))) == ["all"]


def test_what_an_earlier_route_takes_is_left_out() -> None:
    def path(kind: PathKind, value: str) -> RequestMatch:
        return RequestMatch(PathMatch(kind, value))

    post = Route("post", Forward("up"), request=RequestMatch(PathMatch(PathKind.PREFIX, "/y"), methods=("POST",)))
    rules = (rule("a", path(PathKind.EXACT, "/x/a")), rule("b", path(PathKind.PREFIX, "/y/b")))
    planned = plan(Ruleset(routes=(forward("x", "/x"), post), rules=rules))
    # Requests for /x/a have all taken the first route; of those for /y/b only some have taken the second.
    assert names(planned) == ["x/rule/a", "x", "post/rule/b", "post", "no-route/rule/b", "no-route"]


def test_a_part_that_does_what_the_rest_does_is_left_out() -> None:
    own = Route("own", Answer(), request=RequestMatch(PathMatch(PathKind.PREFIX, "/x")))
    planned = plan(Ruleset(routes=(own,), rules=(rule("a", header("a")),)))
    assert names(planned) == ["own", "no-route/rule/a", "no-route"]


def test_there_is_a_domain_for_each_that_is_named_and_for_the_rest(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(
        "routes: [{name: r, prefix: /r, domains: ['*.b.test', a.test], respond: {body: x}}]\n"
        "rules: [{match: {domains: [c.b.test]}, body: x}]"
    )
    planned = plan(ruleset(tmp_path / "rules.yaml"))
    assert [domain.domain for domain in planned.domains] == ["*.b.test", "a.test", "c.b.test", "*"]
    assert names(planned, "c.b.test") == ["r/rule/rule-1", "no-route/rule/rule-1"]
    assert names(planned, "a.test") == ["r", "no-route"]


def test_a_table_that_several_routes_use_is_one() -> None:
    planned = plan(Ruleset(routes=(forward("x", "/x"), forward("y", "/y")), rules=(rule("a", RequestMatch()),)))
    assert len(planned.tables()) == 1


def overlapping(number: int) -> tuple[Rule, ...]:
    return tuple(rule(f"r{n}", header(f"x-{n}"), fallthrough=True, status=str(400 + n)) for n in range(number))


def test_rules_that_overlap_are_planned_up_to_the_limit() -> None:
    planned = plan(Ruleset(rules=overlapping(MAX_OVERLAPPING)))
    assert len(names(planned)) == 2 ** (MAX_OVERLAPPING)
    assert len(planned.tables()) == 2 ** (MAX_OVERLAPPING) - 1


EXCLUSIVE = tuple(
    rule(f"p{n}", RequestMatch(PathMatch(PathKind.EXACT, f"/{n}")), fallthrough=True) for n in range(1000)
)


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param(overlapping(MAX_OVERLAPPING + 1), id="one more than the limit"),
        pytest.param(overlapping(2000), id="so many that a recursion would not end"),
        pytest.param(
            (*overlapping(MAX_OVERLAPPING), *(rule(f"f{n}", header(f"y-{n}")) for n in range(5000))),
            id="few that fall through, before many that do not",
        ),
        pytest.param((*EXCLUSIVE, *overlapping(MAX_OVERLAPPING)), id="behind many that exclude each other"),
    ],
)
def test_rules_that_overlap_in_too_many_ways_are_an_error(rules: tuple[Rule, ...]) -> None:
    with pytest.raises(
        PlanError, match=r'rule ".*": expected rules with fallthrough that overlap in at most 65,536 ways'
    ):
        plan(Ruleset(rules=rules))


@pytest.fixture
def meetings(monkeypatch: pytest.MonkeyPatch) -> list[RequestMatch]:
    """What rules and routes were compared with others while they were planned."""
    compared = []

    def counting(first: Meet, match: RequestMatch) -> Meet | None:
        compared.append(match)
        return meet(first, match)

    monkeypatch.setattr("rejoinder.xds.plan.meet", counting)
    return compared


def test_many_rules_that_fall_through_and_exclude_each_other_are_fine(meetings: list[RequestMatch]) -> None:
    assert len(names(plan(Ruleset(rules=EXCLUSIVE)))) == len(EXCLUSIVE) + 1
    assert len(meetings) <= len(EXCLUSIVE)


def test_a_route_is_compared_only_with_rules_that_its_path_may_meet(meetings: list[RequestMatch]) -> None:
    def path(kind: PathKind, value: str) -> RequestMatch:
        return RequestMatch(PathMatch(kind, value))

    routes = tuple(forward(f"route{n}", f"/{n}") for n in range(500))
    rules = (
        *(rule(f"below{n}", path(PathKind.EXACT, f"/{n}/x")) for n in range(500)),
        *(rule(f"exact{n}", path(PathKind.EXACT, f"/{n}")) for n in range(500)),
        rule("regex", path(PathKind.REGEX, "/7.*")),
        rule("prefix", path(PathKind.PREFIX, "/7")),
    )
    planned = plan(Ruleset(routes=routes, rules=rules))
    assert [name for name in names(planned) if name.startswith("route7/")] == [
        f"route7/rule/{name}" for name in ("below7", "exact7", "regex", "prefix")
    ]
    assert len(meetings) < 7 * len(routes)


def test_only_what_has_changed_is_planned_again(meetings: list[RequestMatch]) -> None:
    rules = tuple(rule(f"again{n}", RequestMatch(PathMatch(PathKind.EXACT, f"/{n}"))) for n in range(100))
    plan(Ruleset(routes=(forward("r", "/1"),), rules=rules))
    del meetings[:]
    changed = rule("again50", RequestMatch(PathMatch(PathKind.EXACT, "/changed")))
    plan(Ruleset(routes=(forward("r", "/1"),), rules=(*rules[:50], changed, *rules[51:])))
    assert meetings == [changed.scope.request]
