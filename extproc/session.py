"""One ext_proc stream, which is one HTTP exchange, as a state machine without I/O.

In go the messages of an Envoy (`Session.on_message`), as values of `wire`; out comes for each what to send back, to
count and to log. Nothing is raised for anything that an Envoy sends: what makes no sense passes. Whatever changes the
state of a stream is in this file.

There are two kinds of streams. On one of an Envoy that has its configuration from Rejoinder, Envoy's router has done
all the matching and names an answer table in the stream's metadata: the stream is about the response from its start. On
one of any other Envoy, the request comes first, and `decide` finds the table.

To let a request or a response pass, the stream is just ended: the protocol's way to say that nothing more is of
interest. https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/ext_proc/v3/external_processor.proto
"""

from __future__ import annotations

import enum
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
from rejoinder.rules.answers import AnswerTable, Choice, reply
from rejoinder.rules.decide import decide
from rejoinder.rules.model import Header, Ruleset
from rejoinder.rules.request import Request, host_of

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


class State(enum.Enum):
    REQUEST = enum.auto()
    """The request is awaited."""
    RESPONSE = enum.auto()
    """The answer table is known, the response is awaited."""
    DONE = enum.auto()
    """All is said: the stream is to be ended."""


class Session:
    """One stream."""

    def __init__(self, rules: Rules, table: AnswerTable | None = None) -> None:
        """Args: table: the one that the stream names; None: it names none, `decide` is to be asked."""
        self._rules = rules
        self._table = AnswerTable() if table is None else table
        self._state = State.REQUEST if table is None else State.RESPONSE

    @property
    def done(self) -> bool:
        """All is said: end the stream, with gRPC's status OK."""
        return self._state is State.DONE

    def on_message(self, message: Message) -> Output:
        """What a message leads to. Send that, then see whether the session is `done`."""
        step = TRANSITIONS[self._state].get(type(message))
        if step is None:
            self._state, state = State.DONE, self._state
            return Output(unexpected=f"expected the headers of a {state.name.lower()}, got {message}")
        self._state, output = step(self, message)
        return output

    def _on_request(self, message: RequestHeaders) -> tuple[State, Output]:
        decision = decide(self._rules.ruleset, request_of(message.headers), route_name=message.route_name)
        if decision.reply is not None:
            decider = decision.rule or decision.route
            assert decider is not None, "a reply is some rule's or route's"
            return State.DONE, Output(immediate(decision.reply, decider.name), rule=decider.name)
        if not decision.table:
            return State.DONE, Output()
        self._table = decision.table
        return State.RESPONSE, Output(PASS_REQUEST)

    def _on_response(self, message: ResponseHeaders) -> tuple[State, Output]:
        choice = self._table.choose(message.status)
        if choice is None:
            return State.DONE, Output()
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
