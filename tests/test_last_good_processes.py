"""What was good last stays in force, in processes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import subprocess
import time
from pathlib import Path

import pytest
from gateway import Upstream, ruleset
from last_good import address_of, answer, becomes, new_envoy, only_address, said, tenant, up
from machine import SECONDS, ask
from test_serve_lasts import Serve

from rejoinder.envoy.module import library
from rejoinder.rules.model import Endpoint
from rejoinder.rules.program import compile_rules
from rejoinder.xds.plan import plan
from rejoinder.xds.server import Server
from rejoinder.xds.translate import Settings, translate
from rejoinder.xds.translate.encode import snapshot


@pytest.mark.skipif(not library.LIBRARY.is_file(), reason="the module was not compiled")
def test_serve_starts_over_a_broken_file_and_takes_it_when_it_is_mended(tmp_path: Path) -> None:
    """Envoys that run keep all answers, those to statuses as well; a new one is not ready before there is something."""
    file, upstream = tmp_path / "rules.yaml", Upstream()
    text = (
        "listen: 127.0.0.1:0\n"
        f"upstreams: {{up: 'http://{upstream.address[0]}:{upstream.address[1]}'}}\n"
        "routes: [{name: all, upstream: up}]\n"
        "rules: [{name: page, enable_on_status: [503], body: first}]\n"
    )
    busy, arguments = ("x-status", "503"), ("--conditional", "module")

    async def main() -> None:
        serve = Serve(file, *arguments, stderr=subprocess.DEVNULL)
        try:
            async with new_envoy(serve.xds[1]) as old:
                address = await only_address(old)
                assert await answer(address, busy) == b"first"
                serve.process.kill()
                serve.process.wait()
                file.write_text("rules: ]\n")
                serve = Serve(file, *arguments, again=serve, stderr=subprocess.DEVNULL)
                async with new_envoy(serve.xds[1]) as new:
                    async with asyncio.timeout(SECONDS):
                        while len(serve.status()["envoys"]) < 2:
                            await asyncio.sleep(0.05)
                    assert serve.status()["version"] == ""
                    assert str(file) in serve.status()["problems"][0]
                    assert await answer(address, busy) == b"first"
                    assert await new.admin.state() != "LIVE"
                    file.write_text(text.replace("first", "second"))
                    assert await answer(await only_address(new), busy) == b"second"
                    await becomes(address, b"second", busy)
            serve.process.terminate()
            assert serve.process.wait(SECONDS) == 0
        finally:
            serve.process.kill()
            serve.process.wait()

    file.write_text(text)
    with contextlib.closing(upstream):
        asyncio.run(main())


def test_a_new_envoy_that_rejects_the_routes_gets_no_listener_until_there_are_others(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("listen: 127.0.0.1:0\nrules: [{name: only, body: fine}]\n")
    (tmp_path / "more.yaml").write_text("rules: [{name: busy, enable_on_status: [503], body: x}]\n")
    rules = ruleset(tmp_path)
    good = translate(rules, compile_rules(rules.rules), plan(rules), Settings(Endpoint("127.0.0.1", 1)))
    (routes,) = good.routes
    twice = [*routes["virtual_hosts"], {**routes["virtual_hosts"][0], "name": "again"}]
    bad = dataclasses.replace(good, routes=({**routes, "virtual_hosts": twice},))

    async def main() -> None:
        server = Server()
        port = await server.start("127.0.0.1:0")
        server.publish(snapshot(bad))
        for publish in (True, False):  # to the first one that comes, and to one that comes when it is known
            async with new_envoy(port) as running:
                async with asyncio.timeout(SECONDS):
                    while not (server.status().clients and server.status().clients[0].nack):
                        await asyncio.sleep(0.01)
                    while await running.admin.listeners():
                        await asyncio.sleep(0.01)
                await asyncio.sleep(0.5)
                assert await running.admin.listeners() == {}
                if not publish:
                    server.publish(snapshot(good))
                    assert await answer(await only_address(running)) == b"fine"
            async with asyncio.timeout(SECONDS):
                while server.status().clients:
                    await asyncio.sleep(0.01)
        await server.stop()

    asyncio.run(main())


@pytest.mark.parametrize("broken", ["rules: ]\n", "", None], ids=["broken", "empty", "missing"])
def test_up_starts_over_a_broken_file_and_takes_it_when_it_is_mended(tmp_path: Path, broken: str | None) -> None:
    file = tmp_path / "rules.yaml"
    if broken is not None:
        file.write_text(broken)
    with up(file, "--listen", "127.0.0.1:0") as process:
        said(process, str(file))
        said(process, "nothing is served until the files can be used")
        file.write_text("rules: [{name: only, body: x, boddy: y}]\n")
        said(process, "boddy")
        said(process, "nothing is served until the files can be used")
        file.write_text("rules: [{name: only, body: mended}]\n")
        assert ask(address_of(process), "GET", "a.test", "/").body == b"mended"


def test_up_goes_on_when_envoy_rejects_what_it_starts_with(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    text = "listen: 127.0.0.1:0\nupstreams: {up: 'https://127.0.0.1:1'}\nrules: [{name: only, body: first}]\n"
    file.write_text(text)
    with up(file, "--trusted-ca", str(tmp_path / "nowhere.pem")) as process:
        said(process, "rejects the clusters")
        address = address_of(process)
        assert ask(address, "GET", "a.test", "/").body == b"first"
        file.write_text(text.replace("https", "http").replace("first", "second"))
        said(process, "reloaded: ")
        end = time.monotonic() + SECONDS
        while ask(address, "GET", "a.test", "/").body != b"second" and time.monotonic() < end:
            time.sleep(0.05)
        assert ask(address, "GET", "a.test", "/").body == b"second"


def test_up_leaves_out_a_manifest_that_is_broken_at_its_start(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("metadata: {{ .Values.name }}\n")
    (tmp_path / "two.yaml").write_text(tenant("two"))
    with up(tmp_path, "--listen", "127.0.0.1:0") as process:
        address = address_of(process)
        assert ask(address, "GET", "two.test", "/").body == b"first"
        (tmp_path / "one.yaml").write_text(tenant("one"))
        said(process, "reloaded: ")
        end = time.monotonic() + SECONDS
        while ask(address, "GET", "one.test", "/").body != b"first" and time.monotonic() < end:
            time.sleep(0.05)
        # And an edit that cannot be used takes nothing away.
        (tmp_path / "one.yaml").write_text("kind: Service\nkind: Service\n")
        (tmp_path / "two.yaml").write_text(tenant("two", "second"))
        while ask(address, "GET", "two.test", "/").body != b"second" and time.monotonic() < end:
            time.sleep(0.05)
        assert ask(address, "GET", "two.test", "/").body == b"second"
        assert ask(address, "GET", "one.test", "/").body == b"first"
