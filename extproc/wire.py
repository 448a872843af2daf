"""ext_proc messages: bytes from Envoy to plain values, replies to bytes for Envoy.

In: the bytes of a `ProcessingRequest` (`decode`) and replies (`immediate`). Out: the values that `session` works with,
and the bytes of a `ProcessingResponse`. Nothing is raised. No other file knows the protocol's messages.
https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/ext_proc/v3/external_processor.proto
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError

from rejoinder.rules.answers import Reply
from rejoinder.rules.counts import NONE
from rejoinder.rules.messages import Messages, message_classes
from rejoinder.rules.model import Header
from rejoinder.rules.names import DETAILS, METADATA
from rejoinder.rules.program import Seen

PLACEMENT: Final = "ext_proc"

# Envoy passes header values on as they are, even if they are no UTF-8: so text fields are read as bytes.
_MESSAGES: Final[Messages] = {
    "ProcessingRequest": {
        "request_headers": (2, "HttpHeaders"),
        "response_headers": (3, "HttpHeaders"),
        "attributes": (9, "*AttributesEntry"),
    },
    "HttpHeaders": {"headers": (1, "HeaderMap"), "end_of_stream": (3, "bool")},
    "HeaderMap": {"headers": (1, "*HeaderValue")},
    "HeaderValue": {"key": (1, "bytes"), "value": (2, "bytes"), "raw_value": (3, "bytes")},
    "AttributesEntry": {"key": (1, "bytes"), "value": (2, "Struct")},
    "Struct": {"fields": (1, "*FieldsEntry")},
    "FieldsEntry": {"key": (1, "bytes"), "value": (2, "Value")},
    "Value": {"number_value": (2, "double"), "string_value": (3, "bytes"), "struct_value": (5, "Struct")},
    "ProcessingResponse": {
        "request_headers": (1, "HeadersResponse"),
        "response_headers": (2, "HeadersResponse"),
        "immediate_response": (7, "ImmediateResponse"),
        "dynamic_metadata": (8, "Struct"),
    },
    "HeadersResponse": {},
    "ImmediateResponse": {
        "status": (1, "HttpStatus"),
        "headers": (2, "HeaderMutation"),
        "body": (3, "bytes"),
        "grpc_status": (4, "GrpcStatus"),
        "details": (5, "bytes"),
    },
    "GrpcStatus": {"status": (1, "int32")},
    "HttpStatus": {"code": (1, "int32")},
    "HeaderMutation": {"set_headers": (1, "*HeaderValueOption")},
    "HeaderValueOption": {"header": (1, "HeaderValue"), "append": (2, "BoolValue"), "keep_empty_value": (4, "bool")},
    "BoolValue": {"value": (1, "bool")},
}

_CLASSES: Final = message_classes("rejoinder.extproc", _MESSAGES)  # not Envoy's own: these are others
_parse: Final = _CLASSES["ProcessingRequest"].FromString
_ProcessingResponse: Final = _CLASSES["ProcessingResponse"]


@dataclass(slots=True)
class RequestHeaders:
    """A client's request has come."""

    headers: tuple[Header, ...]
    """In order, with the pseudo headers (`:method`, `:scheme`, `:authority`, `:path`)."""
    attributes: Mapping[str, str]
    """By the text of the expression, such as `request.path`; missing values have no entry."""


@dataclass(slots=True)
class ResponseHeaders:
    """The headers of a response, an upstream's or Envoy's own, have come."""

    status: int
    headers: tuple[Header, ...]
    """Those that the filter forwards, except pseudo headers."""
    attributes: Mapping[str, str]
    """As in `RequestHeaders`."""


@dataclass(slots=True)
class Other:
    """A message that the filter configuration of docs/ext_proc.md never causes: a body or trailers, or bytes that are
    no message. It does not come from an Envoy with that configuration."""


Message = RequestHeaders | ResponseHeaders | Other


def decode(data: bytes) -> Message:
    """Read a ProcessingRequest."""
    try:
        message = _parse(data)
    except DecodeError:
        return Other()
    if message.HasField("response_headers"):
        headers = _headers(message.response_headers)
        status = next((value for name, value in headers if name == ":status"), "")
        regular = tuple([header for header in headers if header[0][:1] != ":"])
        return ResponseHeaders(_number(status), regular, _attributes(message))
    if message.HasField("request_headers"):
        return RequestHeaders(_headers(message.request_headers), _attributes(message))
    return Other()


