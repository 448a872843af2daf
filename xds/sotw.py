"""The older protocol variant, state of the world: a request lists all wanted resources, a response all existing ones.

`StateOfTheWorld` is the entry point; it reads a stream's `Request`s, and `session` decides what follows from them. For
routes and extensions a response may list some resources only; clients drop unused ones of these by themselves.
https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#the-discovery-request-and-response
"""

from __future__ import annotations

from dataclasses import dataclass

from rejoinder.xds.forms import NOBODY, Node
from rejoinder.xds.session import Output, Session
from rejoinder.xds.snapshot import ResourceType
from rejoinder.xds.stream import Response, Stream, Subscription, without


@dataclass(frozen=True, slots=True)
class Request:
    """A DiscoveryRequest: a subscription, and the answer to the last response."""

    type_url: str
    names: tuple[str, ...] = ()
    version: str = ""
    """The last version that the client accepted, also on an earlier stream."""
    nonce: str = ""
    """Of the response that this request answers; empty: the stream's first request for the type."""
    error: str | None = None
    """Why the client rejects that response; None: it does not."""
    node: Node = NOBODY


class StateOfTheWorld(Session):
    """One client's stream."""

    incremental = False

    def on_request(self, request: Request) -> list[Output]:
        """Take a request from the client.

        Returns:
            What is to be sent and reported because of it, in order; empty also for a type that is not ours, and for a
            request whose nonce is not the last one: a response has overtaken it, and the client repeats what it wants
            when it answers that response.
        """
        stream = self._asked(request)
        if stream is None or (stream.nonce and request.nonce != stream.nonce):
            return []
        kind, before = stream.type, stream.subscription
        subscription = _subscription(kind, before, request.names)
        stream.resubscribe(subscription)
        if before is None:
            self._resume(stream, subscription, request.version)
        elif kind.whole and subscription.names - before.names:
            # A new name is answered even if the client already has the resource through its wildcard.
            stream.owed = True
        return self._answered(stream, request.error)

    def _resume(self, stream: Stream, subscription: Subscription, version: str) -> None:
        # A client that connects again reports its version. For a wildcard subscription to a whole type, the same
        # version means the same set of resources, and nothing need be sent. For the others the specification warns: the
        # client may have forgotten a resource since, or may be waiting for it.
        # https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#ack-nack-and-resource-type-instance-version
        stream.resumed = bool(version)
        if subscription.wildcard and version == self.ours.versions[stream.type]:
            stream.sent = stream.accepted = self.ours.by_type[stream.type]
        else:
            stream.owed = stream.type.whole

    def _distrust(self, stream: Stream, response: Response) -> None:
        if stream.whole:
            stream.sent = stream.accepted
            stream.owed = True
        else:
            stream.sent = stream.accepted = without(stream.accepted, response.names)


def _subscription(kind: ResourceType, before: Subscription | None, names: tuple[str, ...]) -> Subscription:
    """The subscription after a request with these names.

    No names mean `*`, if the type allows that and no name was ever given on the stream.
    https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#how-the-client-specifies-what-resources-to-return
    """
    if not names and (before is None or not before.named):
        return Subscription(wildcard=kind.whole)
    return Subscription("*" in names and kind.whole, frozenset(names) - {"*"}, named=True)
