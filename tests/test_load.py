"""Loading rule files: what they become, and what is said about those that are wrong."""

# ruff: noqa: E501  (the tables of mistakes have one case a line, its message in full)
from __future__ import annotations

import json
import os
import resource
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rejoinder.rules.document import MAX_DEPTH, MAX_WEIGHT
from rejoinder.rules.files import MAX_FILE_SIZE, Files, UnreadableError
from rejoinder.rules.load import Loaded, load
from rejoinder.rules.model import (
    DEFAULT_LISTENER,
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
from rejoinder.rules.rule_file.content import MAX_BODY_SIZE
from rejoinder.rules.rule_file.headers import MAX_HEADER_SIZE


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # so that messages have short paths


def load_text(text: str | bytes, name: str = "rules.yaml") -> Loaded:
    Path(name).write_bytes(text.encode() if isinstance(text, str) else text)
    return load([Path(name)])


def ruleset_of(text: str) -> Ruleset:
    loaded = load_text(text)
    assert loaded.ruleset is not None, loaded.problems
    return loaded.ruleset


def errors_of(loaded: Loaded) -> list[str]:
    return [str(problem) for problem in loaded.problems if problem.severity is Severity.ERROR]


def warnings_of(loaded: Loaded) -> list[str]:
    return [str(problem) for problem in loaded.problems if problem.severity is Severity.WARNING]


def on(*digits: str) -> tuple[StatusPattern, ...]:
    return tuple(StatusPattern(each) for each in digits)


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
    found = [problem for problem in load_text(text).problems if "status_code is 200" in problem.message]
    assert bool(found) is warned


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
    defined = ", ".join(f"{{name: {each}, path: /{each}, respond: {{body: x}}}}" for each in routes)
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


# --- what is left out ---


@pytest.mark.parametrize(
    ("text", "status"),
    [
        pytest.param("rules: [{name: r, body: x}]", 200, id="a rule: no status calls for it"),
        pytest.param("rules: [{name: r, enable_on_status: [503], body: x}]", None, id="a rule on a status keeps it"),
        pytest.param("rules: [{name: r, rules: [{enable_on_status: [503], body: x}]}]", None, id="a list of answers"),
        pytest.param(
            "rules: [{name: r, rules: [{body: x}, {enable_on_status: [503], body: y}]}]",
            None,
            id="an answer for every other status in it",
        ),
        pytest.param("rules: [{name: r, rules: [{body: x}]}]", 200, id="a list without a status"),
        pytest.param(
            "rules: [{name: r, enable_on_status: [503], status_code: 200, body: x}]", 200, id="200 if it says"
        ),
        pytest.param("routes: [{name: r, respond: {body: x}}]", 200, id="a route"),
        pytest.param("{enable_on_status: [503], body: x}", 200, id="the plug-in: 200"),
        pytest.param("rules: [{enable_on_status: [503], body: x}]", 200, id="the plug-in's list"),
        pytest.param("_rules_: [{_match_domain_: [a], enable_on_status: [503], body: x}]", 200, id="its scopes"),
    ],
)
def test_status_code_left_out(text: str, status: int | None) -> None:
    ruleset = ruleset_of(text)
    answers = (*(rule.answers[0] for rule in ruleset.rules), *(route.action for route in ruleset.routes))
    assert [answer.status_code for answer in answers if isinstance(answer, Answer)] == [status]


@pytest.mark.parametrize(
    ("file", "more", "types"),
    [
        pytest.param("page.html", "", ["text/html; charset=utf-8"], id="a text"),
        pytest.param("page.HTML", "", ["text/html; charset=utf-8"], id="letter case"),
        pytest.param("robots.txt", "", ["text/plain; charset=utf-8"], id="plain"),
        pytest.param("a.json", "", ["application/json; charset=utf-8"], id="JSON"),
        pytest.param("a.svg", "", ["image/svg+xml; charset=utf-8"], id="a picture that is a text"),
        pytest.param("a.png", "", ["image/png"], id="one that is none has no charset"),
        pytest.param("page", "", [], id="no extension: what the body looks like"),
        pytest.param("a.nothing", "", [], id="an unknown one"),
        pytest.param("page.html", "headers: [Content-Type=text/x], ", ["text/x"], id="what the file says wins"),
    ],
)
def test_content_type_left_out_comes_from_the_files_name(file: str, more: str, types: list[str]) -> None:
    write({f"pages/{file}": "x"})
    [answer] = ruleset_of(f"rules: [{{name: r, {more}body_file: pages/{file}}}]").rules[0].answers
    assert [value for name, value in answer.headers if name == "content-type"] == types


@pytest.mark.parametrize("section", ["listen", "upstreams", "routes", "rules", "_rules_"])
def test_a_section_with_nothing_behind_it_is_as_if_it_were_not_there(section: str) -> None:
    loaded = load_text(f"{section}:\n  # all is commented out\n")
    assert (loaded.ruleset, loaded.problems) == (Ruleset(), ())


def test_an_answer_without_its_statuses_is_not_one_for_every_request() -> None:
    loaded = load_text("enable_on_status:\n  # - 503\nbody: x\n")
    assert errors_of(loaded) == [
        "rules.yaml:1: enable_on_status: expected a status from 200 to 599, or three characters such as 5xx or 40x, "
        "got nothing"
    ]


# --- one mistake, one line ---

# In a rule `{name: r, match: {path: /x}, <here>}` of its own; then the message behind `rule "r": `.
WRONG_IN_A_RULE: Final = [
    ("bodi: x", 'unknown field "bodi", did you mean "body"?'),
    ("body: 1", "body: expected a string, got the number 1 - put it in quotes"),
    ("body: yes", "body: expected a string, got the boolean yes - put it in quotes"),
    ("body: 2020-01-01", "body: expected a string, got the date 2020-01-01 - put it in quotes"),
    ("body: [x]", "body: expected a string, got a list: put the text in quotes, as in body: '{\"a\": 1}'"),
    ("body: null", "body: expected a string, got nothing"),
    ("body: a, body_file: b", "body_file: give only one of body, body_file, variants, page; body is given too"),
    ("body_file: nowhere", 'body_file: "nowhere" does not exist'),
    ("body_file: .", 'body_file: "." is a folder'),
    ('body_file: "a\\0b"', 'body_file: "a\\x00b" is not a path'),
    ("body_file: ''", 'body_file: "" is a folder'),
    ("status_code: 99", "status_code: expected a status from 200 to 599, got the number 99"),
    ("status_code: 600", "status_code: expected a status from 200 to 599, got the number 600"),
    ("status_code: 1e400", 'status_code: expected a status from 200 to 599, or original, got "1e400"'),
    ("status_code: 0o17", 'status_code: expected a status from 200 to 599, or original, got "0o17"'),
    ("status_code: origin", 'status_code: expected a status from 200 to 599, or original, got "origin"'),
    ("handler: pages, enable_on_status: 5xx", 'handler: expected a Python function as package.module:function, got "pages"'),
    (
        "handler: pages:page, enable_on_status: 5xx, body: x",
        "body: has no place beside handler: the function says what is sent",
    ),
    ("status_code: original", "status_code: original needs enable_on_status: without it no upstream is asked"),
    ("status_code: 204, body: x", "body: a response with status 204 cannot have a body"),
    ("status_code: 304, body: x", "body: a response with status 304 cannot have a body"),
    (
        "status_code: original, enable_on_status: [200, 204], body: x",
        "body: a response with status 204 cannot have a body",
    ),
    *(
        (
            f"body: x, enable_on_status: [{wrong}]",
            "enable_on_status[0]: expected a status from 200 to 599, or three characters such as 5xx or 40x, "
            f"got {shown}",
        )
        for wrong, shown in [
            ("4x", '"4x"'),
            ("99", "the number 99"),
            ("600", "the number 600"),
            ("5.5", "the decimal number 5.5"),
            ("[]", "an empty list"),
        ]
    ),
    ("body: x, enable_on_status: []", "enable_on_status: expected at least one entry, got an empty list"),
    (
        "body: x, enable_on_status: [503, '503']",
        "enable_on_status: 503 is claimed twice in this scope, first in line 2",
    ),
    ("headers: [novalue]", 'headers[0]: expected name=value, got "novalue"'),
    ("headers: [{a: b}]", "headers[0]: expected name=value, got a mapping: write \"a=b\""),
    ("headers: a=b", 'headers: expected a list of name=value, or a mapping, got "a=b"'),
    ("headers: [=b]", 'headers[0]: expected a header name, got ""'),
    ("headers: [a b=c]", 'headers[0]: expected a header name, got "a b"'),
    ('headers: ["a=b\\r\\nc: d"]', 'headers[0]: the value of a has a line break or control character: "b\\r\\nc: d"'),
    ('headers: {a: "b\\0"}', 'headers.a: the value of a has a line break or control character: "b\\x00"'),
    ("headers: {a: yes}", "headers.a: expected a string, got the boolean yes - put it in quotes"),
    ("headers: {a: [yes]}", "headers.a[0]: expected a string, got the boolean yes - put it in quotes"),
    ("headers: [Connection=close]", "headers[0]: the header connection is not an answer's to set: Envoy does"),
    ("headers: [content-type=a, Content-Type=b]", "headers: content-type is given twice"),
    (f"headers: [a={'b' * (MAX_HEADER_SIZE + 1)}]", "headers[0]: Envoy takes at most 16,384 bytes in a header's value"),
    ("final: maybe, body: x", 'final: expected true or false, got "maybe"'),
    ("body: x, final: null", "final: expected true or false, got nothing"),
    ("rules: [{body: x}], body: y", "body: has no place beside rules: move it into one of them"),
    ("rules: []", "rules: expected at least one answer, got an empty list"),
    (
        "rules: [{}]",
        "rules[0]: expected at least one of status_code, headers, body, body_file, handler, enable_on_status, pass, variants, template, page, keep_headers",
    ),
    (
        "rules: [{enable_on_status: [503, 5xx]}, {enable_on_status: [5xx], body: x}]",
        "rules[1].enable_on_status: 5xx is claimed twice in this scope, first in line 2",
    ),
    ("rules: [{name: a, body: x}]", 'rules[0]: unknown field "name", expected one of status_code, headers, body, body_file, handler, enable_on_status, pass, variants, template, page, keep_headers'),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "message"), WRONG_IN_A_RULE, ids=[wrong[:40] for wrong, _ in WRONG_IN_A_RULE])
