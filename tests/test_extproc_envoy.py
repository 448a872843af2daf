"""The ext_proc service beside an Envoy with a configuration of its own: what clients get, and what it costs.

The filters are those that `rejoinder bootstrap ext_proc RULES` prints.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import struct
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import pytest

from rejoinder.envoy import EnvoyProcess, bootstrap, find, running
from rejoinder.extproc import Processor
from rejoinder.rules.model import (
    Answer,
    Endpoint,
    Header,
    PathKind,
    PathMatch,
    RequestMatch,
    Rule,
    Scope,
    StatusPattern,
    StringKind,
    StringMatch,
)
from rejoinder.rules.program import compile_rules
from rejoinder.xds.translate import Placement
from rejoinder.xds.translate.clusters import ext_proc_cluster
from rejoinder.xds.translate.extensions import foreign_filters

T = TypeVar("T")

_LIMIT: Final = {"per_connection_buffer_limit_bytes": 32_768}
"""As in configurations from Rejoinder: less than some of the bodies here."""
_ENDLESS: Final = "/endless"
_LATE: Final = "/late"
_BROKEN: Final = ("/close", "/stall", "/reset")
"""The body breaks off, nothing more of it comes, the connection is reset."""


def _http(status: int, body: bytes = b"", *headers: str) -> bytes:
    """A response of an upstream, with headers that nobody may see behind an answer."""
    lines = [f"HTTP/1.1 {status} Upstream", "etag: theirs", "x-upstream: 1", "set-cookie: theirs=1", *headers]
    if "transfer-encoding: chunked" not in headers and status not in (204, 304):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode() + body


_CHUNKED: Final = ("transfer-encoding: chunked",)
_UPSTREAM: Final = {
    "/200": _http(200, b"fine"),
    "/204": _http(204),
    "/304": _http(304),
    "/503": _http(503, b"theirs"),
    "/503/empty": _http(503),
    "/503/gzip": _http(503, gzip.compress(b"theirs"), "content-encoding: gzip"),
    "/503/chunked": _http(503, b"6\r\ntheirs\r\n0\r\n\r\n", *_CHUNKED),
    "/503/trailers": _http(503, b"6\r\ntheirs\r\n0\r\nx-trailer: 1\r\n\r\n", *_CHUNKED, "trailer: x-trailer"),
    "/503/300k": _http(503, b"t" * 300_000),
    "/503/3m": _http(503, b"t" * 3_000_000),
    _ENDLESS: _http(503, b"", *_CHUNKED),
    _LATE: _http(503, b"theirs"),
    **dict.fromkeys(_BROKEN, _http(503, b"t" * 100)),
    **{f"/{status}": _http(status, b"theirs") for status in range(500, 512)},
}
_LATE_SECONDS: Final = 0.05


class _Upstream:
    """An HTTP/1.1 server, at work as long as the block."""

    def __init__(self) -> None:
        self.connections = self.requests = self.port = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        yield
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                method, target, _ = request.decode().split(" ", 2)
                path = target.partition("?")[0]
                head, mark, body = _UPSTREAM[path].partition(b"\r\n\r\n")
                writer.write(head + mark)
                if path == _LATE:
                    await asyncio.sleep(_LATE_SECONDS)
                if path in _BROKEN:
                    await self._break(path, reader, writer)
                    return
                writer.write(b"" if method == "HEAD" else body)
                await writer.drain()
                while path == _ENDLESS:
                    writer.write(b"4\r\nmore\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.01)
        writer.close()

    async def _break(self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await writer.drain()
        # Not at once: what breaks off before the service has said a word is answered by Envoy, past all filters.
        await (reader.read() if path == "/stall" else asyncio.sleep(_LATE_SECONDS))
        if path == "/reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()


def _answer(status: str, code: int | None, body: bytes = b"", *headers: Header) -> Answer:
    return Answer(code, headers, body, (StatusPattern(status),))


_PAGE: Final[tuple[Header, ...]] = (
    ("content-type", "text/html"),
    ("set-cookie", "a=1"),
    ("set-cookie", "b=2"),
    ("etag", "ours"),
    ("x-empty", ""),
    ("x-envoy-ours", "1"),
)
_BODY: Final = b"<p>ours</p>"
_ERRORS: Final = Rule(
    "errors of all",
    (
        _answer("503", 503, _BODY, *_PAGE),
        _answer("204", 200, b"was empty"),
        _answer("304", 200, b"was empty"),
        _answer("400", 200, b"never said"),
        _answer("404", 404, b"not here"),
        _answer("431", 200, b"never said"),
        _answer("429", 302, b"", ("location", "https://example.com/")),
        _answer("500", 204),
        _answer("501", 304, b"", ("etag", "ours")),
        _answer("502", 200),
        _answer("504", 200, b"n" * 9_000),
        _answer("505", 200, b"n" * 300_000),
        _answer("506", None, b"[]"),
        _answer("507", 299, b"{}"),
    ),
)


def _path(path: str) -> Scope:
    return Scope(request=RequestMatch(PathMatch(PathKind.EXACT, path)))


_MOCK: Final = Rule("mock", (Answer(201, (("x-mock", "1"),), b"{}"),), _path("/mock"))
_PUT: Final = RequestMatch(methods=("PUT",))  # a gate cannot know which route a request takes
_BY_ROUTE: Final = Rule("by-route", (Answer(202, (), b"route"),), Scope(routes=("named",), request=_PUT))
_ASKED: Final = (
    Rule("host", (_answer("508", 200, b"host"),), Scope(domains=("*.example",))),
    Rule("path", (_answer("509", 200, b"path"),), _path("/moved")),
    Rule("method", (_answer("510", 200, b"method"),), Scope(request=RequestMatch(methods=("POST",)))),
    Rule(
        "header",
        (_answer("510", 200, b"header"),),
        Scope(request=RequestMatch(headers=(("x-a", StringMatch(StringKind.PREFIX, "1")),))),
    ),
    Rule(
        "query",
        (_answer("510", 200, b"query"),),
        Scope(request=RequestMatch(query=(("q", StringMatch(StringKind.EXACT, "1")),))),
    ),
    Rule("route", (_answer("510", 200, b"route"),), Scope(routes=("asked",))),
)
"""About what of the request it has to be told with the response."""
_PROGRAM: Final = compile_rules((_MOCK, _BY_ROUTE, *_ASKED, _ERRORS))


def _typed(name: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/envoy.{name}", **fields}


def _listener(name: str, log: Path) -> dict[str, Any]:
    limit = "extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
    always = {"default_value": {"numerator": 100}}
    bucket = {"token_bucket": {"max_tokens": 1, "fill_interval": "3600s"}}
    limited = {"limit": _typed(limit, stat_prefix=name, filter_enabled=always, filter_enforced=always, **bucket)}
    abort = {"http_status": 429, "percentage": {"numerator": 100}}
    aborted = {"fault": _typed("extensions.filters.http.fault.v3.HTTPFault", abort=abort)}
    moved = {"cluster": "up", "regex_rewrite": {"pattern": {"regex": "/moved"}, "substitution": "/509"}}
    own = {"status": 503, "body": {"inline_string": "its own"}}
    routes: list[dict[str, Any]] = [
        {
            "match": {"path": "/limited"},
            "route": {"cluster": "up", "prefix_rewrite": "/200"},
            "typed_per_filter_config": limited,
        },
        {"match": {"path": "/aborted"}, "route": {"cluster": "up"}, "typed_per_filter_config": aborted},
        {"match": {"path": "/dead"}, "route": {"cluster": "dead"}},
        {"match": {"path": "/own"}, "direct_response": own},
        {"match": {"path": "/redirects"}, "redirect": {"path_redirect": "/200", "response_code": "FOUND"}},
        {"match": {"path": "/508"}, "route": {"cluster": "up", "host_rewrite_literal": "hidden.test"}},
        {"match": {"path": "/moved"}, "route": moved},
        {
            "name": "asked",
            "match": {"path": "/510", "headers": [{"name": "x-route", "present_match": True}]},
            "route": {"cluster": "up"},
        },
        {"name": "named", "match": {"path": "/named"}, "route": {"cluster": "up"}},
        {
            "match": {"path": "/nowhere", "headers": [{"name": "never", "present_match": True}]},
            "route": {"cluster": "up"},
        },
        *({"match": {"prefix": path}, "route": {"cluster": "up"}} for path in _UPSTREAM),
    ]
    line = "%REQ(:path)% %RESPONSE_CODE_DETAILS% %DYNAMIC_METADATA(rejoinder:rule)%\n"
    manager = _typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        http_filters=[
            {"name": "fault", "typed_config": _typed("extensions.filters.http.fault.v3.HTTPFault")},
            *foreign_filters(_PROGRAM, Placement.EXT_PROC),
            {"name": "limit", "typed_config": _typed(limit, stat_prefix=name)},
            {"name": "router", "typed_config": _typed("extensions.filters.http.router.v3.Router")},
        ],
        access_log=[
            {
                "name": "file",
                "typed_config": _typed(
                    "extensions.access_loggers.file.v3.FileAccessLog",
                    path=str(log),
                    log_format={"text_format_source": {"inline_string": line}},
                ),
            }
        ],
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    )
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        **_LIMIT,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _cluster(name: str, port: int) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {"name": name, **_LIMIT, "load_assignment": {"cluster_name": name, "endpoints": endpoints}}


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    headers: tuple[Header, ...]
    """Without those that Envoy adds to every response and those that say how long the body is."""
    framing: str
    """`length`, `chunked` or nothing."""
    body: bytes


class _Bench:
    """An Envoy, its upstream, and the service."""

    def __init__(self, runner: asyncio.Runner, log: Path) -> None:
        self._runner = runner
        self.log = log
        self.upstream = _Upstream()
        self.processor = Processor()
        self.service_port = 0
        self.envoy: EnvoyProcess
        self.port = 0

    @contextlib.asynccontextmanager
    async def set_up(self) -> AsyncIterator[None]:
        self.service_port = await self.processor.start("127.0.0.1:0")
        self.processor.publish(_PROGRAM)
        async with self.upstream.serving():
            config = {
                "admin": bootstrap(admin=("127.0.0.1", 0))["admin"],
                "static_resources": {
                    "listeners": [_listener("beside", self.log)],
                    "clusters": [
                        ext_proc_cluster(Endpoint("127.0.0.1", self.service_port)),
                        _cluster("up", self.upstream.port),
                        _cluster("dead", 1),
                    ],
                },
            }
            async with running(find().path, config, concurrency=1, log_level="error") as self.envoy:
                self.port = (await self.envoy.ready(["beside"]))["beside"][0][1]
                yield
                await self.processor.stop()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)

    async def streams(self) -> int:
        """How often Envoy has asked the service so far."""
        return sum((await self.envoy.admin.stats(r"ext_proc\.streams_started$")).values())

    async def get(self, path: str, method: str = "GET", *headers: str, host: str = "a.test") -> _Response:
        """What an HTTP/1.1 client gets, over a connection of its own; it fails if it does not end within 5 s."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        with contextlib.closing(writer):
            lines = (f"{method} {path} HTTP/1.1", f"host: {host}", "connection: close", "content-length: 0", *headers)
            writer.write("\r\n".join((*lines, "", "")).encode())
            async with asyncio.timeout(5):
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        status, *received = head.decode().split("\r\n")
        sent = [(name, value) for name, _, value in (line.partition(": ") for line in received)]
        sent = [(name.rstrip(":"), value) for name, value in sent]
        framing = {"content-length": "length", "transfer-encoding": "chunked"}
        by_envoy = {"date", "server", "connection", *framing}
        kinds = [framing[name] for name, _ in sent if name in framing]
        if kinds == ["chunked"] and method != "HEAD":
            body = _unchunked(body)
        return _Response(
            int(status.split(" ")[1]),
            tuple(header for header in sent if header[0] not in by_envoy),
            " ".join(kinds),
            body,
        )


