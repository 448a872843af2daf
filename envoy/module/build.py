"""Builds the module: `librejoinder.so`, the core, in C alone, and `librejoinder_python.so` for everything with Python.

In: a folder. Out: the libraries in it. The core needs a C compiler; the other one (cffi's embedding mode) also needs
the headers and the shared library of the Python that runs this. Each is built without the other. Called by setup.py,
and by hand as `python build.py FOLDER`. Imports nothing of this project, because it runs before that is installed.
https://cffi.readthedocs.io/en/stable/embedding.html
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

CORE: Final = "librejoinder.so"
"""Envoy adds `lib` and `.so` to the module's name."""
PYTHON: Final = "librejoinder_python.so"
"""As in beside.h."""

HERE: Final = Path(__file__).parent
PURE: Final = ("reader.c", "index.c", "request.c", "program.c", "ask.c", "accept.c", "template.c", "make.c", "page.c")
"""The core's files that need neither Envoy nor Python."""

SOURCES: Final = (*PURE, "config.c", "grace.c", "replace.c", "beside.c", "filter.c")
"""The core's other files."""

_WARNINGS: Final = ("-Wall", "-Wextra")

# Hidden, because a process has many libraries; never unloaded, because it has a thread. Undefined symbols are Envoy's.
_SHARED: Final = ("-std=gnu11", "-O2", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-Wl,-z,nodelete")

# The C declarations for the Python side: `CALLBACK`s are written out, because cffi has no macros.
_CDEF: Final = """
typedef struct { const char *ptr; size_t length; } buffer;
typedef struct { buffer name, value; } header;
typedef struct { buffer method, authority, path, route; } asked;
typedef struct { ...; } failure;
typedef struct { ...; } reply;
enum { REQUEST_HEADERS, RESPONSE_HEADERS, ... };
enum { LOG_ERROR, ... };
enum { PASS, REPLY, FAILURE, ... };

reply *reply_new(uint32_t status, const header *headers, size_t count, buffer body);
void reason(failure *why, buffer text);

void envoy_dynamic_module_callback_log(int level, buffer text);
size_t envoy_dynamic_module_callback_http_get_headers_size(void *envoy, int type);
bool envoy_dynamic_module_callback_http_get_headers(void *envoy, int type, header *headers);
"""

# Runs once, inside Envoy, with the first call. Python has read PYTHONPATH, but not the .pth files in its folders, which
# lead to packages that are installed in editable mode.
_START: Final = """
import os, site
for folder in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
    site.addsitedir(folder)
import rejoinder.envoy.module.embedded
"""


class CannotBuildError(Exception):
    """The build lacks something; the text says what."""


def build(folder: Path) -> Path:
    """Compile the core.

    Args:
        folder: where to put it.
    Returns:
        Its path.
    Raises:
        CannotBuildError: there is no compiler, or it fails.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    with tempfile.TemporaryDirectory(prefix="rejoinder-build-") as scratch:
        made = Path(scratch, CORE)
        command = [*compiler, *_SHARED, *_WARNINGS, *(str(HERE / source) for source in SOURCES), "-o", str(made)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise CannotBuildError(f"no C compiler: {error}") from error
        if done.returncode:
            raise CannotBuildError(f"{command[0]} fails: {done.stderr.strip()}")
        sys.stderr.write(done.stderr)
        return _install(made, folder)


def build_python(folder: Path) -> Path:
    """Compile the library for regular expressions and handlers.

    Args, Returns: as `build`.

    Raises:
        CannotBuildError: this Python has no shared library, or no headers, or there is no cffi.
        cffi.VerificationError: the compiler fails, or there is none.
    """
    variables = sysconfig.get_config_vars()
    if not variables.get("Py_ENABLE_SHARED"):
        raise CannotBuildError(f"{sys.executable} comes without a shared library (libpython)")
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if not headers.is_file():
        raise CannotBuildError(f"no {headers}: Python's headers are missing (Debian: python3-dev)")
    try:
        import cffi  # type: ignore[import-untyped, unused-ignore]  # noqa: PLC0415 - not needed for the core
    except ImportError as error:
        raise CannotBuildError("cffi is missing") from error
    ffi = cffi.FFI()
    ffi.cdef(_CDEF)
    declared = re.findall(r"^static \w+ python_.*;$", (HERE / "embedded.c").read_text(), re.MULTILINE)
    ffi.embedding_api("\n".join(declared))
    ffi.set_source(
        "_rejoinder",
        '#include "embedded.c"',
        include_dirs=[str(HERE)],
        library_dirs=[variables["LIBDIR"]],
        runtime_library_dirs=[variables["LIBDIR"]],  # Envoy's loader does not search this Python's folder
        # Unused: parameters in what cffi generates.
        extra_compile_args=["-O2", *_WARNINGS, "-Wno-unused-function", "-Wno-unused-parameter"],
    )
    ffi.embedding_init_code(_START)
    with tempfile.TemporaryDirectory(prefix="rejoinder-build-") as scratch:
        return _install(Path(ffi.compile(tmpdir=scratch, target=PYTHON)), folder)


def _install(made: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / made.name
    # By rename: an Envoy that has loaded the old one keeps it.
    staged = target.with_suffix(".new")
    staged.write_bytes(made.read_bytes())
    staged.chmod(0o755)
    return staged.replace(target)


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
    try:
        print(build_python(Path(sys.argv[1])))
    except CannotBuildError as error:
        print(f"without regular expressions and handlers: {error}", file=sys.stderr)