def test_a_mistake_in_a_rule_is_one_line(wrong: str, message: str) -> None:
    loaded = load_text(f"rules:\n- {{name: r, match: {{path: /x}}, {wrong}}}\n")
    assert loaded.ruleset is None
    assert errors_of(loaded) == [f'rules.yaml:2: rule "r": {message}']


WRONG_IN_A_MATCH: Final = [
    ("path: admin", 'path: expected a path starting with "/", got "admin"'),
    ("path: yes", "path: expected a string, got the boolean yes - put it in quotes"),
    ("path: /a?b", 'path: expected a path without "?", got "/a?b"'),
    ("path: '/a b'", 'path: expected a path without " ", got "/a b"'),
    ("path: /a//b", 'path: Envoy normalizes paths first, so "/a//b" never fits: write "/a/b"'),
    ("prefix: /a/./b", 'prefix: Envoy normalizes paths first, so "/a/./b" never fits: write "/a/b"'),
    ("prefix: /../b", 'prefix: Envoy normalizes paths first, so "/../b" never fits: write "/b"'),
    ("path: /é", 'path: expected a path as it is sent, "/%C3%A9", got "/é"'),
    ("path: /a, prefix: /b", "prefix: give only one of path, prefix, regex; path is given too"),
    ("regex: (", 'regex: expected a regular expression (RE2), got "(": missing ): ('),
    ("regex: '(?=a)'", 'regex: expected a regular expression (RE2), got "(?=a)": invalid perl operator: (?='),
    ("regex: ''", 'regex: expected a regular expression, got ""'),
    ("methods: get", 'methods: expected a method in upper case such as GET, got "get"'),
    ("methods: []", "methods: expected at least one entry, got an empty list"),
    ("headers: {'a b': c}", 'headers.a b: expected a header name, got "a b"'),
    ("headers: {A: b, a: c}", "headers.a: a is given twice"),
    ("headers: {a: 1}", "headers.a: expected a string, got the number 1 - put it in quotes"),
    ("headers: {a: {prefix: ''}}", "headers.a.prefix: an empty string fits everything: write present: true"),
    ("headers: {a: {present: false}}", "headers.a.present: expected true: absence cannot be matched"),
    ("headers: {a: {}}", "headers.a: expected one of exact, prefix, suffix, contains, regex, present"),
    ("headers: {a: {exact: a, regex: b}}", "headers.a.regex: give only one of exact, prefix, suffix, contains, regex, present; exact is given too"),
    ("query: {debug: 1}", "query.debug: expected a string, got the number 1 - put it in quotes"),
    ("query: {'': a}", 'query.: expected a parameter name, got ""'),
    ("domains: example.com:8080", 'domains: expected a domain without a port, got "example.com:8080": ports do not matter'),
    ("domains: [a.*]", 'domains[0]: expected a wildcard as the whole first label, such as "*.example.com", or "*", got "a.*"'),
    ("domains: [http://a]", 'domains[0]: expected a domain such as "example.com" or "*.example.com", got "http://a"'),
    ("domains: ['[::g]']", 'domains[0]: expected a domain such as "example.com" or "*.example.com", got "[::g]"'),
    ("domains: []", "domains: expected at least one entry, got an empty list"),
    ("routes: [rout-a]", 'routes[0]: unknown route "rout-a", did you mean "route-a"?'),
    ("routes: route-b", 'routes: unknown route "route-b", did you mean "route-a"?'),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "message"), WRONG_IN_A_MATCH, ids=[wrong[:40] for wrong, _ in WRONG_IN_A_MATCH])
