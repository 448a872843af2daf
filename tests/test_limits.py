"""What is too large, too many or without an end is an error that says the limit, soon and in little memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

import pytest
from machine import SECONDS, limited

from rejoinder.rules import load as loading
from rejoinder.rules.document import MAX_WEIGHT
from rejoinder.rules.fields import MAX_ITEMS
from rejoinder.rules.files import MAX_FILE_SIZE, MAX_RULE_FILES, MAX_TOTAL_SIZE, Files, fingerprint
from rejoinder.rules.kubernetes.gateway_api import MAX_ROUTES
from rejoinder.rules.load import load
from rejoinder.rules.reload import Memory

MEMORY: Final = 1 << 30
"""Of addresses: a Python with some libraries has a tenth of it."""
BESIDE: Final = "rules: [{name: only, body_file: beside}]\n"


def _huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 2_000_000_000)


def _zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _folder(path: Path) -> None:
    path.mkdir()
    for number in range(MAX_RULE_FILES + 1):
        (path / f"{number}.yaml").touch()


def _total(path: Path) -> None:
    path.mkdir()
    for number in range(MAX_TOTAL_SIZE // MAX_FILE_SIZE + 1):
        (path / f"{number}.yaml").write_bytes(b"rules: []\n" + b"#" * (MAX_FILE_SIZE - 10))


def _documents(path: Path) -> None:
    path.write_text("--- [a, b]\n" * (MAX_WEIGHT // 3 + 1))


def _bomb(path: Path) -> None:
    lines = (f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
    path.write_text("a0: &a0 [x]\n" + "".join(lines))


def _rules(path: Path) -> None:
    path.write_text("rules:\n" + "- {}\n" * (MAX_ITEMS * 4))


def _routes(path: Path) -> None:
    path.write_text("routes:\n" + "- {}\n" * (MAX_ITEMS * 4))


SOURCES: Final[dict[str, tuple[Callable[[Path], None], str]]] = {
    "2 GB": (_huge, f"is 2,000,000,000 bytes large; the limit is {MAX_FILE_SIZE:,}"),
    "no end": (_zero, "is not a regular file"),
    "a pipe": (os.mkfifo, "is not a regular file"),
    "a folder of many": (_folder, f"has more than {MAX_RULE_FILES:,} rule files"),
    "large ones together": (_total, f"is too much: all files together may have {MAX_TOTAL_SIZE:,} bytes"),
    "many documents": (_documents, f"too large: more than {MAX_WEIGHT:,} entries with all aliases expanded"),
    "a bomb": (_bomb, f"too large: more than {MAX_WEIGHT:,} entries with all aliases expanded"),
    "many rules": (_rules, f"expected at most {MAX_ITEMS:,} entries, got {MAX_ITEMS * 4:,}"),
    "many routes": (_routes, f"expected at most {MAX_ITEMS:,} entries, got {MAX_ITEMS * 4:,}"),
}


def checked(source: str, stdin: int | IO[bytes] = subprocess.DEVNULL) -> str:
    """What `check` says, which reads as all commands do."""
    command = limited([sys.executable, "-m", "rejoinder.cli", "check", source], **{"as": MEMORY})
    done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, timeout=2 * SECONDS, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(("make", "said"), SOURCES.values(), ids=SOURCES.keys())
def test_a_source_without_end_is_an_error_with_the_limit(
    tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    source = tmp_path / "rules.yaml"
    make(source)
    assert said in checked(str(source))


@pytest.mark.parametrize("kind", ["2 GB", "no end", "a pipe"])
def test_so_is_a_file_beside_the_rules(tmp_path: Path, kind: str) -> None:
    make, said = SOURCES[kind]
    make(tmp_path / "beside")
    (tmp_path / "rules.yaml").write_text(BESIDE)
    assert f'rule "only": body_file: "beside" {said}' in checked(str(tmp_path / "rules.yaml"))


def test_so_is_standard_input() -> None:
    with open("/dev/zero", "rb") as endless:
        assert f"bytes large; the limit is {MAX_FILE_SIZE:,}" in checked("-", stdin=endless)


def test_a_pipe_in_place_of_a_file_that_was_just_looked_at_holds_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rules.yaml"
    file.touch()
    stat = os.stat(file)
    file.unlink()
    os.mkfifo(file)
    monkeypatch.setattr(os, "stat", lambda _: stat)
    assert fingerprint(file) == "is not a regular file"


def test_rules_are_counted_over_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "MAX_ITEMS", 100)
    for number in range(3):
        rules = "".join(f"- {{match: {{path: /{number}/{part}}}, body: x}}\n" for part in range(40))
        (tmp_path / f"{number}.yaml").write_text(f"rules:\n{rules}")
    assert load([tmp_path / "0.yaml", tmp_path / "1.yaml"]).ruleset
    loaded = load([tmp_path])
    assert loaded.ruleset is None
    assert [problem.position.file for problem in loaded.problems] == [str(tmp_path / "2.yaml")]
    assert "rules, routes and objects in all files together" in loaded.problems[0].message


@pytest.mark.parametrize("thing", ["routes: [{THINGS}]", "rules: [{THINGS}]"], ids=["routes", "pages"])
def test_what_may_have_been_meant_is_not_looked_for_without_end(tmp_path: Path, thing: str) -> None:
    upstreams = "".join(f"  known-{number}: http://127.0.0.1:80\n" for number in range(300))
    does = (
        "path: /{0}, upstream: lost-{0}"
        if "routes" in thing
        else "enable_on_status: [503], page: {{upstream: lost-{0}}}"
    )
    things = ", ".join(f"{{name: t{number}, {does.format(number)}}}" for number in range(300))
    (tmp_path / "rules.yaml").write_text(f"upstreams:\n{upstreams}{thing.replace('{THINGS}', things)}\n")
    said = [problem.message for problem in load([tmp_path / "rules.yaml"]).problems]
    assert len(said) == 300
    assert all("unknown upstream" in message for message in said)
    assert sum("known-0" in message for message in said) == 100  # 30,000 pairs of names


def test_what_was_too_much_is_another_when_it_changes_and_only_then(tmp_path: Path) -> None:
    _total(tmp_path / "rules")
    files = Files()
    load([tmp_path / "rules"], files=files)
    seen = files.fingerprints()
    assert {path: fingerprint(path) for path in seen} == seen
    last = max(seen)
    last.write_text("rules: []\n")
    assert fingerprint(last) != seen[last]


def test_an_httproute_that_would_be_very_many_routes_costs_itself(tmp_path: Path) -> None:
    """Matches times listeners times hostnames: 20 kB could be a million."""
    everybody = "allowedRoutes: {namespaces: {from: All}}"
    listeners = "".join(f"  - {{name: p{n}, port: {2000 + n}, protocol: HTTP, {everybody}}}\n" for n in range(101))
    route = (
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: NAME, namespace: a}\n"
        "spec:\n  parentRefs: [{name: g}]\n  hostnames: [NAME.test]\n  rules:\n"
    )
    rule = (
        "  - matches: [{path: {type: Exact, value: /N}}]\n"
        "    filters: [{type: RequestRedirect, requestRedirect: {hostname: b.test}}]\n"
    )
    rules = [rule.replace("N}", f"{number}}}") for number in range(MAX_ROUTES // 101 + 1)]
    text = (
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: a}\n"
        f"spec:\n  gatewayClassName: rejoinder\n  listeners:\n{listeners}"
    )
    for name, number in (("large", len(rules)), ("small", 2)):
        text += route.replace("NAME", name) + "".join(rules[:number])
    (tmp_path / "all.yaml").write_text(text)
    loaded = load([tmp_path], memory=Memory())
    assert loaded.ruleset
    assert {route.domains for route in loaded.ruleset.routes} == {("small.test",)}
    said = [str(complaint) for complaint in loaded.complaints]
    assert len(said) == 1
    assert f"it is 10,100 routes: expected at most {MAX_ROUTES:,}, and {MAX_ITEMS:,} of all HTTPRoutes" in said[0]
