"""Replies of the module that depend on who asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import handmade as h
import pytest
from module_host import (
    BUSY,
    _host,  # noqa: F401 - a fixture
    play,
    request,
    response,
    told,
)

# What depends on who asks, and on the response.
ID, METHOD, SCHEME, HOST, PATH, URL, QUERY, HEADER, STATUS, REASON, ORIGINAL, SOURCE, ROUTE, RULE, TIME, CLIENT = range(
    1, 17
)


def template(*names: int | tuple[int, str], escape: int = h.HTML) -> bytes:
    pieces = [name if isinstance(name, tuple) else (name, "") for name in names]
    return h.template(*(piece for name, argument in pieces for piece in ((name, escape, argument), "|")))


FACTS = (ID, METHOD, SCHEME, HOST, PATH, URL, (QUERY, "q"), (HEADER, "x-a"), STATUS, REASON, ORIGINAL, SOURCE, ROUTE)

DEPENDING = h.program(
    h.rule("office", [h.reply([(500, 599)], passes=True)], clients=["10.0.0.0/8", "2001:db8::/32"]),
    h.rule("trial", [h.reply(body=b"trial")], flags=h.OBSERVES, path=(h.PREFIX, "/trial")),
    h.rule("quiet", [h.reply(status=200)], flags=h.OBSERVES | h.UNCONDITIONAL, path=(h.PREFIX, "/trial")),
    h.rule("not yet", [h.reply([(404, 404)])], flags=h.FINAL, source=h.UPSTREAM, path=(h.PREFIX, "/now")),
    h.rule("nor now", [], flags=h.FINAL, path=(h.PREFIX, "/now"), unless=h.scope(response=[h.test("a", 5, "")])),
    h.rule("shield", [], flags=h.FINAL, path=(h.PREFIX, "/shield"), unless=h.scope(methods=["PUT"])),
    h.rule(
        "at once",
        [
            h.reply(
                status=503,
                keep=["*"],
                contents=[
                    h.content(
                        template((HEADER, "host"), RULE, CLIENT, ORIGINAL, SOURCE, STATUS),
                        is_template=True,
                        templates=[("location", template(URL, escape=h.URL))],
                    )
                ],
            )
        ],
        flags=h.UNCONDITIONAL,
        path=(h.PREFIX, "/now"),
    ),
    h.rule("mock", [h.reply(handler="handlers:answers")], flags=h.UNCONDITIONAL, path=(h.PREFIX, "/mock")),
    h.rule(
        "api",
        [h.reply([(503, 503)], body=b"api")],
        path=(h.PREFIX, "/api"),
        unless=h.scope(response=[h.test("content-type", 3, "json")]),
    ),
    h.rule("envoy's", [h.reply([(504, 504)], body=b"local")], source=h.LOCAL),
    h.rule("upstream's", [h.reply([(504, 504)], body=b"upstream")], source=h.UPSTREAM),
    h.rule("page", [h.reply([(501, 501)], contents=[h.content(template(*FACTS), is_template=True)])]),
    h.rule(
        "variants",
        [
            h.reply(
                [(502, 502)],
                contents=[
                    h.content(b"english", "text/html", "en"),
                    h.content(b"deutsch", "text/html", "de", headers=[("content-language", "de")]),
                    h.content(template(STATUS), "application/json", is_template=True),
                ],
            )
        ],
    ),
    h.rule(
        "kept",
        [h.reply([(505, 505)], keep=["retry-after", "x-*", "content-*"], headers=[("x-ours", "1")], body=b"kept")],
    ),
    h.rule(
        "empty", [h.reply([(506, 506)], contents=[h.content(templates=[("x-a", template()), ("x-b", h.template())])])]
    ),
    h.rule("v6", [h.reply([(507, 507)], passes=True)], path=(h.EXACT, "/v6"), clients=["::/0"]),
    h.rule(
        "but",
        [h.reply([(507, 507)], body=b"but")],
        unless=h.scope(domains=["*.a.test", "b.test"], path=(h.PREFIX, "/x"), routes=["r"], clients=["0.0.0.0/0"]),
    ),
)


def but(authority: str, path: str, client: str, route: str, answered: bool) -> list[str]:
    asked = [*request(authority, path), f"a {client}", f"o {route}", ">", *response(507), "e"]
    return [*asked, "= 507 but" if answered else "= 507 -"]


NOW = [*request("H.test", "/now?a=<b>"), "q :scheme https", "a 192.0.2.1:80"]

DEPENDENT: dict[str, list[str]] = {
    "passes": [
        *request(),
        "a 10.9.8.7:80",
        ">",
        *response(505),
        "e",
        "= 505 -",
        "k office 0",
        "j office 1",
        "m passed office",
    ],
    "passes-ipv6": [*request(), "a [2001:db8::7]:80", ">", *response(505), "e", "= 505 -"],
    "another-client": [*request(), "a 11.9.8.7:80", ">", *response(505), "e", "= 505 kept"],
    "no-client": [*request(), "a /socket", ">", *response(505), "e", "= 505 kept"],
    "passes-not-this-status": [*request("x", "/now"), "a 10.9.8.7:80", ">", "k at once 1"],
    "observed": [
        *(*request(path="/trial"), ">", "g quiet 1", "m observed quiet", *response(505), "e", "= 505 kept"),
        *("g trial 1", "k trial 0", "m observed trial", "m rule kept"),
    ],
    "nobody-observes": [*request(), ">", *response(505), "e", "g trial 0", "g quiet 0"],
    "final-alone": [*request(path="/shield"), ">", *response(505), "e", "= 505 -", "j shield 1", "m placement module"],
    "final-unless": [*request(path="/shield", method="PUT"), ">", *response(505), "e", "= 505 kept"],
    "at-once": [
        *(*NOW, ">", "= 503 H.test|at once|192.0.2.1||local|503|", "y rejoinder:at_once"),
        "+ location https%3A%2F%2FH.test%2Fnow%3Fa%3D%3Cb%3E|",
    ],
    "at-once-by-a-handler": [*request("H.test", "/mock?q"), "o r", ">", "= 418 GET H.test /mock?q r 0", "k mock 1"],
    "an-error-of-the-application": [
        *(*request(path="/api"), ">"),
        *(*response(503, "content-type application/json"), "e", "= 503 -"),
    ],
    "an-error-of-none": [*request(path="/api"), ">", *response(503, "content-type text/html"), "e", "= 503 api"],
    "many-headers": [
        *(*request(path="/api"), ">"),
        *(*response(503, *(f"x-{n} 1" for n in range(90)), "content-type a/json"), "e", "= 503 -"),
    ],
    "by-envoy": [*request(), ">", "l upstream_reset", *response(504), "e", "= 504 local"],
    "by-the-upstream": [*request(), ">", *response(504), "e", "= 504 upstream"],
    "by-envoy-1.38": [*request(), ">", "l upstream_reset", "z", *response(504), "e", "= 504 local"],
    "by-the-upstream-1.38": [*request(), ">", "z", *response(504), "e", "= 504 upstream"],
    "by-a-filter-that-does-not-say-so": [*request(), ">", "z lua_response", *response(504), "e", "= 504 local"],
    "template": [
        *(*request("H.test:8080", "/p?q=1&q=2", headers=["x-a <1>", "x-a 2"]), "q x-request-id i", "o r"),
        *("q :scheme http", ">", "w :path /other", *response(501), "e"),
        "= 501 i|GET|http|h.test|/p|http://H.test:8080/p?q=1&amp;q=2|1|&lt;1&gt;,2|501|Not Implemented|501|upstream|r|",
    ],
    "template-of-nothing": [
        *(*request("x", "/"), ">", "l x", *response(501), "e"),
        "= 501 |GET||x|/|://x/|||501|Not Implemented|501|local||",
    ],
    "template-and-a-body": [
        *(*request("x", "/", "HEAD"), ">", *response(501), "n", "B x", "= 501 -", "+ content-length 53", "r kept"),
    ],
    "template-that-is-late": [
        *(*request("x", "/"), ">", *response(501, "x-up 1"), "n", "b x", "s", "r reset", "y rejoinder:page"),
        "= 501 |GET||x|/|://x/|||501|Not Implemented|501|upstream||",
    ],
    "first-variant": [*request(), ">", *response(502), "e", "= 502 english"],
    "variant-by-language": [
        *(*request(headers=["accept-language fr", "accept-language de"]), ">", *response(502), "e"),
        *("= 502 deutsch", "+ content-language de"),
    ],
    "variant-by-type": [*request(headers=["accept application/json"]), ">", *response(502), "e", "= 502 502|"],
    "kept": [
        *(*request(), ">"),
        *response(505, "x-ours 2", "x-up 1", "x-up 2", "retry-after 9", "etag 1", "content-type a/b", "content-x 1"),
        *("e", "= 505 kept", "+ x-ours 1", "+ x-up 1", "+ x-up 2", "+ retry-after 9", "+ content-x 1"),
        *("! etag", "! content-type", "+ content-length 4"),
    ],
    "kept-in-a-local-reply": [
        *(*request(), ">", *response(505, "x-up 1"), "n", "b x", "s", "= 505 kept", "+ x-up 1", "r reset"),
    ],
    "kept-without-a-value": [*request(), ">", *response(505, "x-up "), "n", "= 505 kept", "+ x-up ", "r reset"],
    "header-without-a-value": [*request(), ">", *response(506), "n", "= 506 -", "+ x-a ", "+ x-b ", "r reset"],
    "but-no-network-of-ipv6-has-ipv4": [*request(path="/v6"), "a 1.2.3.4:5", ">", *response(507), "e", "= 507 but"],
    "but-ipv6": [*request(path="/v6"), "a [1::]:5", ">", *response(507), "e", "= 507 -"],
    "but": but("x.a.test", "/x/y", "1.2.3.4:5", "r", answered=False),
    "but-by-host": but("B.test:80", "/x", "1.2.3.4:5", "r", answered=False),
    "but-another-host": but("a.test", "/x", "1.2.3.4:5", "r", answered=True),
    "but-another-path": but("b.test", "/xy", "1.2.3.4:5", "r", answered=True),
    "but-another-client": but("b.test", "/x", "[::1]:5", "r", answered=True),
    "but-a-client-in-ipv6": but("b.test", "/x", "[::ffff:1.2.3.4]:5", "r", answered=False),
    "but-another-route": but("b.test", "/x", "1.2.3.4:5", "s", answered=True),
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_what_depends_on_who_asks(host: Path, name: str) -> None:
    play(host, [told(DEPENDING), *DEPENDENT[name]])


@pytest.mark.parametrize(
    ("scope", "fits", "not_fits"),
    [
        pytest.param({"path": (h.EXACT, "/a")}, request(path="/a?x"), request(path="/a/"), id="path"),
        pytest.param({"path": (h.PREFIX, "/a")}, request(path="/a/"), request(path="/"), id="prefix"),
        pytest.param({"path": (h.REGEX, "/a")}, request(path="/a/"), request(path="/"), id="regex"),
        pytest.param({"methods": ["PUT"]}, request(method="PUT"), request(), id="method"),
        pytest.param({"domains": ["a"]}, request("a"), request("b"), id="domain"),
        pytest.param({"domains": ["*.a"]}, request("b.a"), request("a"), id="wildcard"),
        pytest.param({"routes": ["a"]}, [*request(), "o a"], request(), id="route"),
        pytest.param({"headers": [h.test("a", 5, "")]}, request(headers=["a 1"]), request(), id="header"),
        pytest.param({"headers": [h.test("host", 0, "a:1")]}, request("a:1"), request("a"), id="authority"),
        pytest.param({"clients": ["::1/128"]}, [*request(), "a [::1]:80"], [*request(), "a 1.2.3.4:80"], id="client"),
        pytest.param({"source": h.LOCAL}, [*request(), "z x"], request(), id="source"),
        pytest.param({"unless": h.scope(path=(h.EXACT, "/a"))}, request(), request(path="/a"), id="unless"),
        pytest.param({"query": [h.test("a", 2, "2")]}, request(path="/?a=12"), request(path="/?a=1"), id="query"),
    ],
)
def test_what_a_single_rule_looks_at_is_known(host: Path, scope: Any, fits: list[str], not_fits: list[str]) -> None:
    for answers_requests in (False, True) if "source" not in scope else (False,):
        rules = [h.rule("rule", [BUSY], **scope)]
        if answers_requests:
            rules = [h.rule("rule", [h.reply(status=418)], flags=h.UNCONDITIONAL, **scope)]
        replied, status = ("418 -", 200) if answers_requests else ("502 busy", 503)
        play(
            host,
            [told(h.program(*rules)), *fits, ">", *([] if answers_requests else [*response(503), "e"]), f"= {replied}"],
        )
        play(host, [told(h.program(*rules)), *not_fits, ">", *response(status), "e", f"= {status} -"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (ID, "id"),
            (METHOD, "GET"),
            (SCHEME, "https"),
            (HOST, "h.test"),
            (PATH, "/p"),
            (URL, "https://H.test/p?q=1"),
        ),
        *(((QUERY, "q"), "1"), ((HEADER, "x-a"), "a"), ((HEADER, "host"), "H.test"), (STATUS, "501")),
        *((REASON, "Not Implemented"), (ORIGINAL, "501"), (SOURCE, "upstream"), (ROUTE, "r"), (RULE, "page")),
        *((CLIENT, "192.0.2.1"), (17, "/p?q=1")),
    ],
)
def test_what_a_single_variable_needs_is_known(host: Path, name: int | tuple[int, str], value: str) -> None:
    contents = [h.content(template(name), is_template=True)]
    asked = request("H.test", "/p?q=1", headers=["x-request-id id", ":scheme https", "x-a a"])
    program = h.program(h.rule("page", [h.reply([(501, 501)], contents=contents)]))
    play(host, [told(program), *asked, "a 192.0.2.1:80", "o r", ">", *response(501), "e", f"= 501 {value}|"])
