"""The walk-throughs of both origins, from the command line, and all of their manifests together in one Envoy."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from gateway import free_port
from machine import SECONDS, ask

from rejoinder import envoy
from rejoinder.cli import main

EXAMPLES = Path(__file__).parent.parent / "examples"
ECHOES = ("--upstream", "httpbin/httpbin:8000=builtin:echo", "--upstream", "default/web:8080=builtin:echo")

Address = tuple[str, int]


@contextlib.contextmanager
def up(sources: Sequence[Path], listeners: int) -> Iterator[list[Address]]:
    """`rejoinder up`, listening on ports that are free, until the block ends."""
    places = [("127.0.0.1", free_port()) for _ in range(listeners)]
    listen = [word for host, port in places for word in ("--listen", f"{host}:{port}")]
    command = [sys.executable, "-m", "rejoinder.cli", "up", *map(str, sources), *listen, *ECHOES, "--concurrency", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        deadline = threading.Timer(SECONDS, process.kill)
        deadline.start()
        try:
            assert process.stderr is not None
            assert any(" serving: " in line for line in process.stderr), "it ended"
            deadline.cancel()
            yield places
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=SECONDS)


def assert_direct_response(place: Address) -> None:
    answer = ask(place, "GET", "direct-response.com:8080", "/direct-response")
    assert answer.status == 510
    assert answer.body == b"User-agent: *\nDisallow: /direct-response\n"
    assert dict(answer.headers).keys() == {"content-length", "content-type", "date", "server"}
    assert (answer.values("content-length"), answer.values("content-type")) == (["41"], ["text/plain"])
    assert ask(place, "GET", "direct-response.com:8080", "/status/200").status == 200
    assert ask(place, "GET", "other.com:8080", "/direct-response").status == 404


def assert_custom_responses(place: Address) -> None:
    mock = ask(place, "GET", "localhost", "/a/x")
    assert (mock.status, mock.body) == (200, b'{"hello":"world"}')
    throttled = ask(place, "GET", "test.com", "/status/429")
    assert (throttled.status, throttled.body) == (200, b'{"errmsg": "rate limited"}')
    assert ask(place, "GET", "localhost", "/status/429").status == 429
    assert ask(place, "GET", "localhost", "/status/503").body == b"busy"


def test_the_walk_through_of_kgateway() -> None:
    with up([EXAMPLES / "kgateway"], 1) as (place,):
        assert_direct_response(place)


def test_the_walk_through_of_higress() -> None:
    with up([EXAMPLES / "higress"], 1) as (place,):
        assert_custom_responses(place)


def test_both_and_a_rule_file_run_in_one_envoy(tmp_path: Path) -> None:
    for name in ("kgateway", "higress"):
        for path in (EXAMPLES / name).glob("*.yaml"):
            (tmp_path / f"{name}-{path.name}").symlink_to(path)
    (tmp_path / "rules.yaml").write_text(
        """
        routes: [{name: robots, path: /robots.txt, respond: {body: none}}]
        rules: [{name: health, match: {path: /healthz}, body: ok}]
        """
    )
    with up([tmp_path], 2) as (rule_files, kgateway):
        assert_direct_response(kgateway)
        assert_custom_responses(rule_files)
        assert ask(rule_files, "GET", "localhost", "/robots.txt").body == b"none"
        assert ask(kgateway, "GET", "localhost", "/robots.txt").status == 404
        for place in (rule_files, kgateway):
            assert ask(place, "GET", "direct-response.com", "/healthz").body == b"ok"


@pytest.mark.parametrize("name", ["kgateway", "higress"])
def test_render_prints_what_envoy_takes(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", str(EXAMPLES / name), "--conditional", "ext_proc"]) == 0
    rendered = tmp_path / "envoy.yaml"
    rendered.write_text(capsys.readouterr().out)
    command = [str(envoy.find().path), "-c", str(rendered), "--mode", "validate"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
