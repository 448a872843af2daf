"""The SOURCE arguments: `-` is standard input."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rejoinder.rules.files import Files, limited
from rejoinder.rules.load import Loaded, load

_STANDARD_INPUT: Final = Path("-")


def loaded_from(sources: Sequence[Path], options: argparse.Namespace) -> Loaded:
    """What the files say, with the upstreams of the options."""
    files = Files({_STANDARD_INPUT.absolute(): limited(sys.stdin.buffer)} if _STANDARD_INPUT in sources else {})
    return load(sources, upstreams=dict(options.upstream), files=files)
