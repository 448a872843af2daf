"""What a rule file says, as values: the vocabulary of the whole project.

Everything here is frozen and compares by content; nothing here reads files, knows YAML or knows Envoy. `load` makes a
`Ruleset`, `decide` says what it means, `xds.plan` works it into routes. The words are those of docs/rule-format.md.
"""

from __future__ import annotations

import enum
import functools
import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

Header = tuple[str, str]
"""One header field: the name in lower case, the value as it is sent."""

RULE_FILES: Final = ""
"""The group of the listeners and routes that stand in rule files. Others belong to a port of a Gateway."""

STATUSES: Final = range(200, 600)
"""The statuses that an answer may have and may be asked for: final ones (RFC 9110, section 15)."""

MAX_REGEX_SIZE: Final = 5000
"""In instructions of RE2's program: each byte of what is held against it may take as many steps."""

RUNTIME: Final = {
    "layers": [
        {"name": "rejoinder", "static_layer": {"re2.max_program_size.error_level": 2 * MAX_REGEX_SIZE}},
        {"name": "admin", "admin_layer": {}},  # there by default; it has the last word
    ]
}
"""`layered_runtime` of an Envoy, which by itself takes 100 instructions: a UUID has 72. Twice the limit, as versions of
RE2 differ."""

MAX_HEADERS: Final = 500
"""In a list: Envoy refuses a route that adds more than 1,000, which may come from two lists."""

MAX_TEXT: Final = 4096
"""In bytes, for a path and whatever else becomes a regular expression in Envoy: each takes an instruction."""


class Position(NamedTuple):
    """Where something stands in the files that were loaded."""

    file: str
    """The file's path, as the user gave it."""
    line: int
    """Counted from 1; 0 where the file as a whole is meant."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class PathKind(enum.Enum):
    __hash__ = object.__hash__  # members are compared by identity; an Enum's own hash is ten times as slow

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

    def __hash__(self) -> int:
        return hash(self.value)


EVERY_PATH: Final = PathMatch(PathKind.PREFIX, "/")


class StringKind(enum.Enum):
    __hash__ = object.__hash__

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


@functools.lru_cache(maxsize=4096)  # there are some thousand patterns, and ten thousand rules that say 5xx
def _statuses(pattern: str) -> tuple[int, ...]:
    return tuple(
        status
        for status in STATUSES
        if all(digit in ("x", given) for digit, given in zip(pattern, str(status), strict=True))
    )


@dataclass(frozen=True, slots=True)
class StatusPattern:
    """Upstream statuses, as `enable_on_status` names them: `503`, `50x`, `5xx`."""

    digits: str
    """Up to three digits; `x`, and what is missing at the end, fits every digit. Three digits are one exact status."""

    def statuses(self) -> tuple[int, ...]:
        """The statuses that it stands for, of those that an upstream's response may have."""
        return _statuses(str(self))

    @property
    def exactness(self) -> int:
        """How many digits it names."""
        return sum(digit.isdigit() for digit in self.digits)

    def __str__(self) -> str:
        return self.digits.ljust(3, "x")