def test_a_mistake_in_a_match_is_one_line(wrong: str, message: str) -> None:
    routes = "routes: [{name: route-a, path: /1, respond: {body: x}}, {name: x, path: /2, respond: {body: x}}]\n"
    loaded = load_text(f"{routes}rules:\n- {{name: r, match: {{{wrong}}}, body: x}}\n")
    assert loaded.ruleset is None
    assert errors_of(loaded) == [f'rules.yaml:3: rule "r": match.{message}']


@pytest.mark.parametrize("domain", ["*", "EXAMPLE.com", "*.example.com", "[::1]", "10.0.0.1", "localhost", "my_host"])
def test_a_domain_is_kept_in_lower_case(domain: str) -> None:
    assert ruleset_of(f"rules: [{{match: {{domains: '{domain}'}}, body: x}}]").rules[0].scope.domains == (
        domain.lower(),
    )


WRONG_ELSEWHERE: Final = [
    ("listen: :10000\n", '1: listen: expected an IP address and a port such as "0.0.0.0:10000", got ":10000": write "0.0.0.0:10000" for every address'),
    ("listen: 10000\n", "1: listen: expected a string, got the number 10000 - put it in quotes"),
    ("listen: localhost:1\n", '1: listen: expected an IP address and a port such as "0.0.0.0:10000", got the host name "localhost"'),
    ("listen: 1.2.3.4:65536\n", '1: listen: expected a port from 0 to 65535, got "1.2.3.4:65536"'),
    ("listen: ::1:80\n", '1: listen: expected an IP address and a port such as "0.0.0.0:10000", got "::1:80"'),
    ("listen:\n- 1.2.3.4:1\n- 1.2.3.4:1\n", "3: listen[1]: the address is given twice, first in line 2"),
    ("listen: {address: '1.2.3.4:1', certificate: rules.yaml, key: k}\n", '1: listen.key: "k" does not exist'),
    ("listen: {address: '1.2.3.4:1', certificate: rules.yaml}\n", "1: listen: key is missing"),
    ("listen: []\n", "1: listen: expected at least one entry, got an empty list"),
    ("upstreams: {a b: http://a}\n", '1: upstream "a b": expected a name of letters, digits and . _ / -'),
    *((f"upstreams: {{a: '{url}'}}\n", f'1: upstream "a": expected a URL such as http://127.0.0.1:8000 (http or https, host and port only) or builtin:echo, got "{url}"')
      for url in ["a:80", "ftp://a", "http://a/b", "http://a?b", "http://u@a", "http://300.1.1.1", "http://a..b", "http://", "builtin:nope"]),
    ("upstreams: {a: http://a:0}\n", '1: upstream "a": expected a port from 1 to 65535, got "http://a:0"'),
    ("upstreams: {a: [http://a, https://a]}\n", '1: upstream "a": expected URLs of one kind: all http, all https, or builtin:echo alone'),
    ("upstreams: {a: [builtin:echo, builtin:echo]}\n", '1: upstream "a": expected URLs of one kind: all http, all https, or builtin:echo alone'),
    ("upstreams: {a: []}\n", '1: upstream "a": expected at least one entry, got an empty list'),
    ("upstreams: [http://a]\n", "1: upstreams: expected a mapping, got a list"),
    ("routes: [{respond: {body: x}}]\n", "1: routes[0]: name is missing"),
    ("routes: [{name: a b, respond: {body: x}}]\n", '1: route "a b": name: expected a name of letters, digits and . _ / -, got "a b"'),
    ("routes: [{name: a}]\n", '1: route "a": expected one of upstream, respond, redirect'),
    ("routes: [{name: a, upstream: b}]\n", '1: route "a": upstream: unknown upstream "b": no upstreams are defined'),
    ("upstreams: {bb: http://b}\nroutes: [{name: a, upstream: b}]\n", '2: route "a": upstream: unknown upstream "b", did you mean "bb"?'),
    ("routes: [{name: a, respond: {body: x, enable_on_status: [503]}}]\n", '1: route "a": respond: unknown field "enable_on_status", a route that answers asks no upstream'),
    ("routes: [{name: a, respond: {status_code: original}}]\n", '1: route "a": respond.status_code: original needs enable_on_status: without it no upstream is asked'),
    ("routes: [{name: a, respond: {body: x}, redirect: {host: b}}]\n", '1: route "a": redirect: give only one of upstream, respond, redirect; respond is given too'),
    ("routes: [{name: a, redirect: {}}]\n", '1: route "a": redirect: expected at least one of scheme, host, port, path, prefix'),
    ("routes: [{name: a, redirect: {status_code: 302}}]\n", '1: route "a": redirect: expected at least one of scheme, host, port, path, prefix'),
    ("routes: [{name: a, redirect: {path: /a, prefix: /b}}]\n", '1: route "a": redirect.prefix: give only one of path, prefix; path is given too'),
    ("routes: [{name: a, redirect: {host: 'a:1'}}]\n", '1: route "a": redirect.host: expected a host name without scheme, port and path, got "a:1"'),
    ("routes: [{name: a, redirect: {port: 0}}]\n", '1: route "a": redirect.port: expected a port from 1 to 65535, got the number 0'),
    ("routes: [{name: a, redirect: {path: /b, status_code: 304}}]\n", '1: route "a": redirect.status_code: expected one of 301, 302, 303, 307, 308, got the number 304'),
    ("routes: [{name: a, redirect: {scheme: ftp}}]\n", '1: route "a": redirect.scheme: expected http or https, got "ftp"'),
    ("routes: [{name: a, respond: {body: x}, rate_limit: {requests: 1, per: 1s}}]\n", '1: route "a": rate_limit: has no place without upstream'),
    *((f"upstreams: {{b: http://b}}\nroutes: [{{name: a, upstream: b, rate_limit: {wrong}}}]\n", f'2: route "a": rate_limit{message}')
      for wrong, message in [
          ("{per: 1s}", ": requests is missing"),
          ("{requests: 1}", ": per is missing"),
          ("{requests: 0, per: 1s}", ".requests: expected a number of requests from 1 to 4294967295, got the number 0"),
          ("{requests: 1, per: 1}", '.per: expected a duration such as "1s", "100ms", "1m" or "1h", got the number 1'),
          ("{requests: 1, per: 49ms}", '.per: expected a duration of at least 50ms, the shortest that Envoy takes, got "49ms"'),
          ("{requests: 1, per: 87660001h}", '.per: expected a duration of at most 8760h, a year, got "87660001h"'),
      ]),
    ("routes:\n- {name: a, path: /1, respond: {body: x}}\n- {name: a, path: /2, respond: {body: x}}\n", '3: route "a": the name is taken already, at rules.yaml:2'),
    ("rules:\n- {name: a, match: {path: /1}, body: x}\n- {name: a, match: {path: /2}, body: x}\n", '3: rule "a": the name is taken already, at rules.yaml:2'),
    ("rules:\n- {match: {path: /1}, body: x}\n- {}\n", '3: rule "rule-2": expected at least one of status_code, headers, body, body_file, handler, enable_on_status, pass, variants, template, page, keep_headers, rules'),
    ("rules:\n- 3\n", "2: rules[0]: expected a mapping with one of status_code, headers, body, body_file, handler, enable_on_status, got the number 3"),
    ("rules: {}\n", "1: rules: expected a list, got an empty mapping"),
    ("_rules_: [{body: x}]\n", "1: _rules_[0]: expected one of _match_route_, _match_domain_"),
    ("_rules_: [{_match_service_: [a], _match_domain_: [a], body: x}]\n", '1: _rules_[0]: unknown field "_match_service_", did you mean "_match_route_"?'),
    ("body: x\nrules: [{name: a, body: y}]\n", "1: body: has no place beside rules: move it into one of them"),
    ("routes: [{name: a, respond: {page: builtin, status_code: 503}}]\n", '1: route "a": respond: unknown field "page", a route gives the same answer to everybody: it belongs into a rule'),
    ("routs: []\n", '1: unknown field "routs", did you mean "routes"?'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG_ELSEWHERE, ids=[text[:50] for text, _ in WRONG_ELSEWHERE])
def test_a_mistake_is_one_line(text: str, message: str) -> None:
    loaded = load_text(text)
    assert loaded.ruleset is None
    assert errors_of(loaded) == [f"rules.yaml:{message}"]


def billion_laughs() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join(lines)


UNREADABLE_TEXT: Final = [
    ("", "rules.yaml: the file is empty: expected rules, routes or an answer"),
    ("# nothing\n---\n", "rules.yaml: the file is empty: expected rules, routes or an answer"),
    ("a: [1\n", "rules.yaml:2: not YAML: did not find expected ',' or ']' (while parsing a flow sequence from line 1)"),
    (
        "a: b: c\n",
        "rules.yaml:1: not YAML: mapping values are not allowed in this context: put a text with a colon in quotes",
    ),
    ("rules:\n\t- body: x\n", "rules.yaml:2: not YAML: a tab cannot indent, use spaces"),
    (b"\n\xff\n", "rules.yaml:2: not UTF-8 text: byte 0xff"),
    (b"\x7fELF\0", "rules.yaml:1: not YAML: control character U+007F"),
    ("body: x\nbody: y\n", 'rules.yaml:2: the key "body" is given twice, first in line 1'),
    ("body: x\n1: y\n", "rules.yaml:2: expected a name as key, got the number 1 - put it in quotes"),
    ("body: x\n[a]: y\n", "rules.yaml:2: expected a name as key, got a list"),
    ("<<: x\nbody: y\n", 'rules.yaml:1: <<: expected a mapping or a list of them, got "x"'),
    ("body: !secret x\n", 'rules.yaml:1: tags are not supported, got "!secret"'),
    ("body: *x\n", "rules.yaml:1: the alias *x names nothing"),
    ("rules: &x [*x]\n", "rules.yaml:1: the alias *x stands inside of what it names"),
    (billion_laughs(), f"rules.yaml:6: too large: more than {MAX_WEIGHT:,} entries with all aliases expanded"),
    ("[" * 100_000, f"rules.yaml:1: nested more than {MAX_DEPTH} levels deep"),
]


@pytest.mark.parametrize(("text", "message"), UNREADABLE_TEXT, ids=[str(text[:30]) for text, _ in UNREADABLE_TEXT])
def test_a_text_that_is_no_rule_file_is_one_line(text: str | bytes, message: str) -> None:
    assert errors_of(load_text(text)) == [message]


def test_a_large_body_behind_many_aliases_is_refused() -> None:
    rules = "\n".join(f"- {{match: {{path: /{n}}}, body: *page}}" for n in range(200))
    text = f"rules:\n- {{match: {{path: /}}, body: &page '{'x' * MAX_BODY_SIZE}'}}\n{rules}\n"
    assert errors_of(load_text(text))[0].endswith("entries with all aliases expanded")


def test_three_mistakes_are_three_lines_in_order() -> None:
    loaded = load_text("listen: here\nrules:\n- {name: a, status_code: 99}\n- {name: b, bodi: x, headers: [x]}\n")
    assert [problem.position.line for problem in loaded.problems] == [1, 3, 4, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("headers: [Content-Length=3]", "1: headers[0]: content-length is left out: it is always computed"),
        ("headers: [Server=me]", "1: headers[0]: the header server has no effect: Envoy writes its own"),
        (
            "rules:\n- {body: a}\n- {body: b}\n",
            "3: rules[1]: is never given: the answer without enable_on_status in line 2 comes first",
        ),
    ],
    ids=["content-length", "server", "two unconditional answers"],
)
def test_what_has_no_effect_is_a_warning(text: str, message: str) -> None:
    loaded = load_text(text)
    assert loaded.ruleset is not None
    assert warnings_of(loaded) == [f"rules.yaml:{message}"]
    assert all("content-length" not in dict(rule.answers[0].headers) for rule in loaded.ruleset.rules)


