"""The log of `serve` and `up`: each line of it as `--log-format` says, whoever writes it."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from command_line import RULES, Command, get, wait_for
from gateway import free_port
from machine import is_running

from rejoinder.cli import console, main
from rejoinder.cli.control import Control
from rejoinder.extproc import Workers
from rejoinder.rules import log
from rejoinder.rules.model import Endpoint
from rejoinder.xds.events import Accepted, Connected, Disconnected, Event, Nack
from rejoinder.xds.snapshot import CLUSTERS, Snapshot
from rejoinder.xds.translate import Settings

PROJECT: Final = Path(__file__).parents[1]

TIME: Final = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
"""RFC 3339, section 5.6."""


@pytest.fixture(autouse=True)
def _in_a_folder_with_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rules.yaml").write_text(RULES)


def objects(lines: list[str]) -> list[dict[str, Any]]:
    """What the lines are; each must be an object with what all of them have."""
    values = [json.loads(line) for line in lines]
    for value in values:
        assert re.fullmatch(TIME.replace(r"\.\d{3}", r"(\.\d+)?"), value["time"]), value
        assert value["level"] in ("info", "warning", "error")
        assert re.fullmatch("[a-z_]+", value["event"])
        assert "\x1b" not in value["message"]
    return values


def of(lines: list[str], event: str) -> list[dict[str, Any]]:
    return [value for value in objects(list(lines)) if value["event"] == event]


@pytest.mark.parametrize("how", ["option", "variable"])
def test_every_line_of_up_is_an_object(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "variable":
        monkeypatch.setenv(log.VARIABLE, "json")
    option = ("--log-format", "json") if how == "option" else ()
    with Command("up", "rules.yaml", "--listen", "127.0.0.1:0", "--concurrency", "1", "--log", *option) as up:
        wait_for(lambda: bool(of(up.out, "listening") and of(up.err, "serving")))
        host, _, port = of(up.out, "listening")[0]["url"].removeprefix("http://").rpartition(":")
        assert get((host, int(port)), "/mock").body == b"mock"
        wait_for(lambda: bool(of(up.out, "request")))
        Path("rules.yaml").write_text(RULES.replace("503", "99"))
        wait_for(lambda: bool(of(up.err, "not_reloaded")))
        Path("rules.yaml").write_text(RULES.replace("busy", "later"))
        wait_for(lambda: bool(of(up.err, "reload")))
    [request] = of(up.out, "request")
    assert {name: request[name] for name in ("method", "path", "rule", "status")} == {
        "method": "GET",
        "path": "/mock",
        "rule": "mock",
        "status": 200,
    }
    problem = of(up.err, "problem")[0]
    assert (problem["file"], problem["line"], problem["severity"], problem["level"]) == (
        *("rules.yaml", 9),
        *("error", "error"),
    )
    assert problem["message"].startswith('rule "errors": rules[0].enable_on_status[0]: expected a status')
    assert objects(up.out + up.err)


def test_every_line_of_serve_is_an_object_those_of_its_processes_too() -> None:
    ports = [free_port(), free_port()]
    where = ("--xds", f"127.0.0.1:{ports[0]}", "--ext-proc", f"127.0.0.1:{ports[1]}")
    with Command("serve", "rules.yaml", *where, "--log-format", "json") as serve:
        wait_for(lambda: bool(of(serve.err, "serving")))
        [worker] = [pid for pid in workers(serve.process.pid) if is_running(pid)]
        os.kill(worker, 9)
        wait_for(lambda: bool(of(serve.err, "extproc")))
    assert any("(exit code -9) and is replaced" in value["message"] for value in of(serve.err, "extproc"))
    assert objects(serve.out + serve.err)


def workers(pid: int) -> list[int]:
    """The processes that answer, of those that a process has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]


def test_a_start_that_fails_is_an_object() -> None:
    with Command("serve", "rules.yaml", "--xds", "192.0.2.1:1", "--log-format", "json") as serve:
        assert serve.ended() == 1
    assert [value["level"] for value in of(serve.err, "failed")] == ["error"]


def test_text_has_time_and_level_where_standard_error_is_no_terminal() -> None:
    Path("rules.yaml").write_text("rules: [{name: a, body: x}, {name: b, body: y}]")
    with Command("up", "rules.yaml", "--listen", "127.0.0.1:0", "--concurrency", "1") as up:
        up.wait_until_said("serving: ")
    assert re.fullmatch(r"listening on http://127\.0\.0\.1:\d+\n", up.out[0])
    assert [re.fullmatch(rf"({TIME}) (\w+) .*\n", line) is not None for line in up.err] == [True] * len(up.err)
    assert any(re.match(rf'{TIME} warning rules\.yaml:1: rule "b"', line) for line in up.err)
    assert any(re.match(rf"{TIME} info serving: ", line) for line in up.err)


