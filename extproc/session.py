"""One ext_proc stream, which is one HTTP exchange, as a state machine without I/O.

In: the messages of an Envoy (`Session.on_message`), as values of `wire`. Out, for each: what to send back, to count and
to log. Nothing that an Envoy sends raises an exception: on an unexpected message, the exchange passes. The state of a
stream is changed in this file only.

The filter stands in the chain once for responses. If rules answer without an upstream or by a handler, it stands there
once more, in front of that, for requests (docs/ext_proc.md). A stream of the response filter begins with the response's
headers, and has what rules need to know of the request as attributes. A stream of the request filter begins with the
request's headers, all of which a handler gets.

To let a request or a response pass, the stream is just ended: in the protocol, this means that nothing more is of
interest. https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/ext_proc/v3/external_processor.proto
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from rejoinder.extproc.wire import (
    PASS_REQUEST,
    Message,
    RequestHeaders,
    ResponseHeaders,
    immediate,
    marker,
    passing,
)
from rejoinder.rules import handlers
from rejoinder.rules.answers import Asked, Choice, Reply, sent_status
from rejoinder.rules.attributes import CODE_DETAILS, FINAL_DETAILS, ROUTE_NAME, VIA_UPSTREAM, client_of, request_of
from rejoinder.rules.handlers import HandlerError
from rejoinder.rules.model import Header, RemotePage
from rejoinder.rules.names import DETAILS
from rejoinder.rules.program import Program, Seen, compile_rules
from rejoinder.rules.remote import Page, asks, request, stays, with_page
from rejoinder.rules.request import LOCAL, UPSTREAM, Response, now, of_headers


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules that are in force at one moment. A stream keeps those with which it started."""

    program: Program = field(default_factory=lambda: compile_rules(()))
    clock: Callable[[], str] = field(default=now, compare=False)
    """The present time in the format of RFC 3339."""
    _ready: dict[tuple[int, int], bytes] = field(default_factory=dict, compare=False, repr=False)

    def ready(self, choice: Choice, status: int, asked: Asked) -> bytes:
        """The encoded reply of an answer of this program to an upstream's status."""
        if not choice.answer.fixed:
            return immediate(choice.reply(status, replace(asked, time=self.clock())), choice.rule)
        # The program keeps its choices. Most of them make the same reply for every upstream's status.
        key = (id(choice), status if choice.answer.status_code is None else 0)
        ready = self._ready.get(key)
        if ready is None:
            ready = self._ready[key] = immediate(choice.reply(status), choice.rule)
        return ready


