"""Python handlers: functions of the user that make a reply (docs/handlers.md).

    from rejoinder.rules.handlers import Reply, Request, Response

    def page(request: Request, response: Response) -> Reply | None:
        return Reply(response.status, (("content-type", "text/plain"),), f"sorry about {request.path}".encode())

In: a handler's name, a request and a response. Out: a `Reply`, or None to let the response pass. Raised:
`HandlerError`, if there is no such function or it fails; a failure has been logged. The same code runs in both
placements, so a handler cannot tell the difference. `Handlers` is the way in.
"""

from __future__ import annotations

import importlib
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from rejoinder.rules.answers import Reply, reply
from rejoinder.rules.fields import similar_to
from rejoinder.rules.http import CONNECTION_HEADERS, CONTROL_IN_VALUE, TOKEN
from rejoinder.rules.model import MAX_HEADERS, STATUSES, Answer, Header
from rejoinder.rules.request import PATH_HEADER, of_headers

__all__ = ["Handler", "HandlerError", "Handlers", "Reply", "Request", "Response", "checked_header", "request_of"]

MAX_HEADER_BYTES: Final = 60 * 1024
"""Of all names and values of a reply. With megabytes of headers Envoy sends an empty 500, and few clients take more
than this, which is Envoy's own limit for headers that it reads."""

LOG_SECONDS: Final = 60.0
"""A failing handler is logged once in this time: it may fail for every request."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the client asked."""

    method: str
    host: str
    """In lower case, without port."""
    path: str
    """Normalized, without query."""
    query: str | None
    """The text behind the first `?`; None: there is no `?`."""
    headers: tuple[Header, ...]
    """In order, names in lower case; a header that is sent several times is here several times."""
    route: str
    """The name of the route in the rule file; empty: no route fits."""

    def header(self, name: str) -> str | None:
        """The first value of a header, by its name in lower case; None: there is none."""
        return _first(self.headers, name)


@dataclass(frozen=True, slots=True)
class Response:
    """What the upstream (or Envoy itself) answered; its body is not known."""

    status: int
    headers: tuple[Header, ...]
    """As in `Request`."""

    def header(self, name: str) -> str | None:
        """As in `Request`."""
        return _first(self.headers, name)


def request_of(headers: Iterable[Header], route: str) -> Request:
    """A request, made of its headers and pseudo-headers (`:method`, `:authority`, `:path`)."""
    seen = of_headers(headers)
    headers = tuple(header for header in seen.headers if header[0] != PATH_HEADER)  # ours, if it is still there
    return Request(seen.method, seen.host, seen.path, seen.query, headers, route)


def _first(headers: tuple[Header, ...], name: str) -> str | None:
    return next((value for other, value in headers if other == name), None)


Handler = Callable[[Request, Response | None], Reply | None]
"""There is no response where a rule answers without asking an upstream."""


class HandlerError(Exception):
    """A handler does not exist, or has failed. Its author must act; the response passes untouched."""


class Handlers:
    """The handlers of one process. May be called by several threads."""

    def __init__(self, log: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        log: gets failures, as a text of several lines.
        clock: seconds, from any start.
        """
        self._log = log
        self._clock = clock
        self._found: dict[str, Handler] = {}
        self._logged: dict[str, float] = {}
        self._logging = threading.Lock()

    def find(self, name: str) -> Handler:
        """Import a handler.

        Raises:
            HandlerError: there is no such module or function, or the module fails; the text says why. Call this again
                when the code is corrected: a module that failed is imported again.
        """
        if name not in self._found:
            module, _, attributes = name.partition(":")
            try:
                value: Any = importlib.import_module(module)
                for attribute in attributes.split("."):
                    value = _member(value, attribute)
            except BaseException as error:  # whatever the module's code raises, also to end the process
                raise HandlerError(f"handler {name}: {_said(error)}") from error
            if not callable(value):
                raise HandlerError(f"handler {name}: expected a function, got {type(value).__name__}")
            self._found[name] = value
        return self._found[name]

    def call(self, name: str, request: Request, response: Response | None) -> Reply | None:
        """Call a handler.

        Returns:
            What is sent, complete and checked; None: the response passes, or the request goes on.

        Raises:
            HandlerError: it failed; count that and let the response pass. It has been logged, once in LOG_SECONDS.
        """
        try:
            return _checked(self.find(name)(request, response))
        except BaseException as error:  # whatever the user's code raises, also to end the process
            raise self.failed(name, "".join(traceback.format_exception(error)), _said(error)) from error

    def failed(self, name: str, text: str, reason: str) -> HandlerError:
        """Log a failure of a handler, once in LOG_SECONDS, as a text of several lines; returns the error to raise."""
        with self._logging:
            now = self._clock()
            due = name not in self._logged or now - self._logged[name] >= LOG_SECONDS
            if due:
                self._logged[name] = now
        if due:
            self._log(f"handler {name} failed (the response passes; logged once a minute at most):\n{text}")
        return HandlerError(f"handler {name}: {reason}")


def _member(thing: Any, name: str) -> Any:
    if not hasattr(thing, name):
        close = similar_to(name, [attribute for attribute in dir(thing) if callable(getattr(thing, attribute, None))])
        hint = f': did you mean "{close}"?' if close else ""
        raise AttributeError(f'there is no "{name}"{hint}')
    return getattr(thing, name)


def _said(error: BaseException) -> str:
    """The type and text of an error, in one line; the text comes from the user's code and may fail, too."""
    return traceback.format_exception_only(error)[-1].strip()


def _checked(made: object) -> Reply | None:
    if made is None:
        return None
    if not isinstance(made, Reply):
        raise TypeError(f"expected a Reply or None, got {type(made).__name__}")
    if not isinstance(made.status, int) or made.status not in STATUSES:
        raise ValueError(f"expected a status from {STATUSES.start} to {STATUSES.stop - 1}, got {made.status!r}")
    if not isinstance(made.body, bytes):
        raise TypeError(f"expected a body of bytes, got {type(made.body).__name__}")
    headers = tuple(checked_header(name, value) for name, value in made.headers)
    if len(headers) > MAX_HEADERS:
        raise ValueError(f"expected at most {MAX_HEADERS} headers, got {len(headers):,}")
    if (size := sum(len(name) + len(value.encode()) for name, value in headers)) > MAX_HEADER_BYTES:
        raise ValueError(f"expected headers of at most {MAX_HEADER_BYTES:,} bytes, got {size:,}")
    # As for every other answer: with a content-type, and without a body if the status has none.
    return reply(Answer(int(made.status), headers, made.body), made.status)


def checked_header(name: object, value: object) -> Header:
    """A header that a reply may have, its name in lower case.

    Raises:
        ValueError: it may not; the text says why.
    """
    if not isinstance(name, str) or not TOKEN.fullmatch(name):
        raise ValueError(f"expected a header name, got {name!r}")
    if not isinstance(value, str) or CONTROL_IN_VALUE.search(value):
        raise ValueError(f"{name}: expected a string without line breaks and control characters, got {value!r}")
    if name.lower() in CONNECTION_HEADERS or name.lower() == "content-length":
        raise ValueError(f"the header {name} cannot be set by an answer")
    return name.lower(), value
