"""Kubernetes manifests as a source of listeners, routes and rules.

In: `Object`s from the files, and the upstreams that the command line gives. Out: `Manifests`, with a status for every
object. Pure; nothing is raised: mistakes in an object are in its status and do not affect other objects.

Reading order: `known` (the fields), `objects` (how they are read), `cluster` (all objects together),
`status` (the state of each object), then a file for each kind: `gateway` (with `certificates`), `http_route` (with
`http_matches`, `http_filters` and `references`), `direct_response`, `gateway_api` (which puts these together),
`ingress`, `wasm_plugin`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from rejoinder.rules.fields import similar_to
from rejoinder.rules.kubernetes.cluster import make_cluster
from rejoinder.rules.kubernetes.gateway_api import read_gateway_api
from rejoinder.rules.kubernetes.ingress import read_ingresses
from rejoinder.rules.kubernetes.known import KINDS
from rejoinder.rules.kubernetes.objects import Object, namespace_of, read_objects
from rejoinder.rules.kubernetes.status import ACCEPTED, Fault, Status, as_faults, judged
from rejoinder.rules.kubernetes.wasm_plugin import read_wasm_plugins
from rejoinder.rules.manifests import Manifests
from rejoinder.rules.model import Forward, Position, RequestMatch, Route, Upstream
from rejoinder.rules.problem import Problem, Severity

__all__ = ["LastGood", "Manifests", "Object", "Status", "read_manifests", "read_objects"]

LastGood: TypeAlias = dict[tuple[str, str], Object]
"""Each object as it was when it could last be read."""


def read_manifests(
    objects: Sequence[Object],
    addresses: Mapping[str, Upstream],
    native_routes: Sequence[Route] = (),
    last: LastGood | None = None,
) -> Manifests:
    """Read all objects together.

    Args:
        objects: in the order of the files.
        addresses: upstreams of the command line by name, such as `shop/web:8080` for a port of a Service.
        native_routes: routes of the rule files, which a WasmPlugin may name.
        last: the objects of the last load, which this updates. They replace objects that cannot be read. None, or if
            there was no such object: the object is left out.
    """
    if last is None:
        return _read(objects, addresses, native_routes)
    # Of two objects with one name, the one that existed first stays.
    objects = sorted(objects, key=lambda manifest: manifest.id not in last or last[manifest.id].file != manifest.file)
    there: LastGood = {}
    for manifest in objects:
        if not _is_skipped(manifest):
            there.setdefault(manifest.id, manifest)
    result = _read(objects, addresses, native_routes)
    wrong = {status.object: status for status in result.statuses if status.unreadable}
    gone = [old for name, old in last.items() if name not in there]
    lost = [old for old in gone if any(_may_be(old, other) for other in objects if other.file == old.file)]
    before = {bad: last[bad.id] for bad in wrong if bad.id in last and there[bad.id] is bad}
    while lost or before:
        again = _read([*(before.get(manifest, manifest) for manifest in objects), *lost], addresses, native_routes)
        # The old object can be read, but refers to something that no longer exists: then the new one is no worse.
        useless = {status.object for status in again.statuses if status.unreadable}.intersection(before.values())
        if not useless:
            kept = {*before.values(), *lost}
            statuses = (status for status in again.statuses if status.object not in kept)
            told = (replace(wrong[bad], kept=True) for bad in before)
            text = "stays in force: an object of this file may be it, with a mistake in its kind or name"
            notes = [Problem(Position(old.file, 0), f"{old.title} {text}", Severity.WARNING) for old in lost]
            result = replace(again, statuses=(*statuses, *told), notes=(*again.notes, *notes))
            break
        before = {bad: old for bad, old in before.items() if old not in useless}
    now = {new.id: before.get(new, new) for new in there.values() if new not in wrong or new in before}
    known = {name: old for name, old in last.items() if name in there}
    last.clear()
    last.update({**known, **now, **{old.id: old for old in lost}})
    return result


_SLIP: Final = 0.85
"""How similar an unknown kind must be to a known one to count as a misspelling. TCPRoute is no HTTPRoute (0.82)."""


def _may_be(before: Object, now: Object) -> bool:
    """Whether an object of the same file may be a missing object, changed by a mistake."""
    if not (now.kind and now.key.name):
        return True
    same = now.key == before.key and similar_to(now.kind, [before.kind], _SLIP) is not None
    return same and _is_skipped(now)


def _is_skipped(manifest: Object) -> bool:
    return bool(manifest.kind) and (manifest.group, manifest.kind) not in KINDS


def _read(objects: Iterable[Object], addresses: Mapping[str, Upstream], native_routes: Sequence[Route]) -> Manifests:
    usable: LastGood = {}
    statuses: list[Status] = []
    notes: list[Problem] = []
    for manifest in objects:
        if _is_skipped(manifest):
            text = f"{manifest.title} is skipped: nothing here reads {manifest.api_version} {manifest.kind}"
            notes.append(Problem(manifest.position, text, Severity.NOTE))
        elif manifest.problems:
            statuses.append(judged(manifest, as_faults(manifest.problems), ACCEPTED))
        elif first := usable.get(manifest.id):
            fault = Fault(manifest.position, f"it is given twice, first at {first.position}")
            statuses.append(judged(manifest, (fault,), ACCEPTED))
        else:
            usable[manifest.id] = manifest
    cluster = make_cluster(usable.values(), addresses)
    part = read_gateway_api(cluster)
    ingresses = read_ingresses(cluster)
    routes = (*part.routes, *ingresses.routes)
    plugins = read_wasm_plugins(cluster, (*native_routes, *routes))
    broken = (judged(faulty, faults, ACCEPTED) for faulty, faults in cluster.faults.items() if faults)
    names = dict.fromkeys(
        name
        for route in routes
        if isinstance(route.action, Forward)
        for name in (*route.action.upstreams, *(upstream for upstream, _ in route.action.mirrors))
    )
    return Manifests(
        listeners=part.listeners,
        homeless=part.homeless,
        upstreams=tuple(map(cluster.upstream, names)),
        routes=routes,
        rules=plugins.rules,
        route_groups=_route_groups(routes),
        statuses=(*statuses, *part.statuses, *ingresses.statuses, *plugins.statuses, *broken),
        notes=(*notes, *part.notes, *ingresses.notes, *plugins.notes, *_taken(routes)),
    )


def _taken(routes: Iterable[Route]) -> Iterator[Problem]:
    """Warnings about routes that get no request, because a route of another namespace takes all of them before."""
    first: dict[tuple[str, tuple[str, ...], RequestMatch], Route] = {}
    for route in (route for route in routes if route.action is not None):
        before = first.setdefault((route.group, route.domains, route.request), route)
        if namespace_of(before) != namespace_of(route):
            hosts = "every host" if route.domains == ("*",) else ", ".join(route.domains)
            text = (
                f"{route.title} gets no request for {hosts}: {before.title} ({before.position}), of another namespace, "
                "is about the same ones, and comes first by its creationTimestamp or its name"
            )
            yield Problem(route.position, text, Severity.WARNING)


def _route_groups(routes: Iterable[Route]) -> dict[str, tuple[str, ...]]:
    """Routes by the beginnings of their names: `httproute/shop/web`, `httproute/shop/web/rule/1`."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(route.name for route in routes):
        parts = name.split("/")
        for end in range(3, len(parts), 2):
            groups.setdefault("/".join(parts[:end]), []).append(name)
    return {prefix: tuple(names) for prefix, names in groups.items()}
