"""The protocol's newer variant, incremental: requests and responses say what has changed.

`Incremental` is the entry point; it reads a stream's `DeltaRequest`s, and `session` decides what follows from them.
https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#incremental-xds
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from rejoinder.xds.forms import NOBODY, Node
from rejoinder.xds.remember import Frozen
from rejoinder.xds.session import Output, Session
from rejoinder.xds.snapshot import ROUTES, VIRTUAL_HOSTS, Resources, routes_of
from rejoinder.xds.stream import SHARED, Response, Stream, Subscription, unknown


@dataclass(frozen=True, slots=True)
class DeltaRequest:
    """A DeltaDiscoveryRequest: a change of the subscription, or the answer to a response, or both."""

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial: Mapping[str, str] = field(default_factory=dict)
    """In a stream's first request for the type: the versions of the resources from an earlier stream, by name."""
    nonce: str = ""
    """Of the response that this request answers; empty: none."""
    error: str | None = None
    """Why the client rejects that response; None: it does not."""
    node: Node = NOBODY


class Incremental(Session):
    """One client's stream."""

    incremental = True

    _resumed: frozenset[str] = frozenset()
    """The names of the route configurations that the client had when the stream began."""

    def on_request(self, request: DeltaRequest) -> list[Output]:
        """Take a request from the client.

        Returns:
            What is to be sent and reported because of it, in order; empty also for a type that is not ours. A request
            that answers a response other than the last one counts for its names only.
        """
        stream = self._asked(request)
        if stream is None:
            return []
        if stream.subscription is None:
            self._resume(stream, request)
        else:
            _resubscribe(stream, stream.subscription, request)
        if stream.under_way and request.nonce == stream.under_way.nonce:
            return self._answered(stream, request.error)
        return list(self._advance())

    def _resume(self, stream: Stream, request: DeltaRequest) -> None:
        kind = stream.type
        # Only in the first request, no names mean `*`.
        wildcard = kind.wildcard and (not request.subscribe or "*" in request.subscribe)
        stream.subscription = Subscription(wildcard, frozenset(request.subscribe) - {"*"})
        ours = self.ours.by_type[kind]
        initial = request.initial
        if kind is ROUTES:
            self._resumed = frozenset(initial)
        elif kind is VIRTUAL_HOSTS and not self._resumed.issuperset(map(routes_of, initial)):
            # Envoy also lists virtual hosts that it has dropped because it had no route configuration for them.
            initial = {name: version if routes_of(name) in self._resumed else "" for name, version in initial.items()}
        if wildcard and initial == _versions(ours):
            had = ours
        else:
            had = stream.subscription.of(
                Frozen(
                    (name, ours[name] if name in ours and ours[name].version == version else unknown(kind, name))
                    for name, version in initial.items()
                )
            )
        stream.sent = stream.accepted = had
        # A client that has nothing and asks for all resources is answered even if there are none. (For virtual hosts,
        # Envoy expects no such answer, and asks for them whether or not there are any.)
        stream.owed = kind.whole and wildcard and not had

    def _distrust(self, stream: Stream, response: Response) -> None:
        assert stream.subscription is not None
        # A name that was asked for and never given is answered again in any case.
        names = response.names if stream.subscription.wildcard else response.names & stream.accepted.keys()
        doubtful = {name: unknown(response.type, name) for name in names}
        stream.sent = stream.accepted = stream.subscription.of(Frozen({**stream.accepted, **doubtful}))
        stream.absent -= response.names


@functools.lru_cache(SHARED)
def _versions(resources: Resources) -> dict[str, str]:
    return {name: resource.version for name, resource in resources.items()}


def _resubscribe(stream: Stream, before: Subscription, request: DeltaRequest) -> None:
    # A requested name is answered, whatever the client has. So is a name that the client drops while it keeps the
    # wildcard: the client has dropped the resource and cannot know whether the wildcard includes it.
    added, dropped = frozenset(request.subscribe), frozenset(request.unsubscribe)
    wildcard = stream.type.wildcard and ("*" in added or before.wildcard) and "*" not in dropped
    names = (before.names - dropped) | (added - {"*"})
    stream.given_up = (stream.given_up | dropped) - names - {"*"} if wildcard else frozenset()
    stream.resubscribe(Subscription(wildcard, names), repeated=added | dropped)
