"""The dynamic module in an Envoy with a configuration of its own, and without Python but where a rule needs it.

REJOINDER_TEST_ENVOYS names more Envoys (binaries, separated by `:`) that all of this is tried with.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import hashlib
import http.server
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import handmade as h
import httpx
import pytest
from gateway import HANDLERS, Response, Upstream, accepting, ask

from rejoinder import envoy
from rejoinder.envoy.module import library
from rejoinder.xds.translate.settings import Json, typed

Address = tuple[str, int]

ENVOYS = [
    envoy.find().path,
    *(Path(path) for path in filter(None, os.environ.get("REJOINDER_TEST_ENVOYS", "").split(":"))),
]

JSON = [("content-type", "application/json")]
BODY = b'{"error":"api"}'


@pytest.fixture(scope="module", params=ENVOYS, ids=envoy.version)
def binary(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def module(program: bytes | None, form: str = "bytes", name: str = "rejoinder", **source: Any) -> Json:
    """The filter, as docs/module.md has it."""
    encoded = base64.b64encode(program or b"").decode()
    told = {
        "bytes": typed("google.protobuf.BytesValue", value=encoded),
        "text": typed("google.protobuf.StringValue", value=json.dumps({"program": encoded}, indent=1)),
        "struct": typed("google.protobuf.Struct", value={"program": encoded}),
    }
    made = typed(
        "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
        dynamic_module_config={**(source or {"name": "rejoinder"}), "metrics_namespace": "rejoinder"},
        filter_name=name,
        filter_config=told[form],
    )
    return {"name": name, "typed_config": made}


def config(filters: Sequence[Json], routes: Sequence[Json], clusters: dict[str, int], http2: bool = False) -> Json:
    """A static configuration."""
    router = {"name": "router", "typed_config": typed("envoy.extensions.filters.http.router.v3.Router")}
    manager = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="static",
        http_filters=[*filters, router],
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": list(routes)}]},
    )
    protocol = typed(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        explicit_http_config={"http2_protocol_options": {}} if http2 else {"http_protocol_options": {}},
    )

    def address(port: int) -> Json:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    return {
        "admin": envoy.bootstrap(admin=("127.0.0.1", 0))["admin"],
        "static_resources": {
            "listeners": [
                {
                    "name": "static",
                    "address": address(0),
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [
                {
                    "name": name,
                    "load_assignment": {
                        "cluster_name": name,
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}],
                    },
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol
                    },
                }
                for name, port in clusters.items()
            ],
        },
    }


CORE_ONLY = {"ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(library.LIBRARY.parent)}
"""All of Envoy's environment: no PATH, and nothing of Python."""


@contextlib.contextmanager
def started(binary: Path, made: Json, environ: dict[str, str] | None = None) -> Iterator[Address]:
    """Run an Envoy, and tell where it listens."""
    with contextlib.ExitStack() as stack:
        loop = asyncio.new_event_loop()
        stack.callback(loop.close)
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(lambda: loop.call_soon_threadsafe(loop.stop))
        process = envoy.running(binary, made, concurrency=2, environ=CORE_ONLY if environ is None else environ)

        def run(work: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(work, loop).result(30)

        running = run(process.__aenter__())
        stack.callback(lambda: run(process.__aexit__(None, None, None)))
        (bound,) = run(running.ready(["static"]))["static"]
        yield bound


def rejected(binary: Path, made: Json, tmp_path: Path, environ: dict[str, str] | None = None) -> str:
    """What an Envoy says that does not take a configuration."""
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps(made))
    command = [str(binary), "--mode", "validate", "-c", str(file), "--log-level", "error"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=CORE_ONLY if environ is None else environ
    )
    assert done.returncode > 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    running = Upstream()
    yield running
    running.close()


FORWARD: Json = {"match": {"prefix": "/"}, "route": {"cluster": "up"}}

