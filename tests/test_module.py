"""The dynamic module, without an Envoy: what it is told, what it makes of that, and its C under sanitizers."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rejoinder.cli.placement import Chosen, choose
from rejoinder.envoy import find
from rejoinder.envoy.module import library
from rejoinder.envoy.module.config import ConfigError, ReplyConfig, RouteConfig, decode
from rejoinder.rules.answers import AnswerTable, Choice, Reply, answer_table, reply
from rejoinder.rules.model import STATUSES, Answer, Header, Rule, StatusPattern
from rejoinder.xds.translate import Placement
from rejoinder.xds.translate.module import route_config

HARNESS = Path(__file__).parent / "harness"


def given_by(config: RouteConfig, status: int) -> tuple[str, Reply] | str | None:
    """What the module does with a status (table.c and filter.c say the same in C)."""

    def fits(each: ReplyConfig) -> bool:
        return any(first <= status <= last for first, last in each.statuses or ())

    found = next((each for each in config.replies if fits(each)), None)
    found = found or next((each for each in config.replies if each.statuses is None), None)
    if found is None:
        return None
    return found.handler or (found.rule, Reply(found.status or status, found.headers, found.body))


def wanted(table: AnswerTable, status: int) -> tuple[str, Reply] | str | None:
    choice = table.choose(status)
    if choice is None:
        return None
    return choice.answer.handler or (choice.rule, reply(choice.answer, status))


headers: st.SearchStrategy[tuple[Header, ...]] = st.lists(
    st.tuples(st.sampled_from(("x-a", "x-b", "content-type")), st.text("ab ü%", max_size=3)), max_size=3
).map(tuple)
patterns = st.sampled_from(("5", "50", "503", "4", "404", "2", "204", "304")).map(StatusPattern)
answers = st.one_of(
    st.builds(
        Answer,
        status_code=st.sampled_from((None, 200, 204, 503)),
        headers=headers,
        body=st.sampled_from((b"", b"text", b"{}", b"\xff\x00", "grün".encode())),
        enable_on_status=st.lists(patterns, max_size=3).map(tuple),
    ),
    st.builds(Answer, enable_on_status=st.lists(patterns, min_size=1).map(tuple), handler=st.just("pages:page")),
)
rules = st.builds(
    Rule,
    name=st.sampled_from(("one", "two")),
    answers=st.lists(answers, min_size=1, max_size=4).map(tuple),
    fallthrough=st.booleans(),
)


@given(st.lists(rules, min_size=1, max_size=3))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_module_is_told_for_every_status_what_the_table_says(rules: list[Rule]) -> None:
    table = answer_table(rules)
    config = decode(route_config(table, "route-a").encode())
    assert config.route == "route-a"
    for status in (*STATUSES, 600, 999):
        assert given_by(config, status) == wanted(table, status)


def test_a_route_is_told_the_same_answer_once() -> None:
    answer = Answer(None, (), b"sorry", (StatusPattern("5"),))
    table = answer_table([Rule("errors", (answer,))])
    assert json.loads(route_config(table, "")) == {
        "replies": [
            {
                "rule": "errors",
                "headers": [["content-type", "text/plain; charset=utf-8"]],
                "body": "sorry",
                "statuses": [[500, 599]],
            }
        ]
    }


def test_original_as_the_default_has_no_body_where_there_cannot_be_one() -> None:
    table = AnswerTable(default=Choice("all", Answer(None, (), b"body")))
    config = decode(route_config(table, "").encode())
    assert given_by(config, 204) == ("all", Reply(204, (), b""))
    assert given_by(config, 418) == ("all", Reply(418, (("content-type", "text/plain; charset=utf-8"),), b"body"))


def config(**reply: object) -> str:
    return json.dumps({"replies": [{"rule": "r", **reply}]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "expected JSON", id="empty"),
        pytest.param("[" * 100_000, "expected JSON", id="too-deep"),
        pytest.param("[]", "the configuration: expected an object", id="no-object"),
        pytest.param("{}", "replies: expected a list, got None", id="no-replies"),
        pytest.param('{"replies": [], "x": 1}', "expected one of route, replies, got 'x'", id="unknown-field"),
        pytest.param('{"replies": [{}]}', r"replies\[0\].rule: expected a string", id="no-rule"),
        pytest.param(config(bodi="x"), r"replies\[0\]: expected one of rule, .*, got 'bodi'", id="misspelled"),
        pytest.param(config(status=99), "status: expected a status from 200 to 599, got 99", id="status-low"),
        pytest.param(config(status=503.5), "expected a status", id="status-fraction"),
        pytest.param(config(status=True), "expected a status", id="status-boolean"),
        pytest.param(config(statuses=[503]), "statuses: expected a list", id="no-ranges"),
        pytest.param(config(statuses=[[500, 599, 1]]), "pairs of a first and a last", id="no-pair"),
        pytest.param(config(headers=[["a b", "c"]]), "expected a header name", id="header-name"),
        pytest.param(config(headers=[["a", "b\r\nc"]]), "without line breaks", id="header-value"),
        pytest.param(config(headers=[["Content-Length", "1"]]), "not an answer's to set", id="content-length"),
        pytest.param(config(body="\ud800"), "body: expected a string", id="surrogate"),
        pytest.param(config(body_base64="?"), "body_base64", id="base64"),
        pytest.param(config(handler="os"), "expected package.module:function", id="handler"),
    ],
)
def test_reject_a_configuration(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decode(text.encode())


def test_numbers_may_have_gone_through_a_protobuf_struct() -> None:
    (reply,) = decode(config(status=503.0, statuses=[[500.0, 599.0]]).encode()).replies
    assert (reply.status, reply.statuses) == (503, ((500, 599),))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        pytest.param(
            "envoy  version: 0a/1.39.2/Clean/RELEASE/BoringSSL", r"Envoy 1\.40 .*this one is 1\.39\.2", id="old"
        ),
        pytest.param("hello", "expected an Envoy that tells its version", id="no-envoy"),
    ],
)
def test_the_module_is_not_for_every_envoy(tmp_path: Path, output: str, message: str) -> None:
    binary = tmp_path / "envoy"
    binary.write_text(f"#!/bin/sh\necho '{output}'\n")
    binary.chmod(0o755)
    with pytest.raises(library.ModuleUnavailableError, match=message):
        library.find(binary)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "not compiled when Rejoinder was installed", id="missing"),
        pytest.param(b"not a library", "cannot be loaded", id="broken"),
    ],
)
def test_a_module_that_cannot_be_loaded_is_unavailable(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "librejoinder.so"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(library.ModuleUnavailableError, match=message):
        library.find(Path("/bin/true"), file)


@pytest.mark.parametrize(
    ("asked", "placement", "reason"),
    [
        pytest.param("ext_proc", Placement.EXT_PROC, "", id="ext_proc-is-asked-for"),
        pytest.param(None, Placement.EXT_PROC, "/bin/false: expected an Envoy", id="the-module-cannot-be-loaded"),
    ],
)
def test_without_the_module_ext_proc_is_chosen_and_says_why(
    asked: str | None, placement: Placement, reason: str
) -> None:
    chosen = choose(asked, Path("/bin/false"))
    assert chosen.placement is placement
    assert chosen.why_not_module.startswith(reason)
    assert bool(chosen.why_not_module) == bool(reason)


def test_the_module_is_chosen_where_it_can_be_loaded() -> None:
    assert choose(None, find().path) == Chosen(Placement.MODULE)


def test_the_module_that_was_asked_for_and_cannot_be_loaded_is_an_error() -> None:
    with pytest.raises(library.ModuleUnavailableError, match="expected an Envoy"):
        choose("module", Path("/bin/false"))


def test_the_environment_keeps_what_was_there() -> None:
    variables = library.environment(Path("/m/librejoinder.so"), [Path("/a"), Path("/b")], {"PYTHONPATH": "/mine"})
    assert variables["ENVOY_DYNAMIC_MODULES_SEARCH_PATH"] == "/m"
    assert variables["PYTHONPATH"].startswith("/mine:")
    assert variables["REJOINDER_HANDLER_PATH"] == "/a:/b"


def test_abi_version_is_said_once_in_c_and_once_in_python() -> None:
    assert f'"{library.ABI_VERSION}"' in (Path(library.__file__).parent / "abi.h").read_text()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C code in a host of ours, built with AddressSanitizer and UBSan."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    binary = tmp_path_factory.mktemp("host") / "host"
    sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    warnings = ("-Wall", "-Wextra", "-Werror", "-Wno-unused-function")
    subprocess.run(["gcc", "-g", "-O1", *sanitizers, *warnings, HARNESS / "host.c", "-o", binary], check=True)
    return binary


SCENARIOS = sorted((HARNESS / "corpus").iterdir())


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name)
def test_c_code_does_what_the_scenario_says(host: Path, scenario: Path) -> None:
    subprocess.run([host, scenario], check=True)


def test_c_code_survives_mutated_scenarios(host: Path) -> None:
    subprocess.run([host, "-mutate", "500", *SCENARIOS], check=True)
