"""The cost of counting answers: for Envoy, and for the control plane that a thousand Envoys report to.

    python bench/counting.py [--short] [--rounds 6]

An Envoy with one worker, with the counting access loggers, with those and the JSON access log, and with neither, gets
requests for a native answer, for an answer of the module, and for a response that passes. Then simulated Envoys, each
with a connection of its own, report SERIES counters to one `rejoinder serve` every FLUSH seconds, as Envoy does. CPU
time is the operating system's figure. Needs wrk.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import grpc.aio
from envoys import RULE, UPSTREAM, cluster, config, upstream
from fleet import serving
from harness import Cost, Goal, Report, Spread, arguments, gateway_cost, in_turns, publish, wrk

from rejoinder.envoy import find, running
from rejoinder.envoy.module import library
from rejoinder.rules.counts import Kind
from rejoinder.rules.model import (
    Answer,
    Endpoint,
    Forward,
    Listener,
    PathKind,
    PathMatch,
    RequestMatch,
    Route,
    Rule,
    Ruleset,
    Scope,
    Upstream,
)
from rejoinder.rules.names import METADATA
from rejoinder.rules.program import compile_rules
from rejoinder.xds.counts import REPORT, SERVICE
from rejoinder.xds.plan import plan
from rejoinder.xds.translate import Json, Placement, Settings, static_bootstrap, translate
from rejoinder.xds.translate.logs import COUNTERS, logged

NEITHER, COUNTED, LOGGED = "neither", "counted", "counted and logged"
FORMS: Final = {NEITHER: (False, False), COUNTED: (True, False), LOGGED: (True, True)}
CASES: Final = {"native answer": "/mock", "answer of the module": "/503", "passes": "/200"}
MOCK: Final = Rule("mock", (Answer(body=b"x" * 100),), Scope(request=RequestMatch(PathMatch(PathKind.EXACT, "/mock"))))

SERIES: Final = 20
"""Counters in a report."""
FLUSH: Final = 5.0
"""Seconds between two reports of one Envoy: Envoy's own default."""
ENVOYS: Final = 1_000


def variants() -> dict[str, Json]:
    """Listeners of ours, by the name of the form."""
    ruleset = Ruleset(
        listeners=(Listener("127.0.0.1", 0),),
        upstreams=(Upstream(UPSTREAM, (Endpoint("127.0.0.1", 1),)),),
        routes=(Route("all", Forward(UPSTREAM)),),
        rules=(MOCK, RULE),
    )
    settings = Settings(Endpoint("127.0.0.1", 1), Placement.MODULE)
    made = translate(ruleset, compile_rules(ruleset.rules), plan(ruleset), settings)
    (listener,) = static_bootstrap(made)["static_resources"]["listeners"]
    return {name: {**logged(listener, *form), "name": name} for name, form in FORMS.items()}


async def envoy(seconds: float, rounds: int) -> Mapping[str, list[Cost]]:
    """By `form: case`."""
    binary = find().path
    environ = {**os.environ, **library.environment(library.find(binary))}
    async with running(binary, upstream(), concurrency=1, log_level="error") as behind:
        (address,) = (await behind.ready([UPSTREAM]))[UPSTREAM]
        whole = config(list(variants().values()), [cluster(UPSTREAM, address[1])])
        # The log is read and dropped by another process: see `rejoinder.envoy.pump`.
        async with running(
            binary, whole, concurrency=1, log_level="error", environ=environ, on_output=lambda _: None
        ) as gateway:
            bound = await gateway.ready(list(FORMS))

            async def measure(name: str) -> Cost:
                form, case = name.split(": ")
                return await gateway_cost(gateway.pid, wrk(bound[form][0][1], CASES[case], seconds=seconds))

            return await in_turns([f"{form}: {case}" for case in CASES for form in FORMS], rounds, measure)


async def control_plane(envoys: int, seconds: float) -> tuple[float, float]:
    """CPU microseconds of the control plane for a report, and its share of a core."""
    names = [f"rule-{number}" for number in range(SERIES)]
    rules = "".join(f"- {{name: {name}, match: {{path: /{name}}}, body: x}}\n" for name in names)
    points = [{"as_int": 1, "attributes": _attributes(name)} for name in names]
    metric = {"name": f"{METADATA}.{COUNTERS[Kind.ANSWERED]}".encode(), "sum": {"data_points": points}}
    report = REPORT(resource_metrics=[{"scope_metrics": [{"metrics": [metric]}]}]).SerializeToString()
    sent = 0
    with tempfile.TemporaryDirectory() as folder:
        async with serving(Path(folder), f"rules:\n{rules}") as serve:
            own = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each
            channels = [grpc.aio.insecure_channel(serve.address, own) for _ in range(envoys)]
            exports: list[Any] = [channel.unary_unary(f"/{SERVICE}/Export") for channel in channels]
            for export in exports:
                await export(report)
            before, loop = serve.cpu(), asyncio.get_running_loop()
            began = loop.time()

            async def tell(number: int, export: Any) -> None:
                nonlocal sent
                due = began + FLUSH * number / envoys
                while due < began + seconds:
                    await asyncio.sleep(due - loop.time())
                    await export(report)
                    sent += 1
                    due += FLUSH

            await asyncio.gather(*(tell(number, export) for number, export in enumerate(exports)))
            used, took = serve.cpu() - before, loop.time() - began
            for channel in channels:
                await channel.close()
    return used / sent * 1e6, used / took


def _attributes(rule: str) -> list[Json]:
    tags = {"rule": rule, "placement": "native", "original_status": "none", "status": "200"}
    return [{"key": key.encode(), "value": {"string_value": text.encode()}} for key, text in tags.items()]


async def main(seconds: float, rounds: int, envoys: int) -> None:
    costs = await envoy(seconds, rounds)
    per_report, share = await control_plane(envoys, max(seconds * rounds, 2 * FLUSH))
    rows, goals = [], []
    for case, wanted in zip(CASES, (1.15, 1.15, 1.05), strict=True):
        base = costs[f"{NEITHER}: {case}"]
        cells = []
        for form in (COUNTED, LOGGED):
            ratio = Spread.of_ratios([cost.cpu_us for cost in costs[f"{form}: {case}"]], [cost.cpu_us for cost in base])
            cells.append(str(ratio))
            if form == COUNTED:
                goals.append(Goal.at_most(f"{case}, counted: Envoy's CPU against not counted", wanted, ratio.median))
        rows.append((case, f"{Spread.of([cost.cpu_us for cost in base]).median:.1f} us", *cells))
    goals.append(Goal.at_most(f"{envoys:,} Envoys that report: control plane", 25, 100 * share, "% of a core"))
    publish(
        "counting",
        Report(
            title="Counting",
            text=(
                "CPU per request of an Envoy with one worker: uncounted; then, with that in the same round = 1, with "
                "the access loggers that count answers, and with the access log in JSON beside them. Medians (and "
                f"ranges) of {rounds} interleaved rounds of {seconds:g} s, 32 connections, bodies of 100 bytes."
            ),
            columns=("", NEITHER, COUNTED, LOGGED),
            rows=tuple(rows),
            conclusion=(
                f"{envoys:,} simulated Envoys that each report {SERIES} counters every {FLUSH:g} s cost the control "
                f"plane {100 * share:.0f} % of a core, {per_report:.0f} us for a report."
            ),
            goals=tuple(goals),
        ),
    )


if __name__ == "__main__":
    parser = arguments(__doc__, "once")
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    asyncio.run(main(1, 1, 20) if options.short else main(2, options.rounds, ENVOYS))
