"""What a conditional answer costs over ext_proc, in its two forms: CONTINUE_AND_REPLACE and ImmediateResponse.

    python bench/ext_proc_replies.py [SECONDS]

Prints, for several kinds of upstream bodies, what each form costs in relation to plain proxying in the same run, and
how many connections the upstream had to accept. Needs wrk, and a minute or two; SECONDS (default 1) is the length of a
measurement, and there are ROUNDS of them for each row, interleaved, because only ratios of one run mean anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import multiprocessing.connection
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from harness import cpu_seconds, wrk

from rejoinder.envoy import EnvoyProcess, bootstrap, find, running
from rejoinder.extproc import Processor
from rejoinder.rules.answers import TABLE_KEY, AnswerTable, answer_table
from rejoinder.rules.model import Answer, Rule, Ruleset, StatusPattern

ROUNDS: Final = 3
CONNECTIONS: Final = 32
UPSTREAM_BODIES: Final = ((0, 0), (100, 0), (9_000, 0), (300_000, 0), (4_000_000, 0), (100, 50), (9_000, 50))
"""Bytes, and milliseconds from the headers to the body."""
REPLY: Final = Answer(
    503, (("content-type", "application/json"), ("retry-after", "30")), b'{"error":"busy"}' + b" " * 84
)

FORMS: Final = {"replace": sys.maxsize, "immediate": 0}
"""The longest upstream body that is written over."""


@dataclass(slots=True)
class Cost:
    """Of some requests."""

    requests: int = 0
    gateway: float = 0
    """CPU seconds of the Envoy that answers; `upstream` and `service` likewise."""
    upstream: float = 0
    service: float = 0
    connections: int = 0
    """That the upstream accepted."""


def _typed(name: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/envoy.{name}", **fields}


def _listener(name: str, routes: list[dict[str, Any]], filters: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    router = {"name": "router", "typed_config": _typed("extensions.filters.http.router.v3.Router")}
    manager = _typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        http_filters=[*filters, router],
        route_config={
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
        },
    )
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _cluster(name: str, port: int, *, http2: bool = False) -> dict[str, Any]:
    options = _typed(
        "extensions.upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}}
    )
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "name": name,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        **({"typed_extension_protocol_options": {options["@type"].rpartition("/")[2]: options}} if http2 else {}),
    }


def _ext_proc(form: str) -> dict[str, Any]:
    return {
        "name": "rejoinder",
        "typed_config": _typed(
            "extensions.filters.http.ext_proc.v3.ExternalProcessor",
            grpc_service={
                "envoy_grpc": {"cluster_name": form},
                "initial_metadata": [{"key": TABLE_KEY, "value": _table().name}],
            },
            processing_mode={"request_header_mode": "SKIP"},
            message_timeout="10s",
            mutation_rules={"allow_envoy": True},
        ),
    }


def _table() -> AnswerTable:
    answer = Answer(REPLY.status_code, REPLY.headers, REPLY.body, (StatusPattern("503"),))
    return answer_table((Rule("busy", (answer,)),))


def _config(listeners: list[dict[str, Any]], clusters: list[dict[str, Any]]) -> dict[str, Any]:
    admin = bootstrap(admin=("127.0.0.1", 0))["admin"]
    return {"admin": admin, "static_resources": {"listeners": listeners, "clusters": clusters}}


class _Upstream(asyncio.Protocol):
    """Answers `/BYTES/MILLISECONDS` with a 503 whose body has that many bytes and comes that long after its headers."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        size, delay = (int(part) for part in data.split(b" ", 2)[1].split(b"/")[1:])
        head = (
            f"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: {size}\r\n\r\n".encode()
        )
        if delay:
            self.transport.write(head)
            asyncio.get_running_loop().call_later(delay / 1000, self.transport.write, b"x" * size)
        else:
            self.transport.write(head + b"x" * size)


def _serve_upstream(port: multiprocessing.connection.Connection) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(_Upstream, "127.0.0.1", 0)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


@contextlib.contextmanager
def _upstream() -> Iterator[tuple[int, int]]:
    """A process of its own, so that its CPU time can be told: process id and port."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve_upstream, args=(there,), daemon=True)
    process.start()
    try:
        assert process.pid is not None
        yield process.pid, here.recv()
    finally:
        process.terminate()
        process.join()


async def _measure(gateway: EnvoyProcess, upstream: int, port: int, path: str, seconds: float) -> Cost:
    async def counters() -> tuple[float, float, float, int]:
        stats = await gateway.admin.stats(r"^cluster\.upstream\.upstream_cx_total$")
        return cpu_seconds(gateway.pid), cpu_seconds(upstream), time.process_time(), sum(stats.values())

    before = await counters()
    requests = (await wrk(port, path, seconds=seconds, connections=CONNECTIONS)).requests
    after = await counters()
    return Cost(requests, *(new - old for new, old in zip(after, before, strict=True)))  # type: ignore[arg-type]


async def main(seconds: float) -> None:
    processors = {form: Processor(max_drained) for form, max_drained in FORMS.items()}
    ports = {form: await processor.start("127.0.0.1:0") for form, processor in processors.items()}
    for processor in processors.values():
        processor.publish(Ruleset(), [_table()])
    costs: dict[tuple[int, int, str], Cost] = defaultdict(Cost)
    with _upstream() as (upstream, upstream_port):
        forward = [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}]
        config = _config(
            [_listener("plain", forward), *(_listener(form, forward, (_ext_proc(form),)) for form in FORMS)],
            [_cluster("upstream", upstream_port), *(_cluster(form, ports[form], http2=True) for form in FORMS)],
        )
        async with running(find().path, config, concurrency=1, log_level="error") as gateway:
            bound = await gateway.ready(["plain", *FORMS])
            for _ in range(ROUNDS):
                for size, delay in UPSTREAM_BODIES:
                    for name in ("plain", *FORMS):
                        cost = await _measure(gateway, upstream, bound[name][0][1], f"/{size}/{delay}", seconds)
                        total = costs[size, delay, name]
                        for field in Cost.__slots__:
                            setattr(total, field, getattr(total, field) + getattr(cost, field))
    for processor in processors.values():
        await processor.stop()
    _print(costs, seconds)


def _print(costs: dict[tuple[int, int, str], Cost], seconds: float) -> None:
    print(f"{CONNECTIONS} connections, {ROUNDS} x {seconds:g} s, reply of {len(REPLY.body)} bytes, one Envoy worker")
    print("CPU per request: of gateway and upstream, plain proxying = 1; of the ext_proc service, in us")
    row = "{:>9} {:>6}  {:<9} {:>9} {:>8} {:>9} {:>8} {:>21}".format
    print(row("body", "after", "reply", "requests", "gateway", "upstream", "service", "connections/1000 req."))
    for (size, delay, name), cost in costs.items():
        plain = costs[size, delay, "plain"]
        print(
            row(
                size,
                f"{delay} ms",
                name,
                cost.requests,
                f"{cost.gateway / cost.requests / (plain.gateway / plain.requests):.1f}",
                f"{cost.upstream / cost.requests / (plain.upstream / plain.requests):.1f}",
                "-" if name == "plain" else f"{cost.service / cost.requests * 1e6:.0f}",
                f"{cost.connections / cost.requests * 1000:.1f}",
            )
        )


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 1))
