"""The server of the admin interface: who may ask it, and what strangers that connect to it cost. Nothing here measures
time."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import pytest
from gateway import wait_for
from loops import running
from machine import SECONDS, ask

from rejoinder.cli import admin
from rejoinder.transport.addresses import Tcp as Address

LARGE: Final = b"x" * (64 << 20)
PAGES: Final = {"/": lambda: b"here", "/large": lambda: LARGE}


def serving(pages: Mapping[str, Callable[[], bytes]] = PAGES) -> AbstractContextManager[Address]:
    routes = [admin.page(path, "text/plain", make) for path, make in pages.items()]
    return running(admin.serving(("127.0.0.1", 0), admin.application(routes)))


def get(address: Address, path: str) -> tuple[int, bytes]:
    response = ask(address, "GET", "localhost", path)
    return response.status, response.body


def test_there_are_so_many_connections_at_most() -> None:
    with serving() as address, contextlib.ExitStack() as stack:
        for _ in range(admin.MAX_CONNECTIONS + 20):
            stack.enter_context(socket.create_connection(address, timeout=SECONDS))
        wait_for(lambda: states(address[1]).count("01") == admin.MAX_CONNECTIONS)


@pytest.mark.parametrize("so_far", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: a\r\n"])
def test_connections_that_say_nothing_or_half_end(monkeypatch: pytest.MonkeyPatch, so_far: bytes) -> None:
    monkeypatch.setattr(admin, "IDLE_SECONDS", 0.3)
    with serving() as address, socket.create_connection(address, timeout=SECONDS) as silent:
        silent.sendall(so_far)
        with contextlib.suppress(ConnectionError):
            assert silent.recv(1) == b""
        wait_for(lambda: get(address, "/") == (200, b"here"))  # who is as late as that is hung up on, too


def test_a_client_that_does_not_read_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "IDLE_SECONDS", 0.3)
    with serving() as address, socket.create_connection(address) as deaf:
        deaf.sendall(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n")
        wait_for(lambda: "01" not in states(address[1]))


def states(port: int) -> list[str]:
    """Of TCP connections to a server (https://docs.kernel.org/networking/proc_net_tcp.html); 01: established."""
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return [state for _, local, _, state, *_ in lines if local.endswith(f":{port:04X}") and state != "0A"]


def test_a_page_that_takes_long_holds_up_nothing_else_in_the_event_loop() -> None:
    asked, done = threading.Event(), threading.Event()

    def slow() -> bytes:
        asked.set()
        assert done.wait(SECONDS)
        return b"at last"

    with serving({"/slow": slow}) as address, socket.create_connection(address) as waiting:
        waiting.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
        assert asked.wait(SECONDS)
        assert get(address, "/none")[0] == 404
        done.set()
        assert waiting.makefile("rb").read().endswith(b"at last")


def test_a_page_that_cannot_be_made_is_logged_and_the_next_is_served(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> bytes:
        raise RuntimeError("no")

    with serving({**PAGES, "/broken": broken}) as address:
        assert get(address, "/broken")[0] == 500
        assert get(address, "/") == (200, b"here")
    assert caplog.messages == ["a page could not be made"]


def test_what_is_no_http_is_refused_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as address, socket.create_connection(address, timeout=SECONDS) as client:
        client.sendall(b"\x00\xff GET\r\n\r\n")
        assert client.makefile("rb").read().startswith(b"HTTP/1.0 400 ")
    assert caplog.messages == []


def test_it_ends_while_somebody_is_connected() -> None:
    with contextlib.ExitStack() as stack:
        with serving() as address:
            client = stack.enter_context(socket.create_connection(address, timeout=SECONDS))
            client.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert client.recv(1)
        while client.recv(1000):
            pass


@pytest.mark.parametrize(
    ("address", "knows", "refuses"),
    [
        pytest.param("127.0.0.1", ["127.0.0.1", "localhost", "[::1]", "given.test"], ["a.test", "rejoinder"]),
        pytest.param("localhost", ["localhost", "127.0.0.1"], ["a.test", "rejoinder", "localhost.a.test", ""]),
        pytest.param("::1", ["[::1]", "localhost"], ["a.test"]),
        pytest.param("0.0.0.0", ["10.1.2.3", "rejoinder", "given.test"], ["a.test", "given.test.a.test"]),
        pytest.param("box.test", ["box.test", "rejoinder"], ["a.test"]),
    ],
)  # fmt: skip
def test_by_whose_name_it_may_be_asked(address: str, knows: list[str], refuses: list[str]) -> None:
    known: Callable[[str], bool] = admin.knows_host((address, 1), ["given.test"])
    assert [name for name in knows if not known(name)] == []
    assert [name for name in refuses if known(name)] == []
