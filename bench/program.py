"""The cost of decisions, by the number of rules: in Python, and in the module's core.

    python bench/program.py [--short]

Conditional rules with a domain and a path each, told apart by one of them or by both; asked is about a request that the
last one fits. In Python: microseconds for one decision, with a request that was never seen before, and seconds to
compile the rules and to write them as bytes. At Envoy: CPU for a request that the module answers, with a configuration
of its own and a second Envoy as its upstream, which says 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from envoys import UPSTREAM, cluster, config, listener, upstream
from harness import Cost, Goal, Report, Spread, arguments, gateway_cost, in_turns, publish, wrk

from rejoinder.envoy import find, running
from rejoinder.envoy.module import library
from rejoinder.rules.model import Answer, PathKind, PathMatch, RequestMatch, Rule, Scope, StatusPattern
from rejoinder.rules.program import Program, compile_rules
from rejoinder.rules.program_bytes import encode
from rejoinder.rules.request import Request, Response
from rejoinder.xds.translate import Placement
from rejoinder.xds.translate.extensions import foreign_filters

FEW: Final = 10
MANY: Final = 10_000
DECISIONS: Final = 5_000
"""In a round."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How rules differ: each field makes a part of a rule from its number."""

    domain: Callable[[int], str]
    path: Callable[[int], PathMatch]


def _exact(number: int) -> PathMatch:
    return PathMatch(PathKind.EXACT, f"/503/page/{number:05}")


def _prefix(number: int) -> PathMatch:
    return PathMatch(PathKind.PREFIX, f"/503/shop/{number:05}/checkout")


KINDS: Final[Mapping[str, Kind]] = {
    "paths": Kind("shop.example.com".format, _exact),
    "domains": Kind("shop-{:05}.example.com".format, lambda _: _prefix(0)),
    "domains and paths": Kind("shop-{:05}.example.com".format, _prefix),
    "wildcards and paths": Kind(lambda number: f"*.shop-{number % 100:02}.example.com", _prefix),
}
AT_ENVOY: Final = ("paths", "domains and paths")


def rules(kind: str, count: int, generation: int = 0) -> tuple[Rule, ...]:
    """Such rules; of another generation, none of them is the same as before."""
    of = KINDS[kind]
    return tuple(
        Rule(
            f"rule-{number}",
            (Answer(None, (("x-rule", str(number)),), f"{generation}/{number}".encode(), (StatusPattern("5"),)),),
            Scope(domains=(of.domain(number),), request=RequestMatch(of.path(number))),
        )
        for number in range(count)
    )


def asked(kind: str, count: int) -> tuple[str, str]:
    """Host and path of a request that the last of them fits."""
    of = KINDS[kind]
    return of.domain(count - 1).replace("*", "www"), of.path(count - 1).value


# ---- in Python


@dataclass(frozen=True, slots=True)
class Python:
    """One round."""

    decision: float
    """Microseconds."""
    compiled: float
    """Seconds; `encoded` likewise."""
    encoded: float
    size: int
    """Bytes."""


def in_python(kind: str, count: int, generation: int) -> Python:
    made = rules(kind, count, generation)
    gc.collect()
    gc.disable()  # as it is in `rejoinder serve` while it builds
    times = [time.process_time()]
    program = compile_rules(made)
    times.append(time.process_time())
    data = encode(program)
    times.append(time.process_time())
    gc.enable()
    return Python(_decision(program, *asked(kind, count)), times[1] - times[0], times[2] - times[1], len(data))


def _decision(program: Program, host: str, path: str) -> float:
    requests = [Request(method="GET", host=host, path=path, headers=(("x-n", str(n)),)) for n in range(DECISIONS)]
    assert program.on_status(requests[0], "all", Response(503)) is not None
    began = time.process_time()
    for request in requests:
        program.on_status(request, "all", Response(503))
    return (time.process_time() - began) / DECISIONS * 1e6


# ---- at Envoy


