"""Log lines that clients cause: the first ones of each kind are written, and then how many were left out.

In: log records. Out: whether they are written. Otherwise anyone who can connect could fill a disk.
"""

from __future__ import annotations

import logging
from typing import Final

SECONDS: Final = 60.0


class Sparing(logging.Filter):
    """For a logger: lets some of the lines through that one place in the code writes within SECONDS. The first line of
    the next SECONDS says how many were left out."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self._written: dict[tuple[str, int], tuple[float, int]] = {}
        """By place: when its SECONDS began, and how many lines there have been."""

    def filter(self, record: logging.LogRecord) -> bool:
        place = record.pathname, record.lineno
        since, lines = self._written.get(place, (record.created, 0))
        if record.created - since >= SECONDS:
            if lines > self._most:
                record.msg = f"{record.msg} (and {lines - self._most} such lines before that)"
            since, lines = record.created, 0
        self._written[place] = since, lines + 1
        return lines < self._most
