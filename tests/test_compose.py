"""docker-compose.yml and the bootstrap that it runs: the same commands, with the local binaries.

What a container would get (a fixed port, a mounted path) is replaced; everything else in the commands is read from
docker-compose.yml and envoy/Dockerfile, so that they cannot go stale. `test_images` looks at the image.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import images
import pytest
import yaml
from gateway import free_port
from machine import SECONDS

from rejoinder.cli.echo import EchoServer
from rejoinder.envoy import Admin, bootstrap, find
from rejoinder.envoy.module import library

TOP: Final = Path(__file__).parent.parent
SERVICES: Final[dict[str, Any]] = yaml.safe_load((TOP / "docker-compose.yml").read_text())["services"]
BOOTSTRAP: Final = TOP / "envoy" / "bootstrap.yaml"

T = TypeVar("T")


def _compose() -> list[str] | None:
    """The command of an installed Docker Compose: the plug-in, or the older program."""
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
            return ["docker", "compose"]
    return [older] if (older := shutil.which("docker-compose")) else None


def _eventually(get: Callable[[], T], wanted: Callable[[T], bool]) -> T:
    """What `get` returns once that is wanted; OSError means not yet. Fails with what came last."""
    last: object = None
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            last = got = get()
            if wanted(got):
                return got
        except OSError as error:
            last = error
        time.sleep(0.05)
    pytest.fail(f"after {SECONDS} s still: {last!r}")


def _replaced(text: str, replacements: Mapping[str, str]) -> str:
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    return text


def _localized(arguments: list[str], replacements: Mapping[str, str]) -> list[str]:
    return _replaced("\0".join(arguments), replacements).split("\0")


def _from_dockerfile(instruction: str) -> list[str]:
    match = re.search(rf"^{instruction} (\[.*\])$", (TOP / "envoy" / "Dockerfile").read_text(), re.MULTILINE)
    assert match is not None
    return [str(word) for word in json.loads(match[1])]


@pytest.mark.skipif(_compose() is None, reason="no Docker Compose here")
def test_docker_compose_accepts_the_file() -> None:
    ended = subprocess.run([*(_compose() or ()), "config", "-q"], cwd=TOP, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr


def test_the_bootstrap_is_what_bootstrap_ads_prints() -> None:
    socket = Path(_option(SERVICES["rejoinder"]["command"], "--xds").removeprefix("unix:"))
    assert yaml.safe_load(BOOTSTRAP.read_text()) == bootstrap(socket, admin=("127.0.0.1", 9901))


def test_every_mounted_path_exists_and_is_read_only() -> None:
    mounts = [mount.split(":") for service in SERVICES.values() for mount in service.get("volumes", ())]
    mounts = [mount for mount in mounts if mount[0] != "shared"]
    assert mounts
    assert [mount for mount in mounts if mount[2] != "ro" or not (TOP / mount[0]).exists()] == []


def _option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def _envoy_command(config: Path) -> list[str]:
    program, *arguments = SERVICES["envoy"]["command"]
    assert program == "envoy"
    return [str(find().path), *_localized(arguments, {"/etc/envoy/bootstrap.yaml": str(config)})]


def test_envoy_accepts_its_command_and_bootstrap() -> None:
    ended = subprocess.run(
        [*_envoy_command(BOOTSTRAP), "--mode", "validate"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@dataclass(slots=True)
class Stack:
    """The three services, on this machine."""

    rules: Path
    """The folder that is mounted, with one file, `rules.yaml`."""
    serve: list[str]
    control_plane: subprocess.Popen[bytes]
    address: tuple[str, int]
    """Where Envoy listens."""
    admin: tuple[str, int]
    """Envoy's admin interface."""

    def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (names in lower case) and body."""
        with contextlib.closing(http.client.HTTPConnection(*self.address, timeout=SECONDS)) as client:
            client.request("GET", path)
            response = client.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, headers, response.read()

    def edit(self, old: str, new: str) -> None:
        """Change the rules as most editors do: a new file, renamed over the old one."""
        file = self.rules / "rules.yaml"
        changed = self.rules / ".rules.yaml.new"
        changed.write_text(_replaced(file.read_text(), {old: new}))
        changed.rename(file)


@pytest.fixture(name="stack", scope="module")
def _stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("compose")
    shared, *_ = SERVICES["module"]["volumes"][0].removeprefix("shared:").split(":")
    config, admin_address, rules = folder / "bootstrap.yaml", folder / "admin", folder / "rules"
    config.write_text(
        _replaced(BOOTSTRAP.read_text(), {shared: str(folder), "port_value: 9901": "port_value: 0"}),
    )
    shutil.copytree(TOP / SERVICES["rejoinder"]["volumes"][0].split(":")[0], rules)
    assert _from_dockerfile("ENTRYPOINT") == ["rejoinder"]
    serve = [
        *(sys.executable, "-m", "rejoinder.cli"),
        *_localized(
            SERVICES["rejoinder"]["command"],
            {
                "/rules": str(rules),
                shared: str(folder),
                "127.0.0.1:18002": f"127.0.0.1:{free_port()}",
            },
        ),
    ]

    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(EchoServer())
        file = rules / "rules.yaml"
        where = "http://{}:{}".format(*upstream.address)
        file.write_text("listen: 127.0.0.1:0\n" + _replaced(file.read_text(), {"http://httpbin:8080": where}))
        # Envoy first: it has to wait for its control plane.
        # Nothing else is in its environment: no Python, above all.
        ((variable, place),) = SERVICES["envoy"]["environment"].items()
        assert place == shared
        assert SERVICES["module"]["entrypoint"] == ["cp", "/librejoinder.so", f"{shared}/"]
        shutil.copy(library.LIBRARY, folder)
        command = [*_envoy_command(config), "--admin-address-path", str(admin_address)]
        envoy = subprocess.Popen(command, env={variable: str(folder)})
        stack.callback(_end, envoy)
        control_plane = subprocess.Popen(serve)
        running = Stack(rules, serve, control_plane, ("", 0), ("", 0))
        stack.callback(lambda: _end(running.control_plane))

        host, _, port = _eventually(admin_address.read_text, bool).rpartition(":")
        running.admin = (host, int(port))
        admin = Admin(running.admin)
        (running.address,) = next(iter(_eventually(lambda: asyncio.run(admin.listeners()), bool).values()))
        _eventually(lambda: asyncio.run(admin.state()), lambda state: state == "LIVE")
        yield running


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        pytest.fail(f"{process.args!r} does not end when it is told to")


def test_the_healthchecks_pass(stack: Stack) -> None:
    of_rejoinder = images.healthcheck("rejoinder", _option(stack.serve, "--admin"))
    kind, *of_envoy = _localized(
        SERVICES["envoy"]["healthcheck"]["test"], {"127.0.0.1/9901": "{}/{}".format(*stack.admin)}
    )
    assert kind == "CMD"
    for command in (of_rejoinder, of_envoy):
        subprocess.run(command, check=True, timeout=SECONDS)


# In this order: each leaves the stack running, but the rules and the control plane are not those of the start.


def test_the_example_answers_as_its_comments_say(stack: Stack) -> None:
    status, headers, body = stack.get("/hello")
    assert (status, headers["hello"], body) == (200, "World", b'{"hello":"world"}')
    status, headers, body = stack.get("/status/503")
    assert (status, headers["retry-after"], body) == (503, "30", b'{"error":"busy"}')
    assert stack.get("/status/502")[::2] == (502, b'{"error":"upstream failed"}')
    assert stack.get("/status/404")[0] == 404
    status, headers, _ = stack.get("/old/page")
    assert (status, headers["location"].removeprefix("http://{}:{}".format(*stack.address))) == (308, "/anything/page")


def test_an_edit_of_the_mounted_folder_is_live(stack: Stack) -> None:
    stack.edit('{"hello":"world"}', '{"hello":"edited"}')
    _eventually(lambda: stack.get("/hello")[2], lambda body: body == b'{"hello":"edited"}')
    stack.edit('{"error":"busy"}', '{"error":"very busy"}')
    _eventually(lambda: stack.get("/status/503")[2], lambda body: body == b'{"error":"very busy"}')
    stack.edit('{"error":"very busy"}', '{"error":"busy"}')
    _eventually(lambda: stack.get("/status/503")[2], lambda body: body == b'{"error":"busy"}')


def test_without_its_control_plane_envoy_goes_on_and_answers(stack: Stack) -> None:
    stack.control_plane.kill()
    stack.control_plane.wait()
    assert stack.get("/hello")[2] == b'{"hello":"edited"}'
    assert stack.get("/status/503")[::2] == (503, b'{"error":"busy"}')


def test_a_control_plane_that_comes_back_is_found(stack: Stack) -> None:
    stack.edit('{"hello":"edited"}', '{"hello":"again"}')
    stack.control_plane = subprocess.Popen(stack.serve)
    _eventually(lambda: stack.get("/hello")[2], lambda body: body == b'{"hello":"again"}')
    _eventually(lambda: stack.get("/status/503")[2], lambda body: body == b'{"error":"busy"}')
