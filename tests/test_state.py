"""`--state`: the last set that Envoys have accepted is there at a start over files that cannot be used."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from gateway import wait_for
from last_good import UNUSABLE, address_of, tenant, up
from machine import ask
from states import (
    ACCEPTED,
    BROKEN,
    PUBLISHED,
    _file,  # noqa: F401 - a fixture
    kept,
    metric,
    started,
    state_of,
)
from test_control import Choosy, until
from test_serve_lasts import rule

from rejoinder.cli import last_good
from rejoinder.cli.control import Control
from rejoinder.cli.last_good import LastGood, Saved
from rejoinder.rules.model import Endpoint
from rejoinder.xds.translate import Settings

BESIDE: Final = "rules: [{name: only, match: {path: /x}, body: first}]\n"
"""Of manifests."""


def breaks(path: Path, content: str | None) -> None:
    if content is None:
        path.unlink()
    else:
        path.write_text(content)


@pytest.mark.parametrize("broken", [BROKEN, "", None], ids=["broken", "empty", "missing"])
def test_a_start_over_files_that_cannot_be_used_serves_the_last_good_ones_and_says_so(
    file: Path, broken: str | None
) -> None:
    file.write_text(rule("first"))
    with started(file) as serve:
        serve.follows("second")
        version = serve.status()["version"]
        kept(file, "second")
        assert metric(serve, "rejoinder_last_good_served") == "0.0"
    breaks(file, broken)
    with started(file, ends=1) as serve:
        status = serve.status()
        assert status["version"] == version
        assert str(file) in status["problems"][0]
        assert status["last_good"] == {
            "kept_in": str(state_of(file)),
            "served": status["last_good"]["served"],
            "trouble": None,
        }
        assert status["last_good"]["served"]
        assert metric(serve, "rejoinder_last_good_served") == "1.0"
        assert b"the last good set is served" in ask(serve.admin, "GET", "localhost", "/").body
    assert "THE FILES CANNOT BE USED: serving the last good set, of " in serve.said
    with started(file) as serve:
        assert serve.status()["last_good"]["served"]
        serve.follows("mended")
        assert serve.status()["last_good"]["served"] is None
        assert metric(serve, "rejoinder_last_good_served") == "0.0"


def test_up_has_it_too(file: Path) -> None:
    file.write_text(rule("first"))
    options = ("--state", str(state_of(file)), "--listen", "127.0.0.1:0")
    for code in (0, 1):
        with up(file, *options, ends=code) as process:
            assert ask(address_of(process), "GET", "a.test", "/").body == b"first"
            kept(file, "first", name=ACCEPTED)
        file.write_text(BROKEN)
    assert [path.name for path in state_of(file).iterdir()] == [ACCEPTED]


# --- what is kept ---


def test_of_what_else_is_in_the_folder_only_its_own_leftovers_go(tmp_path: Path) -> None:
    for name in ("rules.yaml.new", "accepted-x.new", "published-x.new", "accepted.new"):
        (tmp_path / name).touch()
    assert LastGood(tmp_path).read(lambda _: None) is None
    assert {path.name for path in tmp_path.iterdir()} == {"rules.yaml.new", "accepted.new"}


class Kept:
    """A control plane that has started over a folder; nobody connects."""

    def __init__(self, folder: Path) -> None:
        settings = Settings(Endpoint("127.0.0.1", 1))
        self.state = folder.parent / "state"
        self.control = Control([folder], [], settings, processor=Choosy(1), state=self.state)
        self.control.start()

    @property
    def version(self) -> str:
        return self.control.current.snapshot.version if self.control.current else ""

    def keep(self, then: Callable[[], bool] = lambda: True) -> None:
        """Follow the files until something is so, and keep what they say."""

        async def main() -> None:
            following = asyncio.create_task(self.control.follow())
            await asyncio.sleep(0.01)
            await until(then)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

        asyncio.run(main())


def test_all_files_of_a_set_are_kept_with_what_they_held_for_their_owner_alone(file: Path) -> None:
    folder = file.parent
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subject = ("-subj", "/CN=one.test", "-keyout", str(key), "-out", str(certificate))
    command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *subject)
    subprocess.run(command, check=True, capture_output=True)
    (folder / "page.bin").write_bytes(bytes(range(256)) + "\U0001f600é".encode() + b"\xed\xa0\xbd\xed\xb8\x80")
    file.write_text(
        "listen: {address: 127.0.0.1:0, certificate: cert.pem, key: key.pem}\n"
        "rules: [{name: page, match: {path: /x}, body_file: page.bin}]\n"
    )
    (folder / "one.yaml").write_text(tenant("one"))
    first = Kept(folder)
    first.keep()
    assert first.version
    for path in folder.iterdir():
        path.unlink()
    again = Kept(folder)
    assert again.version == first.version
    assert again.control.last_good.served
    assert first.state.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in first.state.iterdir()] == [0o600]


def test_what_somebody_removes_is_written_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_good, "RETRY_SECONDS", 0.01)
    file.write_text(rule("first"))
    served = Kept(file.parent)
    stored = served.state / PUBLISHED
    removals = iter((stored.unlink, functools.partial(shutil.rmtree, served.state)))

    def is_there_after_all() -> bool:
        if not stored.exists():
            return False
        if (remove := next(removals, None)) is not None:
            remove()
        return remove is None

    served.keep(is_there_after_all)


@pytest.mark.parametrize("content", UNUSABLE.values(), ids=UNUSABLE.keys())
@pytest.mark.parametrize("rules", [BROKEN, BESIDE], ids=["with-rules-that-broke", "alone"])
def test_a_manifest_that_broke_meanwhile_goes_on_as_it_was(file: Path, content: str | bytes, rules: str) -> None:
    file.write_text(BESIDE)
    (file.parent / "one.yaml").write_text(tenant("one"))
    first = Kept(file.parent)
    first.keep()
    file.write_text(rules)
    (file.parent / "one.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    again = Kept(file.parent)
    assert again.version == first.version
    assert bool(again.control.last_good.served) is (rules == BROKEN)
    again.keep()
    assert Kept(file.parent).version == first.version


def test_what_was_in_force_of_a_manifest_that_was_broken_already_is_part_of_the_set(file: Path) -> None:
    one, two = file.parent / "one.yaml", file.parent / "two.yaml"
    file.write_text(BESIDE)
    one.write_text(tenant("one"))
    two.write_text(tenant("two"))
    first = Kept(file.parent)
    one.write_text("metadata: {{ .Values.name }}\n")
    two.write_text(tenant("two", "second"))
    before = first.version
    first.keep(lambda: first.version != before)
    file.write_text(BROKEN)
    for _ in range(2):
        again = Kept(file.parent)
        assert again.version == first.version
        again.keep()


def test_rules_are_kept_wherever_serve_is_started(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(rule("first"))
    monkeypatch.chdir(file.parent.parent)
    first = Kept(Path("rules"))
    first.keep()
    file.unlink()
    monkeypatch.chdir(file.parent)
    control = Control([file], [], first.control.settings, processor=Choosy(1), state=first.control.last_good.folder)
    control.start()
    assert control.current
    assert control.current.snapshot.version == first.version


# --- what is not used ---


def signed(**changes: Any) -> Callable[[Path], object]:
    def sign(path: Path) -> None:
        value = json.loads(path.read_bytes().partition(b"\n")[2]) | changes
        text = json.dumps(value).encode() + b"\n"
        path.write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)

    return sign


def replaced(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def replace(path: Path) -> None:
        path.rename(path.with_name("away"))
        make(path)

    return replace


DAMAGES: Final[dict[str, tuple[Callable[[Path], object], str]]] = {
    "a byte": (lambda path: path.write_bytes(path.read_bytes().replace(b"first", b"fxrst")), "it is damaged"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "it is damaged"),
    "half": (lambda path: path.write_bytes(path.read_bytes()[:70]), "it is damaged"),
    "empty": (lambda path: path.write_bytes(b""), "it is damaged"),
    "another version": (signed(rejoinder="0.0.9"), "it is of Rejoinder 0.0.9"),
    "another form": (signed(loads={}), "ValueError"),
    "rules that cannot be used": (signed(loads=[{}]), "does not exist"),
    "a link": (replaced(lambda path: path.symlink_to("away")), "Too many levels of symbolic links"),
    "a pipe": (replaced(os.mkfifo), "it is no file"),
    "for everybody": (lambda path: path.chmod(0o666), "another user may write it"),
    "of another user": (lambda path: os.chown(path, 12345, -1), "it belongs to another user"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES.keys())
def test_what_is_damaged_is_never_served_and_that_is_said(
    file: Path, damage: Callable[[Path], object], said: str, request: pytest.FixtureRequest
) -> None:
    if "of another user" in request.node.name and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    file.write_text(rule("first"))
    first = Kept(file.parent)
    first.keep()
    damage(first.state / PUBLISHED)
    file.write_text(BROKEN)
    again = Kept(file.parent)
    assert again.version == ""
    problems = [str(problem) for problem in again.control.problems]
    assert any(f"{first.state}/{PUBLISHED}:" in problem and said in problem for problem in problems), problems
    file.write_text(rule("mended"))
    again.keep(lambda: bool(again.version))
    assert Kept(file.parent).control.problems == ()


@pytest.mark.parametrize("ours", [True, False])
def test_a_group_of_its_own_may_write_it_as_volumes_of_kubernetes_have_it(file: Path, ours: bool) -> None:
    if not ours and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    file.write_text(rule("first"))
    first = Kept(file.parent)
    first.keep()
    (first.state / PUBLISHED).chmod(0o660)
    os.chown(first.state / PUBLISHED, -1, os.getegid() if ours else 12345)
    file.write_text(BROKEN)
    assert bool(Kept(file.parent).version) is ours


def test_if_the_latest_is_damaged_the_one_before_is_served(file: Path) -> None:
    file.write_text(rule("first"))
    first = Kept(file.parent)
    first.keep()
    (first.state / PUBLISHED).rename(first.state / ACCEPTED)
    (first.state / PUBLISHED).write_text("damaged")
    file.write_text(BROKEN)
    again = Kept(file.parent)
    assert again.version == first.version
    assert f"{first.state}/{PUBLISHED}" in str(again.control.problems[-1])


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_set_or_the_new_one(file: Path) -> None:
    """Megabytes are written all the time, and hardly ever anything else."""
    chance, pages = random.Random(14), [file.with_name(name) for name in ("one", "two", "three")]

    def recall(saved: Saved) -> None:
        assert {*saved.loads[-1]} == {file, *pages}

    def edit(page: Path) -> None:
        page.with_suffix(".new").write_bytes(chance.randbytes(1) * 1_000_000)
        page.with_suffix(".new").replace(page)

    rules = (f"{{name: {page.name}, match: {{path: /{page.name}}}, body_file: {page.name}}}" for page in pages)
    file.write_text(f"rules: [{', '.join(rules)}]\n")
    for page in pages:
        edit(page)

    def writes() -> bool:
        return any(state_of(file).glob("*.new"))

    def is_stopped_in_the_middle(process: subprocess.Popen[str]) -> bool:
        edit(chance.choice(pages))
        soon = time.monotonic() + 0.1
        while time.monotonic() < soon and not writes():
            pass
        time.sleep(chance.random() / 200)
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if not writes():
            process.send_signal(signal.SIGCONT)
        return writes()

    for _ in range(3):
        with started(file, ends=None) as serve:
            wait_for(lambda: any(state_of(file).iterdir()))
            wait_for(functools.partial(is_stopped_in_the_middle, serve.process), serve.process)
        assert writes()
        last_good = LastGood(state_of(file))
        last_good.read(recall)
        assert last_good.problems == ()
        assert not writes()
