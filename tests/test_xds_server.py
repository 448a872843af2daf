"""The ADS server over real sockets: with gRPC's own client, and with Envoy."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from machine import SECONDS
from xds_clients import Client, Running, clusters, run, running, served, values

from rejoinder.xds.events import Accepted, Connected, Disconnected
from rejoinder.xds.server import InconsistentSnapshotError, Server
from rejoinder.xds.snapshot import CLUSTERS, LISTENERS, ROUTES, Resource, Snapshot


@served
async def test_a_client_gets_what_was_published_and_what_is_published_later(it: Running) -> None:
    one, two = clusters("1"), clusters("2")
    it.server.publish(one)
    client = it.client("n")
    await client.ask(CLUSTERS)
    first = await client.read()
    assert (first.type, values(first), first.version) == (CLUSTERS, ["1"], one.versions[CLUSTERS])
    await client.answer(first)
    assert await it.until(Accepted) == Accepted("n", one)
    it.server.publish(two)
    second = await client.read()
    assert values(second) == ["2"]
    await client.answer(second)
    assert await it.until(Accepted, 2) == Accepted("n", two)


@served
async def test_status_tells_who_is_there_and_what_they_have(it: Running) -> None:
    assert it.server.status().version == ""
    snapshot = clusters("1")
    it.server.publish(snapshot)
    slow, fast = it.client("slow"), it.client("fast")
    for client in (slow, fast):
        await client.ask(CLUSTERS)
    await fast.answer(await fast.read())
    await it.until(Accepted)
    status = it.server.status()
    assert status.version == snapshot.version
    assert [(c.node, c.version, c.target) for c in status.clients] == [
        ("fast", snapshot.version, snapshot.version),
        ("slow", "", snapshot.version),
    ]
    await fast.close()
    gone = await it.until(Disconnected)
    assert gone in [Disconnected(e.node, e.peer) for e in it.events if isinstance(e, Connected)]
    assert [c.node for c in it.server.status().clients] == ["slow"]


@served
async def test_a_client_that_does_not_read_holds_up_nobody_and_gets_only_the_newest(it: Running) -> None:
    big = "x" * 8_000_000  # more than gRPC and the kernel take off our hands
    it.server.publish(clusters(big))
    stuck, quick = it.client("stuck"), it.client("quick")
    await stuck.ask(CLUSTERS)
    await it.until(Connected)
    await quick.ask(CLUSTERS)
    for number in range(1, 6):
        await quick.answer(await quick.read())
        await it.until(Accepted, number)
        it.server.publish(clusters(f"{number}" + big))
    first = await stuck.read()
    assert values(first) == [big]
    await stuck.answer(first)
    assert values(await stuck.read()) == ["5" + big]


def test_a_client_that_leaves_in_the_middle_of_a_response_is_gone_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        async with running() as it:
            it.server.publish(clusters("x" * 30_000_000))
            client = Client(it.address, "n")
            await client.ask(CLUSTERS)
            await it.until(Connected)
            await client.close()
            await it.until(Disconnected)
            assert it.server.status().clients == ()

    run(test())
    assert caplog.records == []


def test_nothing_is_logged_of_what_an_earlier_event_loop_has_left(caplog: pytest.LogCaptureFixture) -> None:
    failed = []

    async def left() -> tuple[object, object]:
        channel = grpc.aio.insecure_channel("127.0.0.1:1")
        method: Any = channel.unary_unary("/a/b")
        call = method(b"", wait_for_ready=True, timeout=0.2)
        await asyncio.sleep(0)  # begin it
        return channel, call

    async def test() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: (failed.append(context), loop.default_exception_handler(context)))  # type: ignore[func-returns-value]
        async with running(), asyncio.timeout(SECONDS):
            while not failed:
                await asyncio.sleep(0.01)

    loop = asyncio.new_event_loop()
    call = loop.run_until_complete(left())
    loop.close()
    run(test())
    del call
    assert {str(context["exception"]) for context in failed} == {"Event loop is closed"}
    assert caplog.records == []


@served
async def test_a_snapshot_that_does_not_hang_together_is_refused(it: Running) -> None:
    good = clusters("1")
    it.server.publish(good)
    bad = Snapshot((Resource(LISTENERS, "l", b"", frozenset({(ROUTES, "r")})),))
    with pytest.raises(InconsistentSnapshotError, match='listeners: "l" refers to "r"'):
        it.server.publish(bad)
    assert it.server.status().version == good.version


@served
async def test_an_incremental_client_is_sent_what_has_changed_and_what_is_no_more(it: Running) -> None:
    it.server.publish(then := clusters("1", "2", "3"))
    client = it.client("n", incremental=True)
    await client.ask(CLUSTERS)
    first = await client.read()
    assert (values(first), first.resources) == (["1", "2", "3"], then.resources)
    await client.answer(first)
    it.server.publish(now := clusters("1", "other"))
    second = await client.read()
    assert values(second) == ["other"]
    assert {sent.name: sent.version for sent in second.resources} == {"c1": now.by_type[CLUSTERS]["c1"].version}
    assert second.removed == ("c2",)
    assert second.version == now.versions[CLUSTERS]


@served
async def test_a_port_in_use_is_an_error_that_names_the_address(it: Running) -> None:
    with pytest.raises(OSError, match=f"cannot listen on {it.address}"):
        await Server().start(it.address)


def test_a_unix_socket_is_for_its_owner_alone_and_its_path_may_not_be_too_long(tmp_path: Path) -> None:
    async def test() -> None:
        server = Server()
        await server.start(f"unix:{tmp_path}/xds")
        assert stat.S_IMODE((tmp_path / "xds").stat().st_mode) == 0o600
        await server.stop()
        with pytest.raises(OSError, match="a path of at most 107 bytes"):
            await Server().start(f"unix:{tmp_path}/{'x' * 200}")

    run(test())
