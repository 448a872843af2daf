"""Unix sockets of ours: the mode of the file decides who may connect, whatever the umask is.

A socket on which nobody listens is left over from an ended process: it is replaced. I/O happens here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MODE: Final = 0o600


@contextlib.contextmanager
def claimed(path: Path, mode: int = MODE) -> Iterator[None]:
    """A block that binds a socket to a path, which has this mode from the beginning.

    Raises:
        OSError: somebody listens there, or no socket can be there; the text says which.
    """
    try:
        _make_room(path)
        before = os.umask(0o777 & ~mode)
        try:
            yield
        finally:
            os.umask(before)
    except OSError as error:
        raise OSError(f"cannot listen on unix:{path}: {error.strerror or error}") from error


def listen(path: Path, mode: int = MODE, backlog: int = 100) -> socket.socket:
    """A socket that listens. Raises as `claimed`."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with claimed(path, mode):
            listening.bind(str(path))
        listening.listen(backlog)
    except BaseException:
        listening.close()
        raise
    listening.setblocking(False)
    return listening


def _make_room(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError("a file that is no socket is there")
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise OSError(f"there is no folder {path.parent}") from None
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:  # too many connections wait to be accepted
            pass
    raise OSError("somebody listens there already")
