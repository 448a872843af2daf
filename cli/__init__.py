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
        if getattr(sys, name) is None:  # closed: the next file or socket would get its number
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):  # may go to a file: UTF-8, and bytes that are not text stay readable
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    options = parser().parse_args(arguments)
    # gRPC's C core writes to stderr what it also raises; our messages are clearer.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        # Each command is a module with a `run`, imported when it is asked for: `check` does not wait for gRPC.
        gc.disable()  # imported objects stay: collecting among them takes a tenth of the time of `check`
        command = importlib.import_module(f"rejoinder.cli.{options.command}")
        gc.enable()
        code: int = command.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has closed it (`| head`). Nothing more may be written at exit.
        sys.stdout = sys.stderr = None
        return 1
    except OSError as error:  # a full disk; commands report errors of the files that they read and write
        from rejoinder.cli import console  # noqa: PLC0415 - it takes its time

        sys.stdout = None
        return console.fail(str(error))
    except KeyboardInterrupt:
        return 130
    except UnusableError as error:
        from rejoinder.cli import console  # noqa: PLC0415 - `--help` does not wait for YAML

        return max(map(console.fail, error.args))
    return code
