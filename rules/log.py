"""Lines of the log of `serve`, `up` and their processes: text, or JSON objects.

In: events. Out: a line for each, with time and level if standard error is not a terminal, or if $REJOINDER_LOG_FORMAT
is `json`. On a terminal, lines are for people, and have neither. `start` is the way in for `logging`; `line` makes all
other lines (see `rejoinder.cli.console`).
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

VARIABLE: Final = "REJOINDER_LOG_FORMAT"
"""`text` or `json`; child processes inherit it."""


def start(level: int, message: str = "%(name)s: %(message)s") -> bool:
    """From now on, write records of `logging` from this level on; `message` makes the text of a record.

    Returns: whether lines have time and level.
    """
    dated = as_json() or sys.stderr is None or not sys.stderr.isatty()
    handler = logging.StreamHandler()
    handler.setFormatter(_Dated(message) if dated else logging.Formatter(message))
    logging.basicConfig(level=level, handlers=[handler])
    return dated


def about(event: str, **fields: Any) -> dict[str, Any]:
    """The argument `extra` of `logging`, for a line with this event and these fields."""
    return {"event": event, "fields": fields}


def as_json() -> bool:
    return os.environ.get(VARIABLE) == "json"


def line(level: str, event: str, message: str, fields: Mapping[str, Any], at: float | None = None) -> str:
    """A line of the log.

    Args:
        level: `info`, `warning` or `error`.
        event: the stable name of what has happened: see docs/monitoring.md.
        message: the same for people.
        fields: details; only JSON has them.
        at: seconds since 1970; None: now.
    """
    now = datetime.datetime.now(datetime.UTC) if at is None else datetime.datetime.fromtimestamp(at, datetime.UTC)
    time = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if not as_json():
        return f"{time} {level} {message}"
    return json.dumps({"time": time, "level": level, "event": event, **fields, "message": message}, ensure_ascii=False)


class _Dated(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = {logging.DEBUG: "info", logging.CRITICAL: "error"}.get(record.levelno, record.levelname.lower())
        event = getattr(record, "event", record.name.rpartition(".")[2])
        fields = dict(getattr(record, "fields", {}))
        message = super().format(record)
        if as_json():
            message = record.getMessage()
            if record.exc_info:
                fields["exception"] = self.formatException(record.exc_info)
        return line(level, event, message, fields, record.created)
