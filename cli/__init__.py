"""The command line: arguments in, text out.

Reading order: `arguments` (what can be said), one file for each command, `control` (the loop that `up` and `serve`
share), `making` (load and build), `envoys` (what Envoys say), `console` (how things are printed), `admin` and `web`
(what a browser sees), `systemd`.
"""

from __future__ import annotations

import gc
import importlib
import io
import os
import sys
from collections.abc import Sequence

from rejoinder.cli.arguments import UnusableError, parser

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; None: those of this process.
    Returns:
        The exit code: 0 fine, 1 problems, 2 unusable arguments.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed: the next file or socket would have its place
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):  # files are made of it: UTF-8, and what is no text stays readable
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    options = parser().parse_args(arguments)
    # gRPC's C core writes to stderr what it also raises, and what we say better.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        # Each command is a module with a `run`, imported when it is asked for: `check` need not wait for gRPC.
        gc.disable()  # what is imported stays: to walk it again and again takes a tenth of the time of `check`
        command = importlib.import_module(f"rejoinder.cli.{options.command}")
        gc.enable()
        code: int = command.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has read enough (`| head`). Nothing more may be written at exit.
        sys.stdout = sys.stderr = None
        return 1
    except OSError as error:  # a full disk; what commands read and write themselves they tell of themselves
        from rejoinder.cli import console  # noqa: PLC0415 - it takes its time

        sys.stdout = None
        return console.fail(str(error))
    except KeyboardInterrupt:
        return 130
    except UnusableError as error:
        from rejoinder.cli import console  # noqa: PLC0415 - `--help` need not wait for YAML

        return max(map(console.fail, error.args))
    return code
