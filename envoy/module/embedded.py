"""The Python inside Envoy: configurations become tables of `table.c`, and handlers are called.

In: what Envoy hands to the hooks of `filter.c`. Out: tables that C owns from then on, outcomes, and lines in Envoy's
log. Nothing is raised: no exception may cross into C, so each function below is a few lines around pure code and turns
a failure into the outcome that C knows for it. Imported inside Envoy only: elsewhere there is no `_rejoinder`.

Threads: `rejoinder_table` and `rejoinder_started` run on Envoy's main thread, `rejoinder_handle` on its workers.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from typing import Any, Final

from _rejoinder import ffi, lib  # type: ignore[import-not-found]  # made by `build`

from rejoinder.envoy.module.config import ConfigError, ReplyConfig, decode
from rejoinder.rules.handlers import HandlerError, Handlers, Response, regular, request_of
from rejoinder.rules.model import Header

HANDLER_PATH: Final = "REJOINDER_HANDLER_PATH"
"""The environment variable with the folders where handlers are looked for when they are nowhere on PYTHONPATH."""

_ROUTER_HEADERS: Final = frozenset({"x-envoy-expected-rq-timeout-ms"})
"""What Envoy's router tells the upstream, and not the client: in ext_proc it is not there yet."""


def _log(text: str, level: int = lib.LOG_ERROR) -> None:
    alive: list[Any] = []
    lib.envoy_dynamic_module_callback_log(level, _buffer(text.encode("utf-8", "replace"), alive))


_handlers: Final = Handlers(_log)
# Handlers as C knows them, by number, with the route that they are called for; 0 is none. The list only grows: with
# what configurations name, not with their number.
_bound: Final[list[tuple[str, str]]] = [("", "")]
_numbers: Final[dict[tuple[str, str], int]] = {}
_binding: Final = threading.Lock()


@ffi.def_extern(error=False)  # type: ignore[untyped-decorator]
def rejoinder_started() -> bool:
    _find_handlers()
    return True


@ffi.def_extern(error=ffi.NULL)  # type: ignore[untyped-decorator]
def rejoinder_table(text: Any) -> Any:
    _find_handlers()  # in a static configuration, routes come before the filter
    try:
        config = decode(_bytes(text.ptr, text.length))
        return _table(config.replies, config.route)
    except (ConfigError, HandlerError, MemoryError) as error:
        _log(f"rejoinder: a route's configuration is rejected: {error or 'out of memory'}")
    return ffi.NULL


@ffi.def_extern(error=lib.FAILURE)  # type: ignore[untyped-decorator]
def rejoinder_handle(envoy: Any, number: int, status: int, made: Any) -> int:
    name, route = _bound[number]
    asked = [header for header in _headers(envoy, lib.REQUEST_HEADERS) if header[0] not in _ROUTER_HEADERS]
    answered = _headers(envoy, lib.RESPONSE_HEADERS)
    try:
        reply = _handlers.call(name, request_of(asked, route), Response(status, regular(answered)))
        if reply is None:
            return int(lib.PASS)
        made[0] = _table((ReplyConfig("", None, reply.status, reply.headers, reply.body, ""),), route)
    except (HandlerError, MemoryError):
        return int(lib.FAILURE)
    return int(lib.REPLY)


def _find_handlers() -> None:
    sys.path += [path for path in os.environ.get(HANDLER_PATH, "").split(os.pathsep) if path and path not in sys.path]


def _table(replies: Sequence[ReplyConfig], route: str) -> Any:
    """A table that the caller owns. Raises HandlerError and MemoryError."""
    numbers = [_number(reply.handler, route) for reply in replies]
    table = lib.table_new(len(replies))
    if not table:
        raise MemoryError
    try:
        for index, (reply, handler) in enumerate(zip(replies, numbers, strict=True)):
            _fill(table, index, reply, handler)
    except BaseException:
        lib.table_free(table)
        raise
    return table


def _fill(table: Any, index: int, reply: ReplyConfig, handler: int) -> None:
    alive: list[Any] = []
    headers = ffi.new("header[]", len(reply.headers))
    for slot, (name, value) in zip(headers, reply.headers, strict=True):
        encoded_name, encoded_value = name.encode(), value.encode()
        slot.name, slot.name_length = _pointer(encoded_name, alive), len(encoded_name)
        slot.value, slot.value_length = _pointer(encoded_value, alive), len(encoded_value)
    rule = _buffer(reply.rule.encode(), alive)
    body = _buffer(reply.body, alive)
    if not lib.table_reply(table, index, reply.status or 0, handler, rule, headers, len(reply.headers), body):
        raise MemoryError
    if reply.statuses is None:
        lib.table_otherwise(table, index)
    for first, last in reply.statuses or ():
        lib.table_claim(table, first, last, index)


def _number(handler: str, route: str) -> int:
    if not handler:
        return 0
    _handlers.find(handler)
    with _binding:
        key = (handler, route)
        if key not in _numbers:
            _numbers[key] = len(_bound)
            _bound.append(key)
        return _numbers[key]


# What points into Python's memory is good as long as `alive` is.
def _pointer(data: bytes, alive: list[Any]) -> Any:
    alive.append(pointer := ffi.from_buffer("char[]", data))
    return pointer


def _buffer(data: bytes, alive: list[Any]) -> Any:
    buffer = ffi.new("buffer *")
    alive.append(buffer)
    buffer.ptr, buffer.length = _pointer(data, alive), len(data)
    return buffer[0]


def _bytes(pointer: Any, length: int) -> bytes:
    return bytes(ffi.buffer(pointer, length)) if length else b""


def _headers(envoy: Any, kind: int) -> list[Header]:
    count = lib.envoy_dynamic_module_callback_http_get_headers_size(envoy, kind)
    found = ffi.new("header[]", count)
    lib.envoy_dynamic_module_callback_http_get_headers(envoy, kind, found)
    # A value can be any bytes; handlers get text.
    return [
        (
            _bytes(each.name, each.name_length).decode("utf-8", "replace"),
            _bytes(each.value, each.value_length).decode("utf-8", "replace"),
        )
        for each in found
    ]
