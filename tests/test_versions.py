"""What works with which version of Envoy: the table of docs/deploy.md.

pytest tests/test_versions.py                            as in CI: the version that the package depends on
pytest tests/test_versions.py --envoys FOLDER            all of VERSIONS, unpacked as FOLDER/VERSION (bench/versions.py)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from gateway import Gateway, Upstream
from machine import SECONDS, ask

from rejoinder import envoy
from rejoinder.cli.envoys import OLDEST
from rejoinder.envoy.module import library
from rejoinder.extproc import Processor
from rejoinder.rules.model import Answer, Endpoint, Forward, Route, Rule, Ruleset, Scope, StatusPattern
from rejoinder.rules.model import Upstream as Backend
from rejoinder.rules.program import compile_rules
from rejoinder.xds.events import Unable
from rejoinder.xds.forms import MODULE_SINCE
from rejoinder.xds.translate import Placement
from rejoinder.xds.translate.clusters import ext_proc_cluster
from rejoinder.xds.translate.extensions import foreign_filters

VERSIONS: Final = ("1.36.4", "1.37.0", "1.38.3", "1.39.3", "1.40.0")
OWN: Final = "own"
"""The one that is installed with the package."""

RULES: Final = (
    Rule("throttled", (Answer(503, (("x-rule", "429"),), b"throttled", (StatusPattern("429"),)),)),
    Rule("errors", (Answer(None, (("x-rule", "5xx"),), b"failed", (StatusPattern("5"),)),), Scope(("a.test",))),
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = metafunc.config.getoption("envoys")
    metafunc.parametrize("version", VERSIONS if folder else [OWN], scope="module", indirect=True)


@pytest.fixture(name="version", scope="module")
def _version(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    return version


@pytest.fixture(name="binary", scope="module")
def _binary(version: str, pytestconfig: pytest.Config) -> Path:
    if version == OWN:
        return envoy.find().path
    path = Path(pytestconfig.getoption("envoys"), version, "envoy", "_bin", "envoy")
    assert path.is_file(), f"{path}: `python bench/versions.py` puts it there"
    return path


@pytest.fixture(name="number")
def _number(binary: Path) -> tuple[int, ...]:
    """The version in numbers."""
    return tuple(map(int, envoy.version(binary).split(".")[:2]))


@pytest.fixture(name="upstream", scope="module")
def _upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


def check(address: tuple[str, int]) -> None:
    """Rules about statuses answer, and nothing else is changed."""
    for host, status, expected in (
        ("a.test", 503, (503, b"failed")),
        ("a.test", 429, (503, b"throttled")),
        ("b.test", 503, (503, Upstream.BODY)),
        ("a.test", 200, (200, Upstream.BODY)),
    ):
        response = ask(address, "GET", host, "/", [("x-status", str(status))])
        assert (response.status, response.body) == expected, (host, status)


def foreign(filters: list[dict[str, Any]], upstream: Upstream, ext_proc: int) -> dict[str, Any]:
    """An Envoy with a configuration of its own, and these filters in it."""
    host, port = upstream.address
    address = {"socket_address": {"address": host, "port_value": port}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    up = {"name": "up", "load_assignment": {"cluster_name": "up", "endpoints": endpoints}}
    kind = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "own",
        "http_filters": [
            *filters,
            {"name": "router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}},
        ],
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}
            ]
        },
    }
    return {
        "admin": envoy.bootstrap(admin=("127.0.0.1", 0))["admin"],
        "static_resources": {
            "listeners": [
                {
                    "name": "own",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [up, ext_proc_cluster(Endpoint("127.0.0.1", ext_proc))],
        },
    }


async def check_foreign(binary: Path, placement: Placement, upstream: Upstream) -> None:
    processor = Processor()
    program = compile_rules(RULES)
    port = await processor.start("127.0.0.1:0")
    processor.publish(program)
    config = foreign(list(foreign_filters(program, placement)), upstream, port)
    environ = {"ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(library.LIBRARY.parent)}
    try:
        async with envoy.running(binary, config, environ=environ, concurrency=1) as running:
            address = (await running.ready(["own"]))["own"][0]
            await asyncio.to_thread(check, address)
            streams = sum((await running.admin.stats(r"ext_proc.*\.streams_started$")).values())
            assert streams == (3 if placement is Placement.EXT_PROC else 0)
    finally:
        await processor.stop()


def test_ext_proc_in_a_configuration_of_its_own(binary: Path, upstream: Upstream) -> None:
    asyncio.run(check_foreign(binary, Placement.EXT_PROC, upstream))


def test_module_in_a_configuration_of_its_own(binary: Path, number: tuple[int, ...], upstream: Upstream) -> None:
    if number >= MODULE_SINCE:
        asyncio.run(check_foreign(binary, Placement.MODULE, upstream))
        return
    with pytest.raises(library.ModuleUnavailableError, match=rf"this one is {'.'.join(map(str, number))}\."):
        library.find(binary)


def configured(binary: Path, placement: Placement) -> tuple[bool, bool]:
    """Whether rules answer in an Envoy of ours, and whether the module does it."""
    ruleset = Ruleset(upstreams=(Backend("up", (), echo=True),), routes=(Route("all", Forward("up")),), rules=RULES)
    with Gateway(conditional=placement, binary=binary, fallback=True) as gateway:
        gateway.apply(ruleset)
        check(gateway.address)
        replies = sum(gateway.processor.counters().counts.total().values())
        assert not any(isinstance(event, Unable) for event in gateway.events)
        return True, replies == 0


def test_everything_from_the_control_plane(binary: Path) -> None:
    assert configured(binary, Placement.EXT_PROC) == (True, False)


def test_module_from_the_control_plane(binary: Path, number: tuple[int, ...]) -> None:
    # An Envoy that is too old for the module is given ext_proc.
    assert configured(binary, Placement.MODULE) == (True, number >= MODULE_SINCE)


def test_up(binary: Path, number: tuple[int, ...], tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        json.dumps(
            {
                "upstreams": {"up": "builtin:echo"},
                "routes": [{"name": "all", "upstream": "up"}],
                "rules": [{"name": "errors", "enable_on_status": ["5xx"], "body": "failed"}],
            }
        )
    )
    command = [
        sys.executable,
        "-m",
        "rejoinder.cli",
        "up",
        str(rules),
        "--listen",
        "127.0.0.1:0",
        "--envoy",
        str(binary),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "COLUMNS": "200"}
    ) as up:
        said = []
        try:
            assert up.stdout is not None
            for line in up.stdout:
                said.append(line)
                if match := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                    assert ask(("127.0.0.1", int(match[1])), "GET", "a.test", "/status/503").body == b"failed"
                    break
            else:
                raise AssertionError("".join(said))
        finally:
            up.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                up.wait(SECONDS)
    fell_back = any("come from ext_proc" in line for line in said)
    assert fell_back == (number < MODULE_SINCE)
    assert any("Rejoinder is made for" in line for line in said) == (number < OLDEST)