def _unchunked(data: bytes) -> bytes:
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        if not (length := int(size, 16)):
            assert data == b"\r\n", "trailers"
            return body
        body, data = body + data[:length], data[length + 2 :]


@pytest.fixture(scope="module", name="bench")
def _bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Bench]:
    with asyncio.Runner() as runner:
        bench = _Bench(runner, tmp_path_factory.mktemp("log") / "access.log")
        stack = contextlib.AsyncExitStack()
        runner.run(stack.enter_async_context(bench.set_up()))
        yield bench
        runner.run(stack.aclose())


_TEXT: Final = (("content-type", "text/plain; charset=utf-8"),)
_JSON: Final = (("content-type", "application/json; charset=utf-8"),)
_REDIRECT: Final = (("location", "https://example.com/"),)
_OURS: Final = _Response(503, _PAGE, "length", _BODY)


@pytest.mark.parametrize(
    ("path", "method", "expected"),
    [
        pytest.param("/503", "GET", _OURS, id="body"),
        pytest.param("/503", "HEAD", _Response(503, _PAGE, "length", b""), id="head"),
        pytest.param("/503/empty", "GET", _OURS, id="no-body"),
        pytest.param("/503/gzip", "GET", _OURS, id="gzip"),
        pytest.param("/503/chunked", "GET", _OURS, id="chunked"),
        pytest.param("/503/trailers", "GET", _OURS, id="trailers"),
        pytest.param("/503/300k", "GET", _OURS, id="large"),
        pytest.param("/503/3m", "GET", _OURS, id="very-large"),
        pytest.param(_ENDLESS, "GET", _OURS, id="endless"),
        pytest.param(_LATE, "GET", _OURS, id="late-body"),
        *(pytest.param(path, "GET", _OURS, id=f"h05-{path[1:]}") for path in _BROKEN),
        pytest.param("/204", "GET", _Response(200, _TEXT, "length", b"was empty"), id="204"),
        pytest.param("/304", "GET", _Response(200, _TEXT, "length", b"was empty"), id="304"),
        pytest.param("/500", "GET", _Response(204, (), "", b""), id="to-204"),
        pytest.param("/500", "HEAD", _Response(204, (), "", b""), id="head-to-204"),
        pytest.param("/501", "GET", _Response(304, (("etag", "ours"),), "", b""), id="to-304"),
        pytest.param("/502", "GET", _Response(200, (), "length", b""), id="to-no-body"),
        pytest.param("/504", "GET", _Response(200, _TEXT, "length", b"n" * 9_000), id="to-9000"),
        pytest.param("/505", "GET", _Response(200, _TEXT, "length", b"n" * 300_000), id="to-300k"),
        pytest.param("/506", "GET", _Response(506, _JSON, "length", b"[]"), id="original"),
        pytest.param("/507", "GET", _Response(299, _JSON, "length", b"{}"), id="unheard-of-status"),
        pytest.param("/dead", "GET", _OURS, id="dead-upstream"),
        pytest.param("/nowhere", "GET", _Response(404, _TEXT, "length", b"not here"), id="no-route"),
        pytest.param("/nowhere", "HEAD", _Response(404, _TEXT, "length", b""), id="no-route-head"),
        pytest.param("/aborted", "GET", _Response(302, _REDIRECT, "length", b""), id="429-of-a-filter-in-front"),
    ],
)
def test_client_gets_the_answer_and_nothing_of_the_upstream(
    bench: _Bench, path: str, method: str, expected: _Response
) -> None:
    assert bench.run(bench.get(path, method)) == expected


