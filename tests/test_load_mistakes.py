"""What is wrong with a file, said in one line for each mistake."""

# ruff: noqa: E501  (the tables of mistakes have one case a line, its message in full)
from __future__ import annotations

from typing import Final

import pytest
from loading import (
    _in_an_empty_folder,  # noqa: F401 - a fixture
    errors_of,
    load_text,
    ruleset_of,
)

from rejoinder.rules.document import MAX_DEPTH, MAX_WEIGHT
from rejoinder.rules.load import Loaded
from rejoinder.rules.problem import Severity
from rejoinder.rules.rule_file.content import MAX_BODY_SIZE
from rejoinder.rules.rule_file.headers import MAX_HEADER_SIZE


def warnings_of(loaded: Loaded) -> list[str]:
    return [str(problem) for problem in loaded.problems if problem.severity is Severity.WARNING]


# --- one mistake, one line ---

# In a rule `{name: r, match: {path: /x}, <here>}` of its own; then the message behind `rule "r": `.
WRONG_IN_A_RULE: Final = [
    ("bodi: x", 'unknown field "bodi", did you mean "body"?'),
    ("body: 1", "body: expected a string, got the number 1 - put it in quotes"),
    ("body: yes", "body: expected a string, got the boolean yes - put it in quotes"),
    ("body: 2020-01-01", "body: expected a string, got the date 2020-01-01 - put it in quotes"),
    ("body: [x]", "body: expected a string, got a list: put the text in quotes, as in body: '{\"a\": 1}'"),
    ("body: null", "body: expected a string, got nothing"),
    ("body: a, body_file: b", "body_file: give only one of body, body_file, variants; body is given too"),
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
        "body: is not allowed beside handler: the function says what is sent",
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
    ("headers: [Connection=close]", "headers[0]: the header connection cannot be set by an answer: Envoy sets it"),
    ("headers: [content-type=a, Content-Type=b]", "headers: content-type is given twice"),
    (f"headers: [a={'b' * (MAX_HEADER_SIZE + 1)}]", "headers[0]: Envoy takes at most 16,384 bytes in a header's value"),
    ("final: maybe, body: x", 'final: expected true or false, got "maybe"'),
    ("body: x, final: null", "final: expected true or false, got nothing"),
    ("rules: [{body: x}], body: y", "body: is not allowed beside rules: move it into one of them"),
    ("rules: []", "rules: expected at least one answer, got an empty list"),
    (
        "rules: [{}]",
        "rules[0]: expected at least one of status_code, headers, body, body_file, handler, enable_on_status, pass, variants, template, page, grpc, keep_headers",
    ),
    (
        "rules: [{enable_on_status: [503, 5xx]}, {enable_on_status: [5xx], body: x}]",
        "rules[1].enable_on_status: 5xx is claimed twice in this scope, first in line 2",
    ),
    ("rules: [{name: a, body: x}]", 'rules[0]: unknown field "name", expected one of status_code, headers, body, body_file, handler, enable_on_status, pass, variants, template, page, grpc, keep_headers'),
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
    ("domains: ['*.a b']", 'domains[0]: expected a domain such as "example.com" or "*.example.com", got "*.a b"'),
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
    ("routes: [{name: a, respond: {body: x}, rate_limit: {requests: 1, per: 1s}}]\n", '1: route "a": rate_limit: is not allowed without upstream'),
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
    ("rules:\n- {match: {path: /1}, body: x}\n- {}\n", '3: rule "rule-2": expected at least one of status_code, headers, body, body_file, handler, enable_on_status, pass, variants, template, page, grpc, keep_headers, rules'),
    ("rules:\n- 3\n", "2: rules[0]: expected a mapping with one of status_code, headers, body, body_file, handler, enable_on_status, got the number 3"),
    ("rules: {}\n", "1: rules: expected a list, got an empty mapping"),
    ("_rules_: [{body: x}]\n", "1: _rules_[0]: expected one of _match_route_, _match_domain_"),
    ("_rules_: [{_match_service_: [a], _match_domain_: [a], body: x}]\n", '1: _rules_[0]: unknown field "_match_service_", did you mean "_match_route_"?'),
    ("body: x\nrules: [{name: a, body: y}]\n", "1: body: is not allowed beside rules: move it into one of them"),
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
    ("rules: &x [*x]\n", "rules.yaml:1: the alias *x is inside of the node that it names"),
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
