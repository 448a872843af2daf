"""The rules of an HTTPRoute: their matches and actions.

In: an `HTTPRoute` object and the `Cluster`. Out: `RouteRule`s with matches and an action, and faults. Pure.
`http_matches` and `http_filters` read their parts; `gateway_api` attaches the routes and sorts them.

A rule with something unsupported is not left out: it answers 500 and says why, as the specification demands for
references that cannot be resolved. https://gateway-api.sigs.k8s.io/reference/spec/#httproute

All mistakes of a rule are noted with their places, as everywhere; at the end, these notes become `Fault`s and warnings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from rejoinder.rules.document import Scalar
from rejoinder.rules.fields import Fields, Place, Source, text_that
from rejoinder.rules.http import REDIRECTS
from rejoinder.rules.kubernetes.cluster import GATEWAY_API, Cluster
from rejoinder.rules.kubernetes.http_filters import Filters, read_filters
from rejoinder.rules.kubernetes.http_matches import Match, read_matches
from rejoinder.rules.kubernetes.known import HTTP_RULE, check, without
from rejoinder.rules.kubernetes.objects import (
    Key,
    Object,
    alone,
    annotations_of,
    annotations_without_effect,
    items,
    member,
    open_fields,
    port,
    read_spec,
    reference,
)
from rejoinder.rules.kubernetes.references import References
from rejoinder.rules.kubernetes.status import (
    ACCEPTED,
    INCOMPATIBLE_FILTERS,
    UNSUPPORTED_VALUE,
    Fault,
    ParentRef,
    as_faults,
    refusal,
    refuse,
    told_apart,
)
from rejoinder.rules.model import Answer, Backend, Forward, HeaderChanges, PathKind, Position, Redirect, Rewrite
from rejoinder.rules.problem import Problem
from rejoinder.rules.rule_file.matches import domains

MAX_WEIGHT: Final = 1_000_000
MAX_WEIGHTS: Final = 2**32 - 1
"""The sum for all backendRefs of a rule; Envoy has 32 bits."""

REDIRECT_ANNOTATION: Final = "kgateway.dev/http-redirect-status-code"
"""Of kgateway: the status of all redirects of the route, because the Gateway API had only 301 and 302."""
_DURATION: Final = re.compile(r"([0-9]{1,5}(h|m|s|ms)){1,4}")  # https://gateway-api.sigs.k8s.io/geps/gep-2257/
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_RULE: Final = re.compile(r"^spec\.rules\[\d+\](\.|: )?")  # the place of a rule, which messages give in other words


@dataclass(frozen=True, slots=True)
class RouteRule:
    """One entry of `spec.rules`."""

    matches: tuple[Match, ...]
    action: Answer | Redirect | Forward
    request_headers: HeaderChanges
    response_headers: HeaderChanges
    refusal: Answer | None
    """Replaces the action for matches that cannot be used; None: all can be used, or the action is a refusal itself."""
    faults: tuple[Fault, ...]
    """If any fault concerns the whole rule, its action is an answer with that fault."""
    notes: tuple[Problem, ...]
    """What has no effect."""
    position: Position


@dataclass(frozen=True, slots=True)
class HttpRoute:
    object: Object
    parents: tuple[ParentRef, ...]
    hostnames: tuple[str, ...]
    rules: tuple[RouteRule, ...]
    faults: tuple[Fault, ...] = ()
    """Of the route as a whole."""
    notes: tuple[Problem, ...] = ()
    """What has no effect."""


def read_http_route(route: Object, cluster: Cluster, answers: Mapping[Key, Answer | None]) -> HttpRoute:
    """An HTTPRoute; faults belong to it, or to its rule. `answers` are as in `References`."""
    spec = route.spec()
    _, unknown = read_spec(route, lambda _: None, None, "rules")
    parents, parent_problems = alone(spec, lambda it: _parents(it, route.key.namespace), ())
    hostnames, host_problems = alone(spec, _hostnames, ())
    places, rule_problems = alone(spec, _rules, [])
    status, status_problems = alone(spec, lambda _: _redirect_annotation(route), None)
    references = References(route, cluster, answers)
    rules = tuple(_read_rule(place, number, references, status) for number, place in enumerate(places))
    notes = (*(note for rule in rules for note in rule.notes), *annotations_without_effect(route, REDIRECT_ANNOTATION))
    if unknown or rule_problems or (host_problems and not hostnames):
        rules = ()  # their matches are not known, and without its hosts it would take those of others
    problems = (*unknown, *status_problems, *parent_problems, *host_problems, *rule_problems)
    return HttpRoute(route, parents, hostnames, rules, as_faults(problems, UNSUPPORTED_VALUE), notes)


def _redirect_annotation(route: Object) -> int | None:
    place = annotations_of(route).get(REDIRECT_ANNOTATION)
    if place is None:
        return None
    node = place.node
    statuses = [str(status) for status in REDIRECTS]
    if not (isinstance(node, Scalar) and node.text in statuses):
        raise place.expected(f"one of {', '.join(statuses)}")
    return int(node.text)


def _parents(spec: Place, namespace: str) -> tuple[ParentRef, ...]:
    def parent(place: Place) -> ParentRef:
        to, fields = reference(place, namespace, GATEWAY_API, "Gateway"), open_fields(place)
        return ParentRef(to, fields.get("sectionName", Place.string, ""), fields.get("port", port, None))

    return open_fields(spec).get("parentRefs", lambda it: it.each(parent), ())


def _hostnames(spec: Place) -> tuple[str, ...]:
    return open_fields(spec).get("hostnames", lambda it: domains(it) if it.items() else (), ())


def _rules(spec: Place) -> list[Place]:
    # The default is one rule that fits everything and has no backend.
    places = open_fields(spec).get("rules", Place.items, None)
    return [member(spec, "rules")] if places is None else places


def _read_rule(place: Place, number: int, references: References, redirect_status: int | None) -> RouteRule:
    """A rule; with a fault, it answers with that fault."""
    title = references.route.title
    place = replace(place, source=Source(place.source.file, place.source.files))
    rule = place.attempt(_known_fields, None)
    # A fault of a match affects only that match. A rule without matches fits all requests, unless they are misspelled.
    matches, match_problems = alone(member(place, "matches"), read_matches, (Match(whole=False),))
    matches = matches or (Match(whole=rule is not None and rule.given.keys() <= HTTP_RULE.keys()),)
    filters = member(place, "filters").attempt(lambda it: read_filters(it, references), Filters())
    read = member(place, "backendRefs").attempt(lambda it: _backends(it, references), ())
    backends = tuple(backend for backend, _ in read)
    timeout = place.attempt(_timeout, 0.0)
    if filters.redirect and backends:
        _exclude(place, "RequestRedirect", "backendRefs")
    if len(read) == 1:  # its filters are for the same requests
        filters = filters.joined(replace(read[0][1], request_headers=HeaderChanges(), response_headers=HeaderChanges()))
    _check(place, matches, filters, backends)
    action = _action(filters, backends, timeout, title)
    if isinstance(action, Redirect) and redirect_status:
        action = replace(action, status_code=redirect_status)
    of_matches, match_notes = _told(references.route, match_problems)
    faults, notes = _told(references.route, place.source.problems)
    stopped = [fault for fault in faults if not isinstance(action, Forward) or fault.condition == ACCEPTED]

    def refused(reasons: Iterable[Fault]) -> Answer:
        return refusal(f"{title} rule {number}: {'; '.join(dict.fromkeys(fault.message for fault in reasons))}")

    return RouteRule(
        matches,
        refused([*of_matches, *stopped]) if stopped else action,
        filters.request_headers,
        filters.response_headers,
        refused(of_matches) if of_matches and not stopped else None,
        tuple(replace(fault, message=f"rule {number}: {fault.message}") for fault in (*of_matches, *faults)),
        (*match_notes, *notes),
        place.position,
    )


def _known_fields(rule: Place) -> Fields:
    check(rule, without(HTTP_RULE, "matches"))
    return open_fields(rule)


def _told(route: Object, problems: Iterable[Problem]) -> tuple[list[Fault], list[Problem]]:
    faults, notes = told_apart(route, problems, UNSUPPORTED_VALUE)
    return [replace(fault, message=_RULE.sub("", fault.message)) for fault in faults], notes


def _check(place: Place, matches: tuple[Match, ...], filters: Filters, backends: tuple[Backend, ...]) -> None:
    """Note what excludes each other."""
    by_prefix = all(match.request.path.kind is PathKind.PREFIX for match in matches)
    if not by_prefix and any(change and change.prefix is not None for change in (filters.redirect, filters.rewrite)):
        refuse(place, UNSUPPORTED_VALUE, "ReplacePrefixMatch needs matches of type PathPrefix")
    if len(filters.responses) > 1:
        refuse(place, INCOMPATIBLE_FILTERS, "it has several DirectResponses: keep one of them")
    for name, given, other, beside in (
        ("a DirectResponse", filters.responses, "RequestRedirect", filters.redirect),
        ("a DirectResponse", filters.responses, "backendRefs", backends),
        ("RequestRedirect", filters.redirect, "URLRewrite", filters.rewrite),
    ):
        if given and beside:
            _exclude(place, name, other)
    if filters.cors and (filters.responses or filters.redirect):
        message = "CORS has no effect where the gateway answers or redirects by itself: remove one of them"
        refuse(place, UNSUPPORTED_VALUE, message)
    # A rule without backends is allowed by the specification, but answers 500.
    answered = backends or filters.responses or filters.redirect
    if not answered and not place.source.problems and place.path.endswith("]"):  # not for the default rule
        place.warn(f"{_NO_BACKENDS}; it answers 500")


_NO_BACKENDS: Final = "it has no backendRefs: there is nothing to forward to"


def _exclude(place: Place, one: str, other: str) -> None:
    refuse(place, INCOMPATIBLE_FILTERS, f"{one} and {other} exclude each other: remove one of them")


def _action(filters: Filters, backends: tuple[Backend, ...], timeout: float, title: str) -> Answer | Redirect | Forward:
    if filters.responses:
        return _with_headers(filters.responses[0], filters.response_headers)
    if filters.redirect:
        return filters.redirect
    usable = [backend.upstream for backend in backends if backend.weight and backend.upstream is not None]
    if not usable:
        return refusal(f"{title}: {'all its backendRefs have weight 0' if backends else _NO_BACKENDS}")
    rewrite = filters.rewrite or Rewrite()
    forward = Forward("", backends, rewrite, filters.mirrors, filters.cors, timeout)
    # The host of a single backend is in the rewrite.
    alone_and_plain = len(backends) == 1 and not (backends[0].request_headers or backends[0].response_headers)
    return replace(forward, upstream=usable[0], backends=()) if alone_and_plain else forward


def _backends(place: Place, references: References) -> tuple[tuple[Backend, Filters], ...]:
    backends = [_backend(item, references) for item in items(place)]
    for item, (_, filters) in zip(items(place), backends, strict=True) if len(backends) > 1 else ():
        # Envoy can do everything else only for a whole route, not for a share of its requests.
        if filters.redirect or filters.mirrors or replace(filters.rewrite or Rewrite(), host=None) != Rewrite():
            message = "on one of several backendRefs, filters can change headers and the host, nothing else"
            refuse(item, UNSUPPORTED_VALUE, message)
    if (total := sum(backend.weight for backend, _ in backends)) > MAX_WEIGHTS:
        raise place.mistake(f"all weights together are {total:,}: expected at most {MAX_WEIGHTS:,}")
    return tuple(backends)


def _backend(place: Place, references: References) -> tuple[Backend, Filters]:
    weight = open_fields(place).get("weight", lambda it: it.integer(range(MAX_WEIGHT + 1), "a weight"), 1)
    filters = read_filters(member(place, "filters"), references, backend=True)
    host = filters.rewrite.host if filters.rewrite else None
    upstream = references.upstream(place)
    return Backend(upstream, weight, host, filters.request_headers, filters.response_headers), filters


def _with_headers(answer: Answer, changes: HeaderChanges) -> Answer:
    replaced = {name for name, _ in changes.set} | set(changes.remove)
    kept = tuple(header for header in answer.headers if header[0] not in replaced)
    made = (*kept, *changes.set, *changes.add)
    removed = "content-type" in changes.remove and not any(name == "content-type" for name, _ in made)
    return replace(answer, headers=made, untyped=removed)


def _timeout(place: Place) -> float:
    fields = open_fields(member(place, "timeouts"))
    request = fields.get("request", _duration, None)
    backend = fields.get("backendRequest", _duration, None)
    if request and backend and backend > request:
        fields["backendRequest"].error("is longer than the timeout of the whole request")
    # Nothing is retried, so a request has one attempt at a backend. 0: no timeout.
    return min(filter(None, (request, backend)), default=0.0)


def _duration(place: Place) -> float:
    text = text_that(_DURATION.fullmatch, 'a duration such as "10s" or "1m30s"')(place)
    return sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9]+)(ms|h|m|s)", text))