# --- files ---


def write(files: dict[str, str]) -> None:
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


def answer_at(path: str) -> str:
    return f"rules: [{{match: {{path: {path}}}, body: x}}]\n"


def test_a_folder_is_read_in_the_order_of_names_without_dot_files() -> None:
    names = ["r/2.yml", "r/10.yaml", "r/3.json", "r/.hidden.yaml", "r/notes.txt", "r/sub/4.yaml", "r/..data/5.yaml"]
    write({name: answer_at(f"/{number}") for number, name in enumerate(names)})
    Path("r/folder.yaml").mkdir()
    ruleset = load([Path("r")]).ruleset
    assert ruleset is not None
    assert [rule.name for rule in ruleset.rules] == ["10/rule-1", "2/rule-1", "3/rule-1"]


def test_a_file_of_a_folder_that_cannot_be_read_is_one_line() -> None:
    write({"r/a.yaml": answer_at("/a")})
    Path("r/loop.yaml").symlink_to("loop.yaml")
    assert errors_of(load([Path("r")])) == ["r/loop.yaml: cannot be read: Too many levels of symbolic links"]


def test_files_merge_in_the_order_of_sources() -> None:
    write({"b.yaml": answer_at("/b"), "r/a.yaml": answer_at("/a"), "r/b.yaml": answer_at("/c")})
    ruleset = load([Path("b.yaml"), Path("r"), Path("b.yaml")]).ruleset
    assert ruleset is not None
    assert [(rule.name, str(rule.position)) for rule in ruleset.rules] == [
        ("b/rule-1", "b.yaml:1"),
        ("a/rule-1", "r/a.yaml:1"),
        ("b-2/rule-1", "r/b.yaml:1"),
    ]


