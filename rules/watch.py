"""Noticing that rule files have changed.

In: what was loaded, and how to load it again. Out: what is loaded after each change. This is a loop and does I/O.
Whether something has changed is decided by comparing what the files hold with what was read (`Loaded.fingerprints`),
never by what the operating system reports. Its reports only say when to look: a change between load and watch is seen
at once, and a touched file whose content is the same is no change.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from watchfiles import Change, awatch

from rejoinder.rules.files import fingerprint
from rejoinder.rules.load import Loaded

QUIET_MS: Final = 50
"""How long nothing may happen until a burst of changes counts as one: editors and `kubectl` take several steps."""

LONGEST_BURST_MS: Final = 500
"""A burst that does not end is looked at after this time: a log file in the same folder must not hold a change back."""

RETRY_SECONDS: Final = 1.0
"""How often to look where the operating system cannot watch (no inotify watches left)."""

MAX_LINKS: Final = 40
"""Symbolic links followed for one path, as many as Linux follows: a loop of them has no end."""


async def changes(loaded: Loaded, reload: Callable[[], Loaded]) -> AsyncGenerator[Loaded, None]:
    """Load again whenever the files that were read change, and yield what is loaded then, with or without errors.

        async for loaded in changes(loaded, lambda: load(sources)):
            ...

    Edits in place, renames over a file, swapped symbolic links, and files that appear or vanish are noticed, and so
    are changes made before this is called or while the caller is busy. To stop, leave the loop or cancel the task.

    Args:
        loaded: the load before; what it read is watched, and after a change what that load read, and so on.
        reload: called in a thread.
    """
    while True:
        await _until_changed(loaded)
        loaded = await asyncio.to_thread(reload)
        yield loaded


async def _until_changed(loaded: Loaded) -> None:
    while True:
        spots = await asyncio.to_thread(_spots, loaded.files)
        try:
            events = awatch(
                *spots.folders(),
                watch_filter=spots.concerned_by,
                recursive=False,
                debounce=LONGEST_BURST_MS,
                step=QUIET_MS,
            )
            async with aclosing(events):
                event = asyncio.ensure_future(anext(events))
                try:
                    await asyncio.sleep(0)  # runs `events` up to where it waits: from here on nothing is missed
                    if await asyncio.to_thread(_differs, loaded):
                        return
                    await event
                finally:
                    event.cancel()
                    await asyncio.gather(event, return_exceptions=True)
        except OSError:
            # A folder has just vanished, or the system has no watches left: look again in any case.
            await asyncio.sleep(RETRY_SECONDS)


def _differs(loaded: Loaded) -> bool:
    return any(fingerprint(path) != before for path, before in loaded.fingerprints.items())


# Where a change can make a path lead to something else.
@dataclass(slots=True)
class _Spots:
    entries: set[str] = field(default_factory=set)
    """Each step on the way to one of the paths, by its real path: a folder of rules may be renamed, what is missing may
    appear, and every link may be swapped."""
    listed: set[str] = field(default_factory=set)
    """Folders of rules: any entry counts."""

    def folders(self) -> list[str]:
        around = self.listed | {os.path.dirname(entry) for entry in self.entries}
        return sorted(folder for folder in around if os.path.isdir(folder) and os.access(folder, os.R_OK))

    def concerned_by(self, _: Change, path: str) -> bool:
        return path in self.entries or os.path.dirname(path) in self.listed


def _spots(paths: Iterable[Path]) -> _Spots:
    spots = _Spots()
    for path in paths:
        end = _follow(path, spots.entries)
        if os.path.isdir(end):
            spots.listed.add(end)
    return spots


# Notes every step from the root to where an absolute path leads in the end, which is returned.
def _follow(path: Path, entries: set[str]) -> str:
    at, ahead, links = "/", list(reversed(path.parts[1:])), 0
    while ahead and links <= MAX_LINKS:
        part = ahead.pop()
        if part == "..":
            at = os.path.dirname(at)
            continue
        step = os.path.join(at, part)
        entries.add(step)
        try:
            target = os.readlink(step)
        except (OSError, ValueError):  # no link; or not there, or not even a path
            at = step
        else:
            links += 1
            ahead.extend(
                reversed(Path(target).parts)
            )  # an absolute target starts with "/", which `join` starts anew from
    return at
