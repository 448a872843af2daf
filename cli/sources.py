"""The SOURCE arguments: `-` is standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from rejoinder.rules.files import Files, limited

_STANDARD_INPUT: Final = Path("-")


def opened(sources: Iterable[Path]) -> Files:
    """What reads them."""
    return Files({_STANDARD_INPUT.absolute(): limited(sys.stdin.buffer)} if _STANDARD_INPUT in sources else {})
