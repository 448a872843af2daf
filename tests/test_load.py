"""Loading rule files: what they become, and what is said about those that are wrong."""

# ruff: noqa: E501  (the tables of mistakes have one case a line, its message in full)
from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Final

import pytest
from loading import (
    _in_an_empty_folder,  # noqa: F401 - a fixture
    errors_of,
    load_text,
    ruleset_of,
)

from rejoinder.rules.model import (
    Answer,
    Endpoint,
    Forward,
    Listener,
    PathKind,
    PathMatch,
    RateLimit,
    Redirect,
    RequestMatch,
    Route,
    Rule,
    Ruleset,
    Scope,
    StatusPattern,
    StringKind,
    StringMatch,
    Upstream,
)
from rejoinder.rules.problem import Severity


def on(*digits: str) -> tuple[StatusPattern, ...]:
    return tuple(StatusPattern(digit) for digit in digits)


# --- what a file becomes ---

EVERYTHING: Final = r"""
listen: 0.0.0.0:8080
upstreams:
  httpbin: http://127.0.0.1:8000
  many: [https://a.example.com, "https://[::1]:8443/"]
  echo: builtin:echo
routes:
  - name: robots
    domains: ["*.Example.com"]
    path: /robots.txt
    methods: [GET, HEAD]
    headers: {X-Env: canary, a: {regex: "v[0-9]+"}, b: {contains: x}, c: {prefix: x}, d: {suffix: x}, e: {present: true}}
    query: {debug: "1"}
    respond: {status_code: 200, headers: [Content-Type=text/plain], body: "User-agent: *\n"}
  - name: old
    prefix: /old/
    redirect: {scheme: https, host: example.com, port: 8443, prefix: /new, status_code: 308}
  - name: route-a
    regex: /a/[0-9]+
    upstream: httpbin
    rate_limit: {requests: 100, per: 100ms}
rules:
  - name: mock
    match: {routes: [route-a, old], methods: POST}
    body: '{"hello":"world"}'
  - match: {domains: ["*.example.com", test.com]}
    enable_on_status: 429
    status_code: 302
    headers: {Location: "https://example.com?a=b", Set-Cookie: [a=1, b=2]}
  - name: errors
    match: {prefix: /api}
    final: true
    rules:
      - {enable_on_status: ["503", 40X], body_file: pages/busy.json, headers: [Retry-After = 30 , X-Empty=]}
      - {enable_on_status: [5xx], status_code: original, body: "{}"}
"""


def test_every_field_becomes_what_it_says() -> None:
    Path("pages").mkdir()
    Path("pages/busy.json").write_bytes(b'{"busy":true}')
    assert ruleset_of(EVERYTHING) == Ruleset(
        listeners=(Listener("0.0.0.0", 8080),),
        upstreams=(
            Upstream("httpbin", (Endpoint("127.0.0.1", 8000),)),
            Upstream("many", (Endpoint("a.example.com", 443), Endpoint("::1", 8443)), tls=True),
            Upstream("echo", (), echo=True),
        ),
        routes=(
            Route(
                "robots",
                Answer(200, (("content-type", "text/plain"),), b"User-agent: *\n"),
                domains=("*.example.com",),
                request=RequestMatch(
                    PathMatch(PathKind.EXACT, "/robots.txt"),
                    methods=("GET", "HEAD"),
                    headers=(
                        ("x-env", StringMatch(StringKind.EXACT, "canary")),
                        ("a", StringMatch(StringKind.REGEX, "v[0-9]+")),
                        ("b", StringMatch(StringKind.CONTAINS, "x")),
                        ("c", StringMatch(StringKind.PREFIX, "x")),
                        ("d", StringMatch(StringKind.SUFFIX, "x")),
                        ("e", StringMatch(StringKind.PRESENT)),
                    ),
                    query=(("debug", StringMatch(StringKind.EXACT, "1")),),
                ),
            ),
            Route(
                "old",
                Redirect("https", "example.com", 8443, prefix="/new", status_code=308),
                request=RequestMatch(PathMatch(PathKind.PREFIX, "/old")),
            ),
            Route(
                "route-a",
                Forward("httpbin"),
                request=RequestMatch(PathMatch(PathKind.REGEX, "/a/[0-9]+")),
                rate_limit=RateLimit(100, 0.1),
            ),
        ),
        rules=(
            Rule(
                "mock",
                (Answer(body=b'{"hello":"world"}'),),
                Scope(routes=("route-a", "old"), request=RequestMatch(methods=("POST",))),
            ),
            Rule(
                "rule-2",
                (
                    Answer(
                        302,
                        (("location", "https://example.com?a=b"), ("set-cookie", "a=1"), ("set-cookie", "b=2")),
                        enable_on_status=on("429"),
                    ),
                ),
                Scope(domains=("*.example.com", "test.com")),
            ),
            Rule(
                "errors",
                (
                    Answer(
                        None,
                        (
                            ("content-type", "application/json; charset=utf-8"),
                            ("retry-after", "30"),
                            ("x-empty", ""),
                        ),
                        b'{"busy":true}',
                        on("503", "40"),
                    ),
                    Answer(None, body=b"{}", enable_on_status=on("5")),
                ),
                Scope(request=RequestMatch(PathMatch(PathKind.PREFIX, "/api"))),
                final=True,
            ),
        ),
    )


