"""The ext_proc service: a gRPC server that answers for the rules that were last published.

In go rules (`Processor.publish`), out come bytes to the Envoys, and counts. All that is decided about one stream is
decided in `session`; here is the loop around it. One event loop, one task for each stream, which waits for Envoy and
for nothing else.

Whatever goes wrong here ends the stream and no more: Envoy then lets request and response pass.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from rejoinder.extproc import grpc
from rejoinder.extproc.grpc import Metadata, Step
from rejoinder.extproc.session import MAX_DRAINED, Output, Rules, Session
from rejoinder.extproc.wire import decode
from rejoinder.rules.answers import ROUTE_KEY, TABLE_KEY, AnswerTable
from rejoinder.rules.handlers import Handlers
from rejoinder.rules.model import Ruleset

_LOG: Final = logging.getLogger("rejoinder.extproc")

SERVICE: Final = "envoy.service.ext_proc.v3.ExternalProcessor"

GENERATIONS: Final = 8
"""How many sets of answer tables are kept: an Envoy that is slow to take a reload, or rejects it, and requests that are
under way name the tables of an earlier one."""

GRACE: Final = 0.5
"""Seconds that exchanges have to end when the service stops. The others wait for an upstream, maybe for minutes."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What has been done so far."""

    replies: Mapping[str, int]
    """By the name of the rule, or the route, that answered."""
    passed: int
    """Exchanges that came here and were let pass untouched."""
    unknown_tables: int
    """Of these, the ones for which Envoy named an answer table that is not here (any more)."""
    failures: int
    """Of these, the ones that made no sense or broke something; the log has each."""
    handler_failures: Mapping[str, int] = field(default_factory=dict)
    """Of these, the ones whose Python handler failed, by the name of the rule."""
    overloaded: int = 0
    """Of those that passed, the ones that would have been answered too late, or were too many."""
    connections: int = field(default=0, compare=False)
    """That are open now; so are `streams`."""
    streams: int = field(default=0, compare=False)


class Processor:
    """The service, for one event loop.

    processor = Processor()
    port = await processor.start("127.0.0.1:18001")
    processor.publish(ruleset, tables)
    ...
    await processor.stop()
    """

    def __init__(self, max_drained: int = MAX_DRAINED) -> None:
        """Args: max_drained: as in `session.Rules`."""
        self._max_drained = max_drained
        self._generations: collections.deque[dict[str, AnswerTable]] = collections.deque(maxlen=GENERATIONS)
        self._handlers = Handlers(_LOG.error)
        self._rules = Rules(Ruleset(), {}, handlers=self._handlers)
        self._replies: collections.Counter[str] = collections.Counter()
        self._handler_failures: collections.Counter[str] = collections.Counter()
        self._passed = self._unknown_tables = self._failures = 0
        self._reported: set[str] = set()
        """Unknown tables that the log has had already, since the last `publish`."""
        self._grpc = grpc.Server({f"/{SERVICE}/Process": self._open})

    async def start(self, address: str) -> int:
        """Listen.

        Args:
            address: `HOST:PORT`, IPv6 in brackets; port 0: any free one.

        Returns:
            The port.

        Raises:
            OSError: the address is in use or not this machine's; the text says which address. Choose another.
        """
        return await self._grpc.listen(address)

    async def stop(self) -> None:
        """End all streams and stop listening. Envoys let responses pass until there is a service again."""
        await self._grpc.stop(GRACE)

    def publish(self, ruleset: Ruleset, tables: Iterable[AnswerTable]) -> None:
        """Answer for these rules from now on; an exchange whose request was seen before keeps to the rules of then.

        Args:
            ruleset: for Envoys with a configuration of their own.
            tables: those that Envoys with a configuration from Rejoinder will be told to name. Publish them here before
                the Envoys hear of them. The tables of earlier calls stay available, GENERATIONS in all.
        """
        generation = {table.name: table for table in tables}
        if not self._generations or self._generations[-1].keys() != generation.keys():
            self._generations.append(generation)
        # A name stands for a table's content, so it does not matter which generation it is from.
        kept = {name: table for generation in self._generations for name, table in generation.items()}
        self._rules = Rules(ruleset, kept, self._max_drained, self._handlers)
        self._reported.clear()

    def counters(self) -> Counters:
        return Counters(
            replies=dict(self._replies),
            passed=self._passed + self._grpc.overloaded + self._grpc.failures,
            unknown_tables=self._unknown_tables,
            failures=self._failures + self._grpc.failures,
            handler_failures=dict(self._handler_failures),
            overloaded=self._grpc.overloaded,
            connections=len(self._grpc.connections),
            streams=self._grpc.streams,
        )

    def _open(self, metadata: Metadata) -> _Exchange:
        return _Exchange(self, self._session(metadata))

    def _step(self, session: Session, output: Output) -> Step:
        end = session.done or not output.message
        if end:
            self._count(output)  # before it is sent: who has a reply finds it counted
        return Step(output.message, end)

    def _count(self, output: Output) -> None:
        if output.failed is not None:
            self._handler_failures[output.failed] += 1
        if output.rule is None:
            self._passed += 1
        else:
            self._replies[output.rule] += 1

    def _session(self, metadata: Metadata) -> Session:
        said = {key: value for key, value in metadata if key in (TABLE_KEY, ROUTE_KEY)}
        name = said.get(TABLE_KEY)
        if name is None:
            return Session(self._rules)
        table = self._rules.tables.get(name)
        if table is None:
            self._unknown_tables += 1
            if name not in self._reported:
                self._reported.add(name)
                _LOG.warning("Envoy names an answer table that is not here, %s: responses pass", name)
        return Session(self._rules, table or AnswerTable(), said.get(ROUTE_KEY, ""))

    # Whatever happens, Envoy gets to go on.
    def _take(self, session: Session, data: bytes) -> Output:
        try:
            output = session.on_message(decode(data))
        except Exception:
            self._failures += 1
            _LOG.exception("an exchange passes untouched, because this went wrong")
            return Output()
        if output.unexpected is not None:
            self._failures += 1
            _LOG.warning("an exchange passes untouched: %s", output.unexpected)
        return output


class _Exchange:
    """A stream, as `grpc` wants it."""

    def __init__(self, processor: Processor, session: Session) -> None:
        self._processor = processor
        self._session = session

    def on_message(self, data: bytes) -> Step | Awaitable[Step]:
        if self._session.may_block:
            return self._in_a_thread(data)
        return self._processor._step(self._session, self._processor._take(self._session, data))

    async def _in_a_thread(self, data: bytes) -> Step:
        output = await asyncio.to_thread(self._processor._take, self._session, data)
        return self._processor._step(self._session, output)

    def on_end(self) -> None:
        """There is nobody to answer, and nothing to count."""
