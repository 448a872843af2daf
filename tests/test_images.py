"""The images of envoy/Dockerfile: what can be seen of them without an engine, and, with one, themselves.

REJOINDER_ENGINE is the command of an engine that can build and run images: `docker`, or `podman` with its options. CI
has none that could fetch Debian's image.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import images
import pytest
from command_line import Command, get
from gateway import free_port, free_ports, wait_for
from images import PROJECT
from machine import SECONDS

TARGETS: Final = ("rejoinder", "gateway")
BROKEN: Final = "rules: [{name: 1}]\n"
RULES: Final = "rules: [{name: only, match: {path: /only}, body: {text}}]\n"
REGEX: Final = "{name: also, match: {regex: '/al.o'}, enable_on_status: [404], status_code: 418, body: also}"


# --- the Dockerfile ---


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_somebody_who_is_not_root(target: str) -> None:
    user, _, group = images.last(target, "USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_what_the_installation_needs_is_sent_to_the_engine() -> None:
    ignored = [line for line in (PROJECT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    packages = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"].values()
    needed = ["pyproject.toml", "setup.py", "README.md", "LICENSE", "constraints.txt", *packages]
    assert all((PROJECT / path).exists() for path in needed)
    assert [path for path in needed if any(fnmatch.fnmatch(Path(path).parts[0], pattern) for pattern in ignored)] == []


def test_stages_copy_what_the_first_one_makes() -> None:
    made = " ".join(arguments for name, arguments in images.instructions("build") if name == "RUN")
    copied = [arguments.split()[1:] for name, arguments in images.instructions("gateway") if name == "COPY"]
    assert [source for source, _ in copied] == ["/opt/rejoinder", "/envoy"]
    for source, where in copied:
        assert f" {source} " in made
        assert where in made


# --- health checks, as commands beside what they look at ---


def _healthy(target: str, address: str) -> bool:
    check = images.healthcheck(target, address)
    return subprocess.run(check, capture_output=True, timeout=SECONDS, check=False).returncode == 0


def test_serve_is_healthy_when_it_has_rules(tmp_path: Path) -> None:
    (rules := tmp_path / "rules.yaml").write_text(BROKEN)
    xds, ext_proc, admin = (f"127.0.0.1:{port}" for port in free_ports())
    command = images.words("rejoinder", "CMD", **{"/rules": str(tmp_path), "127.0.0.1:18002": admin})
    assert not _healthy("rejoinder", admin)
    with Command(*command, "--xds", xds, "--ext-proc", ext_proc) as serve:
        wait_for(lambda: any("serving:" in line for line in serve.err), serve.process)
        assert not _healthy("rejoinder", admin)
        rules.write_text(RULES.replace("{text}", "one"))
        wait_for(lambda: _healthy("rejoinder", admin), serve.process)


def test_the_gateway_is_healthy_when_envoy_takes_traffic(tmp_path: Path) -> None:
    (rules := tmp_path / "rules.yaml").write_text(BROKEN)
    listen, admin, _ = (f"127.0.0.1:{port}" for port in free_ports())
    replaced = {"/rules": str(tmp_path), "0.0.0.0:10000": listen, "127.0.0.1:9901": admin}
    with Command(*images.words("gateway", "CMD", **replaced)) as up:
        wait_for(lambda: any("nothing is served" in line for line in up.err), up.process)
        assert not _healthy("gateway", admin)
        rules.write_text(RULES.replace("{text}", "one"))
        wait_for(lambda: _healthy("gateway", admin), up.process)


# --- the images ---


class Engine:
    def __init__(self, command: str) -> None:
        self._command = shlex.split(command)

    def __call__(self, *arguments: str) -> str:
        ended = subprocess.run([*self._command, *arguments], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"{arguments}: {ended.stderr}"
        return ended.stdout.strip()

    def build(self, target: str, context: Path) -> str:
        tag = f"rejoinder-test-{target}"
        self("build", "-f", str(context / "envoy" / "Dockerfile"), "--target", target, "-t", tag, str(context))
        return tag

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[str]:
        """A container as one should run it; its id."""
        hardened = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges")
        container = self("run", "-d", *hardened, *arguments)
        try:
            yield container
        finally:
            print(self("logs", container))
            self("rm", "-f", container)

    def healthy(self, container: str, target: str) -> bool:
        """What the health check says."""
        try:
            self("exec", container, *images.words(target, "HEALTHCHECK"))
        except AssertionError:
            return False
        return True


@pytest.fixture(name="engine", scope="module")
def _engine() -> Engine:
    if not (command := os.environ.get("REJOINDER_ENGINE")):
        pytest.skip("REJOINDER_ENGINE does not say with what images are built")
    return Engine(command)


@pytest.fixture(name="context", scope="module")
def _context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is under version control, and what has changed since."""
    folder = tmp_path_factory.mktemp("context")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / name, folder / name, follow_symlinks=False)
    return folder


@pytest.fixture(name="rules")
def _rules(tmp_path: Path) -> Path:
    (folder := tmp_path / "rules").mkdir()
    (folder / "rules.yaml").write_text(RULES.replace("{text}", "one").replace("]\n", f", {REGEX}]\n"))
    for parent in (tmp_path.parent, tmp_path, folder):
        parent.chmod(0o755)
    return folder


def test_the_gateway_answers_and_follows_an_edit(engine: Engine, context: Path, rules: Path) -> None:
    tag, port = engine.build("gateway", context), free_port()
    with engine.running("-v", f"{rules}:/rules:ro", "-p", f"127.0.0.1:{port}:10000", tag) as container:
        wait_for(lambda: engine.healthy(container, "gateway"))
        address = ("127.0.0.1", port)
        assert get(address, "/only").body == b"one"
        assert get(address, "/also").status == 418  # in the module, with the image's Python
        assert "ext_proc" not in engine("logs", container)
        assert engine("exec", container, "id", "-u") != "0"
        (rules / "rules.yaml").write_text(RULES.replace("{text}", "two"))
        wait_for(lambda: get(address, "/only").body == b"two")


def test_the_control_plane_serves_and_has_no_envoy(engine: Engine, context: Path, rules: Path) -> None:
    tag = engine.build("rejoinder", context)
    with engine.running("-v", f"{rules}:/rules:ro", tag) as container:
        wait_for(lambda: engine.healthy(container, "rejoinder"))
        assert engine("exec", container, "id", "-u") != "0"
        assert json.loads(engine("exec", container, "rejoinder", "check", "/rules", "--format", "json")) is not None
        assert engine("exec", container, "sh", "-c", "wc -c < /librejoinder.so").isdigit()
        with pytest.raises(AssertionError, match="no Envoy to run"):
            engine("exec", container, "rejoinder", "up", "/rules")