def test_json_is_read_with_its_line_numbers_and_escapes() -> None:
    text = json.dumps({"body": "\U0001f600 \\ud83d\\ude00", "status_code": 503, "nonsense": 1}, indent="\t")
    loaded = load_text(text, "rules.json")
    assert errors_of(loaded)[0].startswith('rules.json:4: unknown field "nonsense", expected one of listen, ')
    loaded = load_text(text.replace(',\n\t"nonsense": 1', ""), "rules.json")
    assert loaded.ruleset is not None
    assert loaded.ruleset.rules[0].answers[0].body.decode() == "\U0001f600 \\ud83d\\ude00"


def test_a_compact_json_file_is_read() -> None:
    assert load_text('{"rules":[{"match":{"path":"/a"},"body":"x"}]}', "rules.json").ruleset is not None


def test_anchors_and_merge_keys_work() -> None:
    rules = ruleset_of(
        """
        rules:
          - &base {match: {path: /a}, headers: &common [X-A=1], body: a}
          - {<<: *base, match: {path: /b}}
          - {<<: [{body: c}, *base], match: {path: /c}, headers: *common}
        """
    ).rules
    assert [rule.answers[0].body for rule in rules] == [b"a", b"a", b"c"]
    assert [rule.scope.request.path.value for rule in rules] == ["/a", "/b", "/c"]
    assert all(rule.answers[0].headers == (("x-a", "1"),) for rule in rules)


# --- the plug-in's own configurations ---


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        pytest.param(
            'status_code: 200\nheaders:\n- Content-Type=application/json\n- Hello=World\nbody: \'{"hello":"world"}\'\n',
            [
                Rule(
                    "rule-1",
                    (Answer(200, (("content-type", "application/json"), ("hello", "World")), b'{"hello":"world"}'),),
                    final=True,
                )
            ],
            id="an answer at the top level is for every request",
        ),
        pytest.param(
            "enable_on_status:\n- 429\nstatus_code: '302'\nheaders:\n- Location=https://example.com\n",
            [Rule("rule-1", (Answer(302, (("location", "https://example.com"),), b"", on("429")),), final=True)],
            id="a redirect on throttling",
        ),
        pytest.param(
            "rules:\n- {body: a, enable_on_status: ['200', 201]}\n- {body: b, enable_on_status: ['40x']}\n- {body: c}\n",
            [
                Rule(
                    "rule-1",
                    (
                        Answer(body=b"a", enable_on_status=on("200", "201")),
                        Answer(body=b"b", enable_on_status=on("40")),
                        Answer(body=b"c"),
                    ),
                    final=True,
                )
            ],
            id="rules without any match are the answers of one scope",
        ),
        pytest.param(
            """
            body: everybody
            _rules_:
            - {_match_route_: [route-a, route-b], body: a}
            - _match_domain_: ["*.example.com", test.com]
              rules:
              - {body: b, enable_on_status: [429]}
              - {body: c, enable_on_status: [5xx]}
            """,
            [
                Rule("rule-1", (Answer(body=b"a"),), Scope(routes=("route-a", "route-b")), final=True),
                Rule(
                    "rule-2",
                    (Answer(body=b"b", enable_on_status=on("429")), Answer(body=b"c", enable_on_status=on("5"))),
                    Scope(domains=("*.example.com", "test.com")),
                    final=True,
                ),
                Rule("rule-3", (Answer(body=b"everybody"),), final=True),
            ],
            id="a scope that fits replaces the top level",
        ),
        pytest.param(
            "rules:\n- {match: {path: /a}, body: a}\n- {body: b}\n",
            [
                Rule("rule-1", (Answer(body=b"a"),), Scope(request=RequestMatch(PathMatch(PathKind.EXACT, "/a")))),
                Rule("rule-2", (Answer(body=b"b"),)),
            ],
            id="with one match they are rules",
        ),
        pytest.param(
            "rules:\n- {name: a, enable_on_status: [500], body: a}\n- {body: b}\n",
            [Rule("a", (Answer(None, body=b"a", enable_on_status=on("500")),)), Rule("rule-2", (Answer(body=b"b"),))],
            id="with one name they are rules",
        ),
        pytest.param(
            "rules:\n- {enable_on_status: [500], body: a, final: true}\n- {body: b}\n",
            [
                Rule("rule-1", (Answer(None, body=b"a", enable_on_status=on("500")),), final=True),
                Rule("rule-2", (Answer(body=b"b"),)),
            ],
            id="or with one that is final",
        ),
    ],
)
def test_the_plug_ins_configurations_are_read_as_rules(text: str, rules: list[Rule]) -> None:
    assert list(ruleset_of(text).rules) == rules


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        pytest.param("routes: []\nrules: [{enable_on_status: [5xx], body: x}]", True, id="beside a section"),
        pytest.param("rules: [{enable_on_status: [5xx], body: x}]", False, id="the plug-in's own"),
        pytest.param(
            "routes: []\nrules: [{enable_on_status: [5xx], status_code: original, body: x}]", False, id="with a status"
        ),
        pytest.param("routes: []\nrules: [{name: a, enable_on_status: [5xx], body: x}]", False, id="with a name"),
    ],
)
def test_the_plug_ins_default_status_in_a_rule_file_of_ours_is_a_warning(text: str, warned: bool) -> None:
    warnings = [problem for problem in load_text(text).problems if "status_code is 200" in problem.message]
    assert bool(warnings) is warned


