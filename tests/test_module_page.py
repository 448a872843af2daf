"""The module asks another service for a page: its C in a host of ours under sanitizers."""

from __future__ import annotations

from pathlib import Path

import handmade as h
import pytest
from module_host import (
    JSON,
    _host,  # noqa: F401 - a fixture
    play,
    request,
    response,
    told,
)

TOLD = [("x-code", h.template((9, h.HEADER, ""))), ("x-id", h.template((1, h.HEADER, "")))]

ASKS = h.program(
    h.rule(
        "own", [h.reply([(503, 503)], headers=[JSON], body=b"own", asks=h.remote("errors", TOLD))], path=(2, "/own")
    ),
    h.rule("kept", [h.reply([(503, 503)], body=b"own", asks=h.remote("errors", cache=60000))], path=(2, "/kept")),
    h.rule("brief", [h.reply([(503, 503)], body=b"own", asks=h.remote("errors", cache=9000))], path=(2, "/brief")),
    h.rule("stays", [h.reply([(503, 503)], asks=h.remote("errors", stays=True))], path=(2, "/stays")),
    h.rule("at once", [h.reply([(503, 503)], body=b"own", asks=h.remote("+"))], path=(2, "/at-once")),
    h.rule("none", [h.reply([(503, 503)], body=b"own", asks=h.remote("-"))], path=(2, "/none")),
    h.rule(
        "once", [h.reply(status=500, body=b"own", asks=h.remote("errors"))], flags=h.UNCONDITIONAL, path=(2, "/once")
    ),
    h.rule("grpc", [h.reply([(503, 503)], body=b"own", grpc=b"\5" + h.template((9, h.RAW, "")))], path=(2, "/grpc")),
)
"""Pages of another service."""

OWN = [*request(path="/own", headers=["x-request-id 9"]), ">"]

# A page of another service.
PAGES: dict[str, list[str]] = {
    "at-once": [*request(path="/once"), ">", "@ service errors", "p 200 page", "= 500 page", "k once 1"],
    "at-once-none": [*request(path="/once"), ">", "P", "= 500 own", "k once 1", "i once 1"],
    "no-body": [
        *OWN,
        *response(503),
        "e",
        "@ service errors",
        "@ :method GET",
        "@ :path /",
        "@ :authority service.test",
        "@ x-code 503",
        "@ x-id 9",
        "p 200 page",
        "= 503 page",
        "+ content-type text/page",
        "r kept",
    ],
    "body": [*OWN, *response(503), "n", "B up", "p 200 page", "= 503 page", "+ content-length 4", "r kept"],
    "body-ends-later": [*OWN, *response(503), "n", "b up", "p 200 page", "B stream", "= 503 page", "r kept"],
    "trailers": [*OWN, *response(503), "n", "B up", "p 503 page", "= 503 page"],
    "another-status": [*OWN, *response(503), "e", "p 404 page", "= 503 own", "+ content-type application/json"],
    "no-status": [*OWN, *response(503), "e", "p 2000 page", "= 503 own"],
    "said-once": [
        *[*OWN, *response(503), "e", "p 404 page", "x no page from errors: status 404", "."],
        *[*OWN, *response(503), "e", "p 200 ", "x no page from errors: no body", "."],
        *[*OWN, *response(503), "e", "p 404 page", "x no page from errors: no body", "i own 3"],
    ],
    "empty": [*OWN, *response(503), "e", "p 200 ", "= 503 own"],
    "no-page-without-an-end": [*OWN, *response(503), "e", "h 404 0", "= 503 own", "k own 1"],
    "too-large-without-an-end": [*OWN, *response(503), "e", "h 200 20", "= 503 own"],
    "the-client-is-too-slow": [*request(path="/once"), ">", "l request_timeout", "P", *response(408), "e", "= 408 -"],
    "breaks-off": [*OWN, *response(503), "n", "B up", "P", "= 503 own", "k own 1"],
    "no-such-service": [*request(path="/none"), ">", *response(503), "e", "= 503 own", "r kept", "i none 1"],
    "nobody-to-ask": [*request(path="/at-once"), ">", *response(503), "e", "= 503 own", "i at once 1"],
    "stays": [
        *request(path="/stays"),
        ">",
        *response(503, "x-up 1"),
        "n",
        "B up",
        "P",
        "= 503 up",
        "+ x-up 1",
        "k stays 0",
    ],
    "does-not-stay": [
        *request(path="/stays"),
        ">",
        *response(503),
        "n",
        "B up",
        "p 200 page",
        "= 503 page",
        "k stays 1",
    ],
    "upstream-breaks-off": [*OWN, *response(503), "n", "b up", "l upstream_reset", "= 503 own", "k own 1"],
    "kept": [
        *request(path="/kept"),
        ">",
        *response(503),
        "e",
        "p 200 page",
        "= 503 page",
        ".",
        *request(path="/kept"),
        ">",
        *response(503),
        "e",
        "= 503 page",
        "+ content-type text/page",
        ".",
        *request(path="/brief"),
        ">",
        *response(503),
        "e",
        "p 200 newer",
        "= 503 newer",
    ],
    "the-client-goes": [*OWN, *response(503), "n", "b up", "."],
    "refused": ["?", *response(503), "e", "= 503 -"],
    "grpc-gets-none": [
        *request(path="/own", headers=["content-type application/grpc"]),
        ">",
        *response(503),
        "n",
        "= 503 own",
        "+ grpc-status 14",
    ],
    "grpc-stays": [
        *request(path="/stays", headers=["content-type application/grpc"]),
        ">",
        *response(503, "x-up 1"),
        "e",
        "+ x-up 1",
        "k stays 0",
        "i stays 0",
    ],
    "grpc-said": [
        *request(path="/grpc", headers=["content-type application/grpc"]),
        ">",
        *response(503),
        "n",
        "= 503 503",
        "+ grpc-status 5",
    ],
    "no-grpc": [*request(path="/grpc"), ">", *response(503), "e", "= 503 own", "! grpc-status"],
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_another_service(host: Path, name: str) -> None:
    play(host, [told(ASKS), *PAGES[name]])
