"""The counters that Envoys report, as OTLP metrics in the bytes of their requests.

Envoy's OpenTelemetry stats sink sends the increase of its counters since the last report to the control plane
(`rejoinder.envoy.bootstrap`); `logs` has the access loggers that count. For bytes that are no such request, or have far
more in them than an Envoy of ours can report, `decode` raises `google.protobuf.message.DecodeError`. Counters that are
not ours are ignored.
https://opentelemetry.io/docs/specs/otlp/
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from google.protobuf.message import DecodeError

from rejoinder.rules.counts import NONE, OTHER, Kind, Series
from rejoinder.rules.messages import message_classes
from rejoinder.rules.names import METADATA
from rejoinder.xds.translate.logs import COUNTERS, NATIVE, ROUTES
from rejoinder.xds.translate.settings import Placement

SERVICE: Final = "opentelemetry.proto.collector.metrics.v1.MetricsService"

T = TypeVar("T")

MOST: Final = 400_000
"""Limit for the counters, tags and names in a report. The largest accepted report (`settings.MAX_REQUEST`) has a third
of that if an Envoy of ours has made it; another client could put ten times as many into it."""

_PLACEMENTS: Final = ("", NATIVE, *(placement.value for placement in Placement))
_STATUS: Final = re.compile(rf"[0-9]{{0,3}}|{NONE}|{OTHER}")
"""A client that is not ours may send any value, as often as it likes."""

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
    """What an Envoy has counted since its last report."""

    answers: tuple[tuple[Series, int], ...]
    """What rules and routes have done, and how often."""
    handler_failures: tuple[tuple[str, int], ...]
    """In the module, by the rule's name."""


def decode(data: bytes) -> Counted:
    answers, failures, left = [], [], MOST

    def limited(things: Iterable[T]) -> Iterator[T]:
        nonlocal left
        for thing in things:
            if (left := left - 1) < 0:
                raise DecodeError("too much")
            yield thing

    for name, tags, number in _points(REPORT.FromString(data), limited):
        rule, status = tags.get("rule", ""), tags.get("status", "")
        series = Series(rule, tags.get("placement", ""), tags.get("original_status") or NONE, status)
        match _KINDS.get(name):
            case Kind.ANSWERED:
                answers.append((series, number))
            case Kind() as kind:
                # Where no rule has answered, Envoy does not report the original status: it is the status that was sent.
                seen = series._replace(original_status=tags.get("original_status") or status, kind=kind)
                answers += [(seen._replace(rule=single), number) for single in limited(rule.split(","))]
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


def _points(
    request: Any, limited: Callable[[Iterable[Any]], Iterator[Any]]
) -> Iterator[tuple[str, dict[str, str], int]]:
    """The name, tags and value of each counter that has changed, and may be ours."""
    scopes = (scope for resource in limited(request.resource_metrics) for scope in limited(resource.scope_metrics))
    for metric in (metric for scope in scopes for metric in limited(scope.metrics)):
        for point in limited(metric.sum.data_points):
            if point.as_int <= 0:
                continue
            tags = {_text(tag.key): _text(tag.value.string_value) for tag in limited(point.attributes)}
            statuses = (tags.get(key, "") for key in ("original_status", "status"))
            if tags.get("placement", "") in _PLACEMENTS and all(map(_STATUS.fullmatch, statuses)):
                yield _text(metric.name), tags, point.as_int


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
