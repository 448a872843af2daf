"""Watching real files. Nothing here measures time: a change that is missed runs into SECONDS."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import pytest
from machine import SECONDS

from rejoinder.rules import watch
from rejoinder.rules.load import Loaded, load
from rejoinder.rules.watch import changes

Watching = AsyncGenerator[Loaded, None]


def rule(body: str) -> str:
    return f"rules:\n- {{name: only, match: {{path: /a}}, body: {body}}}\n"


def body_of(loaded: Loaded) -> str:
    assert loaded.ruleset is not None, loaded.problems
    return loaded.ruleset.rules[0].answers[0].body.decode()


# Watches `source` while `scenario` runs.
def watching(source: Path, scenario: Callable[[Watching], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with aclosing(changes(load([source]), lambda: load([source]))) as stream:
            await scenario(stream)

    asyncio.run(asyncio.wait_for(run(), SECONDS))


# Starts to wait for the next load, and gives the watch a moment to be under way, so that it is not only the comparison
# at its start that sees the change. Correct in either case.
async def waiting(stream: Watching) -> asyncio.Task[Loaded]:
    async def following() -> Loaded:
        return await anext(stream)

    task = asyncio.create_task(following())
    await asyncio.sleep(0.2)
    return task


def edit_in_place(path: Path, text: str) -> None:
    path.write_text(text)


def rename_over(path: Path, text: str) -> None:
    beside = path.with_name(".tmp-" + path.name)
    beside.write_text(text)
    os.replace(beside, path)


def backup_and_create(path: Path, text: str) -> None:
    path.rename(path.with_name(path.name + "~"))
    path.write_text(text)


def remove_and_create(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


WAYS_TO_SAVE: Final = [edit_in_place, rename_over, backup_and_create, remove_and_create]


@pytest.mark.parametrize("save", WAYS_TO_SAVE, ids=lambda save: save.__name__)
@pytest.mark.parametrize("watched", ["file", "folder"])
def test_every_way_to_save_is_noticed_again_and_again(
    tmp_path: Path, watched: str, save: Callable[[Path, str], None]
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(rule("v0"))

    async def scenario(stream: Watching) -> None:
        for version in ("v1", "v2", "v3"):
            task = await waiting(stream)
            save(file, rule(version))
            loaded = await task
            while loaded.ruleset is None:  # seen between the steps of a save
                loaded = await anext(stream)
            assert body_of(loaded) == version

    watching(file if watched == "file" else tmp_path, scenario)


@pytest.mark.parametrize("steps", range(5))
def test_it_ends_in_whatever_moment_it_is_told(steps: int) -> None:
    async def main() -> None:
        event = asyncio.Event()
        happens = asyncio.create_task(watch._happens(event, 60))
        for _ in range(5):
            await asyncio.sleep(0)
        event.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        told = happens.cancel()
        await asyncio.wait([happens])
        assert happens.cancelled() == told

    asyncio.run(main())


def test_a_change_between_load_and_watch_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(rule("v0"))

    async def scenario(stream: Watching) -> None:
        file.write_text(rule("v1"))  # the watch starts with the first anext
        assert body_of(await anext(stream)) == "v1"
        file.write_text(rule("v2"))  # while the caller is busy
        assert body_of(await anext(stream)) == "v2"

    watching(file, scenario)


def test_a_config_map_swap_is_noticed(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()

    def generation(name: str, body: str) -> None:
        (mount / name).mkdir()
        (mount / name / "rules.yaml").write_text(rule(body))

    def swap(name: str) -> None:
        (mount / "..data_tmp").symlink_to(name)
        os.replace(mount / "..data_tmp", mount / "..data")

    generation("..2024_1", "v1")
    swap("..2024_1")
    (mount / "rules.yaml").symlink_to("..data/rules.yaml")

    async def scenario(stream: Watching) -> None:
        for number in (2, 3):
            task = await waiting(stream)
            generation(f"..2024_{number}", f"v{number}")
            swap(f"..2024_{number}")
            assert body_of(await task) == f"v{number}"

    watching(mount, scenario)


def test_a_link_upwards_into_a_folder_that_is_watched_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 10 * SECONDS)  # so that it is not that which notices
    (tmp_path / "below").mkdir()
    files = [tmp_path / "below" / "b.yaml", tmp_path / "a.yaml"]
    files[0].symlink_to("../linked.txt")
    targets = [tmp_path / "linked.txt", tmp_path / "a.yaml"]

    def write(version: str, *paths: Path) -> None:
        for path in paths:
            path.write_text(f"rules:\n- {{name: {path.stem}, match: {{path: /a}}, body: {version}}}\n")

    async def run() -> None:
        write("v0", *targets)
        async with aclosing(changes(load(files), lambda: load(files))) as stream:
            for target in targets * 2:
                task = await waiting(stream)
                write(f"{target.stem}-{task.get_name()}", target)
                assert (await task).ruleset is not None

    asyncio.run(asyncio.wait_for(run(), SECONDS))


def test_files_that_appear_and_vanish_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(rule("a"))

    async def scenario(stream: Watching) -> None:
        task = await waiting(stream)
        (tmp_path / "0.yaml").write_text("status_code: 404\n")
        loaded = await task
        assert loaded.ruleset is not None
        assert [one.name for one in loaded.ruleset.rules] == ["0/rule-1", "only"]
        task = await waiting(stream)
        (tmp_path / "0.yaml").unlink()
        assert body_of(await task) == "a"

    watching(tmp_path, scenario)


def test_a_missing_source_is_noticed_when_it_appears_with_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "not" / "yet" / "rules.yaml"

    async def scenario(stream: Watching) -> None:
        task = await waiting(stream)
        (tmp_path / "not").mkdir()
        await asyncio.sleep(0.2)
        file.parent.mkdir()
        await asyncio.sleep(0.2)
        file.write_text(rule("here"))
        assert body_of(await task) == "here"

    watching(file, scenario)


def test_a_renamed_folder_is_noticed(tmp_path: Path) -> None:
    for name, body in (("rules", "old"), ("next", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rules.yaml").write_text(rule(body))

    async def scenario(stream: Watching) -> None:
        task = await waiting(stream)
        (tmp_path / "rules").rename(tmp_path / "before")
        (tmp_path / "next").rename(tmp_path / "rules")
        loaded = await task
        assert body_of(loaded if loaded.ruleset else await anext(stream)) == "new"

    watching(tmp_path / "rules", scenario)


def test_body_files_are_watched_as_the_rules_name_them(tmp_path: Path) -> None:
    file, pages = tmp_path / "rules.yaml", tmp_path / "elsewhere"
    pages.mkdir()
    (pages / "one.html").write_text("one")
    (pages / "two.html").write_text("two")
    text = "body_file: elsewhere/{}\n"
    file.write_text(text.format("one.html"))

    async def scenario(stream: Watching) -> None:
        task = await waiting(stream)
        (pages / "one.html").write_text("one, edited")
        assert body_of(await task) == "one, edited"
        task = await waiting(stream)
        file.write_text(text.format("two.html"))
        assert body_of(await task) == "two"
        task = await waiting(stream)
        rename_over(pages / "two.html", "two, edited")
        assert body_of(await task) == "two, edited"

    watching(file, scenario)


def test_a_broken_load_is_yielded_and_its_repair_noticed(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(rule("v0"))

    async def scenario(stream: Watching) -> None:
        task = await waiting(stream)
        rename_over(file, "nonsense: 1\n")
        assert (await task).ruleset is None
        task = await waiting(stream)
        rename_over(file, rule("v1"))
        assert body_of(await task) == "v1"

    watching(file, scenario)


def test_what_changes_nothing_is_no_change(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(rule("v0"))

    async def scenario(stream: Watching) -> None:
        task = await waiting(stream)
        os.utime(file)
        (tmp_path / "notes.txt").write_text("not a rule file")
        rename_over(file, rule("v0"))
        await asyncio.sleep(0.5)
        assert not task.done()
        rename_over(file, rule("v1"))
        assert body_of(await task) == "v1"

    watching(tmp_path, scenario)


def test_a_burst_of_changes_is_one(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(rule("v0"))
    loads: list[Loaded] = []

    async def scenario(stream: Watching) -> None:
        task = await waiting(stream)
        for version in range(20):
            rename_over(file, rule(f"v{version + 1}"))
        loads.append(await task)
        again = await waiting(stream)
        await asyncio.sleep(0.3)
        assert not again.done()
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)

    watching(file, scenario)
    assert [body_of(loaded) for loaded in loads] == ["v20"]


def test_a_loop_of_links_is_a_problem_until_it_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.symlink_to("rules.yaml")

    async def scenario(stream: Watching) -> None:
        task = await waiting(stream)
        rename_over(file, rule("v1"))
        assert body_of(await task) == "v1"

    watching(file, scenario)


@pytest.mark.parametrize("where", ["beside", "above"])
def test_names_that_are_no_text_change_nothing(tmp_path: Path, where: str) -> None:
    file = tmp_path / "rules" / "rules.yaml"
    file.parent.mkdir()
    file.write_text(rule("v0"))
    odd = os.path.join(os.fsencode(file.parent if where == "beside" else tmp_path), b"\xff\xfe.yaml")

    async def scenario(stream: Watching) -> None:
        task = await waiting(stream)
        with open(odd, "wb"):
            pass
        await asyncio.sleep(0.2)
        os.unlink(odd)
        await asyncio.sleep(0.2)
        assert not task.done()
        file.write_text(rule("v1"))
        assert body_of(await task) == "v1"

    watching(file, scenario)


def test_a_path_that_cannot_be_is_no_obstacle(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(rule("v0"))

    async def scenario(stream: Watching) -> None:
        for odd in ("\\0", "\\ud800"):
            task = await waiting(stream)
            file.write_text(f'rules: [{{name: only, body_file: "a{odd}b"}}]\n')
            assert (await task).ruleset is None
            task = await waiting(stream)
            file.write_text(rule("v1"))
            assert body_of(await task) == "v1"

    watching(file, scenario)


def test_where_nothing_can_be_watched_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(rule("v0"))

    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def scenario(stream: Watching) -> None:
        for version in ("v1", "v2"):
            task = await waiting(stream)
            file.write_text(rule(version))
            assert body_of(await task) == version

    monkeypatch.setattr(watch, "reports", none_left)
    with caplog.at_level(logging.WARNING):
        watching(file, scenario)
    assert caplog.messages == ["the files cannot be watched and are looked at every second: Too many open files"]


def test_what_fails_without_a_word_of_warning_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(rule("v0"))
    to_thread, failures = asyncio.to_thread, iter([True, False, True, False, False, True])

    async def no_threads(function: Callable[..., Any], *arguments: Any) -> Any:
        if next(failures, False):
            raise RuntimeError("can't start new thread")
        return await to_thread(function, *arguments)

    async def scenario(stream: Watching) -> None:
        file.write_text(rule("v1"))
        assert body_of(await anext(stream)) == "v1"

    monkeypatch.setattr(asyncio, "to_thread", no_threads)
    watching(file, scenario)
    assert all(message.endswith("RuntimeError: can't start new thread") for message in caplog.messages)
    assert {message.split(":")[0] for message in caplog.messages} == {"cannot look for changes", "cannot load again"}


def test_what_is_not_reported_is_found_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network file system."""
    file = tmp_path / "rules.yaml"
    file.write_text(rule("v0"))

    async def scenario(stream: Watching) -> None:
        task = await waiting(stream)
        file.write_text(rule("v1"))
        assert body_of(await task) == "v1"

    monkeypatch.setattr(watch, "reports", lambda *_: contextlib.nullcontext())
    watching(file, scenario)
