"""Requests and `Response`s as bytes on the wire, for either variant of the protocol.

For other bytes, `decode_request` and `decode_delta_request` raise `google.protobuf.message.DecodeError`, and
for too many names `TooManyNamesError`; the others raise nothing. Node ids and error messages of clients are made
printable here, so that all other code can show them as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Sized
from typing import Any, Final

from rejoinder.rules.model import printable
from rejoinder.rules.names import METADATA
from rejoinder.xds.delta import DeltaRequest
from rejoinder.xds.forms import Node
from rejoinder.xds.protobuf import message_class
from rejoinder.xds.sotw import Request
from rejoinder.xds.stream import Response

_DiscoveryRequest: Final = message_class("envoy.service.discovery.v3.DiscoveryRequest")
_DiscoveryResponse: Final = message_class("envoy.service.discovery.v3.DiscoveryResponse")
_DeltaDiscoveryRequest: Final = message_class("envoy.service.discovery.v3.DeltaDiscoveryRequest")
_DeltaDiscoveryResponse: Final = message_class("envoy.service.discovery.v3.DeltaDiscoveryResponse")

# Encoded protobuf messages, one after the other, are one message with the fields of all, so the resources need not be
# encoded again for each client.
# https://protobuf.dev/programming-guides/encoding/#last-one-wins


MAX_NAMES: Final = 50_000
"""How many resources a client may name: five times as many as there are in a large installation."""

_MOST_OF_NODE: Final = 256
"""How many characters of a client's id are kept: ids are names of hosts or pods, which have at most 253."""

_MOST_OF_ERROR: Final = 4096
"""How much of a client's reason for a rejection is kept. Envoy names the resource at the beginning of each line."""

_SHARED: Final = 8
"""How many responses are remembered: a thousand clients get the same ones."""


class TooManyNamesError(ValueError):
    """A client names more than MAX_NAMES resources. It is not an Envoy of ours; end the stream."""


def decode_request(data: bytes) -> Request:
    message = _DiscoveryRequest.FromString(data)
    _limit(message.resource_names)
    return Request(names=tuple(message.resource_names), version=message.version_info, **_common(message))


@functools.lru_cache(_SHARED)
def encode_response(response: Response) -> bytes:
    head: bytes = _DiscoveryResponse(
        version_info=response.version, type_url=response.type.url, nonce=response.nonce
    ).SerializeToString()
    return b"".join((head, *(resource.encoded for resource in response.resources)))


def decode_delta_request(data: bytes) -> DeltaRequest:
    message = _DeltaDiscoveryRequest.FromString(data)
    _limit(message.resource_names_subscribe, message.resource_names_unsubscribe, message.initial_resource_versions)
    return DeltaRequest(
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        initial=dict(message.initial_resource_versions),
        **_common(message),
    )


@functools.lru_cache(_SHARED)
def encode_delta_response(response: Response) -> bytes:
    head: bytes = _DeltaDiscoveryResponse(
        system_version_info=response.version,
        type_url=response.type.url,
        nonce=response.nonce,
        removed_resources=response.removed,
    ).SerializeToString()
    parts = (part for resource in response.resources for part in (resource.delta_head, resource.encoded))
    return b"".join((head, *parts))


def _common(message: Any) -> dict[str, Any]:
    error = None
    if message.HasField("error_detail"):
        # Envoy writes several lines if several resources are wrong.
        error = printable(" ".join(message.error_detail.message.split()), _MOST_OF_ERROR)
    return {
        "type_url": message.type_url,
        "nonce": message.response_nonce,
        "error": error,
        "node": _node(message.node),
    }


def _node(node: Any) -> Node:
    version = node.user_agent_build_version.version
    is_envoy = node.user_agent_name == "envoy" and node.HasField("user_agent_build_version")
    # `rejoinder: {access_log: true}`. (Looking up a key in a map of messages would add it.)
    ours = node.metadata.fields[METADATA].struct_value.fields if METADATA in node.metadata.fields else {}
    return Node(
        printable(node.id, _MOST_OF_NODE),
        (version.major_number, version.minor_number) if is_envoy else None,
        "access_log" in ours and ours["access_log"].bool_value,
    )


def _limit(*names: Sized) -> None:
    count = max(map(len, names))
    if count > MAX_NAMES:
        raise TooManyNamesError(f"expected no more than {MAX_NAMES} names, got {count}")
