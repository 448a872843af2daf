"""Whether the module can be used here, and with which environment Envoy must be started to load it.

In: an Envoy binary, and the installed files. Out: the library's path, and environment variables. Raised:
`ModuleUnavailableError`, whose text says why answers must come from ext_proc.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from rejoinder.envoy.binary import EnvoyNotFoundError, version
from rejoinder.envoy.module.build import CORE

LIBRARY: Final = Path(__file__).with_name(CORE)
"""Where `pip install` puts the core; the library for regular expressions and handlers is beside it."""

ABI_VERSION: Final = "v0.2.0"
"""As in abi.h."""

ENVOY_VERSIONS: Final = ("1.38", "1.39", "1.40", "1.41")
"""The Envoys that can load the module: that of the ABI version and, as Envoy promises, the next one; and two earlier
ones, which have everything that it uses, as the tests show (they warn about the version).
https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/advanced/dynamic_modules"""


class ModuleUnavailableError(Exception):
    """There is no module, or not for this Envoy. `str()` says why; use ext_proc instead."""


def find(binary: Path, library: Path = LIBRARY) -> Path:
    """The library for an Envoy.

    Args:
        binary: the Envoy that is to load it.
        library: where it should be.

    Raises:
        ModuleUnavailableError: show its text, and use ext_proc for answers.
    """
    if not library.is_file():
        raise ModuleUnavailableError(
            "the module was not compiled when Rejoinder was installed: that needs a C compiler"
        )
    try:
        # Undefined symbols are not resolved, as only Envoy has them: this checks that the library is for this machine
        # and that its dependencies are there.
        ctypes.CDLL(str(library), mode=os.RTLD_LAZY | os.RTLD_LOCAL)
    except OSError as error:
        raise ModuleUnavailableError(f"the module cannot be loaded: {error}") from error
    try:
        envoy = version(binary)
    except EnvoyNotFoundError as error:
        raise ModuleUnavailableError(str(error)) from error
    if envoy.rsplit(".", 1)[0] not in ENVOY_VERSIONS:
        raise ModuleUnavailableError(
            f"the module is made for Envoy {ENVOY_VERSIONS[0]} to {ENVOY_VERSIONS[-1]} (ABI {ABI_VERSION}), "
            f"this one is {envoy}"
        )
    return library


def sha256(library: Path = LIBRARY) -> str:
    """The hash of the file, for Envoys that fetch it and compare.

    Raises:
        OSError: there is none.
    """
    return hashlib.sha256(library.read_bytes()).hexdigest()


def environment(
    library: Path = LIBRARY, handlers: Iterable[Path] = (), environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The environment variables that Envoy needs in addition: the first to find the module, the others only for
    programs with regular expressions or handlers.

    Args:
        library: what `find` returned.
        handlers: folders where handlers are searched for if they are nowhere else.
        environ: Envoy's environment: its PYTHONPATH is kept.
    """
    ours = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    given = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    folders = os.pathsep.join(str(folder.resolve()) for folder in handlers)
    return {
        "ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(library.parent),
        # The standard library, and the packages installed with us: Envoy does not know the virtual environment.
        "PYTHONHOME": os.pathsep.join(dict.fromkeys((sys.base_prefix, sys.base_exec_prefix))),
        "PYTHONPATH": os.pathsep.join((*given, *ours)),
        **({"REJOINDER_HANDLER_PATH": folders} if folders else {}),
    }
