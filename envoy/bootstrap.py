"""What an Envoy is told at its start when `rejoinder serve` or `rejoinder up` tells it the rest.

In: addresses and names. Out: an `envoy.config.bootstrap.v3.Bootstrap` in Envoy's JSON mapping, keys in the order in
which one reads them, ready for `json.dump` or `yaml.safe_dump(..., sort_keys=False)`. Pure; raises nothing.
"""

from __future__ import annotations

from typing import Any, Final

from rejoinder.rules.model import RUNTIME
from rejoinder.rules.names import XDS_CLUSTER
from rejoinder.transport.addresses import Address, as_envoy, discovery
from rejoinder.transport.envoy_side import EnvoyTls, transport_socket

Json = dict[str, Any]

DEFAULT_XDS: Final = ("127.0.0.1", 18000)

COUNTS_SINCE: Final = (1, 37)
"""From which version of Envoy on it can be told to send our counters alone."""

_OURS: Final = {
    "google_re2": {},
    "regex": r"rejoinder\.(answers|observed_answers|passed_responses|routes|handler_failures|page_failures)\..*",
}
"""The names of our counters. (Others of the module's say less of the same.)"""

_EVICTION: Final = "600s"
"""After how long a counter that nothing has been added to goes: those of rules that are no more."""

KEPT_REPORTS: Final = 100
"""How many reports an Envoy keeps that it cannot deliver: with one every five seconds, those of eight minutes."""

_AGAIN: Final = {
    # Reasons for which nobody can have had it yet: what is delivered twice would be counted twice.
    "retry_on": "connect-failure,refused-stream,reset-before-request",
    "num_retries": KEPT_REPORTS,
    "retry_back_off": {"base_interval": "1s", "max_interval": "10s"},
}

MAX_CONNECTIONS: Final = 50_000
"""The figure of Envoy's advice for edge proxies. Without a limit, clients can use up Envoy's file descriptors."""


def bootstrap(
    xds: Address = DEFAULT_XDS,
    *,
    tls: EnvoyTls | None = None,
    admin: Address | None = None,
    node_id: str = "rejoinder",
    cluster: str = "rejoinder",
    access_log: bool = False,
    counts: float | None = 5.0,
) -> Json:
    """The bootstrap of an Envoy that takes listeners, routes and clusters from the control plane over one ADS stream.

    Envoy may start before the control plane: it keeps asking, and is not ready (`/ready` of the admin interface) until
    it has got its first configuration. When the control plane goes away later, it keeps what it has.

    Args:
        xds: host and port of the control plane, or its Unix socket. A DNS name is resolved every 5 s: it may come
            later, and move.
        tls: with what the control plane is reached; None: without TLS.
        admin: IP address and port of the admin interface, or a Unix socket for this user alone. It can stop Envoy: an
            address should be a loopback one. Port 0 takes any free one. None: no admin interface.
        node_id: how this Envoy introduces itself to the control plane; its log lines name the Envoy by it.
        cluster: the group of Envoys that it belongs to.
        access_log: have each request logged on standard output, as a line of JSON.
        counts: every how many seconds the control plane is sent what rules have answered; None: never. An Envoy before
            COUNTS_SINCE does not start with that.
    """
    return {
        "node": {
            "id": node_id,
            "cluster": cluster,
            **({"metadata": {"rejoinder": {"access_log": True}}} if access_log else {}),
        },
        # An operator must get in when the connections are used up.
        **({} if admin is None else {"admin": {"address": as_envoy(admin), "ignore_global_conn_limit": True}}),
        "layered_runtime": RUNTIME,
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",  # after a reconnect, only what has changed since is sent
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {
                        "envoy_grpc": {
                            "cluster_name": XDS_CLUSTER,
                            # How long a control plane can be back before Envoy notices: by default up to 30 s.
                            "retry_policy": {"retry_back_off": {"base_interval": "0.5s", "max_interval": "2s"}},
                        }
                    }
                ],
            },
            "cds_config": _from_ads(),
            "lds_config": _from_ads(),
        },
        "static_resources": {"clusters": [xds_cluster(xds, tls)]},
        **({} if counts is None else _sink(counts)),
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3"
                        ".DownstreamConnectionsConfig",
                        "max_active_downstream_connections": MAX_CONNECTIONS,
                    },
                }
            ]
        },
    }


def _sink(seconds: float) -> Json:
    """Of all of Envoy's statistics, our counters, to the control plane, as what they have grown by."""
    name = {
        "name": "name",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.matching.common_inputs.stats.v3.StatFullNameMatchInput"
        },
    }
    sink = "type.googleapis.com/envoy.extensions.stat_sinks.open_telemetry.v3.SinkConfig"
    drop = {"name": "drop", "typed_config": {"@type": f"{sink}.DropAction"}}
    ours = {"single_predicate": {"input": name, "value_match": {"safe_regex": _OURS}}}
    others = {"predicate": {"not_matcher": ours}, "on_match": {"action": drop}}
    config = {
        "@type": sink,
        "grpc_service": {"envoy_grpc": {"cluster_name": XDS_CLUSTER}, "retry_policy": _AGAIN},
        "report_counters_as_deltas": True,
        "custom_metric_conversions": {"matcher_list": {"matchers": [others]}},
    }
    return {
        "stats_sinks": [{"name": "envoy.stat_sinks.open_telemetry", "typed_config": config}],
        "stats_flush_interval": f"{seconds:g}s",
        "stats_eviction_interval": _EVICTION,
    }


def _from_ads() -> Json:
    # Without the timeout, Envoy would call itself ready after 15 s without any listener, and get traffic to refuse.
    return {"resource_api_version": "V3", "ads": {}, "initial_fetch_timeout": "0s"}


def xds_cluster(address: Address, tls: EnvoyTls | None = None) -> Json:
    """The cluster of the control plane; args as for `bootstrap`."""
    return {
        "name": XDS_CLUSTER,
        "connect_timeout": "2s",
        **discovery([address]),
        **transport_socket(tls, address),
        "circuit_breakers": {"thresholds": [{"max_retries": KEPT_REPORTS}]},
        # A control plane whose machine vanished is noticed after 45 s. HTTP/2 pings (`connection_keepalive`) would do
        # it too, but a gRPC server takes frequent ones for abuse unless it is told otherwise, and closes the stream
        # ("Too many pings": tried with grpcio's defaults).
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_time": 30, "keepalive_interval": 5, "keepalive_probes": 3}
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": XDS_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": as_envoy(address)}}]}],
        },
    }
