"""The dynamic module without an Envoy: its C in a host of ours under sanitizers, and whether it can be used here."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import core
import handmade as h
import pytest

from rejoinder.cli.placement import Chosen, choose
from rejoinder.envoy import find
from rejoinder.envoy.module import library
from rejoinder.xds.translate import Placement

JSON = ("content-type", "application/json")
BUSY = h.reply([(503, 503)], 502, headers=[JSON, ("x-two", "1"), ("x-two", "2")], body=b"busy")
PLAIN = h.reply([(500, 599)], 0, body=b"plain")

ERRORS = h.program(h.rule("errors", [BUSY, PLAIN]))
"""No rule about requests."""

RULES = h.program(
    h.rule("shield", [h.reply([(599, 599)])], flags=h.FINAL, domains=["shield.test"]),
    h.rule("mock it", [h.reply(status=200, headers=[JSON], body=b"hello")], flags=h.UNCONDITIONAL, path=(2, "/mock")),
    h.rule("path", [h.reply([(503, 503)], body=b"path")], path=(h.PREFIX, "/a"), methods=["GET", "HEAD"]),
    h.rule("host", [h.reply([(503, 503)], body=b"host")], domains=["*.a.test"]),
    h.rule("route", [h.reply([(503, 503)], body=b"route")], routes=["special"]),
    h.rule(
        "header", [h.reply([(503, 503)], body=b"header")], headers=[h.test("x-h", 1, "va"), h.test("host", 0, "X:80")]
    ),
    h.rule("both", [h.reply([(503, 503)], body=b"both")], domains=["one.test", "[::1]"], routes=["there"]),
    h.rule("nowhere", [h.reply([(503, 503)], body=b"nowhere")], domains=["one.test", "two.test"], routes=[""]),
    h.rule("deep", [h.reply([(503, 503)], body=b"deep")], path=(h.PREFIX, "/d/e/f")),
    h.rule("query", [h.reply([(503, 503)], body=b"query")], query=[h.test("q", 0, "1")]),
    h.rule("regex", [h.reply([(503, 503)], body=b"regex")], path=(h.REGEX, "/re")),
    h.rule("never", [h.reply([(503, 503)], body=b"never")], routes=[]),
    h.rule("handled", [h.reply([(504, 504)], handler="handlers:answers")]),
    h.rule("fails", [h.reply([(505, 505)], handler="handlers:fails")]),
    h.rule("passes", [h.reply([(506, 506)], handler="handlers:passes")]),
    h.rule("empty", [h.reply([(507, 507)], headers=[("x-empty", "")], body=b"body")]),
    h.rule("nothing", [h.reply([(508, 508)], 204), h.reply([(509, 509)], 304)]),
)

GET = ["q :method GET", "q :authority x.test", "q :path /"]


def request(authority: str = "x.test", path: str = "/", method: str = "GET", headers: Sequence[str] = ()) -> list[str]:
    return [
        "?",
        f"q :method {method}",
        f"q :authority {authority}",
        f"q :path {path}",
        *(f"q {each}" for each in headers),
    ]


def response(status: int, *headers: str) -> list[str]:
    return [f"u :status {status}", *(f"u {each}" for each in headers)]


# What happens, and what the client gets. The letters are those of host.c.
CASES: dict[str, list[str]] = {
    # --- which rule answers ---
    "not-named": [*request(), ">", *response(200), "e", "= 200 -", "r kept"],
    "interim": [*request(), ">", *response(103), "n", "b x", "B y", "= 103 xy"],
    "no-status": [*request(), ">", "u x y", "e", "+ x y", "r kept"],
    "at-once": [*request(path="/mock/x?y"), ">", "= 200 hello", "y rejoinder:mock_it", "k mock it 1"],
    "at-once-head": [*request(path="/mock", method="HEAD"), ">", "= 200 -", "+ content-type application/json"],
    "shielded": [*request("SHIELD.test:80", "/mock"), ">", *response(503), "e", "= 503 -"],
    "path": [*request(path="/a/b?c"), ">", *response(503), "e", "= 503 path", "! content-type", "+ content-length 4"],
    "path-element": [*request(path="/ab"), ">", *response(503), "e", "= 503 -"],
    "method": [*request(path="/a", method="PUT"), ">", *response(503), "e", "= 503 -"],
    "host": [*request("B.A.test:8080"), ">", *response(503), "e", "= 503 host"],
    "host-too-short": [*request("a.test"), ">", *response(503), "e", "= 503 -"],
    "route": [*request(), "o special", ">", *response(503), "e", "= 503 route"],
    "route-other": [*request(), "o other", ">", *response(503), "e", "= 503 -"],
    "route-and-host": [*request("one.test"), "o there", ">", *response(503), "e", "= 503 both"],
    "route-and-address": [*request("[::1]:80"), "o there", ">", *response(503), "e", "= 503 both"],
    "address-without-port": [*request("[::1]"), "o there", ">", *response(503), "e", "= 503 both"],
    "host-and-another-route": [*request("one.test"), "o other", ">", *response(503), "e", "= 503 -"],
    "no-route-is-no-name": [*request("two.test"), ">", *response(503), "e", "= 503 -"],
    "deep-path": [*request(path="/d/e/f/g"), ">", *response(503), "e", "= 503 deep"],
    "not-so-deep-path": [*request(path="/d/e"), ">", *response(503), "e", "= 503 -"],
    "header": [*request("X:80", headers=["x-h no", "x-h value"]), ">", *response(503), "e", "= 503 header"],
    "header-many": [
        *request("X:80", headers=["x-h no"] * 100 + ["x-h value"]),
        ">",
        *response(503),
        "e",
        "= 503 header",
    ],
    "header-not-both": [*request("X:81", headers=["x-h value"]), ">", *response(503), "e", "= 503 -"],
    "query": [*request(path="/?a&q=1&q=2"), ">", *response(503), "e", "= 503 query"],
    "query-first-counts": [*request(path="/?q=2&q=1"), ">", *response(503), "e", "= 503 -"],
    "regex": [*request(path="/regex"), ">", *response(503), "e", "= 503 regex"],
    # --- what the route does ---
    "as-it-was-before-the-route": [
        *request("b.a.test", "/a"),
        ">",
        "w :path /other",
        "w :authority other",
        *response(503),
        "e",
        "= 503 path",
    ],
    "a-filter-in-front-answers": [*request(path="/a"), "l rate_limited", *response(503), "e", "= 503 path"],
    "envoy-answers": [*request(path="/a"), ">", "l route_not_found", *response(503), "e", "= 503 path"],
    "the-route-answers": [*request(path="/a"), ">", "l direct_response", *response(503), "e", "= 503 -"],
    # --- handlers ---
    "handler": [
        *request("H.test", "/p?q", "PUT"),
        "o r",
        ">",
        "w :path /other",
        *response(504),
        "e",
        "= 418 PUT H.test /p?q r 504",
        "k handled 1",
        "f handled 0",
    ],
    "handler-stalls": [
        *(*request("a", "/p"), "o r", ">", *response(504), "n", "s"),
        *("= 418 GET a /p r 504", "y rejoinder:handled"),
    ],
    "handler-fails": [*request(), ">", *response(505), "n", "B body", "= 505 body", "k fails 0", "f fails 1"],
    "handler-passes": [*request(), ">", *response(506), "e", "= 506 -", "k passes 0", "f passes 0"],
}

# The same with the rules that look at no request.
REPLACING: dict[str, list[str]] = {
    "ends-with-headers": [
        *request(),
        ">",
        *response(503, "x-up 1", "content-length 0"),
        "e",
        "= 502 busy",
        "+ content-length 4",
        "+ x-two 1",
        "+ x-two 2",
        "! x-up",
        "r kept",
        "k errors 1",
    ],
    "original-status": [*request(), ">", *response(504), "e", "= 504 plain"],
    "length": [*request(), ">", *response(503, "content-length 4"), "n", "b bo", "B dy", "= 502 busy", "r kept"],
    "end-alone": [*request(), ">", *response(503, "content-length 4"), "n", "b body", "B", "= 502 busy", "r kept"],
    "chunked": [*request(), ">", *response(503), "n", "B body", "= 502 busy", "r kept"],
    "trailers": [*request(), ">", *response(503), "n", "b body", "t grpc-status", "= 502 busy", "r kept"],
    "trailers-only": [*request(), ">", *response(503), "n", "t grpc-status", "= 502 busy", "r kept"],
    "head": [*request(method="HEAD"), ">", *response(503, "content-length 9"), "e", "= 502 -", "+ content-length 4"],
    "head-ends-late": [*request(method="HEAD"), ">", *response(503), "n", "B", "= 502 -", "+ content-length 4"],
    "many-headers": [*request(), ">", *response(503, *(f"x-{n} 1" for n in range(90))), "e", "= 502 busy", "! x-89"],
    "many-long-names": [
        *request(),
        ">",
        *response(503, *(f"x-{'n' * 400}-{n} 1" for n in range(20))),
        "e",
        "= 502 busy",
    ],
    "too-long": [*request(), ">", *response(503, "content-length 1048577"), "n", "= 502 busy", "r reset"],
    "much": [
        *request(),
        ">",
        *response(503),
        "n",
        *(["b " + "x" * 60_000] * 18),
        "= 502 busy",
        "r reset",
        "y rejoinder:errors",
    ],
    "endless": [*request(), ">", *response(503), "n", "b x", "s", "= 502 busy", "r reset", "y rejoinder:errors"],
    "stalls": [*request(), ">", *response(503, "content-length 9"), "n", "b x", "s", "= 502 busy", "r reset"],
    "breaks-off": [
        *request(),
        ">",
        *response(503, "content-length 9"),
        "n",
        "b x",
        "l upstream_reset",
        "= 502 busy",
        "+ content-length 4",
        "k errors 1",
    ],
    "breaks-off-head": [
        *request(method="HEAD"),
        ">",
        *response(503),
        "n",
        "l upstream_reset",
        "= 502 -",
        "+ content-length 4",
    ],
    "breaks-off-after-the-end": [*request(), ">", *response(503), "n", "B x", "l upstream_reset", "= 502 busy"],
    "goes-away": [*request(), ">", *response(503), "n", "b x", "."],
    "twice-in-one-process": [
        *request(),
        ">",
        *response(503),
        "n",
        "b x",
        ".",
        *request(),
        ">",
        *response(503),
        "n",
        "s",
        "= 502 busy",
    ],
    # From HTTP/2 on there must be an end, and so nothing is waited for that is not there.
    "http2-length": [
        *request(),
        "v HTTP/2",
        ">",
        *response(503, "content-length 4"),
        "n",
        "b body",
        "B",
        "= 502 busy",
        "r kept",
    ],
    "http2-part": [
        *request(),
        "v HTTP/2",
        ">",
        *response(503, "content-length 4"),
        "n",
        "b bo",
        "= 502 busy",
        "r reset",
    ],
    "http2-chunked": [*request(), "v HTTP/2", ">", *response(503), "n", "b bo", "B dy", "= 502 busy", "r kept"],
    "http2-endless": [*request(), "v HTTP/2", ">", *response(503), "n", "b bo", "s", "= 502 busy", "r reset"],
}

BODILESS: dict[str, list[str]] = {
    "empty-value": [*request(), ">", *response(507), "n", "= 507 body", "+ x-empty ", "r reset"],
    "no-content": [*request(), ">", *response(508), "n", "B x", "= 204 -", "! content-length", "r kept"],
    "not-modified": [*request(), ">", *response(509), "e", "= 304 -", "! content-length"],
}

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


ID_1, PART_1 = h.part(h.body(b"one"), h.rule("one", [h.reply([(501, 501)], body=b"one")]))
ID_2, PART_2 = h.part(h.rule("two", [h.reply([(502, 502)], body=b"one")])[len(h.body(b"one")) :])
WHOLE = h.program(h.rule("own", [h.reply([(500, 599)], body=b"own")]), parts=[ID_2, ID_1])
OLD = h.program(h.rule("old", [h.reply([(500, 599)], body=b"old")]))


def told(data: bytes, name: str = "rejoinder", letter: str = "c") -> str:
    return f"{letter} {name} {data.hex()}"


def answer(status: int, text: str) -> list[str]:
    """What the newest configuration answers to a status."""
    return [*request(), ">", *response(status), "e", f"= {status} {text}", "."]


PARTS: dict[str, list[str]] = {
    "parts-first": [
        told(PART_1, "p1"),
        told(PART_2, "p2"),
        told(WHOLE),
        *answer(501, "one"),
        *answer(502, "one"),
        *answer(503, "own"),
    ],
    "a-part-does-nothing": [told(PART_1, "p1"), *answer(501, "-")],
    "parts-last": [
        told(WHOLE),
        "? 0",
        *response(501),
        "e",
        "= 501 -",
        ".",
        told(PART_1),
        told(PART_2),
        "? 0",
        *response(501),
        "e",
        "= 501 one",
        ".",
        "? 0",
        *response(502),
        "e",
        "= 502 one",
        ".",
    ],
    "what-was-before-stays": [
        told(OLD),
        told(WHOLE),
        *answer(501, "old"),
        told(PART_1, "p"),
        "? 1",
        *response(502),
        "e",
        "= 502 old",
        ".",
        "d",
        told(PART_2, "p"),
        "? 0",
        *response(502),
        "e",
        "= 502 one",
        ".",
    ],
    "by-another-name-nothing-was-before": [told(OLD, "other"), told(WHOLE), *answer(501, "-")],
    "a-stream-keeps-its-program": [
        told(OLD),
        told(WHOLE),
        "? 1",
        told(PART_1, "p"),
        told(PART_2, "p"),
        *response(502),
        "e",
        "= 502 old",
        ".",
        "? 1",
        *response(502),
        "e",
        "= 502 one",
        ".",
    ],
    "parts-are-forgotten": [
        *(told(PART_1, "p"), "d", told(WHOLE), told(PART_2, "p")),
        *("? 0", *response(502), "e", "= 502 -", "."),
    ],
    "a-program-keeps-its-parts": [
        told(PART_1, "p"),
        told(PART_2, "p"),
        told(WHOLE),
        "d",
        "d",
        *answer(501, "one"),
        told(WHOLE),
        *answer(502, "one"),
    ],
    "a-waiting-program-goes": [told(WHOLE), "d", told(PART_1, "p"), told(PART_2, "p")],
    "the-same-part-twice": [
        told(PART_1, "p"),
        told(PART_1, "q"),
        "d",
        told(PART_2, "p"),
        told(WHOLE),
        *answer(501, "one"),
    ],
    "a-part-named-twice": [
        told(PART_1, "p"),
        told(h.program(parts=[ID_1, ID_1]), letter="C"),
        "x part 2: expected one that is not named",
    ],
    "another-part-of-that-id": [
        told(PART_1, "p"),
        told(PART_1[:24] + PART_2[24:], letter="C"),
        "x an id that no part with other bytes has",
    ],
    "a-broken-part": [told(PART_1[:-1], letter="C"), "x expected a record of that length"],
    "a-body-that-does-not-come": [
        told(OLD),
        told(h.program(parts=[ID_2])),
        *answer(502, "old"),
        told(PART_2, "p"),
        "x rule two: the body of a reply is in no record",
        "? 1",
        *response(502),
        "e",
        "= 502 old",
        ".",
    ],
    "no-regular-expression": [
        told(h.program(h.rule("r", [PLAIN], path=(h.REGEX, "("))), letter="C"),
        "x no such regular expression",
    ],
}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C code in a host of ours, built with AddressSanitizer and UBSan."""
    sources = [core.HARNESS / "host.c", *core.of_core(*core.PROGRAM, "config.c", "grace.c", "replace.c")]
    return core.compiled(tmp_path_factory.mktemp("host") / "host", sources, *core.SANITIZERS)


