"""A program between Envoy's log and its reader, so that Envoy never waits: `pump.py < LOG > READER`.

Envoy writes its log to a pipe, from the threads that serve requests. With a full pipe they would block: when the reader
is stopped (Ctrl-Z) or slow. This program always reads. What the reader does not read waits here, up to MAX_WAITING
bytes; beyond that, whole lines are dropped and counted.

It ends with the log, not with its reader. Runs by itself, with the standard library only.
"""

from __future__ import annotations

import collections
import os
import select
import signal
from typing import Final

MAX_WAITING: Final = 1 << 20
_CHUNK: Final = 1 << 16


def main(log: int = 0, reader: int = 1) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # when all processes get the signal, the last lines are still wanted
    os.set_blocking(reader, False)
    waiting: collections.deque[bytes] = collections.deque()
    size = dropped = 0
    partial, reading, is_read = b"", True, True
    while reading or (waiting and is_read):
        readable, writable, _ = select.select([log] if reading else [], [reader] if waiting and is_read else [], [])
        if readable:
            data = os.read(log, _CHUNK)
            reading = bool(data)
            *lines, partial = (partial + data).split(b"\n")
            if len(partial) > MAX_WAITING or not reading:
                lines, partial = [*lines, partial] if partial else lines, b""
            for line in lines if is_read else ():
                if size + len(line) > MAX_WAITING:
                    dropped += 1
                    continue
                if dropped:
                    waiting.append(b"(%d lines of Envoy's log are missing: they were not read in time)\n" % dropped)
                    size, dropped = size + len(waiting[-1]), 0
                waiting.append(line + b"\n")
                size += len(line) + 1
        if writable:
            try:
                # A writable pipe takes at least PIPE_BUF bytes, and may take a part of a longer write.
                done = os.write(reader, waiting[0][:_CHUNK])
            except BlockingIOError:
                continue
            except OSError:  # the reader has gone
                is_read = False
                waiting.clear()
                continue
            size -= done
            waiting[0] = waiting[0][done:]
            if not waiting[0]:
                waiting.popleft()


if __name__ == "__main__":
    main()
