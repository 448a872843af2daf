"""What a rule file says, as values: the vocabulary of the whole project.

Everything here is frozen and compares by content; nothing here reads files, knows YAML or knows Envoy. `load` makes a
`Ruleset`, `decide` says what it means, `xds.plan` works it into routes. The words are those of docs/rule-format.md.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

Header = tuple[str, str]
"""One header field: the name in lower case, the value as it is sent."""

STATUSES: Final = range(200, 600)
"""The statuses that an answer may have and may be asked for: final ones (RFC 9110, section 15)."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where something stands in the files that were loaded."""

    file: str
    """The file's path, as the user gave it."""
    line: int
    """Counted from 1; 0 where the file as a whole is meant."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class PathKind(enum.Enum):
    EXACT = "path"
    PREFIX = "prefix"
    REGEX = "regex"


@dataclass(frozen=True, slots=True)
class PathMatch:
    """A test of the path as Envoy normalizes it, without the query."""

    kind: PathKind
    value: str
    """EXACT: the whole path. PREFIX: whole path elements, so `/a` fits `/a` and `/a/b`, not `/ab`; no `/` at the end
    unless it is `/` itself, which fits every path. REGEX: RE2 syntax, must fit the whole path."""


EVERY_PATH: Final = PathMatch(PathKind.PREFIX, "/")


class StringKind(enum.Enum):
    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    CONTAINS = "contains"
    REGEX = "regex"
    PRESENT = "present"


@dataclass(frozen=True, slots=True)
class StringMatch:
    """A test of a header's or a query parameter's value; case matters. What is absent never fits."""

    kind: StringKind
    value: str = ""
    """Empty for PRESENT. REGEX: RE2 syntax, must fit the whole value."""


@dataclass(frozen=True, slots=True)
class RequestMatch:
    """What a request must be like. All that is given must fit; the default fits every request."""

    path: PathMatch = EVERY_PATH
    methods: tuple[str, ...] = ()
    """Any of these, exactly; empty: every method."""
    headers: tuple[tuple[str, StringMatch], ...] = ()
    """By name in lower case. Of a header that is sent in several lines any one may fit, save those that Envoy joins
    (`request.JOINED_HEADERS`)."""
    query: tuple[tuple[str, StringMatch], ...] = ()
    """By parameter name, as it stands in the URL (nothing is decoded). Of a parameter that is sent several times the
    first value counts."""


EVERY_REQUEST: Final = RequestMatch()


@dataclass(frozen=True, slots=True)
class StatusPattern:
    """Upstream statuses, as `enable_on_status` names them: `503`, `50x`, `5xx`."""

    digits: str
    """One to three digits; the missing ones fit every digit. Three digits are one exact status."""

    def statuses(self) -> range:
        """The statuses that it stands for."""
        missing = 10 ** (3 - len(self.digits))
        return range(int(self.digits) * missing, (int(self.digits) + 1) * missing)

    def __str__(self) -> str:
        return self.digits.ljust(3, "x")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that is written in a rule file."""

    status_code: int | None = 200
    """What the client gets, one of STATUSES; None: the status that the upstream gave (`original`)."""
    headers: tuple[Header, ...] = ()
    """In order; a name may come several times. Never content-length; content-type only if the user gave it."""
    body: bytes = b""
    enable_on_status: tuple[StatusPattern, ...] = ()
    """The upstream statuses that call for this answer; empty: any, or an unconditional answer (see `Rule`)."""
    handler: str = ""
    """`package.module:function`, a Python function that makes status, headers and body; empty: they are given here."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which requests a rule is about: all three must fit."""

    domains: tuple[str, ...] = ()
    """Any of these: `example.com`, `*.example.com` or `*`, in lower case without port; empty: every domain."""
    routes: tuple[str, ...] | None = None
    """The route that the request takes is one of these; None: any route, or none at all."""
    request: RequestMatch = EVERY_REQUEST


@dataclass(frozen=True, slots=True)
class Rule:
    """A scope and its answers. All of them unconditional: the first one is given without asking an upstream."""

    name: str
    answers: tuple[Answer, ...]
    scope: Scope = Scope()
    fallthrough: bool = False
    """No answer fits the upstream's status: False, its response passes; True, the next rule that fits is asked."""
    position: Position = field(default=Position("", 0), compare=False)

    @property
    def unconditional(self) -> bool:
        """Whether the first answer is given without asking an upstream."""
        return not any(answer.enable_on_status for answer in self.answers)

    @property
    def final(self) -> bool:
        """Whether no rule behind it is ever asked about a request that fits its scope."""
        return not self.fallthrough or any(not answer.enable_on_status for answer in self.answers)


@dataclass(frozen=True, slots=True)
class Redirect:
    """A route's action: send the client to another address. What is None stays as it is in the request."""

    scheme: str | None = None
    host: str | None = None
    port: int | None = None
    path: str | None = None
    """The whole new path; it may bring a query of its own, else the request's query is kept."""
    prefix: str | None = None
    """Put in place of the route's prefix (path elements); for a route with an exact path or a regex, of the whole path.
    At most one of `path` and `prefix` is given."""
    status_code: int = 301
    """One of 301, 302, 303, 307, 308."""


@dataclass(frozen=True, slots=True)
class Forward:
    """A route's action: ask an upstream."""

    upstream: str


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A token bucket for one route: `requests` in each interval, the rest are answered 429 by Envoy."""

    requests: int
    interval: float
    """In seconds; at least 0.05, which is the shortest that Envoy takes."""


@dataclass(frozen=True, slots=True)
class Route:
    """A named request match with one action. The first one that fits takes the request."""

    name: str
    action: Answer | Redirect | Forward
    domains: tuple[str, ...] = ()
    """As in `Scope`."""
    request: RequestMatch = EVERY_REQUEST
    rate_limit: RateLimit | None = None
    """Only beside `Forward`."""
    position: Position = field(default=Position("", 0), compare=False)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of an upstream."""

    host: str
    """An IP address (IPv6 without brackets) or a DNS name."""
    port: int


@dataclass(frozen=True, slots=True)
class Upstream:
    """A named backend; requests are spread over its addresses in turn."""

    name: str
    endpoints: tuple[Endpoint, ...]
    """Empty for `builtin:echo` until somebody says where it listens."""
    tls: bool = False
    """TLS with the certificate verified against the endpoint's host name."""
    echo: bool = False
    """`builtin:echo`: the small server that `rejoinder up` runs itself."""
    position: Position = field(default=Position("", 0), compare=False)


@dataclass(frozen=True, slots=True)
class Listener:
    """An address that Envoy accepts HTTP/1.1 and HTTP/2 on."""

    address: str
    """An IP address, IPv6 without brackets."""
    port: int
    """0: any free one."""
    certificate: bytes | None = None
    """PEM, the chain; None: no TLS."""
    key: bytes | None = field(default=None, repr=False)
    """PEM; given when `certificate` is."""
    position: Position = field(default=Position("", 0), compare=False)


DEFAULT_LISTENER: Final = Listener("0.0.0.0", 10000)


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All that the loaded files say, merged. Names are unique within their kind."""

    listeners: tuple[Listener, ...] = (DEFAULT_LISTENER,)
    upstreams: tuple[Upstream, ...] = ()
    routes: tuple[Route, ...] = ()
    """In the order in which they are tried."""
    rules: tuple[Rule, ...] = ()
    """In the order in which they are tried."""
