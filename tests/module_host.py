"""The module's filter in a host of its own, for its tests."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import core
import handmade as h
import pytest

JSON = ("content-type", "application/json")
BUSY = h.reply([(503, 503)], 502, headers=[JSON, ("x-two", "1"), ("x-two", "2")], body=b"busy")
PLAIN = h.reply([(500, 599)], 0, body=b"plain")


def request(authority: str = "x.test", path: str = "/", method: str = "GET", headers: Sequence[str] = ()) -> list[str]:
    return [
        "?",
        f"q :method {method}",
        f"q :authority {authority}",
        f"q :path {path}",
        *(f"q {header}" for header in headers),
    ]


def response(status: int, *headers: str) -> list[str]:
    return [f"u :status {status}", *(f"u {header}" for header in headers)]


def told(data: bytes, name: str = "rejoinder", letter: str = "c") -> str:
    return f"{letter} {name} {data.hex()}"


@pytest.fixture(name="host", scope="module")
def _host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C code in a host of ours, built with AddressSanitizer and UBSan."""
    sources = [core.HARNESS / "host.c", *core.of_core(*core.PROGRAM, "config.c", "grace.c", "replace.c")]
    return core.compiled(tmp_path_factory.mktemp("host") / "host", sources, *core.SANITIZERS)


def play(host: Path, lines: Sequence[str]) -> None:
    done = subprocess.run([host], input="\n".join(lines).encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
