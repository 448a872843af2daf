"""A real Envoy as a child: started, asked, ended, and what is said when it cannot."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from gateway import wait_for
from machine import SECONDS, is_running

from rejoinder.envoy import EnvoyDiedError, EnvoyNotReadyError, bootstrap, find, pump, running, version

ENVOY = find().path
ANY_PORT = ("127.0.0.1", 0)


def _static(listeners: dict[str, str]) -> dict[str, Any]:
    """A bootstrap without a control plane: a listener for each name and IP address, on any port."""
    echo = {
        "name": "envoy.filters.network.echo",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"},
    }
    return {
        "admin": bootstrap(admin=ANY_PORT)["admin"],
        "overload_manager": bootstrap()["overload_manager"],
        "static_resources": {
            "listeners": [
                {
                    "name": name,
                    "address": {"socket_address": {"address": address, "port_value": 0}},
                    "filter_chains": [{"filters": [echo]}],
                }
                for name, address in listeners.items()
            ]
        },
    }


@pytest.fixture(name="taken")
def _taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(ANY_PORT) as server:
        yield server.getsockname()[1]


def test_envoy_lives_as_long_as_the_block_and_says_where_it_listens(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    async def main() -> None:
        config = _static({"one": "127.0.0.1", "two": "::1"})
        async with running(ENVOY, config, concurrency=1) as envoy:
            assert list(tmp_path.iterdir()) == []
            bound = await envoy.ready(["one", "two"])
            assert await envoy.admin.state() == "LIVE"
            assert {name: [host for host, _ in addresses] for name, addresses in bound.items()} == {
                "one": ["127.0.0.1"],
                "two": ["::1"],
            }
            with socket.create_connection(bound["one"][0], timeout=SECONDS) as client:
                client.sendall(b"hello")
                assert client.recv(5) == b"hello"
            stats = await envoy.admin.stats("^server.(concurrency|live)$")
            assert stats == {"server.concurrency": 1, "server.live": 1}
            pid = envoy.pid
        assert not is_running(pid)

    with caplog.at_level(logging.WARNING, "rejoinder.envoy"):
        asyncio.run(main())
    assert caplog.messages == []


def test_two_envoys_run_side_by_side() -> None:
    async def main() -> None:
        async with running(ENVOY, _static({}), concurrency=1) as one, running(ENVOY, _static({}), concurrency=1) as two:
            await one.ready()
            await two.ready()
            assert one.admin.address != two.admin.address

    asyncio.run(main())


def _start(config: dict[str, Any], envoy: Path = ENVOY) -> EnvoyDiedError:
    async def main() -> None:
        async with running(envoy, config, concurrency=1) as process:
            await process.ready()

    with pytest.raises(EnvoyDiedError) as raised:
        asyncio.run(main())
    assert "\n" not in str(raised.value)
    return raised.value


def test_a_taken_admin_port_is_told(taken: int) -> None:
    died = _start(bootstrap(admin=("127.0.0.1", taken)))
    assert str(died) == f"Envoy ended with status 1: cannot bind '127.0.0.1:{taken}': Address already in use"
    assert len(died.log) > 1


def test_a_bootstrap_that_envoy_refuses_is_told() -> None:
    died = _start({**bootstrap(admin=ANY_PORT), "bogus": 1})
    assert str(died).startswith("Envoy ended with status 1: ")
    assert "no such field: 'bogus'" in str(died)


def test_a_binary_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    assert str(_start(_static({}), tmp_path / "envoy")) == (
        f"Envoy ended with status 1: {tmp_path}/envoy: No such file or directory"
    )


def test_a_crash_is_told_by_its_signal() -> None:
    async def main() -> None:
        async with running(ENVOY, _static({}), concurrency=1) as envoy:
            await envoy.ready()
            os.kill(envoy.pid, signal.SIGKILL)
            await envoy.wait()

    with pytest.raises(EnvoyDiedError, match=r"^Envoy was killed by SIGKILL$"):
        asyncio.run(main())


def test_an_end_that_nobody_here_asked_for_is_told() -> None:
    async def main() -> None:
        async with running(ENVOY, _static({}), concurrency=1) as envoy:
            await envoy.ready()
            await envoy.admin.get("/quitquitquit", "POST")
            await envoy.wait()

    with pytest.raises(EnvoyDiedError, match=r"^Envoy ended, without an error, though nothing here asked it to$"):
        asyncio.run(main())


def test_envoy_waits_for_its_control_plane_and_is_not_ready_until_then(taken: int) -> None:
    async def main() -> None:
        async with running(ENVOY, bootstrap(("127.0.0.1", taken), admin=ANY_PORT), concurrency=1) as envoy:
            await envoy.admin.state()
            with pytest.raises(EnvoyNotReadyError) as raised:
                await envoy.ready(["main"], within=1)
            assert str(raised.value) == (
                "Envoy is not ready after 1 s: its state is PRE_INITIALIZING, and it has no listener main"
            )

    asyncio.run(main())


def test_a_cancelled_program_leaves_no_envoy_behind() -> None:
    async def main() -> int:
        pid = 0

        async def run() -> None:
            nonlocal pid
            async with running(ENVOY, _static({}), concurrency=1) as envoy:
                await envoy.ready()
                pid = envoy.pid
                await envoy.wait()

        task = asyncio.create_task(run())
        while not pid:
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return pid

    assert not is_running(asyncio.run(main()))


def test_an_envoy_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rejoinder.envoy.process.STOP_SECONDS", 0.2)

    async def main() -> int:
        async with running(ENVOY, _static({}), concurrency=1) as envoy:
            await envoy.ready()
            os.kill(envoy.pid, signal.SIGSTOP)
            return envoy.pid

    assert not is_running(asyncio.run(main()))


CHATTERBOX: Final = f"""\
#!{sys.executable}
import pathlib, sys, time
folder = pathlib.Path(__file__).parent
pathlib.Path(sys.argv[sys.argv.index("--admin-address-path") + 1]).write_text("127.0.0.1:1")
while not (folder / "go").exists():
    time.sleep(0.01)
