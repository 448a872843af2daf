"""What depends on who asks, at an Envoy with the module."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import handmade as h
import pytest
from gateway import Upstream
from machine import ask
from module_static import (
    JSON,
    ROUTES,
    Address,
    _binary,  # noqa: F401 - a fixture
    _upstream,  # noqa: F401 - a fixture
    config,
    module,
    started,
)

# --- what depends on who asks, and on the response ---


def page(*names: int) -> bytes:
    return h.template(*(piece for name in names for piece in ((name, h.HTML, "x-a" if name == 8 else ""), "|")))


DEPENDING = h.program(
    h.rule("us", [h.reply([(599, 599)], 0, body=b"us")], clients=["127.0.0.0/8"], path=(h.PREFIX, "/client")),
    h.rule("office", [h.reply([(500, 599)], passes=True)], clients=["127.0.0.0/8"], path=(h.PREFIX, "/client")),
    h.rule("others", [h.reply([(500, 599)], body=b"others")], clients=["::/0", "10.0.0.0/8"]),
    h.rule("trial", [h.reply([(503, 503)], body=b"trial")], flags=h.OBSERVES),
    h.rule(
        "mine",
        [h.reply([(503, 503)], 0, body=b"html")],
        unless=h.scope(response=[h.test("content-type", 0, "text/html")]),
        path=(h.PREFIX, "/unless"),
    ),
    h.rule("local", [h.reply([(503, 503)], 0, body=b"local")], source=h.LOCAL, path=(h.PREFIX, "/")),
    h.rule("upstream", [h.reply([(504, 504)], 0, body=b"upstream")], source=h.UPSTREAM),
    h.rule(
        "variants",
        [
            h.reply(
                [(502, 502)],
                contents=[
                    h.content(b"english", "text/html", "en", headers=[("vary", "accept, accept-language")]),
                    h.content(b"deutsch", "text/html", "de", headers=[("vary", "accept, accept-language")]),
                    h.content(b"{}", "application/json", headers=[*JSON, ("vary", "accept, accept-language")]),
                ],
            )
        ],
    ),
    h.rule(
        "page",
        [
            h.reply(
                [(501, 501)],
                contents=[
                    h.content(
                        page(1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 16),
                        is_template=True,
                        templates=[("x-at", h.template((15, h.HEADER, "")))],
                    )
                ],
            )
        ],
    ),
    h.rule("kept", [h.reply([(505, 505)], keep=["x-*", "set-cookie"], headers=[("x-ours", "1")], body=b"kept")]),
    h.rule(
        "login",
        [h.reply(status=302, contents=[h.content(templates=[("location", h.template("/?to=", (6, h.URL, "")))])])],
        flags=h.UNCONDITIONAL,
        path=(h.PREFIX, "/login"),
    ),
)


@pytest.fixture(scope="module")
def depending(binary: Path, upstream: Upstream) -> Iterator[Address]:
    made = config([module(DEPENDING)], ROUTES, {"up": upstream.address[1], "dead": 1})
    with started(binary, made) as bound:
        yield bound


ENVOYS_OWN = ("date", "server", "content-length")
"""Headers that are with every response."""


@pytest.mark.parametrize(
    ("path", "headers", "status", "body"),
    [
        pytest.param("/client", {"x-status": "599"}, 599, b"us", id="the client"),
        pytest.param("/client", {"x-status": "501"}, 501, Upstream.BODY, id="passes"),
        pytest.param("/unless", {"x-status": "503"}, 503, Upstream.BODY, id="unless a header of the response"),
        pytest.param("/dead", {}, 503, b"local", id="by Envoy"),
        pytest.param("/x", {"x-status": "503"}, 503, Upstream.BODY, id="not by Envoy"),
        pytest.param("/x", {"x-status": "504"}, 504, b"upstream", id="by the upstream"),
        pytest.param("/x", {"x-status": "502"}, 502, b"english", id="the first variant"),
        pytest.param("/x", {"x-status": "502", "accept-language": "fr, de;q=0.1"}, 502, b"deutsch", id="a variant"),
        pytest.param("/x", {"x-status": "502", "accept": "application/*"}, 502, b"{}", id="a variant by type"),
        pytest.param("/x", {"x-status": "505"}, 505, b"kept", id="kept headers"),
        pytest.param("/login?a=b", {}, 302, b"", id="a header"),
    ],
)
def test_what_depends_on_who_asks(
    depending: Address, path: str, headers: dict[str, str], status: int, body: bytes
) -> None:
    for _ in range(3):
        answer = ask(depending, "GET", "a", path, list(headers.items()))
        assert (answer.status, answer.body) == (status, body)
        sent = sorted(header for header in answer.headers if header[0] not in ENVOYS_OWN)
        if body == b"kept":
            assert ("x-ours", "1") in sent
            assert ("x-from", "upstream") in sent
            assert ("set-cookie", "up=1") in sent
            assert {name for name, _ in sent if not name.startswith("x-")} == {"set-cookie"}
        if status == 502:
            assert ("vary", "accept, accept-language") in sent
        if status == 302:
            assert sent == [("location", "/?to=http%3A%2F%2Fa%2Flogin%3Fa%3Db")]


def test_a_template_is_filled_in(depending: Address) -> None:
    headers = [
        ("x-status", "501"),
        ("x-a", "<1>"),
        ("x-a", "2"),
        ("x-request-id", "6f1e4a0c-0b5e-4d8a-9c57-3e2f1a0b9c8d"),
    ]
    answer = ask(depending, "POST", "A.test:80", "/special?q", headers)
    identity, *said, end = answer.body.decode().split("|")
    assert identity
    assert said == [
        *("POST", "http", "a.test", "/special", "http://A.test:80/special?q", "&lt;1&gt;,2"),
        *("501", "Not Implemented", "501", "upstream", "special", "page", "127.0.0.1"),
    ]
    assert end == ""
    (at,) = answer.values("x-at")
    passed = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(at)
    assert abs(passed) < datetime.timedelta(minutes=1)