def test_every_document_of_a_file_is_read() -> None:
    ruleset = ruleset_of(f"---\n{answer_at('/a')}---\n---\n{answer_at('/b')}")
    assert [(rule.name, rule.position.line) for rule in ruleset.rules] == [("rule-1", 2), ("rule-2", 5)]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "SOURCE: expected at least one rule file or folder"),
        (["nowhere.yaml"], "nowhere.yaml: does not exist"),
        (["empty"], "empty: the folder has no rule files: expected *.yaml, *.yml, *.json"),
        (["pipe"], "pipe: is not a regular file"),
        (["loop"], "loop: cannot be read: Too many levels of symbolic links"),
        (["large.yaml"], f"large.yaml: is 50,000,000 bytes large; the limit is {MAX_FILE_SIZE:,}"),
    ],
    ids=["none", "missing", "empty folder", "pipe", "loop of links", "50 MB"],
)
def test_a_source_that_cannot_be_read_is_one_line(sources: list[str], message: str) -> None:
    Path("empty").mkdir()
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    with open("large.yaml", "wb") as file:
        file.truncate(50_000_000)
    assert errors_of(load([Path(source) for source in sources])) == [message]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_one_line() -> None:
    Path("rules.yaml").write_text("body: x")
    Path("rules.yaml").chmod(stat.S_IWUSR)
    assert errors_of(load([Path("rules.yaml")])) == ["rules.yaml: cannot be read: Permission denied"]


