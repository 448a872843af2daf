"""`/metrics`: the present state as Prometheus metrics. docs/monitoring.md explains each.

Numbers that other parts keep (counts of answers, clients, problems) are read at each request (`State`); events (a
reload, a rejection) are counted as they happen. I/O: none.
https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

import importlib.metadata
import itertools
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
"""Clients whose rejections are counted separately: a client may have any name."""

_PUSH_BOUNDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@dataclass(frozen=True, slots=True)
class State:
    """The state at one moment."""

    counts: Counts
    """In all placements."""
    handler_failures: Mapping[tuple[str, str], int]
    """By rule and placement."""
    ext_proc: Counters
    problems: Sequence[Problem]
    ruleset: Ruleset
    clients: Sequence[ClientStatus]
    version: str
    """The version of the snapshot that clients should have."""
    serves_last_good: bool = False
    cannot_keep: bool = False
    """Of `--state`."""


class Metrics(Collector):
    """The metrics of one control plane.

    Args:
        state: the present state; called by the thread that asks.
    """

    def __init__(self, state: Callable[[], State]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # nobody needs these series
        self._state = state
        self._registry = registry = CollectorRegistry()
        registry.register(self)
        self._reloads = Counter(
            "rejoinder_reloads",
            "Edits of the files, and the start, by what became of them.",
            ["result"],
            registry=registry,
        )
        for result in ("ok", "refused", "failed"):
            self._reloads.labels(result)
        self._last_reload = Gauge(
            "rejoinder_last_reload_success_timestamp_seconds", "When files could last be used.", registry=registry
        )
        self._nacks = Counter(
            "rejoinder_xds_nacks", "What Envoys have rejected, by node id.", ["node"], registry=registry
        )
        self._pushed = Histogram(
            "rejoinder_xds_push_duration_seconds",
            "From an edit, or an Envoy's connection, until that Envoy has taken everything.",
            buckets=_PUSH_BOUNDS,
            registry=registry,
        )
        self._nodes: set[str] = set()
        self.certificate_expiry = 0.0
        """When our own certificate ends, in seconds since 1970; 0: there is none."""
        ProcessCollector(registry=registry)

    def text(self) -> bytes:
        """All of it; see CONTENT_TYPE."""
        return generate_latest(self._registry)

    def reloaded(self, result: str) -> None:
        """Args: result: `ok`; `refused`, because of the files; `failed`, for an internal reason."""
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
        state, counter, gauge = self._state(), CounterMetricFamily, GaugeMetricFamily
        yield InfoMetricFamily(
            "rejoinder_build", "The version.", value={"version": importlib.metadata.version("rejoinder")}
        )
        for kind, text, labels in _COUNTED:
            counted = [(series[: len(labels)], number) for series, number in state.counts.of(kind)]
            yield _family(counter, kind, text, labels, counted)
        routes = [((series.rule, series.status), number) for series, number in state.counts.of(Kind.ROUTE)]
        yield _family(counter, Kind.ROUTE, "What routes have answered by themselves.", ["route", "status"], routes)
        failed = state.handler_failures.items()
        yield _family(counter, "handler_failures", "Python handlers that failed.", _RULE, failed)
        problems = [((kind.value,), sum(problem.severity is kind for problem in state.problems)) for kind in Severity]
        yield _family(gauge, "problems", "What is wrong with the files as they are.", ["severity"], problems)
        yield _family(gauge, "rules", "Rules in force, by kind.", ["kind"], _kinds(state.ruleset))
        clients, ext_proc = state.clients, state.ext_proc
        behind = sum(client.version != client.target for client in clients)
        refusing = sum(bool(client.nack and client.nack.snapshot.version == state.version) for client in clients)
        if ends := self.certificate_expiry:
            yield gauge("rejoinder_certificate_expiry_timestamp_seconds", "When our own certificate ends.", value=ends)
        for name, text, number in (
            ("routes", "Routes in force.", len(state.ruleset.routes)),
            ("last_good_served", "1: the set of --state, in place of the files.", state.serves_last_good),
            ("last_good_unsaved", "1: what is in force cannot be kept.", state.cannot_keep),
            ("xds_clients", "Envoys that are connected.", len(clients)),
            ("xds_clients_behind", "... that have not taken everything yet.", behind),
            ("xds_clients_rejecting", "... that have rejected what the files say now.", refusing),
            ("ext_proc_connections", "Connections of Envoys.", ext_proc.connections),
            ("ext_proc_streams", "Exchanges under way.", ext_proc.streams),
        ):
            yield gauge(f"rejoinder_{name}", text, value=float(number))
        for name, text, number in (
            ("passed", "Exchanges that were let pass untouched.", ext_proc.passed),
            ("overloaded", "... of these, for they came too late, or too many at once.", ext_proc.overloaded),
            ("failures", "... of these, for they made no sense or broke something.", ext_proc.failures),
        ):
            yield counter(f"rejoinder_ext_proc_{name}", text, value=number)
        bounds, totals = (*map(str, BOUNDS), "+Inf"), itertools.accumulate(ext_proc.durations)
        yield HistogramMetricFamily(
            f"rejoinder_{PLACEMENT}_duration_seconds",
            "From a message of Envoy's to what it led to, waiting included.",
            buckets=[(bound, float(total)) for bound, total in zip(bounds, totals, strict=True)],
            sum_value=ext_proc.seconds,
        )


_RULE: Final = ("rule", "placement")
_STATUSES: Final = (*_RULE, "original_status", "status")
_COUNTED: Final = (
    (Kind.ANSWERED, "Answers that rules have given.", _STATUSES),
    (Kind.OBSERVED, "Answers that rules would have given that only observe.", _STATUSES),
    (Kind.PASSED, "Responses that rules have let pass.", _STATUSES),
    (Kind.NO_PAGE, "Pages of other services that did not come.", _RULE),
)
"""What rules have done: the labels are the first fields of `Series`."""

_Samples = Iterable[tuple[Sequence[str], float]]


def _family(
    kind: type[CounterMetricFamily | GaugeMetricFamily], name: str, text: str, labels: Sequence[str], samples: _Samples
) -> Metric:
    family = kind(f"rejoinder_{name}", text, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def _kinds(ruleset: Ruleset) -> _Samples:
    kinds = {("unconditional",): 0, ("conditional",): 0, ("observing",): 0}
    for rule in ruleset.rules:
        kinds[("observing" if rule.observe else "unconditional" if rule.unconditional else "conditional"),] += 1
    return kinds.items()
