"""The command line for its tests: in this process, and as processes."""

from __future__ import annotations

import functools
import http.client
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

import gateway
import pytest
import yaml
from gateway import free_port
from machine import SECONDS, Response, ask

from rejoinder.cli import main

RULES: Final = """\
upstreams: {echo: builtin:echo}
routes:
  - {name: own, path: /own, respond: {body: own}}
  - {name: all, upstream: echo}
rules:
  - {name: mock, match: {path: /mock}, body: mock}
  - name: errors
    rules:
      - {enable_on_status: [503], status_code: 503, headers: [Retry-After=30], body: busy}
      - {enable_on_status: [5xx], status_code: original, body: broken}
"""


@pytest.fixture(autouse=True)
def _in_a_folder_with_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rules.yaml").write_text(RULES)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(name="run")
def _run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process: its exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(arguments)
        except SystemExit as ended:  # argparse's own way out
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


# --- processes ---


class Command:
    """A `rejoinder` process of its own, maybe started by another command, ended at the end of the block."""

    def __init__(self, *arguments: str, by: Sequence[str] = (), **environ: str) -> None:
        self.process = subprocess.Popen(
            [*by, sys.executable, "-m", "rejoinder.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environ},
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out: list[str] = []
        self.err: list[str] = []
        self._read = [
            threading.Thread(target=lines.extend, args=(stream,), daemon=True)
            for lines, stream in ((self.out, self.process.stdout), (self.err, self.process.stderr))
        ]
        for thread in self._read:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.ended()
        finally:
            self.process.kill()
            for stream in (self.process.stdout, self.process.stderr):
                assert stream is not None
                stream.close()

    def ended(self) -> int:
        """Wait for its end; the exit code."""
        code = self.process.wait(SECONDS)
        for thread in self._read:
            thread.join(SECONDS)
        return code

    def said(self, text: str) -> bool:
        return any(text in line for line in self.out + self.err)

    def wait_until_said(self, text: str) -> None:
        wait_for(lambda: self.said(text) or self.process.poll() is not None)
        assert self.said(text), (text, self.out, self.err)

    def addresses(self, number: int = 1) -> list[tuple[str, int]]:
        """Where it says that it listens, once it does."""
        wait_for(lambda: len(self.out) >= number or self.process.poll() is not None)
        matches = [re.fullmatch(r"listening on http://(.*):(\d+)\n", line) for line in self.out]
        assert len(matches) == number, (self.out, self.err)
        return [(match[1], int(match[2])) for match in matches if match]


wait_for = functools.partial(gateway.wait_for, failures=(OSError, http.client.HTTPException))


def get(address: tuple[str, int], path: str, *headers: tuple[str, str]) -> Response:
    return ask(address, "GET", "a.test", path, headers)


class Up(Command):
    """`up` with one rule file, and its admin interface."""

    def __init__(self, file: Path, *more: str) -> None:
        self.file = file
        self.admin = ("127.0.0.1", free_port())
        admin = f"127.0.0.1:{self.admin[1]}"
        super().__init__("up", str(file), "--listen", "127.0.0.1:0", "--admin", admin, "--concurrency", "1", *more)

    @property
    def address(self) -> tuple[str, int]:
        return self.addresses()[0]

    def answers(self, path: str, *headers: tuple[str, str]) -> str:
        return get(self.address, path, *headers).body.decode()

    def page(self, path: str) -> str:
        response = ask(self.admin, "GET", "localhost", path)
        assert response.status == 200
        return response.body.decode()


@pytest.fixture(name="up", scope="module")
def _up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    file = tmp_path_factory.mktemp("up") / "rules.yaml"
    file.write_text(RULES)
    with Up(file) as running:
        yield running


def assert_fails_with_one_line(message: str, *arguments: str) -> None:
    with Command(*arguments) as command:
        assert command.ended() == 1
    assert command.out == []
    assert len(command.err) == 1, command.err
    assert re.fullmatch(rf"\S+Z error {message}\n", command.err[0]), command.err


def printed(run: Run, *arguments: str) -> str:
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    return out


def hand_written(listen: int, upstream: tuple[str, int], filters: Any, *clusters: Any) -> Any:
    """An operator's own Envoy configuration, with what `bootstrap` prints pasted in."""
    config: Any = yaml.safe_load(
        f"""
        node: {{id: theirs, cluster: theirs}}
        static_resources:
          listeners:
          - name: theirs
            address: {{socket_address: {{address: 127.0.0.1, port_value: {listen}}}}}
            filter_chains:
            - filters:
              - name: envoy.filters.network.http_connection_manager
                typed_config:
                  "@type": "type.googleapis.com/envoy.extensions.filters.network.\\
                    http_connection_manager.v3.HttpConnectionManager"
                  stat_prefix: theirs
                  route_config:
                    virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes:
                      - {{name: theirs, match: {{prefix: /theirs}}, route: {{cluster: backend}}}}
                      - {{name: others, match: {{prefix: /}}, route: {{cluster: backend}}}}
                  http_filters:
                  - name: envoy.filters.http.router
                    typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          clusters:
          - name: backend
            load_assignment:
              cluster_name: backend
              endpoints:
              - lb_endpoints:
                - endpoint: {{address: {{socket_address: {{address: {upstream[0]}, port_value: {upstream[1]}}}}}}}
        """
    )
    resources = config["static_resources"]
    resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"][:0] = filters
    resources["clusters"] += itertools.chain(*clusters)
    return config
