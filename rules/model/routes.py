"""Routes and their actions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from rejoinder.rules.model.listeners import RULE_FILES
from rejoinder.rules.model.matches import EVERY_REQUEST, Header, Position, RequestMatch
from rejoinder.rules.model.rules import Answer


@dataclass(frozen=True, slots=True)
class Redirect:
    """A route's action: redirect the client. A part that is None stays as it is in the request."""

    scheme: str | None = None
    host: str | None = None
    port: int | None = None
    path: str | None = None
    """The whole new path; it may have a query, else the request's query is kept."""
    prefix: str | None = None
    """Replaces the route's prefix (path elements); for a route with an exact path or a regex, the whole path. At most
    one of `path` and `prefix` is given."""
    status_code: int = 301
    """One of 301, 302, 303, 307, 308."""


@dataclass(frozen=True, slots=True)
class HeaderChanges:
    """Changes of headers: first headers are removed, then set, then added. Names in lower case."""

    set: tuple[Header, ...] = ()
    """Replace headers of the same name."""
    add: tuple[Header, ...] = ()
    """Are added to headers of the same name."""
    remove: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.set or self.add or self.remove)


UNCHANGED: Final = HeaderChanges()


@dataclass(frozen=True, slots=True)
class Backend:
    """One of several upstreams of a route."""

    upstream: str | None
    """None: it does not exist, so this share of the requests is answered 500."""
    weight: int = 1
    """Its share of the requests, relative to the sum of all weights; 0: none."""
    host: str | None = None
    """The Host that it gets; None: that of the request, or of the route's `Rewrite`."""
    request_headers: HeaderChanges = UNCHANGED
    response_headers: HeaderChanges = UNCHANGED


@dataclass(frozen=True, slots=True)
class Rewrite:
    """How a request's URL is changed before the upstream gets it. A part that is None stays."""

    host: str | None = None
    path: str | None = None
    """The whole new path; the query is kept."""
    prefix: str | None = None
    """Replaces the route's prefix, as in `Redirect`; only beside a prefix."""


@dataclass(frozen=True, slots=True)
class Cors:
    """Which other origins' pages may read the responses (https://fetch.spec.whatwg.org/#http-cors-protocol)."""

    origins: tuple[str, ...]
    """`https://example.com`, with `*` for any characters but `/`; `*` alone: every origin."""
    methods: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    expose: tuple[str, ...] = ()
    credentials: bool = False
    max_age: int = 5
    """In seconds."""


WEBSOCKET: Final = ("websocket",)
"""The default upgrades of a route."""


@dataclass(frozen=True, slots=True)
class Retries:
    """When a request is sent to the upstream again."""

    attempts: int
    """The first attempt is not counted."""
    on: tuple[str, ...]
    """Statuses and patterns as in `StatusPattern`, `connect-failure`, `refused-stream`, `reset`."""


@dataclass(frozen=True, slots=True)
class Forward:
    """A route's action: ask an upstream."""

    upstream: str
    """Empty where there are `backends`."""
    backends: tuple[Backend, ...] = ()
    """One of these is picked for each request; the sum of their weights is not 0."""
    rewrite: Rewrite = Rewrite()
    mirrors: tuple[tuple[str, float], ...] = ()
    """Upstreams that get a copy of a percentage of the requests; their responses are dropped."""
    cors: Cors | None = None
    timeout: float = 0.0
    """In seconds, for the whole response; 0: none."""
    idle_timeout: float | None = None
    """In seconds without data in either direction; 0: none. None: the listener's."""
    retries: Retries | None = None
    upgrades: tuple[str, ...] = WEBSOCKET
    """Protocols that a client may ask to switch to, such as `websocket`."""

    @property
    def upstreams(self) -> tuple[str, ...]:
        """The upstreams that may get the request."""
        given = tuple(backend.upstream for backend in self.backends if backend.upstream is not None and backend.weight)
        return given if self.backends else (self.upstream,)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A token bucket for one route: `requests` in each interval; Envoy answers the rest with 429."""

    requests: int
    interval: float
    """In seconds; at least 0.05, which is the shortest that Envoy takes."""


@dataclass(frozen=True, slots=True)
class Route:
    """A named request match with one action. The first one of its group that fits takes the request."""

    name: str
    """Unique, except that the routes of one match of a manifest, for several hosts or listeners, share a name."""
    action: Answer | Redirect | Forward | None
    """None: the request is answered as if no route fitted, with Envoy's own 404."""
    domains: tuple[str, ...] = ()
    """As in `Scope`."""
    request: RequestMatch = EVERY_REQUEST
    rate_limit: RateLimit | None = None
    """Only beside `Forward`."""
    request_headers: HeaderChanges = UNCHANGED
    response_headers: HeaderChanges = UNCHANGED
    """Not for an `Answer`, which has headers of its own."""
    group: str = RULE_FILES
    """The listeners that it is for: see `Listener.group`."""
    title: str = ""
    """The name of a manifest's route in messages: `HTTPRoute shop/web rule 1 match 0`. These routes are in the order of
    their specification."""
    position: Position = field(default=Position("", 0), compare=False)

    def __hash__(self) -> int:
        return hash(self.name)
