"""What a route tells the module: the text that `xds.translate.module` writes, as values.

In: JSON. Out: a `RouteConfig`. Raised: `ConfigError`, whose text says where and what was expected. Pure. The text may
be written by hand too (`rejoinder bootstrap module`), so nothing about it is taken for granted:

    {"route": "route-a",
     "replies": [
       {"rule": "errors", "statuses": [[503, 503]], "status": 503, "headers": [["retry-after", "30"]], "body": "busy"},
       {"rule": "errors", "statuses": [[500, 599]], "handler": "pages:problem"},
       {"rule": "rest", "body_base64": "/9j/"}]}
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Final

from rejoinder.rules.handlers import HANDLER_NAME, checked_header
from rejoinder.rules.model import STATUSES, Header

_FIELDS: Final = ("rule", "statuses", "status", "headers", "body", "body_base64", "handler")


class ConfigError(ValueError):
    """The text is not as described above. Reject it: `str()` tells its author where it goes wrong."""


@dataclass(frozen=True, slots=True)
class ReplyConfig:
    """What is sent for some statuses."""

    rule: str
    statuses: tuple[tuple[int, int], ...] | None
    """Ranges of an upstream's status, both ends included; of overlapping ones the first counts. None: every other."""
    status: int | None
    """What the client gets; None: what the upstream gave."""
    headers: tuple[Header, ...]
    body: bytes
    handler: str
    """`package.module:function`, which makes status, headers and body; empty: they are given."""


@dataclass(frozen=True, slots=True)
class RouteConfig:
    route: str
    """The name of the rule file's route, for handlers; empty: none fits."""
    replies: tuple[ReplyConfig, ...]


def decode(text: bytes) -> RouteConfig:
    """Read a route's configuration.

    Raises:
        ConfigError: reject the configuration.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"expected JSON: {error}") from None
    fields = _mapping(value, "the configuration", ("route", "replies"))
    replies = _list(fields.get("replies"), "replies")
    return RouteConfig(
        route=_string(fields.get("route", ""), "route"),
        replies=tuple(_reply(reply, f"replies[{at}]") for at, reply in enumerate(replies)),
    )


def _reply(value: Any, place: str) -> ReplyConfig:
    fields = _mapping(value, place, _FIELDS)
    handler = _string(fields.get("handler", ""), f"{place}.handler")
    if handler and not HANDLER_NAME.fullmatch(handler):
        raise _expected("package.module:function", f"{place}.handler", handler)
    statuses = fields.get("statuses")
    return ReplyConfig(
        rule=_string(fields.get("rule"), f"{place}.rule"),
        statuses=None if statuses is None else tuple(_range(each, place) for each in _list(statuses, place)),
        status=None if "status" not in fields else _status(fields["status"], f"{place}.status"),
        headers=tuple(_header(each, place) for each in _list(fields.get("headers", []), f"{place}.headers")),
        body=_body(fields, place),
        handler=handler,
    )


def _body(fields: dict[str, Any], place: str) -> bytes:
    if "body_base64" not in fields:
        return _string(fields.get("body", ""), f"{place}.body").encode()
    try:
        return base64.b64decode(_string(fields["body_base64"], f"{place}.body_base64"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"{place}.body_base64: {error}") from None


def _range(value: Any, place: str) -> tuple[int, int]:
    pair = _list(value, f"{place}.statuses")
    if len(pair) != 2:
        raise _expected("pairs of a first and a last status", f"{place}.statuses", value)
    return _status(pair[0], f"{place}.statuses"), _status(pair[1], f"{place}.statuses")


def _status(value: Any, place: str) -> int:
    # A number that went through a protobuf Struct may come as 503.0.
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in STATUSES:
        raise _expected(f"a status from {STATUSES.start} to {STATUSES.stop - 1}", place, value)
    return int(value)


def _header(value: Any, place: str) -> Header:
    place = f"{place}.headers"
    pair = _list(value, place)
    if len(pair) != 2:
        raise _expected("pairs of a name and a value", place, value)
    try:
        return checked_header(_string(pair[0], place), _string(pair[1], place))
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from None


def _mapping(value: Any, place: str, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _expected("an object", place, value)
    for name in value:
        if name not in known:
            raise _expected(f"one of {', '.join(known)}", place, name)
    return value


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise _expected("a list", place, value)
    return value


def _string(value: Any, place: str) -> str:
    # A lone surrogate is valid in JSON, but no text.
    if not isinstance(value, str) or any("\ud800" <= character <= "\udfff" for character in value):
        raise _expected("a string", place, value)
    return value


def _expected(what: str, place: str, value: object) -> ConfigError:
    return ConfigError(f"{place}: expected {what}, got {value!r:.100}")