ROUTES: list[Json] = [
    {"name": "special", "match": {"prefix": "/special"}, "route": {"cluster": "up"}},
    {"match": {"path": "/direct"}, "direct_response": {"status": 503, "body": {"inline_string": "direct"}}},
    {"match": {"path": "/redirect"}, "redirect": {"path_redirect": "/x", "response_code": "FOUND"}},
    {"match": {"path": "/dead"}, "route": {"cluster": "dead"}},
    {"match": {"prefix": "/old"}, "route": {"cluster": "up", "prefix_rewrite": "/new", "host_rewrite_literal": "new"}},
    {"match": {"prefix": "/only"}, "route": {"cluster": "up"}},
    FORWARD,
]

PROGRAM = h.program(
    h.rule("mock it", [h.reply(status=200, headers=JSON, body=b"hello")], flags=h.UNCONDITIONAL, path=(2, "/mock")),
    h.rule("at once there", [h.reply(status=418)], flags=h.UNCONDITIONAL, path=(2, "/special/now"), routes=["special"]),
    h.rule("old", [h.reply([(503, 503)], body=b"old")], domains=["old.test"], path=(h.PREFIX, "/old")),
    h.rule("special", [h.reply([(503, 503)], body=b"special")], routes=["special"]),
    h.rule("twice", [h.reply([(503, 503)], body=b"twice")], headers=[h.test("x-t", 0, "2")]),
    h.rule("all", [h.reply([(302, 302), (429, 429), (500, 599)], 0, headers=JSON, body=BODY)]),
)


@pytest.fixture(scope="module", params=["bytes", "text", "struct"])
def static(binary: Path, upstream: Upstream, request: pytest.FixtureRequest) -> Iterator[Address]:
    fault = typed(
        "envoy.extensions.filters.http.fault.v3.HTTPFault",
        abort={"http_status": 429, "percentage": {"numerator": 100}},
        headers=[{"name": "x-abort", "present_match": True}],
    )
    filters = [{"name": "fault", "typed_config": fault}, module(PROGRAM, request.param)]
    clusters = {"up": upstream.address[1], "dead": 1}
    with started(binary, config(filters, ROUTES, clusters)) as bound:
        yield bound


@pytest.mark.parametrize(
    ("host", "path", "headers", "status", "body"),
    [
        pytest.param("a", "/ok", {}, 200, Upstream.BODY, id="not named"),
        pytest.param("a", "/x", {"x-status": "503"}, 503, BODY, id="named"),
        pytest.param("a", "/mock/x", {"x-status": "503"}, 200, b"hello", id="at once"),
        pytest.param("a", "/special/now", {}, 418, b"", id="at once, by the route"),
        pytest.param("a", "/special", {"x-status": "503"}, 503, b"special", id="by the route"),
        pytest.param("OLD.test:80", "/old/x", {"x-status": "503"}, 503, b"old", id="before the route rewrites it"),
        pytest.param("a", "/direct", {}, 503, b"direct", id="the route answers"),
        pytest.param("a", "/redirect", {}, 302, b"", id="the route redirects"),
        pytest.param("a", "/dead", {}, 503, BODY, id="the upstream is dead"),
        pytest.param("a", "/x", {"x-abort": "1"}, 429, BODY, id="a filter in front answers"),
        pytest.param("a", "/x", {"x-status": "503", "x-t": "2"}, 503, b"twice", id="a header"),
    ],
)
def test_a_stock_envoy_answers_without_python(
    static: Address, host: str, path: str, headers: dict[str, str], status: int, body: bytes
) -> None:
    for _ in range(3):
        answer = ask(static, "GET", host, path, list(headers.items()))
        assert (answer.status, answer.body) == (status, body)


def test_parts_may_come_in_any_order(binary: Path, upstream: Upstream) -> None:
    identity, part = h.part(h.rule("part", [h.reply([(503, 503)], body=b"part")]))
    whole = h.program(parts=[identity])
    for filters in ([module(part, name="part"), module(whole)], [module(whole), module(part, name="part")]):
        with started(binary, config(filters, [FORWARD], {"up": upstream.address[1]})) as bound:
            assert ask(bound, "GET", "a", "/", [("x-status", "503")]).body == b"part"


