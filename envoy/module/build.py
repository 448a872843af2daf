"""How librejoinder.so is made: `filter.c` and a Python interpreter in one library (cffi's embedding mode).

In: a folder. Out: the library in it. Needs a C compiler, Python's headers and its shared library, for the very Python
that runs this; it is called by setup.py, and by hand as `python build.py FOLDER`. Imports nothing of this project: when
it runs, the project is not installed yet.
https://cffi.readthedocs.io/en/stable/embedding.html
"""

from __future__ import annotations

import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

import cffi  # type: ignore[import-untyped, unused-ignore]

LIBRARY: Final = "librejoinder.so"
"""Envoy adds `lib` and `.so` to the module's name."""

_HERE: Final = Path(__file__).parent

# What the Python side may use of C: `CALLBACK`s are written out, for cffi knows no macros.
_CDEF: Final = """
typedef struct { const char *ptr; size_t length; } buffer;
typedef struct { const char *name; size_t name_length; const char *value; size_t value_length; } header;
typedef struct { ...; } table;
enum { REQUEST_HEADERS, RESPONSE_HEADERS, ... };
enum { LOG_WARNING, LOG_ERROR, ... };
enum { PASS, REPLY, FAILURE, ... };

table *table_new(size_t count);
void table_free(table *old);
bool table_reply(table *made, size_t index, uint32_t status, uint32_t handler, buffer rule,
                 const header *headers, size_t header_count, buffer body);
void table_claim(table *made, uint32_t first, uint32_t last, size_t index);
void table_otherwise(table *made, size_t index);

void envoy_dynamic_module_callback_log(int level, buffer text);
size_t envoy_dynamic_module_callback_http_get_headers_size(void *envoy, int type);
bool envoy_dynamic_module_callback_http_get_headers(void *envoy, int type, header *headers);
"""

_EMBEDDED: Final = """
static const table *rejoinder_table(buffer config);
static int rejoinder_handle(void *envoy, uint32_t handler, uint32_t status, table **made);
static bool rejoinder_started(void);
"""

# Runs once, inside Envoy, when the first configuration comes. Python has read PYTHONPATH, but not the .pth files in its
# folders, which lead to what is installed in editable mode.
_START: Final = """
import os, site
for folder in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
    site.addsitedir(folder)
import rejoinder.envoy.module.embedded
"""


class CannotBuildError(Exception):
    """Something that the build needs is not there; the text says what."""


def build(folder: Path) -> Path:
    """Compile the library.

    Args:
        folder: where to put it.
    Returns:
        Its path.
    Raises:
        CannotBuildError: this Python has no shared library, or no headers.
        cffi.VerificationError: the compiler fails, or there is none.
    """
    variables = sysconfig.get_config_vars()
    if not variables.get("Py_ENABLE_SHARED"):
        raise CannotBuildError(f"{sys.executable} comes without a shared library (libpython)")
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if not headers.is_file():
        raise CannotBuildError(f"no {headers}: Python's headers are missing (Debian: python3-dev)")
    ffi = cffi.FFI()
    ffi.cdef(_CDEF)
    ffi.embedding_api(_EMBEDDED)
    ffi.set_source(
        "_rejoinder",
        '#include "filter.c"',
        include_dirs=[str(_HERE)],
        library_dirs=[variables["LIBDIR"]],
        runtime_library_dirs=[variables["LIBDIR"]],  # Envoy's loader does not look where this Python is
        # Unused: parameters in what cffi generates, and functions that are there for the host of the tests.
        extra_compile_args=["-O2", "-Wall", "-Wextra", "-Wno-unused-function", "-Wno-unused-parameter"],
    )
    ffi.embedding_init_code(_START)
    with tempfile.TemporaryDirectory(prefix="rejoinder-build-") as scratch:
        made = Path(ffi.compile(tmpdir=scratch, target=LIBRARY))
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / LIBRARY
        # By rename: an Envoy that has the old one loaded keeps it.
        staged = target.with_suffix(".new")
        staged.write_bytes(made.read_bytes())
        staged.chmod(0o755)
        return staged.replace(target)


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
