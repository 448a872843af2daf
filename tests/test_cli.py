"""The command line: what it prints and how it ends, and `up` and `serve` as processes of their own."""

from __future__ import annotations

import contextlib
import functools
import http.client
import itertools
import json
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import gateway
import pytest
import yaml
from gateway import SECONDS, Response, Upstream, ask, children, free_port, inodes, taken_port, tcp_ports

from rejoinder import envoy
from rejoinder.cli import main
from rejoinder.envoy.module import library

RULES: Final = """\
upstreams: {echo: builtin:echo}
routes:
  - {name: own, path: /own, respond: {body: own}}
  - {name: all, upstream: echo}
rules:
  - {name: mock, match: {path: /mock}, body: mock}
  - name: errors
    rules:
      - {enable_on_status: [503], status_code: 503, headers: [Retry-After=30], body: busy}
      - {enable_on_status: [5xx], status_code: original, body: broken}
"""


@pytest.fixture(autouse=True)
def _in_a_folder_with_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rules.yaml").write_text(RULES)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process: its exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(arguments)
        except SystemExit as ended:  # argparse's own way out
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


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
        pytest.param(["up", "x", "--concurrency", "0"], "of at least 1, got '0'", id="no worker threads"),
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


# --- explain ---


@pytest.mark.parametrize(
    ("arguments", "decided", "placement", "reply"),
    [
        pytest.param(["--url", "/mock"], ("all", "mock"), "native", (200, "mock"), id="unconditional"),
        pytest.param(["--url", "/own"], ("own", None), "native", (200, "own"), id="a route's own answer"),
        pytest.param(["--url", "/x", "--status", "503"], ("all", "errors"), "ext_proc", (503, "busy"), id="a status"),
        pytest.param(
            ["--url", "/own?to=http://a.test"], ("own", None), "native", (200, "own"), id="a URL in the query"
        ),
        pytest.param(["--url", "/x", "--status", "200"], ("all", None), "upstream", None, id="a status that passes"),
        pytest.param(["--url", "/x"], ("all", None), "upstream", None, id="every status"),
        pytest.param(["--url", "http://a.test/a%2Fb"], (None, None), "native", (307, ""), id="an escaped slash"),
    ],
)
def test_explain_says_who_answers(
    run: Run,
    arguments: list[str],
    decided: tuple[str | None, str | None],
    placement: str,
    reply: tuple[int, str] | None,
) -> None:
    code, out, err = run("explain", "rules.yaml", *arguments, "--format", "json", "--conditional", "ext_proc")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert ((said["route"], said["rule"]), said["placement"]) == (decided, placement)
    assert (said["reply"] and (said["reply"]["status"], said["reply"]["body"])) == reply


def test_explain_prints_plain_text_into_a_pipe(run: Run) -> None:
    code, out, err = run("explain", "rules.yaml", "--url", "/mock", "-H", "accept: */*")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert out == textwrap.dedent(
        """\
        request   GET http://localhost/mock
        route     own (rules.yaml:3): does not fit: it is about the path "/own", the path is "/mock"
        route     all (rules.yaml:4): takes the request: forward to upstream "echo"
        rule      mock (rules.yaml:6): fits and answers at once
        program   rules: finds 2 of 2 by domain, path and route: mock, errors
        placement native
        sent      200, 4 bytes
                  content-type: text/plain; charset=utf-8
                  content-length: 4

        mock
        """
    )


