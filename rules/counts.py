"""What rules have done, counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RuleCounts:
    """What one rule has done, in all placements and Envoys that are known of."""

    hits: int = 0
    """Answers."""
    last_hit: float | None = None
    """When the last answer was given, or reported, in UNIX seconds; None: never."""
    by_original_status: Mapping[str, int] = field(default_factory=dict)
    """The answers, by what the upstream had said."""
    observed: int = 0
    """Responses that it would have answered if it did not only observe."""
