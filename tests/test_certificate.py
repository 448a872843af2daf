"""When the certificate of `serve` begins and ends: what is said of it, and when."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_monitoring import STATE

from rejoinder.cli import certificate
from rejoinder.cli.metrics import Metrics
from rejoinder.transport.tls import Files

DAY = 86400


def test_a_certificate_is_warned_of_once_for_each_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files, metrics = Files(tmp_path / "tls.crt", tmp_path / "tls.key"), Metrics(lambda: STATE)

    def make(days: int) -> None:
        words = f"-newkey ed25519 -nodes -days {days} -subj /CN=a -out {files.certificate} -keyout {files.key}"
        subprocess.run(["openssl", "req", "-x509", *words.split()], check=True, capture_output=True)

    def said() -> list[str]:
        return [line.split(f"{files.certificate} ")[1].split(" 20")[0] for line in capsys.readouterr().err.splitlines()]

    def looks() -> Iterator[float]:
        yield from (start - DAY, start - DAY + 1)
        assert said() == ["is not valid before"]
        yield from (start + DAY, start + 22 * DAY)
        assert said() == []
        yield from (start + 24 * DAY, start + 25 * DAY)
        assert said() == ["expires at"]
        assert round((metrics.certificate_expiry - start) / DAY) == 30
        make(60)
        yield from [start + 25 * DAY] * 2  # at the first one it has looked already
        assert said() == []
        assert round((metrics.certificate_expiry - start) / DAY) == 60
        whole = files.key.read_bytes()
        files.key.write_bytes(b"half")
        asyncio.get_running_loop().call_later(0.02, files.key.write_bytes, whole)
        yield from (start + 61 * DAY, start + 62 * DAY)
        assert said() == ["has expired at"]
        make(31)
        yield from [start + 31 * DAY - 60] * 2
        assert said() == ["expires at"]
        raise asyncio.CancelledError

    make(30)
    start, looked = time.time(), looks()
    monkeypatch.setattr(certificate, "SECONDS", 0)
    monkeypatch.setattr(time, "time", lambda: next(looked))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(certificate.watch(files, metrics))
