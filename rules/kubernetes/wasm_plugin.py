"""Higress's WasmPlugin for its custom-response plug-in, read as rules. docs/higress.md is the page for users.

In: `WasmPlugin` objects, and all routes. Out: `Rule`s, and a status for each plug-in. Pure.

The plug-in has one configuration per request: that of the first of `matchRules` that fits, else `defaultConfig`; so its
rules are `final`. Outside of Higress' own namespace, where Higress has no plug-ins, the rules apply only to routes of
the plug-in's namespace. As in Higress, a mistake turns off the whole plug-in; an unknown field of its configuration is
only a warning, because the plug-in ignores it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from rejoinder.rules import higress
from rejoinder.rules.document import List, quoted
from rejoinder.rules.fields import Fields, Place
from rejoinder.rules.kubernetes.cluster import Cluster, named_by_higress
from rejoinder.rules.kubernetes.objects import (
    SYSTEM_NAMESPACE,
    Key,
    Object,
    alone,
    items,
    member,
    namespace_of,
    open_fields,
    read_spec,
)
from rejoinder.rules.kubernetes.status import ACCEPTED, RESOLVED_REFS, Status, judged, refuse, told_apart
from rejoinder.rules.manifests import Manifests
from rejoinder.rules.model import Forward, Route, Rule, Scope
from rejoinder.rules.problem import Problem, Severity
from rejoinder.rules.rule_file.matches import domains
from rejoinder.rules.rule_file.rules import scope_answers

PLUGIN: Final = "custom-response"


def read_wasm_plugins(cluster: Cluster, routes: Sequence[Route]) -> Manifests:
    """The rules of all plug-ins, highest priority first. Their `ingress` and `service` may name any of `routes`, which
    are all routes."""
    statuses: list[Status] = []
    notes: list[Problem] = []
    plugins: list[tuple[tuple[int, Key], tuple[Rule, ...]]] = []
    for plugin in cluster.of_kind("WasmPlugin"):
        fields, _ = alone(plugin.spec(), open_fields, None)
        if fields is None or PLUGIN not in fields.get("url", Place.string, ""):
            text = f"{plugin.title} is skipped: its url does not name the {PLUGIN} plug-in"
            notes.append(Problem(plugin.position, text, Severity.NOTE))
            continue
        rules, problems = read_spec(plugin, _Reader(plugin, routes).read, ())
        faults, warnings = told_apart(plugin, problems)
        statuses.append(judged(plugin, faults))
        notes += warnings
        if all(fault.condition != ACCEPTED for fault in faults):
            priority = fields.get("priority", lambda it: it.integer(range(2**31)), 0)
            plugins.append(((-priority, plugin.key), rules))
    all_rules = tuple(rule for _, rules in sorted(plugins, key=lambda entry: entry[0]) for rule in rules)
    return Manifests(rules=all_rules, statuses=tuple(statuses), notes=tuple(notes))


def _is_about(scope: Scope, route: Route) -> bool:
    # The name of an object, or of a rule of it, stands for all of its routes.
    return scope.routes is None or any(f"{route.name}/".startswith(f"{name}/") for name in scope.routes)


_CONDITIONS: Final = ("domain", "ingress", "service")


def _conditions(fields: Fields) -> Fields:
    """The fields of a match rule without empty lists, which are no conditions: clients write every field."""
    empty = [
        name
        for name in _CONDITIONS
        if name in fields and isinstance(node := fields[name].node, List) and not node.items
    ]
    return replace(fields, given={name: place for name, place in fields.given.items() if name not in empty})


class _Reader:
    def __init__(self, plugin: Object, routes: Sequence[Route]) -> None:
        self._object = plugin
        self._system = plugin.key.namespace == SYSTEM_NAMESPACE
        self._named_elsewhere = self._system and not routes
        """The names are of routes in an Envoy that is configured elsewhere."""
        self._routes = [route for route in routes if self._system or namespace_of(route) == plugin.key.namespace]

    def read(self, spec: Place) -> tuple[Rule, ...]:
        rules = self._read(spec)
        if self._system:
            return rules
        namespace = self._object.key.namespace
        spec.warn(
            f"is about routes of the namespace {namespace} only: about others, it has to be in {SYSTEM_NAMESPACE}"
        )
        return tuple(
            replace(rule, scope=replace(rule.scope, routes=own))
            for rule in rules
            if (own := tuple(route.name for route in self._routes if _is_about(rule.scope, route)))
        )

    def _read(self, spec: Place) -> tuple[Rule, ...]:
        spec.source.lenient = True
        fields = open_fields(spec)
        if "pluginConfig" in fields and open_fields(fields["pluginConfig"]).given:
            # Istio's field, which Higress then passes on in place of all others (ingress_config.go,
            # convertIstioWasmPlugin).
            for name in ("defaultConfig", "matchRules"):
                if name in fields:
                    fields[name].warn("has no effect beside pluginConfig")
            return fields["pluginConfig"].attempt(self._default, ())
        rules: list[Rule] = []
        for number, place in enumerate(items(member(spec, "matchRules"))):
            rules += place.attempt(functools.partial(self._match, number), ())
        if "defaultConfig" in fields and not fields.get("defaultConfigDisable", Place.boolean, False):
            rules += fields["defaultConfig"].attempt(self._default, ())
        return tuple(rules)

    def _name(self, part: str) -> str:
        return f"wasmplugin/{self._object.key}/{part}"

    def _default(self, place: Place) -> tuple[Rule, ...]:
        if not open_fields(place).given:
            return ()
        fields = place.fields(higress.WHOLE)
        scoped = higress.scoped_rules(fields)
        rules = [replace(rule, name=self._name(f"rules/{number}")) for number, rule in enumerate(scoped)]
        if fields.given.keys() - {"_rules_"}:
            rules.append(replace(higress.top_level_rule(fields), name=self._name("default")))
        return tuple(rules)

    def _match(self, number: int, place: Place) -> tuple[Rule, ...]:
        fields = _conditions(open_fields(place))
        if fields.get("configDisable", Place.boolean, False):
            return ()
        if not any(condition in fields for condition in _CONDITIONS):
            raise place.mistake(f"expected one of {', '.join(_CONDITIONS)}")
        names: list[set[str]] = []
        if "ingress" in fields:
            names.append(self._named(fields["ingress"], self._of_ingress, "Ingress, HTTPRoute or route"))
        if "service" in fields:
            names.append(self._named(fields["service"], self._of_service, "route to a Service or upstream"))
        answers = fields.require("config", lambda it: scope_answers(it.fields(higress.CONFIGURATION), plug_in=True), ())
        routes = tuple(sorted(set.intersection(*names))) if names else None
        if routes == () or not answers:
            return ()  # it fits nothing, which has been noted
        scope = Scope(domains=fields.get("domain", domains, ()), routes=routes)
        return (Rule(self._name(f"match/{number}"), answers, scope, final=True, position=place.position),)

    def _named(self, place: Place, find: Callable[[str], Iterable[str]], what: str) -> set[str]:
        """The names of the routes that a list of names stands for."""
        routes: set[str] = set()
        for item in place.items():
            name = item.string()
            names = {name} if self._named_elsewhere else set(find(name))
            if not names:
                elsewhere = [route for route in self._called(name) if route != name]
                hint = f": did you mean {quoted(elsewhere[0])}?" if elsewhere else ""
                refuse(item, "NotFound", f"there is no {what} called {quoted(name)}{hint}", RESOLVED_REFS)
            routes |= names
        return routes

    def _called(self, short: str) -> Iterable[str]:
        """Objects with that name in any namespace, as `NAMESPACE/NAME`."""
        parts = (route.name.split("/") for route in self._routes if route.title)
        return dict.fromkeys(f"{part[1]}/{part[2]}" for part in parts if part[2] == short)

    def _of_ingress(self, name: str) -> Iterable[str]:
        for route in self._routes:
            # A manifest's route has the name `ingress/NAMESPACE/NAME/...`. Higress leaves out its own namespace, where
            # its plug-ins are, and only that (pkg/ingress/kube/common/tool.go, GenerateUniqueRouteName).
            names = [route.name]
            if namespace := namespace_of(route):
                short = route.name.split("/")[2]
                names = [f"{namespace}/{short}", *([short] if namespace == self._object.key.namespace else [])]
            if name in names:
                yield route.name

    def _of_service(self, name: str) -> Iterable[str]:
        wanted = named_by_higress(name)
        for route in self._routes:
            if isinstance(route.action, Forward) and any(
                wanted in (upstream, upstream.partition(":")[0]) for upstream in route.action.upstreams
            ):
                yield route.name