def test_names_are_unique_over_all_files() -> None:
    text = "upstreams: {u: http://u}\nroutes: [{name: a, path: /a, upstream: u}]\nrules: [{name: r, match: {path: /a}, body: x}]\n"
    write({"1.yaml": text, "2.yaml": text})
    assert errors_of(load([Path("1.yaml"), Path("2.yaml")])) == [
        '2.yaml:1: upstream "u": the name is taken already, at 1.yaml:1',
        '2.yaml:2: route "a": the name is taken already, at 1.yaml:2',
        '2.yaml:3: rule "r": the name is taken already, at 1.yaml:3',
    ]


def test_a_rule_may_name_a_route_of_another_file() -> None:
    write({"1.yaml": "rules: [{match: {routes: a}, body: x}]", "2.yaml": "routes: [{name: a, respond: {body: x}}]"})
    assert load([Path("1.yaml"), Path("2.yaml")]).ruleset is not None


@pytest.mark.parametrize(
    ("other", "errors"),
    [
        ("0.0.0.0:1", []),
        ("0.0.0.0:2", ["2.yaml:1: listen: conflicts with 1.yaml:1"]),
    ],
    ids=["equal", "different"],
)
def test_listen_in_two_files_must_be_equal(other: str, errors: list[str]) -> None:
    write({"1.yaml": "listen: 0.0.0.0:1", "2.yaml": f"listen: {other}"})
    assert errors_of(load([Path("1.yaml"), Path("2.yaml")])) == errors


