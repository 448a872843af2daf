"""An Envoy with our ext_proc filter, its upstream and the service, for the tests of them."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import struct
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from gateway import free_port
from machine import SECONDS

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

    def __init__(self, processor: Processor) -> None:
        self.connections = self.requests = self.port = 0
        self._processor = processor

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
                answered = self._answered()
                writer.write(head + mark)
                if path == _LATE:
                    await asyncio.sleep(_LATE_SECONDS)
                if path in _BROKEN:
                    await self._break(path, reader, writer, answered)
                    return
                writer.write(b"" if method == "HEAD" else body)
                await writer.drain()
                while path == _ENDLESS:
                    writer.write(b"4\r\nmore\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.01)
        writer.close()

    def _answered(self) -> int:
        """How often the service has."""
        return sum(self._processor.counters().counts.total().values())

    async def _break(
        self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answered: int
    ) -> None:
        writer.write(b"hello")
        await writer.drain()
        # Not at once: what breaks off before the service has said a word is answered by Envoy, past all filters.
        while self._answered() == answered:
            await asyncio.sleep(0.001)
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
        self.processor = Processor()
        self.upstream = _Upstream(self.processor)
        self.service_port = 0
        self.envoy: EnvoyProcess
        self.port = 0

    @contextlib.asynccontextmanager
    async def set_up(self) -> AsyncIterator[None]:
        self.service_port = await self.processor.start(f"127.0.0.1:{free_port()}")  # it is stopped and started
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
        """What an HTTP/1.1 client gets, over a connection of its own; it fails if it does not end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        with contextlib.closing(writer):
            lines = (f"{method} {path} HTTP/1.1", f"host: {host}", "connection: close", "content-length: 0", *headers)
            writer.write("\r\n".join((*lines, "", "")).encode())
            async with asyncio.timeout(SECONDS):
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
