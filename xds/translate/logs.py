"""Access logs of Envoys of ours: those that count, and the one in JSON. Pure.

Access logs depend on the Envoy, not on the rules: so `logged` adds them to the listeners of a snapshot, for each kind
of client. Only the listener's own answers (`early_errors`) depend on the rules.

Every answer has a marker in dynamic metadata, `rejoinder`: `rule`, `original_status`, `source` and `placement`, or
`observed`, or `passed`. For a route's answer, `rule` or `passed` is in the route's metadata, and PASSES marks a request
with `passed`: testing every request's route metadata would cost a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from rejoinder.rules.attributes import CODE_DETAILS, VIA_UPSTREAM
from rejoinder.rules.counts import MOST_SERIES, OTHER, Kind
from rejoinder.rules.names import METADATA
from rejoinder.xds.translate.settings import Json, typed

COUNTERS: Final = {
    Kind.ANSWERED: "answers",
    Kind.OBSERVED: "observed_answers",
    Kind.PASSED: "passed_responses",
}
"""The filters' counters: their names in Envoy, after METADATA. (The module's own counters have other names.)"""
ROUTES: Final = "routes"
"""Likewise, for routes."""
NATIVE: Final = "native"
PASSES: Final = "passes"


def _dynamic(key: str) -> str:
    return f"%DYNAMIC_METADATA({METADATA}:{key})%"


def _of_route(key: str) -> str:
    return f"%METADATA(ROUTE:{METADATA}:{key})%"


_STATUS: Final = "%RESPONSE_CODE%"

_LINE: Final = {
    "time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "host": "%REQ(:AUTHORITY)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "status": _STATUS,
    "rule": _dynamic("rule") + _of_route("rule"),
    "placement": _dynamic("placement"),
    "original_status": _dynamic("original_status"),
    "source": _dynamic("source"),
    "observed": _dynamic("observed"),
    "passed": _dynamic("passed"),
    "passed_by_route": _of_route("passed"),
    "route": "%ROUTE_NAME%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "upstream": "%UPSTREAM_HOST%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "protocol": "%PROTOCOL%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "milliseconds": "%DURATION%",
}
"""A line of the JSON log. Names without a value are left out."""


class _Early(NamedTuple):
    """An answer that the listener gives itself."""

    test: str
    """An expression that is true for it only."""
    marker: dict[str, str]


def access_logs(counts: bool, lines: bool, early: Sequence[_Early] = ()) -> list[Json]:
    """The `envoy.config.accesslog.v3.AccessLog`s.

    Args:
        counts: count what rules and routes do.
        lines: log each request as a line of JSON on Envoy's standard output.
        early: the listener's own answers.
    """
    logs = []
    if counts:
        answered = {key: _dynamic(key) for key in ("rule", "placement", "original_status")}
        routed = {"rule": _of_route("rule"), "route": "%ROUTE_NAME%"}
        passed = {"and_filter": {"filters": [_marked(PASSES), _marked("passed", False)]}}  # else a filter counts it
        logs += [
            _counter(ROUTES, cel("routes", f"{CODE_DETAILS} == 'direct_response'"), routed),
            _counter(ROUTES, passed, {"passed": _of_route("passed"), "original_status": _dynamic("original_status")}),
            _counter(COUNTERS[Kind.ANSWERED], _marked("rule"), answered),
            *(_counter(COUNTERS[Kind.ANSWERED], cel(one.marker["rule"], one.test), one.marker) for one in early),
            *(_counter(COUNTERS[kind], _marked(key), answered | {"rule": _dynamic(key)}) for kind, key in _TOLD),
        ]
    if lines:
        others = " && ".join(f"!({answer.test})" for answer in early)
        logs.append(_stdout(_LINE, cel("others", others) if early else {}))
        logs += [_stdout(_LINE | answer.marker, cel(answer.marker["rule"], answer.test)) for answer in early]
    return logs


_TOLD: Final = ((Kind.OBSERVED, "observed"), (Kind.PASSED, "passed"))


def cel(name: str, expression: str) -> Json:
    """The `envoy.config.accesslog.v3.AccessLogFilter` of an expression."""
    test = typed("envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter", expression=expression)
    return {"extension_filter": {"name": name, "typed_config": test}}


def _counter(name: str, wanted: Json, tags: dict[str, str]) -> Json:
    told = [{"name": tag, "value_format": value} for tag, value in {**tags, "status": _STATUS}.items()]
    config = typed(
        "envoy.extensions.access_loggers.stats.v3.Config",
        # Unused counters may be evicted, so that rules that no longer exist do not count for the limit.
        stats_scope={"prefix": METADATA, "max_counters": MOST_SERIES, "enable_eviction": True},
        counters=[{"stat": {"name": name, "tags": told}, "value_fixed": 1}],
    )
    return {"name": "counts", "filter": wanted, "typed_config": config}


def _stdout(line: dict[str, str], wanted: Json) -> Json:
    formatted = {"json_format": line, "omit_empty_values": True}
    config = typed("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog", log_format=formatted)
    return {"name": "stdout", **({"filter": wanted} if wanted else {}), "typed_config": config}


def _marked(key: str, wanted: bool = True) -> Json:
    matcher = {"filter": METADATA, "path": [{"key": key}], "value": {"present_match": wanted}}
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": not wanted}}


def _early(mapper: Json) -> _Early:
    """The test, at the end of a request, for a response that a `local_reply_config` has mapped."""
    test, sent = mapper["filter"]["extension_filter"], mapper.get("status_code")
    expression = f"{test['typed_config']['expression']} && {CODE_DETAILS} != '{VIA_UPSTREAM}'"
    statuses, _, final = expression.partition(" && ")
    # Two values, the second of which is always empty: one value alone would be a number in JSON.
    original = _STATUS + _dynamic("original_status")
    marker = {"rule": test["name"].replace("%", "%%"), "placement": NATIVE, "original_status": original}
    if sent is not None:
        # Envoy's other responses with that status have a cluster, or no route.
        expression = (
            f"response.code == {sent} && {final} && !has(xds.cluster_name) && {CODE_DETAILS} != 'route_not_found'"
        )
        known = statuses.partition("[")[2].rstrip("]")
        marker["original_status"] = known if known.isdigit() else OTHER
    return _Early(expression, marker)


def logged(listener: Json, counts: bool, lines: bool) -> Json:
    """A Listener with access logs. Args as for `access_logs`."""

    def with_logs(manager: Json) -> Json:
        early = [_early(mapper) for mapper in manager.get("local_reply_config", {}).get("mappers", ())]
        return manager | {"access_log": access_logs(counts, lines, early)}

    return with_managers(listener, with_logs)


def with_managers(listener: Json, change: Callable[[Json], Json]) -> Json:
    """A Listener with changed connection managers."""
    chains = [
        {**chain, "filters": [{**one, "typed_config": change(one["typed_config"])} for one in chain["filters"]]}
        for chain in listener["filter_chains"]
    ]
    return {**listener, "filter_chains": chains}
