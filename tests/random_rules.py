"""Rule files and requests at random, by hypothesis: `rule_files` and `requests` are the ways in."""

from __future__ import annotations

import string
from dataclasses import replace
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from rejoinder.rules.request import Request, parse

Json = dict[str, Any]

# Small alphabets, so that things meet.
HOSTS = ("a.test", "b.a.test", "c.b.a.test", "other.test")
DOMAINS = ("*", "a.test", "*.a.test", "b.a.test", "*.b.a.test", "other.test")
SEGMENTS = ("a", "b", "ab", "A", "%20", "a.b", "~")
METHODS = ("GET", "HEAD", "POST", "DELETE")
NAMES = ("x-a", "x-b", "accept")
VALUES = ("1", "2", "12", "json", "text/json", "é", "xéz", "")
SENT = (*VALUES, "x\udce9z", "\udcc3", "é\udca9")
"""What is no UTF-8 comes as the bytes that it stands for."""
SENT_PARAMETERS = (*(value for value in VALUES if value.isascii()), "x%C3%A9z")
"""Envoy refuses a target with anything but ASCII."""
VALUE_REGEXES = (*VALUES[:-1], "x.z", "x..z", "x[é]z", "x[^a]+z", r"x\x{e9}z", "(?i)XÉZ", ".*é.*")
PARAMETERS = ("q", "r")
STATUSES = (200, 201, 204, 302, 304, 404, 418, 429, 500, 502, 503, 599)
REGEXES = ("/a.*", "/.*b", "/[ab]+", "/a/(a|b)", "(?i)/AB?(/.*)?", "/[^?]*", r"/a\?b", ".*", "/a(/.*)?", "/.*/.*")

paths = st.lists(st.sampled_from(SEGMENTS), max_size=3).map(lambda parts: "/" + "/".join(parts))


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries({}, optional=fields)


value_tests = st.one_of(
    st.sampled_from(VALUES),
    st.builds(
        lambda kind, value: {kind: value},
        st.sampled_from(("exact", "prefix", "suffix", "contains")),
        st.sampled_from(VALUES[:-1]),
    ),
    st.builds(lambda value: {"regex": value}, st.sampled_from(VALUE_REGEXES)),
    st.just({"present": True}),
)
path_tests = st.one_of(
    st.just({}),
    st.builds(lambda path: {"path": path}, paths),
    st.builds(lambda path: {"prefix": path}, paths),
    st.builds(lambda regex: {"regex": regex}, st.sampled_from(REGEXES)),
)
request_tests = st.builds(
    lambda path, more: {**path, **more},
    path_tests,
    optional(
        methods=st.lists(st.sampled_from(METHODS), min_size=1, max_size=2, unique=True),
        headers=st.dictionaries(st.sampled_from(NAMES), value_tests, min_size=1, max_size=2),
        query=st.dictionaries(st.sampled_from(PARAMETERS), value_tests, min_size=1, max_size=1),
    ),
)
domains = st.lists(st.sampled_from(DOMAINS), min_size=1, max_size=2, unique=True)
bodies = st.one_of(
    st.sampled_from(("", "text", '{"json": 1}', "100% %REQ(x-a)%", "grüße")),
    st.integers(4000, 9000).map(lambda size: "x" * size),
)
# Visible ASCII and blanks inside; what Envoy sets itself (date, server) is left out.
header_values = st.text(string.ascii_letters + string.digits + "%:;=/ \"'", max_size=12).map(str.strip)
headers = st.lists(
    st.builds(
        lambda name, value: f"{name}={value}",
        st.sampled_from(("Location", "X-One", "X-Two", "Set-Cookie", "Retry-After", "ETag", "X-From")),
        header_values,
    ),
    max_size=4,
)


