"""What surrounds a process: names that are no text, a working directory that goes, output that is closed or full, and
SIGHUP.
"""

from __future__ import annotations

import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Command, wait_for
from gateway import free_port
from machine import SECONDS, ask, children

from rejoinder.cli import main

RULES = "rules:\n- {name: %s, match: {path: /a}, body: a}\n"
WRONG = "rules:\n- {name: b, match: {path: b}, body: b}\n"
ODD = os.fsdecode(b"\xff\n\x1b[2J.yaml")
"""What a file may be called, and how it is shown."""
SHOWN = r"\udcff\n\x1b[2J.yaml:2: "
SERVE = ("serve", "--xds", "unix:{}/xds", "--ext-proc", "unix:{}/ext_proc", "--state", "{}/state")


@pytest.fixture(name="serve")
def _serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """A command, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tuple(argument.format(tmp_path) for argument in SERVE)


def test_a_name_that_is_no_text_is_shown_everywhere_and_ends_nothing(serve: tuple[str, ...]) -> None:
    Path("rules").mkdir()
    Path("rules", ODD).write_text(RULES % "a")
    console = ("127.0.0.1", free_port())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("notify")
        systemd.settimeout(SECONDS)
        with Command(*serve, "--admin", f"127.0.0.1:{console[1]}", "rules", NOTIFY_SOCKET="notify") as process:
            process.wait_until_said("serving: ")
            Path("rules", ODD).write_text(WRONG)
            while SHOWN.encode() not in systemd.recv(4096):
                pass
            for path in ("/", "/api/problems", "/status"):
                page = ask(console, "GET", "localhost", path)
                assert (page.status, rb"\udcff" in page.body) == (200, True)
            Path("rules", ODD).write_text(RULES % "b")
            process.wait_until_said("reloaded: ")
    assert all(line.rstrip("\n").isprintable() for line in process.err)


@pytest.mark.parametrize("encoding", ["utf-8:strict", "latin-1", "ascii"])
@pytest.mark.usefixtures("serve")
def test_whatever_the_locale_output_is_utf_8_and_a_problem_is_one_line(encoding: str) -> None:
    Path(ODD).write_text(WRONG.replace("path: b", "path: é"))
    command = [sys.executable, "-m", "rejoinder.cli", "check", ODD]
    environ = {**os.environ, "PYTHONIOENCODING": encoding}
    checked = subprocess.run(command, env=environ, capture_output=True, text=True, encoding="utf-8", check=False)
    assert checked.stdout == f'{SHOWN}error: rule "b": match.path: expected a path starting with "/", got "é"\n'
    assert checked.returncode == 1


@pytest.mark.parametrize("sources", ["rules", "{}/rules"], ids=["relative", "absolute"])
def test_the_working_directory_may_go_and_come(serve: tuple[str, ...], tmp_path: Path, sources: str) -> None:
    place = tmp_path / "place"

    def edit(folder: Path, name: str) -> None:
        (folder / "rules").mkdir(parents=True, exist_ok=True)
        (folder / "rules" / "a.yaml").write_text(RULES % name)

    edit(place, "a")
    edit(tmp_path, "a")
    os.chdir(place)
    with Command(*serve, sources.format(tmp_path)) as process:
        process.wait_until_said("serving: ")
        shutil.rmtree(place)
        edit(tmp_path, "b")
        process.wait_until_said("does not exist" if sources == "rules" else "added b ")
        edit(place, "c")
        edit(tmp_path, "c")
        process.wait_until_said("added c ")
    assert not process.said("Traceback")


@pytest.mark.parametrize("command", ["schema", "init -", "completion bash", "render rules.yaml", "bootstrap ads"])
@pytest.mark.usefixtures("serve")
def test_output_that_is_full_is_one_line_and_one_that_is_closed_none(command: str) -> None:
    Path("rules.yaml").write_text(RULES % "a")
    call = f"{sys.executable} -m rejoinder.cli {command}"
    for redirected, code, lines in (">/dev/full", 1, 1), (">&- <&-", 0, 0):
        done = subprocess.run(
            f"{call} {redirected}", shell=True, stderr=subprocess.PIPE, text=True, timeout=SECONDS, check=False
        )
        said = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
        assert (done.returncode, len(said)) == (code, lines), done.stderr


@pytest.mark.usefixtures("serve")
def test_a_file_that_is_half_written_is_not_left() -> None:
    command = f"ulimit -f 1; trap '' XFSZ; {sys.executable} -m rejoinder.cli init"
    for _ in range(2):
        done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, "rejoinder: .: File too large\n")
    assert list(Path().iterdir()) == []


def test_sighup_ends_what_has_a_terminal_and_nothing_else(serve: tuple[str, ...], tmp_path: Path) -> None:
    Path("rules.yaml").write_text(RULES % "a")
    with Command(*serve, "rules.yaml") as process:
        process.wait_until_said("serving: ")
        process.process.send_signal(signal.SIGHUP)
        Path("rules.yaml").write_text(RULES % "b")
        process.wait_until_said("added b")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "rejoinder.cli", *serve, "rules.yaml"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as child:
        os.close(theirs)
        said = b""
        while b"serving: " not in said:
            said += os.read(ours, 4096)
        os.close(ours)
        child.send_signal(signal.SIGHUP)
        assert child.wait(SECONDS) == 0
    assert not (tmp_path / "xds").exists()


def test_ctrl_c_while_its_processes_start_ends_all_quietly(serve: tuple[str, ...]) -> None:
    Path("rules.yaml").write_text(RULES % "a")
    command = [sys.executable, "-m", "rejoinder.cli", *serve, "rules.yaml", "--workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
        wait_for(
            lambda: "spawn_main" in str([Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children(process.pid)])
        )
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, b"Traceback" in errors) == (0, False), errors


@pytest.mark.usefixtures("serve")
def test_each_of_folders_that_lead_round_in_circles_is_checked_once(capsys: pytest.CaptureFixture[str]) -> None:
    Path("sets/deep").mkdir(parents=True)
    Path("sets/deep/a.yaml").write_text(RULES % "a")
    for at in range(3):
        Path(f"sets/deep/round{at}").symlink_to("..")
    for name in ("a", "z"):
        Path(f"sets/{name}.yaml").write_text(RULES % name)
    assert main(["check", "--each", "sets"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said == [f"sets/{name}: fine: 0 upstreams, 0 routes, 1 rule" for name in ("a.yaml", "deep", "z.yaml")]
