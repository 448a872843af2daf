"""The last good set: what `--state DIR` keeps for a start with files that cannot be used.

In: the files of a published set, with their content, and whether Envoys accept it. Out: the same set at a later start.
DIR has two files. `accepted` is the last set that an Envoy has accepted in full. `published` is a later set that was
published while no Envoy was connected, until an Envoy accepts or rejects it. Each file is a SHA-256 and the line of
JSON that it is of. A file is written under a temporary name and renamed, so it is always complete. A file is not used
if it is damaged, of another version of Rejoinder, or may be written by others. Does I/O; nothing is raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.metadata
import json
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from rejoinder.cli import console
from rejoinder.rules.files import MAX_TOTAL_SIZE, Content, UnreadableError
from rejoinder.rules.model import Position
from rejoinder.rules.problem import Problem, Severity

MAX_SIZE: Final = 12 * MAX_TOTAL_SIZE
"""In bytes. JSON needs six for a byte that is not text, and a file may be kept twice."""

RETRY_SECONDS: Final = 10.0
"""Between a write that failed (a full disk) and the next; and between two checks that written files still exist."""

T = TypeVar("T")

_ACCEPTED: Final = "accepted"
_PUBLISHED: Final = "published"


@dataclass(frozen=True, slots=True)
class Saved:
    """The files of a set."""

    sources: tuple[Path, ...]
    """As on the command line."""
    folder: Path
    """The working directory."""
    loads: tuple[Mapping[Path, Content], ...]
    """The content of files. All are loaded, one after the other: earlier manifests may still be in force."""


class UnusableError(Exception):
    """What was kept cannot be used; the text is why."""


class LastGood:
    """For one event loop.

    Args:
        folder: where the set is kept; None: nowhere.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder and folder.absolute()
        self.served = ""
        """The time of the set that is served in place of the files; empty: none is served."""
        self.trouble = ""
        """Why the set in force cannot be kept; empty: it can."""
        self.problems: tuple[Problem, ...] = ()
        """About kept sets that cannot be used."""
        self._wanted: dict[str, Saved | None] = {}
        self._digests: dict[str, str] = {}
        """Of the files in `folder`, by name."""
        self._changed = asyncio.Event()
        self._one_writes = threading.Lock()

    def read(self, recall: Callable[[Saved], T]) -> tuple[str, T] | None:
        """The latest kept set that can be used: its time, and the result of `recall`, which raises an error for a set
        that cannot be used. `problems` has these errors."""
        if self.folder is None:
            return None
        for name in (_PUBLISHED, _ACCEPTED):
            with contextlib.suppress(OSError):
                for left in self.folder.glob(f"{name}-*{_NEW}"):  # of a process that was killed
                    left.unlink()
            try:
                when, data = self._read(name)
                recalled = recall(_decoded(data))
            except FileNotFoundError:
                continue
            except Exception as error:
                text = f"what was kept here is not used: {_reason(error)}"
                self.problems += (Problem(Position(f"{self.folder}/{name}", 0), text, Severity.WARNING),)
            else:
                self._digests[name] = data[:_DIGEST].decode()
                return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when)), recalled
        return None

    def accepted(self, saved: Saved) -> None:
        """An Envoy has accepted this."""
        self._want({_ACCEPTED: saved, _PUBLISHED: None})

    def unseen(self, saved: Saved) -> None:
        """This was published while no Envoy is connected."""
        self._want({_PUBLISHED: saved})

    def rejected(self, saved: Saved) -> None:
        """An Envoy has rejected this, and none has accepted it."""
        if self._wanted.get(_PUBLISHED) == saved:
            self._want({_PUBLISHED: None})

    def _want(self, wanted: Mapping[str, Saved | None]) -> None:
        if self.folder and {**self._wanted, **wanted} != self._wanted:
            self._wanted.update(wanted)
            self._changed.set()

    async def keep(self) -> None:
        """Keep what is wanted, for ever. A failure is reported and tried again; nothing else waits for it."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_SECONDS):
                        await self._changed.wait()
                try:
                    if self._changed.is_set() or self.trouble or await asyncio.to_thread(self._lost):
                        self._changed.clear()
                        self._note(await asyncio.to_thread(self._write_all))
                except Exception as error:  # no threads left
                    self._note(_reason(error))
        finally:
            self._note(self._write_all())

    def _note(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            text = f"the last good set cannot be kept in {self.folder}: {trouble}"
            text += f"; what is served goes on, and this is tried again every {RETRY_SECONDS:g} s"
            console.say(text, "yellow", event="last_good")
        elif self.trouble and not trouble:
            console.say(f"the last good set is kept in {self.folder} again", event="last_good")
        self.trouble = trouble

    def _lost(self) -> bool:
        """Whether somebody has removed what was written; then it is to be written again."""
        written = [name for name, digest in self._digests.items() if digest]
        lost = [name for name in written if not os.access(f"{self.folder}/{name}", os.F_OK)]
        for name in lost:
            del self._digests[name]
        return bool(lost)

    def _write_all(self) -> str:
        """Write or remove the files as `_wanted` says. Returns why that cannot be done; empty: it is done."""
        with self._one_writes:
            try:
                for name in sorted(self._wanted):  # `accepted` first, so that one of them exists at any time
                    data = _encoded(saved) if (saved := self._wanted[name]) else b""
                    digest = data[:_DIGEST].decode()
                    if name == _PUBLISHED and digest == self._digests.get(_ACCEPTED):
                        data, digest = b"", ""
                    if digest != self._digests.get(name):
                        self._replace(name, data)
                    self._digests[name] = digest
            except Exception as error:  # a full disk, no memory: answers go on in any case
                return _reason(error)
            return ""

    def _replace(self, name: str, data: bytes) -> None:
        """Write a file, or remove it where there is no data."""
        assert self.folder
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if data:
            number, temporary = tempfile.mkstemp(_NEW, f"{name}-", self.folder)  # of mode 0600: keys may be in it
            try:
                with open(number, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file)
                os.replace(temporary, self.folder / name)
            except BaseException:
                Path(temporary).unlink()
                raise
        else:
            (self.folder / name).unlink(missing_ok=True)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _read(self, name: str) -> tuple[float, bytes]:
        assert self.folder
        # A link or a named pipe is not ours; nor is a file that others may write: it may name code to run.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(self.folder / name, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_SIZE:
                raise UnusableError("it is no file that Rejoinder has written")
            # In Kubernetes the `fsGroup` of a Pod may write all files of its volumes, so a group of ours may.
            others = 0o002 if status.st_gid in (os.getegid(), *os.getgroups()) else 0o022
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & others:
                raise UnusableError("it belongs to another user, or another user may write it")
            return status.st_mtime, file.read(MAX_SIZE)


_DIGEST: Final = 64
_NEW: Final = ".new"


def _reason(error: Exception) -> str:
    if isinstance(error, UnusableError):
        return str(error)
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"


def _version() -> str:
    return importlib.metadata.version("rejoinder")


def _encoded(saved: Saved) -> bytes:
    first, *others = saved.loads
    changed = [{path: content for path, content in other.items() if first.get(path) is not content} for other in others]
    value = {
        "rejoinder": _version(),
        "sources": [*map(str, saved.sources)],
        "folder": str(saved.folder),
        "loads": [{str(path): content for path, content in held.items()} for held in (first, *changed)],
    }
    text = json.dumps(value, default=_plain).encode() + b"\n"
    return hashlib.sha256(text).hexdigest().encode() + b"\n" + text


def _decoded(data: bytes) -> Saved:
    digest, text = data[:_DIGEST], data[_DIGEST + 1 :]
    if hashlib.sha256(text).hexdigest().encode() != digest:
        raise UnusableError("it is damaged: its content is not what was written")
    value: dict[str, Any] = json.loads(text)
    if value["rejoinder"] != _version():
        raise UnusableError(f"it is of Rejoinder {value['rejoinder']}, and this is {_version()}")
    first, *others = ({Path(path): _content(plain) for path, plain in held.items()} for held in value["loads"])
    loads = (first, *({**first, **changed} for changed in others))
    return Saved(tuple(map(Path, value["sources"])), Path(value["folder"]), loads)


# Bytes become text as file names do in Python (PEP 383): readable, and reversible for any bytes.
def _plain(content: bytes | UnreadableError) -> Any:
    if isinstance(content, bytes):
        return content.decode("utf-8", "surrogateescape")
    return {"unreadable": str(content)}


def _content(plain: Any) -> Content:
    if isinstance(plain, str):
        return plain.encode("utf-8", "surrogateescape")
    return tuple(plain) if isinstance(plain, list) else UnreadableError(plain["unreadable"])
