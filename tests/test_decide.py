"""`decide`, line by line as docs/design.md has it, and `misfit`, which must say the same in words."""

from __future__ import annotations

import tempfile
import textwrap
from pathlib import Path
from typing import Final

import pytest
from gateway import ruleset
from hypothesis import given, settings
from hypothesis import strategies as st
from test_matching import matches, requests

from rejoinder.rules.decide import Decision, decide
from rejoinder.rules.matching import scope_fits
from rejoinder.rules.misfit import misfit
from rejoinder.rules.model import Ruleset, Scope
from rejoinder.rules.request import Request, parse


def rules(text: str) -> Ruleset:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rules.yaml")
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return ruleset(file)


def outcome(decision: Decision, status: int) -> str:
    """What a client gets if the upstream says `status`, in a word: a body or a redirect's address, or `passes`."""
    if decision.reply is not None:
        assert decision.chain == (), "what is sent at once is final"
        return decision.reply.body.decode() or dict(decision.reply.headers)["location"]
    answered = decision.on_status(status)
    return "passes" if answered is None else f"{answered[1].status} {answered[1].body.decode()}"


def ask(rule_set: Ruleset, url: str, status: int, method: str = "GET", *headers: tuple[str, str]) -> str:
    host, slash, path = url.partition("/")
    return outcome(decide(rule_set, parse(method, host, slash + path, headers)), status)


ORDER: Final = rules("""
    upstreams: {up: builtin:echo}
    routes:
      - {name: first, prefix: /a, upstream: up}
      - {name: second, prefix: /a/b, upstream: up}
      - {name: own, prefix: /own, respond: {body: own}}
      - {name: away, prefix: /away, redirect: {prefix: /there, host: other.test}}
      - {name: shop, domains: ["*.shop.test"], upstream: up}
    rules:
      - {name: on-second, match: {routes: [second]}, body: never}
      - {name: on-mock, match: {path: /a/mock}, enable_on_status: [503], body: never}
      - {name: mock, match: {path: /a/mock}, body: mock}
      - {name: mock-own, match: {path: /own/mock}, body: mocked}
      - {name: mock-away, match: {path: /away/mock}, body: mocked}
      - {name: nowhere, match: {path: /nowhere}, body: somewhere}
      - {name: a-503, match: {prefix: /a, methods: [GET]}, enable_on_status: [503], status_code: 200, body: a}
      - name: for-shop
        match: {routes: [shop], domains: [x.shop.test, y.shop.test]}
        enable_on_status: [404]
        status_code: 200
        body: gone
      - {name: rest, enable_on_status: [5xx], body: rest}
      - {name: missing, enable_on_status: [404], status_code: 410, body: missing}
      - {name: again, enable_on_status: [503, 4xx], body: never, match: {prefix: /none}}
""")


@pytest.mark.parametrize(
    ("url", "status", "expected"),
    [
        pytest.param("h.test/a", 503, "200 a", id="the first rule that fits and has an answer"),
        pytest.param("h.test/a", 500, "500 rest", id="one that has none is not asked"),
        pytest.param("h.test/a", 404, "410 missing", id="nor is the next one that has none"),
        pytest.param("h.test/a", 302, "passes", id="no rule has an answer"),
        pytest.param("h.test/a", 200, "passes", id="also not for what went well"),
        pytest.param("h.test/a/b", 503, "200 a", id="the first route that fits takes the request"),
        pytest.param("h.test/a/mock", 503, "mock", id="an unconditional answer is sent at once"),
        pytest.param("h.test/own", 503, "own", id="a route's own answer is final"),
        pytest.param("h.test/own/mock", 200, "mocked", id="but an unconditional rule comes before it"),
        pytest.param("h.test/away/x?q", 503, "http://other.test/there/x?q", id="a redirect is final"),
        pytest.param("h.test/away/mock", 503, "mocked", id="an unconditional rule comes before it, too"),
        pytest.param("h.test/nowhere", 404, "somewhere", id="and before no route at all"),
        pytest.param("h.test/none", 404, "410 missing", id="no route: Envoy's 404 is asked about"),
        pytest.param("h.test/none", 403, "403 never", id="the last rule, where all others have no answer"),
        pytest.param("h.test/none", 503, "503 rest", id="status_code left out: the upstream's"),
        pytest.param("x.shop.test/", 404, "200 gone", id="domain and route fit"),
        pytest.param("z.shop.test/", 404, "410 missing", id="the route fits, the domain does not"),
        pytest.param("x.shop.test/a", 404, "410 missing", id="the domain fits, the route does not"),
        pytest.param("h.test/a", 103, "passes", id="interim statuses pass"),
    ],
)
def test_the_first_rule_that_fits_and_has_an_answer_decides(url: str, status: int, expected: str) -> None:
    assert ask(ORDER, url, status) == expected


