"""`rejoinder up` and `serve` with a console, as processes."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway import free_ports, wait_for
from machine import SECONDS, ask


class Rejoinder:
    """A process with a console."""

    def __init__(self, command: str, file: Path, *options: str) -> None:
        self.file = file
        self.address = ("", 0)
        """Where its Envoy listens."""
        ports = free_ports()
        self.url = f"http://127.0.0.1:{ports[0]}"
        if command == "serve":
            options = ("--xds", f"127.0.0.1:{ports[1]}", "--ext-proc", f"127.0.0.1:{ports[2]}", *options)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rejoinder.cli", command, str(file), "--admin", self.url[7:], *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        wait_for(lambda: ask(("127.0.0.1", ports[0]), "GET", "localhost", "/status").status == 200)

    def started(self) -> None:
        """Wait until its Envoy listens."""
        assert self.process.stdout
        match = re.fullmatch(r"listening on http://(.*):(\d+)\n", self.process.stdout.readline())
        assert match
        self.address = match[1], int(match[2])


@contextmanager
def running(command: str, file: Path, text: str, *options: str) -> Iterator[Rejoinder]:
    file.write_text(text)
    it = Rejoinder(command, file, *options)
    try:
        yield it
    finally:
        it.process.send_signal(signal.SIGTERM)
        it.process.wait(SECONDS)
        assert it.process.stdout
        it.process.stdout.close()