@dataclass(frozen=True, slots=True)
class Call:
    """A Python handler to call."""

    request: handlers.Request
    response: handlers.Response | None
    choice: Choice
    asked: Asked
    seen: Seen
    """What the rules before it do."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """A page to request from a service. `rejoinder.rules.remote` says what is sent if there is none."""

    remote: RemotePage
    headers: tuple[Header, ...]
    """The headers of the request to the service."""
    code: int
    """The status that the page is for."""
    choice: Choice
    asked: Asked
    seen: Seen
    """As in `Call`."""


@dataclass(slots=True)
class Output:
    """The result of a message."""

    message: bytes = b""
    """To be sent: an encoded ProcessingResponse. Empty: nothing; the session is done, request and response pass."""
    rule: str | None = None
    """The rule that has answered; None: no reply."""
    status: int = 0
    """The status of the reply; without one, the status that is observed."""
    original_status: int = 0
    """The status of the response that the reply replaces; 0: no upstream is asked."""
    unexpected: str | None = None
    """What was unexpected in the message, for the log; None: nothing."""
    seen: Seen = field(default_factory=Seen)
    """What rules do that give no answer."""
    call: Call | None = None
    """The handler to call; pass its reply to `Session.on_reply`."""
    fetch: Fetch | None = None
    """The page to request; pass it to `Session.on_page`."""


class State(enum.Enum):
    START = enum.auto()
    """Waits for the request, or the response."""
    RESPONSE = enum.auto()
    """Knows the request, and waits for the response."""
    HANDLER = enum.auto()
    """Waits for a handler, or a page."""
    DONE = enum.auto()
    """The stream is to be ended."""


class Session:
    """One stream."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._state = State.START
        self._asked: RequestHeaders | None = None
        """The request, if a handler may want it."""

    @property
    def done(self) -> bool:
        """End the stream, with gRPC's status OK."""
        return self._state is State.DONE

    def on_message(self, message: Message) -> Output:
        """Handle a message. Send the output, then see whether the session is `done`."""
        step = TRANSITIONS[self._state].get(type(message))
        if step is None:
            self._state, state = State.DONE, self._state
            return Output(unexpected=f"expected headers ({state.name.lower()}), got {type(message).__name__}")
        self._state, output = step(self, message)
        return output

    def on_reply(self, call: Call, made: Reply | HandlerError | None) -> Output:
        """Handle the reply of a handler, or its failure."""
        self._state = State.DONE
        if isinstance(made, Reply):
            return _answered(immediate(made, call.choice.rule), made.status, call.choice, call.asked, call.seen)
        if call.response is not None:
            return Output()  # the response filter's stream will ask again
        self._state = State.RESPONSE
        return Output(passing(call.seen, "request_headers") or PASS_REQUEST, seen=call.seen)

    def on_page(self, fetch: Fetch, page: Page | None) -> Output:
        """Handle the page of a service; None: there is none."""
        self._state = State.DONE
        choice, asked, seen = fetch.choice, fetch.asked, fetch.seen
        came = asked.response
        if page is None and came is not None and stays(choice.answer, came.status, asked):
            return _passed(came, seen)
        reply = choice.reply(came.status if came else 0, replace(asked, time=self._rules.clock()))
        made = immediate(with_page(reply, page) if page else reply, choice.rule)
        return _answered(made, reply.status, choice, asked, seen)

    def _on_request(self, message: RequestHeaders) -> tuple[State, Output]:
        known, seen = message.attributes, Seen()
        asked = Asked(of_headers(message.headers, client_of(known)), known.get(ROUTE_NAME) or None)
        choice = self._rules.program.on_request(asked.request, asked.route, seen)
        self._asked = message
        if choice is not None and choice.answer.handler:
            return State.HANDLER, Output(call=Call(_readable_request(message), None, choice, asked, seen))
        if choice is not None:
            return self._decided(choice, asked, seen)
        if not self._rules.program.has_handlers:
            return State.DONE, Output(passing(seen, "request_headers"), seen=seen)
        return State.RESPONSE, Output(passing(seen, "request_headers") or PASS_REQUEST, seen=seen)

    def _on_response(self, message: ResponseHeaders) -> tuple[State, Output]:
        details = message.attributes.get(CODE_DETAILS, "")
        if details in FINAL_DETAILS or details.startswith(DETAILS):
            return State.DONE, Output()  # the end: a rule has answered already
        asked = self._asked
        seen_request = (
            request_of(message.attributes) if asked is None else of_headers(asked.headers, client_of(asked.attributes))
        )
        route = (message if asked is None else asked).attributes.get(ROUTE_NAME) or None
        came = Response(message.status, message.headers, UPSTREAM if details == VIA_UPSTREAM else LOCAL)
        seen, before = Seen(), Seen()
        choice = self._rules.program.on_status(seen_request, route, came, seen)
        if seen.passed:
            self._rules.program.on_request(seen_request, route, before)
            # Counted when the request came, by the other stream or, in Envoys of ours, by the request's route.
            seen.passed = "" if before.passed == seen.passed else seen.passed
        if choice is not None and not choice.answer.handler:
            return self._decided(choice, Asked(seen_request, route, came), seen)
        if asked is None:  # the stream that has seen the request, if there is one, calls the handler
            return State.DONE, _passed(came, seen)
        if choice is None:
            return State.DONE, Output()  # the other stream will be asked, and will report the observing rules
        response = handlers.Response(message.status, _readable(message.headers))
        call = Call(_readable_request(asked), response, choice, Asked(seen_request, route, came), seen)
        return State.HANDLER, Output(call=call)

    # The output for an answer without a handler.
    def _decided(self, choice: Choice, asked: Asked, seen: Seen) -> tuple[State, Output]:
        answer, came = choice.answer, asked.response
        status = came.status if came else 0
        if remote := asks(answer, status, asked):
            told = request(remote, answer, status, replace(asked, time=self._rules.clock()), choice.rule)
            return State.HANDLER, Output(fetch=Fetch(remote, told, answer.status(status), choice, asked, seen))
        if came and stays(answer, status, asked):
            return State.DONE, _passed(came, seen)
        made = self._rules.ready(choice, status, asked)
        return State.DONE, _answered(made, answer.status(status), choice, asked, seen)


Step = Callable[[Session, Any], tuple[State, Output]]
"""Of a table: Any stands for the message type in its key."""

# Which message may come when, and its method. For any other message, the stream is ended.
TRANSITIONS: Final[Mapping[State, Mapping[type[Message], Step]]] = {
    State.START: {RequestHeaders: Session._on_request, ResponseHeaders: Session._on_response},
    State.RESPONSE: {ResponseHeaders: Session._on_response},
    State.HANDLER: {},
    State.DONE: {},
}


def _answered(made: bytes, status: int, choice: Choice, asked: Asked, seen: Seen) -> Output:
    """A reply with this status is sent."""
    original, source = (asked.response.status, asked.response.source) if asked.response else (0, "")
    message = made + marker(choice.rule, original, source, tuple(seen.observed))
    return Output(message, choice.rule, sent_status(status, asked.request), original, seen=seen)


def _passed(came: Response, seen: Seen) -> Output:
    """A response goes on."""
    passed = passing(seen, "response_headers")
    return Output(passed, status=came.status, original_status=came.status, seen=seen)


def _readable_request(asked: RequestHeaders) -> handlers.Request:
    return handlers.request_of(_readable(asked.headers), asked.attributes.get(ROUTE_NAME, ""))


def _readable(headers: tuple[Header, ...]) -> tuple[Header, ...]:
    # Handlers get text that can be encoded again: bytes that are not UTF-8 become a replacement character.
    return tuple((name, value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")) for name, value in headers)
