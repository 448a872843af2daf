"""What Envoys say to what they are given: told to the person who watches, to the history and to the metrics.

In: builds that were published, and events of the xDS server. Out: lines and counts. For one event loop. Whoever
connects can say as much as it likes, so all of it is bounded.
"""

from __future__ import annotations

import collections
import itertools
import logging
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, Final

from rejoinder.cli import console
from rejoinder.cli.history import History, Rejection
from rejoinder.cli.metrics import Metrics
from rejoinder.extproc.sparing import Sparing
from rejoinder.extproc.wire import PLACEMENT
from rejoinder.rules import log
from rejoinder.rules.counts import Kind, Tally
from rejoinder.rules.model import Position
from rejoinder.rules.program import needs_python
from rejoinder.xds.blame import blame
from rejoinder.xds.build import Build
from rejoinder.xds.counts import Counted
from rejoinder.xds.events import Connected, Disconnected, Event
from rejoinder.xds.forms import MODULE_SINCE, NO_MODULE
from rejoinder.xds.session import Accepted, Nack, Unable
from rejoinder.xds.translate import Placement

_LOG: Final = logging.getLogger("rejoinder.envoys")
_LOG.addFilter(Sparing(1000))  # as many Envoys as there may be, and more

KEPT_BUILDS: Final = 4

MOST_NAMED: Final = 3
"""How many rules are named that an Envoy without Python cannot use."""

OLDEST: Final = (1, 36)
"""The oldest Envoy that everything but the module is tested with (docs/deploy.md)."""

MOST_REFUSALS: Final = 100
"""Rejections that are printed of an edit: whoever connects can make as many as it likes."""


