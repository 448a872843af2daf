"""systemd: what it is told, the sockets that it hands over, and our example units, with its own tools."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import grpc
import pytest
from command_line import Command
from gateway import Upstream, free_port, free_ports, wait_for
from machine import SECONDS, children
from secured import Secured, answers, printed, rules, running_envoy
from test_transport import _read

from rejoinder import envoy
from rejoinder.cli.arguments import parser
from rejoinder.cli.control import Control
from rejoinder.cli.systemd import sockets, tell
from rejoinder.extproc import Workers
from rejoinder.extproc.server import SERVICE
from rejoinder.rules.model import Endpoint
from rejoinder.transport.addresses import Address, Tcp, nth, show
from rejoinder.xds.events import Nack
from rejoinder.xds.server import ADS
from rejoinder.xds.snapshot import CLUSTERS
from rejoinder.xds.translate import Settings

UNITS: Final = Path(__file__).parents[1] / "examples" / "systemd"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(name="envoys")
def _envoys() -> Iterator[Tcp]:
    """Where an Envoy with the rules of `rules.yaml` listens."""
    with contextlib.closing(Upstream()) as upstream:
        yield rules(upstream)


# --- what systemd is told ---


class Told:
    """The socket that systemd is told by, and the last of each kind that it was told."""

    def __init__(self, name: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(name)
        self._socket.settimeout(SECONDS)
        self.kinds: dict[str, str] = {}

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def hears(self, kind: str, text: str) -> bool:
        """Wait until it hears that."""
        while text not in self.kinds.get(kind, "nothing"):
            self.kinds |= dict(line.split("=", 1) for line in self._socket.recv(4096).decode().splitlines())
        return True


@pytest.mark.parametrize("name", ["notify", f"\0rejoinder-test-notify-{os.getpid()}"], ids=["path", "abstract"])
@pytest.mark.usefixtures("envoys")
def test_systemd_is_told_what_is_served(name: str) -> None:
    file = Path("rules.yaml")
    good = file.read_text()
    file.write_text("rules: [{name: 1}]\n")
    ports = ("--xds", "127.0.0.1:0", "--ext-proc", "127.0.0.1:0")
    environ = {"NOTIFY_SOCKET": name.replace("\0", "@"), "WATCHDOG_USEC": "5000000"}
    with Told(name) as told, Command("serve", "rules.yaml", *ports, **environ) as serve:
        assert told.hears("READY", "1")
        assert told.kinds["STATUS"].startswith("nothing is served; not in force: rules.yaml:1: ")
        file.write_text(good)
        assert told.hears("STATUS", "1 route, 2 rules")
        assert "not in force" not in told.kinds["STATUS"]
        file.write_text(good + "more:\n")
        assert told.hears("STATUS", "1 route, 2 rules; not in force: rules.yaml:")
        assert told.hears("WATCHDOG", "1")
        del told.kinds["WATCHDOG"]
        assert told.hears("WATCHDOG", "1")
        serve.process.send_signal(signal.SIGTERM)
        assert told.hears("STOPPING", "1")


@pytest.mark.usefixtures("envoys")
def test_systemd_is_told_that_an_envoy_rejects_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    control = Control([Path("rules.yaml")], (), Settings(Endpoint("127.0.0.1", 1)), processor=Workers(1))
    control.start()
    assert control.current is not None
    control.envoys.tell(Nack("n", CLUSTERS, control.current.snapshot, "no"))
    monkeypatch.setenv("NOTIFY_SOCKET", "notify")
    with Told("notify") as told:
        with contextlib.suppress(TimeoutError):
            asyncio.run(asyncio.wait_for(tell(control), 0.01))
        assert told.hears("STATUS", "1 route, 2 rules; an Envoy rejects that")


@pytest.mark.usefixtures("envoys")
def test_a_systemd_that_does_not_listen_holds_up_nothing() -> None:
    ports = ("--xds", "127.0.0.1:0", "--ext-proc", "127.0.0.1:0")
    with Command("serve", "rules.yaml", *ports, NOTIFY_SOCKET="/nowhere") as serve:
        serve.wait_until_said("serving: ")


# --- sockets ---


def _activated(*addresses: Address) -> list[str]:
    """The command that listens there, and starts another one when somebody connects."""
    return ["systemd-socket-activate", *(f"--listen={show(address).removeprefix('unix:')}" for address in addresses)]


def _workers(process: subprocess.Popen[str]) -> list[int]:
    return [pid for pid in children(process.pid) if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_who_connects_starts_serve_and_is_served(
    unix: bool, envoys: Tcp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places: list[Address] = [tmp_path / name for name in ("xds", "admin", "ext_proc")]
    if not unix:
        places = [("127.0.0.1", port) for port in free_ports()]
    xds, admin, ext_proc = places
    serve_at = ("--xds", show(xds), "--ext-proc", show(ext_proc), "--admin", show(admin), "--workers", "2")
    ads = printed(capsys, "ads", "--xds", show(xds))
    arguments = ("serve", "rules.yaml", "--conditional", "ext_proc", *serve_at)
    with Command(*arguments, by=_activated(xds, ext_proc, nth(ext_proc, 1), admin)) as serve:
        wait_for(lambda: serve.said("Listening"), serve.process)
        with running_envoy(ads):
            wait_for(lambda: answers(envoys), serve.process)
            # Who asks while a process is replaced waits for it: the socket is always there.
            workers = _workers(serve.process)
            assert len(workers) == 2
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
            wait_for(lambda: answers(envoys), serve.process)
            with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as client:
                client.settimeout(SECONDS)
                client.connect(str(admin) if isinstance(admin, Path) else admin)
                client.sendall(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                assert client.recv(99).startswith(b"HTTP/1.1 200 ")


def test_a_socket_of_systemd_wants_certificates_like_our_own(
    envoys: Tcp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secured = Secured(tmp_path, "--conditional", "ext_proc")
    secured.print_secrets(capsys)
    config = printed(capsys, "ads", "--xds", show(secured.xds), *secured.envoy)
    with Command(*secured.arguments, by=_activated(secured.xds, secured.ext_proc, secured.admin)) as serve:
        wait_for(lambda: serve.said("Listening"), serve.process)
        with running_envoy(config):
            wait_for(lambda: answers(envoys), serve.process)
        stranger = grpc.ssl_channel_credentials(secured.authority.certificate.read_bytes())
        for credentials in (None, stranger):
            code = asyncio.run(_read(secured.xds, ADS, "StreamAggregatedResources", credentials))
            assert code is grpc.StatusCode.UNAVAILABLE
            code = asyncio.run(_read(secured.ext_proc, SERVICE, "Process", credentials))
            assert code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.usefixtures("envoys")
def test_a_socket_that_no_option_names_is_an_error() -> None:
    address = ("127.0.0.1", free_port())
    with Command("serve", "rules.yaml", by=_activated(address)) as serve:
        wait_for(lambda: serve.said("Listening"), serve.process)
        with socket.create_connection(address, SECONDS):
            assert serve.ended() == 1
    assert serve.said(f"systemd listens on {show(address)} for this service, and its options say 127.0.0.1:18000, ")


@pytest.mark.parametrize(
    ("count", "message"),
    [
        ("x", "LISTEN_FDS: expected the number of sockets from systemd, got 'x'"),
        ("-1", "LISTEN_FDS: expected the number of sockets from systemd, got '-1'"),
        (str(10**9), f"LISTEN_FDS={10**9}: expected a socket from systemd at file descriptor "),
    ],
)
def test_what_systemd_cannot_have_said_is_an_error(
    count: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", count)
    monkeypatch.setattr("rejoinder.cli.systemd._FIRST", os.open(tmp_path, os.O_RDONLY))
    with pytest.raises(OSError, match=message):
        sockets()


# --- units ---


def _said(unit: str, name: str) -> list[str]:
    """What a unit of ours says, each time that it says it."""
    text = (UNITS / unit).read_text().replace("\\\n", " ")
    return re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)


def _command(unit: str) -> list[str]:
    (line,) = _said(unit, "ExecStart")
    return line.split()


def test_systemd_has_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        text = unit.read_text()
        if unit.suffix == ".service":  # the program is not here
            text = text.replace(_command(unit.name)[0], "/bin/true")
        (tmp_path / unit.name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *map(str, tmp_path.iterdir())]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_the_page_says_how_all_that_the_units_want_comes_there() -> None:
    page = (UNITS.parents[1] / "docs" / "deploy.md").read_text()
    recipe = page[page.index("As services, with the units") : page.index("systemctl enable")]
    wanted = [
        path for unit in UNITS.glob("*.service") for path in re.findall(r"[ =](/(?:opt|usr|etc)/\S+)", unit.read_text())
    ]
    assert len(wanted) >= 5
    for path in wanted:
        assert path in recipe or str(Path(path).parent) in recipe, path
    for code in re.findall(r"python -c '(.*)'", recipe):
        place = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        assert Path(place).is_file()
    assert Path(UNITS.parents[1], "examples/static-mock.yaml").is_file()


def test_the_service_says_the_addresses_of_the_socket() -> None:
    options = parser().parse_args(_command("rejoinder.service")[1:])
    addresses = [show(address).removeprefix("unix:") for address in (options.xds, options.ext_proc, options.admin)]
    assert _said("rejoinder.socket", "ListenStream") == addresses


def test_envoy_may_enter_the_sockets_and_its_group_is_none_that_systemd_makes() -> None:
    (group,) = _said("rejoinder.socket", "SocketGroup")
    assert _said("envoy.service", "SupplementaryGroups") == [group]
    assert not (UNITS / f"{group}.service").exists()


def test_envoy_takes_the_command_of_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    Path("envoy.yaml").write_text(printed(capsys, "ads", "--xds", "unix:/run/rejoinder/xds"))
    _, *arguments = ("envoy.yaml" if word.endswith("/envoy.yaml") else word for word in _command("envoy.service"))
    command = [str(envoy.find().path), *arguments, "--mode", "validate"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
