"""What a conditional answer costs in each placement, beside Envoy's own means.

    python bench/placements.py [SECONDS [ROUNDS]]

Starts one Envoy with one worker, and another one as its upstream, and asks for a response whose status no rule names
(200) and for one whose status is answered (503), with: nothing in the way, the dynamic module, the ext_proc service
behind its gate, either with a Python handler, a plain ext_proc service as one would write it by hand, Envoy's
`custom_response` filter, and its Lua filter. Prints CPU per request of the gateway (as the operating system counts it)
and throughput, as ratios to plain proxying, and the upstream connections that it took. Needs wrk. SECONDS (default 1)
is the length of a measurement; there are ROUNDS (default 5) of them for each row, interleaved.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import by_hand
from harness import Cost, Plot, Report, Series, Spread, gateway_cost, interleaved, publish, wrk

from rejoinder.envoy import EnvoyProcess, bootstrap, find, running
from rejoinder.envoy.module import library
from rejoinder.extproc import Processor
from rejoinder.rules.answers import Reply, reply
from rejoinder.rules.model import Answer, Endpoint, Forward, Listener, Route, Rule, Ruleset, StatusPattern, Upstream
from rejoinder.xds.plan import plan
from rejoinder.xds.translate import Configuration, Json, Placement, Settings, static_bootstrap, translate
from rejoinder.xds.translate.settings import EXT_PROC_CLUSTER, typed

PLAIN: Final = "plain proxying"
CASES: Final = {"not listed": 200, "listed": 503}
UPSTREAM_BODY: Final = "x" * 100
ANSWER: Final = Answer(
    502, (("content-type", "application/json"), ("retry-after", "30")), b'{"error":"busy"}' + b" " * 84
)
RULE: Final = Rule("busy", (dataclasses.replace(ANSWER, enable_on_status=(StatusPattern("503"),)),))

HANDLERS: Final = Path(__file__).parent.parent / "examples" / "handler"
HANDLED: Final = Rule("problem", (Answer(enable_on_status=(StatusPattern("503"),), handler="problem:page"),))


def _ours(upstream: int, ext_proc: int, placement: Placement, *rules: Rule) -> Configuration:
    ruleset = Ruleset(
        listeners=(Listener("127.0.0.1", 0),),
        upstreams=(Upstream("upstream", (Endpoint("127.0.0.1", upstream),)),),
        routes=(Route("all", Forward("upstream")),),
        rules=rules,
    )
    # A copy, to be changed here: `translate` keeps what it has made.
    return copy.deepcopy(translate(ruleset, plan(ruleset), Settings(Endpoint("127.0.0.1", ext_proc), placement)))


def _with_filter(configuration: Configuration, added: Json) -> Configuration:
    (listener,) = configuration.listeners
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"].insert(0, added)
    return configuration


def _custom_response(sent: Reply) -> Json:
    status = {"name": "status", "typed_config": typed("envoy.type.matcher.v3.HttpResponseStatusCodeMatchInput")}
    policy = typed(
        "envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy",
        status_code=sent.status,
        body={"inline_string": sent.body.decode()},
        response_headers_to_add=[
            {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for name, value in sent.headers
        ],
    )
    matcher = {
        "predicate": {"single_predicate": {"input": status, "value_match": {"exact": "503"}}},
        "on_match": {"action": {"name": "action", "typed_config": policy}},
    }
    return {
        "name": "custom_response",
        "typed_config": typed(
            "envoy.extensions.filters.http.custom_response.v3.CustomResponse",
            custom_response_matcher={"matcher_list": {"matchers": [matcher]}},
        ),
    }


def _lua(sent: Reply) -> Json:
    headers = "".join(f'headers:replace("{name}", "{value}") ' for name, value in sent.headers)
    code = f"""
    function envoy_on_response(handle)
      local headers = handle:headers()
      if headers:get(":status") == "503" then
        headers:replace(":status", "{sent.status}") {headers}
        handle:body():setBytes('{sent.body.decode()}')
      end
    end"""
    return {
        "name": "lua",
        "typed_config": typed("envoy.extensions.filters.http.lua.v3.Lua", default_source_code={"inline_string": code}),
    }


def _by_hand(upstream: int, service: int) -> Configuration:
    """Our configuration of ext_proc for another service, without the gate and on every route."""
    configuration = _ours(upstream, service, Placement.EXT_PROC, RULE)
    (listener,) = configuration.listeners
    ours = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"].pop(0)
    plain = ours["typed_config"]["extension_config"]["typed_config"]
    plain["grpc_service"]["envoy_grpc"]["cluster_name"] = "by_hand"
    (routes,) = configuration.routes
    for host in routes["virtual_hosts"]:
        for route in host["routes"]:
            route.pop("typed_per_filter_config", None)
    for cluster in configuration.clusters:
        if cluster["name"] == EXT_PROC_CLUSTER:
            cluster["name"] = cluster["load_assignment"]["cluster_name"] = "by_hand"
    return _with_filter(configuration, {"name": "by_hand", "typed_config": plain})


def _variants(upstream: int, ext_proc: int, other: int) -> dict[str, Configuration]:
    sent = reply(ANSWER, 503)

    def plain() -> Configuration:
        return _ours(upstream, ext_proc, Placement.EXT_PROC)

    return {
        PLAIN: plain(),
        "module": _ours(upstream, ext_proc, Placement.MODULE, RULE),
        "module, Python handler": _ours(upstream, ext_proc, Placement.MODULE, HANDLED),
        "ext_proc": _ours(upstream, ext_proc, Placement.EXT_PROC, RULE),
        "ext_proc, Python handler": _ours(upstream, ext_proc, Placement.EXT_PROC, HANDLED),
        "ext_proc by hand": _by_hand(upstream, other),
        "custom_response": _with_filter(plain(), _custom_response(sent)),
        "Lua": _with_filter(plain(), _lua(sent)),
    }


def _gateway(variants: dict[str, Configuration]) -> Json:
    """All variants in one Envoy, a listener each."""
    clusters: dict[str, Json] = {}
    listeners = []
    for name, configuration in variants.items():
        resources = static_bootstrap(configuration)["static_resources"]
        (listener,) = resources["listeners"]
        listeners.append({**listener, "name": name})
        clusters.update((cluster["name"], cluster) for cluster in resources["clusters"])
    return _bootstrap(listeners, list(clusters.values()))


def _upstream() -> Json:
    """An Envoy that answers `/200` and `/503` itself."""
    ruleset = Ruleset(listeners=(Listener("127.0.0.1", 0),))
    configuration = translate(ruleset, plan(ruleset), Settings(Endpoint("127.0.0.1", 1)))
    (listener,) = static_bootstrap(configuration)["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["route_config"]["virtual_hosts"][0]["routes"] = [
        {
            "match": {"path": f"/{status}"},
            "direct_response": {"status": status, "body": {"inline_string": UPSTREAM_BODY}},
        }
        for status in CASES.values()
    ]
    return _bootstrap([{**listener, "name": "upstream"}], [])


def _bootstrap(listeners: list[Json], clusters: list[Json]) -> Json:
    return {
        "admin": bootstrap(admin=("127.0.0.1", 0))["admin"],
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


async def main(seconds: int = 1, rounds: int = 5) -> None:
    binary = find().path
    environ = {**os.environ, **library.environment(library.find(binary), [HANDLERS])}
    sys.path.append(str(HANDLERS))
    processor = Processor()
    ext_proc = await processor.start("127.0.0.1:0")
    other, other_port = await by_hand.serve(reply(ANSWER, 503))
    async with running(binary, _upstream(), concurrency=1, log_level="error") as upstream:
        (address,) = (await upstream.ready(["upstream"]))["upstream"]
        variants = _variants(address[1], ext_proc, other_port)
        tables = [table for rule in (RULE, HANDLED) for table in plan(Ruleset(rules=(rule,))).tables()]
        processor.publish(Ruleset(), tables)
        async with running(binary, _gateway(variants), concurrency=1, log_level="error", environ=environ) as gateway:
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
            costs = await interleaved(names, rounds, measure)
    await processor.stop()
    await other.stop(None)
    per_thousand = {name: connections[name] / requests[name] * 1000 for name in names}
    publish("placements", _report(costs, per_thousand, f"{rounds} interleaved rounds of {seconds} s"))


async def _opened(gateway: EnvoyProcess) -> int:
    return sum((await gateway.admin.stats(r"^cluster\.upstream\.upstream_cx_total$")).values())


def _report(costs: Mapping[str, tuple[Spread, Spread]], connections: Mapping[str, float], rounds: str) -> Report:
    rows: list[tuple[str, ...]] = []
    series: dict[str, list[tuple[str, Spread]]] = {case: [] for case in CASES}
    for name, (cpu, throughput) in costs.items():
        variant, case = name.split(": ")
        plain_cpu, plain_throughput = (spread.median for spread in costs[f"{PLAIN}: {case}"])
        ratio = cpu.over(plain_cpu)
        rows.append((variant, case, str(ratio), str(throughput.over(plain_throughput)), f"{connections[name]:.1f}"))
        series[case].append((variant, ratio))
    faster = costs["module: listed"][1].median / costs["custom_response: listed"][1].median
    plain = costs[f"{PLAIN}: not listed"][0].median
    return Report(
        title="The placements",
        text=(
            "A response whose status no rule names (not listed) and one whose status is answered (listed). CPU per "
            f"request of an Envoy with one worker and throughput, plain proxying = 1 ({plain:.1f} us), and upstream "
            f"connections per 1,000 requests. Medians (and ranges) of {rounds}, 32 connections, bodies of 100 bytes; "
            "the upstream is a second Envoy. The CPU of an ext_proc service comes on top."
        ),
        columns=("", "status", "CPU per request", "throughput", "connections"),
        rows=tuple(rows),
        plot=Plot(
            "The placements", "", "CPU per request", tuple(Series(case, tuple(each)) for case, each in series.items())
        ),
        conclusion=f"Listed, the module has {faster:.1f} times the throughput of `custom_response`.",
    )


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
