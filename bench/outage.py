"""All upstreams are down, and all clients retry: who gets the error page, and who the raw 503?

    python bench/outage.py [--short]

An Envoy with a configuration of its own, its upstream a second Envoy that answers everything with 503, and one ext_proc
worker with a page for that. CLIENTS connections ask, each again as soon as it has an answer: first with nothing in the
way, then with the filters that `rejoinder bootstrap ext_proc RULES` prints, in turns. The page has status 200, so that
wrk can tell it from a 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from envoys import UPSTREAM, cluster, config, listener, printed_filters, upstream
from harness import Goal, Report, Spread, arguments, cpu_seconds, in_turns, machine, publish, wrk

from rejoinder.envoy import find, running
from rejoinder.extproc import Workers
from rejoinder.rules.model import Answer, Endpoint, Rule, StatusPattern
from rejoinder.rules.program import compile_rules
from rejoinder.xds.translate.clusters import ext_proc_cluster

CLIENTS: Final = 4_000
PLAIN: Final = "plain proxying"
ANSWERED: Final = "ext_proc"
PAGE: Final = Rule("down", (Answer(200, (), b"We are back soon. " * 20, (StatusPattern("5"),)),))


@dataclass(frozen=True, slots=True)
class Sample:
    throughput: float
    raw: float
    """The share of the responses that were the upstream's 503, or Envoy's."""
    cpu_us: float
    """Of Envoy, for a response."""
    service_us: float


async def main(clients: int, seconds: int, rounds: int) -> None:
    program = compile_rules((PAGE,))
    async with contextlib.AsyncExitStack() as stack:
        workers = Workers(1)
        port = await workers.start("127.0.0.1:0")
        stack.push_async_callback(workers.stop)
        workers.publish(program)
        (pid,) = workers.pids
        assert pid is not None
        binary = find().path
        behind = await stack.enter_async_context(running(binary, upstream(), concurrency=1, log_level="error"))
        (address,) = (await behind.ready([UPSTREAM]))[UPSTREAM]
        made = config(
            [listener(PLAIN), listener(ANSWERED, printed_filters(program))],
            [cluster(UPSTREAM, address[1]), ext_proc_cluster(Endpoint("127.0.0.1", port))],
        )
        envoy = await stack.enter_async_context(running(binary, made, concurrency=1, log_level="error"))
        bound = await envoy.ready([PLAIN, ANSWERED])

        async def measure(name: str) -> Sample:
            before = cpu_seconds(envoy.pid), cpu_seconds(pid)
            load = await wrk(bound[name][0][1], "/503", seconds=seconds, connections=clients)
            used, served = cpu_seconds(envoy.pid) - before[0], cpu_seconds(pid) - before[1]
            per_response = 1e6 / load.requests
            return Sample(load.throughput, load.errors / load.requests, used * per_response, served * per_response)

        samples = await in_turns([PLAIN, ANSWERED], rounds, measure)
    publish("outage", report(samples, clients, f"{rounds} interleaved rounds of {seconds} s"))


def report(samples: Mapping[str, Sequence[Sample]], clients: int, rounds: str) -> Report:
    plain, ours = (samples[name] for name in (PLAIN, ANSWERED))
    answers = Spread.of_ratios([one.throughput * (1 - one.raw) for one in ours], [one.throughput for one in plain])
    raw = 100 * sum(one.raw for one in ours) / len(ours)
    return Report(
        title="An outage",
        text=(
            f"All upstreams answer 503, and {clients:,} clients ask again and again; one ext_proc "
            "worker has a page for it. Responses per second, the share of them that are the raw 503, and CPU of Envoy "
            f"(one worker) and of the service for one. Medians (and ranges) of {rounds}; upstream "
            f"and clients take their share of the {machine()['cores']} cores."
        ),
        columns=("", "responses per second", "raw (%)", "Envoy (us)", "service (us)"),
        rows=tuple(
            (
                name,
                str(Spread.of([one.throughput for one in measured])),
                str(Spread.of([100 * one.raw for one in measured])),
                str(Spread.of([one.cpu_us for one in measured])),
                str(Spread.of([one.service_us for one in measured])) if name == ANSWERED else "",
            )
            for name, measured in samples.items()
        ),
        goals=(
            Goal.at_most(f"outage, {clients:,} clients, ext_proc with one worker: raw 503s", 0.5, raw, "%"),
            Goal.at_least("... answers per second against plain proxying", 0.5, answers.median),
        ),
    )


if __name__ == "__main__":
    parser = arguments(__doc__, "a tenth of the clients for 2 s, once")
    # Each connection is a file descriptor for wrk, and more for the Envoys.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(*((CLIENTS // 10, 2, 1) if parser.parse_args().short else (CLIENTS, 8, 2))))
