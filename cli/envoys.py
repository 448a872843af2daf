"""What Envoys report about the configurations that they get: for the log, the history and the metrics.

In: builds that were published, and events of the xDS server. Out: lines and counts. For one event loop. A client may
send any amount, so everything that is kept is bounded.
"""

from __future__ import annotations

import collections
import itertools
import logging
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from rejoinder.cli import console
from rejoinder.cli.history import History, Rejection
from rejoinder.cli.metrics import Metrics
from rejoinder.extproc.wire import PLACEMENT
from rejoinder.rules import log
from rejoinder.rules.counts import Kind, Tally
from rejoinder.rules.model import Position, printable
from rejoinder.rules.program import needs_python
from rejoinder.transport.sparing import Sparing
from rejoinder.xds.blame import blame
from rejoinder.xds.build import Build
from rejoinder.xds.counts import Counted
from rejoinder.xds.events import Accepted, Connected, Disconnected, Event, Nack, Unable
from rejoinder.xds.forms import MODULE_SINCE, NO_MODULE
from rejoinder.xds.translate import Placement

_LOG: Final = logging.getLogger("rejoinder.envoys")
_LOG.addFilter(Sparing(1000))  # as many Envoys as there may be, and more

KEPT_BUILDS: Final = 4

MOST_NAMED: Final = 3
"""Of the rules that an Envoy without Python cannot use, how many are named."""

OLDEST: Final = (1, 36)
"""The oldest Envoy that everything but the module is tested with (docs/deploy.md)."""

LONGEST_WORDS: Final = 200
"""Of Envoy's message about the module, in characters."""

MOST_REFUSALS: Final = 100
"""Rejections that are printed after an edit: a client can send any number."""


@dataclass(slots=True)
class _Client:
    """An Envoy, which may have a stream for each filter or type. What it reports on all of them is printed once."""

    envoy: tuple[int, int] | None = None
    """Its version."""
    came: float = field(default_factory=time.monotonic)
    streams: int = 1
    version: str = ""
    """What was accepted last."""
    accepted: int = 0
    """The number of streams on which it was accepted."""
    told: str = ""
    """The last version whose acceptance was logged."""
    unable: bool = False
    """It was logged that this Envoy cannot use the module."""


