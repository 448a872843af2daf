"""`rejoinder up --listen`: what is moved, and what stays as the files say."""

from __future__ import annotations

import dataclasses
import http.client
import re
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from command_line import Command, assert_fails_with_one_line, wait_for
from gateway import free_port
from machine import SECONDS, ask

from rejoinder.cli.up import _elsewhere
from rejoinder.rules.load import load
from rejoinder.rules.model import Listener, Ruleset
from rejoinder.xds.translate.listeners import listener_name

CERTIFICATE = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -keyout key -out crt"

RULES = """
listen: [127.0.0.1:0, 127.0.0.1:0]
routes: [{name: hi, respond: {body: hi}}]
"""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rules.yaml").write_text(RULES)


def listening(up: Command, number: int) -> list[tuple[str, int]]:
    """Schemes and ports, once it says them."""
    wait_for(lambda: len(up.out) >= number or up.process.poll() is not None)
    matches = [re.fullmatch(r"listening on (https?)://127\.0\.0\.1:(\d+)\n", line) for line in up.out]
    assert len(matches) == number, (up.out, up.err)
    return [(match[1], int(match[2])) for match in matches if match]


@pytest.mark.parametrize("listen", [(), ("--listen", "127.0.0.1:0") * 3], ids=["in the file", "on the command line"])
def test_f04_any_number_of_free_ports(listen: tuple[str, ...]) -> None:
    with Command("up", "rules.yaml", *listen, "--concurrency", "1") as up:
        ports = {port for _, port in listening(up, 3 if listen else 2)}
        assert len(ports) == (3 if listen else 2)
        for port in ports:
            assert ask(("127.0.0.1", port), "GET", "a.test", "/").body == b"hi"


def test_f04_one_address_twice_is_one_line() -> None:
    address = f"127.0.0.1:{free_port()}"
    message = f"rejoinder: {address} is given to two listeners: give each an address of its own with --listen"
    assert_fails_with_one_line(message, "up", "rules.yaml", "--listen", address, "--listen", address)


def secured(folder: Path) -> None:
    names = ["-subj", "/CN=d.test", "-addext", "subjectAltName=DNS:d.test"]
    subprocess.run([*CERTIFICATE.split(), *names], cwd=folder, check=True, capture_output=True)
    (folder / "rules.yaml").write_text(
        """
        listen: [127.0.0.1:80, {address: 127.0.0.1:443, certificate: crt, key: key, client_ca: crt}]
        routes: [{name: old, redirect: {prefix: /details}}]
        """
    )


def test_f05_listeners_keep_their_certificates(tmp_path: Path) -> None:
    secured(tmp_path)
    with Command("up", "rules.yaml", *("--listen", "127.0.0.1:0") * 2, "--concurrency", "1") as up:
        plain, https = listening(up, 2)
        assert (plain[0], https[0]) == ("http", "https")
        context = ssl.create_default_context(cafile=str(tmp_path / "crt"))
        context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
        with (
            socket.create_connection(("127.0.0.1", https[1]), SECONDS) as connection,
            context.wrap_socket(connection, server_hostname="d.test") as tls,
        ):
            tls.sendall(b"GET /x HTTP/1.1\r\nhost: d.test\r\nconnection: close\r\n\r\n")
            response = http.client.HTTPResponse(tls)
            response.begin()
            assert response.headers["location"] == "https://d.test/details/x"


def test_addresses_are_dealt_out_in_order(tmp_path: Path) -> None:
    secured(tmp_path)
    ruleset = load([tmp_path / "rules.yaml"]).ruleset
    assert ruleset is not None
    gateway = Listener("0.0.0.0", 80, group="gateway/a/b/80")
    all_three = dataclasses.replace(ruleset, listeners=(*ruleset.listeners, gateway))

    def places(*ports: int, of: Ruleset = all_three) -> list[tuple[str, bool, str]]:
        moved = _elsewhere(of, [("127.0.0.1", port) for port in ports])
        return [(listener_name(listener), listener.client_ca is not None, listener.group) for listener in moved]

    group = gateway.group
    assert places(1) == [("127.0.0.1:1", False, ""), ("127.0.0.1:443", True, ""), ("0.0.0.0:80", False, group)]
    assert places(1, 2) == [("127.0.0.1:1", False, ""), ("127.0.0.1:2", True, ""), ("0.0.0.0:80", False, group)]
    assert places(1, 2, 3, 4)[2:] == [("127.0.0.1:3", False, group), ("127.0.0.1:4", False, group)]
    assert [name for name, *_ in places(0, 0, 0)] == ["127.0.0.1:0", "127.0.0.1:0#2", "127.0.0.1:0#3"]
