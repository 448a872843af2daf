"""What an Envoy is told at its start when `rejoinder serve` or `rejoinder up` tells it the rest.

In: addresses and names. Out: an `envoy.config.bootstrap.v3.Bootstrap` in Envoy's JSON mapping, keys in the order in
which one reads them, ready for `json.dump` or `yaml.safe_dump(..., sort_keys=False)`. Pure; raises nothing.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any, Final

from rejoinder.envoy.admin import Address
from rejoinder.rules.model import RUNTIME
from rejoinder.rules.names import XDS_CLUSTER

Json = dict[str, Any]

DEFAULT_XDS: Final = ("127.0.0.1", 18000)

MAX_CONNECTIONS: Final = 50_000
"""The figure of Envoy's advice for edge proxies. Without a limit, clients can use up Envoy's file descriptors."""


def bootstrap(
    xds: Address | Path = DEFAULT_XDS,
    *,
    admin: Address | Path | None = None,
    node_id: str = "rejoinder",
    cluster: str = "rejoinder",
) -> Json:
    """The bootstrap of an Envoy that takes listeners, routes and clusters from the control plane over one ADS stream.

    Envoy may start before the control plane: it keeps asking, and is not ready (`/ready` of the admin interface) until
    it has got its first configuration. When the control plane goes away later, it keeps what it has.

    Args:
        xds: host and port of the control plane, or its Unix socket. A DNS name is resolved every 5 s: it may come
            later, and move.
        admin: IP address and port of the admin interface, or a Unix socket for this user alone. It can stop Envoy: an
            address should be a loopback one. Port 0 takes any free one. None: no admin interface.
        node_id: how this Envoy introduces itself to the control plane; its log lines name the Envoy by it.
        cluster: the group of Envoys that it belongs to.
    """
    return {
        "node": {"id": node_id, "cluster": cluster},
        **({} if admin is None else {"admin": _admin(admin)}),
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
        "static_resources": {"clusters": [xds_cluster(xds)]},
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


def _admin(address: Address | Path) -> Json:
    # An operator must get in when the connections are used up.
    return {"address": _address(address), "ignore_global_conn_limit": True}


def _from_ads() -> Json:
    # Without the timeout, Envoy would call itself ready after 15 s without any listener, and get traffic to refuse.
    return {"resource_api_version": "V3", "ads": {}, "initial_fetch_timeout": "0s"}


def xds_cluster(address: Address | Path) -> Json:
    """The cluster of the control plane; args as for `bootstrap`."""
    return {
        "name": XDS_CLUSTER,
        "connect_timeout": "2s",
        **({"type": "STATIC"} if isinstance(address, Path) else _discovery(address[0])),
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
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(address)}}]}],
        },
    }


def _discovery(host: str) -> Json:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return {
            "type": "STRICT_DNS",
            # `localhost` is ::1 first for Envoy's default family; most control planes listen on IPv4.
            "dns_lookup_family": "V4_PREFERRED",
        }
    return {"type": "STATIC"}


def _address(address: Address | Path) -> Json:
    if isinstance(address, Path):
        return {"pipe": {"path": str(address), "mode": 0o600}}
    host, port = address
    return {"socket_address": {"address": host, "port_value": port}}
