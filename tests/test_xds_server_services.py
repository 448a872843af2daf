"""Envoys that take some of it from the services of one type, or only our filters."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import envoy_data_plane.envoy.config.common.mutation_rules.v3 as mutation_rules
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 as header_mutation
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as http
import pytest
from machine import SECONDS
from xds_clients import (
    answer,
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
)

from rejoinder.envoy import xds_cluster
from rejoinder.extproc.server import Processor
from rejoinder.rules.model import Answer, Endpoint, PathKind, PathMatch, RequestMatch, Rule, Ruleset, Scope
from rejoinder.xds.build import build
from rejoinder.xds.events import Accepted, Connected, Nack
from rejoinder.xds.snapshot import EXTENSIONS, Resource, Snapshot
from rejoinder.xds.translate import Placement, Settings
from rejoinder.xds.translate.clusters import ext_proc_cluster
from rejoinder.xds.translate.extensions import foreign_discovery


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
                    async with asyncio.timeout(SECONDS):
                        while await answer(address) != (say, say):
                            await asyncio.sleep(0.05)
                (client,) = it.server.status().clients
                assert client.streams == 4
                assert not [event for event in it.events if isinstance(event, Nack)]

    run(test())


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
                async with asyncio.timeout(SECONDS):
                    while await get(address, "/mock") != "from a rule":
                        await asyncio.sleep(0.05)
                assert await get(address, "/") == "its own"
                assert not [event for event in it.events if isinstance(event, Nack)]
        await processor.stop()

    run(test())
