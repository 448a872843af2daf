"""The cost of a conditional answer in each placement, compared with Envoy's own filters.

    python bench/placements.py [--short]

Starts one Envoy with one worker, and another one as its upstream, and asks for a response whose status no rule names
(200) and for one whose status is answered (503), with: nothing in the way, the dynamic module, the ext_proc service
behind its gate, either with a Python handler, a plain ext_proc service as one would write it by hand, Envoy's
`custom_response` filter, and its Lua filter. Prints CPU per request of the gateway (as the operating system counts it)
and throughput, as ratios to plain proxying, and the upstream connections that it took. Needs wrk.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import by_hand
from envoys import (
    RULE,
    SENT,
    UPSTREAM,
    ask_about_everything,
    asked_elsewhere,
    cluster,
    config,
    custom_response,
    lua,
    service,
    upstream,
)
from harness import Cost, Goal, Plot, Report, Series, Spread, arguments, gateway_cost, in_turns, publish, wrk

from rejoinder.envoy import EnvoyProcess, find, running
from rejoinder.envoy.module import library
from rejoinder.extproc import Processor
from rejoinder.rules.model import Answer, Endpoint, Forward, Listener, Route, Rule, Ruleset, StatusPattern, Upstream
from rejoinder.rules.program import compile_rules
from rejoinder.xds.plan import plan
from rejoinder.xds.translate import Json, Placement, Settings, static_bootstrap, translate
from rejoinder.xds.translate.settings import EXT_PROC_CLUSTER

PLAIN: Final = "plain proxying"
MODULE: Final = "module"
CUSTOM_RESPONSE: Final = "custom_response"
NOT_LISTED, LISTED = "not listed", "listed"
CASES: Final = {NOT_LISTED: 200, LISTED: 503}

HANDLERS: Final = Path(__file__).parent.parent / "examples" / "handler"
HANDLED: Final = Rule("problem", (Answer(enable_on_status=(StatusPattern("503"),), handler="problem:page"),))


def _ours(placement: Placement, *rules: Rule, asking: str = "") -> Json:
    """The listener that Rejoinder makes; asking: the cluster of the service."""
    ruleset = Ruleset(
        listeners=(Listener("127.0.0.1", 0),),
        upstreams=(Upstream(UPSTREAM, (Endpoint("127.0.0.1", 1),)),),
        routes=(Route("all", Forward(UPSTREAM)),),
        rules=rules,
    )
    made = translate(
        ruleset, compile_rules(ruleset.rules), plan(ruleset), Settings(Endpoint("127.0.0.1", 1), placement)
    )
    (listener,) = static_bootstrap(made)["static_resources"]["listeners"]
    return asked_elsewhere(listener, {EXT_PROC_CLUSTER: asking})


def _with_filter(made: Json, added: Json) -> Json:
    made["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"].insert(0, added)
    return made


def _variants() -> dict[str, Json]:
    """Listeners. All upstreams' and services' clusters have the names of what they are for."""

    def plain() -> Json:
        return _ours(Placement.EXT_PROC)

    return {
        PLAIN: plain(),
        MODULE: _ours(Placement.MODULE, RULE),
        "module, Python handler": _ours(Placement.MODULE, HANDLED),
        "ext_proc": _ours(Placement.EXT_PROC, RULE, asking="rules"),
        "ext_proc, Python handler": _ours(Placement.EXT_PROC, HANDLED, asking="handlers"),
        "ext_proc by hand": _with_filter(plain(), ask_about_everything("by_hand")),
        CUSTOM_RESPONSE: _with_filter(plain(), custom_response(SENT)),
        "Lua": _with_filter(plain(), lua(SENT)),
    }


async def main(seconds: int = 1, rounds: int = 4) -> None:
    binary = find().path
    environ = {**os.environ, **library.environment(library.find(binary), [HANDLERS])}
    sys.path.append(str(HANDLERS))
    processors = {"rules": Processor(), "handlers": Processor()}
    for processor, rule in zip(processors.values(), (RULE, HANDLED), strict=True):
        processor.publish(compile_rules((rule,)))
    services = {name: await processor.start("127.0.0.1:0") for name, processor in processors.items()}
    other, services["by_hand"] = await by_hand.serve(SENT)
    variants = {name: {**made, "name": name} for name, made in _variants().items()}
    async with running(binary, upstream(), concurrency=1, log_level="error") as behind:
        (address,) = (await behind.ready([UPSTREAM]))[UPSTREAM]
        clusters = [cluster(UPSTREAM, address[1]), *(service(*item) for item in services.items())]
        gateway_config = config(list(variants.values()), clusters)
        async with running(binary, gateway_config, concurrency=1, log_level="error", environ=environ) as gateway:
            bound = await gateway.ready(list(variants))
            connections: Counter[str] = Counter()
            requests: Counter[str] = Counter()

            async def measure(name: str) -> Cost:
                variant, case = name.split(": ")
                before = await _opened(gateway)
                cost = await gateway_cost(gateway.pid, wrk(bound[variant][0][1], f"/{CASES[case]}", seconds=seconds))
                connections[name] += await _opened(gateway) - before
                requests[name] += round(cost.throughput * seconds)
                return cost

            names = [f"{variant}: {case}" for case in CASES for variant in variants]
            costs = await in_turns(names, rounds, measure)
    for processor in processors.values():
        await processor.stop()
    await other.stop(None)
    per_thousand = {name: connections[name] / requests[name] * 1000 for name in names}
    publish("placements", _report(costs, per_thousand, f"{rounds} interleaved rounds of {seconds} s"))


async def _opened(gateway: EnvoyProcess) -> int:
    return sum((await gateway.admin.stats(r"^cluster\.upstream\.upstream_cx_total$")).values())


def _report(costs: Mapping[str, list[Cost]], connections: Mapping[str, float], rounds: str) -> Report:
    rows: list[tuple[str, ...]] = []
    series: dict[str, list[tuple[str, Spread]]] = {case: [] for case in CASES}
    for name, measured in costs.items():
        variant, case = name.split(": ")
        plain = costs[f"{PLAIN}: {case}"]
        cpu = Spread.of_ratios([cost.cpu_us for cost in measured], [cost.cpu_us for cost in plain])
        throughput = Spread.of_ratios([cost.throughput for cost in measured], [cost.throughput for cost in plain])
        rows.append((variant, case, str(cpu), str(throughput), f"{connections[name]:.1f}"))
        series[case].append((variant, cpu))
    ours, theirs = costs[f"{MODULE}: {LISTED}"], costs[f"{CUSTOM_RESPONSE}: {LISTED}"]
    faster = Spread.of_ratios([cost.throughput for cost in ours], [cost.throughput for cost in theirs])
    dearer = Spread.of_ratios([cost.cpu_us for cost in theirs], [cost.cpu_us for cost in ours])
    plain_us = Spread.of([cost.cpu_us for cost in costs[f"{PLAIN}: {NOT_LISTED}"]])
    return Report(
        title="The placements",
        text=(
            "A response whose status no rule names (not listed) and one whose status is answered (listed). CPU per "
            f"request of an Envoy with one worker and throughput, plain proxying in the same round = 1 "
            f"({plain_us.median:.1f} us), and upstream connections per 1,000 requests. Medians (and ranges) of "
            f"{rounds}, 32 connections, bodies of 100 bytes; the upstream is a second Envoy. The CPU of an ext_proc "
            "service comes on top."
        ),
        columns=("", "status", "CPU per request", "throughput", "connections"),
        rows=tuple(rows),
        plot=Plot(
            "The placements", "", "CPU per request", tuple(Series(case, tuple(cpu)) for case, cpu in series.items())
        ),
        conclusion=f"Listed, the module has {faster.median:.1f} times the throughput of `custom_response`.",
        goals=(
            *(
                Goal.at_most(
                    f"module in an Envoy of ours, {case}: Envoy's CPU against plain proxying",
                    wanted,
                    dict(series[case])[MODULE].median,
                )
                for case, wanted in ((NOT_LISTED, 1.05), (LISTED, 1.12))
            ),
            Goal.at_least("`custom_response` against that module, listed: Envoy's CPU", 2.0, dearer.median),
        ),
    )


if __name__ == "__main__":
    asyncio.run(main(1, 1) if arguments(__doc__, "once").parse_args().short else main())
