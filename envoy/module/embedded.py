"""The Python inside Envoy, for what the module's core cannot do: regular expressions and handlers.

In: calls of the core through `beside.h`. Out: numbers, outcomes, replies that C then owns, lines in Envoy's log.
Nothing is raised, because no exception may cross into C: each function below is a few lines around pure code and turns
a failure into its outcome in C. Imported inside Envoy only: elsewhere there is no `_rejoinder`.

Threads: `python_started`, `python_regex` and `python_handler` run on Envoy's main thread, the others on its workers.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any, Final

from _rejoinder import ffi, lib  # type: ignore[import-not-found]  # made by `build`

from rejoinder.rules.handlers import HandlerError, Handlers, Reply, Response, request_of
from rejoinder.rules.matching import RegexError, compile_regex
from rejoinder.rules.model import Header
from rejoinder.rules.request import regular

HANDLER_PATH: Final = "REJOINDER_HANDLER_PATH"
"""The environment variable with the folders where handlers are searched for if they are nowhere on PYTHONPATH."""

_ROUTER_HEADERS: Final = frozenset({"x-envoy-expected-rq-timeout-ms"})
"""Headers that Envoy's router adds for the upstream, not the client: ext_proc sees requests before it does."""


def _log(text: str) -> None:
    alive: list[Any] = []
    lib.envoy_dynamic_module_callback_log(lib.LOG_ERROR, _buffer(text.encode("utf-8", "replace"), alive))


_handlers: Final = Handlers(_log)

# By number, as C knows them. They grow with the names in programs, not with the number of programs.
_handler_names: Final[list[str]] = []
_regexes: Final[list[Any]] = []


@functools.cache
def _handler_number(name: str) -> int:
    _handlers.find(name)
    _handler_names.append(name)
    return len(_handler_names) - 1


@functools.cache
def _regex_number(pattern: str) -> int:
    _regexes.append(compile_regex(pattern))
    return len(_regexes) - 1


@ffi.def_extern(error=False)  # type: ignore[untyped-decorator]
def python_started() -> bool:
    sys.path += [path for path in os.environ.get(HANDLER_PATH, "").split(os.pathsep) if path and path not in sys.path]
    return True


@ffi.def_extern(error=False)  # type: ignore[untyped-decorator]
def python_regex(pattern: Any, number: Any, why: Any) -> bool:
    text = _bytes(pattern).decode()
    try:
        number[0] = _regex_number(text)
    except RegexError as error:
        return _reason(why, f"regular expression {text!r:.100}: {error}")
    return True


@ffi.def_extern(error=False)  # type: ignore[untyped-decorator]
def python_handler(name: Any, number: Any, why: Any) -> bool:
    try:
        number[0] = _handler_number(_bytes(name).decode())
    except HandlerError as error:
        return _reason(why, str(error))
    return True


@ffi.def_extern(error=False)  # type: ignore[untyped-decorator]
def python_fits(regex: int, text: Any) -> bool:
    return _regexes[regex].fullmatch(_bytes(text)) is not None


@ffi.def_extern(error=lib.FAILURE)  # type: ignore[untyped-decorator]
def python_handle(envoy: Any, number: int, status: int, asked: Any, made: Any) -> int:
    # As the client sent them, before the route rewrote them.
    original = {":method": asked.method, ":authority": asked.authority, ":path": asked.path}
    headers = [(name, value) for name, value in _headers(envoy, lib.REQUEST_HEADERS) if name not in _ROUTER_HEADERS]
    request = request_of(
        (*regular(headers), *((name, _text(value)) for name, value in original.items())), _text(asked.route)
    )
    response = Response(status, regular(_headers(envoy, lib.RESPONSE_HEADERS))) if status else None
    try:
        reply = _handlers.call(_handler_names[number], request, response)
    except HandlerError:
        return int(lib.FAILURE)
    if reply is None:
        return int(lib.PASS)
    made[0] = _reply(reply)
    return int(lib.REPLY if made[0] else lib.FAILURE)


def _reply(reply: Reply) -> Any:
    """A copy in memory that C owns; NULL if there is none."""
    alive: list[Any] = []
    headers = ffi.new("header[]", len(reply.headers))
    for slot, (name, value) in zip(headers, reply.headers, strict=True):
        slot.name, slot.value = _buffer(name.encode(), alive), _buffer(value.encode(), alive)
    return lib.reply_new(reply.status, headers, len(reply.headers), _buffer(reply.body, alive))


def _reason(why: Any, text: str) -> bool:
    alive: list[Any] = []
    lib.reason(why, _buffer(text.encode("utf-8", "replace"), alive))
    return False


# Pointers into Python's memory are valid as long as `alive` exists.
def _buffer(data: bytes, alive: list[Any]) -> Any:
    alive.append(pointer := ffi.from_buffer("char[]", data))
    alive.append(buffer := ffi.new("buffer *", (pointer, len(data))))
    return buffer[0]


def _bytes(buffer: Any) -> bytes:
    return bytes(ffi.buffer(buffer.ptr, buffer.length)) if buffer.length else b""


def _text(buffer: Any) -> str:
    # What a client sends can be any bytes; handlers get text.
    return _bytes(buffer).decode("utf-8", "replace")


def _headers(envoy: Any, kind: int) -> list[Header]:
    count = lib.envoy_dynamic_module_callback_http_get_headers_size(envoy, kind)
    headers = ffi.new("header[]", count)
    lib.envoy_dynamic_module_callback_http_get_headers(envoy, kind, headers)
    return [(_text(header.name), _text(header.value)) for header in headers]