TEMPLATES = (
    "{{ request.method }} {{ request.scheme }}://{{ request.host }}{{ request.path }}",
    "{{ request.url }} {{request.query.q}} {{ request.query.q | urlencode }} {{ request.header.x-a | json }}",
    '{"status": "{{ status }}", "was": "{{ original_status }}", "reason": "{{ status.reason }}"}',
    "{{ source }} {{ route }} {{ rule | html }} {{ client }} {{ request.header.X-B | raw }} {{ request.header.host }}",
    'braces: {{ "{{" }}, %REQ(x-a)%',
    "{{ request.query.none }}",
)
TYPES = ("text/html", "text/plain; charset=utf-8", "application/json", "text/html;level=1", "image/svg+xml")
LANGUAGES = ("en", "de", "de-CH", "zh-Hant")
ACCEPT = (
    "text/html",
    "text/*;q=0.5",
    "*/*",
    "application/json;q=0.9",
    "text/html;q=0, */*",
    "x",
    "",
    ";q=1",
    "text/html;level=1",
)
ACCEPT_LANGUAGE = ("de", "de-CH, en;q=0.5", "fr", "*", "en;q=0, *;q=0.1", "zh", "é")
template_texts = st.lists(st.sampled_from(TEMPLATES), min_size=1, max_size=2).map(" ".join)
variants = st.lists(
    st.builds(
        lambda kind, text: {**kind, **text},
        st.one_of(
            st.fixed_dictionaries(
                {"content_type": st.sampled_from(TYPES)}, optional={"language": st.sampled_from(LANGUAGES)}
            ),
            st.fixed_dictionaries({"language": st.sampled_from(LANGUAGES)}),
        ),
        st.one_of(
            st.fixed_dictionaries({"body": bodies}),
            st.fixed_dictionaries({"body": template_texts, "template": st.just(True)}),
        ),
    ),
    min_size=1,
    max_size=3,
)
contents = st.one_of(
    st.fixed_dictionaries({"body": bodies}),
    st.fixed_dictionaries({"body": bodies}),
    st.fixed_dictionaries({"body": template_texts, "template": st.just(True)}),
    st.fixed_dictionaries({"variants": variants}),
)
"""What an answer has for a body."""


@st.composite
def answers(draw: st.DrawFn, conditional: bool, beside: bool = False, fixed: bool = False) -> Json:
    """An answer; `beside`: one without statuses, for a scope that has another with some; `fixed`: for a route."""
    answer: Json = {"headers": draw(headers)}
    statuses = [status for status in STATUSES if status not in (204, 304)]
    if conditional:
        patterns = [*STATUSES, "2xx", "4xx", "5xx", "50x", "41x"]
        answer["enable_on_status"] = draw(st.lists(st.sampled_from(patterns), min_size=1, max_size=3, unique_by=str))
        answer["status_code"] = draw(st.sampled_from([*statuses, "original"]))
    else:
        answer["status_code"] = draw(st.sampled_from([*statuses, "original"] if beside else statuses))
    if draw(st.booleans()):
        answer["headers"].append(f"Content-Type={draw(st.sampled_from(('text/html', 'image/png')))}")
    if answer["status_code"] != "original" or {204, 304}.isdisjoint(answer.get("enable_on_status", ())):
        answer |= {"body": draw(bodies)} if fixed else draw(contents)
    if not fixed and draw(st.integers(0, 3)) == 0:
        answer["grpc"] = {"status": draw(st.sampled_from(("NOT_FOUND", 14))), "message": draw(template_texts)}
    if conditional and draw(st.integers(0, 3)) == 0:
        answer["keep_headers"] = draw(
            st.lists(st.sampled_from(("etag", "x-f*", "set-*", "content-*", "*")), min_size=1, max_size=2, unique=True)
        )
    return answer


@st.composite
def scopes(draw: st.DrawFn, routes: list[str]) -> Json:
    matches: st.SearchStrategy[Json] = st.one_of(st.just({}), request_tests)
    scope = draw(matches)
    if draw(st.booleans()):
        scope = {**scope, "domains": draw(domains)}
    if draw(st.booleans()) and routes:
        scope = {**scope, "routes": draw(st.lists(st.sampled_from(routes), min_size=1, max_size=2, unique=True))}
    if draw(st.integers(0, 3)) == 0:
        networks = ("127.0.0.1", "127.0.0.0/8", "10.0.0.0/8", "::1", "::/0", "0.0.0.0/0", "128.0.0.0/1")
        scope = {**scope, "clients": draw(st.lists(st.sampled_from(networks), min_size=1, max_size=2))}
    return scope


def of_responses(draw: st.DrawFn, scope: Json) -> Json:
    """A scope that may be about responses, too."""
    if draw(st.integers(0, 3)):
        return scope
    tests = st.one_of(st.sampled_from(("upstream", '"1"', "up")), value_tests)
    names = st.sampled_from(("x-from", "etag", "x-never"))
    return {**scope, "response_headers": draw(st.dictionaries(names, tests, min_size=1, max_size=2))}


