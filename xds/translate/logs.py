"""Access logs of Envoys of ours: those that count answers, and the one in JSON. Pure.

What listeners say of access logs depends on the Envoy, and not on the rules: so it is added (`logged`) to those of a
snapshot, for each kind of client.

Every answer has a marker. In dynamic metadata, `rejoinder`: `rule`, `original_status`, `source` and `placement`, or
`observed`; of an answer that a route gives, its `rule` is the route's metadata.
"""

from __future__ import annotations

from typing import Final

from rejoinder.rules.counts import MOST_SERIES, NONE
from rejoinder.rules.names import METADATA
from rejoinder.xds.translate.settings import Json, typed

ANSWERS: Final = f"{METADATA}.answers"
OBSERVED: Final = f"{METADATA}.observed_answers"
NATIVE: Final = "native"


def _dynamic(key: str) -> str:
    return f"%DYNAMIC_METADATA({METADATA}:{key})%"


_RULE_OF_ROUTE: Final = f"%METADATA(ROUTE:{METADATA}:rule)%"
_STATUS: Final = "%RESPONSE_CODE%"

_LINE: Final = {
    "time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "host": "%REQ(:AUTHORITY)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "status": _STATUS,
    "rule": _dynamic("rule") + _RULE_OF_ROUTE,
    "placement": _dynamic("placement"),
    "original_status": _dynamic("original_status"),
    "source": _dynamic("source"),
    "observed": _dynamic("observed"),
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
"""A line of the log in JSON. A name without a value is left out."""


def access_logs(counts: bool, lines: bool) -> list[Json]:
    """The `envoy.config.accesslog.v3.AccessLog`s.

    Args:
        counts: answers are counted.
        lines: each request is a line in JSON on Envoy's standard output.
    """
    logs = []
    if counts:
        # A route that answers for a rule. (A route's own answer has these details, too, but no rule.)
        by_route = f"response.code_details == 'direct_response' && '{METADATA}' in xds.route_metadata.filter_metadata"
        cel = typed("envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter", expression=by_route)
        answered = {"rule": _dynamic("rule"), "placement": _dynamic("placement")}
        original = {"original_status": _dynamic("original_status")}
        logs += [
            _counter(
                "answers",
                {"extension_filter": {"name": "route", "typed_config": cel}},
                {"rule": _RULE_OF_ROUTE, "placement": NATIVE, "original_status": NONE},
            ),
            _counter("answers", _marked("rule"), answered | original),
            _counter("observed_answers", _marked("observed"), answered | original | {"rule": _dynamic("observed")}),
        ]
    if lines:
        formatted = {"json_format": _LINE, "omit_empty_values": True}
        stdout = typed("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog", log_format=formatted)
        logs.append({"name": "stdout", "typed_config": stdout})
    return logs


def _counter(name: str, wanted: Json, tags: dict[str, str]) -> Json:
    told = [{"name": tag, "value_format": value} for tag, value in {**tags, "status": _STATUS}.items()]
    config = typed(
        "envoy.extensions.access_loggers.stats.v3.Config",
        # What is not used for a while may go, so that rules which are no more have no part in the limit.
        stats_scope={"prefix": METADATA, "max_counters": MOST_SERIES, "enable_eviction": True},
        counters=[{"stat": {"name": name, "tags": told}, "value_fixed": 1}],
    )
    return {"name": "counts", "filter": wanted, "typed_config": config}


def _marked(key: str) -> Json:
    matcher = {"filter": METADATA, "path": [{"key": key}], "value": {"present_match": True}}
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": False}}


def logged(listener: Json, counts: bool, lines: bool) -> Json:
    """A Listener with access logs. Args as for `access_logs`."""
    more = {"access_log": access_logs(counts, lines)}

    def with_logs(chain: Json) -> Json:
        return {**chain, "filters": [{**one, "typed_config": one["typed_config"] | more} for one in chain["filters"]]}

    return {**listener, "filter_chains": [with_logs(chain) for chain in listener["filter_chains"]]}
