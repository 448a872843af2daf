"""Names that files use and others define: upstreams, routes, and objects with several routes.

In: the `Source`s of all files, with the names that each of them mentions, and the merged `Ruleset`. Names that lead
nowhere are noted in the sources.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final

from rejoinder.rules.document import quoted
from rejoinder.rules.fields import Mention, Source, closest, similar_to
from rejoinder.rules.model import Forward, Route, Rule, Ruleset, Upstream

_SLIP: Final = 0.75
"""How similar an unknown name must be to a route's name to count as a typing mistake."""

_OF_OBJECTS: Final = ("httproute/", "ingress/")

_COMPARED: Final = 30_000
"""How many pairs of names are compared to find a similar name. Thousands of unknown names among thousands of
routes are not typing mistakes: they are routes of another Envoy, and an edit must not wait for minutes."""


def check_mentions(
    sources: Iterable[Source], ruleset: Ruleset, route_groups: Mapping[str, object], *, objects_go: bool
) -> None:
    """Note the names in the sources that lead nowhere.

    Args:
        route_groups: the objects whose name stands for several routes.
        objects_go: Kubernetes objects may appear and vanish at any time, so a reference to a missing one is no mistake.
    """
    upstreams = {upstream.name: None for upstream in ruleset.upstreams}  # in order, and quick to look up
    routes = dict.fromkeys([*(route.name for route in ruleset.routes), *route_groups])
    no_upstream = unknown_upstream(upstreams)
    unknown: list[Mention] = []
    for source in sources:
        for mention in source.upstreams:
            if mention.name not in upstreams:
                mention.place.error(no_upstream(mention.name))
        unknown += (mention for mention in source.routes if mention.name not in routes)
    names = itertools.islice(dict.fromkeys(mention.name for mention in unknown), _COMPARED // max(len(routes), 1))
    nearest = {name: similar_to(name, routes, cutoff=0) for name in names}
    for mention in unknown:
        # The name of an object's route is not a typing mistake if the object may have been removed by another author.
        gone = objects_go and mention.name.startswith(_OF_OBJECTS)
        _about_unknown_route(mention, routes, nearest.get(mention.name), slip=not gone)


def _about_unknown_route(mention: Mention, routes: Collection[str], nearest: str | None, *, slip: bool) -> None:
    if slip and nearest and similar_to(mention.name, [nearest], _SLIP):
        mention.place.error(f"unknown route {quoted(mention.name)}, did you mean {quoted(nearest)}?")
        return
    there = "" if routes else " (there are no routes here)"
    there = f" (the closest one here is {quoted(nearest)})" if nearest else there
    mention.place.warn(
        f"no route here is called {quoted(mention.name)}: it is taken for one of an Envoy with routes of its own{there}"
    )


def unknown_upstream(known: Collection[str]) -> Callable[[str], str]:
    """The message about a name that none of these upstreams has."""
    compared = itertools.count(step=len(known))

    @functools.cache
    def said(name: str) -> str:
        if not known:
            return f"unknown upstream {quoted(name)}: no upstreams are defined"
        hint = f", {closest(name, known)}" if next(compared) < _COMPARED else ""
        return f"unknown upstream {quoted(name)}{hint}"

    return said


def with_hosts(routes: tuple[Route, ...], upstreams: Mapping[str, Upstream]) -> tuple[Route, ...]:
    """Routes with the Host of their upstreams; a route with a Host of its own keeps it."""
    wanted = {name: upstream.host for name, upstream in upstreams.items() if upstream.host is not None}

    def resolved(route: Route) -> Route:
        action = route.action
        if not isinstance(action, Forward) or action.rewrite.host or wanted.keys().isdisjoint(action.upstreams):
            return route
        backends = tuple(
            replace(backend, host=backend.host or wanted.get(backend.upstream or "")) for backend in action.backends
        )
        rewrite = replace(action.rewrite, host=wanted.get(action.upstream))
        return replace(route, action=replace(action, backends=backends, rewrite=rewrite))

    return tuple(map(resolved, routes)) if wanted else routes


def with_route_groups(rules: Iterable[Rule], groups: Mapping[str, tuple[str, ...]]) -> tuple[Rule, ...]:
    """Rules with the routes of an object in place of the object's name."""

    def resolved(rule: Rule) -> Rule:
        if rule.scope.routes is None or groups.keys().isdisjoint(rule.scope.routes):
            return rule
        names = dict.fromkeys(name for given in rule.scope.routes for name in groups.get(given, (given,)))
        return replace(rule, scope=replace(rule.scope, routes=tuple(names)))

    return tuple(map(resolved, rules) if groups else rules)
