"""Processes of `chaos.py`: a clock of their own, their memory, a disk that can be filled."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rejoinder.envoy import launch

CLOCK: Final = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long *offset;

__attribute__((constructor)) static void open_offset(void) {
    const char *name = getenv("CHAOS_CLOCK");
    int file = name ? open(name, O_RDONLY) : -1;
    void *mapped = file < 0 ? MAP_FAILED : mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) offset = mapped;
    if (file >= 0) close(file);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, id, now);
    if (!failed && offset && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += *offset;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}
"""
"""A wall clock that is set by a number in a file, for processes that are started with it."""


class Clock:
    def __init__(self, folder: Path) -> None:
        self.environ: dict[str, str] = {}
        """The environment of processes with this clock; empty: there is no C compiler."""
        compiler = shutil.which("cc") or shutil.which("gcc")
        file, source, made = (folder / name for name in ("offset", "clock.c", "clock.so"))
        file.write_bytes(bytes(8))
        with file.open("r+b") as opened:
            self._offset = mmap.mmap(opened.fileno(), 8)
        if compiler:
            source.write_text(CLOCK)
            subprocess.run([compiler, "-O2", "-shared", "-fPIC", source, "-o", made], check=True)
            self.environ = {"LD_PRELOAD": str(made), "CHAOS_CLOCK": str(file)}

    def move(self, seconds: int) -> None:
        self._offset[:] = struct.pack("q", seconds)


def started(command: Sequence[str], log: Path, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process that ends with this one."""
    # Root may read every file; without these capabilities it cannot.
    rights = "-dac_override,-dac_read_search"
    drop = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if os.geteuid() == 0 else []
    with log.open("ab") as output:
        return subprocess.Popen(
            [*drop, sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), *command],
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "GRPC_VERBOSITY": "NONE", **environ},
        )


def children(pid: int) -> list[int]:
    """The ext_proc workers of a `serve`."""
    started = (int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in _read(task).split())
    return sorted(child for child in started if b"spawn_main" in _read(Path(f"/proc/{child}/cmdline")))


def _read(path: Path) -> bytes:
    """The content; empty for a process or thread that has ended."""
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def memory(pid: int) -> float:
    """Resident memory in MB."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024
    return 0.0


def free_ports(number: int) -> list[int]:
    """Consecutive ports, for workers. They are below the range for outgoing connections, one of which might take a port
    while its process is restarted."""
    while True:
        first = random.SystemRandom().randrange(10_000, 18_000)
        ports = list(range(first, first + number))
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in ports:
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return ports


_CLONE_NEWNS, _MS_REC, _MS_PRIVATE, MNT_DETACH = 0x20000, 0x4000, 1 << 18, 2


def small_disk(folder: Path) -> bool:
    """Mount a disk that only these processes see; returns whether that was possible."""
    libc = ctypes.CDLL(None, use_errno=True)
    return not (
        libc.unshare(_CLONE_NEWNS)
        or libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
        or libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=2m,mode=0700")
    )
