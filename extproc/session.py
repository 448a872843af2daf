"""One ext_proc stream, which is one HTTP exchange, as a state machine without I/O.

In go the messages of an Envoy (`Session.on_message`), as values of `wire`; out comes for each what to send back, to
count and to log. Nothing is raised for anything that an Envoy sends: what makes no sense passes. Whatever changes the
state of a stream is in this file.

There are two kinds of streams. On one of an Envoy that has its configuration from Rejoinder, Envoy's router has done
all the matching and names an answer table in the stream's metadata: the stream is about the response from its start,
unless the table has Python handlers, which want to see the request. On one of any other Envoy, the request comes first,
and `decide` finds the table.

To let a request or a response pass, the stream is just ended: the protocol's way to say that nothing more is of
interest. https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/ext_proc/v3/external_processor.proto
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from rejoinder.extproc.wire import (
    PASS_REQUEST,
    Message,
    RequestHeaders,
    ResponseHeaders,
    immediate,
    removal,
    replacement,
)
from rejoinder.rules import handlers
from rejoinder.rules.answers import AnswerTable, Choice, reply
from rejoinder.rules.decide import decide
from rejoinder.rules.handlers import HandlerError, Handlers
from rejoinder.rules.model import Header, Ruleset
from rejoinder.rules.request import Request, host_of
from rejoinder.xds.translate.settings import PATH_HEADER

_LOG: Final = logging.getLogger("rejoinder.extproc")

MAX_DRAINED: Final = 1 << 20
"""Bytes of an upstream's body that are read and thrown away so that its connection lives on. What is written over a
response ends when the response does, so this is also what a client may have to wait for."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A reply, with everything encoded that does not depend on the response whose place it takes."""

    immediate: bytes
    replacement: bytes


@dataclass(frozen=True, slots=True)
class Rules:
    """What is in force at one moment. A stream keeps to what it started with."""

    ruleset: Ruleset
    """For streams that name no answer table."""
    tables: Mapping[str, AnswerTable]
    """By name; with those of earlier rule sets that Envoys may not have let go of yet."""
    max_drained: int = MAX_DRAINED
    """In place of MAX_DRAINED; 0: every reply is an ImmediateResponse."""
    handlers: Handlers = field(default_factory=lambda: Handlers(_LOG.error), compare=False, repr=False)
    """The Python handlers of this process."""
    _ready: dict[tuple[Choice, int], Ready] = field(default_factory=dict, compare=False, repr=False)

    def ready(self, choice: Choice, status: int) -> Ready:
        """The reply that an answer makes to an upstream's status. The one place where an answer becomes bytes."""
        # Most answers make the same reply whatever the upstream's status.
        key = (choice, status if choice.answer.status_code is None else 0)
        ready = self._ready.get(key)
        if ready is None:
            made = reply(choice.answer, status)
            ready = self._ready[key] = Ready(immediate(made, choice.rule), replacement(made, choice.rule))
        return ready


@dataclass(frozen=True, slots=True)
class Output:
    """What a message leads to."""

    message: bytes = b""
    """To be sent: an encoded ProcessingResponse. Empty: nothing; the session is done, request and response pass."""
    rule: str | None = None
    """The rule, or the route, that has answered; None: no reply."""
    unexpected: str | None = None
    """What was wrong with the message, for the log; None: nothing."""
    failed: str | None = None
    """The rule whose handler has failed; None: none has."""


class State(enum.Enum):
    REQUEST = enum.auto()
    """The request is awaited."""
    RESPONSE = enum.auto()
    """The answer table is known, the response is awaited."""
    DONE = enum.auto()
    """All is said: the stream is to be ended."""


