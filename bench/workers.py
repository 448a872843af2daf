"""The gain by a second ext_proc process: `rejoinder serve --workers 1` against 2.

    python bench/workers.py [--short]

One Envoy asks the service about every response, for one listener a service of one process and for another one of two;
the status comes from Envoy itself, so that no upstream takes a part of the machine. Needs wrk.
"""

from __future__ import annotations

import asyncio
from typing import Final

from envoys import asked_elsewhere
from harness import Cost, Report, Spread, arguments, cpu_seconds, interleaved, machine, publish, wrk

from rejoinder.envoy import bootstrap, find, running
from rejoinder.extproc import Workers
from rejoinder.rules.model import Answer, Endpoint, Listener, Rule, Ruleset, StatusPattern
from rejoinder.rules.program import compile_rules
from rejoinder.xds.plan import plan
from rejoinder.xds.translate import Json, Settings, static_bootstrap, translate
from rejoinder.xds.translate.settings import EXT_PROC_CLUSTER

COUNTS: Final = {"1 worker": 1, "2 workers": 2}
ANSWERED: Final = Rule("nothing", (Answer(404, (), b"nothing here", (StatusPattern("404"),)),))
CONNECTIONS: Final = 64


def _variant(name: str, service_ports: list[int]) -> tuple[Json, Json]:
    """A listener on which every response is asked about, and the cluster of its service."""
    ruleset = Ruleset(listeners=(Listener("127.0.0.1", 0),), rules=(ANSWERED,))
    settings = Settings(Endpoint("127.0.0.1", service_ports[0]))
    resources = static_bootstrap(translate(ruleset, compile_rules(ruleset.rules), plan(ruleset), settings))[
        "static_resources"
    ]
    (listener,), (cluster,) = resources["listeners"], resources["clusters"]
    listener = asked_elsewhere(listener, {EXT_PROC_CLUSTER: name})
    # (With any free ports, they would not be consecutive.)
    addresses = [{"socket_address": {"address": "127.0.0.1", "port_value": port}} for port in service_ports]
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}} for address in addresses]}]
    cluster.update(name=name, load_assignment={"cluster_name": name, "endpoints": endpoints})
    return {**listener, "name": name}, cluster


async def main(seconds: int = 2, rounds: int = 3) -> None:
    services = {name: Workers(count) for name, count in COUNTS.items()}
    for service in services.values():
        await service.start("127.0.0.1:0")
        service.publish(compile_rules((ANSWERED,)))
    variants = [_variant(name, service.ports) for name, service in services.items()]
    config = {
        "admin": bootstrap(admin=("127.0.0.1", 0))["admin"],
        "static_resources": {
            "listeners": [listener for listener, _ in variants],
            "clusters": [cluster for _, cluster in variants],
        },
    }
    async with running(find().path, config, concurrency=1, log_level="error") as envoy:
        bound = await envoy.ready(list(COUNTS))

        async def measure(name: str) -> Cost:
            pids = [pid for pid in services[name].pids if pid is not None]
            before = sum(map(cpu_seconds, pids))
            load = await wrk(bound[name][0][1], "/", seconds=seconds, connections=CONNECTIONS)
            return Cost((sum(map(cpu_seconds, pids)) - before) / load.requests * 1e6, load.throughput)

        costs = await interleaved(list(COUNTS), rounds, measure)
    for service in services.values():
        await service.stop()
    publish("workers", _report(costs, f"{rounds} interleaved rounds of {seconds} s"))


def _report(costs: dict[str, tuple[Spread, Spread]], rounds: str) -> Report:
    base = costs["1 worker"]
    return Report(
        title="The ext_proc service on several cores",
        text=(
            "Every response is asked about and answered. Throughput, and CPU of the service per response, with one "
            f"worker = 1 ({base[1].median:.0f} responses/s, {base[0].median:.0f} us). Medians (and ranges) of "
            f"{rounds}, {CONNECTIONS} connections. Envoy and the load take their share of the "
            f"{machine()['cores']} cores."
        ),
        columns=("", "throughput", "CPU per response"),
        rows=tuple(
            (name, str(throughput.over(base[1].median)), str(cpu.over(base[0].median)))
            for name, (cpu, throughput) in costs.items()
        ),
    )


if __name__ == "__main__":
    asyncio.run(main(1, 1) if arguments(__doc__, "once").parse_args().short else main())