@pytest.mark.parametrize(("method", "expected"), [("GET", "200 a"), ("HEAD", "503 rest"), ("POST", "503 rest")])
def test_only_the_methods_of_a_match_fit(method: str, expected: str) -> None:
    assert ask(ORDER, "h.test/a", 503, method) == expected


def test_a_head_request_is_decided_as_any_other() -> None:
    assert ask(ORDER, "h.test/a/mock", 200, "HEAD") == "mock"


FINAL: Final = rules("""
    upstreams: {up: builtin:echo}
    routes:
      - {name: all, upstream: up, domains: [up.test]}
      - {name: own, respond: {body: own}}
    rules:
      - {name: canary, match: {headers: {x-env: canary}}, final: true, enable_on_status: [500], body: canary}
      - {name: debug, match: {query: {debug: "1"}}, enable_on_status: [5xx], body: debug}
      - name: answers
        match: {path: /both}
        final: true
        rules: [{enable_on_status: [404], body: found}, {body: else}]
      - {name: mock, match: {path: /mock}, body: mock}
      - {name: last, match: {prefix: /a}, enable_on_status: [500, 404], body: last}
""")
CANARY: Final = ("X-Env", "canary")


@pytest.mark.parametrize(
    ("url", "status", "headers", "expected"),
    [
        pytest.param("up.test/a", 500, [CANARY], "500 canary", id="it has an answer"),
        pytest.param("up.test/a", 404, [CANARY], "passes", id="it has none, and no later rule is asked"),
        pytest.param("up.test/a", 404, [], "404 last", id="where it does not fit, they are"),
        pytest.param("up.test/a?debug=1", 503, [CANARY], "passes", id="also not one that names the status"),
        pytest.param("up.test/a?debug=1", 503, [], "503 debug", id="which else has an answer"),
        pytest.param("up.test/a?debug=1", 404, [], "404 last", id="and else is not asked"),
        pytest.param("up.test/mock", 200, [CANARY], "passes", id="it keeps unconditional ones away, too"),
        pytest.param("up.test/mock", 500, [CANARY], "500 canary", id="and has its own answer there"),
        pytest.param("up.test/mock", 500, [], "mock", id="where it does not fit, they answer at once"),
        pytest.param("up.test/mock?debug=1", 503, [], "mock", id="one that is not final keeps none away"),
        pytest.param("up.test/both", 404, [], "404 found", id="with an answer for the status"),
        pytest.param("up.test/both", 200, [], "200 else", id="and with one for all others, which waits for a status"),
        pytest.param("h/a", 404, [CANARY], "own", id="a route that answers by itself does so behind it"),
    ],
)
def test_no_rule_is_asked_behind_a_final_one_that_fits(
    url: str, status: int, headers: list[tuple[str, str]], expected: str
) -> None:
    assert ask(FINAL, url, status, "GET", *headers) == expected


PLUG_IN: Final = rules("""
    enable_on_status: [5xx]
    body: top
    _rules_:
      - {_match_domain_: [a.test], enable_on_status: [404], body: a}
      - {_match_domain_: ["*.test"], rules: [{enable_on_status: [500], body: b}, {body: rest}]}
      - {_match_domain_: [mock.org], body: mock}
      - {_match_domain_: ["*.org"], body: org}
""")


@pytest.mark.parametrize(
    ("host", "status", "expected"),
    [
        pytest.param("a.test", 404, "200 a", id="its scope answers, with 200"),
        pytest.param("a.test", 500, "passes", id="and nobody else is asked"),
        pytest.param("b.test", 500, "200 b", id="the first entry that fits"),
        pytest.param("b.test", 404, "200 rest", id="its answer for every other status"),
        pytest.param("mock.org", 500, "mock", id="an unconditional entry"),
        pytest.param("x.org", 200, "org", id="the next one"),
        pytest.param("else", 500, "200 top", id="the top level where no entry fits"),
        pytest.param("else", 404, "passes", id="which has nothing for that"),
    ],
)
def test_a_configuration_of_the_plug_in_is_one_scope_for_a_request(host: str, status: int, expected: str) -> None:
    assert ask(PLUG_IN, f"{host}/", status) == expected


def test_a_decision_names_route_and_rule() -> None:
    decision = decide(ORDER, parse("GET", "h.test", "/a/mock"))
    assert decision.route is ORDER.routes[0]
    assert decision.rule is ORDER.rules[2]
    decision = decide(ORDER, parse("GET", "h.test", "/own"))
    assert decision.route is ORDER.routes[2]
    assert decision.rule is None


