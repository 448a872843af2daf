"""A program that becomes Envoy and dies with its parent: `launch.py PARENT_PID COMMAND [ARGUMENT ...]`.

Linux can kill a process when its parent dies, however it dies (`PR_SET_PDEATHSIG`), but the child itself must request
this between fork and exec. Running Python code there (`preexec_fn`) may deadlock if the parent has threads, and ours
has those of gRPC. So the child first becomes this program, which makes the request and then becomes the command, with
the same process id. https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html

Other systems do not have this: the command is just run, and survives a killed parent.

Runs by itself, with the standard library only. If the command cannot be run: one line on stderr, exit status 1.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def main(parent: int, command: list[str]) -> None:
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - takes time, and is needed here only

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:  # it died before the request
            sys.exit("the program that wanted Envoy is gone")
    try:
        os.execv(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
