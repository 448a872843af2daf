"""What Envoys report of the answers that they have counted: OTLP metrics, in the bytes of their requests.

Envoy's OpenTelemetry stats sink sends its counters, as what they have grown by since the last time, to the control
plane (`rejoinder.envoy.bootstrap`); the access loggers that count are in `logs`. `decode` raises
`google.protobuf.message.DecodeError` for bytes that are no such request; what is not ours in one is passed over.
https://opentelemetry.io/docs/specs/otlp/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rejoinder.rules.counts import NONE, Kind, Series
from rejoinder.rules.messages import message_classes
from rejoinder.rules.names import METADATA
from rejoinder.xds.translate.logs import COUNTERS, NATIVE, ROUTES
from rejoinder.xds.translate.settings import Placement

SERVICE: Final = "opentelemetry.proto.collector.metrics.v1.MetricsService"

_KINDS: Final = {f"{METADATA}.{name}": kind for kind, name in COUNTERS.items()}

_ROUTES: Final = f"{METADATA}.{ROUTES}"
_FAILURES: Final = "rejoinder.handler_failures"
_NO_PAGES: Final = f"rejoinder.{Kind.NO_PAGE}"
"""The module's own counters."""

REPORT: Final = message_classes(
    "rejoinder.xds",
    {
        "ExportMetricsServiceRequest": {"resource_metrics": (1, "*ResourceMetrics")},
        "ResourceMetrics": {"scope_metrics": (2, "*ScopeMetrics")},
        "ScopeMetrics": {"metrics": (2, "*Metric")},
        "Metric": {"name": (1, "bytes"), "sum": (7, "Sum")},
        "Sum": {"data_points": (1, "*NumberDataPoint")},
        "NumberDataPoint": {"as_int": (6, "sfixed64"), "attributes": (7, "*KeyValue")},
        "KeyValue": {"key": (1, "bytes"), "value": (2, "AnyValue")},
        "AnyValue": {"string_value": (1, "bytes")},
    },
)["ExportMetricsServiceRequest"]


@dataclass(frozen=True, slots=True)
class Counted:
    """An Envoy has counted these since the last time."""

    answers: tuple[tuple[Series, int], ...]
    """What rules and routes have done, and how often."""
    handler_failures: tuple[tuple[str, int], ...]
    """In the module, by the rule's name."""


def decode(data: bytes) -> Counted:
    answers, failures = [], []
    for name, tags, number in _points(REPORT.FromString(data)):
        rule, status = tags.get("rule", ""), tags.get("status", "")
        series = Series(rule, tags.get("placement", ""), tags.get("original_status") or NONE, status)
        match _KINDS.get(name):
            case Kind.ANSWERED:
                answers.append((series, number))
            case Kind() as kind:
                # Where no rule has answered, nobody says what was there before: it is what was sent.
                seen = series._replace(original_status=tags.get("original_status") or status, kind=kind)
                answers += [(seen._replace(rule=each), number) for each in rule.split(",")]
            case _ if name == _ROUTES:
                answers.append((_of_route(tags, status), number))
            case _ if name == _NO_PAGES:
                answers.append((Series(rule, Placement.MODULE.value, NONE, NONE, Kind.NO_PAGE), number))
            case _ if name == _FAILURES:
                failures.append((rule, number))
    return Counted(tuple(answers), tuple(failures))


def _of_route(tags: Mapping[str, str], status: str) -> Series:
    """What a route has done: passed for a rule, answered for one, or by itself."""
    if passed := tags.get("passed"):
        return Series(passed, NATIVE, tags.get("original_status") or status, status, Kind.PASSED)
    if rule := tags.get("rule"):
        return Series(rule, NATIVE, NONE, status)
    return Series(tags.get("route", ""), NATIVE, NONE, status, Kind.ROUTE)


def _points(request: Any) -> Iterator[tuple[str, dict[str, str], int]]:
    """The name, tags and value of each counter that has changed."""
    metrics = (
        metric for resource in request.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
    )
    for metric in metrics:
        for point in metric.sum.data_points:
            if point.as_int > 0:
                tags = {_text(attribute.key): _text(attribute.value.string_value) for attribute in point.attributes}
                yield _text(metric.name), tags, point.as_int


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