@dataclass(frozen=True, slots=True)
class Variant:
    """One of several bodies of an answer."""

    content_type: str = ""
    """As in the header; empty: that of the answer. At least one of this and `language` is given."""
    language: str = ""
    """A language tag (RFC 5646); empty: none is said."""
    body: bytes = b""
    template: bool = False
    """As in `Answer`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that is written in a rule file."""

    status_code: int | None = 200
    """What the client gets, one of STATUSES; None: the status that the upstream gave (`original`)."""
    headers: tuple[Header, ...] = ()
    """In order; a name may come several times. Never content-length; content-type only if the user gave it, or a file
    whose name tells it."""
    body: bytes = b""
    enable_on_status: tuple[StatusPattern, ...] = ()
    """The upstream statuses that call for this answer; empty: any, or an unconditional answer (see `Rule`)."""
    handler: str = ""
    """`package.module:function`, a Python function that makes status, headers and body; empty: they are given here."""
    passes: bool = False
    """The response is left alone, and no later rule is asked: the rest counts for nothing."""
    variants: tuple[Variant, ...] = ()
    """In place of `body`: a request gets the one that it accepts best."""
    template: bool = False
    """Body and header values are templates (`rules.template`)."""
    page: bool = False
    """The built-in page takes the place of `variants`, once all files are read."""
    keep_headers: tuple[str, ...] = ()
    """Names, in lower case, of headers of the response that stay, or beginnings of names with a `*` behind them."""

    @property
    def fixed(self) -> bool:
        """The reply is always the same, but for the status of `original`."""
        return not (self.handler or self.passes or self.variants or self.template or self.keep_headers)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which requests a rule is about: all of it must fit."""

    domains: tuple[str, ...] = ()
    """Any of these: `example.com`, `*.example.com` or `*`, in lower case without port; empty: every domain."""
    routes: tuple[str, ...] | None = None
    """The route that the request takes is one of these; None: any route, or none at all."""
    request: RequestMatch = EVERY_REQUEST
    clients: tuple[str, ...] = ()
    """The client's address is in one of these networks, in CIDR notation; empty: any client."""
    response_headers: tuple[tuple[str, StringMatch], ...] = ()
    """Tests of the response, as `RequestMatch.headers` has them. Before there is a response, they do not fit."""


EVERY_SCOPE: Final = Scope()


@dataclass(frozen=True, slots=True)
class Rule:
    """A scope and its answers: an upstream's status calls for one of them. All of them unconditional: the first one is
    given without asking an upstream."""

    name: str
    answers: tuple[Answer, ...]
    """Empty where `final` alone counts."""
    scope: Scope = EVERY_SCOPE
    final: bool = False
    """A request that it is about is no later rule's, whether or not this one has an answer."""
    unless: Scope | None = None
    """It is not about requests that fit this."""
    observe: bool = False
    """A trial: it is told when it would have answered, and then nothing is done."""
    source: str = ""
    """It is about responses of an `upstream`, or about `local` ones, which Envoy makes itself; empty: both."""
    position: Position = field(default=Position("", 0), compare=False)

    def __hash__(self) -> int:
        return hash(self.name)  # which is unique, and much quicker than all the rest

    @property
    def unconditional(self) -> bool:
        """Whether the first answer is given without asking an upstream."""
        return bool(self.answers) and not any(answer.enable_on_status for answer in self.answers)

    @property
    def sees_responses(self) -> bool:
        """Whether a response, and not its status alone, has to be known to tell what it is about."""
        return bool(
            self.source or self.scope.response_headers or (self.unless is not None and self.unless.response_headers)
        )

    @property
    def simple(self) -> bool:
        """Whether a route can say it: a fixed answer, or none, to requests with nothing unusual about them."""
        return (
            all(answer.fixed for answer in self.answers)
            and not self.observe
            and not self.scope.clients
            and self.unless is None
            and not self.sees_responses
        )


