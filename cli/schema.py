"""`rejoinder schema`: the JSON Schema of the rule file, for editors."""

from __future__ import annotations

import argparse

from rejoinder.cli import console
from rejoinder.rules.schema import schema


def run(options: argparse.Namespace) -> int:
    del options
    console.print_json(schema())
    return 0