@pytest.mark.parametrize(
    ("path", "method", "headers", "host", "body"),
    [
        pytest.param("/508", "GET", (), "a.example:80", b"host", id="host, which the route rewrites"),
        pytest.param("/508", "GET", (), "a.test", b"theirs", id="another host"),
        pytest.param("/moved", "GET", (), "a.test", b"path", id="path, which the route rewrites"),
        pytest.param("/509", "GET", (), "a.test", b"theirs", id="another path"),
        pytest.param("/510", "POST", (), "a.test", b"method", id="method"),
        pytest.param("/510", "GET", ("x-a: 12",), "a.test", b"header", id="header"),
        pytest.param("/510", "GET", ("x-a: 2", "x-a: 12"), "a.test", b"header", id="a line of a header"),
        pytest.param("/510", "GET", ("x-a: 2, 12",), "a.test", b"theirs", id="a list in one line"),
        pytest.param("/510", "GET", ("x-a: \xff1",), "a.test", b"theirs", id="header that is no UTF-8"),
        pytest.param("/510?q=1", "GET", (), "a.test", b"query", id="query"),
        pytest.param("/510?q=2", "GET", (), "a.test", b"theirs", id="another query"),
        pytest.param("/510", "GET", ("x-route: 1",), "a.test", b"route", id="route"),
        pytest.param("/510", "GET", (), "a.test", b"theirs", id="nothing"),
    ],
)
def test_rules_are_asked_about_the_request_as_it_came(
    bench: _Bench, path: str, method: str, headers: tuple[str, ...], host: str, body: bytes
) -> None:
    assert bench.run(bench.get(path, method, *headers, host=host)).body == body


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n", b"400", id="an invalid host"),
        pytest.param(b"GET a HTTP/1.1\r\nhost: a.test\r\n\r\n", b"400", id="no path"),
        pytest.param(b"no request\r\n\r\n", b"400", id="no HTTP"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: a.test\r\nx: " + b"x" * 100_000 + b"\r\n\r\n", b"431", id="too large"),
    ],
)
def test_what_envoy_refuses_before_any_filter_is_not_held(bench: _Bench, request_: bytes, status: bytes) -> None:
    async def main() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        with contextlib.closing(writer):
            writer.write(request_)
            async with asyncio.timeout(5):
                line = await reader.readline()
        assert line.split(b" ")[1] == status

    bench.run(main())


