"""Which part of the rule files an Envoy complains about when it rejects a snapshot. Pure.

Envoy's message names a resource, or counts virtual hosts and routes, or says nothing of where. In the last case the
best guess is what has changed since the last accepted ruleset.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from rejoinder.rules.model import Listener, Position, Route, Rule, Ruleset, Upstream
from rejoinder.xds.build import Build
from rejoinder.xds.plan import PlannedRoute
from rejoinder.xds.translate.listeners import listener_name

# Protobuf validation counts: `RouteConfigurationValidationError.VirtualHosts[0]: ... Routes[3]: ...`
_COUNTED: Final = re.compile(r"VirtualHosts\[(\d+)\].*?Routes\[(\d+)\]", re.DOTALL)

Named = Listener | Upstream | Route | Rule
_KINDS: Final = {Listener: "listener", Upstream: "upstream", Route: "route", Rule: "rule"}


def blame(message: str, rejected: Build, accepted: Build | None) -> list[str]:
    """The places in the rule files that a rejection is about, as lines for their author; empty if that is unknown.

    Args:
        message: Envoy's error message.
        rejected: the rejected build.
        accepted: the build that Envoy has instead; None: nothing yet.
    """
    blamed = list(dict.fromkeys([*_named(message, rejected), *_counted(message, rejected)]))
    if not blamed and accepted is not None:
        blamed = list(_changed(rejected.ruleset, accepted.ruleset))
    return [_line(named) for named in blamed]


def _named(message: str, rejected: Build) -> Iterator[Named]:
    ruleset = rejected.ruleset
    yield from (listener for listener in ruleset.listeners if listener_name(listener) in message)
    yield from (upstream for upstream in ruleset.upstreams if _quotes(message, upstream.name))
    for planned in (route for group in rejected.plan.values() for domain in group.domains for route in domain.routes):
        if _quotes(message, planned.name):
            yield from _origins(planned, ruleset)


def _quotes(message: str, name: str) -> bool:
    # Short names occur in messages by chance; in quotes they are intended.
    return f'"{name}"' in message or f"'{name}'" in message


def _counted(message: str, rejected: Build) -> Iterator[Named]:
    if counted := _COUNTED.search(message):
        host, route = map(int, counted.groups())
        for part in rejected.plan.values():  # Envoy does not say which route configuration it is about
            if host < len(part.domains) and route < len(part.domains[host].routes):
                yield from _origins(part.domains[host].routes[route], rejected.ruleset)


def _origins(planned: PlannedRoute, ruleset: Ruleset) -> Iterator[Named]:
    if planned.rule:
        yield from (rule for rule in ruleset.rules if rule.name == planned.rule)
    else:  # take the equal route of this ruleset: the plan may hold one from an earlier ruleset, with its old position
        yield from (route for route in ruleset.routes if route == planned.route)


def _changed(rejected: Ruleset, accepted: Ruleset) -> Iterator[Named]:
    for field in ("listeners", "upstreams", "routes", "rules"):
        before = set(getattr(accepted, field))
        yield from (named for named in getattr(rejected, field) if named not in before)


def _line(named: Named) -> str:
    name = listener_name(named) if isinstance(named, Listener) else named.name
    where = "" if named.position == Position("", 0) else f"{named.position}: "
    return f'{where}{_KINDS[type(named)]} "{name}"'
