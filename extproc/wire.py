"""ext_proc messages: bytes from Envoy to plain values, replies to bytes for Envoy.

In go the bytes of a `ProcessingRequest` (`decode`) and the replies of rules (`immediate`, `replacement`); out come the
values that `session` works with, and the bytes of a `ProcessingResponse`. `decode` raises protobuf's `DecodeError` for
bytes that are no such message; nothing else is raised. No other file knows the protocol's messages.
https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/ext_proc/v3/external_processor.proto

What is sent is made of pieces that are encoded once and then only put one behind the other: encoded messages in a row
are one message with the fields of all. https://protobuf.dev/programming-guides/encoding/#last-one-wins
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from envoy_data_plane.envoy.service.ext_proc import v3 as ext_proc

from rejoinder.rules.answers import Reply
from rejoinder.rules.model import Header
from rejoinder.xds.protobuf import message_class

ROUTE_NAME_ATTRIBUTE: Final = "xds.route_name"
"""The attribute that tells which of its routes Envoy has chosen."""

METADATA_NAMESPACE: Final = "rejoinder"
"""Envoy's dynamic metadata has the name of the rule that answered here, under `rule`: for access logs."""

_ProcessingRequest: Final = message_class(ext_proc.ProcessingRequest)
_ProcessingResponse: Final = message_class(ext_proc.ProcessingResponse)


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """A client's request has come."""

    headers: tuple[Header, ...]
    """In order, with the pseudo headers (`:method`, `:scheme`, `:authority`, `:path`)."""
    route_name: str | None
    """The route that Envoy has chosen; None: it has none, the route has no name, or the filter does not tell."""


@dataclass(frozen=True, slots=True)
class ResponseHeaders:
    """The headers of a response, an upstream's or Envoy's own, have come."""

    status: int
    names: tuple[str, ...]
    """Of its headers, without pseudo headers."""
    content_length: int | None
    """As its header says; None: there is none, so nobody knows when the body ends."""
    end_of_stream: bool
    """There is no body."""
    headers: tuple[Header, ...] = ()
    """All of them but pseudo headers, for handlers."""


@dataclass(frozen=True, slots=True)
class Other:
    """A message that the filter configuration of docs/ext_proc.md never causes: a body or trailers."""

    kind: str
    """The field of ProcessingRequest that it came in; empty: none."""


Message = RequestHeaders | ResponseHeaders | Other


def decode(data: bytes) -> Message:
    """Read a ProcessingRequest.

    Raises:
        google.protobuf.message.DecodeError: these bytes are none. Who sent them is no Envoy; end the stream.
    """
    message = _ProcessingRequest.FromString(data)
    kind: str = message.WhichOneof("request") or ""
    if kind == "response_headers":
        return _response_headers(message.response_headers)
    if kind == "request_headers":
        headers = tuple((header.key, _value(header)) for header in message.request_headers.headers.headers)
        return RequestHeaders(headers, _route_name(message.attributes.values()))
    return Other(kind)


# Any bytes may come, in `raw_value`, or in `value` from older Envoys; rules are UTF-8.
def _value(header: Any) -> str:
    value: str = header.raw_value.decode("utf-8", "replace") or header.value
    return value


def _response_headers(message: Any) -> ResponseHeaders:
    pairs = tuple((header.key, _value(header)) for header in message.headers.headers)
    values = dict(pairs)
    headers = tuple(pair for pair in pairs if not pair[0].startswith(":"))
    return ResponseHeaders(
        status=_number(values.get(":status", "")) or 0,
        names=tuple(name for name, _ in headers),
        content_length=_number(values.get("content-length", "")),
        end_of_stream=message.end_of_stream,
        headers=headers,
    )


_NUMBER: Final = re.compile(r"[0-9]{1,18}")


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None


# In `attributes`, the filter's name leads to a Struct of the attributes; the name is the operator's choice.
def _route_name(by_filter: Iterable[dict[str, object]]) -> str | None:
    for attributes in by_filter:
        if ROUTE_NAME_ATTRIBUTE in attributes:
            return str(attributes[ROUTE_NAME_ATTRIBUTE]) or None
    return None


PASS_REQUEST: Final[bytes] = _ProcessingResponse(request_headers={}).SerializeToString()
"""The request goes on, and the response is awaited."""


def immediate(reply: Reply, rule: str) -> bytes:
    """A reply in place of whatever comes or came from an upstream: Envoy makes a response of its own (a local reply).

    Args:
        reply: what the client gets.
        rule: the name of the rule, or route, that it is due to: Envoy can log it.
    """
    message = _ProcessingResponse(
        immediate_response={
            "status": {"code": reply.status},
            "headers": {"set_headers": _set_headers(reply.headers)},
            "body": reply.body,
            "details": f"rejoinder:{_SPACES.sub('_', rule)}",
        },
        dynamic_metadata={METADATA_NAMESPACE: {"rule": rule}},
    )
    encoded: bytes = message.SerializeToString()
    return encoded


def replacement(reply: Reply, rule: str) -> bytes:
    """A reply written over a response that has a body, which stays the same response for Envoy. To be sent with
    `removal`. Args as for `immediate`."""
    message = _ProcessingResponse(
        response_headers={
            "response": {
                "status": ext_proc.CommonResponseResponseStatus.CONTINUE_AND_REPLACE,
                "header_mutation": {"set_headers": _set_headers(((":status", str(reply.status)), *reply.headers))},
                "body_mutation": {"body": reply.body},
            }
        },
        dynamic_metadata={METADATA_NAMESPACE: {"rule": rule}},
    )
    encoded: bytes = message.SerializeToString()
    return encoded


# The responses of an upstream have a handful of sets of headers.
@functools.lru_cache(maxsize=1024)
def removal(names: tuple[str, ...]) -> bytes:
    """What takes these headers off a response; to be sent behind a `replacement`, as one message with it.

    Envoy removes before it sets, so those that the reply sets may be among them.
    """
    encoded: bytes = _ProcessingResponse(
        response_headers={"response": {"header_mutation": {"remove_headers": sorted(set(names))}}}
    ).SerializeToString()
    return encoded


# In response_code_details, which access logs separate by spaces.
_SPACES: Final = re.compile(r"\s+")


def _set_headers(headers: Iterable[Header]) -> list[dict[str, object]]:
    seen: set[str] = set()
    options: list[dict[str, object]] = []
    for name, value in headers:
        options.append(
            {
                "header": {"key": name, "raw_value": value.encode()},
                # The first of a name takes the place of what Envoy has (the content-type of a local reply), the others
                # stand beside it. The filter reads this deprecated field: it cannot tell `append_action:
                # APPEND_IF_EXISTS_OR_ADD`, a zero, from none, and then overwrites.
                "append": {"value": name in seen},
                "keep_empty_value": True,
            }
        )
        seen.add(name)
    return options
