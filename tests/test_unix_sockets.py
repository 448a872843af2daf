"""Services and Envoys that meet at Unix sockets, and addresses as text."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from command_line import Command, wait_for
from gateway import Upstream
from machine import children, tcp_ports
from secured import (
    PLACEMENTS,
    Secured,
    _in_a_folder_of_its_own,  # noqa: F401 - a fixture
    _upstream,  # noqa: F401 - a fixture
    answers,
    printed,
    rules,
    running_envoy,
)

from rejoinder.transport import unix
from rejoinder.transport.addresses import nth, parse, show

# --- Unix sockets ---


@PLACEMENTS
def test_everything_goes_over_unix_sockets(
    tmp_path: Path, upstream: Upstream, capsys: pytest.CaptureFixture[str], placement: str
) -> None:
    address = rules(upstream)
    sockets = {name: tmp_path / name for name in ("xds", "ext_proc", "admin")}
    xds, ext_proc, admin = (show(path) for path in sockets.values())
    words = ("serve", "rules.yaml", "--xds", xds, "--ext-proc", ext_proc, "--admin", admin, "--workers", "2")
    with Command(*words, "--conditional", placement) as first:
        first.wait_until_said("serving: ")
        paths = [*sockets.values(), tmp_path / "ext_proc.1"]
        assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o600] * 4
        assert tcp_ports([first.process.pid, *children(first.process.pid)]) == set()
        with Command(*words) as second:  # somebody lives there
            assert second.ended() == 1
        (line,) = second.err
        assert line.endswith(f"Z error rejoinder: cannot listen on {ext_proc}: somebody listens there already\n")
        first.process.kill()
        assert first.ended() == -signal.SIGKILL
    assert all(path.exists() for path in paths)  # nobody is left to take them away
    with (
        Command(*words, "--conditional", placement, "--socket-mode", "660", by=("setsid",)) as serve,
        running_envoy(printed(capsys, "ads", "--xds", xds)),
    ):
        wait_for(lambda: answers(address), serve.process)
        assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o660] * 4
        (status,) = json.loads(page(sockets["admin"], "/status"))["envoys"]
        assert status["version"] == status["target"]
        os.killpg(serve.process.pid, signal.SIGTERM)  # as from systemd without KillMode=mixed, or a shell
        assert serve.ended() == 0
        assert not serve.said(" error ")
    assert not any(path.exists() for path in paths)


def test_a_start_that_fails_leaves_no_sockets(tmp_path: Path) -> None:
    Path("rules.yaml").write_text("rules: [{name: a, body: x}]\n")
    words = [
        f"--{name}=unix:{tmp_path}/{path}" for name, path in (("xds", "x"), ("ext-proc", "e"), ("admin", "none/a"))
    ]
    with Command("serve", "rules.yaml", *words, "--workers", "2") as serve:
        assert serve.ended() == 1
        assert serve.said("none/a: there is no folder")
    assert not [path for path in tmp_path.iterdir() if path.is_socket()]


def page(path: Path, what: str) -> bytes:
    """Of the admin interface on a Unix socket."""
    connection = http.client.HTTPConnection("anything.test")
    with contextlib.closing(connection):
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        connection.request("GET", what)
        response = connection.getresponse()
        assert response.status == 200
        return response.read()


def test_a_unix_socket_beside_tls_asks_for_no_certificate(tmp_path: Path, upstream: Upstream) -> None:
    rules(upstream)
    with Command(*Secured(tmp_path, "--admin", f"unix:{tmp_path}/admin").arguments) as serve:
        serve.wait_until_said("serving: ")
        assert page(tmp_path / "admin", "/readyz") == b"ok\n"
        assert json.loads(page(tmp_path / "admin", "/status"))["problems"] == []


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OSError, match=r"cannot listen on unix:.*file: a file that is no socket is there"):
        unix.listen(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(OSError, match=r"cannot listen on unix:.*: there is no folder .*none$"):
        unix.listen(tmp_path / "none" / "socket")


def test_a_socket_whose_owner_is_busy_is_alive(tmp_path: Path) -> None:
    with unix.listen(tmp_path / "s", backlog=0), contextlib.ExitStack() as stack:
        for _ in range(2):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(str(tmp_path / "s"))
        with pytest.raises(OSError, match="somebody listens there already"):
            unix.listen(tmp_path / "s")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]:2", ("::1", 2)),
        ("unix:/run/x", Path("/run/x")),
        ("unix:/" + "x" * 106, Path("/" + "x" * 106)),
    ],
)
def test_addresses_are_read_as_they_are_shown(text: str, address: Any) -> None:
    assert parse(text) == address
    assert show(address) == text


@pytest.mark.parametrize("text", ["x", "unix:", "unix:x", "unix://", "unix:/" + "x" * 107, "/run/x"])
def test_what_is_no_address(text: str) -> None:
    if text == "unix://":
        assert parse(text) == Path("//")  # a folder, as listening will find
    else:
        with pytest.raises(ValueError, match="expected "):
            parse(text)


def test_several_processes_have_addresses_behind_each_other() -> None:
    assert [nth(("a", 0), 1), nth(("a", 5), 1)] == [("a", 0), ("a", 6)]
    assert [nth(Path("/a/b"), at) for at in range(2)] == [Path("/a/b"), Path("/a/b.1")]