def native_rules(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules that routes can say, up to the first one that answers without a status, or is final, in a way that they
    cannot: from there on, the program has to be asked."""
    simple = itertools.takewhile(lambda rule: rule.simple or not (rule.unconditional or rule.final), rules)
    return tuple(rule for rule in simple if rule.unconditional or rule.final)


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
class HeaderChanges:
    """What is done to headers: some are removed, then others set, then others added. Names in lower case."""

    set: tuple[Header, ...] = ()
    """Take the place of what is there."""
    add: tuple[Header, ...] = ()
    """Join what is there."""
    remove: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.set or self.add or self.remove)


UNCHANGED: Final = HeaderChanges()


@dataclass(frozen=True, slots=True)
class Backend:
    """One of several upstreams of a route."""

    upstream: str | None
    """None: there is none, so this share of the requests is answered 500."""
    weight: int = 1
    """Its share is this part of the sum of all weights; 0: it gets nothing."""
    host: str | None = None
    """The Host that it gets; None: that of the request, or of the route's `Rewrite`."""
    request_headers: HeaderChanges = UNCHANGED
    response_headers: HeaderChanges = UNCHANGED


@dataclass(frozen=True, slots=True)
class Rewrite:
    """How a request's URL is changed before the upstream gets it. What is None stays."""

    host: str | None = None
    path: str | None = None
    """The whole new path; the query is kept."""
    prefix: str | None = None
    """Put in place of the route's prefix, as in `Redirect`; only beside a prefix."""


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
"""The upgrades that a route has if it does not say any."""


@dataclass(frozen=True, slots=True)
class Retries:
    """When a request is sent to the upstream once more."""

    attempts: int
    """Beside the first one."""
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
    """Upstreams that get a copy of a percentage of the requests; what they say is thrown away."""
    cors: Cors | None = None
    timeout: float = 0.0
    """In seconds, for the whole response; 0: none."""
    idle_timeout: float | None = None
    """In seconds, while nothing is sent either way; 0: none. None: the listener's."""
    retries: Retries | None = None
    upgrades: tuple[str, ...] = WEBSOCKET
    """Protocols that a client may ask to switch to, such as `websocket`."""

    @property
    def upstreams(self) -> tuple[str, ...]:
        """Those that may get the request."""
        given = tuple(each.upstream for each in self.backends if each.upstream is not None and each.weight)
        return given if self.backends else (self.upstream,)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A token bucket for one route: `requests` in each interval, the rest are answered 429 by Envoy."""

    requests: int
    interval: float
    """In seconds; at least 0.05, which is the shortest that Envoy takes."""


@dataclass(frozen=True, slots=True)
class Route:
    """A named request match with one action. The first one of its group that fits takes the request."""

    name: str
    """Unique, save that what one match of a manifest becomes (for several hosts or listeners) has one name."""
    action: Answer | Redirect | Forward | None
    """None: what comes here fits no route, and gets Envoy's own 404."""
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
    """What people call it, for a route that was not named by its author: `HTTPRoute shop/web rule 1 match 0`. Such
    routes come in the order of their specification."""
    position: Position = field(default=Position("", 0), compare=False)

    def __hash__(self) -> int:
        return hash(self.name)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of an upstream."""

    host: str
    """An IP address (IPv6 without brackets) or a DNS name."""
    port: int


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """How a TLS upstream is told from others, and what it is shown."""

    ca: bytes | None = None
    """PEM, whom to trust; None: as for all upstreams."""
    sni: str | None = None
    """The name to ask for, and to find in the certificate; None: the endpoint's own."""
    certificate: bytes | None = None
    """PEM, the chain that Envoy shows; None: it has none to show."""
    key: bytes | None = field(default=None, repr=False)
    """PEM; given when `certificate` is."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A request that is sent to each endpoint from time to time; one that fails gets no others."""

    path: str
    interval: float = 10.0
    timeout: float = 2.0
    """Both in seconds."""


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
    http2: bool = False
    """HTTP/2, without negotiation (h2c where there is no TLS)."""
    host: str | None = None
    """The Host that it gets, if a route says no other; None: the request's."""
    tls_options: UpstreamTls = UpstreamTls()
    connect_timeout: float = 5.0
    """In seconds."""
    health_check: HealthCheck | None = None
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
    more_certificates: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)
    """Further chains with their keys; a client gets the one that fits the name it asks for (SNI)."""
    client_ca: bytes | None = None
    """PEM: who has no certificate of one of these authorities is refused; None: nobody is asked for one."""
    number: int = 1
    """Which one it is of several with this address, as port 0 may be given many times."""
    group: str = RULE_FILES
    """Which routes it has: those of the same group."""
    position: Position = field(default=Position("", 0), compare=False)


def numbered(listeners: Iterable[Listener]) -> tuple[Listener, ...]:
    """Listeners with those told apart that have the same address."""
    count: Counter[tuple[str, int]] = Counter()
    result: list[Listener] = []
    for each in listeners:
        count[each.address, each.port] += 1
        result.append(replace(each, number=count[each.address, each.port]))
    return tuple(result)


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
    homeless: tuple[Listener, ...] = ()
    """Listeners whose address belongs to another Gateway: nobody listens there until they are moved."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of listeners, in order."""
        return tuple(dict.fromkeys(listener.group for listener in self.listeners))

    def of_group(self, group: str) -> Ruleset:
        """What is in force at the listeners of one group: its routes, and every rule."""
        return replace(
            self,
            listeners=tuple(each for each in self.listeners if each.group == group),
            routes=tuple(each for each in self.routes if each.group == group),
        )
