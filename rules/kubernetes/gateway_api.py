"""The Gateway API: Gateways and HTTPRoutes put together. docs/gateway-api.md is the page for users.

In: the `Cluster`. Out: the listeners, the routes of each port in the specification's order of precedence, and a status
for every object. Pure; nothing is raised.

An HTTPRoute becomes one `Route` for each port of a Gateway, host name, rule and match. So the order of routes is the
order of precedence, and `decide` and `plan` do not depend on the specification.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from rejoinder.rules.fields import MAX_ITEMS
from rejoinder.rules.kubernetes.cluster import GATEWAY_API, Cluster
from rejoinder.rules.kubernetes.direct_response import KIND as DIRECT_RESPONSE
from rejoinder.rules.kubernetes.direct_response import read_direct_response
from rejoinder.rules.kubernetes.gateway import ADDRESS_NOT_USABLE, Gateway, GatewayListener, read_gateway
from rejoinder.rules.kubernetes.http_matches import Match
from rejoinder.rules.kubernetes.http_route import HttpRoute, read_http_route
from rejoinder.rules.kubernetes.objects import Key, annotations_without_effect
from rejoinder.rules.kubernetes.status import (
    ACCEPTED,
    PARTIALLY_INVALID,
    PROGRAMMED,
    RESOLVED_REFS,
    UNSUPPORTED_VALUE,
    Condition,
    Fault,
    ParentRef,
    Status,
    condition_of,
    judged,
)
from rejoinder.rules.manifests import Manifests
from rejoinder.rules.matching import domain_covers
from rejoinder.rules.model import UNCHANGED, Answer, PathKind, Redirect, Route, StringKind, StringMatch

WELL_KNOWN_PORTS: Final = {"http": 80, "https": 443}


MAX_ROUTES: Final = 10_000
"""Of one HTTPRoute: five times the maximum of its rules, matches and hostnames at one listener."""


@dataclass(frozen=True, slots=True)
class _Attachment:
    """An HTTPRoute at one listener."""

    gateway: Gateway
    listener: GatewayListener
    domains: tuple[str, ...]


def read_gateway_api(cluster: Cluster) -> Manifests:
    """What the Gateways, HTTPRoutes and DirectResponses say."""
    answers = {manifest: read_direct_response(manifest) for manifest in cluster.of_kind(DIRECT_RESPONSE)}
    routes = [
        read_http_route(manifest, cluster, {response.key: answer for response, (answer, _) in answers.items()})
        for manifest in cluster.of_kind("HTTPRoute")
    ]
    gateways = _on_their_own([read_gateway(manifest, cluster) for manifest in cluster.of_kind("Gateway")])
    by_key = {gateway.key: gateway for gateway in gateways}

    entries: list[tuple[Any, Route]] = []
    attached: dict[tuple[Key, str], set[Key]] = {}
    statuses: list[Status] = []
    for route in routes:
        led = [(ref, *_attach(route, ref, by_key, cluster)) for ref in route.parents]
        by_listener = {(at.gateway.key, at.listener.name): at for _, attachments, _ in led for at in attachments}
        if too_large := _too_large(route, by_listener.values(), len(entries)):
            route, by_listener = replace(route, faults=(*route.faults, too_large)), {}  # noqa: PLW2901 - with its fault
        for where, at in by_listener.items():
            attached.setdefault(where, set()).add(route.object.key)
            entries += _entries(route, at)
        parents = tuple((ref, _parent_conditions(route, attachments, fault)) for ref, attachments, fault in led)
        statuses.append(Status(route.object, _unattached(route), parents))
    entries += (entry for gateway in gateways for entry in _fences(gateway))
    entries.sort(key=lambda entry: entry[0])
    return Manifests(
        listeners=tuple(socket for gateway in gateways if not gateway.homeless for socket in gateway.sockets()),
        homeless=tuple(socket for gateway in gateways if gateway.homeless for socket in gateway.sockets()),
        routes=tuple(dict.fromkeys(route for _, route in entries)),
        statuses=(
            *(
                gateway.status({name: len(keys) for (key, name), keys in attached.items() if key == gateway.key})
                for gateway in gateways
            ),
            *statuses,
            *(judged(manifest, faults, ACCEPTED) for manifest, (_, faults) in answers.items()),
        ),
        notes=(
            *(note for route in routes for note in route.notes),
            *(note for manifest in cluster.of_kind("Gateway") for note in annotations_without_effect(manifest)),
        ),
    )


def _too_large(route: HttpRoute, at: Iterable[_Attachment], others: int) -> Fault | None:
    """The fault of an HTTPRoute that becomes too many routes: its matches are repeated for each listener and hostname,
    so a short text could become millions."""
    size = sum(len(attachment.domains) for attachment in at) * sum(len(rule.matches) for rule in route.rules)
    if size <= min(MAX_ROUTES, MAX_ITEMS - others):
        return None
    message = (
        f"with each match at each listener and hostname, it is {size:,} routes: "
        f"expected at most {MAX_ROUTES:,}, and {MAX_ITEMS:,} of all HTTPRoutes together"
    )
    return Fault(route.object.position, message, reason=UNSUPPORTED_VALUE)


def _on_their_own(gateways: Iterable[Gateway]) -> list[Gateway]:
    """Each Gateway has its own addresses and ports: a second Gateway with the same ones is not programmed."""
    taken: dict[tuple[str, int], Gateway] = {}
    result: list[Gateway] = []
    for gateway in gateways:
        sockets = [(socket.address, socket.port) for socket in gateway.sockets()]
        clash = next((socket for socket in sockets if socket in taken), None)
        if clash is None or gateway.object is None:
            taken.update(dict.fromkeys(sockets, gateway))
            result.append(gateway)
            continue
        message = (
            f"{clash[0]} port {clash[1]} belongs to Gateway {taken[clash].key} already: "
            "give one of them an address of its own in spec.addresses, or with up --listen"
        )
        fault = Fault(gateway.object.position, message, reason=ADDRESS_NOT_USABLE, condition=PROGRAMMED)
        result.append(replace(gateway, faults=(*gateway.faults, fault)))
    return result


# --- where routes are attached ---


def _attach(
    route: HttpRoute, ref: ParentRef, gateways: Mapping[Key, Gateway], cluster: Cluster
) -> tuple[list[_Attachment], Fault | None]:
    """The listeners of a reference; if there are none, the fault."""

    def none(reason: str, message: str) -> tuple[list[_Attachment], Fault]:
        return [], Fault(ref.to.place.position, message, reason=reason)

    if (ref.to.group, ref.to.kind) != (GATEWAY_API, "Gateway"):
        return none("NoMatchingParent", f"{ref.to.kind} {ref.to.key} is no Gateway, and no other parent is supported")
    gateway = gateways.get(ref.to.key) if gateways else _rule_files(ref.to.key)
    if gateway is None:
        return none("NoMatchingParent", f"there is no Gateway {ref.to.key}: add it to the files")
    named = [
        listener
        for listener in gateway.listeners
        if (not ref.section or not gateway.object or listener.name == ref.section)
        and (ref.port is None or not gateway.object or listener.port == ref.port)
    ]
    if not named:
        return none("NoMatchingParent", f"Gateway {ref.to.key} has no listener of that name and port")
    allowed = [listener for listener in named if listener.lets_in(route.object, gateway.object, cluster)]
    if not allowed:
        message = (
            f"no listener of Gateway {ref.to.key} allows HTTPRoutes of {route.object.key.namespace}: see allowedRoutes"
        )
        return none("NotAllowedByListeners", message)
    usable = [listener for listener in allowed if listener.usable and gateway.usable]
    if not usable:
        return none("NoMatchingParent", f"Gateway {ref.to.key} cannot be used: see its own conditions")
    met = [
        _Attachment(gateway, listener, domains)
        for listener in usable
        for domains in [_meet(listener.hostname, route.hostnames)]
        if domains
    ]
    if not met:
        message = f"no listener of Gateway {ref.to.key} has a hostname in common with {', '.join(route.hostnames)}"
        return none("NoMatchingListenerHostname", message)
    return met, None


def _rule_files(key: Key) -> Gateway:
    """The stand-in if no Gateway is among the files: the listeners of the rule files."""
    listener = GatewayListener("rule-files", 0, "HTTP", namespaces="All")
    return Gateway(key, None, (), (listener,))


def _meet(listener: str, hostnames: tuple[str, ...]) -> tuple[str, ...]:
    """The hosts that a route and a listener have in common."""
    if not hostnames:
        return (listener or "*",)
    if not listener:
        return hostnames
    both = (
        host if domain_covers(listener, host) else listener if domain_covers(host, listener) else ""
        for host in hostnames
    )
    return tuple(dict.fromkeys(filter(None, both)))


# --- what becomes of them ---


def _parent_conditions(
    route: HttpRoute, attachments: Sequence[_Attachment], fault: Fault | None
) -> tuple[Condition, ...]:
    faults = (*((fault,) if fault else ()), *route.faults, *(own for rule in route.rules for own in rule.faults))
    message = ""
    if not fault and not attachments[0].gateway.object:
        message = "no Gateway is among the files, so it is attached where the rule files listen"
    conditions = [condition_of(ACCEPTED, faults, message=message), condition_of(RESOLVED_REFS, faults)]
    broken = [number for number, rule in enumerate(route.rules) if any(it.condition == ACCEPTED for it in rule.faults)]
    works = any(
        (match.whole and rule.refusal) or number not in broken
        for number, rule in enumerate(route.rules)
        for match in rule.matches
    )
    if broken and works:
        text = f"the faults of rule {', '.join(map(str, broken))} answer 500, the rest works"
        conditions.append(Condition(PARTIALLY_INVALID, True, UNSUPPORTED_VALUE, text))
    return tuple(conditions)


def _unattached(route: HttpRoute) -> tuple[Condition, ...]:
    """A route without a parent has nowhere to say what is wrong with it."""
    if route.parents:
        return ()
    message = "spec.parentRefs is missing: it is attached to nothing"
    fault = Fault(route.object.position, message, reason="NoMatchingParent")
    return (condition_of(ACCEPTED, (*route.faults, fault)),)


# --- routes in their order ---


def _entries(route: HttpRoute, at: _Attachment) -> Iterator[tuple[Any, Route]]:
    narrower = _narrower(at.gateway, at.listener)
    domains = [domain for domain in at.domains if not any(domain_covers(other.hostname, domain) for other in narrower)]
    for number, rule in enumerate(route.rules):
        for place, match in enumerate(rule.matches):
            own = rule.action if match.whole else rule.refusal or rule.action
            for domain in domains:
                action = _at_listener(own, at.listener, domain)
                entry = Route(
                    name=f"httproute/{route.object.key}/rule/{number}/match/{place}",
                    action=action,
                    domains=(domain,),
                    request=match.request,
                    request_headers=rule.request_headers,
                    response_headers=rule.response_headers,
                    group=at.gateway.group(at.listener.port),
                    title=f"{route.object.title} rule {number} match {place}",
                    position=rule.position,
                )
                if isinstance(own, Answer):
                    entry = replace(entry, request_headers=UNCHANGED, response_headers=UNCHANGED)
                key = (*_precedence(route, match, domain), number, place)
                if isinstance(action, Redirect) and action.scheme and (action.host, action.port) == (None, None):
                    # Envoy would redirect to the given scheme, at the port of the request's Host.
                    with_port = replace(match.request, headers=(*match.request.headers, _WITH_PORT))
                    to = replace(action, port=WELL_KNOWN_PORTS[action.scheme])
                    yield key, replace(entry, request=with_port, action=to)
                yield key, entry


def _narrower(gateway: Gateway, listener: GatewayListener) -> list[GatewayListener]:
    """The listeners on the same port that take some of a listener's hosts.

    https://gateway-api.sigs.k8s.io/reference/spec/#listener calls it listener isolation: a request is for the most
    specific listener alone.
    """
    return [
        other
        for other in gateway.listeners
        if other.port == listener.port
        and other.hostname not in ("", listener.hostname)
        and other.usable
        and domain_covers(listener.hostname or "*", other.hostname)
    ]


def _fences(gateway: Gateway) -> Iterator[tuple[Any, Route]]:
    """Routes behind all routes of a listener, which keep its hosts from the routes of a wider listener."""
    fenced = {other.name: other for listener in gateway.listeners for other in _narrower(gateway, listener)}
    for listener in fenced.values():
        name = f"gateway/{gateway.key}/listener/{listener.name}/no-route"
        route = Route(
            name=name,
            action=None,
            domains=(listener.hostname,),
            group=gateway.group(listener.port),
            title=f"Gateway {gateway.key} listener {listener.name}, no route",
            position=listener.position,
        )
        yield (_host_precedence(listener.hostname), _FENCE), route


# The rank of a match: a fence comes behind all routes of its host.
_WHOLE, _NOT_WHOLE, _FENCE = range(3)


def _host_precedence(domain: str) -> tuple[bool, int]:
    return domain.startswith("*"), -len(domain.removeprefix("*"))


def _precedence(route: HttpRoute, match: Match, domain: str) -> tuple[Any, ...]:
    """The sort key of routes: routes with smaller keys are tried first.

    https://gateway-api.sigs.k8s.io/reference/spec/#httprouterule defines the order within a host, `hostnames` of
    #httproutespec that of hosts. The specification does not order regular expressions: here they come between exact
    paths and prefixes. A match with an unusable test comes last, so that its 500 takes no requests of other routes.
    """
    request = match.request
    return (
        _host_precedence(domain),
        _WHOLE if match.whole else _NOT_WHOLE,
        (_KIND_ORDER.index(request.path.kind), -len(request.path.value)),
        not request.methods,
        -len(request.headers),
        -len(request.query),
        (not route.object.created, route.object.created),
        route.object.key,
    )


_KIND_ORDER: Final = (PathKind.EXACT, PathKind.REGEX, PathKind.PREFIX)


# For a request whose Host has a port.
_WITH_PORT: Final = ("host", StringMatch(StringKind.REGEX, r".*:[0-9]+"))


def _at_listener(action: Any, listener: GatewayListener, domain: str) -> Any:
    """A redirect without a port goes to the port of its scheme, or of the listener."""
    if not isinstance(action, Redirect) or not (listener.port or action.scheme):
        return action
    scheme = action.scheme or listener.scheme
    wanted = action.port or (WELL_KNOWN_PORTS[scheme] if action.scheme else listener.port)
    if wanted != WELL_KNOWN_PORTS[scheme]:
        return replace(action, port=wanted)
    # A well-known port is left out. Envoy keeps the port of Host unless the redirect has a port or host.
    if action.scheme and action.host is None and "*" not in domain:
        return replace(action, host=domain, port=None)
    kept = not action.scheme and action.host is None and listener.port != WELL_KNOWN_PORTS[listener.scheme]
    return replace(action, port=wanted if kept else None)