def test_what_a_route_answers_by_itself_is_final(bench: _Bench) -> None:
    own = bench.run(bench.get("/own"))
    assert (own.status, own.body) == (503, b"its own")
    assert bench.run(bench.get("/redirects")).status == 302


def test_rate_limited_request_gets_the_answer_for_429(bench: _Bench) -> None:
    async def main() -> None:
        assert (await bench.get("/limited")).body == b"fine"
        assert await bench.get("/limited") == _Response(302, _REDIRECT, "length", b"")
        assert (await bench.get("/limited", "HEAD")).status == 302

    bench.run(main())


def test_response_that_no_answer_is_for_passes_untouched(bench: _Bench) -> None:
    response = bench.run(bench.get("/200"))
    assert (response.status, response.body) == (200, b"fine")
    assert {"etag", "x-upstream", "set-cookie"} < dict(response.headers).keys()


def test_http2_client_gets_the_same(bench: _Bench) -> None:
    async def main() -> None:
        async with httpx.AsyncClient(http1=False, http2=True) as client:
            for path in ("/503", "/503/empty", "/503/trailers", "/503/300k", "/reset"):
                response = await client.get(f"http://127.0.0.1:{bench.port}{path}")
                assert response.http_version == "HTTP/2"
                assert (response.status_code, response.content) == (503, _BODY)
                sent = [header for header in response.headers.multi_items() if header[0] not in ("date", "server")]
                assert [header for header in sent if header[0] != "content-length"] == list(_PAGE)

    bench.run(main())


