"""One ext_proc stream, which is one HTTP exchange, as a state machine without I/O.

In go the messages of an Envoy (`Session.on_message`), as values of `wire`; out comes for each what to send back, to
count and to log. Nothing is raised for anything that an Envoy sends: what makes no sense passes. Whatever changes the
state of a stream is in this file.

The filter stands in the chain once for responses and, where rules answer without an upstream or by a handler, once more
in front of that for requests (docs/ext_proc.md). A stream of the first begins with the response's headers, and has what
rules need to know of the request as attributes. A stream of the second begins with the request's headers; a handler
wants all of them.

To let a request or a response pass, the stream is just ended: the protocol's way to say that nothing more is of
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
    """What is in force at one moment. A stream keeps to what it started with."""

    program: Program = field(default_factory=lambda: compile_rules(()))
    clock: Callable[[], str] = field(default=now, compare=False)
    """The time as RFC 3339 has it."""
    _ready: dict[tuple[int, int], bytes] = field(default_factory=dict, compare=False, repr=False)

    def ready(self, choice: Choice, status: int, asked: Asked) -> bytes:
        """The encoded reply that an answer of this program makes to an upstream's status."""
        if not choice.answer.fixed:
            return immediate(choice.reply(status, replace(asked, time=self.clock())), choice.rule)
        # The program keeps its choices. Most make the same reply whatever the upstream's status.
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
    """What the rules in front of it do."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """A page to ask a service for. `rejoinder.rules.remote` says what is sent if none comes."""

    remote: RemotePage
    headers: tuple[Header, ...]
    """What the service is told."""
    code: int
    """The status that the page is for."""
    choice: Choice
    asked: Asked
    seen: Seen
    """As in `Call`."""


@dataclass(slots=True)
class Output:
    """What a message leads to."""

    message: bytes = b""
    """To be sent: an encoded ProcessingResponse. Empty: nothing; the session is done, request and response pass."""
    rule: str | None = None
    """The rule that has answered; None: no reply."""
    status: int = 0
    """What is sent then; else, what is observed."""
    original_status: int = 0
    """The status of the response that it replaces; 0: no upstream is asked."""
    unexpected: str | None = None
    """What was wrong with the message, for the log; None: nothing."""
    seen: Seen = field(default_factory=Seen)
    """What rules do that give no answer."""
    call: Call | None = None
    """The handler to call; pass its reply to `Session.on_reply`."""
    fetch: Fetch | None = None
    """The page to ask for; pass it to `Session.on_page`."""


class State(enum.Enum):
    START = enum.auto()
    """The request is awaited, or the response."""
    RESPONSE = enum.auto()
    """The request is known, the response is awaited."""
    HANDLER = enum.auto()
    """A handler is awaited, or a page."""
    DONE = enum.auto()
    """The stream is to be ended."""


class Session:
    """One stream."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._state = State.START
        self._asked: RequestHeaders | None = None
        """The request, where a handler may want it."""

    @property
    def done(self) -> bool:
        """End the stream, with gRPC's status OK."""
        return self._state is State.DONE

    def on_message(self, message: Message) -> Output:
        """What a message leads to. Send that, then see whether the session is `done`."""
        step = TRANSITIONS[self._state].get(type(message))
        if step is None:
            self._state, state = State.DONE, self._state
            return Output(unexpected=f"expected headers ({state.name.lower()}), got {type(message).__name__}")
        self._state, output = step(self, message)
        return output

    def on_reply(self, call: Call, made: Reply | HandlerError | None) -> Output:
        """What the reply of a handler leads to, or its failure."""
        self._state = State.DONE
        if isinstance(made, Reply):
            return _answered(immediate(made, call.choice.rule), made.status, call.choice, call.asked, call.seen)
        if call.response is not None:
            return Output()  # the other stream is asked about it yet
        self._state = State.RESPONSE
        return Output(passing(call.seen, "request_headers") or PASS_REQUEST, seen=call.seen)

    def on_page(self, fetch: Fetch, page: Page | None) -> Output:
        """What the page of a service leads to, or that there is none."""
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
            return State.DONE, Output()  # the last: a rule has answered it already
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
            # Told when the request came, by the other stream, or, in Envoys of ours, by its route.
            seen.passed = "" if before.passed == seen.passed else seen.passed
        if choice is not None and not choice.answer.handler:
            return self._decided(choice, Asked(seen_request, route, came), seen)
        if asked is None:  # a handler is the matter of the stream that has seen the request, if there is one
            return State.DONE, _passed(came, seen)
        if choice is None:
            return State.DONE, Output()  # the other stream is asked, and tells who has observed it
        response = handlers.Response(message.status, _readable(message.headers))
        call = Call(_readable_request(asked), response, choice, Asked(seen_request, route, came), seen)
        return State.HANDLER, Output(call=call)

    # What an answer without a handler leads to.
    def _decided(self, choice: Choice, asked: Asked, seen: Seen) -> tuple[State, Output]:
        answer, came = choice.answer, asked.response
        status = came.status if came else 0
        if remote := asks(answer, status, asked):
            told = request(remote, answer, status, replace(asked, time=self._rules.clock()), choice.rule)
            return State.HANDLER, Output(fetch=Fetch(remote, told, answer.status_code or status, choice, asked, seen))
        if came and stays(answer, status, asked):
            return State.DONE, _passed(came, seen)
        made = self._rules.ready(choice, status, asked)
        return State.DONE, _answered(made, answer.status_code or status, choice, asked, seen)


Step = Callable[[Session, Any], tuple[State, Output]]
"""Of a table: Any, for the message of the type that it stands under."""

# What may come when, and what is done then. Anything else is answered by ending the stream.
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
    # Handlers get text that can be encoded again: a replacement character for what is no UTF-8.
    return tuple((name, value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")) for name, value in headers)
