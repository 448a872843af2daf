"""The ext_proc service: a gRPC server that answers for the last published rules.

In: rules (`Processor.publish`). Out: bytes to the Envoys, and counts. `session` decides everything about one stream;
this file is the loop around it. There is one event loop; Python handlers, which may take long, have threads of their
own (`calls`).

Every error here ends only its stream: Envoy then lets request and response pass.
"""

from __future__ import annotations

import collections
import functools
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from rejoinder.extproc import grpc
from rejoinder.extproc.calls import Calls
from rejoinder.extproc.exchange import Exchange, Next, Step
from rejoinder.extproc.pages import Pages
from rejoinder.extproc.session import Call, Fetch, Output, Rules, Session
from rejoinder.extproc.standard import methods
from rejoinder.extproc.wire import PLACEMENT, decode
from rejoinder.rules.counts import NONE, Counts, Kind, Series, Tally
from rejoinder.rules.handlers import HandlerError, Handlers
from rejoinder.rules.program import Program, services_asked
from rejoinder.transport import unix
from rejoinder.transport.sparing import Sparing
from rejoinder.transport.standard import Standard

_LOG: Final = logging.getLogger("rejoinder.extproc")
_LOG.addFilter(Sparing(20))

_PACKAGE: Final = "envoy.service.ext_proc.v3"
SERVICE: Final = f"{_PACKAGE}.ExternalProcessor"

GRACE: Final = 0.5
"""How many seconds exchanges have to end when the service stops. The others wait for an upstream, maybe for minutes."""


@dataclass(frozen=True, slots=True)
class Counters:
    """The counters of the service."""

    counts: Counts
    """What rules have done."""
    passed: int
    """Exchanges that passed."""
    failures: int
    """Those of them with an unexpected message, or an exception; each is logged."""
    handler_failures: Mapping[str, int] = field(default_factory=dict)
    """Those of them whose Python handler failed, by the name of the rule."""
    overloaded: int = 0
    """Exchanges that passed because they would have been answered too late, or were too many."""
    durations: tuple[int, ...] = field(default=(0,) * (len(grpc.BOUNDS) + 1), compare=False)
    """How many messages were answered within each of `grpc.BOUNDS` seconds, and how many took longer."""
    seconds: float = field(default=0.0, compare=False)
    """The sum of these times."""
    connections: int = field(default=0, compare=False)
    """Open now, as are `streams`."""
    streams: int = field(default=0, compare=False)


class Processor:
    """The service, for one event loop.

    processor = Processor()
    port = await processor.start("127.0.0.1:18001")
    processor.publish(compile_rules(ruleset.rules))
    ...
    await processor.stop()
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        """Args: tls: for TLS."""
        self._calls = Calls(Handlers(_LOG.error))
        self._pages = Pages()
        self._rules = Rules()
        self._tally = Tally()
        self._handler_failures: collections.Counter[str] = collections.Counter()
        self._passed = self._failures = 0
        self._standard = Standard(
            {SERVICE: {"Process": (f"{_PACKAGE}.ProcessingRequest", f"{_PACKAGE}.ProcessingResponse")}}
        )
        self._grpc = grpc.Server({f"/{SERVICE}/Process": self._open, **methods(self._standard)}, tls=tls)

    async def start(self, address: str, mode: int = unix.MODE, given: socket.socket | None = None) -> int:
        """Listen. Args, Returns, Raises: as for `grpc.Server.listen`."""
        return await self._grpc.listen(address, mode, given)

    async def stop(self) -> None:
        """End all streams and stop listening. Envoys let responses pass until there is a service again."""
        await self._grpc.stop(GRACE)
        await self._pages.close()

    def publish(self, program: Program) -> None:
        """Answer for these rules from now on; an exchange whose request was seen before keeps its earlier rules."""
        self._pages.prepare(services_asked(program))
        self._rules = Rules(program)
        self._tally.keep({rule.name for rule in program.rules})
        self._standard.serve()

    def counters(self) -> Counters:
        return Counters(
            counts=self._tally.counts(),
            passed=self._passed + self._grpc.overloaded + self._grpc.failures,
            failures=self._failures + self._grpc.failures,
            handler_failures=dict(self._handler_failures),
            overloaded=self._grpc.overloaded,
            durations=tuple(self._grpc.durations),
            seconds=self._grpc.seconds,
            connections=len(self._grpc.connections),
            streams=self._grpc.streams,
        )

    def _open(self) -> Exchange:
        return functools.partial(self._on_message, Session(self._rules))

    def _on_message(self, session: Session, data: bytes) -> Step | Awaitable[Next]:
        output = self._attempt(lambda: session.on_message(decode(data)))
        if output.call is not None:
            return self._handled(session, output.call)
        if output.fetch is not None:
            return Step(b"", False, then=functools.partial(self._fetched, session, output.fetch))
        return self._step(session, output)

    def _step(self, session: Session, output: Output) -> Step:
        end = session.done or not output.message
        self._count(output, end)  # before it is sent: a client that has a reply finds it counted
        return Step(output.message, end)

    async def _handled(self, session: Session, call: Call) -> Next:
        made = await self._calls.call(call.choice.answer.handler, call.request, call.response)
        if isinstance(made, HandlerError):
            self._handler_failures[call.choice.rule] += 1
        return lambda: self._step(session, self._attempt(lambda: session.on_reply(call, made)))

    async def _fetched(self, session: Session, fetch: Fetch) -> Next:
        page = await self._pages.ask(fetch.remote, fetch.headers, fetch.code)
        if page is None:
            self._tally.add(Series(fetch.choice.rule, PLACEMENT, NONE, NONE, Kind.NO_PAGE), time.time())
        return lambda: self._step(session, self._attempt(lambda: session.on_page(fetch, page)))

    def _count(self, output: Output, end: bool) -> None:
        now, statuses = time.time(), (str(output.original_status or NONE), str(output.status or NONE))
        for rule in output.seen.observed:
            self._tally.add(Series(rule, PLACEMENT, *statuses, Kind.OBSERVED), now)
        if output.seen.passed:
            self._tally.add(Series(output.seen.passed, PLACEMENT, *statuses, Kind.PASSED), now)
        if output.rule is not None:
            self._tally.add(Series(output.rule, PLACEMENT, *statuses), now)
        elif end:
            self._passed += 1

    # On any error, Envoy goes on.
    def _attempt(self, work: Callable[[], Output]) -> Output:
        try:
            output = work()
        except Exception:
            self._failures += 1
            _LOG.exception("an exchange passes untouched, because this went wrong")
            return Output()
        if output.unexpected is not None:
            self._failures += 1
            _LOG.warning("an exchange passes untouched: %s", output.unexpected)
        return output
