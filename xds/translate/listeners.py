"""Listeners: an address, TLS or not, HTTP/1.1 and HTTP/2, and the filter chain of `filters`.

The settings follow Envoy's advice for edge proxies.
https://www.envoyproxy.io/docs/envoy/latest/configuration/best_practices/edge
Its `headers_with_underscores_action: REJECT_REQUEST` is left out: it protects upstreams that treat `_` as `-`, but a
mock must answer whatever its clients send.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rejoinder.rules.http import show_address
from rejoinder.rules.model import WEBSOCKET, Listener, Ruleset
from rejoinder.rules.request import PATH_HEADER
from rejoinder.xds.translate.route_configurations import Layout, routes_name
from rejoinder.xds.translate.settings import Json, inline, typed

HTTP_10_HOST = "localhost"
"""The host of an HTTP/1.0 request that has none."""

_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def listeners(ruleset: Ruleset, filters: list[Json], early: Json, layouts: Mapping[str, Layout] = {}) -> Iterator[Json]:
    """One Listener for each address.

    Args:
        filters: the filter chain of all.
        early: their `local_reply_config`.
        layouts: of the routes, by group of listeners; WHOLE if missing.
    """
    managers = {
        group: _connection_manager(group, filters, early, layouts.get(group, Layout.WHOLE)) for group in ruleset.groups
    }
    for listener in ruleset.listeners:
        chain: Json = {"filters": [{"name": "http", "typed_config": managers[listener.group]}]}
        if listener.certificate is not None and listener.key is not None:
            pairs = ((listener.certificate, listener.key), *listener.more_certificates)
            chain["transport_socket"] = _downstream_tls(pairs, listener.client_ca)
        yield {
            "name": listener_name(listener),
            "address": {"socket_address": {"address": listener.address, "port_value": listener.port}},
            "per_connection_buffer_limit_bytes": 32768,
            "filter_chains": [chain],
        }


def parts_listener(filters: list[Json]) -> Json:
    """A listener that does not listen: it makes Envoy load its filters, and with them the parts of the program."""
    manager = typed(_HCM, stat_prefix="rejoinder_parts", route_config={}, http_filters=filters)
    return {
        "name": "rejoinder.parts",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "bind_to_port": False,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def listener_name(listener: Listener) -> str:
    """A listener's name in Envoy: its address, with a number for all but the first listener with that address."""
    return show_address(listener.address, listener.port) + (f"#{listener.number}" if listener.number > 1 else "")


def _connection_manager(group: str, filters: list[Json], early: Json, layout: Layout) -> Json:
    manager = typed(
        _HCM,
        stat_prefix="ingress",
        rds={
            "route_config_name": routes_name(group, layout),
            "config_source": {"ads": {}, "resource_api_version": "V3"},
        },
        http_filters=filters,
        use_remote_address=True,
        normalize_path=True,
        merge_slashes=True,
        strip_trailing_host_dot=True,  # `a.test.` is `a.test`, for upstreams too: it does not bypass a rule
        path_with_escaped_slashes_action="UNESCAPE_AND_REDIRECT",
        common_http_protocol_options={"idle_timeout": "3600s"},
        # Answers apply to upgrade handshakes, too; routes that forward say which upgrades they let pass.
        upgrade_configs=[{"upgrade_type": upgrade} for upgrade in WEBSOCKET],
        # nginx speaks HTTP/1.0 to its upstreams by default; other clients do not even send a Host.
        http_protocol_options={"accept_http_10": True, "default_host_for_http_10": HTTP_10_HOST},
        http2_protocol_options={
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 65536,
            "initial_connection_window_size": 1048576,
        },
        stream_idle_timeout="300s",
        request_timeout="300s",
    )
    # Always, even if no route tests it: a listener that is replaced gets the new routes until it has drained.
    path = {"header": {"key": PATH_HEADER, "value": "%PATH(NQ)%"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    manager["early_header_mutation_extensions"] = [
        {
            "name": "path_without_query",
            "typed_config": typed(
                "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                mutations=[{"append": path}],
            ),
        }
    ]
    if early:
        manager["local_reply_config"] = early
    return manager


def _downstream_tls(pairs: Iterable[tuple[bytes, bytes]], client_ca: bytes | None) -> Json:
    # The files' content, not their names: the Envoy may run on another machine, and a renewed certificate is a change.
    certificates = [{"certificate_chain": inline(chain), "private_key": inline(key)} for chain, key in pairs]
    common: Json = {"tls_certificates": certificates, "alpn_protocols": ["h2", "http/1.1"]}
    required: Json = {}
    if client_ca is not None:
        common["validation_context"] = {"trusted_ca": inline(client_ca)}
        required = {"require_client_certificate": True}
    name = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    return {"name": "tls", "typed_config": typed(name, common_tls_context=common, **required)}
