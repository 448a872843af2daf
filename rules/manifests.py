"""The result of Kubernetes manifests. `kubernetes` reads them, and is imported only if there are any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rejoinder.rules.fields import Place
from rejoinder.rules.model import Listener, Route, Rule, Upstream
from rejoinder.rules.problem import Problem

if TYPE_CHECKING:
    from rejoinder.rules.kubernetes import Status


@dataclass(frozen=True, slots=True)
class Manifests:
    """What all manifests say together."""

    listeners: tuple[Listener, ...] = ()
    homeless: tuple[Listener, ...] = ()
    """As in `Ruleset`."""
    upstreams: tuple[Upstream, ...] = ()
    routes: tuple[Route, ...] = ()
    """In the order in which they are tried within their group."""
    rules: tuple[Rule, ...] = ()
    route_groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names that stand for several routes in a rule: an object, or a rule of it."""
    statuses: tuple[Status, ...] = ()
    notes: tuple[Problem, ...] = ()
    """What is skipped or has no effect."""


def is_object(place: Place) -> bool:
    """Whether a document seems to be a Kubernetes object."""
    return place.has("apiVersion", "kind")