def test_without_listen_there_is_the_default() -> None:
    assert ruleset_of("body: x").listeners == (DEFAULT_LISTENER,)


def test_everything_that_was_read_is_to_be_watched(tmp_path: Path) -> None:
    write({"r/1.yaml": "rules: [{match: {path: /}, body_file: ../pages/a}, {body_file: missing}]", "pages/a": "a"})
    names = ["r", "r/1.yaml", "pages/a", "r/missing", "nowhere"]
    assert load([Path("r"), Path("nowhere")]).files == {tmp_path / name for name in names}


@pytest.mark.parametrize(
    ("name", "url", "expected"),
    [
        ("u", "https://other:1", Upstream("u", (Endpoint("other", 1),), tls=True)),
        ("shop/cart:80", "http://127.0.0.1:1", Upstream("shop/cart:80", (Endpoint("127.0.0.1", 1),))),
        ("new", "builtin:echo", Upstream("new", (), echo=True)),
    ],
    ids=["override", "Kubernetes Service", "add"],
)
def test_upstreams_can_be_given_from_outside(name: str, url: str, expected: Upstream) -> None:
    Path("rules.yaml").write_text("upstreams: {u: http://u}\nroutes: [{name: a, upstream: u}]\n")
    ruleset = load([Path("rules.yaml")], upstreams={name: url}).ruleset
    assert ruleset is not None
    assert {each.name: each for each in ruleset.upstreams}[name] == expected


def test_a_wrong_url_from_outside_is_one_line() -> None:
    Path("rules.yaml").write_text("body: x")
    [error] = errors_of(load([Path("rules.yaml")], upstreams={"u": "nonsense"}))
    assert error.startswith('--upstream: upstream "u": expected a URL such as')


# --- certificates ---


@pytest.fixture
def certificate() -> None:
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=a -keyout a.key -out a.crt && "
        "openssl ecparam -name prime256v1 -genkey -noout -out other.key && "
        "openssl ec -in a.key -aes128 -passout pass:secret -out locked.key && echo nonsense > nonsense && : > empty",
        shell=True,
        check=True,
        capture_output=True,
    )


def listen_with(certificate: str, key: str) -> Loaded:
    return load_text(f"listen: {{address: '[::]:443', certificate: {certificate}, key: {key}}}\nbody: x\n")


@pytest.mark.usefixtures("certificate")
def test_a_certificate_and_its_key_are_read() -> None:
    ruleset = listen_with("a.crt", "a.key").ruleset
    assert ruleset is not None
    assert ruleset.listeners == (Listener("::", 443, Path("a.crt").read_bytes(), Path("a.key").read_bytes()),)


