"""The versions of dependencies that pyproject.toml allows: try the ends of them, or pin the newest.

python .ci/dependencies.py oldest|newest [pytest arguments]    part of the suite, in a clone of what is committed
python .ci/dependencies.py pin                                 write constraints.txt, which CI and the image use
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[1]

USERS: Final = (
    "load",
    "matching",
    "encode",
    "protobuf",
    "http2",
    "grpc",
    "xds_server",
    "standard",
    "transport",
    "module",
    "cli",
    "admin",
    "console",
)
"""Tests of what uses dependencies."""


def lower_bounds() -> str:
    """Constraints that leave each requirement its oldest version alone: `name>=1,<2` becomes `name==1`."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    bounded = (re.fullmatch(r"([\w.-]+)(?:\[.*\])?>=([\w.]+).*", each) for each in requirements)
    return "".join(f"{each[1]}=={each[2]}\n" for each in bounded if each)


def main(command: str, arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkout, constraints = Path(folder, "checkout"), Path(folder, "constraints.txt")
        subprocess.run(["git", "clone", "-q", PROJECT, checkout], check=True)
        venv.create(checkout / ".venv", with_pip=True)
        constraints.write_text(lower_bounds() if command == "oldest" else "", encoding="utf-8")
        environ = {**os.environ, "PIP_CONSTRAINT": str(constraints)}

        def run(*words: str, output: int | None = None) -> str:
            call = [checkout / ".venv/bin/python", "-m", *words]
            return subprocess.run(call, cwd=checkout, env=environ, check=True, stdout=output, text=True).stdout

        run("pip", "install", "-q", "-e", ".[dev,bench]" if command == "pin" else ".[dev]")
        if command == "pin":
            listing = run("pip", "freeze", "--exclude-editable", output=subprocess.PIPE)
            (PROJECT / "constraints.txt").write_text(f"# Written by `poe pin`.\n{listing}", encoding="utf-8")
        else:
            run("pip", "freeze", "--exclude-editable")
            tests = sorted(f"tests/{path.name}" for name in USERS for path in checkout.glob(f"tests/test_{name}*.py"))
            run("pytest", "-q", *(arguments or tests))


if __name__ == "__main__":
    if sys.argv[1:2] not in (["oldest"], ["newest"], ["pin"]):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
