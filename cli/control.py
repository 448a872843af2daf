"""The loop that `up` and `serve` share: load, build, publish, and again whenever the files change.

In: rule files. Out: a snapshot for Envoys and the program for the ext_proc service, swapped in one step, and lines for
the person who watches. Nothing changes for a set with errors, for one that Envoys reject, and for one that
cannot be loaded, built or published because of a bug or lack of memory: `follow` raises nothing. `making` loads and
builds, `envoys` has what Envoys report; what was published, and the present state, is here.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from rejoinder.cli import console
from rejoinder.cli.check import count
from rejoinder.cli.envoys import Envoys
from rejoinder.cli.history import Edit, History, in_words
from rejoinder.cli.last_good import LastGood, Saved
from rejoinder.cli.making import Made, Maker, no_garbage_collection
from rejoinder.cli.metrics import Metrics, State
from rejoinder.extproc import Workers
from rejoinder.extproc.wire import PLACEMENT
from rejoinder.rules.counts import Counts, Kind, added
from rejoinder.rules.model import Ruleset
from rejoinder.rules.problem import Problem, Severity
from rejoinder.rules.shadow import shadowed
from rejoinder.rules.watch import changes
from rejoinder.xds.build import Build
from rejoinder.xds.events import Event
from rejoinder.xds.server import Server
from rejoinder.xds.translate import Placement, Settings

_LOG: Final = logging.getLogger("rejoinder.control")

MOST_PRINTED: Final = 100
"""Problems that are printed after an edit: more than anybody reads, and few enough not to delay answers."""

_WAITING: Final = "nothing is served until the files can be used: edit them; Ctrl-C ends"

RETRY_SECONDS: Final = 5.0
"""Between a load that failed for lack of memory or file descriptors, and the next one."""


class Control:
    """One set of rule files, and the two servers that follow it. For one event loop.

    Args:
        sources, upstreams, settings, adjust: as for `Maker`.
        state: where the last good set is kept; None: nowhere.
    """

    def __init__(
        self,
        sources: Sequence[Path],
        upstreams: Sequence[tuple[str, str]],
        settings: Settings,
        *,
        processor: Workers,
        adjust: Callable[[Ruleset], Ruleset] = lambda ruleset: ruleset,
        state: Path | None = None,
    ) -> None:
        self.settings = settings
        self.processor = processor
        self.history = History()
        self.metrics = Metrics(self._state)
        self.envoys = Envoys(settings.conditional, self.history, self.metrics)
        self.server = Server(self._tell)
        self._maker = Maker(sources, dict(upstreams), settings, adjust)
        self.last_good = LastGood(state)
        self._made: Made | None = None
        self.current: Build | None = None
        """What was published last."""
        self._saved: Saved | None = None
        """The files that `current` was made of."""
        self._usable = asyncio.Event()
        self.problems: tuple[Problem, ...] = ()
        """Of the present files, whether they can be used or not."""
        self.shadowed: tuple[Problem, ...] = ()
        """Of `current`."""
        self._edits = 0
        self._reload_failures = 0

    def start(self) -> None:
        """Load and publish for the first time. If the files cannot be used, that is reported, and the last good set is
        served until they can. If there is none, `follow` waits; meanwhile Envoys get nothing, and keep what they
        have."""
        with no_garbage_collection():
            kept = self.last_good.read(self._maker.recall)
            made = self._make()
            self._made = made = replace(made, problems=(*made.problems, *self.last_good.problems))
            try:
                self._take(made)
                if made.built:
                    self._warn(shadowed(made.built.ruleset))
            except Exception:
                self._failed("what the files say cannot be published")
            if kept and self.current is None:
                self._serve(*kept)
            gc.freeze()
        if self.current is None:
            console.say(_WAITING, "bold", event="waiting")

    async def usable(self) -> Build:
        """Wait until the files can be used."""
        await self._usable.wait()
        assert self.current is not None
        return self.current

    def _serve(self, when: str, build: Callable[[], Made]) -> None:
        """Serve what was kept."""
        try:
            made = build()
            self._publish(made)
        except Exception:
            self._failed("what was kept cannot be published")
            return
        self.last_good.served = when
        self.history.edits.append(Edit(self.current.snapshot.version if self.current else "", 0, made.changes))
        text = f"THE FILES CANNOT BE USED: serving the last good set, of {when}, as kept in {self.last_good.folder}"
        console.say(f"{text}; the files are followed as soon as they can be used", "bold red", event="last_good")

    async def follow(self) -> None:
        """Publish every change of the files, for ever."""
        assert self._made is not None, "start comes first"
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.last_good.keep())
            # In a thread, like looking for changes: Envoys and their responses do not wait for it.
            async for made in changes(self._made, self._make):
                try:
                    await self._reloaded(made)
                except Exception:
                    self._failed("what the files say cannot be published")

    async def _reloaded(self, made: Made) -> None:
        self._take(made)
        if made.built:
            changed = in_words(made.changes, made.built.ruleset) or "nothing changed"
            version = made.built.snapshot.version
            console.say(f"reloaded: {summary(made.built)}; {changed}", event="reload", version=version)
            self._warn(await asyncio.to_thread(shadowed, made.built.ruleset))
        else:
            text = "not reloaded: the previous rules stay in force" if self.current else _WAITING
            console.say(text, "bold", event="not_reloaded" if self.current else "waiting")
            await asyncio.sleep(RETRY_SECONDS if made.again else 0)

    @property
    def revision(self) -> int:
        """Changes with the files, with what is served, and with each event of an Envoy."""
        return self._edits + self.envoys.events

    @property
    def exit_code(self) -> int:
        """The exit code, if the command ended now: 1 where the last good set is served in place of the files."""
        return 1 if self.last_good.served else 0

    def counts(self) -> Counts:
        """What rules and routes have done. May be called by any thread."""
        return self._state().counts

    def _state(self) -> State:
        counters = self.processor.counters()
        module = {(rule, Placement.MODULE.value): number for rule, number in self.envoys.handler_failures.items()}
        ext_proc = {(rule, PLACEMENT): number for rule, number in counters.handler_failures.items()}
        return State(
            counts=added([self.envoys.tally.counts(), counters.counts]),
            handler_failures=module | ext_proc,
            ext_proc=counters,
            problems=self.problems,
            ruleset=self.current.ruleset if self.current else Ruleset(),
            clients=self.server.status().clients,
            version=self.current.snapshot.version if self.current else "",
            serves_last_good=bool(self.last_good.served),
            cannot_keep=bool(self.last_good.trouble),
        )

    def status(self) -> dict[str, Any]:
        """The present state, for the admin interface."""
        status, counters = self.server.status(), self.processor.counters()
        return {
            "version": status.version,
            "problems": [str(problem) for problem in self.problems],
            "reload_failures": self._reload_failures,
            "last_good": {
                "kept_in": str(self.last_good.folder) if self.last_good.folder else None,
                "served": self.last_good.served or None,
                "trouble": self.last_good.trouble or None,
            },
            "envoys": [
                {name: getattr(client, name) for name in ("node", "peer", "streams", "version", "target")}
                | {"rejected": client.nack.message if client.nack else None}
                for client in status.clients
            ],
            "ext_proc": {
                "replies": counters.counts.total(),
                **{name: getattr(counters, name) for name in ("passed", "overloaded", "failures")},
                "handler_failures": dict(counters.handler_failures),
                "observed": counters.counts.total(Kind.OBSERVED),
            },
        }

    def _make(self) -> Made:
        return self._maker.make(self.current.ruleset if self.current else Ruleset(listeners=()))

    def _failed(self, what: str) -> None:
        self._reload_failures += 1
        self.metrics.reloaded("failed")
        self._edits += 1
        _LOG.exception("%s; the previous rules stay in force, and the next edit is followed", what)

    def _warn(self, warnings: Sequence[Problem]) -> None:
        self.shadowed = tuple(warnings)
        self.problems = (*self.problems, *warnings)
        self._edits += 1
        _print(warnings)

    def _take(self, made: Made) -> None:
        self.problems = made.problems
        self._edits += 1
        _print(made.problems)
        edit = Edit(
            made.built.snapshot.version if made.built else "",
            sum(problem.severity is Severity.ERROR for problem in made.problems),
            made.changes,
        )
        self.history.edits.append(edit)
        if made.built is None:
            self.metrics.reloaded("failed" if made.failed else "refused")
            self._reload_failures += made.failed
            return
        self._publish(made)
        self.last_good.served = ""
        self.metrics.reloaded("ok")

    def _publish(self, made: Made) -> None:
        assert made.built is not None
        self.envoys.offer(made.built)
        try:
            self.processor.publish(made.built.program)
            self.server.publish(made.built.snapshot)
        except Exception:
            if self.current:
                self.processor.publish(self.current.program)  # the two belong together
            raise
        self.current, self._saved = made.built, made.saved
        self.envoys.published(made.built)
        self._judge()
        self._usable.set()

    def _tell(self, event: Event) -> None:
        self.envoys.tell(event)
        self._judge()

    def _judge(self) -> None:
        """Let the set in force be kept, or not, depending on what Envoys say about it."""
        if self._saved is None:
            return
        if self.envoys.has_accepted():
            self.last_good.accepted(self._saved)
        elif self.envoys.rejected:
            self.last_good.rejected(self._saved)
        elif not self.envoys.clients:
            self.last_good.unseen(self._saved)


def _print(problems: Sequence[Problem]) -> None:
    shown = sorted(problems, key=lambda problem: problem.severity is not Severity.ERROR)[:MOST_PRINTED]
    console.print_problems(problems if len(shown) == len(problems) else shown)
    if len(shown) < len(problems):
        text = f"... these are {MOST_PRINTED} of {len(problems)}; `rejoinder check` prints all"
        console.say(text, "bold", event="problem")


def summary(built: Build) -> str:
    """A ruleset in a few words."""
    ruleset = built.ruleset
    return f"{count(len(ruleset.routes), 'route')}, {count(len(ruleset.rules), 'rule')}"
