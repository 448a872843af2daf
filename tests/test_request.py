"""Requests as rules see them; `normalize_path` is held against a real Envoy, with the same odd paths."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine import SECONDS

from rejoinder import envoy
from rejoinder.rules.model import Answer, Endpoint, Listener, Route, Ruleset
from rejoinder.rules.program import compile_rules
from rejoinder.rules.request import (
    MADE_UP,
    METHOD,
    REMOVED_HEADERS,
    Request,
    RequestError,
    host_of,
    normalize_path,
    parse,
)
from rejoinder.xds.plan import plan
from rejoinder.xds.translate import Json, Settings, static_bootstrap, translate
from rejoinder.xds.translate.listeners import listener_name

MOVED: Final = True  # Envoy redirects to the normalized path

ODD_PATHS: Final = [
    pytest.param("/a/b", "/a/b", not MOVED, id="plain"),
    pytest.param("/a/", "/a/", not MOVED, id="a slash at the end stays"),
    pytest.param("/a//b", "/a/b", not MOVED, id="slashes are merged"),
    pytest.param("/a/b//", "/a/b/", not MOVED, id="also at the end"),
    pytest.param("/", "/", not MOVED, id="nothing"),
    pytest.param("//", "//", not MOVED, id="nothing but slashes keeps two"),
    pytest.param("///", "//", not MOVED, id="of however many"),
    pytest.param("/a/./b", "/a/b", not MOVED, id="one dot"),
    pytest.param("/a/.", "/a/", not MOVED, id="one dot at the end"),
    pytest.param("/a/../b", "/b", not MOVED, id="two dots"),
    pytest.param("/a/b/..", "/a/", not MOVED, id="two dots at the end"),
    pytest.param("/../../b", "/b", not MOVED, id="nothing above the root"),
    pytest.param("/a/.../b", "/a/.../b", not MOVED, id="three dots are a name"),
    pytest.param("/a//../b", "/a/b", not MOVED, id="two dots take an empty element away"),
    pytest.param("/a/..;x/b", "/b", not MOVED, id="dots with parameters"),
    pytest.param("/a/%2e%2E/b", "/b", not MOVED, id="escaped dots"),
    pytest.param("/a/.%2e/b", "/b", not MOVED, id="one of the dots escaped"),
    pytest.param("/%61%7e%2D%5f", "/a~-_", not MOVED, id="escapes that nobody needs"),
    pytest.param("/%20%25%C3%a4", "/%20%25%C3%a4", not MOVED, id="other escapes stay as they are"),
    pytest.param("/a%zz%", "/a%zz%", not MOVED, id="what is no escape"),
    pytest.param("/%%37A%7%41", "/%257A%257A", not MOVED, id="no escape is made by taking another away"),
    pytest.param("/a|b^c`d{e}", "/a%7Cb%5Ec%60d%7Be%7D", not MOVED, id="characters that need an escape"),
    pytest.param('/a"<>', "/a%22%3C%3E", not MOVED, id="quotes and angle brackets"),
    pytest.param("/a[b];c=d,e:f@g!$&'()*+", "/a[b];c=d,e:f@g!$&'()*+", not MOVED, id="characters that need none"),
    pytest.param("/a\\b", "/a/b", not MOVED, id="a backslash is a slash"),
    pytest.param("/a%2fb", "/a/b", MOVED, id="an escaped slash"),
    pytest.param("/a%5Cb", "/a/b", MOVED, id="an escaped backslash"),
    pytest.param("/a%2f%2e%2e%2fb", "/b", MOVED, id="an escaped way up"),
    pytest.param("/a%252fb", "/a%252fb", not MOVED, id="escaped twice"),
]


@pytest.mark.parametrize(("path", "normalized", "moved"), ODD_PATHS)
def test_a_path_is_normalized(path: str, normalized: str, moved: bool) -> None:
    assert normalize_path(path) == (normalized, moved)


@settings(max_examples=300)
@given(parts=st.lists(st.sampled_from(("a", ".", "..", "", "%2e", "%41", "|")), max_size=5))
def test_what_is_normalized_stays_as_it_is(parts: list[str]) -> None:
    normalized, _ = normalize_path("/" + "/".join(parts))
    assert normalize_path(normalized) == (normalized, not MOVED)


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("a.test", "a.test"),
        ("A.Test", "a.test"),
        ("a.test:8080", "a.test"),
        ("a.test:", "a.test"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:8080", "[::1]"),
        ("[::1]", "[::1]"),
        ("", ""),
    ],
)
def test_a_host_is_in_lower_case_without_port(authority: str, host: str) -> None:
    assert host_of(authority) == host


@pytest.mark.parametrize(
    ("target", "path", "query", "normalized"),
    [
        pytest.param("/a", "/a", None, "/a", id="no query"),
        pytest.param("/a?", "/a", "", "/a?", id="an empty query"),
        pytest.param("/a?b=1&c", "/a", "b=1&c", "/a?b=1&c", id="a query"),
        pytest.param("/a/../b?x=/../y//z%2f", "/b", "x=/../y//z%2f", "/b?x=/../y//z%2f", id="which nothing is done to"),
        pytest.param("/a?b?c", "/a", "b?c", "/a?b?c", id="a second question mark"),
    ],
)
def test_a_target_is_a_path_and_a_query(target: str, path: str, query: str | None, normalized: str) -> None:
    request = parse("GET", "A.test:80", target, (("X-Name", "Value"),), scheme="https")
    assert request == Request("GET", "a.test", path, query, request.headers, "https", "A.test:80")
    assert request.header("x-name") == ["Value"]
    assert request.target == normalized


@pytest.mark.parametrize(
    ("query", "name", "values"),
    [
        pytest.param(None, "a", [], id="no query"),
        pytest.param("", "", [], id="an empty query has no empty parameter"),
        pytest.param("a", "a", [""], id="a name alone"),
        pytest.param("a=", "a", [""], id="an empty value"),
        pytest.param("a=1=2", "a", ["1=2"], id="the first = counts"),
        pytest.param("a=1&a=2", "a", ["1"], id="the first value counts"),
        pytest.param("A=1", "a", [], id="letter case matters"),
        pytest.param("a=%20+", "a", ["%20+"], id="nothing is decoded"),
        pytest.param("b=1&&a=2", "a", ["2"], id="an empty part"),
        pytest.param("a=1;b=2", "b", [], id="a semicolon is part of a value"),
    ],
)
def test_a_parameter_has_its_first_value(query: str | None, name: str, values: list[str]) -> None:
    assert Request("GET", "a.test", "/", query).parameter(name) == values


def test_a_header_has_all_its_values() -> None:
    request = Request("GET", "a.test", "/", headers=(("a", "1"), ("b", "2"), ("a", "3")), authority="A.test:80")
    assert request.header("a") == ["1", "3"]
    assert request.header("c") == []
    assert request.header("host") == ["A.test:80"]


REFUSED: Final = [
    pytest.param("a", 'expected a path starting with "/"', id="no slash in front"),
    pytest.param("/a%00", "cannot contain '%00'", id="an escaped NUL"),
    pytest.param("/a#b", "cannot contain '#'", id="a fragment"),
    pytest.param("/\x01", r"cannot contain '\\x01'", id="a control character"),
    pytest.param("/ä", "cannot contain 'ä'", id="not ASCII"),
    pytest.param("/a?b=ä", "cannot contain 'ä'", id="not ASCII in the query"),
]


@pytest.mark.parametrize(("target", "message"), REFUSED)
def test_a_target_that_envoy_refuses_is_an_error(target: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse("GET", "a.test", target)


# --- the same against a real Envoy ---


KEPT: Final = ("x-custom", "accept", "x-envoy-foo", "x-envoy-attempt-count", "x-real-ip", "trailer", "x-forwarded-port")
ECHOED: Final = (
    *(*REMOVED_HEADERS, *MADE_UP, *KEPT),
    *("x-forwarded-proto", "connection", "te", "upgrade", ":authority", ":method"),
)
"""What Envoy says to have seen."""


def _bootstrap(listener: Listener) -> Json:
    """Envoy with our listener's settings, that answers every request with the path that it has made of it."""
    rules = Ruleset(listeners=(listener,), routes=(Route("all", Answer(404)),))
    bootstrap = static_bootstrap(
        translate(rules, compile_rules(rules.rules), plan(rules), Settings(Endpoint("127.0.0.1", 1)))
    )
    manager = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["route_config"]["response_headers_to_add"] = [
        {"header": {"key": "x-path", "value": "%REQ(:PATH)%"}},
        *({"header": {"key": f"seen-{name.strip(':')}", "value": f"%REQ({name})%"}} for name in ECHOED),
    ]
    return {**bootstrap, "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}}


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    listener = Listener("127.0.0.1", 0)
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()

        async def start() -> tuple[str, int]:
            running = envoy.running(envoy.find().path, _bootstrap(listener), concurrency=1)
            process = await stack.enter_async_context(running)
            return (await process.ready([listener_name(listener)]))[listener_name(listener)][0]

        try:
            yield runner.run(start())
        finally:
            runner.run(stack.aclose())


def seen_by_envoy(address: tuple[str, int], target: str) -> tuple[str, bool] | None:
    """What Envoy makes of a target: path and query, and whether it redirects to it; None: it refuses it."""
    # By hand: no client sends such paths as they are.
    with socket.create_connection(address, SECONDS) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nhost: a.test\r\n\r\n".encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        response.close()
    if response.status == 400:
        return None
    moved = response.status == 307
    return response.headers["location" if moved else "x-path"], moved


@pytest.mark.parametrize(("path", "normalized", "moved"), ODD_PATHS)
def test_envoy_normalizes_a_path_just_so(address: tuple[str, int], path: str, normalized: str, moved: bool) -> None:
    assert seen_by_envoy(address, f"{path}?q=/../|") == (f"{normalized}?q=/../|", moved)


@pytest.mark.parametrize(("target", "message"), REFUSED)
def test_envoy_refuses_what_is_an_error(address: tuple[str, int], target: str, message: str) -> None:
    del message
    assert seen_by_envoy(address, target) is None


SENT: Final = [
    *(
        f"{name}: v"
        for name in (*sorted(REMOVED_HEADERS), *MADE_UP, *KEPT, "x-forwarded-proto", "te", "upgrade", "connection")
    ),
    *("x-forwarded-for: 1.2.3.4\nx-forwarded-for: 5.6.7.8", "x-forwarded-proto: https", "accept: a\naccept: b"),
    *("te: trailers", "te: gzip, trailers", "connection: te\nte: trailers", "connection: te\nte: gzip"),
    *(
        f"connection: {names}\nx-custom: v\naccept: v"
        for names in ("X-Custom", "close, accept", "a\nconnection: accept")
    ),
    *(f"connection: {name}" for name in ("host", ":path", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto")),
    *(f"connection: Upgrade, x-custom\nupgrade: {to}\nx-custom: v" for to in ("WebSocket", "h2c", "foo", "a, b", "")),
    *("connection: upgrade", "upgrade: websocket"),
]


@pytest.mark.parametrize("sent", SENT)
def test_envoy_takes_away_sets_and_joins_just_these_headers(address: tuple[str, int], sent: str) -> None:
    _agree(address, "GET", ["a.test"], sent.split("\n"))


@pytest.mark.parametrize(
    "hosts",
    [
        *(["A.test."], ["a.test.:80"], ["a.test.."], ["a.test:80."], ["a.test:"], ["."], [""]),
        *(["a.test", "b.test"], ["a.test", "a.test"]),
        *([f"a{chr(code)}b"] for code in range(0x21, 0x7F)),
    ],
    ids=str,
)
def test_envoy_takes_just_these_hosts(address: tuple[str, int], hosts: list[str]) -> None:
    _agree(address, "GET", hosts, [])


REFUSED_METHODS: Final = ("BREW", "CONNECT", "FOO", "LABEL", "M-SEARCH", "PRI", "QUERY", "UPDATE", "get", "G@T")


@pytest.mark.parametrize("method", [*sorted({*METHOD.pattern.split("|")} - {"HEAD"}), *REFUSED_METHODS])
def test_envoy_takes_just_these_methods(address: tuple[str, int], method: str) -> None:
    _agree(address, method, ["a.test"], ["content-length: 0"])


def _agree(address: tuple[str, int], method: str, hosts: list[str], lines: list[str]) -> None:
    """Envoy and `parse` make the same of a request."""
    with socket.create_connection(address, SECONDS) as connection:
        head = [f"{method} / HTTP/1.1", *(f"host: {host}" for host in hosts), *lines]
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        response.close()
    pairs = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
    request = None
    status = 404  # the route's
    try:
        request = parse(method, ",".join(hosts), "/", pairs)
    except RequestError as error:
        status = error.status
    assert response.status == status
    if request is None:
        return
    seen = {name.strip(":"): response.headers.get(f"seen-{name.strip(':')}", "") for name in ECHOED}
    made = {name: ",".join(request.header(name)) for name in ECHOED if name[0] != ":"}
    for name, example in MADE_UP.items():
        assert seen[name] not in {"", "-", dict(pairs).get(name)}, "Envoy gives it to every request"
        had, _, _ = seen[name].rpartition(",")
        assert made[name] == f"{had},{example}".strip(",")
        made[name] = seen[name]
    assert {name: "" if value == "-" else value for name, value in seen.items()} == {
        **made,
        "authority": request.authority,
        "method": method,
    }


PIECES: Final = (
    "/",
    "/",
    "/",
    ".",
    "..",
    "a",
    "%2e",
    "%2F",
    "%5c",
    "\\",
    ";x",
    "%41",
    "%7",
    "|",
    "%c3",
    "?",
    "B",
    "%7f",
)


@settings(max_examples=400)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=8))
def test_envoy_and_parse_make_the_same_of_any_path(address: tuple[str, int], pieces: list[str]) -> None:
    target = "/" + "".join(pieces)
    request = parse("GET", "a.test", target)
    assert seen_by_envoy(address, target) == (request.target, request.moved)
