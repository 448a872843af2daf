"""From files to what Envoys and the ext_proc service get: load, build, and say what has changed. May run in a thread.

In: rule files. Out: a `Made`, whatever the files hold and whatever goes wrong: nothing is raised.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rejoinder.cli.history import Changes, differences
from rejoinder.cli.last_good import Saved, UnusableError
from rejoinder.rules.files import Content, Files, Fingerprint
from rejoinder.rules.leftovers import Leftovers
from rejoinder.rules.load import Loaded, load
from rejoinder.rules.model import Position, Ruleset
from rejoinder.rules.problem import Problem, Severity
from rejoinder.rules.reload import Memory
from rejoinder.xds.build import Build, build
from rejoinder.xds.translate import Settings

_LOG: Final = logging.getLogger("rejoinder.control")

_UNKNOWN: Final[Fingerprint] = ""
"""Differs from the fingerprint of any content."""


@dataclass(frozen=True, slots=True)
class Made:
    """The result of one load."""

    built: Build | None
    """None: there are errors."""
    problems: tuple[Problem, ...]
    fingerprints: Mapping[Path, Fingerprint]
    """As in `Loaded`."""
    changes: Changes = field(default_factory=dict)
    """Compared with what was published last."""
    saved: Saved | None = None
    """What to keep of it; None: nothing, for there are errors."""
    failed: bool = False
    """For an internal reason, which is in the log."""
    again: bool = False
    """The same files may be usable in a moment."""


@dataclass(slots=True)
class Maker:
    """Makes builds of the same files, again and again. For one thread at a time."""

    sources: Sequence[Path]
    """Files and folders."""
    upstreams: Mapping[str, str]
    """URLs by name that replace those in the files."""
    settings: Settings
    """How Envoys reach us."""
    adjust: Callable[[Ruleset], Ruleset]
    """What the command line changes about a ruleset."""
    _memory: Memory = field(default_factory=Memory)
    _leftovers: Leftovers = field(default_factory=Leftovers)
    _good: Mapping[Path, Content] = field(default_factory=dict)
    """What files held when there was no error in them."""
    _folder: Path = field(default_factory=Path.cwd)
    """The working directory, as it is called now: it may be replaced, or go."""

    def make(self, before: Ruleset) -> Made:
        """Load and build.

        Args:
            before: what was published last.
        """
        files = Files(folder=self._folder)
        try:
            with no_garbage_collection():
                loaded = self._load(self.sources, files, self._memory)
                return self._made(loaded, before, self._saved(loaded, files) if loaded.ruleset else None)
        except Exception as error:
            _LOG.exception("the files cannot be used; the previous rules stay in force, and the next edit is followed")
            self._memory.forget_rules()  # it may have stopped half-way
            reason = f"this cannot be used, for a reason that is in the log: {type(error).__name__}: {error}"
            problems = (Problem(Position(str(self.sources[0]), 0), reason),)
            read = files.fingerprints()
            if read and not isinstance(error, OSError | MemoryError):
                return Made(None, problems, read, failed=True)
            unknown = dict.fromkeys((*read, *map(files.place, self.sources)), _UNKNOWN)
            return Made(None, problems, unknown, failed=True, again=True)

    def recall(self, saved: Saved) -> Callable[[], Made]:
        """Load a kept set, so that later loads find it as the state before them.

        Returns:
            A function that builds it.

        Raises:
            UnusableError: it cannot be used. Other exceptions are possible.
        """
        memory = Memory()
        for contents in saved.loads:
            loaded = self._load(saved.sources, Files(dict(contents), saved.folder, kept=True), memory)
        if loaded.ruleset is None:
            raise UnusableError(str(loaded.complaints[0]))
        self._memory, self._good = memory, saved.loads[0]
        return lambda: self._made(loaded, Ruleset(listeners=()), saved)

    def _load(self, sources: Sequence[Path], files: Files, memory: Memory) -> Loaded:
        return load(sources, upstreams=self.upstreams, memory=memory, look_for_shadowed=False, files=files)

    def _made(self, loaded: Loaded, before: Ruleset, saved: Saved | None) -> Made:
        if loaded.ruleset is None:
            return Made(None, loaded.complaints, loaded.fingerprints)
        built = build(self.adjust(loaded.ruleset), self.settings)
        self._leftovers.add(before.rules, built.ruleset.rules)
        return Made(built, loaded.complaints, loaded.fingerprints, differences(before, built.ruleset), saved)

    def _saved(self, loaded: Loaded, files: Files) -> Saved:
        """For a file with an error, earlier content may still be in force, so that content is part of the set."""
        errors = (complaint for complaint in loaded.complaints if complaint.severity is Severity.ERROR)
        wrong = {files.place(Path(error.position.file)) for error in errors}
        now = files.contents
        before = self._good
        self._good = {path: before.get(path, held) if path in wrong else held for path, held in now.items()}
        return Saved(tuple(self.sources), self._folder, (self._good, now) if wrong else (now,))


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """For a time in which many lasting objects are made: collecting among them would take a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
