"""`up` and `serve` as processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from command_line import (
    RULES,
    Command,
    Up,
    _in_a_folder_with_rules,  # noqa: F401 - a fixture
    _up,  # noqa: F401 - a fixture
    assert_fails_with_one_line,
    get,
    wait_for,
)
from gateway import Upstream
from machine import ask, children, inodes, is_running, taken_port, tcp_ports


def by_rename(file: Path, text: str) -> None:
    other = file.with_name(".rules.yaml.swp")
    other.write_text(text)
    other.replace(file)


def in_place(file: Path, text: str) -> None:
    file.write_text(text)


EDITS: Final = [
    pytest.param(by_rename, id="by rename, as editors do"),
    pytest.param(in_place, id="in place"),
]


def test_up_prints_its_address_and_answers(up: Up) -> None:
    assert up.answers("/mock") == "mock"
    assert up.answers("/status/503") == "busy"
    assert up.answers("/status/599") == "broken"
    assert json.loads(up.answers("/anything"))["path"] == "/anything"


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_goes_live(up: Up, edit: Callable[[Path, str], None]) -> None:
    edit(up.file, RULES.replace("body: mock", f"body: {edit.__name__}"))
    wait_for(lambda: up.answers("/mock") == edit.__name__)


def test_a_broken_file_changes_nothing_and_is_reported(up: Up) -> None:
    in_place(up.file, RULES.replace("body: busy", "body: still busy"))
    wait_for(lambda: up.answers("/status/503") == "still busy")
    in_place(up.file, RULES.replace("status_code: 503", "status_code: 99"))
    up.wait_until_said(f" error {up.file}:9: ")
    up.wait_until_said("not reloaded: the previous rules stay in force")
    assert up.answers("/status/503") == "still busy"
    assert f"{up.file}:9: " in json.loads(up.page("/status"))["problems"][0]
    in_place(up.file, RULES)
    wait_for(lambda: up.answers("/status/503") == "busy")
    assert json.loads(up.page("/status"))["problems"] == []


def test_admin_shows_status_and_metrics(up: Up) -> None:
    up.answers("/status/503")
    status = json.loads(up.page("/status"))
    assert [client["version"] for client in status["envoys"]] == [status["version"]]
    assert "rejoinder_xds_clients 1.0\n" in up.page("/metrics")
    assert ask(up.admin, "GET", "localhost", "/none").status == 404


@pytest.mark.parametrize("placement", ["module", "ext_proc"])
def test_up_counts_answers_and_has_a_line_for_each(tmp_path: Path, placement: str) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES)
    with Up(file, "--log", "--conditional", placement) as up:
        address = up.address
        for path in ("/status/503", "/anything", "/status/503", "/mock"):
            get(address, path)
        up.wait_until_said(f"GET a.test/mock 200 mock ({file}:6)")
        up.wait_until_said(f"GET a.test/status/503 503 -> 503 errors ({file}:7)")
        assert not up.said("/anything")
        labels = 'original_status="none",placement="native",rule="mock",status="200"'
        wait_for(lambda: f"rejoinder_answers_total{{{labels}}} 1.0" in up.page("/metrics"))
        # What was told before that, or with it, is not counted twice.
        labels = f'original_status="503",placement="{placement}",rule="errors",status="503"'
        assert f"rejoinder_answers_total{{{labels}}} 2.0" in up.page("/metrics")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_other_user_reaches_the_services_of_up_or_its_envoys_admin_interface(up: Up) -> None:
    """Private keys go through the control plane, and the admin interface can stop Envoy."""
    up.answers("/mock")
    (client,) = json.loads(up.page("/status"))["envoys"]
    assert client["peer"].startswith("unix:")
    sockets = [socket for pid in (up.process.pid, *children(up.process.pid)) for socket in unix_sockets(pid)]
    assert sorted(path.name for path in sockets) == ["admin", "ext_proc", "xds"]
    for path in sockets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert tcp_ports(children(up.process.pid)) == {up.address[1]}


def unix_sockets(pid: int) -> list[Path]:
    """The named ones on which a process listens."""
    own = inodes(pid)
    lines = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return [Path(line[7]) for line in lines if line[3] == "00010000" and line[6] in own and len(line) > 7]


def test_up_follows_the_symlink_of_a_mounted_folder() -> None:
    # As Kubernetes mounts a ConfigMap: the files lead through `..data`, which is swapped.
    for number in (1, 2):
        Path(f"..{number}").mkdir()
        Path(f"..{number}", "rules.yaml").write_text(RULES.replace("body: mock", f"body: mock {number}"))
    os.symlink("..1", "..data")
    Path("mounted").mkdir()
    os.symlink("../..data/rules.yaml", "mounted/rules.yaml")
    with Command("up", "mounted", "--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--concurrency", "1") as up:
        first, second = up.addresses(2)
        assert get(first, "/mock").body == b"mock 1"
        assert get((second[0].strip("[]"), second[1]), "/mock").body == b"mock 1"
        os.symlink("..2", "..new")
        os.replace("..new", "..data")
        wait_for(lambda: get(first, "/mock").body == b"mock 2")


def test_ctrl_c_ends_up_with_0_and_its_envoy() -> None:
    with Command("up", "rules.yaml", "--listen", "127.0.0.1:0") as up:
        up.addresses()
        started = children(up.process.pid)
        assert started
        up.process.send_signal(signal.SIGINT)
        assert up.ended() == 0
    wait_for(lambda: not any(map(is_running, started)))
    assert not up.said("Traceback")


def test_up_ends_with_one_line_when_its_envoy_is_killed() -> None:
    with Command("up", "rules.yaml", "--listen", "127.0.0.1:0") as up:
        up.wait_until_said("serving: ")
        before = len(up.err)
        for child in children(up.process.pid, "envoy"):
            os.kill(child, signal.SIGKILL)
        assert up.ended() == 1
    assert [line.partition(" ")[2] for line in up.err[before:]] == ["error rejoinder: Envoy was killed by SIGKILL\n"]


@pytest.mark.parametrize("option", ["--listen", "--admin", "--envoy-admin"])
def test_up_on_a_port_that_is_taken_is_one_line(option: str) -> None:
    with taken_port() as port:
        listen = () if option == "--listen" else ("--listen", "127.0.0.1:0")
        address = f"127.0.0.1:{port}"
        assert_fails_with_one_line(f"rejoinder: .*{address}.*", "up", "rules.yaml", *listen, option, address)


@pytest.mark.parametrize("option", ["--xds", "--ext-proc", "--admin"])
def test_serve_on_a_port_that_is_taken_is_one_line(option: str) -> None:
    with taken_port() as port:
        others = {"--xds", "--ext-proc"} - {option}
        free = [word for other in sorted(others) for word in (other, "127.0.0.1:0")]
        free += ["--upstream", "echo=http://127.0.0.1:1"]  # else there is a warning
        address = f"127.0.0.1:{port}"
        assert_fails_with_one_line(f"rejoinder: .*{address}.*", "serve", "rules.yaml", *free, option, address)


def test_up_without_an_envoy_is_one_line() -> None:
    assert_fails_with_one_line("rejoinder: .*no/envoy.*", "up", "rules.yaml", "--envoy", "no/envoy")


def test_an_upstream_can_be_given_on_the_command_line() -> None:
    upstream = Upstream()
    url = "http://{}:{}".format(*upstream.address)
    with (
        contextlib.closing(upstream),
        Command("up", "rules.yaml", "--listen", "127.0.0.1:0", "--upstream", f"echo={url}") as up,
    ):
        assert get(up.addresses()[0], "/x").body == Upstream.BODY