def test_explain_says_what_envoy_makes_of_the_headers(run: Run) -> None:
    sent = ("accept: */*", "X-Envoy-Retry-On: 5xx", "x-request-id: 1", "x-forwarded-for: 1.2.3.4", "host: a.test.")
    arguments = [argument for header in sent for argument in ("-H", header)]
    code, out, err = run("explain", "rules.yaml", "--url", "/mock", *arguments)
    assert (code, err) == (0, "")
    assert out.splitlines()[:5] == [
        "request   GET http://a.test/mock",
        'header    host: Envoy makes it "a.test"',
        "header    x-envoy-retry-on: Envoy takes it away",
        'header    x-request-id: Envoy makes it such as "00000000-0000-4000-8000-000000000000"',
        'header    x-forwarded-for: Envoy makes it such as "1.2.3.4,192.0.2.1"',
    ]
    code, out, _ = run("explain", "rules.yaml", "--url", "/mock", "-H", "host: a.test", "-H", "host: b.test")
    assert (code, out.splitlines()[:2]) == (
        0,
        ["request   GET http://a.test,b.test/mock", 'header    host: Envoy makes it "a.test,b.test"'],
    )
    code, _, err = run("explain", "rules.yaml", "--url", "/", "-H", "connection: upgrade", "-H", "upgrade: x")
    assert (code, err.startswith("Envoy answers 403 before any rule is asked")) == (0, True)


def test_explain_goes_on_behind_rules_that_only_observe(run: Run) -> None:
    Path("rules.yaml").write_text(
        """\
rules:
  - {name: at-once, observe: true, body: x}
  - {name: on-503, observe: true, final: true, enable_on_status: [503], body: x}
  - {name: ours, enable_on_status: [503], body: x}
"""
    )
    code, out, _ = run("explain", "rules.yaml", "--url", "/", "--status", "503")
    assert code == 0
    assert [line.partition("): ")[2].partition(";")[0] for line in out.splitlines() if line.startswith("rule ")] == [
        "fits, and would answer at once",
        "fits, and would answer 503",
        "fits, and has an answer for 503",
    ]


def test_explain_without_a_status_lists_all(run: Run) -> None:
    code, out, _ = run("explain", "rules.yaml", "--url", "/x", "--format", "json", "--conditional", "ext_proc")
    assert code == 0
    assert [(row["statuses"], row["rule"], row["reply"]) for row in json.loads(out)["statuses"]] == [
        ("200-499", "-", "the upstream's response"),
        ("500-502", "errors", "the same status, 6 bytes (ext_proc)"),
        ("503", "errors", "503, 4 bytes (ext_proc)"),
        ("504-599", "errors", "the same status, 6 bytes (ext_proc)"),
    ]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        pytest.param("http://a.test/%00", "Envoy answers 400", id="what Envoy refuses"),
        pytest.param("http://a|b/", "Envoy answers 400", id="a host that is none"),
        pytest.param("http://[::1/", "--url", id="half an IPv6 address"),
        pytest.param("ftp://a.test/", "--url", id="neither http nor https"),
        pytest.param("http:///x", "--url", id="no host"),
        pytest.param("http://a.test:99999/", "--url", id="no port"),
    ],
)
def test_explain_of_a_request_that_cannot_be_says_so(run: Run, url: str, said: str) -> None:
    code, out, err = run("explain", "rules.yaml", "--url", url)
    assert code == (0 if said.startswith("Envoy") else 2)
    assert said in out + err


FOREIGN: Final = """\
routes: [{name: theirs, path: /ours, respond: {body: ours}}]
rules:
  - {name: theirs, match: {routes: [theirs]}, enable_on_status: [503], body: theirs}
  - {name: shield, match: {prefix: /final}, final: true, enable_on_status: [500], body: shielded}
  - {name: mock, match: {prefix: /mock}, body: mock}
  - {name: errors, enable_on_status: [5xx], body: errors}
"""