def test_a_plug_in_configuration_may_stand_beside_routes() -> None:
    ruleset = ruleset_of(
        "listen: 127.0.0.1:80\nupstreams: {a: http://a}\nroutes: [{name: a, upstream: a}]\n"
        "_rules_: [{_match_route_: [a], body: x}]\n"
    )
    assert [rule.scope.routes for rule in ruleset.rules] == [("a",)]
    assert ruleset.upstreams[0].endpoints == (Endpoint("a", 80),)


NO_ROUTES: Final = "there are no routes here"


@pytest.mark.parametrize(
    ("rules", "place"),
    [
        ("_rules_: [{_match_route_: [%s], body: x}]", "_rules_[0]._match_route_[0]"),
        ("rules: [{match: {routes: [%s]}, body: x}]", 'rule "rule-1": match.routes[0]'),
    ],
    ids=["plug-in", "rule"],
)
@pytest.mark.parametrize(
    ("routes", "name", "closest", "severity"),
    [
        pytest.param([], "theirs", NO_ROUTES, Severity.WARNING, id="no routes: all are another Envoy's"),
        pytest.param(["checkout"], "theirs", 'the closest one here is "checkout"', Severity.WARNING, id="a far one"),
        pytest.param(["a", "stock"], "shop", 'the closest one here is "stock"', Severity.WARNING, id="not so close"),
        pytest.param(["checkout", "shop"], "chekout", 'did you mean "checkout"?', Severity.ERROR, id="a slip"),
        pytest.param(["api-errors"], "api_errors", 'did you mean "api-errors"?', Severity.ERROR, id="another dash"),
        pytest.param(["shop"], "shop", None, None, id="one that there is"),
    ],
)
def test_an_unknown_route_is_another_envoys_unless_it_is_a_slip(
    rules: str, place: str, routes: list[str], name: str, closest: str | None, severity: Severity | None
) -> None:
    defined = ", ".join(f"{{name: {route}, path: /{route}, respond: {{body: x}}}}" for route in routes)
    loaded = load_text(f"routes: [{defined}]\n{rules % name}\n")
    assert (loaded.ruleset is None) is (severity is Severity.ERROR)
    told = {
        None: [],
        Severity.ERROR: [f'rules.yaml:2: {place}: unknown route "{name}", {closest}'],
        Severity.WARNING: [
            f'rules.yaml:2: {place}: no route here is called "{name}": it is taken for one of an Envoy with routes of '
            f"its own ({closest})"
        ],
    }
    assert [str(problem) for problem in loaded.problems] == told[severity]


def test_thousands_of_unknown_routes_among_thousands_are_not_all_compared() -> None:
    number = 2000
    routes = ", ".join(f"{{name: ours-{n}, path: /{n}, respond: {{body: x}}}}" for n in range(number))
    rules = ", ".join(f"{{match: {{routes: [their-{n}]}}, body: x}}" for n in range(number))
    started = time.process_time()
    loaded = load_text(f"routes: [{routes}]\nrules: [{rules}]\n")
    assert time.process_time() - started < 20  # all of them: more than a minute
    assert [problem.severity for problem in loaded.problems] == [Severity.WARNING] * number
    named = [problem for problem in loaded.problems if "the closest one here is" in problem.message]
    assert 0 < len(named) < number
