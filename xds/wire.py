"""`Request`s and `Response`s as bytes on the wire.

For gRPC, which wants a function for either direction. `decode_request` raises `google.protobuf.message.DecodeError` for
bytes that are no DiscoveryRequest, upon which gRPC ends the stream; `encode_response` raises nothing.
"""

from __future__ import annotations

from typing import Final

from envoy_data_plane.envoy.service.discovery import v3 as discovery

from rejoinder.xds.protobuf import message_class
from rejoinder.xds.session import Request, Response

_DiscoveryRequest: Final = message_class(discovery.DiscoveryRequest)
_DiscoveryResponse: Final = message_class(discovery.DiscoveryResponse)


def decode_request(data: bytes) -> Request:
    message = _DiscoveryRequest.FromString(data)
    return Request(
        type_url=message.type_url,
        names=tuple(message.resource_names),
        version=message.version_info,
        nonce=message.response_nonce,
        error=message.error_detail.message if message.HasField("error_detail") else None,
        node=message.node.id,
    )


def encode_response(response: Response) -> bytes:
    # Encoded protobuf messages that stand one behind the other are one message with the fields of all, so the resources
    # need not be encoded again for each client.
    # https://protobuf.dev/programming-guides/encoding/#last-one-wins
    head: bytes = _DiscoveryResponse(
        version_info=response.version, type_url=response.type.url, nonce=response.nonce
    ).SerializeToString()
    return b"".join((head, *(resource.encoded for resource in response.resources)))