def test_an_answer_to_a_status_names_its_rule() -> None:
    answered = decide(FINAL, parse("GET", "up.test", "/a")).on_status(404)
    assert answered is not None
    assert answered[0] == "last"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param("example.com", "passes", id="not the domain itself"),
        pytest.param("a.example.com", "404 wild", id="one label"),
        pytest.param("a.b.example.com", "404 wild", id="several labels"),
        pytest.param("A.Example.COM:8080", "404 wild", id="letter case and port do not matter"),
        pytest.param("test.com", "404 wild", id="a plain domain"),
        pytest.param("a.test.com", "passes", id="is no wildcard"),
        pytest.param("[::1]:80", "404 six", id="an IPv6 address"),
    ],
)
def test_domains_fit_hosts(host: str, expected: str) -> None:
    rule_set = rules("""
        rules:
          - {name: wild, match: {domains: ["*.example.com", test.com]}, enable_on_status: [404], body: wild}
          - {name: six, match: {domains: ["[::1]"]}, enable_on_status: [404], body: six}
    """)
    assert ask(rule_set, f"{host}/x", 404) == expected


FOREIGN: Final = rules("""
    routes:
      - {name: known, path: /known, respond: {body: known}}
    rules:
      - {name: known, match: {routes: [known]}, enable_on_status: [404], body: scoped}
      - {name: every, enable_on_status: [5xx], body: every}
      - {name: at-once, match: {routes: [mock]}, body: mock}
""")


@pytest.mark.parametrize(
    ("path", "route_name", "status", "expected"),
    [
        pytest.param("/x", "foreign", 503, "503 every", id="a route that the files do not have"),
        pytest.param("/x", "foreign", 404, "passes", id="is not one that the rule names"),
        pytest.param("/x", "known", 404, "404 scoped", id="one that it names, whatever the path"),
        pytest.param("/known", "foreign", 404, "passes", id="the routes of the files count for nothing"),
        pytest.param("/known", "", 404, "passes", id="also where no route fits there"),
        pytest.param("/x", "", 503, "503 every", id="no route, and a rule for every one"),
        pytest.param("/x", "mock", 503, "mock", id="a rule that answers at once"),
        pytest.param("/known", None, 404, "known", id="without a name they are our routes"),
    ],
)
def test_a_foreign_envoys_route_name_scopes(path: str, route_name: str | None, status: int, expected: str) -> None:
    assert outcome(decide(FOREIGN, parse("GET", "h", path), route_name=route_name), status) == expected


def test_a_route_that_only_the_foreign_envoy_has_can_be_named() -> None:
    rule_set = rules("body: mock\n_rules_: [{_match_route_: [theirs], enable_on_status: [404], body: scoped}]")
    assert outcome(decide(rule_set, parse("GET", "h", "/"), route_name="theirs"), 404) == "200 scoped"
    assert outcome(decide(rule_set, parse("GET", "h", "/"), route_name="other"), 404) == "mock"


REDIRECTS: Final = """
    routes:
      - {name: r, PATH, redirect: {ACTION}}
"""


@pytest.mark.parametrize(
    ("path", "action", "url", "location"),
    [
        pytest.param("prefix: /a", "prefix: /b", "h/a/x?q=1", "http://h/b/x?q=1", id="a prefix"),
        pytest.param("prefix: /a", "prefix: /b", "h/a", "http://h/b", id="nothing behind it"),
        pytest.param("prefix: /a", "prefix: /", "h/a/x", "http://h/x", id="a prefix taken away"),
        pytest.param("prefix: /a", "prefix: /", "h/a", "http://h/", id="and nothing left"),
        pytest.param("prefix: /", "prefix: /b", "h/x", "http://h/b/x", id="a prefix put in front"),
        pytest.param("path: /a", "prefix: /b", "h/a?q", "http://h/b?q", id="an exact path's prefix is all of it"),
        pytest.param("prefix: /a", "path: /b", "h/a/x?q", "http://h/b?q", id="a path keeps the query"),
        pytest.param("prefix: /a", "path: /b?z=1", "h/a/x?q", "http://h/b?z=1", id="or brings its own"),
        pytest.param("prefix: /a", "host: o.test", "h:8080/a", "http://o.test/a", id="a host leaves the port behind"),
        pytest.param("prefix: /a", "port: 81", "h:8080/a", "http://h:81/a", id="a port"),
        pytest.param("prefix: /a", "scheme: https", "h:80/a", "https://h/a", id="a scheme leaves its own port behind"),
        pytest.param("prefix: /a", "scheme: https", "h:8080/a", "https://h:8080/a", id="and takes another along"),
        pytest.param("prefix: /a", "scheme: https", "[::1]/a", "https://[::1]/a", id="an IPv6 address"),
    ],
)
def test_a_redirect_leads_to(path: str, action: str, url: str, location: str) -> None:
    assert ask(rules(REDIRECTS.replace("PATH", path).replace("ACTION", action)), url, 200) == location


