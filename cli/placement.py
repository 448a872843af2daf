"""Where the answers to an upstream's status are given: as asked for, or the best that is possible."""

from __future__ import annotations

from pathlib import Path

from rejoinder.envoy.module import library
from rejoinder.xds.translate import Placement


def choose(asked: str | None, binary: Path) -> tuple[Placement, str]:
    """The placement for an Envoy that this program runs. The text says why the module is not used; it
    is empty if the module is used, or if a placement was asked for.

    Args:
        asked: `--conditional`; None: the module where it can be loaded.
        binary: the Envoy.

    Raises:
        library.ModuleUnavailableError: the module was asked for, and cannot be loaded. Show the text and stop.
    """
    if asked == Placement.EXT_PROC.value:
        return Placement.EXT_PROC, ""
    try:
        library.find(binary)
    except library.ModuleUnavailableError as error:
        if asked is not None:
            raise
        return Placement.EXT_PROC, str(error)
    return Placement.MODULE, ""