def test_a_route_may_switch_the_filter_on_and_tell_it_nothing(binary: Path, upstream: Upstream) -> None:
    """As Envoy Gateway does it."""
    nothing = typed(
        "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilterPerRoute",
        dynamic_module_config={"name": "rejoinder"},
        per_route_config_name="rejoinder",
    )
    enabled = typed("envoy.config.route.v3.FilterConfig", config=nothing)
    only: Json = {**ROUTES[-2], "typed_per_filter_config": {"rejoinder": enabled}}
    disabled = {**module(PROGRAM), "disabled": True}
    with started(binary, config([disabled], [only, FORWARD], {"up": upstream.address[1]})) as bound:
        assert ask(bound, "GET", "a", "/only", [("x-status", "503")]).body == BODY
        assert ask(bound, "GET", "a", "/", [("x-status", "503")]).body == Upstream.BODY


@pytest.mark.parametrize(
    ("made", "message"),
    [
        pytest.param(module(b""), "byte 0: expected a program or a part of one", id="nothing"),
        pytest.param(module(PROGRAM[:-1]), "expected a record of that length", id="cut off"),
        pytest.param(module(PROGRAM[:-1], "struct"), "expected a record of that length", id="cut off, in JSON"),
    ],
)
def test_what_is_no_program_is_rejected(binary: Path, made: Json, message: str, tmp_path: Path) -> None:
    assert message in rejected(binary, config([made], [], {}), tmp_path)


@pytest.mark.parametrize(
    "told",
    [
        '{"program": 1}',
        '{"program": "UkpOR*"}',
        '{"program": "UkpORF="}',
        '{"program": ""} {}',
        '{"other": "x"}',
        "{",
        " ",
    ],
)
def test_json_of_another_form_is_rejected(binary: Path, told: str, tmp_path: Path) -> None:
    made = module(None)
    made["typed_config"]["filter_config"] = typed("google.protobuf.StringValue", value=told)
    assert "expected" in rejected(binary, config([made], [], {}), tmp_path)


def test_a_route_may_tell_the_module_nothing_else(binary: Path, tmp_path: Path) -> None:
    part = typed(
        "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilterPerRoute",
        dynamic_module_config={"name": "rejoinder"},
        per_route_config_name="rejoinder",
        filter_config=typed("google.protobuf.StringValue", value="something"),
    )
    routes = [{**FORWARD, "typed_per_filter_config": {"rejoinder": part}}]
    assert "expected an empty one" in rejected(binary, config([module(PROGRAM)], routes, {"up": 1}), tmp_path)


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


# --- what needs Python ---

WITH_REGEX = h.program(
    h.rule("path", [h.reply([(503, 503)], body=b"path")], path=(h.REGEX, "/(a|ü)+")),
    h.rule("header", [h.reply([(503, 503)], body=b"header")], headers=[h.test("x-h", 4, "v.*")]),
    h.rule("query", [h.reply([(503, 503)], body=b"query")], query=[h.test("q", 4, "[0-9]+")]),
)
WITH_HANDLER = h.program(h.rule("problem", [h.reply([(503, 503)], handler="problem:page")]))


def test_regular_expressions_are_asked_of_python(binary: Path, upstream: Upstream) -> None:
    made = config([module(WITH_REGEX)], [FORWARD], {"up": upstream.address[1]})
    with started(binary, made, library.environment(environ={})) as bound:

        def body(path: str, *headers: tuple[str, str]) -> bytes:
            return ask(bound, "GET", "a", path, [("x-status", "503"), *headers]).body

        assert [body("/aa"), body("/b"), body("/aab")] == [b"path", Upstream.BODY, Upstream.BODY]
        assert [body("/", ("x-h", "no"), ("x-h", "value")), body("/", ("x-h", "no"))] == [b"header", Upstream.BODY]
        assert [body("/?q=12"), body("/?q=12a"), body("/?q=a&q=1")] == [b"query", Upstream.BODY, Upstream.BODY]


