"""The cost of Rejoinder in an Envoy that has a configuration of its own.

    python bench/foreign.py [--short]

Two Envoys with one worker each, both configured by hand: the second one is the upstream of the first. Measured are a
status that no rule names (200), and one that is answered (503), with: no filter; the filters that `rejoinder bootstrap
ext_proc RULES` prints, and that of `bootstrap module RULES`; those without RULES, which follow a control plane; an
ext_proc service as one would write it by hand, with grpc.aio and asked about everything; Envoy's `custom_response`.
Services have processes of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from envoys import (
    RULE,
    SENT,
    UPSTREAM,
    ask_about_everything,
    cluster,
    config,
    custom_response,
    listener,
    printed_filters,
    service,
    upstream,
)
from harness import Goal, Plot, Report, Series, Spread, arguments, cpu_seconds, in_turns, publish, script, wrk
from reload_visitors import Connection

from rejoinder.envoy import EnvoyProcess, find, running, xds_cluster
from rejoinder.envoy.module import library
from rejoinder.extproc import Workers
from rejoinder.rules.model import Endpoint, Ruleset
from rejoinder.rules.program import compile_rules
from rejoinder.xds.build import build
from rejoinder.xds.server import Server
from rejoinder.xds.translate import Json, Placement, Settings
from rejoinder.xds.translate.clusters import ext_proc_cluster
from rejoinder.xds.translate.extensions import foreign_discovery, foreign_filters

PLAIN: Final = "plain proxying"
EXT_PROC: Final = "ext_proc"
EXT_PROC_DISCOVERED: Final = "ext_proc, ECDS"
STATIC: Final = "module"
DISCOVERED: Final = "module, ECDS"
BY_HAND: Final = "ext_proc by hand, grpc.aio"
CUSTOM_RESPONSE: Final = "custom_response"
NOT_LISTED, LISTED = "not listed", "listed"
CASES: Final = {NOT_LISTED: 200, LISTED: 503}
PATIENCE: Final = 60.0
"""Seconds until the control plane's rules answer."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Of one load, for a request."""

    cpu_us: float
    """Of the Envoy in front."""
    service_us: float
    """Of the service's process."""
    throughput: float
    streams: float
    """From Envoy to the service."""


def listeners() -> list[Json]:
    program = compile_rules((RULE,))
    filters = {
        PLAIN: [],
        EXT_PROC: printed_filters(program),
        EXT_PROC_DISCOVERED: foreign_discovery(Placement.EXT_PROC),
        STATIC: foreign_filters(program, Placement.MODULE),
        DISCOVERED: foreign_discovery(Placement.MODULE),
        BY_HAND: [ask_about_everything(BY_HAND)],
        CUSTOM_RESPONSE: [custom_response(SENT)],
    }
    return [listener(name, http_filters) for name, http_filters in filters.items()]


async def answered(port: int) -> None:
    """Wait until rules answer.

    Raises:
        TimeoutError: they do not.
    """
    async with asyncio.timeout(PATIENCE):
        with contextlib.closing(Connection(port)) as connection:
            while (await connection.ask(f"/{CASES[LISTED]}")).status != SENT.status:
                await asyncio.sleep(0.05)


async def main(seconds: int, rounds: int) -> None:
    binary = find().path
    async with contextlib.AsyncExitStack() as stack:
        workers, control_plane = Workers(1), Server(lambda _: None)
        await workers.start("127.0.0.1:0")
        stack.push_async_callback(workers.stop)
        workers.publish(compile_rules((RULE,)))
        (pid,) = workers.pids
        assert pid is not None
        xds = await control_plane.start("127.0.0.1:0")
        stack.push_async_callback(control_plane.stop)
        control_plane.publish(build(Ruleset(rules=(RULE,)), Settings(Endpoint("127.0.0.1", 1))).snapshot)
        other, port = await stack.enter_async_context(script("by_hand"))
        behind = await stack.enter_async_context(running(binary, upstream(), concurrency=1, log_level="error"))
        (address,) = (await behind.ready([UPSTREAM]))[UPSTREAM]
        made = listeners()
        clusters = [
            cluster(UPSTREAM, address[1]),
            ext_proc_cluster(Endpoint("127.0.0.1", workers.ports[0])),
            service(BY_HAND, int(port)),
            xds_cluster(("127.0.0.1", xds)),
        ]
        environ = {**os.environ, **library.environment(library.find(binary))}
        mine = config(made, clusters, node={"id": "foreign", "cluster": "bench"})
        envoy = await stack.enter_async_context(
            running(binary, mine, concurrency=1, log_level="error", environ=environ)
        )
        names = [one["name"] for one in made]
        bound = await envoy.ready(names)
        for name in names:
            if name != PLAIN:
                await answered(bound[name][0][1])
        services = {EXT_PROC: pid, EXT_PROC_DISCOVERED: pid, BY_HAND: other.pid}

        async def measure(name: str) -> Sample:
            variant, case = name.split(": ")
            served = services.get(variant, pid)
            before = cpu_seconds(envoy.pid), cpu_seconds(served), await streams(envoy)
            load = await wrk(bound[variant][0][1], f"/{CASES[case]}", seconds=seconds)
            after = cpu_seconds(envoy.pid), cpu_seconds(served), await streams(envoy)
            own, its, asked = ((now - then) / load.requests for now, then in zip(after, before, strict=True))
            return Sample(own * 1e6, its * 1e6, load.throughput, asked)

        samples = await in_turns([f"{name}: {case}" for case in CASES for name in names], rounds, measure)
    publish("foreign", report(samples, f"{rounds} interleaved rounds of {seconds} s"))


