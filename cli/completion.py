"""`rejoinder completion`: what a shell needs to complete commands, options, their values and files."""

from __future__ import annotations

import argparse
from typing import Final

import shtab

from rejoinder.cli import console
from rejoinder.cli.arguments import parser

_OF_FILES: Final = ("SOURCE", "FILE", "PATH", "DIR")
"""What the help calls values that are files or folders."""


def run(options: argparse.Namespace) -> int:
    top = parser()
    (commands,) = (action.choices for action in top._actions if isinstance(action, argparse._SubParsersAction))
    for command in commands.values():
        for action in command._actions:
            if action.metavar in _OF_FILES:
                action.complete = shtab.FILE
    console.out(shtab.complete(top, options.shell))
    return 0
