"""Clusters: one for each upstream, and one for the ext_proc service if it gives the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rejoinder.rules.model import Endpoint, HealthCheck, Ruleset, Upstream
from rejoinder.rules.program import Program
from rejoinder.transport.addresses import Address, as_envoy, discovery, host_name, nth
from rejoinder.transport.envoy_side import EnvoyTls, alt_names, transport_socket
from rejoinder.xds.translate.forwarding import duration
from rejoinder.xds.translate.settings import EXT_PROC_CLUSTER, Json, Placement, Settings, inline, typed

EXT_PROC_BUFFER: Final = 16 << 20
"""Buffer limit in bytes of Envoy's connection to the service, which thousands of streams share. With the small limit of
upstream connections, a few hundred messages fill it, and each time Envoy stops and restarts reading from the clients of
all streams. In an outage this took a fifth of its CPU time, and caused raw 503s (bench/outage.py)."""


def clusters(ruleset: Ruleset, program: Program, settings: Settings) -> Iterator[Json]:
    """The Clusters that routes refer to, used or not, and that of the ext_proc service if it runs the program."""
    for upstream in ruleset.upstreams:
        yield upstream_cluster(upstream, settings.trusted_ca)
    if program and settings.conditional is Placement.EXT_PROC:
        yield ext_proc_cluster(settings.ext_proc, settings.ext_proc_ports, settings.envoy_tls)


def ext_proc_cluster(service: Endpoint | Address, ports: int = 1, tls: EnvoyTls | None = None) -> Json:
    """The cluster of the ext_proc service: gRPC, so HTTP/2.

    Args:
        service: where it listens.
        ports: the number of consecutive ports, or sockets, from that one on.
        tls: as in `Settings`.
    """
    first = (service.host, service.port) if isinstance(service, Endpoint) else service
    return {
        **_cluster(EXT_PROC_CLUSTER, [nth(first, at) for at in range(ports)]),
        "connect_timeout": "1s",
        **transport_socket(tls, first),
        "per_connection_buffer_limit_bytes": EXT_PROC_BUFFER,
        # A stream lasts as long as its response; beyond Envoy's 1,024, responses would pass unanswered.
        "circuit_breakers": {"thresholds": [{"max_requests": 1_000_000, "max_pending_requests": 1_000_000}]},
        "typed_extension_protocol_options": _http2(
            {
                "connection_keepalive": {"interval": "10s", "timeout": "5s"},
                # Envoy resets each answered stream. With over 1,000 resets waiting for a busy service, it would close
                # the connection, and all streams' responses would pass: the defaults are for untrusted peers.
                "max_outbound_control_frames": 1_000_000,
                "max_outbound_frames": 1_000_000,
            }
        ),
    }


def _http2(options: Json) -> Json:
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {name: typed(name, explicit_http_config={"http2_protocol_options": options})}


def upstream_cluster(upstream: Upstream, trusted_ca: str) -> Json:
    """The cluster of an upstream; `trusted_ca` as in `Settings`."""
    addresses = [(endpoint.host, endpoint.port) for endpoint in upstream.endpoints]
    cluster = {**_cluster(upstream.name, addresses), "connect_timeout": duration(upstream.connect_timeout)}
    if upstream.tls:
        cluster["transport_socket"] = _upstream_tls(upstream, trusted_ca)
    if upstream.http2:
        cluster["typed_extension_protocol_options"] = _http2({})
    if upstream.health_check:
        cluster["health_checks"] = [_health_check(upstream, upstream.health_check)]
    return cluster


def _health_check(upstream: Upstream, check: HealthCheck) -> Json:
    host = {} if upstream.host is None else {"host": upstream.host}
    protocol = {"codec_client_type": "HTTP2"} if upstream.http2 else {}
    interval = duration(check.interval)
    return {
        "timeout": duration(check.timeout),
        "interval": interval,
        "no_traffic_interval": interval,  # Envoy's default is a minute, in which the first requests may fail
        "unhealthy_threshold": 3,
        "healthy_threshold": 2,
        "http_health_check": {"path": check.path, **host, **protocol},
    }


def _cluster(name: str, endpoints: Sequence[Address]) -> Json:
    return {
        "name": name,
        **discovery(endpoints),
        "per_connection_buffer_limit_bytes": 32768,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [_endpoint(endpoint) for endpoint in endpoints]}] if endpoints else [],
        },
    }


def _endpoint(address: Address) -> Json:
    named = {"hostname": name} if (name := host_name(address)) else {}
    return {"endpoint": {"address": as_envoy(address), **named}}


def _upstream_tls(upstream: Upstream, trusted_ca: str) -> Json:
    options = upstream.tls_options
    hosts = (options.sni,) if options.sni else dict.fromkeys(endpoint.host for endpoint in upstream.endpoints)
    common: Json = {
        "validation_context": {
            "trusted_ca": inline(options.ca) if options.ca else {"filename": trusted_ca},
            "match_typed_subject_alt_names": alt_names(hosts),
        }
    }
    if options.certificate and options.key:
        pair = {"certificate_chain": inline(options.certificate), "private_key": inline(options.key)}
        common["tls_certificates"] = [pair]
    # If the upstream has no host name of its own, each endpoint gets its own.
    sni: Json = {"sni": options.sni} if options.sni else {"auto_host_sni": True}
    name = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    return {"name": "tls", "typed_config": typed(name, **sni, common_tls_context=common)}