def test_a_handler_answers(binary: Path, upstream: Upstream) -> None:
    made = config([module(WITH_HANDLER)], [{"name": "r", **ROUTES[4]}, FORWARD], {"up": upstream.address[1]})
    with started(binary, made, library.environment(handlers=[HANDLERS], environ={})) as bound:
        answer = ask(bound, "GET", "a.test", "/old/x", [("x-status", "503")])
        assert answer.values("content-type") == ["application/problem+json"]
        assert json.loads(answer.body)["instance"] == "/old/x"


@pytest.mark.parametrize(
    ("program", "environ", "message"),
    [
        pytest.param(
            WITH_HANDLER, {"PYTHONHOME": "/nowhere"}, "needs Python in Envoy: Python does not start", id="home"
        ),
        pytest.param(WITH_REGEX, {}, "this program has a regular expression, which needs Python in Envoy", id="regex"),
        pytest.param(WITH_HANDLER, {"PYTHONHOME": "*"}, "Rejoinder is not found in Envoy's Python", id="path"),
        pytest.param(WITH_HANDLER, {"PYTHONHOME": "*", "PYTHONPATH": "*"}, "No module named 'problem'", id="handler"),
        pytest.param(
            h.program(h.rule("r", [h.reply([(503, 503)])], path=(h.REGEX, "("))),
            {"PYTHONHOME": "*", "PYTHONPATH": "*"},
            "missing )",
            id="bad regex",
        ),
    ],
)
def test_a_program_that_needs_what_is_not_there_is_rejected(
    binary: Path, program: bytes, environ: dict[str, str], message: str, tmp_path: Path
) -> None:
    there = library.environment(environ={})
    variables = {name: there[name] if value == "*" else value for name, value in environ.items()}
    assert message in rejected(binary, config([module(program)], [], {}), tmp_path, {**CORE_ONLY, **variables})