def play(host: Path, lines: Sequence[str]) -> None:
    done = subprocess.run([host], input="\n".join(lines).encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("name", CASES)
def test_the_rule_that_answers(host: Path, name: str) -> None:
    play(host, [told(RULES), *CASES[name]])


@pytest.mark.parametrize("program", [ERRORS, RULES], ids=["nothing of the request", "the request"])
@pytest.mark.parametrize("name", [*REPLACING, *BODILESS])
def test_how_a_response_is_replaced(host: Path, name: str, program: bytes) -> None:
    if name in BODILESS and program is ERRORS:
        program = RULES
    if name in REPLACING and program is RULES:
        program = h.program(
            h.rule("other", [BUSY], domains=["other.test"], path=(h.PREFIX, "/a")), h.rule("errors", [BUSY, PLAIN])
        )
    play(host, [told(program), *{**REPLACING, **BODILESS}[name]])


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
        *((CLIENT, "192.0.2.1"),),
    ],
)
def test_what_a_single_variable_needs_is_known(host: Path, name: int | tuple[int, str], value: str) -> None:
    contents = [h.content(template(name), is_template=True)]
    asked = request("H.test", "/p?q=1", headers=["x-request-id id", ":scheme https", "x-a a"])
    program = h.program(h.rule("page", [h.reply([(501, 501)], contents=contents)]))
    play(host, [told(program), *asked, "a 192.0.2.1:80", "o r", ">", *response(501), "e", f"= 501 {value}|"])