def _headers(message: Any) -> tuple[Header, ...]:
    # The value is in `raw_value`, or in `value` from older Envoys. Rules compare bytes, which may be any.
    return tuple([(_text(header.key), _text(header.raw_value or header.value)) for header in message.headers.headers])


def _attributes(message: Any) -> dict[str, str]:
    # By the filter's name, which the operator chooses.
    return {
        _text(entry.key): _text(entry.value.string_value)
        for by_filter in message.attributes
        for entry in by_filter.value.fields
    }


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


_NUMBER: Final = re.compile(r"[0-9]{1,9}")


def _number(text: str) -> int:
    return int(text) if _NUMBER.fullmatch(text) else 0


PASS_REQUEST: Final[bytes] = _ProcessingResponse(request_headers={}).SerializeToString()
"""The request goes on, and the response is awaited."""


def passing(seen: Seen, what: str) -> bytes:
    """A request or a response goes on, and access logs get the rules that concern it; empty: none.

    Args:
        what: `request_headers` or `response_headers`.
    """
    told = {"observed": ",".join(seen.observed)} if seen.observed else {}
    told |= {"passed": seen.passed} if seen.passed else {}
    if not told:
        return b""
    message = _ProcessingResponse(**{what: {}}, dynamic_metadata=_metadata(**told, placement=PLACEMENT))
    encoded: bytes = message.SerializeToString()
    return encoded


def immediate(reply: Reply, rule: str) -> bytes:
    """A reply in place of whatever comes or came from an upstream: Envoy makes a response of its own (a local reply).
    Followed by `marker`, it is one message.

    Args:
        reply: what the client gets.
        rule: the name of the rule, or route, that answers: Envoy can log it.
    """
    message = _ProcessingResponse(
        immediate_response={
            "status": {"code": reply.status},
            "headers": {"set_headers": _set_headers(reply.headers)},
            "body": reply.body,
            **({} if reply.grpc is None else {"grpc_status": {"status": reply.grpc}}),
            "details": f"{DETAILS}{_SPACES.sub('_', rule)}".encode(),
        },
    )
    encoded: bytes = message.SerializeToString()
    return encoded


@functools.lru_cache(maxsize=1 << 12)
def marker(rule: str, original_status: int, source: str, observed: tuple[str, ...] = ()) -> bytes:
    """The metadata of an answer for access logs and counters.

    Args:
        rule: as for `immediate`.
        original_status: the status that it replaces; 0: none.
        source: who made that response; empty: nobody.
        observed: the names of earlier rules that would have answered, but only observe.
    """
    told = {"rule": rule, "original_status": str(original_status or NONE), "placement": PLACEMENT}
    told |= {"source": source} if source else {}
    told |= {"observed": ",".join(observed)} if observed else {}
    message = _ProcessingResponse(dynamic_metadata=_metadata(**told))
    encoded: bytes = message.SerializeToString()
    return encoded


def _metadata(**told: str) -> dict[str, object]:
    return _struct({METADATA: {"struct_value": _struct({k: {"string_value": v.encode()} for k, v in told.items()})}})


def _struct(values: Mapping[str, dict[str, object]]) -> dict[str, object]:
    return {"fields": [{"key": key.encode(), "value": value} for key, value in values.items()]}


# In response_code_details, which access logs separate by spaces.
_SPACES: Final = re.compile(r"\s+")


def _set_headers(headers: Iterable[Header]) -> list[dict[str, object]]:
    seen: set[str] = set()
    options: list[dict[str, object]] = []
    for name, value in headers:
        options.append(
            {
                "header": {"key": name.encode(), "raw_value": value.encode("utf-8", "surrogateescape")},
                # The first value of a name replaces Envoy's (the content-type of a local reply), the others are added.
                # The filter reads this deprecated field: it cannot distinguish `append_action:
                # APPEND_IF_EXISTS_OR_ADD`, a zero, from a missing one, and then overwrites.
                "append": {"value": name in seen},
                "keep_empty_value": True,
            }
        )
        seen.add(name)
    return options
