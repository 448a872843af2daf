"""What no Envoy sends to the xDS server."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import grpc.aio
import pytest
from machine import SECONDS
from simulated_wire import DeltaDiscoveryRequest, DiscoveryRequest
from xds_clients import Client, Running, clusters, names, run, running, served, values

from rejoinder.xds.events import Connected, Disconnected, Nack
from rejoinder.xds.server import ADS, Server
from rejoinder.xds.session import Session
from rejoinder.xds.snapshot import CLUSTERS, ROUTES
from rejoinder.xds.translate.settings import MAX_REQUEST, named_again
from rejoinder.xds.wire import MAX_NAMES

VARIANTS = {
    "StreamAggregatedResources": (DiscoveryRequest, "resource_names"),
    "DeltaAggregatedResources": (DeltaDiscoveryRequest, "resource_names_subscribe"),
}
FIELDS = [
    *((method, message, name) for method, (message, name) in VARIANTS.items()),
    ("DeltaAggregatedResources", DeltaDiscoveryRequest, "resource_names_unsubscribe"),
]


REFUSED = [
    *(
        pytest.param(method, [b"\xff\xff\xff"], "INVALID_ARGUMENT", "no discovery request", id=f"{method}: garbage")
        for method in VARIANTS
    ),
    *(
        pytest.param(method, [message().SerializeToString()], "INVALID_ARGUMENT", "type_url", id=f"{method}: no type")
        for method, (message, _) in VARIANTS.items()
    ),
    *(
        pytest.param(
            method,
            [message(type_url=ROUTES.url, **{name: names(MAX_NAMES + 1)}).SerializeToString()],
            "RESOURCE_EXHAUSTED",
            "names",
            id=f"{method}: too many {name}",
        )
        for method, message, name in FIELDS
    ),
    *(
        pytest.param(
            method,
            [message(type_url=ROUTES.url, **{name: ["x" * MAX_REQUEST]}).SerializeToString()],
            "RESOURCE_EXHAUSTED",
            "larger than max",
            id=f"{method}: too large",
        )
        for method, (message, name) in VARIANTS.items()
    ),
    pytest.param(
        "DeltaAggregatedResources",
        [
            DeltaDiscoveryRequest(
                type_url=CLUSTERS.url, initial_resource_versions=dict.fromkeys(names(MAX_NAMES + 1), "1")
            ).SerializeToString()
        ],
        "RESOURCE_EXHAUSTED",
        "names",
        id="too many versions",
    ),
    pytest.param(
        "DeltaAggregatedResources",
        [
            DeltaDiscoveryRequest(
                type_url=ROUTES.url, resource_names_subscribe=names(MAX_NAMES // 2, first)
            ).SerializeToString()
            for first in (0, MAX_NAMES // 2, MAX_NAMES)
        ],
        "RESOURCE_EXHAUSTED",
        "names",
        id="too many names by and by",
    ),
    pytest.param(
        "DeltaAggregatedResources",
        [
            DeltaDiscoveryRequest(
                type_url=ROUTES.url, resource_names_subscribe=[letter * (MAX_REQUEST // 2)]
            ).SerializeToString()
            for letter in "xyz"
        ],
        "RESOURCE_EXHAUSTED",
        "names",
        id="too long names by and by",
    ),
]


@pytest.mark.parametrize(("method", "requests", "code", "details"), REFUSED)
def test_what_no_envoy_sends_ends_the_stream_and_nothing_else(
    method: str, requests: list[bytes], code: str, details: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with running() as it:
            it.server.publish(clusters("1"))
            options = [("grpc.max_receive_message_length", -1)]
            async with grpc.aio.insecure_channel(it.address, options) as channel:
                stream: Any = channel.stream_stream(f"/{ADS}/{method}")()

                async def write() -> None:
                    for request in requests:
                        await stream.write(request)

                async def read() -> None:
                    async with asyncio.timeout(SECONDS):
                        while await stream.read():
                            pass

                writing = asyncio.ensure_future(write())
                with pytest.raises(grpc.aio.AioRpcError, match=details) as refused:
                    await read()
                await asyncio.gather(writing, return_exceptions=True)
                assert refused.value.code() is grpc.StatusCode[code]
            client = Client(it.address, "n")
            await client.ask(CLUSTERS)
            assert values(await client.read()) == ["1"]
            await client.close()

    run(test())
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    # What gRPC says itself is of the client that has gone.
    assert [record for record in said if not record.name.startswith("grpc.")] == []


def test_more_than_an_envoy_can_name_when_it_comes_back_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rejoinder.xds.server.MAX_REQUEST", named_again(["c0", "c1", "c2"]))
    server = Server()
    server.publish(clusters("1", "2", "3"))
    assert caplog.messages == []
    server.publish(clusters("1", "2", "3", "4"))
    assert caplog.messages == [
        "an Envoy that connects again is not let in: its names of clusters take more than 65626 bytes"
    ]


@served
async def test_as_many_names_as_an_envoy_may_have_are_taken(it: Running) -> None:
    it.server.publish(clusters("1"))
    client = it.client("n")
    await client.ask(CLUSTERS, "c0", *names(MAX_NAMES - 1))
    assert values(await client.read()) == ["1"]


@served
async def test_what_a_client_says_is_fit_to_be_printed(it: Running) -> None:
    it.server.publish(clusters("1"))
    client = it.client("\x1b[2Jn\nrejoinder: all is well\u202e" + "x" * 1000)
    await client.ask(CLUSTERS)
    await client.answer(await client.read(), error="one\ntwo\x1b]0;\x07\x9b\n" + "x" * 100_000)
    nack = await it.until(Nack)
    said = [nack.node, nack.message, *(event.node for event in it.events if isinstance(event, Connected))]
    assert all(text.isprintable() and len(text) <= 5000 for text in said)
    assert nack.node.startswith(r"\x1b[2Jn\nrejoinder: all is well\u202ex")
    assert nack.message.startswith(r"one two\x1b]0;\x07\x9b x")
    (status,) = it.server.status().clients
    assert (status.node, status.nack) == (nack.node, nack)


async def _ended(client: Client) -> grpc.StatusCode:
    async with asyncio.timeout(SECONDS):
        return grpc.StatusCode(await client.wire.stream.code())


@served
async def test_clients_that_name_too_much_together_are_forgotten(ads: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rejoinder.xds.server.MAX_ALL_NAMES", 3)
    gc.collect()
    before = sum(isinstance(thing, Session) for thing in gc.get_objects())
    ads.server.publish(clusters("1"))
    first, second = ads.client("a"), ads.client("b")
    await first.ask(ROUTES, "a", "b")
    await ads.until(Connected)
    await second.ask(ROUTES, "a", "b")
    assert await _ended(second) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert sum(isinstance(thing, Session) for thing in gc.get_objects()) == before + 1
    await first.close()
    await ads.until(Disconnected)
    third = ads.client("c")
    await third.ask(CLUSTERS)
    assert (await third.read()).type is CLUSTERS


@served
async def test_a_stream_that_asks_for_nothing_is_ended(ads: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rejoinder.xds.server.SILENT_SECONDS", 0.1)
    client = ads.client("n")
    assert await _ended(client) is grpc.StatusCode.DEADLINE_EXCEEDED


@served
async def test_a_client_that_does_not_read_is_not_kept(ads: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rejoinder.xds.server.UNREAD_SECONDS", 0.5)
    ads.server.publish(clusters("x" * 10_000_000))
    client = ads.client("n")
    await client.ask(CLUSTERS)
    await ads.until(Disconnected)


def test_streams_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rejoinder.xds.server.MAX_STREAMS", 1)

    async def test() -> None:
        async with running() as ads:
            ads.server.publish(clusters("1"))
            first = ads.client("a")
            await first.ask(CLUSTERS)
            await first.read()
            assert await _ended(ads.client("b")) is grpc.StatusCode.RESOURCE_EXHAUSTED

    run(test())