def test_on_a_terminal_lines_are_for_people() -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "rejoinder.cli", "serve", "rules.yaml", "--xds", "192.0.2.1:1"]
    ended = subprocess.run(command, stdin=theirs, stdout=theirs, stderr=theirs, check=False, timeout=60)
    said = os.read(ours, 10_000).decode()
    os.close(theirs)
    os.close(ours)
    assert ended.returncode == 1
    assert "rejoinder: " in said
    assert not re.search(TIME, said)


def test_what_envoys_do_has_events_with_fields(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(log.VARIABLE, "json")
    monkeypatch.setattr(console, "_dated", True)
    caplog.set_level(logging.INFO)
    control = Control((), (), Settings(Endpoint("127.0.0.1", 1)), processor=Workers(1))
    snapshot = Snapshot(())
    for event in (
        Connected("n", "ipv4:127.0.0.1:1", (1, 35)),
        Accepted("n", snapshot, peer="ipv4:127.0.0.1:1"),
        Nack("n", CLUSTERS, snapshot, "no", snapshot, True, peer="ipv4:127.0.0.1:1"),
        Disconnected("n", "ipv4:127.0.0.1:1"),
    ):
        control.envoys.tell(event)
    formatter = log._Dated("%(message)s")
    logged = objects([formatter.format(record) for record in caplog.records])
    assert [(value["event"], value["node"]) for value in logged] == [
        *(("connected", "n"), ("accepted", "n"), ("disconnected", "n")),
    ]
    assert (logged[0]["peer"], logged[0]["envoy"], logged[1]["version"]) == ("127.0.0.1:1", "1.35", snapshot.version)
    said = objects(capsys.readouterr().err.splitlines())
    assert [(value["event"], value["level"]) for value in said] == [
        *(("lacking", "warning"), ("nack", "error"), ("nack", "info")),
    ]
    assert {(value["node"], value["envoy"], value["peer"]) for value in said} == {("n", "1.35", "127.0.0.1:1")}
    assert (said[1]["version"], said[1]["places"]) == (snapshot.version, [])


def test_an_envoy_with_a_stream_for_each_filter_is_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    control = Control((), (), Settings(Endpoint("127.0.0.1", 1)), processor=Workers(1))
    who, snapshot = ("n", "ipv4:127.0.0.1:1"), Snapshot(())

    def said(event: Event, times: int = 3) -> list[int]:
        """How many lines there are after each of its streams."""
        lines = []
        for _ in range(times):
            control.envoys.tell(event)
            lines.append(len(caplog.records))
        return lines

    assert said(Connected(*who)) == [1, 1, 1]
    assert len(control.envoys.clients) == 1
    assert said(Accepted("n", snapshot, peer=who[1])) == [1, 1, 2]
    assert said(Disconnected(*who)) == [2, 2, 3]
    assert len(control.envoys.clients) == 0


def test_a_format_that_is_none_is_an_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(log.VARIABLE, "xml")
    with pytest.raises(SystemExit, match="2"):
        main(["serve", "rules.yaml"])
    assert "expected text or json, in $REJOINDER_LOG_FORMAT, too, got 'xml'" in capsys.readouterr().err


def test_every_event_is_in_the_docs() -> None:
    page = (PROJECT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    known = set(re.findall(r"`(\w+)`", page[page.index("## The log") :]))
    sources = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "cli").glob("*.py"))
    sources += (PROJECT / "transport" / "accepting.py").read_text(encoding="utf-8")
    events = set(re.findall(r'event="(\w+)"|about\("(\w+)"', sources))
    named = {name for pair in events for name in pair if name} | {"not_reloaded", "waiting", "failed", "problem"}
    assert named
    assert named <= known


def test_a_traceback_is_within_its_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(log.VARIABLE, "json")
    formatter = log._Dated("%(message)s")
    try:
        raise ValueError("no\nway")
    except ValueError:
        info = sys.exc_info()
    record = logging.LogRecord("rejoinder.control", logging.ERROR, "", 1, "%s is odd", ("it",), info)
    [value] = objects([formatter.format(record)])
    assert (value["event"], value["message"]) == ("control", "it is odd")
    assert value["exception"].endswith("ValueError: no\nway")
