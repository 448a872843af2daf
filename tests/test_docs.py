"""Every YAML and every command that README and docs/ show, tried. What a block is, its first line says:

```yaml     a rule file, which must load; behind `# http_filters`, filters that Envoy must take; behind the name
            of a message of Envoy's API, such a message
```sh       commands, which must end well
```console  the same: behind `$ ` a command, and below it what it prints; `...` stands for any lines

The commands of a page run in its order. `rejoinder up` runs until the page ends, at a free port, and `curl` asks there.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from command_line import Command, hand_written

from rejoinder import envoy
from rejoinder.envoy.module import library
from rejoinder.rules.answers import Reply
from rejoinder.rules.decide import decide
from rejoinder.rules.handlers import Request, Response
from rejoinder.rules.load import load
from rejoinder.rules.problem import Severity
from rejoinder.rules.request import parse
from rejoinder.xds.protobuf import encoder

PROJECT: Final = Path(__file__).parents[1]
PAGES: Final = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]

FILTERS: Final = "# http_filters\n"
MESSAGES: Final = {
    "# DynamicModuleFilter\n": "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
}
SHELL: Final = ("console", "sh")
KINDS: Final = ("yaml", "python", *SHELL)
"""Of blocks: each is tried by a test of this file."""

NOT_RUN: Final = {
    "python3 -m venv .venv": "whoever runs the tests has done it",
    ".venv/bin/pip install -q .": "the same",
    ".venv/bin/pip install -q -e '.[dev]'": "the same",
    ".venv/bin/pytest -q -n 2 --dist loadfile": "this is it",
    ".venv/bin/pytest -q tests/test_differential.py --differential 1000": "it takes long; CI runs a few",
}
EXECUTABLES: Final = (f"{Path(sys.executable).parent}", os.environ["PATH"])


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(page, text.count("\n", 0, match.start()) + 1, match[1], match[2])


BLOCKS: Final = [block for page in PAGES for block in blocks(page)]
RULE_FILES: Final = [
    block for block in BLOCKS if block.kind == "yaml" and not block.text.startswith((FILTERS, *MESSAGES))
]


def test_every_block_is_of_a_kind_that_is_tried() -> None:
    assert [str(block) for block in BLOCKS if block.kind not in KINDS] == []


# --- YAML ---


@pytest.mark.parametrize("block", RULE_FILES, ids=str)
def test_a_rule_file_loads(block: Block, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    for name in ("busy.json", "error.html"):  # those that the pages name
        (tmp_path / "pages" / name).write_text("{}")
    (tmp_path / "rules.yaml").write_text(block.text, encoding="utf-8")
    loaded = load([tmp_path / "rules.yaml"])
    assert [str(problem) for problem in loaded.problems if problem.severity is Severity.ERROR] == []


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.text.startswith(FILTERS)], ids=str)
def test_envoy_takes_filters(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = hand_written(1, ("127.0.0.1", 1), yaml.safe_load(block.text), [envoy.xds_cluster(("127.0.0.1", 1))])
    Path("envoy.yaml").write_text(yaml.safe_dump(config))
    command = [str(envoy.find().path), "-c", "envoy.yaml", "--mode", "validate", "--disable-hot-restart"]
    environ = {"ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(library.LIBRARY.parent)}
    validated = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert validated.returncode == 0, validated.stderr


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.text.startswith(tuple(MESSAGES))], ids=str)
def test_a_message_is_one_of_envoys_api(block: Block) -> None:
    message = next(message for name, message in MESSAGES.items() if block.text.startswith(name))
    assert encoder(message)(yaml.safe_load(block.text))


@pytest.mark.parametrize(
    ("status", "expected"),
    [(429, (302, b"")), (500, (500, b'{"error":"upstream failed"}')), (503, (503, b'{"error":"upstream failed"}'))]
    + [(status, None) for status in (200, 404)],
)
def test_the_first_rule_file_of_all_answers_429_and_5xx(
    tmp_path: Path, status: int, expected: tuple[int, bytes] | None
) -> None:
    (tmp_path / "rules.yaml").write_text(RULE_FILES[0].text)
    ruleset = load([tmp_path / "rules.yaml"]).ruleset
    assert ruleset is not None
    answered = decide(ruleset, parse("GET", "any.test", "/")).on_status(status)
    assert (answered and (answered[1].status, answered[1].body)) == expected


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.kind == "python"], ids=str)
def test_a_handler_can_be_called(block: Block) -> None:
    names: dict[str, Any] = {}
    exec(compile(block.text, str(block), "exec"), names)
    request = Request("GET", "a.test", "/", None, (), "")
    assert isinstance(names["page"](request, Response(503, ())), Reply)


# --- commands ---


@dataclass(frozen=True)
class Shown:
    """A command, and what the page shows of its output."""

    command: str
    output: str


def commands(page: Path) -> Iterator[Shown]:
    for block in blocks(page):
        if block.kind == "sh":
            yield from (Shown(part, "") for line in block.text.splitlines() for part in line.split(" && "))
        elif block.kind == "console":
            for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                yield Shown(command, output)


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))], ids=lambda page: page.name)
def test_commands_print_what_the_page_shows(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    with contextlib.ExitStack() as running:
        asked = ""
        for shown in commands(page):
            command = shown.command.removeprefix(".venv/bin/")
            if shown.command in NOT_RUN:
                continue
            if command.startswith("rejoinder up "):
                started = running.enter_context(Command(*shlex.split(command)[1:], "--listen", "127.0.0.1:0"))
                asked = "{}:{}".format(*started.addresses()[0])
            else:
                assert command.startswith("rejoinder ") or "curl " in command, f"nobody knows how to run {command!r}"
                output = run(re.sub(r"(?<=[ /])(localhost|127\.0\.0\.1):(8080|10000)(?=/)", asked, command))
                fits = re.fullmatch(pattern(shown.output), comparable(output)) is not None
                assert fits, f"{command}\n{output}\n--- is not what the page shows:\n{shown.output}"


def run(command: str) -> str:
    environ = {**os.environ, "PATH": os.pathsep.join(EXECUTABLES)}
    ended = subprocess.run(
        ["bash", "-c", command], env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, f"{command}\n{ended.stderr}"
    return ended.stdout


def comparable(output: str) -> str:
    """What can be compared: no times."""
    return re.sub(r"^date: .*", "date: ", output.replace("\r", ""), flags=re.MULTILINE).rstrip()


def pattern(shown: str) -> str:
    """What a page shows as an expression: lines of nothing but dots stand for any lines."""
    lines = (r".*" if line.strip() == "..." else re.escape(line) for line in comparable(shown).split("\n"))
    return "(?s)" + "\n".join(lines)


# --- figures ---


@pytest.mark.parametrize(
    ("page", "shown", "measured"),
    [
        ("README.md", "a response that is replaced costs Envoy {}", "module in an Envoy of ours, listed: .*\\| {} \\|"),
        ("README.md", "filter: {} times", "`custom_response` against that module, listed: .*\\| {} \\|"),
        ("README.md", "costs at most {} times", "What the last of 10,000 costs .*, domains {}\\.$"),
        ("README.md", "ordered list: {} times", "What the last of 10,000 costs .*, list {},"),
        (
            "README.md",
            "an edit of one is live {} s",
            "an edit of one of 10,000 rules, .* without a status: .* {} s \\|",
        ),
        ("README.md", "have it after {} s", "10,000 \\| incremental \\| edit \\| 1,000 of 1,000 \\| \\S+ \\S+ \\| {} "),
        ("docs/http2.md", "\n{} us of CPU for an exchange", "with this server = 1 \\({} us"),
        ("docs/http2.md", "{} of them in the connection", "The connection without sockets and gRPC: {} us"),
        ("docs/http2.md", "grpc.aio takes {} times", "\\| grpc.aio \\| {} "),
    ],
)
def test_a_figure_is_what_was_measured(page: str, shown: str, measured: str) -> None:
    figures = []
    for name, around in ((page, shown), ("docs/performance.md", measured)):
        match = re.search(around.format(r"(\d[\d.]*)"), (PROJECT / name).read_text(encoding="utf-8"), re.MULTILINE)
        assert match, f"{name} does not say: {around}"
        figures.append(match[1])
    decimals = len(figures[0].partition(".")[2])
    assert figures[0] == f"{float(figures[1].rstrip('.')):.{decimals}f}"


# --- commands within the text ---


def mentioned(page: Path) -> Iterator[str]:
    """What stands in the text, or in indented lines, and begins with `rejoinder`."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    yield from (" ".join(command.split()) for command in re.findall(r"`(rejoinder [^`>]*)", text))
    yield from re.findall(r"^ {4}(rejoinder [^#>\n]*)", text, re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if any(mentioned(page))], ids=lambda page: page.name)
def test_commands_in_the_text_name_what_there_is(page: Path) -> None:
    for command in mentioned(page):
        name, *rest = command.split()[1:]
        known = help_of(name)
        for option in (word.strip("[]") for word in rest if word.startswith(("-", "[-"))):
            assert re.search(rf"[ \[]{option}\b", known), command


@functools.lru_cache
def help_of(name: str) -> str:
    return run(f"rejoinder {name} --help")