class Envoys:
    """
    Args:
        conditional: where answers to statuses are given.
        history: is told who has taken or rejected which edit.
        metrics: likewise.
    """

    def __init__(self, conditional: Placement, history: History, metrics: Metrics) -> None:
        self._conditional = conditional
        self._history = history
        self._metrics = metrics
        self._builds: dict[str, Build] = {}
        """What was published lately, by snapshot version: what an Envoy may still say something about."""
        self._published: dict[str, float] = {}
        """When, by `time.monotonic`; as `_builds`."""
        self._current: Build | None = None
        self._accepted: Build | None = None
        self._clients: dict[tuple[str, str], tuple[float, tuple[int, int] | None]] = {}
        """By node id and address: when they came, by `time.monotonic`, and their versions."""
        self.connected = 0
        """How many there are."""
        self.rejected = False
        """Whether one has rejected what was published last."""
        self.positions: Mapping[str, Position] = {}
        """Where the rules stand that are published, by their names."""
        self.routes: Mapping[str, Position] = {}
        """... the routes."""
        self.tally = Tally()
        """What was reported of rules and routes."""
        self.handler_failures: collections.Counter[str] = collections.Counter()
        """In the module, by rule."""
        self.events = 0
        """How many there were."""
        self._refusals = itertools.count(1)
        """Since the last edit."""

    def offer(self, build: Build) -> None:
        """Know of a build that may be published in a moment."""
        self._refusals = itertools.count(1)
        self._builds = {**self._builds, build.snapshot.version: build}
        for old in list(self._builds)[:-KEPT_BUILDS]:
            del self._builds[old]
        self._published = {kept: self._published.get(kept, time.monotonic()) for kept in self._builds}

    def published(self, build: Build) -> None:
        """Know of a build that was."""
        self._current, self.rejected = build, False
        self.positions = {rule.name: rule.position for rule in build.ruleset.rules}
        self.routes = {route.name: route.position for route in build.ruleset.routes}
        self.tally.keep(self.positions, self.routes)

    def has_accepted(self) -> bool:
        """Whether one has taken what was published last, or the same before."""
        return bool(
            self._accepted and self._current and self._accepted.snapshot.version == self._current.snapshot.version
        )

    def tell(self, event: Event) -> None:
        """Take what one says. Raises nothing."""
        self.events += 1
        try:
            self._tell(event)
        except Exception:
            _LOG.exception("about %s", type(event).__name__)

    def _tell(self, event: Event) -> None:
        if isinstance(event, Nack):
            self._metrics.rejected(event.node)
        match event:
            case Accepted(node, snapshot):
                extra = log.about("accepted", **self._fields(event), version=snapshot.version)
                _LOG.info("%s has %s", self._name(event), snapshot.version, extra=extra)
                if snapshot.version in self._published:
                    came, _ = self._clients.get((node, event.peer), (0.0, None))
                    self._metrics.pushed(max(self._published[snapshot.version], came))
                self._history.accepted(node, snapshot.version)
                self._accepted = self._builds.get(snapshot.version, self._accepted)
            case Nack() | Unable() if (number := next(self._refusals)) > MOST_REFUSALS:
                if number == MOST_REFUSALS + 1:
                    console.say("... further rejections are not printed before the next edit", "bold", event="nack")
            case Nack():
                self._on_nack(event)
            case Counted():
                self._count(event)
            case Connected(node, peer, envoy):
                self.connected += 1
                self._clients[node, peer] = time.monotonic(), envoy
                extra = log.about("connected", **self._fields(event))
                _LOG.info("%s has connected", self._name(event), extra=extra)
                if lacking := self.lacks(envoy):
                    text = f"{self._name(event)}: {lacking}"
                    console.say(text, "yellow", event="lacking", **self._fields(event))
            case Unable():
                text = f"{self._name(event)} {unable(event.message)}"
                console.say(text, "yellow", event="lacking", **self._fields(event))
            case Disconnected(node, peer):
                extra = log.about("disconnected", **self._fields(event))
                _LOG.info("%s has gone", self._name(event), extra=extra)
                self.connected -= 1
                self._clients.pop((node, peer), None)

    def _fields(self, event: Connected | Disconnected | Accepted | Nack | Unable) -> dict[str, str]:
        """Who it is, as far as is known."""
        _, envoy = self._clients.get((event.node, event.peer), (0.0, None))
        address = urllib.parse.unquote(event.peer.partition(":")[2])  # behind `ipv4:`; `unix:` has nothing there
        return {"node": event.node, "envoy": _dotted(envoy) if envoy else "", "peer": address}

    def _name(self, event: Connected | Disconnected | Accepted | Nack | Unable) -> str:
        """How lines call a client: by its node id, version and address."""
        node, envoy, address = self._fields(event).values()
        known = ", ".join(filter(None, (envoy and f"Envoy {envoy}", address)))
        return f"{node} ({known})" if known else node

    def _count(self, counted: Counted) -> None:
        for series, number in counted.answers:
            # Those of ext_proc are counted by who gives them.
            known = self.routes if series.kind is Kind.ROUTE else self.positions
            if series.rule in known and series.placement != PLACEMENT:
                self.tally.add(series, time.time(), number)
        for rule, number in counted.handler_failures:
            if rule in self.positions:
                self.handler_failures[rule] += number

    def lacks(self, envoy: tuple[int, int] | None) -> str:
        """What this version of Envoy cannot do; empty: nothing, as far as is known."""
        if envoy and envoy < OLDEST:
            return f"Rejoinder is made for {_dotted(OLDEST)} and newer"
        if envoy and envoy < MODULE_SINCE and self._conditional is Placement.MODULE:
            return f"the module needs {_dotted(MODULE_SINCE)}, so its answers come from ext_proc"
        return ""

    def _on_nack(self, nack: Nack) -> None:
        rejected = self._builds.get(nack.snapshot.version)
        places = blame(nack.message, rejected, self._accepted) if rejected else []
        what_now = ""
        if nack.instead:
            what_now = "going back to what it had before" if nack.had else "it gets what others have taken"
        elif rejected:
            what_now = "it goes on without that until the files say something else"
        said = f"{nack.type.name}: {nack.message}"
        self._history.rejected(nack.node, nack.snapshot.version, Rejection(said, tuple(places[:MOST_NAMED]), what_now))
        self.rejected |= rejected is not None and rejected is self._current
        about: dict[str, Any] = {"event": "nack", **self._fields(nack), "version": nack.snapshot.version}
        text = f"{self._name(nack)} rejects the {said}"
        console.say(text, "bold red", **about, places=[str(place) for place in places])
        for place in places:
            console.say(f"  about {place}", **about)
        for line in _python_needed(rejected) if rejected and NO_MODULE in nack.message else ():
            console.say(line, **about)
        if what_now:
            console.say(what_now, "bold", **about)


def unable(message: str) -> str:
    """What becomes of an Envoy that says this about the module."""
    return f"gets its answers from ext_proc, for it cannot use the module: {message}"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _python_needed(rejected: Build) -> Iterator[str]:
    """Why a module may reject a program: Envoy does not pass its words on."""
    wanting = [rule for rule in rejected.program.rules if needs_python(rule)]
    for rule in wanting[:MOST_NAMED]:
        yield f'  {rule.position}: rule "{rule.name}" needs Python in that Envoy, for a regular expression or a handler'
    if wanting:
        yield "  docs/module.md says which variables it has to be started with; or let it ask ext_proc"