async def at_envoy(seconds: int, rounds: int) -> dict[str, list[Cost]]:
    cases = {f"{kind}: {count}": (kind, count) for kind in AT_ENVOY for count in (FEW, MANY)}
    binary = find().path
    async with contextlib.AsyncExitStack() as stack:
        behind = await stack.enter_async_context(running(binary, upstream(), concurrency=1, log_level="error"))
        (address,) = (await behind.ready([UPSTREAM]))[UPSTREAM]
        listeners = [
            listener(name, foreign_filters(compile_rules(rules(*case)), Placement.MODULE))
            for name, case in cases.items()
        ]
        environ = {**os.environ, **library.environment(library.find(binary))}
        envoy = await stack.enter_async_context(
            running(
                binary,
                config(listeners, [cluster(UPSTREAM, address[1])]),
                concurrency=1,
                log_level="error",
                environ=environ,
            )
        )
        bound = await envoy.ready(list(cases))

        async def measure(name: str) -> Cost:
            host, path = asked(*cases[name])
            return await gateway_cost(envoy.pid, wrk(bound[name][0][1], path, seconds=seconds, headers={"Host": host}))

        return await in_turns(list(cases), rounds, measure)


def report(
    python: Mapping[tuple[str, int], Sequence[Python]], envoy: Mapping[str, Sequence[Cost]], rounds: str
) -> Report:
    decisions = {case: Spread.of([one.decision for one in measured]) for case, measured in python.items()}
    rows = []
    for (kind, count), measured in python.items():
        costs, few = (envoy.get(f"{kind}: {number}", ()) for number in (count, FEW))
        ratio = Spread.of_ratios([cost.cpu_us for cost in costs], [cost.cpu_us for cost in few]) if costs else ""
        rows.append(
            (
                f"{count:,}",
                kind,
                str(decisions[kind, count]),
                str(Spread.of([one.compiled for one in measured])),
                str(Spread.of([one.encoded for one in measured])),
                f"{measured[0].size:,}",
                str(ratio),
            )
        )
    slowest = max(decisions[kind, MANY].median for kind in KINDS)
    in_python = max(decisions[kind, MANY].median / decisions[kind, FEW].median for kind in KINDS)
    at_envoy = max(
        Spread.of_ratios(*([cost.cpu_us for cost in envoy[f"{kind}: {count}"]] for count in (MANY, FEW))).median
        for kind in AT_ENVOY
    )
    last = f"the last of {MANY:,} rules"
    return Report(
        title="The decision program",
        text=(
            "Rules about a status with a domain and a path each, which are told apart by the one, the other, or both; "
            "a request that the last of them fits. Microseconds for a decision in Python; CPU seconds to compile the "
            "rules, and to write them as bytes; CPU per request of an Envoy with one worker whose module answers, the "
            f"last of {FEW} in the same round = 1. Medians (and ranges) of {rounds}."
        ),
        columns=("rules", "of", "decision (us)", "compile (s)", "encode (s)", "bytes", "CPU per request at Envoy"),
        rows=tuple(rows),
        goals=(
            Goal.at_most(f"deciding in Python, {last} with paths and domains", 40, slowest, "us"),
            Goal.at_most(f"... against the last of {FEW}", 2, in_python),
            Goal.at_most(
                f"... the same in the module, Envoy's CPU, status listed: against the last of {FEW}", 1.05, at_envoy
            ),
        ),
    )


def main() -> None:
    parser = arguments(__doc__, "once")
    rounds, loads = (1, 1) if parser.parse_args().short else (2, 5)
    python: dict[tuple[str, int], list[Python]] = {(kind, count): [] for kind in KINDS for count in (FEW, MANY)}
    for number in range(rounds):
        for (kind, count), measured in python.items():
            measured.append(in_python(kind, count, number + 1))
    envoy = asyncio.run(at_envoy(1, loads))
    publish("program", report(python, envoy, f"{rounds} rounds in Python, and {loads} of 1 s with 32 connections"))


if __name__ == "__main__":
    main()
