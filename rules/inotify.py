"""Reports of Linux about changes in folders (inotify), in bytes: a name need not be text.

In: folders, and for each which names in it count. Out: a call for each batch of reports about a folder, by the event
loop. Raised: `OSError` by `reports`, if the system has no inotify or its limits are reached; the caller must poll then.
https://man7.org/linux/man-pages/man7/inotify.7.html
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Final

Wanted = Callable[[bytes], bool]
"""Whether a name in a folder counts."""

_NAMES: Final = 0x002 | 0x004 | 0x008 | 0x040 | 0x080 | 0x100 | 0x200
"""IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE."""
_ITSELF: Final = 0x400 | 0x800
"""IN_DELETE_SELF, IN_MOVE_SELF."""
_GONE: Final = _ITSELF | 0x2000 | 0x8000
"""... IN_UNMOUNT and IN_IGNORED, which are reported unasked."""
_OVERFLOW: Final = 0x4000
_FLAGS: Final = 0x01000000 | 0x20000000
"""IN_ONLYDIR; IN_MASK_ADD: a folder may have two paths."""
_EVENT: Final = struct.Struct("iIII")
_BUFFER: Final = 1 << 16


@contextlib.contextmanager
def reports(folders: Mapping[str, Wanted | None], report: Callable[[], None]) -> Iterator[None]:
    """Watch folders for as long as the block lasts.

    Args:
        folders: each with the names in it that count; None: no name counts. Removing or renaming the folder always
            counts. A folder that is missing or cannot be read is left out.
        report: is called by the running event loop when something has happened.

    Raises:
        OSError: the folders cannot be watched.
    """
    if sys.platform != "linux":
        raise OSError("there is no inotify here")
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise _last_error()
    loop = asyncio.get_running_loop()
    try:
        wanted: dict[int, list[Wanted]] = {}
        for folder, names in folders.items():
            mask = _FLAGS | _ITSELF | (0 if names is None else _NAMES)
            watch = libc.inotify_add_watch(descriptor, os.fsencode(folder), mask)
            if watch >= 0:
                wanted.setdefault(watch, []).extend([] if names is None else [names])
            elif not isinstance(error := _last_error(), FileNotFoundError | NotADirectoryError | PermissionError):
                raise error
        loop.add_reader(descriptor, lambda: report() if _concerned(descriptor, wanted) else None)
        try:
            yield
        finally:
            loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _concerned(descriptor: int, wanted: Mapping[int, list[Wanted]]) -> bool:
    data, at, concerned = os.read(descriptor, _BUFFER), 0, False
    while at < len(data):
        watch, mask, _, length = _EVENT.unpack_from(data, at)
        name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
        at += _EVENT.size + length
        by_name = mask & _NAMES and name and any(counts(name) for counts in wanted.get(watch, ()))
        concerned = concerned or bool(mask & (_GONE | _OVERFLOW) or by_name)
    return concerned
