"""The loop that `up` and `serve` share: load, build, publish, and again whenever the files change.

In: rule files. Out: a snapshot for Envoys and the program for the ext_proc service, swapped in one step, and lines for
the person who watches. A set with errors changes nothing; neither does one that Envoys reject, or one that cannot be
loaded, built or published for a mistake of ours or for lack of memory: `follow` raises nothing. I/O happens here.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rejoinder.cli import console
from rejoinder.cli.check import count
from rejoinder.cli.history import Changes, Edit, History, Rejection, differences
from rejoinder.cli.metrics import Metrics, State
from rejoinder.extproc import Workers
from rejoinder.extproc.sparing import Sparing
from rejoinder.extproc.wire import PLACEMENT
from rejoinder.rules.counts import RuleCounts, Tally, added
from rejoinder.rules.files import Files, Fingerprint
from rejoinder.rules.load import Loaded, load
from rejoinder.rules.model import Position, Ruleset
from rejoinder.rules.problem import Problem, Severity
from rejoinder.rules.program import needs_python
from rejoinder.rules.reload import Memory
from rejoinder.rules.shadow import shadowed
from rejoinder.rules.watch import changes
from rejoinder.xds.blame import blame
from rejoinder.xds.build import Build, build
from rejoinder.xds.counts import Counted
from rejoinder.xds.forms import MODULE_SINCE, NO_MODULE
from rejoinder.xds.server import Connected, Disconnected, Event, Server
from rejoinder.xds.session import Accepted, Nack, Unable
from rejoinder.xds.translate import Placement, Settings

_LOG: Final = logging.getLogger("rejoinder.control")
_LOG.addFilter(Sparing(1000))  # as many Envoys as there may be, and more

KEPT_BUILDS: Final = 4

MOST_NAMED: Final = 3
"""How many rules are named that an Envoy without Python cannot use."""

OLDEST: Final = (1, 36)
"""The oldest Envoy that everything but the module is tested with (docs/deploy.md)."""

MOST_PRINTED: Final = 100
"""Problems that are printed after an edit: more than anybody reads, and less than holds up answers."""

MOST_REFUSALS: Final = 100
"""Rejections that are printed of an edit: whoever connects can make as many as it likes."""

_UNKNOWN: Final[Fingerprint] = ""
"""Fits nothing."""

_WAITING: Final = "nothing is served until the files can be used: edit them; Ctrl-C ends"

RETRY_SECONDS: Final = 5.0
"""From a load that failed for lack of something (memory, file descriptors) to the next."""


@dataclass(frozen=True, slots=True)
class _Made:
    """What has become of the files at one time."""

    loaded: Loaded | None
    """None: this could not be found out."""
    built: Build | None
    """None: there are errors."""
    problems: tuple[Problem, ...]
    fingerprints: Mapping[Path, Fingerprint]
    """Of what was read; as in `Loaded`."""
    changes: Changes = field(default_factory=dict)
    """Between what was published last and this."""
    again: bool = False
    """The same files may well be usable in a moment."""


class Control:
    """One set of rule files, and the two servers that follow it. For one event loop.

    Args:
        sources: files and folders.
        upstreams: URLs by name that replace those in the files.
        settings: how Envoys reach us.
        adjust: what the command line changes about a ruleset.
    """

    def __init__(
        self,
        sources: Sequence[Path],
        upstreams: Sequence[tuple[str, str]],
        settings: Settings,
        *,
        processor: Workers,
        adjust: Callable[[Ruleset], Ruleset] = lambda ruleset: ruleset,
    ) -> None:
        self._sources = sources
        self._upstreams = dict(upstreams)
        self.settings = settings
        self._memory = Memory()
        self._adjust = adjust
        self.processor = processor
        self.server = Server(self._on_event)
        self._builds: dict[str, Build] = {}
        """What was published lately, by snapshot version: what an Envoy may still say something about."""
        self._accepted: Build | None = None
        self.current: Build | None = None
        """What was published last."""
        self.rejected = False
        """Whether an Envoy has rejected that."""
        self._usable = asyncio.Event()
        self._made: _Made | None = None
        self.problems: tuple[Problem, ...] = ()
        """Of the files as they are, whether they can be used or not."""
        self.shadowed: tuple[Problem, ...] = ()
        """Of `current`."""
        self.history = History()
        self.revision = 0
        """Another one when anything of this is another, or of what Envoys have."""
        self._reload_failures = 0
        self.metrics = Metrics(self._state)
        self._tally = Tally()
        """What Envoys have reported."""
        self._handler_failures: collections.Counter[str] = collections.Counter()
        """In the module, by rule, as Envoys have reported them."""
        self._published: dict[str, float] = {}
        """When, by `time.monotonic`; as `_builds`."""
        self._connected: dict[str, float] = {}
        """Likewise: when clients came, by their node ids."""
        self.positions: Mapping[str, Position] = {}
        """Where the rules stand that are published, by their names."""
        self._refusals = itertools.count(1)
        """Since the last edit."""

    def start(self) -> None:
        """Load and publish for the first time. If the files cannot be used, that is said, and `follow` waits for them.
        Envoys are told nothing meanwhile, and keep what they have."""
        with _no_garbage_collection():
            self._made = made = self._make()
            try:
                self._take(made)
                if made.built:
                    self._warn(shadowed(made.built.ruleset))
            except Exception:
                self._failed("what the files say cannot be published")
            gc.freeze()
        if self.current is None:
            console.say(_WAITING, "bold")

    async def usable(self) -> Build:
        """Wait until the files can be used."""
        await self._usable.wait()
        assert self.current is not None
        return self.current

    async def follow(self) -> None:
        """Publish every change of the files, for ever."""
        assert self._made is not None, "start comes first"
        # In a thread, as looking is: Envoys and their responses do not wait for it.
        async for made in changes(self._made, self._make):
            try:
                self._take(made)
                if made.built:
                    console.say(f"reloaded: {summary(made.built)}")
                    self._warn(await asyncio.to_thread(shadowed, made.built.ruleset))
                else:
                    console.say("not reloaded: what was there before stays" if self.current else _WAITING, "bold")
                    await asyncio.sleep(RETRY_SECONDS if made.again else 0)
            except Exception:
                self._failed("what the files say cannot be published")

    def counts(self) -> Mapping[str, RuleCounts]:
        """What rules have done, by their names; one that has done nothing is not there. May be called by any thread."""
        return self._state().counts.by_rule()

    def _state(self) -> State:
        counters = self.processor.counters()
        module = {(rule, Placement.MODULE.value): number for rule, number in self._handler_failures.items()}
        ext_proc = {(rule, PLACEMENT): number for rule, number in counters.handler_failures.items()}
        return State(
            counts=added([self._tally.counts(), counters.counts]),
            handler_failures=module | ext_proc,
            ext_proc=counters,
            problems=self.problems,
            ruleset=self.current.ruleset if self.current else Ruleset(),
            clients=self.server.status().clients,
            version=self.current.snapshot.version if self.current else "",
        )

    def status(self) -> dict[str, Any]:
        """What goes on, for the admin interface."""
        status, counters = self.server.status(), self.processor.counters()
        return {
            "version": status.version,
            "problems": [str(problem) for problem in self.problems],
            "reload_failures": self._reload_failures,
            "envoys": [
                {
                    "node": client.node,
                    "peer": client.peer,
                    "version": client.version,
                    "target": client.target,
                    "rejected": client.nack.message if client.nack else None,
                }
                for client in status.clients
            ],
            "ext_proc": {
                "replies": counters.counts.total(),
                "passed": counters.passed,
                "overloaded": counters.overloaded,
                "failures": counters.failures,
                "handler_failures": dict(counters.handler_failures),
                "observed": counters.counts.total(observed=True),
            },
        }

    def _make(self) -> _Made:
        """Load and build. Whatever is raised is our trouble, and not the rule author's: it is logged and counted."""
        files = Files()
        try:
            with _no_garbage_collection():
                loaded = load(
                    self._sources, upstreams=self._upstreams, memory=self._memory, look_for_shadowed=False, files=files
                )
                built = build(self._adjust(loaded.ruleset), self.settings) if loaded.ruleset else None
                before = self.current.ruleset if self.current else Ruleset()
                changed = differences(before, built.ruleset) if built else {}
                return _Made(loaded, built, loaded.complaints, loaded.fingerprints, changed)
        except Exception as error:
            self._failed("the files cannot be used")
            self._memory.forget_rules()  # who knows how far it got
            reason = f"this cannot be used, for a reason that is in the log: {type(error).__name__}: {error}"
            problems = (Problem(Position(str(self._sources[0]), 0), reason),)
            read = files.fingerprints()
            if read and not isinstance(error, OSError | MemoryError):
                return _Made(None, None, problems, read)
            unknown = dict.fromkeys((*read, *(source.absolute() for source in self._sources)), _UNKNOWN)
            return _Made(None, None, problems, unknown, again=True)

    def _failed(self, what: str) -> None:
        self._reload_failures += 1
        self.metrics.reloaded("failed")
        self.revision += 1
        _LOG.exception("%s; what was there before stays, and the next edit is followed", what)

    def _warn(self, warnings: Sequence[Problem]) -> None:
        self.shadowed = tuple(warnings)
        self.problems = (*self.problems, *warnings)
        self.revision += 1
        _print(warnings)

    def _take(self, made: _Made) -> None:
        self.problems = made.problems
        self.revision += 1
        _print(made.problems)
        edit = Edit(
            made.built.snapshot.version if made.built else "",
            sum(problem.severity is Severity.ERROR for problem in made.problems),
            made.changes,
        )
        self.history.edits.append(edit)
        if made.built is None:
            if made.loaded is not None:
                self.metrics.reloaded("refused")
            return
        self._refusals = itertools.count(1)
        version = made.built.snapshot.version
        self._builds = {**self._builds, version: made.built}
        for old in list(self._builds)[:-KEPT_BUILDS]:
            del self._builds[old]
        self._published = {kept: self._published.get(kept, time.monotonic()) for kept in self._builds}
        try:
            self.processor.publish(made.built.program)
            self.server.publish(made.built.snapshot)
        except Exception:
            if self.current:
                self.processor.publish(self.current.program)  # the two belong together
            raise
        self.current, self.rejected = made.built, False
        self.positions = {rule.name: rule.position for rule in made.built.ruleset.rules}
        self._tally.keep(self.positions)
        self.metrics.reloaded("ok")
        self._usable.set()

    def _on_event(self, event: Event) -> None:
        self.revision += 1
        try:
            self._tell(event)
        except Exception:
            _LOG.exception("about %s", type(event).__name__)

    def _tell(self, event: Event) -> None:
        if isinstance(event, Nack):
            self.metrics.rejected(event.node)
        match event:
            case Accepted(node, snapshot):
                _LOG.info("%s has %s", node, snapshot.version)
                if snapshot.version in self._published:
                    self.metrics.pushed(max(self._published[snapshot.version], self._connected.get(node, 0)))
                self.history.accepted(node, snapshot.version)
                self._accepted = self._builds.get(snapshot.version, self._accepted)
            case Nack() | Unable() if (number := next(self._refusals)) > MOST_REFUSALS:
                if number == MOST_REFUSALS + 1:
                    console.say("... further rejections are not printed before the next edit", "bold")
            case Nack():
                self._on_nack(event)
            case Counted():
                self._count(event)
            case Connected(node, peer, envoy):
                self._connected[node] = time.monotonic()
                _LOG.info("%s (%s%s) has connected", node, f"Envoy {_dotted(envoy)}, " if envoy else "", peer)
                if envoy and (lacking := self.lacks(envoy)):
                    console.say(f"{node} is Envoy {_dotted(envoy)}: {lacking}", "yellow")
            case Unable(node, message):
                console.say(f"{node} {unable(message)}", "yellow")
            case Disconnected(node, peer):
                self._connected.pop(node, None)
                _LOG.info("%s (%s) has gone", node, peer)

    def _count(self, counted: Counted) -> None:
        for series, number in counted.answers:
            # Those of ext_proc are counted by who gives them.
            if series.rule in self.positions and series.placement != PLACEMENT:
                self._tally.add(series, time.time(), number)
        for rule, number in counted.handler_failures:
            if rule in self.positions:
                self._handler_failures[rule] += number

    def lacks(self, envoy: tuple[int, int] | None) -> str:
        """What this version of Envoy cannot do; empty: nothing, as far as is known."""
        if envoy and envoy < OLDEST:
            return f"Rejoinder is made for {_dotted(OLDEST)} and newer"
        if envoy and envoy < MODULE_SINCE and self.settings.conditional is Placement.MODULE:
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
        self.history.rejected(nack.node, nack.snapshot.version, Rejection(said, tuple(places[:MOST_NAMED]), what_now))
        self.rejected |= rejected is not None and rejected is self.current
        console.say(f"{nack.node} rejects the {said}", "bold red")
        for place in places:
            console.say(f"  about {place}")
        for line in _python_needed(rejected) if rejected and NO_MODULE in nack.message else ():
            console.say(line)
        if what_now:
            console.say(what_now, "bold")


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


def _print(problems: Sequence[Problem]) -> None:
    if len(problems) > MOST_PRINTED:
        shown = sorted(problems, key=lambda problem: problem.severity is not Severity.ERROR)[:MOST_PRINTED]
        console.print_problems(shown)
        console.say(f"... these are {MOST_PRINTED} of {len(problems)}; `rejoinder check` prints all", "bold")
    else:
        console.print_problems(problems)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """While much is made that stays: the collector would walk it again and again, for a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def summary(built: Build) -> str:
    """A ruleset in a few words."""
    ruleset = built.ruleset
    return f"{count(len(ruleset.routes), 'route')}, {count(len(ruleset.rules), 'rule')}"
