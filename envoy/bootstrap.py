"""The bootstrap of an Envoy that gets everything else from `rejoinder serve` or `rejoinder up`.

In: addresses and names. Out: an `envoy.config.bootstrap.v3.Bootstrap` in Envoy's JSON mapping, with keys in reading
order, ready for `json.dump` or `yaml.safe_dump(..., sort_keys=False)`. Pure; raises nothing.
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
"""The first version of Envoy that can send our counters only."""

_OURS: Final = {
    "google_re2": {},
    "regex": r"rejoinder\.(answers|observed_answers|passed_responses|routes|handler_failures|page_failures)\..*",
}
"""The names of our counters. (The module's other counters have the same information in less detail.)"""

_EVICTION: Final = "600s"
"""After this time without an increase, a counter is evicted: those of rules that no longer exist."""

KEPT_REPORTS: Final = 100
"""How many undelivered reports an Envoy keeps: with one every five seconds, those of eight minutes."""

_AGAIN: Final = {
    # Errors after which no server can have received the report: a report that is delivered twice is counted twice.
    "retry_on": "connect-failure,refused-stream,reset-before-request",
    "num_retries": KEPT_REPORTS,
    "retry_back_off": {"base_interval": "1s", "max_interval": "10s"},
}

MAX_CONNECTIONS: Final = 50_000
"""The number in Envoy's advice for edge proxies. Without a limit, clients can use up Envoy's file descriptors."""


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
    """The bootstrap of an Envoy that gets listeners, routes and clusters from the control plane over one ADS stream.

    Envoy may start before the control plane: it keeps connecting, and is not ready (`/ready` of the admin interface)
    until it has its first configuration. If the control plane goes away later, Envoy keeps what it has.

    Args:
        xds: host and port of the control plane, or its Unix socket. A DNS name is resolved every 5 s: it may appear
            later, and change.
        tls: Envoy's TLS for the control plane; None: without TLS.
        admin: IP address and port of the admin interface, or a Unix socket for this user alone. It can stop Envoy, so
            an address should be a loopback one. Port 0 takes any free one. None: no admin interface.
        node_id: the id of this Envoy at the control plane, also in its log lines.
        cluster: the group of Envoys that it belongs to.
        access_log: log each request on standard output, as a line of JSON.
        counts: the interval in seconds at which counters are sent to the control plane; None: never. An Envoy before
            COUNTS_SINCE does not start with that.
    """
    return {
        "node": {
            "id": node_id,
            "cluster": cluster,
            **({"metadata": {"rejoinder": {"access_log": True}}} if access_log else {}),
        },
        # An operator must be able to connect when the other connections are used up.
        **({} if admin is None else {"admin": {"address": as_envoy(admin), "ignore_global_conn_limit": True}}),
        "layered_runtime": RUNTIME,
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",  # after a reconnect, only changes are sent
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {
                        "envoy_grpc": {
                            "cluster_name": XDS_CLUSTER,
                            # The longest time after which Envoy notices a control plane that is back: by default 30 s.
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
    """Sends our counters, and no other statistics, to the control plane, as increases."""
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
    # Without the timeout, Envoy would be ready after 15 s without any listener, and refuse the traffic that it gets.
    return {"resource_api_version": "V3", "ads": {}, "initial_fetch_timeout": "0s"}


def xds_cluster(address: Address, tls: EnvoyTls | None = None) -> Json:
    """The cluster of the control plane; args as for `bootstrap`."""
    return {
        "name": XDS_CLUSTER,
        "connect_timeout": "2s",
        **discovery([address]),
        **transport_socket(tls, address),
        "circuit_breakers": {"thresholds": [{"max_retries": KEPT_REPORTS}]},
        # If the control plane's machine vanishes, Envoy notices after 45 s. HTTP/2 pings (`connection_keepalive`) would
        # do it too, but by default a gRPC server treats frequent ones as abuse, and closes the stream
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