scopes = st.builds(
    Scope,
    st.lists(st.sampled_from(("a.test", "*.test", "b.test", "*")), max_size=2, unique=True).map(tuple),
    st.none() | st.lists(st.sampled_from(("r1", "r2")), max_size=2, unique=True).map(tuple),
    matches,
)


@settings(max_examples=500)
@given(scope=scopes, request=requests, route=st.sampled_from((None, "r1", "r2", "r3")))
def test_there_is_a_misfit_exactly_where_a_scope_does_not_fit(
    scope: Scope, request: Request, route: str | None
) -> None:
    assert (misfit(scope, request, route) is None) is scope_fits(scope, request, route, None)


@pytest.mark.parametrize(
    ("match", "reason"),
    [
        pytest.param("{routes: [r1]}", 'it is about the route "r1", the request takes no route', id="route"),
        pytest.param("{domains: [a, b]}", 'it is about the domain "a" or "b", the host is "h"', id="domain"),
        pytest.param("{methods: [PUT]}", 'it is about the method "PUT", the method is "GET"', id="method"),
        pytest.param("{path: /a}", 'it is about the path "/a", the path is "/x"', id="path"),
        pytest.param("{prefix: /a}", 'it is about paths below "/a", the path is "/x"', id="prefix"),
        pytest.param("{regex: /a+}", 'it is about paths like "/a+", the path is "/x"', id="regex"),
        pytest.param(
            "{headers: {h: a}}", 'it is about a header "h" being "a", it is "1" and "2"', id="a header with values"
        ),
        pytest.param(
            "{headers: {n: {present: true}}}", 'about requests with a header "n", there is none', id="present"
        ),
        pytest.param(
            "{query: {q: {prefix: a}}}", 'a query parameter "q" with the prefix "a", there is none', id="parameter"
        ),
    ],
)
def test_a_misfit_says_what_is_wanted_and_what_came(match: str, reason: str) -> None:
    rule_set = rules(f"routes: [{{name: r1, path: /r1, respond: {{body: x}}}}]\nrules: [{{match: {match}, body: x}}]")
    said = misfit(rule_set.rules[0].scope, parse("GET", "h", "/x", (("h", "1"), ("h", "2"))), None)
    assert said is not None
    assert reason in said


def test_behind_a_handler_that_may_make_nothing_rules_are_asked_about_the_response() -> None:
    rule_set = rules("""
        upstreams: {up: "http://127.0.0.1:1"}
        routes: [{name: own, path: /own, respond: {body: own}}, {name: up, upstream: up}]
        rules:
          - {name: before, enable_on_status: [502], body: before}
          - {name: mock, handler: "mocks:mock"}
          - {name: another, body: never}
          - {name: behind, enable_on_status: [503], body: behind}
          - {name: last, match: {path: /last}, final: true, body: never}
          - {name: shielded, enable_on_status: [504], body: shielded}
    """)
    decision = decide(rule_set, parse("GET", "a.test", "/"))
    assert (decision.rule and decision.rule.name, decision.reply) == ("mock", None)
    assert [outcome(decision, status) for status in (502, 503, 504, 404)] == [
        "502 before",
        "503 behind",
        "504 shielded",
        "passes",
    ]
    assert outcome(decide(rule_set, parse("GET", "a.test", "/last")), 504) == "passes"
    assert decide(rule_set, parse("GET", "a.test", "/own")).chain == ()


def test_of_a_page_of_another_service_is_said_what_is_sent_without_it() -> None:
    rule_set = rules("""
        upstreams: {up: "http://127.0.0.1:1"}
        rules:
          - {name: own, enable_on_status: [503], page: {upstream: up}, body: own}
          - {name: stays, enable_on_status: [502], page: {upstream: up}, headers: {x-a: "1"}}
    """)
    decision = decide(rule_set, parse("GET", "a.test", "/"))
    assert [outcome(decision, status) for status in (503, 502)] == ["503 own", "passes"]
    grpc = decide(rule_set, parse("GET", "a.test", "/", (("content-type", "application/grpc"),)))
    assert [outcome(grpc, status) for status in (503, 502)] == ["503 own", "passes"]
