"""Forwarding: the cluster of a request, and the changes to the request and its response on the way.

In: a planned route that forwards, or redirects. Out: the parts of an Envoy Route that say so. Pure; raises nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from rejoinder.rules.matching import quote
from rejoinder.rules.model import (
    EVERY_PATH,
    WEBSOCKET,
    Backend,
    Cors,
    Forward,
    Header,
    HeaderChanges,
    PathMatch,
    Retries,
    Route,
    StatusPattern,
)
from rejoinder.xds.translate.settings import Json, typed

NO_UPSTREAM: Final = "rejoinder_none"
"""A cluster that never exists: requests to it are answered with 500 (`cluster_not_found_response_code`)."""


def route_action(forward: Forward, route: Route) -> Json:
    """A RouteAction.

    Args:
        forward: the destination.
        route: of the rule files; a rewrite replaces its prefix.
    """
    action = _destination(forward)
    action.update(_rewrite(forward, route.request.path))
    if forward.mirrors:
        action["request_mirror_policies"] = [_mirror(*mirror) for mirror in forward.mirrors]
    action["timeout"] = duration(forward.timeout)  # Envoy's default of 15 s would cut off every event stream
    if forward.idle_timeout is not None:
        action["idle_timeout"] = duration(forward.idle_timeout)
    if forward.retries:
        action["retry_policy"] = _retry_policy(forward.retries)
    # Listeners let upgrade handshakes pass, so that rules and routes can answer them.
    refused = [upgrade for upgrade in WEBSOCKET if upgrade not in forward.upgrades]
    action["upgrade_configs"] = [
        *({"upgrade_type": upgrade} for upgrade in forward.upgrades),
        *({"upgrade_type": upgrade, "enabled": False} for upgrade in refused),
    ]
    return action


def _retry_policy(retries: Retries) -> Json:
    patterns = [condition for condition in retries.on if condition[0].isdigit()]
    words = [condition for condition in retries.on if condition not in patterns]
    policy: Json = {"num_retries": retries.attempts}
    if patterns:
        words.append("retriable-status-codes")
        statuses = (status for pattern in patterns for status in StatusPattern(pattern.rstrip("x")).statuses())
        policy["retriable_status_codes"] = sorted(set(statuses))
    return {**policy, "retry_on": ",".join(words)}


def leads_nowhere(forward: Forward) -> bool:
    """Whether a share of the requests goes to NO_UPSTREAM."""
    return any(backend.upstream is None and backend.weight for backend in forward.backends)


def _destination(forward: Forward) -> Json:
    if not forward.backends:
        return {"cluster": forward.upstream}
    clusters = [_cluster(backend) for backend in forward.backends if backend.weight]
    action: Json = {"weighted_clusters": {"clusters": clusters}}
    if leads_nowhere(forward):
        action["cluster_not_found_response_code"] = "INTERNAL_SERVER_ERROR"
    return action


def _cluster(backend: Backend) -> Json:
    host = {} if backend.host is None else {"host_rewrite_literal": backend.host}
    changes = header_changes(backend.request_headers, backend.response_headers)
    return {"name": backend.upstream or NO_UPSTREAM, "weight": backend.weight, **host, **changes}


def _mirror(upstream: str, percent: float) -> Json:
    share = {"numerator": round(percent * 10_000), "denominator": "MILLION"}
    return {"cluster": upstream, "runtime_fraction": {"default_value": share}}


def _rewrite(forward: Forward, path: PathMatch) -> Iterator[tuple[str, Any]]:
    rewrite = forward.rewrite
    if rewrite.host is not None:
        yield "host_rewrite_literal", rewrite.host
    # A regex, not `prefix_rewrite`: that replaces the prefix that the Envoy route matches, which may be longer than the
    # prefix of the route in the files if a rule has split the route.
    if rewrite.path is not None:
        yield "regex_rewrite", _substitution("^.*$", rewrite.path)
    elif rewrite.prefix is not None:
        stripped = rewrite.prefix.rstrip("/")
        if path == EVERY_PATH:
            yield "regex_rewrite", _substitution("^/", f"{stripped}/")
        elif stripped:
            yield "regex_rewrite", _substitution(f"^{quote(path.value)}", stripped)
        else:
            yield "regex_rewrite", _substitution(f"^{quote(path.value)}/?", "/")


def _substitution(regex: str, text: str) -> Json:
    return {"pattern": {"regex": regex}, "substitution": text.replace("\\", "\\\\")}


def duration(seconds: float) -> str:
    """A google.protobuf.Duration in its JSON mapping.

    >>> duration(0.05), duration(60)
    ('0.05s', '60s')
    """
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def header_changes(request: HeaderChanges, response: HeaderChanges) -> Json:
    """The fields of a Route, or of a weighted cluster, that change headers."""
    result: Json = {}
    for kind, changes in (("request", request), ("response", response)):
        if changes.set or changes.add:
            result[f"{kind}_headers_to_add"] = [
                *(header_option(header, "OVERWRITE_IF_EXISTS_OR_ADD") for header in changes.set),
                *(header_option(header, "APPEND_IF_EXISTS_OR_ADD") for header in changes.add),
            ]
        if changes.remove:
            result[f"{kind}_headers_to_remove"] = list(changes.remove)
    return result


def header_option(header: Header, action: str) -> Json:
    """A HeaderValueOption; `%` is escaped, because it begins a command operator."""
    name, value = header
    return {
        "header": {"key": name, "value": value.replace("%", "%%")},
        "append_action": action,
        "keep_empty_value": True,
    }


def cors_policy(cors: Cors) -> Json:
    """The CORS filter's configuration for a route."""
    policy = typed(
        "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        allow_origin_string_match=[{"safe_regex": {"regex": _origin(origin)}} for origin in cors.origins],
        max_age=str(cors.max_age),
        allow_credentials=cors.credentials,
        forward_not_matching_preflights=False,  # Envoy rejects them, and the upstream is not asked
    )
    lists = (("allow_methods", cors.methods), ("allow_headers", cors.headers), ("expose_headers", cors.expose))
    return {**policy, **{field: ", ".join(names) for field, names in lists if names}}


def _origin(origin: str) -> str:
    return ".*" if origin == "*" else "[^/]*".join(map(quote, origin.split("*")))