@pytest.mark.parametrize("name", PARTS)
def test_programs_come_in_parts(host: Path, name: str) -> None:
    play(host, PARTS[name])


@pytest.mark.parametrize(
    ("output", "message"),
    [
        pytest.param(
            "envoy  version: 0a/1.37.0/Clean/RELEASE/BoringSSL",
            r"Envoy 1\.38 to 1\.41 .*this one is 1\.37\.0",
            id="old",
        ),
        pytest.param("hello", "expected an Envoy that tells its version", id="no-envoy"),
    ],
)
def test_the_module_is_not_for_every_envoy(tmp_path: Path, output: str, message: str) -> None:
    binary = tmp_path / "envoy"
    binary.write_text(f"#!/bin/sh\necho '{output}'\n")
    binary.chmod(0o755)
    with pytest.raises(library.ModuleUnavailableError, match=message):
        library.find(binary)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "not compiled when Rejoinder was installed", id="missing"),
        pytest.param(b"not a library", "cannot be loaded", id="broken"),
    ],
)
def test_a_module_that_cannot_be_loaded_is_unavailable(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "librejoinder.so"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(library.ModuleUnavailableError, match=message):
        library.find(Path("/bin/true"), file)


@pytest.mark.parametrize(
    ("asked", "placement", "reason"),
    [
        pytest.param("ext_proc", Placement.EXT_PROC, "", id="ext_proc-is-asked-for"),
        pytest.param(None, Placement.EXT_PROC, "/bin/false: expected an Envoy", id="the-module-cannot-be-loaded"),
    ],
)
def test_without_the_module_ext_proc_is_chosen_and_says_why(
    asked: str | None, placement: Placement, reason: str
) -> None:
    chosen = choose(asked, Path("/bin/false"))
    assert chosen.placement is placement
    assert chosen.why_not_module.startswith(reason)
    assert bool(chosen.why_not_module) == bool(reason)


def test_the_module_is_chosen_where_it_can_be_loaded() -> None:
    assert choose(None, find().path) == Chosen(Placement.MODULE)


def test_the_module_that_was_asked_for_and_cannot_be_loaded_is_an_error() -> None:
    with pytest.raises(library.ModuleUnavailableError, match="expected an Envoy"):
        choose("module", Path("/bin/false"))


def test_the_environment_keeps_what_was_there() -> None:
    variables = library.environment(Path("/m/librejoinder.so"), [Path("/a"), Path("/b")], {"PYTHONPATH": "/mine"})
    assert variables["ENVOY_DYNAMIC_MODULES_SEARCH_PATH"] == "/m"
    assert variables["PYTHONPATH"].startswith("/mine:")
    assert variables["REJOINDER_HANDLER_PATH"] == "/a:/b"


def test_abi_version_is_said_once_in_c_and_once_in_python() -> None:
    assert f'"{library.ABI_VERSION}"' in (Path(library.__file__).parent / "abi.h").read_text()


def test_threads_do_not_race(tmp_path: Path) -> None:
    sources = [core.HARNESS / "threads.c", *core.of_core(*core.PROGRAM, "config.c", "grace.c")]
    binary = core.compiled(tmp_path / "threads", sources, "-fsanitize=thread")
    identity, part = h.part(h.rule("part", [PLAIN]))
    files = []
    for name, data in (("program", ERRORS), ("part", part), ("whole", h.program(parts=[identity]))):
        files.append(tmp_path / name)
        files[-1].write_bytes(data)
    done = subprocess.run([binary, *files], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_fuzzing_finds_nothing(tmp_path: Path, compiler: str) -> None:
    """A few seconds of tests/fuzz/run.py: by libFuzzer where there is clang, and by its own mutator everywhere."""
    run = runpy.run_path(str(Path(__file__).parent / "fuzz" / "run.py"))
    run["fuzz"](compiler, 6, tmp_path)


def test_the_core_needs_nothing_but_libc() -> None:
    needed = subprocess.run(["ldd", library.LIBRARY], capture_output=True, text=True, check=True).stdout
    names = {line.split()[0].rsplit("/", 1)[-1].split(".")[0] for line in needed.splitlines()}
    assert names <= {"linux-vdso", "libc", "ld-linux-x86-64", "ld-linux-aarch64"}


def test_a_python_library_that_is_not_there_has_a_reason(tmp_path: Path) -> None:
    assert "was not compiled" in library.why_no_python(tmp_path / "librejoinder.so")
    (tmp_path / library.PYTHON).write_bytes(b"not a library")
    assert "file too short" in library.why_no_python(tmp_path / "librejoinder.so")
    assert library.why_no_python() == ""


def test_the_core_is_built_without_what_the_other_library_needs(tmp_path: Path) -> None:
    # -I: of this project and of cffi nothing is found; -S: nor anything else that is installed.
    build = str(core.SOURCES / "build.py")
    done = subprocess.run(
        [sys.executable, "-I", "-S", build, tmp_path],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert [file.name for file in tmp_path.iterdir()] == ["librejoinder.so"]
    assert "without regular expressions and handlers" in done.stderr