def test_without_the_other_library_the_core_says_so(binary: Path, tmp_path: Path) -> None:
    shutil.copy(library.LIBRARY, tmp_path)
    variables = {"ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(tmp_path)}
    said = rejected(binary, config([module(WITH_REGEX)], [], {}), tmp_path, variables)
    assert "which needs Python in Envoy" in said
    assert library.PYTHON in said
    assert "the ext_proc service needs nothing in Envoy" in said


def test_envoy_fetches_the_module_itself(binary: Path, upstream: Upstream, tmp_path: Path) -> None:
    """`remote`: a URL and a sha256, from Envoy 1.38 on."""
    shutil.copy(library.LIBRARY, tmp_path)

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        port = int(server.server_address[1])
        remote = {
            "http_uri": {"uri": f"http://127.0.0.1:{port}/librejoinder.so", "cluster": "files", "timeout": "5s"},
            "sha256": hashlib.sha256(library.LIBRARY.read_bytes()).hexdigest(),
        }
        clusters = {"up": upstream.address[1], "files": port}
        made = config([module(PROGRAM, module={"remote": remote})], [FORWARD], clusters)
        with started(binary, made, {}) as bound:
            assert ask(bound, "GET", "a", "/", [("x-status", "503")]).body == BODY
        server.shutdown()


# --- broken responses ---

HEAD = b"HTTP/1.1 503 Down\r\ncontent-type: text/html\r\n"

PART = HEAD + b"content-length: 100\r\n\r\nhello"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"

BROKEN: dict[str, tuple[tuple[bytes, float], ...]] = {
    "close": ((PART, 0),),
    "stall": ((PART, 3),),
    "reset": ((PART, 0.5),),
    "close-soon": ((PART, 0.03),),
    "chunk-close": ((CHUNKED + b"5\r\nhello\r\n", 0),),
    "chunks-endless": ((CHUNKED, 0), *((b"5\r\nhello\r\n", 0.02),) * 30),
    "headers-close": ((HEAD + b"content-length: 100\r\n\r\n", 0),),
    "no-chunk": ((CHUNKED + b"no\r\n", 0),),
}
"""What an upstream writes by path, with seconds behind each, until it closes the connection or resets it."""

AT_THE_SAME_TIME = ("headers-close", "chunk-close", "no-chunk")
"""Where the module is told of headers, then of the end, and of nothing between: from HTTP/2 on, Envoy cannot be kept
from a text of its own then (docs/module.md)."""


def breaking() -> AbstractContextManager[int]:
    """An upstream that breaks its responses off, by path."""

    def serve(peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            path = peer.recv(65536).split(b" ")[1].decode().strip("/")
            for data, seconds in BROKEN[path]:
                peer.sendall(data)
                time.sleep(seconds)
            if path == "reset":
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return accepting(serve)


def breaking_http2(at_once: bool) -> AbstractContextManager[int]:
    """The same over HTTP/2: headers, some of the body, and a reset, at once or soon; or nothing more (`/stall`)."""

    def serve(peer: socket.socket) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        with peer, contextlib.suppress(OSError):
            peer.sendall(connection.data_to_send())
            while data := peer.recv(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        answer(peer, connection, event)
                peer.sendall(connection.data_to_send())

    def answer(peer: socket.socket, connection: Any, event: Any) -> None:
        connection.send_headers(event.stream_id, [(":status", "503"), ("content-length", "100")])
        connection.send_data(event.stream_id, b"hello")
        if dict(event.headers)[b":path"] == b"/stall":
            return
        if not at_once:
            peer.sendall(connection.data_to_send())
            time.sleep(0.03)
        connection.reset_stream(event.stream_id, 2)

    return accepting(serve)


def fetched(bound: Address, path: str, http2: bool) -> tuple[int, bytes, float]:
    start = time.monotonic()
    with httpx.Client(http1=not http2, http2=http2, timeout=5) as client:
        answer = client.get(f"http://{bound[0]}:{bound[1]}/{path}")
    return answer.status_code, answer.content, time.monotonic() - start


@pytest.fixture(scope="module", params=[BODY, b""], ids=["body", "no body"])
def broken(binary: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Address, bytes]]:
    program = h.program(h.rule("all", [h.reply([(400, 599)], 0, headers=JSON, body=request.param)]))
    with breaking() as port, started(binary, config([module(program)], [FORWARD], {"up": port})) as bound:
        yield bound, request.param


@pytest.mark.parametrize("client", ["HTTP/1", "HTTP/2"])
@pytest.mark.parametrize("path", BROKEN)
def test_a_broken_response_is_answered_in_full(broken: tuple[Address, bytes], path: str, client: str) -> None:
    bound, body = broken
    status, content, seconds = fetched(bound, path, client == "HTTP/2")
    assert seconds < 1
    if client == "HTTP/2" and path in AT_THE_SAME_TIME and status == 502:
        assert content.startswith(b"upstream connect error")
    else:
        assert (status, content) == (503, body)


@pytest.mark.parametrize("client", ["HTTP/1", "HTTP/2"])
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "soon"])
def test_a_broken_response_over_http_2_is_answered_in_full(binary: Path, client: str, at_once: bool) -> None:
    program = h.program(h.rule("all", [h.reply([(400, 599)], 0, headers=JSON, body=BODY)]))
    with breaking_http2(at_once) as port:
        made = config([module(program)], [FORWARD], {"up": port}, http2=True)
        with started(binary, made) as bound:
            for path in ("reset", "stall") * 3:
                status, content, seconds = fetched(bound, path, client == "HTTP/2")
                assert (status, content) == (503, BODY)
                assert seconds < 1


def test_envoy_goes_on_after_many_broken_responses(broken: tuple[Address, bytes]) -> None:
    """Whatever the module holds of a stream that has broken off must not be used again."""
    bound, body = broken
    wrong: list[Response] = []

    def load() -> None:
        for n in range(60):
            answer = ask(bound, "GET", "a", "/" + ("close", "close-soon", "chunk-close")[n % 3])
            if (answer.status, answer.body) != (503, body):
                wrong.append(answer)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
