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
from rejoinder.rules.files import Files, Fingerprint
from rejoinder.rules.load import load
from rejoinder.rules.model import Position, Ruleset
from rejoinder.rules.problem import Problem
from rejoinder.rules.reload import Memory
from rejoinder.xds.build import Build, build
from rejoinder.xds.translate import Settings

_LOG: Final = logging.getLogger("rejoinder.control")

_UNKNOWN: Final[Fingerprint] = ""
"""Fits nothing."""


@dataclass(frozen=True, slots=True)
class Made:
    """What has become of the files at one time."""

    built: Build | None
    """None: there are errors."""
    problems: tuple[Problem, ...]
    fingerprints: Mapping[Path, Fingerprint]
    """Of what was read; as in `Loaded`."""
    changes: Changes = field(default_factory=dict)
    """Between what was published last and this."""
    failed: bool = False
    """For a reason of ours, which is in the log."""
    again: bool = False
    """The same files may well be usable in a moment."""


class Maker:
    """Makes builds of the same files, again and again. For one thread at a time.

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
        adjust: Callable[[Ruleset], Ruleset],
    ) -> None:
        self._sources = sources
        self._upstreams = dict(upstreams)
        self._settings = settings
        self._adjust = adjust
        self._memory = Memory()

    def make(self, before: Ruleset) -> Made:
        """Load and build.

        Args:
            before: what was published last.
        """
        files = Files()
        try:
            with no_garbage_collection():
                loaded = load(
                    self._sources, upstreams=self._upstreams, memory=self._memory, look_for_shadowed=False, files=files
                )
                built = build(self._adjust(loaded.ruleset), self._settings) if loaded.ruleset else None
                changed = differences(before, built.ruleset) if built else {}
                return Made(built, loaded.complaints, loaded.fingerprints, changed)
        except Exception as error:
            _LOG.exception("the files cannot be used; what was there before stays, and the next edit is followed")
            self._memory.forget_rules()  # who knows how far it got
            reason = f"this cannot be used, for a reason that is in the log: {type(error).__name__}: {error}"
            problems = (Problem(Position(str(self._sources[0]), 0), reason),)
            read = files.fingerprints()
            if read and not isinstance(error, OSError | MemoryError):
                return Made(None, problems, read, failed=True)
            unknown = dict.fromkeys((*read, *(source.absolute() for source in self._sources)), _UNKNOWN)
            return Made(None, problems, unknown, failed=True, again=True)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """While much is made that stays: the collector would walk it again and again, for a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
