"""`--state`: what Envoys say to a set, and a folder that cannot be written."""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
from pathlib import Path

import pytest
from gateway import Upstream
from last_good import answer, becomes, new_envoy, only_address
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
from test_serve_lasts import rule

from rejoinder.envoy.module import library

# --- what Envoys say ---


def rejected_by_envoy(text: str) -> str:
    """With a `--trusted-ca` that is not there."""
    return text.replace("http:", "https:")


def test_what_an_envoy_rejects_is_not_kept(file: Path) -> None:
    text = "listen: 127.0.0.1:0\nupstreams: {up: 'http://127.0.0.1:1'}\n" + rule("first")
    bad = rejected_by_envoy(text).replace("first", "bad")
    arguments = ("--trusted-ca", str(file.parent / "nowhere.pem"))
    file.write_text(text)

    async def main() -> None:
        with started(file, *arguments) as serve:
            async with new_envoy(serve.xds[1]) as running:
                assert await answer(await only_address(running)) == b"first"
                await asyncio.to_thread(kept, file, "first", name=ACCEPTED)
                version = serve.status()["version"]
                file.write_text(bad)
                wait = lambda: bool(serve.status()["envoys"][0]["rejected"])  # noqa: E731
                await asyncio.to_thread(serve.wait_for, wait)
        name = r"^\S+Z \w+ \S+ \(Envoy 1\.\d+, 127\.0\.0\.1:\d+\) "
        for what in ("has connected$", "accepted version [0-9a-f]{20}$", "rejects the clusters: ", "has gone$"):
            assert re.search(name + what, serve.said, re.MULTILINE), serve.said
        assert "; changed only, changed upstream up\n" in serve.said
        assert not (state_of(file) / PUBLISHED).exists()
        # Nobody is there to reject it, until somebody comes.
        with started(file, *arguments) as serve:
            await asyncio.to_thread(kept, file, "bad")
            async with new_envoy(serve.xds[1]):
                await asyncio.to_thread(serve.wait_for, lambda: not (state_of(file) / PUBLISHED).exists())
        file.write_text(BROKEN)
        with started(file, *arguments, ends=1) as serve:
            assert serve.status()["version"] == version

    asyncio.run(main())


@pytest.mark.parametrize("conditional", ["module", "ext_proc"])
def test_an_envoy_that_starts_with_serve_over_broken_files_answers_as_before(file: Path, conditional: str) -> None:
    if conditional == "module" and not library.LIBRARY.is_file():
        pytest.skip("the module was not compiled")
    upstream = Upstream()
    (file.parent / "sorry").write_text("first")
    file.write_text(
        "listen: 127.0.0.1:0\n"
        f"upstreams: {{up: 'http://{upstream.address[0]}:{upstream.address[1]}'}}\n"
        "routes: [{name: all, upstream: up}]\n"
        "rules: [{name: page, enable_on_status: [503], body_file: sorry}]\n"
    )
    good, busy = file.read_text(), ("x-status", "503")

    async def main() -> None:
        with started(file, "--conditional", conditional, ends=None) as serve:
            async with new_envoy(serve.xds[1]) as running:
                assert await answer(await only_address(running), busy) == b"first"
                await asyncio.to_thread(kept, file, "first", name=ACCEPTED)
        file.write_text(BROKEN)
        (file.parent / "sorry").unlink()
        with started(file, "--conditional", conditional) as serve:
            async with new_envoy(serve.xds[1]) as running:
                address = await only_address(running)
                assert await answer(address, busy) == b"first"
                assert await answer(address) == Upstream.BODY
                file.write_text(good)
                (file.parent / "sorry").write_text("second")
                await becomes(address, b"second", busy)
                await asyncio.to_thread(kept, file, "second", name=ACCEPTED)
                # Which changes nothing for Envoy, so that it says nothing.
                file.write_text(f"{good}# for people\n")
                await asyncio.to_thread(kept, file, "for people", name=ACCEPTED)

    with contextlib.closing(upstream):
        asyncio.run(main())


# --- a folder that cannot be written ---


def test_on_a_full_disk_it_goes_on_and_says_so_once_until_there_is_room(file: Path) -> None:
    file.write_text(rule("first"))
    with started(file) as serve:
        kept(file, "first")
        _, hard = resource.prlimit(serve.process.pid, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        for body in ("second", "third"):
            serve.follows(body)
            serve.wait_for(lambda: serve.status()["last_good"]["trouble"] == "File too large")
            assert metric(serve, "rejoinder_last_good_unsaved") == "1.0"
        kept(file, "first")
        assert [path.name for path in state_of(file).iterdir()] == [PUBLISHED]
        resource.prlimit(serve.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        serve.follows("fourth")
        kept(file, "fourth")
        serve.wait_for(lambda: serve.status()["last_good"]["trouble"] is None)
        assert metric(serve, "rejoinder_last_good_unsaved") == "0.0"
    assert serve.said.count("cannot be kept in") == 1
    assert serve.said.count("is kept in") == 1


def test_a_folder_that_cannot_be_is_said_and_holds_up_nothing(file: Path) -> None:
    file.write_text(rule("first"))
    state_of(file).write_text("a file")
    with started(file) as serve:
        serve.wait_for(lambda: bool(serve.status()["last_good"]["trouble"]))
        serve.follows("second")
    assert "cannot be kept in" in serve.said