async def streams(envoy: EnvoyProcess) -> int:
    return sum((await envoy.admin.stats(r"ext_proc\.streams_started$")).values())


def report(samples: Mapping[str, Sequence[Sample]], rounds: str) -> Report:
    ratios: dict[tuple[str, str], Spread] = {}
    rows = []
    for name, measured in samples.items():
        variant, case = name.split(": ")
        plain = samples[f"{PLAIN}: {case}"]
        ratio = Spread.of_ratios([one.cpu_us for one in measured], [one.cpu_us for one in plain])
        throughput = Spread.of_ratios([one.throughput for one in measured], [one.throughput for one in plain])
        asked = Spread.of([one.streams for one in measured]).median
        used = str(Spread.of([one.service_us for one in measured])) if asked else ""
        ratios[variant, case] = ratio
        rows.append((variant, case, str(ratio), str(throughput), f"{asked:.2g}", used))
    ours, by_hand = ([one.service_us for one in samples[f"{name}: {LISTED}"]] for name in (EXT_PROC, BY_HAND))
    in_module, theirs = ([one.cpu_us for one in samples[f"{name}: {LISTED}"]] for name in (STATIC, CUSTOM_RESPONSE))
    unasked = max(one.streams for one in samples[f"{EXT_PROC}: {NOT_LISTED}"])
    plain_us = Spread.of([one.cpu_us for one in samples[f"{PLAIN}: {NOT_LISTED}"]])
    own = "an Envoy with its own configuration"
    against = "Envoy's CPU against plain proxying"
    return Report(
        title="Envoys with a configuration of their own",
        text=(
            "A response whose status no rule names (not listed) and one whose status is answered (listed), in an Envoy "
            "configured by hand, by the filters that `rejoinder bootstrap` prints. CPU per request of that Envoy, with "
            f"one worker, and throughput, plain proxying in the same round = 1 ({plain_us.median:.1f} us); ext_proc "
            f"streams per request; CPU of the ext_proc service per request in us. Medians (and ranges) of {rounds}, "
            "32 connections, bodies of 100 bytes; the upstream is a second Envoy."
        ),
        columns=("", "status", "CPU per request", "throughput", "streams", "service (us)"),
        rows=tuple(rows),
        plot=Plot(
            "Envoys with a configuration of their own",
            "",
            "CPU per request",
            tuple(
                Series(case, tuple((name, ratio) for (name, of), ratio in ratios.items() if of == case))
                for case in CASES
            ),
        ),
        goals=(
            Goal.at_most(f"{own}, ext_proc, not listed: {against}", 1.08, ratios[EXT_PROC, NOT_LISTED].median),
            Goal.at_most("... ext_proc streams per request", 0, unasked),
            Goal.at_most(f"{own}, ext_proc, listed: {against}", 2.4, ratios[EXT_PROC, LISTED].median),
            Goal.at_most("... the service's CPU for an answer", 60, Spread.of(ours).median, "us"),
            Goal.at_least("... a service by hand with grpc.aio against it", 8, Spread.of_ratios(by_hand, ours).median),
            *(
                Goal.at_most(f"{own}, {kind}, {case}: {against}", wanted, ratios[kind, case].median)
                for kind in (STATIC, DISCOVERED)
                for case, wanted in ((NOT_LISTED, 1.05), (LISTED, 1.15))
            ),
            Goal.at_least(
                "... `custom_response` against the module, listed: Envoy's CPU",
                2.0,
                Spread.of_ratios(theirs, in_module).median,
            ),
        ),
    )


if __name__ == "__main__":
    parser = arguments(__doc__, "once")
    asyncio.run(main(1, 1 if parser.parse_args().short else 5))
