"""The xDS server with Envoy itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import envoy_data_plane.envoy.config.cluster.v3 as cluster_v3
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 as tls
import pytest
from machine import SECONDS
from xds_clients import (
    Client,
    bootstrap,
    cluster,
    envoy,
    get,
    listener,
    listening_address,
    routes,
    run,
    running,
    typed,
    values,
)

from rejoinder.xds.events import Accepted, Disconnected, Nack
from rejoinder.xds.snapshot import CLUSTERS, LISTENERS, ROUTES, Resource, Snapshot


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
                    await until_it_says(address, "one")

                    two = Snapshot((cluster("b"), listener("l", 0), routes("two", "b")))
                    it.server.publish(two)
                    assert await it.until(Accepted, 2) == Accepted("envoy-1", two)
                    await until_it_says(address, "two")
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
                    await until_it_says(address, "three")
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
    async with asyncio.timeout(SECONDS):
        while not admin():
            await asyncio.sleep(0.05)
        return await listening_address(admin(), "own")


async def until_it_says(address: str, say: str) -> None:
    async with asyncio.timeout(SECONDS):
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
            await full.answer(await full.read())
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
