"""The admin interface: what strangers that connect to it cost. Nothing here measures time."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest
from gateway import SECONDS, ask

from rejoinder.cli import admin

PAGES: admin.Pages = {"/": ("text/plain", lambda: b"here")}


def test_connections_that_say_nothing_are_few_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "IDLE_SECONDS", 0.3)
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(admin.serving(("127.0.0.1", 0), PAGES))
        silent = []
        for _ in range(admin.MAX_CONNECTIONS + 20):
            silent.append(stack.enter_context(socket.create_connection(address, timeout=SECONDS)))
        assert [client.recv(1) for client in silent] == [b""] * len(silent)  # all are hung up on
        assert ask(address, "GET", "localhost", "/").body == b"here"
    end = time.monotonic() + SECONDS
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_a_page_that_cannot_be_made_is_logged_and_the_next_is_served(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> bytes:
        raise RuntimeError("no")

    with admin.serving(("127.0.0.1", 0), {**PAGES, "/broken": ("text/plain", broken)}) as address:
        with pytest.raises(OSError, match="without response"):
            ask(address, "GET", "localhost", "/broken")
        assert ask(address, "GET", "localhost", "/").body == b"here"
    assert caplog.messages == ["a page could not be made"]
