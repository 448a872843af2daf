"""Following edits, whatever they hold and whatever goes wrong: nothing ends it; the previous rules stay in force."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from edits import TEXT, edited
from machine import SECONDS

from rejoinder.cli import control, making
from rejoinder.cli.control import MOST_PRINTED, Control
from rejoinder.extproc import Workers
from rejoinder.rules.load import Loaded, load
from rejoinder.rules.model import Endpoint, Ruleset
from rejoinder.rules.program import Program
from rejoinder.xds.translate import Settings

SETTINGS: Final = Settings(Endpoint("127.0.0.1", 1))


def rule(body: str) -> str:
    return f"rules: [{{name: only, body: {body}}}]\n"


class Choosy(Workers):
    """Refuses a program with a rule called `refused`."""

    published: Program | None = None

    def publish(self, program: Program) -> None:
        if "refused" in repr(program):
            raise RuntimeError("not this one")
        self.published = program


def choosy(ruleset: Ruleset) -> Ruleset:
    for rule in ruleset.rules:
        match rule.name:
            case "odd":
                raise RuntimeError("a mistake of ours")
            case "large":
                raise MemoryError
    return ruleset


@contextlib.asynccontextmanager
async def following(*sources: Path) -> AsyncIterator[Control]:
    followed = Control(sources, [], SETTINGS, processor=Choosy(1), adjust=choosy)
    followed.start()
    assert followed.current
    task = asyncio.create_task(followed.follow())
    try:
        yield followed
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param("rules: [{name: odd, body: x}]\n", id="built"),
        pytest.param("rules: [{name: refused, enable_on_status: [503], body: x}]\n", id="published"),
        pytest.param("rules: [{name: large, body: x}]\n", id="no-memory"),
    ],
)
def test_what_is_raised_after_an_edit_is_logged_and_counted_and_changes_nothing(
    tmp_path: Path, edit: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(rule("before"))
    monkeypatch.setattr(control, "RETRY_SECONDS", 0.05)

    async def main() -> None:
        async with following(file) as followed:
            before = followed.status()["version"]
            file.write_text(edit)
            await until(lambda: followed.status()["reload_failures"] > 0)
            assert followed.status()["version"] == before
            assert 'rejoinder_reloads_total{result="failed"} 1.0' in followed.metrics.text().decode()
            file.write_text(rule("after"))
            await until(lambda: followed.status()["version"] != before)
            assert followed.status()["problems"] == []

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert caplog.records[0].exc_info


def test_what_is_raised_while_files_are_read_is_of_the_same_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake of ours in the loader, which only a broken loader shows."""
    file = tmp_path / "rules.yaml"
    file.write_text(rule("before"))

    def broken(*arguments: Any, **options: Any) -> Loaded:
        loaded = load(*arguments, **options)
        if "odd" in file.read_text():
            raise RecursionError
        return loaded

    monkeypatch.setattr(making, "load", broken)

    async def main() -> None:
        async with following(file) as followed:
            for number in (1, 2):
                file.write_text(rule("odd"))
                await until(lambda: bool(followed.status()["problems"]))
                assert followed.status()["reload_failures"] == number
                file.write_text(rule(f"v{number}"))
                await until(lambda: not followed.status()["problems"])
                assert _has(followed, f"v{number}")

    asyncio.run(main())


def test_a_load_that_fails_before_it_has_read_anything_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(rule("before"))
    failures = iter([False, True, True])

    def broken(*arguments: Any, **options: Any) -> Loaded:
        if next(failures, False):
            raise RecursionError
        return load(*arguments, **options)

    monkeypatch.setattr(making, "load", broken)
    monkeypatch.setattr(control, "RETRY_SECONDS", 0.05)

    async def main() -> None:
        async with following(file) as followed:
            file.write_text(rule("after"))
            await until(lambda: _has(followed, "after"))
            assert followed.status()["reload_failures"] == 2

    asyncio.run(main())


