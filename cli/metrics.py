"""`/metrics`: what goes on, in Prometheus' words. docs/monitoring.md explains each.

What is a number of somebody else's (counts of answers, clients, problems) is read when it is asked for (`State`); what
happens once (a reload, a rejection) is told as it happens. I/O: none.
https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

import functools
import importlib.metadata
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from rejoinder.extproc import Counters
from rejoinder.extproc.grpc import BOUNDS
from rejoinder.extproc.wire import PLACEMENT
from rejoinder.rules.counts import OTHER, Counts, Kind
from rejoinder.rules.model import Ruleset
from rejoinder.rules.problem import Problem, Severity
from rejoinder.xds.events import ClientStatus

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

MOST_NODES: Final = 100
"""Clients whose rejections are counted apart: whoever connects may call itself anything."""

_PUSH_BOUNDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@dataclass(frozen=True, slots=True)
class State:
    """What goes on at one moment."""

    counts: Counts
    """In all placements."""
    handler_failures: Mapping[tuple[str, str], int]
    """By rule and placement."""
    ext_proc: Counters
    problems: Sequence[Problem]
    ruleset: Ruleset
    clients: Sequence[ClientStatus]
    version: str
    """What they are to have."""
    serves_last_good: bool = False
    cannot_keep: bool = False
    """Of `--state`."""


class Metrics(Collector):
    """The metrics of one control plane.

    Args:
        state: what goes on; called by whatever thread asks.
    """

    def __init__(self, state: Callable[[], State]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # nobody needs these series
        self._state = state
        self._registry = CollectorRegistry()
        self._reloads = Counter(
            "rejoinder_reloads", "Edits of the files, and the start, by what became of them.", ["result"], registry=None
        )
        for result in ("ok", "refused", "failed"):
            self._reloads.labels(result)
        self._last_reload = Gauge(
            "rejoinder_last_reload_success_timestamp_seconds", "When files could last be used.", registry=None
        )
        self._nacks = Counter("rejoinder_xds_nacks", "What Envoys have rejected, by node id.", ["node"], registry=None)
        self._pushed = Histogram(
            "rejoinder_xds_push_duration_seconds",
            "From an edit, or an Envoy's connection, until that Envoy has taken everything.",
            buckets=_PUSH_BOUNDS,
            registry=None,
        )
        self._nodes: set[str] = set()
        self._registry.register(self)
        for told in (self._reloads, self._last_reload, self._nacks, self._pushed):
            self._registry.register(told)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """All of it; see CONTENT_TYPE."""
        return generate_latest(self._registry)

    def reloaded(self, result: str) -> None:
        """Args: result: `ok`; `refused`, for what the files say; `failed`, for a reason of ours."""
        self._reloads.labels(result).inc()
        if result == "ok":
            self._last_reload.set_to_current_time()

    def rejected(self, node: str) -> None:
        if len(self._nodes) < MOST_NODES:
            self._nodes.add(node)
        self._nacks.labels(node if node in self._nodes else OTHER).inc()

    def pushed(self, since: float) -> None:
        """Args: since: by `time.monotonic`."""
        self._pushed.observe(time.monotonic() - since)

    def collect(self) -> Iterator[Metric]:
        state = self._state()
        yield InfoMetricFamily(
            "rejoinder_build", "The version.", value={"version": importlib.metadata.version("rejoinder")}
        )
        yield from _answers(state.counts)
        labels = ["rule", "placement"]
        failures = [(of, number) for of, number in state.handler_failures.items()]
        yield _counter("rejoinder_handler_failures", "Python handlers that failed.", labels, failures)
        problems = [((each.value,), sum(p.severity is each for p in state.problems)) for each in Severity]
        yield _gauge("rejoinder_problems", "What is wrong with the files as they are.", ["severity"], problems)
        yield _gauge("rejoinder_rules", "Rules in force, by kind.", ["kind"], _kinds(state.ruleset))
        yield _gauge("rejoinder_routes", "Routes in force.", [], [((), len(state.ruleset.routes))])
        served, unsaved = float(state.serves_last_good), float(state.cannot_keep)
        yield _gauge("rejoinder_last_good_served", "1: the set of --state, in place of the files.", [], [((), served)])
        yield _gauge("rejoinder_last_good_unsaved", "1: what is in force cannot be kept.", [], [((), unsaved)])
        behind = sum(client.version != client.target for client in state.clients)
        refusing = sum(bool(each.nack and each.nack.snapshot.version == state.version) for each in state.clients)
        for name, text, number in (
            ("", "Envoys that are connected.", len(state.clients)),
            ("_behind", "... that have not taken everything yet.", behind),
            ("_rejecting", "... that have rejected what the files say now.", refusing),
        ):
            yield _gauge(f"rejoinder_xds_clients{name}", text, [], [((), number)])
        yield from _ext_proc(state.ext_proc)


_Samples = Iterable[tuple[Sequence[str], float]]


def _family(
    kind: type[CounterMetricFamily | GaugeMetricFamily],
    name: str,
    text: str,
    labels: Sequence[str],
    samples: _Samples,
) -> Metric:
    family = kind(name, text, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


_counter: Final = functools.partial(_family, CounterMetricFamily)
_gauge: Final = functools.partial(_family, GaugeMetricFamily)


def _answers(counts: Counts) -> Iterator[Metric]:
    labels = ["rule", "placement", "original_status", "status"]
    for kind, text in (
        (Kind.ANSWERED, "Answers that rules have given."),
        (Kind.OBSERVED, "Answers that rules would have given that only observe."),
        (Kind.PASSED, "Responses that rules have let pass."),
    ):
        yield _counter(f"rejoinder_{kind}", text, labels, [(each[:4], number) for each, number in counts.of(kind)])
    failed = [(each[:2], number) for each, number in counts.of(Kind.NO_PAGE)]
    yield _counter(f"rejoinder_{Kind.NO_PAGE}", "Pages of other services that did not come.", labels[:2], failed)
    routes = [((each.rule, each.status), number) for each, number in counts.of(Kind.ROUTE)]
    yield _counter(f"rejoinder_{Kind.ROUTE}", "What routes have answered by themselves.", ["route", "status"], routes)


def _kinds(ruleset: Ruleset) -> _Samples:
    kinds = {("unconditional",): 0, ("conditional",): 0, ("observing",): 0}
    for rule in ruleset.rules:
        kinds[("observing" if rule.observe else "unconditional" if rule.unconditional else "conditional"),] += 1
    return kinds.items()


def _ext_proc(counters: Counters) -> Iterator[Metric]:
    yield _gauge("rejoinder_ext_proc_connections", "Connections of Envoys.", [], [((), counters.connections)])
    yield _gauge("rejoinder_ext_proc_streams", "Exchanges under way.", [], [((), counters.streams)])
    for name, text, number in (
        ("passed", "Exchanges that were let pass untouched.", counters.passed),
        ("overloaded", "... of these, for they came too late, or too many at once.", counters.overloaded),
        ("failures", "... of these, for they made no sense or broke something.", counters.failures),
    ):
        yield _counter(f"rejoinder_ext_proc_{name}", text, [], [((), number)])
    total, buckets = 0, []
    for bound, number in zip((*map(str, BOUNDS), "+Inf"), counters.durations, strict=True):
        total += number
        buckets.append((bound, float(total)))
    family = HistogramMetricFamily(
        f"rejoinder_{PLACEMENT}_duration_seconds", "From a message of Envoy's to what it led to, waiting included."
    )
    family.add_metric([], buckets, counters.seconds)
    yield family
