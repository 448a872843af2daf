"""The command line: what it prints and how it ends, and `up` and `serve` as processes of their own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from command_line import (
    Run,
    _in_a_folder_with_rules,  # noqa: F401 - a fixture
    _run,  # noqa: F401 - a fixture
    _up,  # noqa: F401 - a fixture
)

from rejoinder.cli import main

# --- what can be said ---

COMMANDS: Final = (
    *("up", "serve", "check", "explain", "render", "bootstrap", "preview"),
    *("init", "schema", "completion"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(run: Run, command: str) -> None:
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert f"usage: rejoinder {command}" in out
    assert f"examples:\n  rejoinder {command} " in out
    assert "exit code:\n  0  " in out
    assert max(map(len, out.splitlines())) < 120


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_named_in_the_help(run: Run, command: str) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert re.search(rf"^    {command}\s", out, re.MULTILINE)


def test_help_waits_for_nothing_that_takes_long_to_import() -> None:
    code = """if True:
        import sys
        before = set(sys.modules)
        from rejoinder.cli.arguments import parser
        parser().format_help()
        print(*{*sys.modules} - before)
    """
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"argparse", "rejoinder.cli.texts"} <= {*loaded}
    slow = {"asyncio", "dataclasses", "json", "logging", "pathlib", "shutil", "ssl", "typing", "yaml"}
    assert slow.isdisjoint(loaded)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "the following arguments are required: COMMAND", id="no command"),
        pytest.param(["serv"], "invalid choice: 'serv'", id="an unknown command"),
        pytest.param(["check"], "the following arguments are required: SOURCE", id="no source"),
        pytest.param(["check", "x", "--upstream", "y"], "expected NAME=URL, got 'y'", id="an upstream without URL"),
        pytest.param(["up", "x", "--listen", "80"], "expected HOST:PORT, got '80'", id="an address without host"),
        pytest.param(["up", "x", "--listen", "a:65536"], "expected HOST:PORT", id="a port too high"),
        pytest.param(["up", "x", "--concurrency", "0"], "from 1 to 999, got '0'", id="no worker threads"),
        pytest.param(["up", "x", "--conditional", "y"], "invalid choice: 'y'", id="an unknown placement"),
        pytest.param(["explain", "x"], "required: --url", id="explain without URL"),
        pytest.param(["explain", "x", "--url", "/", "-H", "a"], "expected 'NAME: VALUE', got 'a'", id="half a header"),
        pytest.param(["explain", "x", "--url", "/", "--status", "5xx"], "expected an HTTP status", id="no status"),
        pytest.param(["bootstrap", "x"], "invalid choice: 'x'", id="an unknown kind of bootstrap"),
    ],
)
def test_unusable_arguments_end_with_2_and_say_why(run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err


# --- check ---


def test_check_of_good_files_counts_them(run: Run) -> None:
    assert run("check", "rules.yaml") == (0, "", "fine: 1 upstream, 2 routes, 2 rules\n")
    assert run("check", "rules.yaml", "--format", "json") == (0, "[]\n", "")


def test_three_mistakes_are_three_lines(run: Run) -> None:
    Path("rules.yaml").write_text("rules:\n- {name: a, status_code: 99}\n- {name: b, boddy: x}\nroutes: 7\n")
    code, out, err = run("check", "rules.yaml")
    assert (code, err) == (1, "")
    assert [line.split(": ")[:2] for line in out.splitlines()] == [
        ["rules.yaml:2", "error"],
        ["rules.yaml:3", "error"],
        ["rules.yaml:4", "error"],
    ]
    code, out, _ = run("check", "rules.yaml", "--format", "json")
    assert code == 1
    problems = json.loads(out)
    assert [(problem["file"], problem["line"], problem["severity"]) for problem in problems] == [
        ("rules.yaml", 2, "error"),
        ("rules.yaml", 3, "error"),
        ("rules.yaml", 4, "error"),
    ]
    assert 'rule "a": status_code' in problems[0]["message"]


def test_a_warning_is_printed_and_the_files_are_fine(run: Run) -> None:
    Path("rules.yaml").write_text("rules:\n- {name: a, body: x}\n- {name: b, body: y}\n")
    code, out, err = run("check", "rules.yaml")
    assert code == 0
    assert out == (
        'rules.yaml:3: warning: rule "b": can never decide, because rule "a" (rules.yaml:2) stands before it and '
        "takes all its requests\n"
    )
    assert err == "fine: 0 upstreams, 0 routes, 2 rules\n"
    assert run("check", "rules.yaml", "--strict") == (1, out, "")


MISTAKES: Final = [
    pytest.param("rules: [{name: a, boddy: x}]", 1, 'unknown field "boddy"', id="unknown field"),
    pytest.param("rules: [{name: a, status_code: 99}]", 1, "status_code", id="status 99"),
    pytest.param("rules: [{name: a, status_code: 600}]", 1, "status_code", id="status 600"),
    pytest.param("rules:\n- name: a\n  enable_on_status: [4x]", 3, "4x", id="half a pattern"),
    pytest.param("rules:\n- name: a\n  headers: [novalue]", 3, "novalue", id="a header without value"),
    pytest.param('rules:\n- name: a\n  headers: ["a=b\\r\\nc: d"]', 3, "headers", id="CR and LF in a header"),
    pytest.param('rules:\n- name: a\n  headers: ["a=b\\0"]', 3, "headers", id="NUL in a header"),
    pytest.param(
        "routes: [{name: shop, path: /r, respond: {body: r}}]\nrules:\n- {name: a, match: {routes: [shops]}, body: x}",
        3,
        'unknown route "shops", did you mean "shop"?',
        id="unknown route",
    ),
    pytest.param("rules: [{name: a, status_code: 204, body: x}]", 1, "204", id="a body on 204"),
    pytest.param("rules:\n- {name: a, body: x}\n- {name: a, body: y}", 3, "is taken already", id="duplicate name"),
    pytest.param("rules: [{name: a, body_file: none.html}]", 1, "none.html", id="a body file that is not there"),
    pytest.param("rules: [{name: a, body_file: .}]", 1, "folder", id="a body file that is a folder"),
    pytest.param("", 0, "empty", id="empty file"),
    pytest.param("# nothing", 0, "empty", id="nothing but a comment"),
    pytest.param("rules: ]", 1, "not YAML", id="not YAML"),
    pytest.param("\tx", 1, "", id="a tab"),
    pytest.param("- a", 1, "", id="a list"),
    pytest.param(b"\xff\xfe\x00", 0, "", id="not a text"),
    pytest.param(
        "\n".join(["a0: &a0 x"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]),
        None,
        "",
        id="anchors nested to explode",
    ),
    pytest.param("[" * 10_000, 1, "", id="lists nested to explode"),
    pytest.param(b"#" * 50_000_000, 0, "50,000,000 bytes", id="a 50 MB file"),
]


@pytest.mark.parametrize("command", ["check", "render"])
@pytest.mark.parametrize(("content", "line", "message"), MISTAKES)
def test_a_mistake_is_one_clear_line(
    run: Run, command: str, content: str | bytes, line: int | None, message: str
) -> None:
    Path("rules.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    code, out, err = run(command, "rules.yaml")
    assert code == 1
    printed = out + err
    assert printed.count("\n") == 1, printed
    where = "rules.yaml" if line == 0 else rf"rules\.yaml:{line or '[0-9]+'}"
    assert re.match(rf"{where}(:[0-9]+)?: error: .", printed), printed
    assert message in printed
    assert len(printed) < 500


def test_a_source_that_is_not_there_is_one_line(run: Run) -> None:
    assert run("check", "none.yaml") == (1, "none.yaml: error: does not exist\n", "")


def test_explain_knows_who_observes_and_who_mocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(
        "upstreams: {up: 'http://127.0.0.1:1'}\nroutes: [{name: all, upstream: up}]\nrules:\n"
        "- {name: trial, observe: true, final: true, enable_on_status: [5xx], body: x}\n"
        "- {name: none, observe: true, body: x}\n"
        "- {name: mock, match: {prefix: /users}, handler: 'users:user'}\n"
        "- {name: real, enable_on_status: [500], body: r}\n"
    )
    assert main(["check", str(file), "--strict"]) == 1  # the handler is not there; nothing hides `real`
    assert "never decide" not in capsys.readouterr().err
    assert main(["explain", str(file), "--url", "/x", "--status", "500"]) == 0
    said = capsys.readouterr().out
    assert "rule      trial" in said
    assert said.count("it only observes: the search goes on") == 2
    assert "real" in said.partition("placement")[0]
    assert "final" not in said
    assert main(["explain", str(file), "--url", "/users/7", "--conditional", "ext_proc"]) == 0
    assert "what users:user makes" in capsys.readouterr().out
    assert main(["explain", str(file), "--url", "/x", "--source", "local"]) == 1
    assert "--status" in capsys.readouterr().err
