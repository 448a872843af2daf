"""Problems of rule files, for their author."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from rejoinder.rules.model import Position


class Severity(enum.Enum):
    ERROR = "error"
    """The files cannot be used as they are."""
    WARNING = "warning"
    """The files are used; something in them has no effect or is probably not meant."""
    NOTE = "note"
    """Nothing is wrong; something is not used by Rejoinder."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake, at one place. `str()` is the line that a person reads:

    rules.yaml:14: rule "block-admin": match.path: expected a path starting with "/", got "admin"
    """

    position: Position
    message: str
    """The thing and field, what was expected, and what came."""
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        return f"{self.position}: {self.message}"