@pytest.mark.parametrize(
    ("arguments", "decided", "placement", "reply"),
    [
        pytest.param(["/x", "--status", "503"], "errors", "ext_proc", (503, "errors"), id="our routes: none fits"),
        pytest.param(
            ["/x", "--route", "theirs", "--status", "503"], "theirs", "ext_proc", (503, "theirs"), id="their route"
        ),
        pytest.param(
            ["/ours", "--route", "", "--status", "503"], "errors", "ext_proc", (503, "errors"), id="no route there"
        ),
        pytest.param(["/ours", "--route", "x", "--status", "404"], None, "upstream", None, id="their 404"),
        pytest.param(
            ["/mock", "--route", "x"], "mock", "ext_proc", (200, "mock"), id="no route answers for a rule there"
        ),
        pytest.param(["/mock"], "mock", "native", (200, "mock"), id="and here one does"),
        pytest.param(["/final/mock"], None, "native", (404, ""), id="a final rule, and no route"),
    ],
)
def test_explain_beside_routes_of_somebody_elses(
    run: Run, arguments: list[str], decided: str | None, placement: str, reply: tuple[int, str] | None
) -> None:
    Path("rules.yaml").write_text(FOREIGN)
    url, *more = arguments
    code, out, err = run("explain", "rules.yaml", "--url", url, *more, "--format", "json", "--conditional", "ext_proc")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert (said["rule"], said["placement"]) == (decided, placement)
    assert (said["reply"] and (said["reply"]["status"], said["reply"]["body"])) == reply


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        pytest.param(
            ["/final/mock", "--route", "x", "--status", "502"],
            {
                "theirs": 'does not fit: it is about the route "theirs", the request takes "x"',
                "shield": "fits, but has no answer for 502; it is final: no later rule is asked",
            },
            id="final",
        ),
        pytest.param(
            ["/x", "--route", "theirs", "--status", "502"],
            {
                "theirs": "fits, but has no answer for 502",
                "errors": "fits, and has an answer for 502",
            },
            id="not asked",
        ),
        pytest.param(
            ["/mock", "--route", "theirs"],
            {
                "theirs": "fits, but is about the upstream's status: the upstream is not asked",
                "mock": "fits and answers at once",
            },
            id="at once",
        ),
    ],
)
def test_explain_says_of_each_rule_why_it_is_asked_or_not(
    run: Run, arguments: list[str], steps: dict[str, str]
) -> None:
    Path("rules.yaml").write_text(FOREIGN)
    url, *more = arguments
    _, out, _ = run("explain", "rules.yaml", "--url", url, *more, "--format", "json", "--conditional", "ext_proc")
    said = {step["name"]: step["verdict"] for step in json.loads(out)["steps"] if step["kind"] == "rule"}
    assert {name: said.get(name) for name in steps} == steps
    assert list(said)[-1] == list(steps)[-1], "no rule behind it is looked at"


# --- render and bootstrap ---


def test_render_prints_a_bootstrap_and_notes_on_standard_error(run: Run) -> None:
    code, out, err = run("render", "rules.yaml")
    assert code == 0
    resources = yaml.safe_load(out)["static_resources"]
    assert [cluster["name"] for cluster in resources["clusters"]] == ["echo", "rejoinder_ext_proc"]
    assert [line.split(":")[0] for line in err.splitlines()] == ["warning", "note"]


@pytest.mark.parametrize(
    ("placement", "kind"), [("ext_proc", "ext_proc.v3.ExternalProcessor"), ("module", "DynamicModuleFilter")]
)
def test_render_prints_the_placement_that_is_asked_for(run: Run, placement: str, kind: str) -> None:
    code, out, _ = run("render", "rules.yaml", "--conditional", placement)
    assert code == 0
    assert kind in out
    assert "config_discovery" not in out


def test_bootstrap_ads_prints_a_whole_bootstrap(run: Run) -> None:
    code, out, err = run("bootstrap", "ads", "--xds", "[::1]:18000", "--envoy-admin", "127.0.0.1:9901")
    assert (code, err) == (0, "")
    assert yaml.safe_load(out) == envoy.bootstrap(("::1", 18000), admin=("127.0.0.1", 9901))


def test_bootstrap_ads_with_an_access_log_and_without_counts(run: Run) -> None:
    code, out, err = run("bootstrap", "ads", "--access-log", "--no-counts")
    assert (code, err) == (0, "")
    assert yaml.safe_load(out) == envoy.bootstrap(access_log=True, counts=None)
    assert "stats_sinks" not in out