@pytest.mark.usefixtures("certificate")
@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("a.crt", "other.key"), "listen.certificate: not a certificate and its key in PEM: key values mismatch"),
        (("nonsense", "a.key"), "listen.certificate: not a certificate and its key in PEM: no such pem data"),
        (("a.crt", "nonsense"), "listen.certificate: not a certificate and its key in PEM: no such pem data"),
        (("a.crt", "locked.key"), "listen.certificate: not a certificate and its key in PEM: no such pem data"),
        (("empty", "a.key"), "listen.certificate: the file is empty"),
        (("a.crt", "missing"), 'listen.key: "missing" does not exist'),
    ],
    ids=["not a pair", "no certificate", "no key", "encrypted key", "empty", "missing"],
)
def test_what_is_no_pair_is_one_line(pair: tuple[str, str], message: str) -> None:
    assert errors_of(listen_with(*pair)) == [f"rules.yaml:1: {message}"]


@pytest.mark.usefixtures("certificate")
def test_certificates_are_checked_without_a_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    files = Files()
    files.check_pem(Path("a.crt").read_bytes(), Path("a.key").read_bytes())
    with pytest.raises(UnreadableError, match="key values mismatch"):
        files.check_pem(Path("a.crt").read_bytes(), Path("other.key").read_bytes())


@pytest.mark.usefixtures("certificate")
@pytest.mark.parametrize("left", range(5))
def test_without_file_descriptors_a_pair_that_was_read_is_taken_for_good(left: int) -> None:
    pair = Path("a.crt").read_bytes(), Path("a.key").read_bytes()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + left, before[1]))
    try:
        Files().check_pem(*pair)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# --- whatever comes ---

NAMES: Final = (
    "listen upstreams routes rules _rules_ _match_route_ _match_domain_ name match domains path prefix regex "
    "methods headers query respond redirect upstream rate_limit requests per status_code body body_file "
    "enable_on_status final scheme host port address certificate key present contains apiVersion kind <<"
)
WORDS: Final = (
    "/ /a /a/../b * *.a.b a original 5xx 4x GET a=b novalue http://a https://b:1 builtin:echo 1s 0.0.0.0:1 ( \r\n"
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 700),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(WORDS.split(" ")),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES.split()), inner, max_size=4),
    max_leaves=25,
)
DOCUMENTS = st.one_of(
    st.dictionaries(st.sampled_from(NAMES.split()), VALUES, max_size=5).map(json.dumps),
    VALUES.map(json.dumps),
    st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"%@`#,?\n\t 01<=~\\ux"), max_size=60),
)


def assert_lines(loaded: Loaded) -> None:
    assert (loaded.ruleset is None) == bool(errors_of(loaded))
    for problem in loaded.problems:
        assert len(str(problem).splitlines()) == 1


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(DOCUMENTS.map(str.encode), st.binary(max_size=60)))
def test_whatever_a_file_holds_is_loaded_or_refused_in_lines(data: bytes) -> None:
    assert_lines(load_text(data))


WRONG_IN_AN_ANSWER: Final = [
    ("pass: false", "pass: expected true, or nothing at all"),
    ("body: x, unless: {}", "unless: fits every request, so the rule would never decide: say what it is not about"),
    ("observe: true, pass: true", "observe: has no effect: a rule that passes has nothing to observe"),
    ("page: builtin", "page: builtin is about errors: say enable_on_status, or a status_code from 400 on, not 200"),
    ("page: true", "page: expected builtin, got the boolean true"),
    ("variants: [{body: x}]", "variants[0]: expected at least one of content_type, language, body_file"),
    ("variants: [{language: d_e, body: x}]", 'variants[0].language: expected a language tag such as de or pt-BR, got "d_e"'),
    ("variants: []", "variants: expected at least one variant, got an empty list"),
    ('keep_headers: "a*b", enable_on_status: 500, body: x', 'keep_headers: expected a header name, with a * at its end at most, got "a*b"'),
    ("keep_headers: content-length, enable_on_status: 500, body: x", "keep_headers: content-length is about the body that is replaced: it cannot stay"),
    ("keep_headers: etag, body: x", "keep_headers: needs enable_on_status: without it no upstream is asked"),
    ("source: local, body: x", "source: source needs enable_on_status: without it no upstream is asked"),
    ("match: {response_headers: {a: b}}, body: x", "match: response_headers needs enable_on_status: without it no upstream is asked"),
    ("match: {clients: 10.0.0.1/8}, body: x", 'match.clients: "10.0.0.1/8" has bits behind its prefix: write "10.0.0.0/8"'),
    ("clients: 10.0.0.1, body: x", 'unknown field "clients", it belongs into match or unless'),
    ('template: true, body: "{{ statuss }}"', 'body: unknown name "statuss": did you mean "status"?'),
    ('template: true, headers: ["x={{ status"], body: x', 'headers: x: expected "}}" behind "{{", in the same line'),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "message"), WRONG_IN_AN_ANSWER)
def test_a_mistake_about_what_an_answer_can_be_is_one_line(tmp_path: Path, rule: str, message: str) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(f"rules:\n- {{name: r, {rule}}}\n")
    assert [problem.message for problem in load([file]).problems] == [f'rule "r": {message}']