class Session:
    """One stream."""

    def __init__(self, rules: Rules, table: AnswerTable | None = None, route: str = "") -> None:
        """Args:
        table: the one that the stream names; None: it names none, `decide` is to be asked.
        route: the name of the rule file's route, if the stream names it.
        """
        self._rules = rules
        self._named = table is not None
        self._table = AnswerTable() if table is None else table
        self._route = route
        self._asked: handlers.Request | None = None
        """The request, where a handler may want it."""
        self._state = State.RESPONSE if self._named and not self._table.has_handlers else State.REQUEST

    @property
    def done(self) -> bool:
        """All is said: end the stream, with gRPC's status OK."""
        return self._state is State.DONE

    @property
    def may_block(self) -> bool:
        """The next message may be one for a handler, which takes as long as it takes."""
        return self._state is State.RESPONSE and self._table.has_handlers

    def on_message(self, message: Message) -> Output:
        """What a message leads to. Send that, then see whether the session is `done`."""
        step = TRANSITIONS[self._state].get(type(message))
        if step is None:
            self._state, state = State.DONE, self._state
            return Output(unexpected=f"expected the headers of a {state.name.lower()}, got {message}")
        self._state, output = step(self, message)
        return output

    def _on_request(self, message: RequestHeaders) -> tuple[State, Output]:
        if self._named:
            # In front of the router this one is still there.
            headers = (header for header in message.headers if header[0] != PATH_HEADER)
            self._asked = handlers.request_of(headers, self._route)
            return State.RESPONSE, Output(PASS_REQUEST)
        decision = decide(self._rules.ruleset, request_of(message.headers), route_name=message.route_name)
        if decision.reply is not None:
            decider = decision.rule or decision.route
            assert decider is not None, "a reply is some rule's or route's"
            return State.DONE, Output(immediate(decision.reply, decider.name), rule=decider.name)
        if not decision.table:
            return State.DONE, Output()
        self._table = decision.table
        if decision.table.has_handlers:
            route = decision.route.name if decision.route else message.route_name or ""
            self._asked = handlers.request_of(message.headers, route)
        return State.RESPONSE, Output(PASS_REQUEST)

    def _on_response(self, message: ResponseHeaders) -> tuple[State, Output]:
        choice = self._table.choose(message.status)
        if choice is None:
            return State.DONE, Output()
        if choice.answer.handler:
            try:
                ready = self._handled(choice, message)
            except HandlerError:
                return State.DONE, Output(failed=choice.rule)
            if ready is None:
                return State.DONE, Output()
        else:
            ready = self._rules.ready(choice, message.status)
        # A reply written over a response (CONTINUE_AND_REPLACE) keeps the upstream's connection: Envoy reads the body
        # and drops it as it comes. But the client's response ends only when that body does, and content-length is lost.
        # An ImmediateResponse has it, and is complete at once; but Envoy resets the upstream's stream, which costs an
        # HTTP/1.1 connection, unless the response has come in full: which is sure only if it ended with its headers (no
        # body, or HEAD). So: write over what has a body that is known to end soon. Figures: docs/ext_proc.md.
        length = message.content_length
        if message.end_of_stream or length is None or length > self._rules.max_drained:
            return State.DONE, Output(ready.immediate, rule=choice.rule)
        return State.DONE, Output(ready.replacement + removal(message.names), rule=choice.rule)

    def _handled(self, choice: Choice, message: ResponseHeaders) -> Ready | None:
        if self._asked is None:
            return None  # a filter in front has answered by itself
        response = handlers.Response(message.status, message.headers)
        made = self._rules.handlers.call(choice.answer.handler, self._asked, response)
        return None if made is None else Ready(immediate(made, choice.rule), replacement(made, choice.rule))


Step = Callable[[Session, Any], tuple[State, Output]]
"""Of a table: Any, for the message of the type that it stands under."""

# What may come when, and what is done then. Anything else is answered by ending the stream.
TRANSITIONS: Final[Mapping[State, Mapping[type[Message], Step]]] = {
    State.REQUEST: {
        RequestHeaders: Session._on_request,
        # A filter in front has answered by itself, so that the request never came here. The table is empty.
        ResponseHeaders: Session._on_response,
    },
    State.RESPONSE: {ResponseHeaders: Session._on_response},
    State.DONE: {},
}


def request_of(headers: tuple[Header, ...]) -> Request:
    """The request as `decide` wants it. The path is what this Envoy makes of it: nothing is normalized here."""
    pseudo = {name: value for name, value in headers if name.startswith(":")}
    authority = pseudo.get(":authority", "")
    path, mark, query = pseudo.get(":path", "").partition("?")
    return Request(
        method=pseudo.get(":method", ""),
        host=host_of(authority),
        path=path,
        query=query if mark else None,
        headers=tuple(header for header in headers if not header[0].startswith(":")),
        scheme=pseudo.get(":scheme", "http"),
        authority=authority,
    )
