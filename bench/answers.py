"""The cost of answers that depend on the request.

    python bench/answers.py [--short]

One Envoy with one worker, configured by hand, and a second one as its upstream, which answers 503. A rule replaces this
by a page: a fixed one; a template with five variables that makes a page of the same length; the best of four variants
of that length; the built-in page. With the filters that `rejoinder bootstrap` prints, in the module and over ext_proc.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from envoys import UPSTREAM, asked_elsewhere, cluster, config, listener, printed_filters, service, upstream
from harness import Goal, Plot, Report, Series, Spread, arguments, cpu_seconds, in_turns, publish, wrk

from rejoinder.envoy import find, running
from rejoinder.envoy.module import library
from rejoinder.extproc import Processor
from rejoinder.rules.answers import Asked, reply
from rejoinder.rules.model import Answer, Rule, StatusPattern, Variant
from rejoinder.rules.page import Branding, rule_with_pages
from rejoinder.rules.program import compile_rules
from rejoinder.rules.request import Request
from rejoinder.xds.translate import Json, Placement
from rejoinder.xds.translate.extensions import foreign_filters
from rejoinder.xds.translate.settings import EXT_PROC_CLUSTER

PATH: Final = "/503"
HEADERS: Final = {
    "accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "accept-language": "de-DE,de;q=0.8,en;q=0.5",
}
"""As a browser sends them."""
FILLER: Final = "x" * 2000
PAGE: Final = (
    f"<h1>{{{{ status }}}} {{{{ status.reason }}}}</h1><p>{FILLER}<p>{{{{ request.method }}}} {{{{ request.path }}}}"
    f"<p>{FILLER}<p>{{{{ request.id }}}}"
)
HTML: Final = (
    ("content-type", "text/html; charset=utf-8"),
    ("content-language", "de"),
    ("vary", "accept, accept-language"),
)
"""The text of the variant that is sent: all connections send the same headers."""
TYPES: Final = (("text/html", "en"), ("text/html", "de"), ("application/json", ""), ("text/plain", ""))

FIXED, TEMPLATE, VARIANTS, BUILT_IN = "fixed", "a template with five variables", "one of four variants", "built-in page"
GOALS: Final = {TEMPLATE: 1.1, VARIANTS: 1.05}
"""Envoy's CPU in the module, the fixed page = 1."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Of one load, for a request."""

    cpu_us: float
    """Of Envoy."""
    service_us: float
    """Of this process, which is the ext_proc service."""


def rules() -> dict[str, Rule]:
    template = Answer(headers=HTML, body=PAGE.encode(), template=True)
    identity = (("x-request-id", str(uuid.UUID(int=0))),)
    page = reply(template, 503, Asked(Request("GET", "bench.test", PATH, headers=identity))).body
    answers = {
        FIXED: Answer(headers=HTML, body=page),
        TEMPLATE: template,
        VARIANTS: Answer(variants=tuple(Variant(*types, page) for types in TYPES)),
        BUILT_IN: Answer(page=True),
    }
    on = (StatusPattern("503"),)
    return {
        name: rule_with_pages(
            Rule("busy", (dataclasses.replace(answer, status_code=None, enable_on_status=on),)), Branding()
        )
        for name, answer in answers.items()
    }


async def main(seconds: int, rounds: int) -> None:
    binary = find().path
    made: dict[str, Json] = {}
    services: dict[str, int] = {}
    async with contextlib.AsyncExitStack() as stack:
        for name, rule in rules().items():
            program, processor = compile_rules((rule,)), Processor()
            processor.publish(program)
            services[name] = await processor.start("127.0.0.1:0")
            stack.push_async_callback(processor.stop)
            for placement, filters in (
                (Placement.MODULE, foreign_filters(program, Placement.MODULE)),
                (Placement.EXT_PROC, printed_filters(program)),
            ):
                both = f"{placement.value}: {name}"
                made[both] = asked_elsewhere(listener(both, filters), {EXT_PROC_CLUSTER: name})
        behind = await stack.enter_async_context(running(binary, upstream(), concurrency=1, log_level="error"))
        (address,) = (await behind.ready([UPSTREAM]))[UPSTREAM]
        clusters = [cluster(UPSTREAM, address[1]), *(service(*item) for item in services.items())]
        mine = config(list(made.values()), clusters)
        environ = {**os.environ, **library.environment(library.find(binary))}
        envoy = await stack.enter_async_context(
            running(binary, mine, concurrency=1, log_level="error", environ=environ)
        )
        bound = await envoy.ready(list(made))

        async def measure(name: str) -> Sample:
            pids = (envoy.pid, os.getpid())
            before = [cpu_seconds(pid) for pid in pids]
            load = await wrk(bound[name][0][1], PATH, seconds=seconds, headers=HEADERS)
            own, its = ((cpu_seconds(pid) - then) / load.requests for pid, then in zip(pids, before, strict=True))
            return Sample(own * 1e6, its * 1e6)

        samples = await in_turns(list(made), rounds, measure)
    publish("answers", report(samples, f"{rounds} interleaved rounds of {seconds} s"))


def report(samples: Mapping[str, Sequence[Sample]], rounds: str) -> Report:
    rows = []
    series: dict[str, list[tuple[str, Spread]]] = {}
    for both, measured in samples.items():
        placement, name = both.split(": ")
        fixed = samples[f"{placement}: {FIXED}"]
        ratio = Spread.of_ratios([one.cpu_us for one in measured], [one.cpu_us for one in fixed])
        used = str(Spread.of([one.service_us for one in measured])) if placement == Placement.EXT_PROC.value else ""
        series.setdefault(placement, []).append((name, ratio))
        rows.append((placement, name, str(ratio), used))
    base = Spread.of([one.cpu_us for one in samples[f"{Placement.MODULE.value}: {FIXED}"]])
    return Report(
        title="Answers that depend on who asks",
        text=(
            f"A 503 of the upstream is replaced by a page of {len(rules()[FIXED].answers[0].body):,} bytes (the "
            "built-in one has its own length), for a browser's headers. CPU per request of an Envoy with one worker, "
            f"the fixed page in the same placement and round = 1 (module: {base.median:.1f} us), and of the ext_proc "
            f"service. Medians (and ranges) of {rounds}, 32 connections; the upstream is a second Envoy."
        ),
        columns=("", "answer", "CPU per request", "service (us)"),
        rows=tuple(rows),
        plot=Plot(
            "Answers that depend on who asks",
            "",
            "CPU per request",
            tuple(Series(placement, tuple(spreads)) for placement, spreads in series.items()),
        ),
        goals=tuple(
            Goal.at_most(f"module, {name}: Envoy's CPU against a fixed page of that size", wanted, ratio.median)
            for name, ratio in series[Placement.MODULE.value]
            if (wanted := GOALS.get(name))
        ),
    )


if __name__ == "__main__":
    parser = arguments(__doc__, "once")
    asyncio.run(main(1, 1 if parser.parse_args().short else 10))