@dataclass(slots=True)
class Envoys:
    conditional: Placement
    """Where answers to statuses are given."""
    history: History
    """Records which Envoy has accepted or rejected which edit."""
    metrics: Metrics
    """Count rejections, and measure the time until a version is accepted."""
    rejected: bool = False
    """Whether an Envoy has rejected what was published last."""
    positions: Mapping[str, Position] = field(default_factory=dict)
    """The positions of the published rules, by name."""
    routes: Mapping[str, Position] = field(default_factory=dict)
    """The positions of the published routes, by name."""
    tally: Tally = field(default_factory=Tally)
    """What was reported of rules and routes."""
    handler_failures: collections.Counter[str] = field(default_factory=collections.Counter)
    """In the module, by rule."""
    events: int = 0
    """The number of events so far."""
    clients: dict[tuple[str, str], _Client] = field(default_factory=dict)
    """The connected Envoys, by node id and address."""
    _builds: dict[str, tuple[Build, float]] = field(default_factory=dict)
    """The latest builds, and when each was published (`time.monotonic`), by snapshot version: an Envoy may still
    report something about them."""
    _current: Build | None = None
    _accepted: Build | None = None
    _refusals: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    """Since the last edit."""

    def offer(self, build: Build) -> None:
        """Take a build that is about to be published."""
        self._refusals = itertools.count(1)
        version = build.snapshot.version
        _, when = self._builds.get(version, (build, time.monotonic()))
        self._builds = dict([*{**self._builds, version: (build, when)}.items()][-KEPT_BUILDS:])

    def published(self, build: Build) -> None:
        """Take the build that is published now."""
        self._current, self.rejected = build, False
        self.positions = {rule.name: rule.position for rule in build.ruleset.rules}
        self.routes = {route.name: route.position for route in build.ruleset.routes}
        self.tally.keep(self.positions, self.routes)

    def has_accepted(self) -> bool:
        """Whether an Envoy has accepted what was published last, or the same content before."""
        accepted, current = self._accepted, self._current
        return bool(accepted and current and accepted.snapshot.version == current.snapshot.version)

    def tell(self, event: Event) -> None:
        """Take an event of an Envoy. Raises nothing."""
        self.events += 1
        try:
            self._tell(event)
        except Exception:
            _LOG.exception("about %s", type(event).__name__)

    def _tell(self, event: Event) -> None:
        if isinstance(event, Counted):
            self._count(event)
            return
        client = self.clients.get((event.node, event.peer), _Client())
        if isinstance(event, Nack):
            self.metrics.rejected(event.node)
            client.told = client.version = ""
        about = _about(event, event.envoy if isinstance(event, Connected) else client.envoy)
        name = _name(**about)
        match event:
            case Accepted(snapshot=snapshot):
                self._on_accepted(client, snapshot.version, name, about)
            case Nack() | Unable() if (number := next(self._refusals)) > MOST_REFUSALS:
                if number == MOST_REFUSALS + 1:
                    console.say("... further rejections are not printed before the next edit", "bold", event="nack")
            case Nack():
                self._on_nack(event, name, about)
            case Connected(node, peer) if (node, peer) in self.clients:
                client.streams += 1
            case Connected(node, peer, envoy):
                self.clients[node, peer] = _Client(envoy)
                _LOG.info("%s has connected", name, extra=log.about("connected", **about))
                if lacking := self.lacks(envoy):
                    console.say(f"{name}: {lacking}", "yellow", event="lacking", **about)
            case Unable() if not client.unable:
                client.unable = True
                console.say(f"{name} {unable(event.message)}", "yellow", event="lacking", **about)
            case Disconnected() if client.streams > 1:
                client.streams -= 1
            case Disconnected(node, peer):
                _LOG.info("%s has gone", name, extra=log.about("disconnected", **about))
                self.clients.pop((node, peer), None)

    def _on_accepted(self, client: _Client, version: str, name: str, who: Mapping[str, str]) -> None:
        client.accepted = client.accepted + 1 if client.version == version else 1
        client.version = version
        if client.accepted < client.streams or client.told == version:
            return
        client.told = version
        _LOG.info("%s accepted version %s", name, version, extra=log.about("accepted", **who, version=version))
        self.history.accepted(who["node"], version)
        if version in self._builds:
            self._accepted, published = self._builds[version]
            self.metrics.pushed(max(published, client.came))

    def _count(self, counted: Counted) -> None:
        for series, number in counted.answers:
            # Answers of ext_proc are counted by the service itself.
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
        if envoy and envoy < MODULE_SINCE and self.conditional is Placement.MODULE:
            return f"the module needs {_dotted(MODULE_SINCE)}, so its answers come from ext_proc"
        return ""

    def _on_nack(self, nack: Nack, name: str, who: Mapping[str, str]) -> None:
        rejected, _ = self._builds.get(nack.snapshot.version, (None, 0.0))
        places = blame(nack.message, rejected, self._accepted) if rejected else []
        what_now = ""
        if nack.instead:
            what_now = "going back to what it had before" if nack.had else "it gets what others have taken"
        elif rejected:
            what_now = "it goes on without that until the files say something else"
        said = f"{nack.type.name}: {nack.message}"
        self.history.rejected(nack.node, nack.snapshot.version, Rejection(said, tuple(places[:MOST_NAMED]), what_now))
        self.rejected |= rejected is not None and rejected is self._current
        about: dict[str, Any] = {"event": "nack", **who, "version": nack.snapshot.version}
        console.say(f"{name} rejects the {said}", "bold red", **about, places=[str(place) for place in places])
        for place in places:
            console.say(f"  about {place}", **about)
        for line in _python_needed(rejected) if rejected and NO_MODULE in nack.message else ():
            console.say(line, **about)
        if what_now:
            console.say(what_now, "bold", **about)


def _about(event: Connected | Disconnected | Accepted | Nack | Unable, envoy: tuple[int, int] | None) -> dict[str, str]:
    """The client's name and address, as far as they are known."""
    address = urllib.parse.unquote(event.peer.partition(":")[2])  # behind `ipv4:`; `unix:` has nothing there
    return {"node": event.node, "envoy": _dotted(envoy) if envoy else "", "peer": address}


def _name(node: str, envoy: str, peer: str) -> str:
    """The name of a client in lines: its node id, version and address."""
    known = ", ".join(filter(None, (envoy and f"Envoy {envoy}", peer)))
    return f"{node} ({known})" if known else node


def unable(message: str) -> str:
    """What becomes of an Envoy that says this about the module, and what helps."""
    words = printable(message.rpartition("Failed to load dynamic module: ")[2], LONGEST_WORDS)  # once for each attempt
    return (
        f"gets its answers from ext_proc, because it cannot use the module: {words}: start it with "
        "ENVOY_DYNAMIC_MODULES_SEARCH_PATH and what docs/module.md says, or have `serve --conditional ext_proc`"
    )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _python_needed(rejected: Build) -> Iterator[str]:
    """Why a module may reject a program: Envoy does not report the reason."""
    wanting = [rule for rule in rejected.program.rules if needs_python(rule)]
    for rule in wanting[:MOST_NAMED]:
        yield f'  {rule.position}: rule "{rule.name}" needs Python in that Envoy, for a regular expression or a handler'
    if wanting:
        yield "  docs/module.md says which variables it has to be started with; or let it ask ext_proc"
