"""An Envoy with the module in a static configuration, for its tests."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from gateway import Upstream
from machine import SECONDS

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


@pytest.fixture(name="binary", scope="module", params=ENVOYS, ids=envoy.version)
def _binary(request: pytest.FixtureRequest) -> Path:
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
            return asyncio.run_coroutine_threadsafe(work, loop).result(SECONDS)

        running = run(process.__aenter__())
        stack.callback(lambda: run(process.__aexit__(None, None, None)))
        (bound,) = run(running.ready(["static"]))["static"]
        yield bound


@pytest.fixture(name="upstream", scope="module")
def _upstream() -> Iterator[Upstream]:
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