@st.composite
def rules(draw: st.DrawFn, number: int, routes: list[str]) -> Json:
    kind = draw(st.sampled_from(("unconditional", "conditional", "conditional", "several", "pass")))
    rule: Json = {"name": f"rule{number}"}
    scope, unless = draw(scopes(routes)), draw(scopes(routes)) if draw(st.integers(0, 4)) == 0 else {}
    if kind not in ("unconditional", "pass"):
        scope, unless = of_responses(draw, scope), of_responses(draw, unless)
        if draw(st.integers(0, 4)) == 0:
            rule["source"] = draw(st.sampled_from(("upstream", "local", "any")))
    if scope:
        rule["match"] = scope
    if unless and unless != {"prefix": "/"}:  # which is every request, and an error
        rule["unless"] = unless
    if draw(st.integers(0, 3)) == 0:
        rule["final"] = True
    if draw(st.integers(0, 5)) == 0:
        rule["observe"] = True
    if kind == "pass":
        statuses = {"enable_on_status": draw(st.sampled_from(([503], ["4xx"], [200, "5xx"])))}
        return {**rule, "pass": True, **draw(st.sampled_from(({}, statuses)))}
    if kind == "unconditional":
        return {**rule, **draw(answers(conditional=False))}
    if kind == "conditional":
        return {**rule, **draw(answers(conditional=True))}
    several = [draw(answers(conditional=True)), draw(answers(conditional=draw(st.booleans()), beside=True))]
    taken: set[str] = set()
    for answer in several:  # a status may be claimed once
        claimed = [status for status in answer.get("enable_on_status", []) if str(status) not in taken]
        taken |= set(map(str, claimed))
        if "enable_on_status" in answer:
            assume(claimed)
            answer["enable_on_status"] = claimed
    return {**rule, "rules": several}


@st.composite
def routes(draw: st.DrawFn, number: int) -> Json:
    route: Json = {"name": f"route{number}", **draw(request_tests)}
    if draw(st.booleans()):
        route["domains"] = draw(domains)
    action = draw(st.sampled_from(("up", "up", "up", "dead", "respond", "redirect")))
    if action == "respond":
        return {**route, "respond": draw(answers(conditional=False, fixed=True))}
    if action == "redirect":
        return {**route, "redirect": draw(redirects())}
    return {**route, "upstream": action}


@st.composite
def redirects(draw: st.DrawFn) -> Json:
    target = draw(
        st.one_of(
            st.builds(lambda path: {"path": path}, st.sampled_from(("/new", "/new?z=1", "/"))),
            st.builds(lambda path: {"prefix": path}, st.sampled_from(("/new", "/new/x", "/"))),
            st.just({"host": "new.test"}),
        )
    )
    more = draw(
        optional(
            scheme=st.sampled_from(("http", "https")),
            port=st.sampled_from((80, 443, 8080)),
            status_code=st.sampled_from((301, 302, 303, 307, 308)),
        )
    )
    return {**target, **more}


@st.composite
def rule_files(draw: st.DrawFn) -> Json:
    made = [draw(routes(number)) for number in range(draw(st.integers(0, 3)))]
    names = [route["name"] for route in made]
    document: Json = {
        "upstreams": {"up": "builtin:echo", "dead": "http://127.0.0.1:1"},
        "routes": made,
        "rules": [draw(rules(number, names)) for number in range(draw(st.integers(0, 4)))],
    }
    return {key: value for key, value in document.items() if value}


@st.composite
def requests(draw: st.DrawFn) -> tuple[Request, str, list[tuple[str, str]]]:
    """A request, and how it is put on the wire: target and headers."""
    path = draw(
        st.one_of(paths, st.sampled_from(("/a//b", "/a/../b", "/a/./b", "/%61", "/a%2Fb", "/a/", "//", "/a?b")))
    )
    pairs = st.tuples(st.sampled_from(PARAMETERS), st.sampled_from(SENT_PARAMETERS))
    query = "&".join(f"{name}={value}" for name, value in draw(st.lists(pairs, max_size=2)))
    target = path + (f"?{query}" if query and "?" not in path else "")
    sent = draw(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(SENT)), max_size=3))
    for name, values in (("accept", ACCEPT), ("accept-language", ACCEPT_LANGUAGE)):
        if draw(st.integers(0, 2)) == 0:
            sent.append((name, draw(st.sampled_from(values))))
    if draw(st.integers(0, 4)) == 0:
        sent.append(
            ("content-type", draw(st.sampled_from(("application/grpc", "application/grpc+proto", "text/html"))))
        )
    sent.append(("x-status", str(draw(st.sampled_from(STATUSES)))))
    if draw(st.integers(0, 3)) == 0:
        sent.append(("x-empty", "1"))
    authority = draw(st.sampled_from(HOSTS)) + draw(st.sampled_from(("", "", ":80", ":8080")))
    authority = authority.upper() if draw(st.integers(0, 7)) == 0 else authority
    method = draw(st.sampled_from(METHODS))
    return replace(parse(method, authority, target, tuple(sent)), client="127.0.0.1"), target, sent
