"""The ext_proc service behind a real Envoy: what clients get, and what upstreams are spared.

Each case goes through both kinds of Envoy, with the filter configurations of docs/ext_proc.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import pytest
import yaml

from rejoinder.envoy import EnvoyProcess, bootstrap, find, running
from rejoinder.extproc import Processor
from rejoinder.rules.answers import TABLE_KEY, answer_table
from rejoinder.rules.model import Answer, Header, PathKind, PathMatch, RequestMatch, Rule, Ruleset, Scope, StatusPattern

T = TypeVar("T")

_LIMIT: Final = {"per_connection_buffer_limit_bytes": 32_768}
"""As in configurations from Rejoinder: less than some of the bodies here."""
_DOCS: Final = Path(__file__).parent.parent / "docs" / "ext_proc.md"
_ENDLESS: Final = "/endless"
_LATE: Final = "/late"


def _documented(title: str) -> dict[str, Any]:
    found = re.search(rf"```yaml\n# {title}\n(.*?)```", _DOCS.read_text(), re.DOTALL)
    assert found is not None, f"no block {title} in the docs"
    config: dict[str, Any] = yaml.safe_load(found[1])
    return config


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
                writer.write(b"" if method == "HEAD" else body)
                await writer.drain()
                while path == _ENDLESS:
                    writer.write(b"4\r\nmore\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.01)
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
        _answer("404", 404, b"not here"),
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
_MOCK: Final = Rule(
    "mock", (Answer(201, (("x-mock", "1"),), b"{}"),), Scope(request=RequestMatch(PathMatch(PathKind.EXACT, "/mock")))
)
_BY_ROUTE: Final = Rule("by-route", (Answer(202, (), b"route"),), Scope(routes=("named",)))
_ELSEWHERE: Final = Scope(domains=("elsewhere.example",))
_RULESET: Final = Ruleset(rules=(_MOCK, _BY_ROUTE, Rule("none", (_answer("599", 200),), _ELSEWHERE), _ERRORS))
_TABLE: Final = answer_table((_ERRORS,))


def _typed(name: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/envoy.{name}", **fields}


def _listener(name: str, per_route: dict[str, Any], filter_: dict[str, Any], log: Path) -> dict[str, Any]:
    limit = "extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
    always = {"default_value": {"numerator": 100}}
    bucket = {"token_bucket": {"max_tokens": 1, "fill_interval": "3600s"}}
    limited = {"limit": _typed(limit, stat_prefix=name, filter_enabled=always, filter_enforced=always, **bucket)}
    not_found = {"status": 404}
    routes: list[dict[str, Any]] = [
        {"match": {"path": "/limited"}, "route": {"cluster": "up", "prefix_rewrite": "/200"}},
        {"match": {"path": "/dead"}, "route": {"cluster": "dead"}},
        {"match": {"path": "/not-found"}, "direct_response": not_found},
        {"match": {"path": "/not-found/body"}, "direct_response": {**not_found, "body": {"inline_string": "theirs"}}},
        {"name": "named", "match": {"path": "/named"}, "route": {"cluster": "up"}},
        {"match": {"prefix": "/"}, "route": {"cluster": "up"}},
    ]
    for route in routes:
        route["typed_per_filter_config"] = per_route | (limited if route["match"].get("path") == "/limited" else {})
    off = {"match": {"prefix": "/off/"}, "route": {"cluster": "up", "prefix_rewrite": "/"}}
    line = "%REQ(:path)% %RESPONSE_CODE_DETAILS% %DYNAMIC_METADATA(rejoinder:rule)%\n"
    manager = _typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        http_filters=[
            filter_,
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
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [off, *routes]}]},
    )
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        **_LIMIT,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _cluster(name: str, port: int) -> dict[str, Any]:
    config = _documented("cluster")
    del config["typed_extension_protocol_options"]
    return {**config, **_LIMIT, "name": name, "load_assignment": _endpoint(name, port)}


def _endpoint(name: str, port: int) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    headers: tuple[Header, ...]
    """Without those that Envoy adds to every response and those that say how long the body is."""
    framing: str
    """`length`, `chunked` or nothing."""
    body: bytes


class _Bench:
    """An Envoy of both kinds, its upstream, and the service."""

    def __init__(self, runner: asyncio.Runner, log: Path) -> None:
        self._runner = runner
        self.log = log
        self.upstream = _Upstream()
        self.processor = Processor()
        self.service_port = 0
        self.envoy: EnvoyProcess
        self.ports: dict[str, int] = {}

    @contextlib.asynccontextmanager
    async def set_up(self) -> AsyncIterator[None]:
        self.service_port = await self.processor.start("127.0.0.1:0")
        self.processor.publish(_RULESET, [_TABLE])
        table = _documented("route: typed_per_filter_config")
        table["rejoinder"]["overrides"]["grpc_initial_metadata"] = [{"key": TABLE_KEY, "value": _TABLE.name}]
        service = _documented("cluster")
        service["load_assignment"] = _endpoint(service["name"], self.service_port)
        async with self.upstream.serving():
            config = {
                "admin": bootstrap(admin=("127.0.0.1", 0))["admin"],
                "static_resources": {
                    "listeners": [
                        _listener("managed", table, _documented("managed"), self.log),
                        _listener("beside", {}, _documented("filter"), self.log),
                    ],
                    "clusters": [service, _cluster("up", self.upstream.port), _cluster("dead", 1)],
                },
            }
            async with running(find().path, config, concurrency=1, log_level="error") as self.envoy:
                bound = await self.envoy.ready(["managed", "beside"])
                self.ports = {name: addresses[0][1] for name, addresses in bound.items()}
                yield
                await self.processor.stop()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)

    async def streams(self) -> int:
        """How often Envoy has asked the service so far."""
        return sum((await self.envoy.admin.stats(r"ext_proc\.streams_started$")).values())

    async def get(self, kind: str, path: str, method: str = "GET") -> _Response:
        """What an HTTP/1.1 client gets, over a connection of its own; it fails if it does not end within 5 s."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[kind])
        with contextlib.closing(writer):
            writer.write(f"{method} {path} HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n".encode())
            async with asyncio.timeout(5):
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines[1:])]
        headers = [(name.rstrip(":"), value) for name, value in headers]
        framing = {"content-length": "length", "transfer-encoding": "chunked"}
        by_envoy = {"date", "server", "connection", *framing}
        kinds = [framing[name] for name, _ in headers if name in framing]
        if kinds == ["chunked"] and method != "HEAD":
            body = _unchunked(body)
        return _Response(
            int(lines[0].split(" ")[1]),
            tuple(header for header in headers if header[0] not in by_envoy),
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


@pytest.fixture(name="kind", params=["managed", "beside"])
def _kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


_TEXT: Final = (("content-type", "text/plain; charset=utf-8"),)
_JSON: Final = (("content-type", "application/json; charset=utf-8"),)
_REDIRECT: Final = (("location", "https://example.com/"),)
_REPLACED: Final = _Response(503, _PAGE, "chunked", _BODY)
_IMMEDIATE: Final = _Response(503, _PAGE, "length", _BODY)


@pytest.mark.parametrize(
    ("path", "method", "expected"),
    [
        pytest.param("/503", "GET", _REPLACED, id="body"),
        pytest.param("/503", "HEAD", _Response(503, _PAGE, "length", b""), id="head"),
        pytest.param("/503/empty", "GET", _IMMEDIATE, id="no-body"),
        pytest.param("/503/gzip", "GET", _REPLACED, id="gzip"),
        pytest.param("/503/chunked", "GET", _IMMEDIATE, id="chunked"),
        pytest.param("/503/trailers", "GET", _IMMEDIATE, id="trailers"),
        pytest.param("/503/300k", "GET", _REPLACED, id="large"),
        pytest.param("/503/3m", "GET", _IMMEDIATE, id="very-large"),
        pytest.param(_ENDLESS, "GET", _IMMEDIATE, id="endless"),
        pytest.param(_LATE, "GET", _REPLACED, id="late-body"),
        pytest.param("/204", "GET", _Response(200, _TEXT, "length", b"was empty"), id="204"),
        pytest.param("/304", "GET", _Response(200, _TEXT, "length", b"was empty"), id="304"),
        pytest.param("/500", "GET", _Response(204, (), "", b""), id="to-204"),
        pytest.param("/500", "HEAD", _Response(204, (), "", b""), id="head-to-204"),
        pytest.param("/501", "GET", _Response(304, (("etag", "ours"),), "", b""), id="to-304"),
        pytest.param("/502", "GET", _Response(200, (), "chunked", b""), id="to-no-body"),
        pytest.param("/504", "GET", _Response(200, _TEXT, "chunked", b"n" * 9_000), id="to-9000"),
        pytest.param("/505", "GET", _Response(200, _TEXT, "chunked", b"n" * 300_000), id="to-300k"),
        pytest.param("/506", "GET", _Response(506, _JSON, "chunked", b"[]"), id="original"),
        pytest.param("/507", "GET", _Response(299, _JSON, "chunked", b"{}"), id="unheard-of-status"),
        pytest.param("/dead", "GET", _REPLACED, id="dead-upstream"),
        pytest.param("/not-found", "GET", _Response(404, _TEXT, "length", b"not here"), id="envoys-404"),
        pytest.param("/not-found/body", "GET", _Response(404, _TEXT, "chunked", b"not here"), id="envoys-404-body"),
        pytest.param("/not-found/body", "HEAD", _Response(404, _TEXT, "length", b""), id="envoys-404-head"),
    ],
)
def test_client_gets_the_answer_and_nothing_of_the_upstream(
    bench: _Bench, kind: str, path: str, method: str, expected: _Response
) -> None:
    assert bench.run(bench.get(kind, path, method)) == expected


def test_rate_limited_request_gets_the_answer_for_429(bench: _Bench, kind: str) -> None:
    async def main() -> None:
        assert (await bench.get(kind, "/limited")).body == b"fine"
        assert await bench.get(kind, "/limited") == _Response(302, _REDIRECT, "chunked", b"")
        assert (await bench.get(kind, "/limited", "HEAD")).status == 302

    bench.run(main())


def test_response_that_no_answer_is_for_passes_untouched(bench: _Bench, kind: str) -> None:
    response = bench.run(bench.get(kind, "/200"))
    assert (response.status, response.body) == (200, b"fine")
    assert {"etag", "x-upstream", "set-cookie"} < dict(response.headers).keys()


def test_http2_client_gets_the_same(bench: _Bench, kind: str) -> None:
    async def main() -> None:
        async with httpx.AsyncClient(http1=False, http2=True) as client:
            for path in ("/503", "/503/empty", "/503/trailers", "/503/300k"):
                response = await client.get(f"http://127.0.0.1:{bench.ports[kind]}{path}")
                assert response.http_version == "HTTP/2"
                assert (response.status_code, response.content) == (503, _BODY)
                sent = [header for header in response.headers.multi_items() if header[0] not in ("date", "server")]
                assert [header for header in sent if header[0] != "content-length"] == list(_PAGE)

    bench.run(main())


@pytest.mark.parametrize("path", ["/503", "/503/empty", "/503/300k", _LATE])
def test_upstream_connection_outlives_answers(bench: _Bench, kind: str, path: str) -> None:
    async def main() -> None:
        await bench.get(kind, path)
        before = bench.upstream.connections
        for _ in range(5):
            await bench.get(kind, path)
        assert bench.upstream.connections == before

    bench.run(main())


def test_only_statuses_in_the_gate_cost_a_stream(bench: _Bench) -> None:
    async def main() -> None:
        for path, streams in {"/200": 0, "/511": 1, "/503": 1, "/off/503": 0, "/not-found": 1}.items():
            before = await bench.streams()
            await bench.get("managed", path)
            assert await bench.streams() - before == streams, path

    bench.run(main())


def test_unconditional_answers_beside_a_foreign_envoy_spare_the_upstream(bench: _Bench) -> None:
    async def main() -> None:
        before = bench.upstream.requests
        mock = await bench.get("beside", "/mock?x=1")
        assert mock == _Response(201, (*_JSON, ("x-mock", "1")), "length", b"{}")
        assert await bench.get("beside", "/named") == _Response(202, _TEXT, "length", b"route")
        assert bench.upstream.requests == before

    bench.run(main())


def test_access_log_names_the_rule(bench: _Bench) -> None:
    async def main() -> None:
        await bench.get("managed", "/503?log")
        await bench.get("managed", "/503/empty?log")
        async with asyncio.timeout(15):
            while len(lines := [line for line in bench.log.read_text().splitlines() if "?log" in line]) < 2:
                await bench.envoy.admin.post("/reopen_logs")
                await asyncio.sleep(0.05)
        assert lines == [
            "/503?log via_upstream errors of all",
            "/503/empty?log rejoinder:errors_of_all errors of all",
        ]

    bench.run(main())


async def _until_answered(bench: _Bench, kind: str) -> None:
    async with asyncio.timeout(10):
        while await bench.get(kind, "/503") != _REPLACED:
            await asyncio.sleep(0.05)


def test_responses_pass_while_the_service_is_dead_and_are_answered_when_it_is_back(bench: _Bench, kind: str) -> None:
    async def main() -> None:
        await bench.processor.stop()
        for _ in range(5):
            assert (await bench.get(kind, "/503")).body == b"theirs"
        await bench.processor.start(f"127.0.0.1:{bench.service_port}")
        await _until_answered(bench, kind)

    bench.run(main())


def test_responses_pass_while_the_service_hangs(bench: _Bench, kind: str) -> None:
    async def main() -> None:
        hung: list[asyncio.StreamWriter] = []
        await bench.processor.stop()
        server = await asyncio.start_server(lambda _, writer: hung.append(writer), "127.0.0.1", bench.service_port)
        started = asyncio.get_running_loop().time()
        assert (await bench.get(kind, "/503")).body == b"theirs"
        assert asyncio.get_running_loop().time() - started < 4
        assert hung
        server.close()
        for writer in hung:
            writer.close()
        await bench.processor.start(f"127.0.0.1:{bench.service_port}")
        await _until_answered(bench, kind)

    bench.run(main())