@pytest.mark.parametrize("path", ["/503", "/503/empty"])
def test_upstream_connection_outlives_answers(bench: _Bench, path: str) -> None:
    async def main() -> None:
        await bench.get(path)
        before = bench.upstream.connections
        for _ in range(5):
            await bench.get(path)
        assert bench.upstream.connections == before

    bench.run(main())


def test_only_what_a_rule_may_be_about_costs_a_stream(bench: _Bench) -> None:
    async def main() -> None:
        for path, streams in {"/200": 0, "/511": 0, "/503": 1, "/mock": 1, "/nowhere": 1}.items():
            before = await bench.streams()
            await bench.get(path)
            assert await bench.streams() - before == streams, path

    bench.run(main())


def test_unconditional_answers_spare_the_upstream(bench: _Bench) -> None:
    async def main() -> None:
        before = bench.upstream.requests
        mock = await bench.get("/mock?x=1")
        assert mock == _Response(201, (*_JSON, ("x-mock", "1")), "length", b"{}")
        assert await bench.get("/named", "PUT") == _Response(202, _TEXT, "length", b"route")
        assert bench.upstream.requests == before

    bench.run(main())


def test_access_log_names_the_rule(bench: _Bench) -> None:
    async def main() -> None:
        await bench.get("/503?log")
        async with asyncio.timeout(15):
            while not (lines := [line for line in bench.log.read_text().splitlines() if "?log" in line]):
                await bench.envoy.admin.post("/reopen_logs")
                await asyncio.sleep(0.05)
        assert lines == ["/503?log rejoinder:errors_of_all errors of all"]

    bench.run(main())


async def _until_answered(bench: _Bench) -> None:
    async with asyncio.timeout(10):
        while await bench.get("/503") != _OURS:
            await asyncio.sleep(0.05)


def test_responses_pass_while_the_service_is_dead_and_are_answered_when_it_is_back(bench: _Bench) -> None:
    async def main() -> None:
        await bench.processor.stop()
        for _ in range(5):
            assert (await bench.get("/503")).body == b"theirs"
        await bench.processor.start(f"127.0.0.1:{bench.service_port}")
        await _until_answered(bench)

    bench.run(main())


def test_responses_pass_while_the_service_hangs(bench: _Bench) -> None:
    async def main() -> None:
        hung: list[asyncio.StreamWriter] = []
        await bench.processor.stop()
        server = await asyncio.start_server(lambda _, writer: hung.append(writer), "127.0.0.1", bench.service_port)
        assert (await bench.get("/503")).body == b"theirs"
        assert hung
        server.close()
        for writer in hung:
            writer.close()
        await bench.processor.start(f"127.0.0.1:{bench.service_port}")
        await _until_answered(bench)

    bench.run(main())
