"""The dynamic module in an Envoy with a configuration of its own, and without Python but where a rule needs it.

REJOINDER_TEST_ENVOYS names more Envoys (binaries, separated by `:`) that all of this is tried with.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import handmade as h
import pytest
from gateway import HANDLERS, Upstream
from machine import ask
from module_static import (
    BODY,
    CORE_ONLY,
    FORWARD,
    JSON,
    ROUTES,
    Address,
    _binary,  # noqa: F401 - a fixture
    _upstream,  # noqa: F401 - a fixture
    config,
    module,
    started,
)

from rejoinder.envoy.module import library
from rejoinder.envoy.module.build import PYTHON
from rejoinder.xds.translate.settings import Json, typed


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
    assert PYTHON in said
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