def test_what_manifests_said_is_known_after_a_mistake_of_ours(tmp_path: Path) -> None:
    plugin = (
        "apiVersion: extensions.higress.io/v1alpha1\nkind: WasmPlugin\n"
        "metadata: {name: page, namespace: higress-system}\n"
        "spec: {url: 'oci://x/custom-response', defaultConfig: {body: first}}\n"
    )
    rules, manifest = tmp_path / "rules.yaml", tmp_path / "plugin.yaml"
    rules.write_text("routes: []\n")
    manifest.write_text(plugin)

    async def main() -> None:
        async with following(tmp_path) as followed:
            rules.write_text("rules: [{name: odd, body: x, match: {path: /odd}}]\n")
            await until(lambda: followed.status()["reload_failures"] > 0)
            manifest.write_text(plugin.replace("body", "boddy: x, status_code"))
            rules.write_text("upstreams: {up: 'http://127.0.0.1:1'}\n")
            await until(lambda: followed.current is not None and bool(followed.current.ruleset.upstreams))
            assert _has(followed, "first")

    asyncio.run(main())


def test_the_program_and_the_snapshot_stay_together(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(rule("before"))

    async def main() -> None:
        async with following(file) as followed:
            assert isinstance(followed.processor, Choosy)
            before = followed.processor.published

            def refuse(_: object) -> None:
                followed.server.publish = publish  # type: ignore[method-assign]
                raise ValueError("inconsistent")

            publish = followed.server.publish
            followed.server.publish = refuse  # type: ignore[assignment,method-assign]
            file.write_text(rule("after"))
            await until(lambda: followed.status()["reload_failures"] > 0)
            assert followed.processor.published is before

    asyncio.run(main())


def test_of_very_many_problems_some_are_printed_errors_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(rule("before"))
    # A warning for each, as the first answers everything; and the last is wrong.
    many = [f"- {{name: r{number}, match: {{routes: [none{number}]}}, body: x}}\n" for number in range(150)]

    async def main() -> None:
        async with following(file) as followed:
            file.write_text("rules:\n" + "".join(many) + "- {name: wrong, boddy: x}\n")
            await until(lambda: len(followed.status()["problems"]) > MOST_PRINTED)

    asyncio.run(main())
    lines = capsys.readouterr().err.splitlines()
    assert "boddy" in lines[0]
    assert len([line for line in lines if line.startswith(str(file))]) == MOST_PRINTED
    assert "... these are 100 of 151; `rejoinder check` prints all" in lines


def test_after_any_edits_it_is_alive_and_follows(tmp_path: Path) -> None:
    chance = random.Random(15)
    folder = tmp_path / "rules"
    folder.mkdir()
    file, page = folder / "rules.yaml", folder / "page"
    file.write_text(TEXT)
    page.write_text("sorry")
    odd = [b"\xff.yaml", b"b.json", b"c.yml", b"\xff"]

    async def main() -> None:
        async with following(folder) as followed:
            for number in range(12):
                for _ in range(8):
                    match chance.randrange(6):
                        case 0:
                            with contextlib.suppress(FileNotFoundError):
                                page.unlink()
                        case 1:
                            page.write_bytes(chance.randbytes(9))
                        case 2:
                            path = folder / Path(chance.choice(odd).decode("utf-8", "surrogateescape"))
                            path.write_bytes(edited(b"rules: [{name: more, body: x}]", chance))
                        case _:
                            file.write_bytes(edited(TEXT.encode(), chance))
                    await asyncio.sleep(chance.random() * 0.08)
                for other in folder.iterdir():
                    if other not in {file, page}:
                        other.unlink()
                file.write_text(rule(f"alive-{number}"))
                await until(functools.partial(_has, followed, f"alive-{number}"))

    asyncio.run(main())


def _has(followed: Control, body: str) -> bool:
    current = followed.current
    return current is not None and [rule.answers[0].body for rule in current.ruleset.rules] == [body.encode()]