for number in range(100_000):
    sys.stderr.write(f"W|chatterbox|line {{number}} {{'x' * 100}}\\n")
(folder / "done").touch()
time.sleep(3600)
"""


def test_an_envoy_that_logs_does_not_wait_for_a_program_that_does_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    binary = tmp_path / "envoy"
    binary.write_text(CHATTERBOX)
    binary.chmod(0o755)

    async def main() -> None:
        async with running(binary, _static({})):
            (tmp_path / "go").touch()
            wait_for((tmp_path / "done").exists)  # as if this program were stopped
            while not caplog.messages or len(caplog.messages) < 5000:
                await asyncio.sleep(0.01)

    with caplog.at_level(logging.WARNING, "rejoinder.envoy"):
        asyncio.run(asyncio.wait_for(main(), 2 * SECONDS))
    assert caplog.messages[0].startswith("chatterbox: line 0 ")
    assert len(caplog.messages) < 50_000


def test_what_an_envoy_leaves_behind_does_not_hold_up_its_end(tmp_path: Path) -> None:
    binary = tmp_path / "envoy"
    binary.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, subprocess, sys\n"
        "left = subprocess.Popen(['sleep', '100'])\n"
        "(pathlib.Path(__file__).parent / 'left').write_text(str(left.pid))\n"
        "pathlib.Path(sys.argv[sys.argv.index('--admin-address-path') + 1]).write_text('127.0.0.1:1')\n"
        "left.wait()\n"
    )
    binary.chmod(0o755)

    async def main() -> None:
        async with running(binary, _static({})):
            pass

    asyncio.run(asyncio.wait_for(main(), 2 * SECONDS))
    os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)  # it is there


@pytest.mark.parametrize("reads", [True, False], ids=["late", "never"])
def test_the_pump_takes_all_and_says_what_it_has_dropped(reads: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", pump.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(40):
            process.stdin.write(b"%d %s\n" % (number, b"x" * 100_000))
        process.stdin.flush()
        if reads:
            lines = [process.stdout.readline() for _ in range(5)]
            assert [int(line.split()[0]) for line in lines] == list(range(5))
            process.stdin.write(b"last")
            process.stdin.close()
            *lines, last = process.stdout.readlines()
            missing = re.compile(rb"\(\d+ lines of Envoy's log are missing: they were not read in time\)\n")
            assert any(map(missing.fullmatch, lines))
            assert last == b"last\n"
        else:
            process.stdout.close()
            process.stdin.write(b"more\n" * 100_000)
            process.stdin.close()
        assert process.wait(SECONDS) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="no other system kills the child of a killed parent")
def test_envoy_dies_with_a_program_that_is_killed() -> None:
    program = f"""
import asyncio
from pathlib import Path
from rejoinder.envoy import bootstrap, running

async def main():
    async with running(Path({str(ENVOY)!r}), bootstrap(admin=("127.0.0.1", 0)), concurrency=1) as envoy:
        print(envoy.pid, flush=True)
        await envoy.wait()

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    wait_for(lambda: not is_running(pid))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"admin": ("127.0.0.1", 9901)},
        {"xds": Path("/run/xds"), "admin": Path("/run/admin")},
        {"xds": ("::1", 1)},
        {"xds": ("rejoinder", 18000), "node_id": "edge-1", "cluster": "edge"},
    ],
    ids=["defaults", "admin", "unix", "ipv6", "dns"],
)
def test_envoy_accepts_every_bootstrap(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "bootstrap.json"
    path.write_text(json.dumps(bootstrap(**options)))
    ended = subprocess.run(
        [ENVOY, "--mode", "validate", "-c", path, "--log-level", "warning"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_tested_version_is_the_one_that_the_manual_names() -> None:
    manual = Path(__file__).parent.parent / "docs" / "deploy.md"
    assert f"Envoy {version(ENVOY).rpartition('.')[0]}" in manual.read_text()
