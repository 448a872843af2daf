"""Noticing that rule files have changed.

In: the result of a load, and a function that loads again. Out: the result after each change. This is a loop and does
I/O. Changes are found by comparing the files with what was read (`Loaded.fingerprints`), never by reports of the
operating system, which only say when to look. So a change between load and watch is seen at once, and a touched file
with the same content is no change. Changes without a report (on some network file systems, or when the limits of
inotify are reached) are found by looking regularly.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol, TypeVar

from rejoinder.rules.files import SUFFIXES, Fingerprint, fingerprint
from rejoinder.rules.inotify import Wanted, reports

_LOG: Final = logging.getLogger("rejoinder.watch")

QUIET_SECONDS: Final = 0.05
"""A burst of changes ends after this time without a change: editors and `kubectl` take several steps."""

LONGEST_BURST_SECONDS: Final = 0.5
"""After this time, changes are looked at although the burst goes on: a file that is written all the time must not
delay them."""

LOOK_SECONDS: Final = 5.0
"""How often to look although nothing was reported."""

UNWATCHED_SECONDS: Final = 1.0
"""How often to look if the operating system cannot watch (no inotify instances or file descriptors left)."""

MAX_LINKS: Final = 40
"""Symbolic links followed for one path, as many as Linux follows: a loop of them has no end."""


class Read(Protocol):
    """A `Loaded`, or a result made of one."""

    @property
    def fingerprints(self) -> Mapping[Path, Fingerprint]: ...


R = TypeVar("R", bound=Read)


async def changes(loaded: R, reload: Callable[[], R]) -> AsyncGenerator[R, None]:
    """Load again whenever the files change, and yield the result, with or without errors.

        async for loaded in changes(loaded, lambda: load(sources)):
            ...

    This notices edits in place, renames over a file, swapped symbolic links, and files that appear or vanish; also
    changes before the call or while the caller is busy. To stop, leave the loop or cancel the task. Trouble with
    watching is logged, and never ends it.

    Args:
        loaded: the last load; its files are watched, and after a change those of the new load, and so on.
        reload: called in a thread, and again a second later if it raises.
    """
    watch = _Watch()
    while True:
        await watch.until_changed(loaded)
        try:
            loaded = await asyncio.to_thread(reload)
        except Exception as error:  # no threads left, or a bug in `reload`
            await watch.trouble("cannot load again", error)
        else:
            yield loaded


class _Watch:
    def __init__(self) -> None:
        self._said: set[str] = set()
        """Trouble that was logged already: it may come every second."""

    async def until_changed(self, loaded: Read) -> None:
        while True:
            try:
                if await self._changed(loaded):
                    return
            except Exception as error:  # no threads left, or a bug: the next look may succeed
                await self.trouble("cannot look for changes", error)

    async def trouble(self, what: str, error: Exception) -> None:
        self._say(f"{what}: {type(error).__name__}: {error}", error)
        await asyncio.sleep(UNWATCHED_SECONDS)

    async def _changed(self, loaded: Read) -> bool:
        """Whether something has changed, now or when something was reported or time has passed."""
        reported, patience = asyncio.Event(), LOOK_SECONDS
        with contextlib.ExitStack() as stack:
            try:
                folders = await asyncio.to_thread(_folders, loaded.fingerprints)
                stack.enter_context(reports(folders, reported.set))
            except OSError as error:
                self._say(f"the files cannot be watched and are looked at every second: {error.strerror or error}")
                patience = UNWATCHED_SECONDS
            # From here on nothing is missed.
            if await asyncio.to_thread(_differs, loaded):
                return True
            if await _happens(reported, patience):
                await _quiet(reported)
        return await asyncio.to_thread(_differs, loaded)

    def _say(self, text: str, error: Exception | None = None) -> None:
        if text not in self._said:
            self._said.add(text)
            _LOG.warning("%s", text, exc_info=error)


async def _happens(event: asyncio.Event, within: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):  # `wait_for` of Python 3.11 is not cancelled in the moment of the event
            await event.wait()
    return event.is_set()


async def _quiet(reported: asyncio.Event) -> None:
    """Wait for the end of a burst."""
    clock = asyncio.get_running_loop().time
    end = clock() + LONGEST_BURST_SECONDS
    while reported.is_set() and clock() < end:
        reported.clear()
        await _happens(reported, QUIET_SECONDS)


def _differs(loaded: Read) -> bool:
    return any(fingerprint(path) != before for path, before in loaded.fingerprints.items())


_SUFFIXES: Final = tuple(map(os.fsencode, SUFFIXES))


def _folders(paths: Iterable[Path]) -> dict[str, Wanted | None]:
    """The folders to watch: where a change can make a path lead to something else. A folder on the way counts as a
    whole: it can only be renamed or removed. A name in it counts if it is a link, which may be swapped, a file, or
    missing, so that it may appear. In a folder of rule files, every name of a rule file counts."""
    on_the_way: set[str] = set()
    named: dict[str, set[bytes]] = defaultdict(set)
    ends = {_follow(path, on_the_way, named) for path in paths}
    listed = set(filter(os.path.isdir, ends))
    counting = {at: functools.partial(_counts, named[at], at in listed) for at in (*named, *listed)}
    return {**dict.fromkeys(on_the_way), **counting}


def _counts(names: set[bytes], all_rule_files: bool, name: bytes) -> bool:
    return name in names or (all_rule_files and name.endswith(_SUFFIXES))


# Notes every step from the root to the end of an absolute path, links resolved. Returns that end.
def _follow(path: Path, on_the_way: set[str], named: dict[str, set[bytes]]) -> str:
    at, ahead, links = "/", list(reversed(path.parts[1:])), 0
    while ahead and links <= MAX_LINKS:
        part = ahead.pop()
        step = os.path.join(at, part)
        try:
            target = os.readlink(step)
        except (OSError, ValueError):  # not a link, missing, or not a path
            if os.path.isdir(step):
                on_the_way.add(step)
            else:
                _add(part, named[at])
            at = step
        else:
            links += 1
            _add(part, named[at])
            # An absolute target starts with "/", which `join` starts anew from.
            ahead.extend(reversed(Path(target).parts))
    return at


def _add(name: str, names: set[bytes]) -> None:
    with contextlib.suppress(UnicodeEncodeError):  # no file has such a name
        names.add(os.fsencode(name))
