"""`serve` and `up` on a bad day, as processes of their own: they stay, and follow as soon as they can again."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

import pytest
from gateway import SECONDS, ask, free_port

FILES: Final = 80
"""File descriptors that `serve` may have."""


def rule(body: str) -> str:
    return f"rules: [{{name: only, body: {body}}}]\n"


class Serve:
    """A `serve` with its admin page."""

    def __init__(self, file: Path, **options: Any) -> None:
        self.file = file
        self.xds, self.ext_proc, self.admin = (("127.0.0.1", free_port()) for _ in range(3))
        addresses = {"--xds": self.xds, "--ext-proc": self.ext_proc, "--admin": self.admin}
        arguments = [text for name, (host, port) in addresses.items() for text in (name, f"{host}:{port}")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rejoinder.cli", "serve", str(file), *arguments],
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            **options,
        )
        self.wait_for(lambda: bool(self.status()))

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(ask(self.admin, "GET", "localhost", "/status").body)
        return status

    def wait_for(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            assert self.process.poll() is None, "it has ended"
            with contextlib.suppress(OSError):
                if condition():
                    return
            time.sleep(0.05)
        raise AssertionError("it does not come to be so")

    def follows(self, body: str) -> None:
        """It takes an edit."""
        before = self.status()["version"]
        self.file.write_text(rule(body))
        self.wait_for(lambda: self.status()["version"] != before and not self.status()["problems"])


@contextlib.contextmanager
def serving(file: Path, **options: Any) -> Iterator[Serve]:
    file.write_text(rule("first"))
    serve = Serve(file, **options)
    try:
        yield serve
        assert serve.process.poll() is None
    finally:
        serve.process.send_signal(signal.SIGTERM)
        try:
            assert serve.process.wait(SECONDS) in {0, 120}  # 120: Python itself could not flush
        finally:
            serve.process.kill()


def _broken_pipe() -> IO[bytes]:
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "wb")


def _full_disk() -> IO[bytes]:
    return Path("/dev/full").open("wb")


@pytest.mark.parametrize("output", [_broken_pipe, _full_disk], ids=["nobody-reads", "disk-full"])
def test_output_that_goes_nowhere_ends_nothing(tmp_path: Path, output: Callable[[], IO[bytes]]) -> None:
    with output() as stream, serving(tmp_path / "rules.yaml", stdout=stream, stderr=stream) as serve:
        serve.follows("second")
        serve.file.write_text("wrong: 1\n")
        serve.wait_for(lambda: bool(serve.status()["problems"]))
        serve.follows("third")


def test_a_name_that_is_no_text_beside_the_rules_or_above_ends_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "rules"
    folder.mkdir()
    with serving(folder / "rules.yaml", stderr=subprocess.DEVNULL) as serve:
        for where in (folder, tmp_path):
            with open(os.path.join(os.fsencode(where), b"\xff\xfe"), "wb"):
                pass
            serve.follows(f"after-{where.name}")


def test_edits_that_cannot_be_built_end_nothing(tmp_path: Path) -> None:
    with serving(tmp_path / "rules.yaml", stderr=subprocess.DEVNULL) as serve:
        for number, edit in enumerate(("per: 87660001h", "per: 9e400s", "per: 1" + "0" * 400 + "h")):
            text = f"routes: [{{name: all, respond: {{body: x}}, rate_limit: {{requests: 1, {edit}}}}}]\n"
            serve.file.write_text(text)
            serve.wait_for(lambda: bool(serve.status()["problems"]))
            serve.follows(f"after-{number}")


def test_without_file_descriptors_it_stays_and_follows_when_there_are_some(tmp_path: Path) -> None:
    """A stranger connects, and says nothing."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))

    with serving(tmp_path / "rules.yaml", stderr=subprocess.DEVNULL, preexec_fn=few) as serve:
        with contextlib.ExitStack() as stack:
            for address in (serve.xds, serve.ext_proc):
                for _ in range(FILES):
                    with contextlib.suppress(TimeoutError):  # nobody accepts it, and the queue is full
                        stack.enter_context(socket.create_connection(address, timeout=0.1))
            descriptors = Path(f"/proc/{serve.process.pid}/fd")
            serve.wait_for(lambda: len(list(descriptors.iterdir())) >= FILES - 2)
            serve.file.write_text(rule("second"))
            time.sleep(3)  # it tries, and cannot
        before = serve.status()["version"]
        serve.follows("third")
        assert serve.status()["version"] != before