# --- processes ---


class Command:
    """A `rejoinder` process of its own, maybe started by another command, ended at the end of the block."""

    def __init__(self, *arguments: str, by: Sequence[str] = (), **environ: str) -> None:
        self.process = subprocess.Popen(
            [*by, sys.executable, "-m", "rejoinder.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environ},
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out: list[str] = []
        self.err: list[str] = []
        self._read = [
            threading.Thread(target=lines.extend, args=(stream,), daemon=True)
            for lines, stream in ((self.out, self.process.stdout), (self.err, self.process.stderr))
        ]
        for thread in self._read:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.ended()
        finally:
            self.process.kill()
            for stream in (self.process.stdout, self.process.stderr):
                assert stream is not None
                stream.close()

    def ended(self) -> int:
        """Wait for its end; the exit code."""
        code = self.process.wait(SECONDS)
        for thread in self._read:
            thread.join(SECONDS)
        return code

    def said(self, text: str) -> bool:
        return any(text in line for line in self.out + self.err)

    def wait_until_said(self, text: str) -> None:
        wait_for(lambda: self.said(text) or self.process.poll() is not None)
        assert self.said(text), (text, self.out, self.err)

    def addresses(self, number: int = 1) -> list[tuple[str, int]]:
        """Where it says that it listens, once it does."""
        wait_for(lambda: len(self.out) >= number or self.process.poll() is not None)
        found = [re.fullmatch(r"listening on http://(.*):(\d+)\n", line) for line in self.out]
        assert len(found) == number, (self.out, self.err)
        return [(match[1], int(match[2])) for match in found if match]


wait_for = functools.partial(gateway.wait_for, failures=(OSError, http.client.HTTPException))


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def get(address: tuple[str, int], path: str, *headers: tuple[str, str]) -> Response:
    return ask(address, "GET", "a.test", path, headers)


def by_rename(file: Path, text: str) -> None:
    other = file.with_name(".rules.yaml.swp")
    other.write_text(text)
    other.replace(file)


def in_place(file: Path, text: str) -> None:
    file.write_text(text)


EDITS: Final = [
    pytest.param(by_rename, id="by rename, as editors do"),
    pytest.param(in_place, id="in place"),
]


class Up(Command):
    """`up` with one rule file, and its admin interface."""

    def __init__(self, file: Path, *more: str) -> None:
        self.file = file
        self.admin = ("127.0.0.1", free_port())
        admin = f"127.0.0.1:{self.admin[1]}"
        super().__init__("up", str(file), "--listen", "127.0.0.1:0", "--admin", admin, "--concurrency", "1", *more)

    @property
    def address(self) -> tuple[str, int]:
        return self.addresses()[0]

    def answers(self, path: str, *headers: tuple[str, str]) -> str:
        return get(self.address, path, *headers).body.decode()

    def page(self, path: str) -> str:
        response = ask(self.admin, "GET", "localhost", path)
        assert response.status == 200
        return response.body.decode()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    file = tmp_path_factory.mktemp("up") / "rules.yaml"
    file.write_text(RULES)
    with Up(file) as running:
        yield running


def test_up_prints_its_address_and_answers(up: Up) -> None:
    assert up.answers("/mock") == "mock"
    assert up.answers("/status/503") == "busy"
    assert up.answers("/status/599") == "broken"
    assert json.loads(up.answers("/anything"))["path"] == "/anything"


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_goes_live(up: Up, edit: Callable[[Path, str], None]) -> None:
    edit(up.file, RULES.replace("body: mock", f"body: {edit.__name__}"))
    wait_for(lambda: up.answers("/mock") == edit.__name__)


def test_a_broken_file_changes_nothing_and_is_reported(up: Up) -> None:
    in_place(up.file, RULES.replace("body: busy", "body: still busy"))
    wait_for(lambda: up.answers("/status/503") == "still busy")
    in_place(up.file, RULES.replace("status_code: 503", "status_code: 99"))
    up.wait_until_said(f"{up.file}:9: error: ")
    up.wait_until_said("not reloaded: what was there before stays")
    assert up.answers("/status/503") == "still busy"
    assert f"{up.file}:9: " in json.loads(up.page("/status"))["problems"][0]
    in_place(up.file, RULES)
    wait_for(lambda: up.answers("/status/503") == "busy")
    assert json.loads(up.page("/status"))["problems"] == []


def test_admin_shows_status_and_metrics(up: Up) -> None:
    up.answers("/status/503")
    status = json.loads(up.page("/status"))
    assert [client["version"] for client in status["envoys"]] == [status["version"]]
    assert "rejoinder_xds_clients 1.0\n" in up.page("/metrics")
    assert ask(up.admin, "GET", "localhost", "/none").status == 404


@pytest.mark.parametrize("placement", ["module", "ext_proc"])
def test_up_counts_answers_and_has_a_line_for_each(tmp_path: Path, placement: str) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES)
    with Up(file, "--log", "--conditional", placement) as up:
        address = up.address
        for path in ("/status/503", "/anything", "/status/503", "/mock"):
            get(address, path)
        up.wait_until_said(f"GET a.test/mock 200 mock ({file}:6)")
        up.wait_until_said(f"GET a.test/status/503 503 -> 503 errors ({file}:7)")
        assert not up.said("/anything")
        labels = 'original_status="none",placement="native",rule="mock",status="200"'
        wait_for(lambda: f"rejoinder_answers_total{{{labels}}} 1.0" in up.page("/metrics"))
        # What was told before that, or with it, is not counted twice.
        labels = f'original_status="503",placement="{placement}",rule="errors",status="503"'
        assert f"rejoinder_answers_total{{{labels}}} 2.0" in up.page("/metrics")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_other_user_reaches_the_services_of_up_or_its_envoys_admin_interface(up: Up) -> None:
    """Private keys go through the control plane, and the admin interface can stop Envoy."""
    up.answers("/mock")
    (client,) = json.loads(up.page("/status"))["envoys"]
    assert client["peer"].startswith("unix:")
    sockets = [socket for pid in (up.process.pid, *children(up.process.pid)) for socket in unix_sockets(pid)]
    assert sorted(path.name for path in sockets) == ["admin", "ext_proc", "xds"]
    for path in sockets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert tcp_ports(children(up.process.pid)) == {up.address[1]}


def unix_sockets(pid: int) -> list[Path]:
    """The named ones on which a process listens."""
    own = inodes(pid)
    lines = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return [Path(line[7]) for line in lines if line[3] == "00010000" and line[6] in own and len(line) > 7]


def test_up_follows_the_symlink_of_a_mounted_folder() -> None:
    # As Kubernetes mounts a ConfigMap: the files lead through `..data`, which is swapped.
    for number in (1, 2):
        Path(f"..{number}").mkdir()
        Path(f"..{number}", "rules.yaml").write_text(RULES.replace("body: mock", f"body: mock {number}"))
    os.symlink("..1", "..data")
    Path("mounted").mkdir()
    os.symlink("../..data/rules.yaml", "mounted/rules.yaml")
    with Command("up", "mounted", "--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--concurrency", "1") as up:
        first, second = up.addresses(2)
        assert get(first, "/mock").body == b"mock 1"
        assert get((second[0].strip("[]"), second[1]), "/mock").body == b"mock 1"
        os.symlink("..2", "..new")
        os.replace("..new", "..data")
        wait_for(lambda: get(first, "/mock").body == b"mock 2")


def test_ctrl_c_ends_up_with_0_and_its_envoy() -> None:
    with Command("up", "rules.yaml", "--listen", "127.0.0.1:0") as up:
        up.addresses()
        started = children(up.process.pid)
        assert started
        up.process.send_signal(signal.SIGINT)
        assert up.ended() == 0
    wait_for(lambda: not any(map(is_running, started)))
    assert not up.said("Traceback")


def test_up_ends_with_one_line_when_its_envoy_is_killed() -> None:
    with Command("up", "rules.yaml", "--listen", "127.0.0.1:0") as up:
        up.wait_until_said("serving: ")
        before = len(up.err)
        for child in children(up.process.pid, "envoy"):
            os.kill(child, signal.SIGKILL)
        assert up.ended() == 1
    assert [line.partition(" ")[2] for line in up.err[before:]] == ["error rejoinder: Envoy was killed by SIGKILL\n"]


def assert_fails_with_one_line(message: str, *arguments: str) -> None:
    with Command(*arguments) as command:
        assert command.ended() == 1
    assert command.out == []
    assert len(command.err) == 1, command.err
    assert re.fullmatch(rf"\S+Z error {message}\n", command.err[0]), command.err


@pytest.mark.parametrize("option", ["--listen", "--admin", "--envoy-admin"])
def test_up_on_a_port_that_is_taken_is_one_line(option: str) -> None:
    with taken_port() as port:
        listen = () if option == "--listen" else ("--listen", "127.0.0.1:0")
        address = f"127.0.0.1:{port}"
        assert_fails_with_one_line(f"rejoinder: .*{address}.*", "up", "rules.yaml", *listen, option, address)


@pytest.mark.parametrize("option", ["--xds", "--ext-proc", "--admin"])
def test_serve_on_a_port_that_is_taken_is_one_line(option: str) -> None:
    with taken_port() as port:
        others = {"--xds", "--ext-proc"} - {option}
        free = [word for other in sorted(others) for word in (other, "127.0.0.1:0")]
        free += ["--upstream", "echo=http://127.0.0.1:1"]  # else there is a warning
        address = f"127.0.0.1:{port}"
        assert_fails_with_one_line(f"rejoinder: .*{address}.*", "serve", "rules.yaml", *free, option, address)


def test_up_without_an_envoy_is_one_line() -> None:
    assert_fails_with_one_line("rejoinder: .*no/envoy.*", "up", "rules.yaml", "--envoy", "no/envoy")


def test_an_upstream_can_be_given_on_the_command_line() -> None:
    upstream = Upstream()
    url = "http://{}:{}".format(*upstream.address)
    with (
        contextlib.closing(upstream),
        Command("up", "rules.yaml", "--listen", "127.0.0.1:0", "--upstream", f"echo={url}") as up,
    ):
        assert get(up.addresses()[0], "/x").body == Upstream.BODY


# --- serve, and Envoys that somebody else runs ---


@contextlib.contextmanager
def foreign_envoy(config: Any, environ: Mapping[str, str] = {}) -> Iterator[None]:
    """An Envoy that is not ours, with a configuration as its operator would write it, and nothing but this in its
    environment."""
    Path("envoy.yaml").write_text(yaml.safe_dump(config))
    command = [str(envoy.find().path), "--config-path", "envoy.yaml", "--disable-hot-restart", "--concurrency", "1"]
    with (
        open("envoy.log", "w", encoding="utf-8") as log,
        subprocess.Popen(command, stderr=log, stdout=log, env={**environ}) as process,
    ):
        try:
            yield
        finally:
            process.terminate()
            process.wait(SECONDS)


def printed(run: Run, *arguments: str) -> str:
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    return out


def test_an_envoy_with_the_printed_bootstrap_answers_as_serve_says(run: Run) -> None:
    xds, ext_proc, listen = free_port(), free_port(), free_port()
    upstream = Upstream()
    url = "http://{}:{}".format(*upstream.address)
    Path("rules.yaml").write_text(f"listen: 127.0.0.1:{listen}\n{RULES}")
    ports = ("--xds", f"127.0.0.1:{xds}", "--ext-proc", f"127.0.0.1:{ext_proc}", "--upstream", f"echo={url}")
    config = yaml.safe_load(printed(run, "bootstrap", "ads", "--xds", f"127.0.0.1:{xds}"))
    with contextlib.closing(upstream), Command("serve", "rules.yaml", *ports) as serve, foreign_envoy(config):
        address = ("127.0.0.1", listen)
        wait_for(lambda: get(address, "/mock").body == b"mock")
        assert get(address, "/x", ("x-status", "503")).body == b"busy"
        assert get(address, "/x", ("x-status", "404")).body == Upstream.BODY
        Path("rules.yaml").write_text(f"listen: 127.0.0.1:{listen}\n{RULES.replace('busy', 'edited')}")
        wait_for(lambda: get(address, "/x", ("x-status", "503")).body == b"edited")
        serve.process.send_signal(signal.SIGTERM)
        assert serve.ended() == 0


BESIDE: Final = """\
rules:
  - {name: theirs, match: {routes: [theirs]}, final: true, enable_on_status: [503], body: scoped}
  - {name: mock, match: {domains: [mock.test]}, body: mock}
  - {name: busy, enable_on_status: [503], body: busy}
  - {name: missing, match: {domains: ["*.test"]}, enable_on_status: [404], body: every}
"""


def hand_written(listen: int, upstream: tuple[str, int], filters: Any, *clusters: Any) -> Any:
    """An operator's own Envoy configuration, with what `bootstrap` prints pasted in."""
    config: Any = yaml.safe_load(
        f"""
        node: {{id: theirs, cluster: theirs}}
        static_resources:
          listeners:
          - name: theirs
            address: {{socket_address: {{address: 127.0.0.1, port_value: {listen}}}}}
            filter_chains:
            - filters:
              - name: envoy.filters.network.http_connection_manager
                typed_config:
                  "@type": "type.googleapis.com/envoy.extensions.filters.network.\\
                    http_connection_manager.v3.HttpConnectionManager"
                  stat_prefix: theirs
                  route_config:
                    virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes:
                      - {{name: theirs, match: {{prefix: /theirs}}, route: {{cluster: backend}}}}
                      - {{name: others, match: {{prefix: /}}, route: {{cluster: backend}}}}
                  http_filters:
                  - name: envoy.filters.http.router
                    typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          clusters:
          - name: backend
            load_assignment:
              cluster_name: backend
              endpoints:
              - lb_endpoints:
                - endpoint: {{address: {{socket_address: {{address: {upstream[0]}, port_value: {upstream[1]}}}}}}}
        """
    )
    resources = config["static_resources"]
    resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"][:0] = filters
    resources["clusters"] += itertools.chain(*clusters)
    return config


@pytest.mark.parametrize(
    "how",
    [
        "bootstrap ext_proc rules.yaml",
        "bootstrap ext_proc",
        "bootstrap module rules.yaml",
        "bootstrap module rules.yaml --remote",
        "bootstrap module",
    ],
)
def test_a_hand_written_envoy_with_the_printed_filters_answers_as_the_rules_say(run: Run, how: str) -> None:
    xds, ext_proc, module, listen = free_port(), free_port(), free_port(), free_port()
    upstream = Upstream()
    Path("rules.yaml").write_text(BESIDE)
    how += f" http://127.0.0.1:{module}/librejoinder.so" if how.endswith("--remote") else ""
    here = ["--xds", f"127.0.0.1:{xds}", "--ext-proc-advertise", f"127.0.0.1:{ext_proc}"]
    code, out, _ = run(*how.split(), *here)  # a warning says that the route is somebody else's
    assert code == 0
    config = hand_written(listen, upstream.address, *map(yaml.safe_load, out.split("\n\n")))
    ports = ("--xds", f"127.0.0.1:{xds}", "--ext-proc", f"127.0.0.1:{ext_proc}", "--module", f"127.0.0.1:{module}")
    address = ("127.0.0.1", listen)
    environ = {} if "--remote" in how else {"ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(library.LIBRARY.parent)}

    def said(host: str, path: str, status: int) -> tuple[int, bytes]:
        response = ask(address, "GET", host, path, [("x-status", str(status))])
        return response.status, response.body

    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(upstream))
        serve = stack.enter_context(Command("serve", "rules.yaml", *ports))
        serve.wait_until_said("serving:")  # the module is fetched once
        stack.enter_context(foreign_envoy(config, environ))
        # Envoy takes each filter by itself.
        wait_for(lambda: said("mock.test", "/", 200) == (200, b"mock"))
        wait_for(lambda: said("a.test", "/others", 503) == (503, b"busy"))
        before = len(upstream.requests)
        assert said("mock.test", "/x", 503) == (200, b"mock")
        assert len(upstream.requests) == before
        assert said("a.test", "/theirs", 503) == (503, b"scoped")
        assert said("a.test", "/others", 503) == (503, b"busy")
        assert said("a.test", "/others", 404) == (404, b"every")
        assert said("a.test", "/theirs", 404) == (404, Upstream.BODY)
        assert said("a.example", "/others", 404) == (404, Upstream.BODY)
        if "rules.yaml" not in how:  # it follows `serve`
            kept = http.client.HTTPConnection(*address, timeout=SECONDS)
            kept.request("GET", "/others", headers={"host": "a.test", "x-status": "503"})
            assert kept.getresponse().read() == b"busy"
            connection = kept.sock
            Path("rules.yaml").write_text(BESIDE.replace("busy}", "edited}").replace("[404]", "[404, 410]"))
            wait_for(lambda: said("a.test", "/others", 503) == (503, b"edited"))
            # No listener was replaced: the connection of before lives on, and has the rules of now.
            kept.request("GET", "/others", headers={"host": "a.test", "x-status": "503"})
            assert kept.getresponse().read() == b"edited"
            assert kept.sock is connection
            kept.close()
            wait_for(lambda: said("a.test", "/others", 410) == (410, b"every"))


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        pytest.param("rules: [{name: r, enable_on_status: [503], body: x}]", ["rules"], id="statuses"),
        pytest.param("rules: [{name: r, body: x}]", ["rules", "requests"], id="requests"),
        pytest.param(
            "rules: [{name: r, match: {domains: [a.test]}, enable_on_status: [503], body: x}]",
            ["host", "rules"],
            id="hosts",
        ),
        pytest.param("rules: [{name: r, enable_on_status: [503], handler: m:f}]", ["rules", "requests"], id="handlers"),
    ],
)
def test_bootstrap_ext_proc_prints_the_filters_that_the_rules_need(run: Run, rules: str, names: list[str]) -> None:
    Path("rules.yaml").write_text(rules)
    filters = yaml.safe_load(printed(run, "bootstrap", "ext_proc", "rules.yaml").split("\n\n")[0])
    assert [each["name"] for each in filters] == [f"rejoinder.ext_proc.{name}" for name in names]


def test_bootstrap_says_that_routes_of_the_files_count_for_nothing_there(run: Run) -> None:
    code, _, err = run("bootstrap", "ext_proc", "rules.yaml")
    assert code == 0
    assert "the routes of these files (own, all) count for nothing in an Envoy with routes of its own" in err


def test_bootstrap_ads_takes_no_rules(run: Run) -> None:
    code, out, err = run("bootstrap", "ads", "rules.yaml")
    assert (code, out) == (1, "")
    assert err == "rejoinder: bootstrap ads takes no rule files: `rejoinder serve` has them\n"


def test_bootstrap_of_wrong_rules_prints_what_is_wrong(run: Run) -> None:
    Path("rules.yaml").write_text("rules: [{name: r, boddy: x}]")
    code, out, err = run("bootstrap", "ext_proc", "rules.yaml")
    assert (code, out) == (1, "")
    assert err.startswith("rules.yaml:1: error: ")


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
