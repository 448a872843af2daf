"""What pyproject.toml cannot say: that the installation compiles the dynamic module.

Without a compiler, or without Python's headers or a shared libpython for what needs Python in Envoy, the installation
succeeds all the same and says so (`pip -v` shows it); `rejoinder up` then says it again, and has the answers come from
the ext_proc service.
"""

from __future__ import annotations

import runpy
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# The builder stands in the package, which is not importable before it is installed.
_BUILDER = runpy.run_path(str(Path(__file__).parent / "envoy" / "module" / "build.py"))

_LIBRARIES = {
    "rejoinder.envoy.module.librejoinder": (_BUILDER["build"], "the dynamic module"),
    "rejoinder.envoy.module.librejoinder_python": (
        _BUILDER["build_python"],
        "what regular expressions and handlers need in Envoy",
    ),
}


class BuildModule(build_ext):
    def get_ext_filename(self, fullname: str) -> str:
        # Not an extension module of Python but a library for Envoy, which wants just this name.
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        compile_library, what = _LIBRARIES[ext.name]
        try:
            compile_library(Path(self.get_ext_fullpath(ext.name)).parent)
        except Exception as error:  # cffi, setuptools, the compiler: whatever it is, it is not needed to go on
            self.warn(f"answers will come from ext_proc, because {what} cannot be compiled: {error}")


setup(
    ext_modules=[Extension(name, sources=[], optional=True) for name in _LIBRARIES],
    cmdclass={"build_ext": BuildModule},
)
