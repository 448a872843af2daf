"""Rules: scopes and their answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from rejoinder.rules.model.listeners import Upstream
from rejoinder.rules.model.matches import EVERY_REQUEST, Header, Position, RequestMatch, StatusPattern, StringMatch


@dataclass(frozen=True, slots=True)
class Variant:
    """One of several bodies of an answer."""

    content_type: str = ""
    """The value of the header; empty: the answer's own. Every variant has a content type, a language, or both."""
    language: str = ""
    """A language tag (RFC 5646); empty: the variant has no language."""
    body: bytes = b""
    template: bool = False
    """As in `Answer`."""


@dataclass(frozen=True, slots=True)
class RemotePage:
    """A page that another service makes."""

    upstream: str
    """The name of that service."""
    timeout: float = 1.0
    """How long it may take, in seconds."""
    cache: float = 0.0
    """How long a page is kept for equal requests, in seconds; 0: not at all."""
    headers: tuple[Header, ...] = ()
    """Headers of the request, beside the standard ones or in their place; values are templates."""
    service: Upstream | None = None
    """The upstream with that name; set when all files are read."""


@dataclass(frozen=True, slots=True)
class Grpc:
    """The response to a gRPC client."""

    status: int
    """A gRPC status code."""
    message: str = ""
    """A template, if the answer's texts are templates."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that is written in a rule file."""

    status_code: int | None = 200
    """The status that is sent, one of STATUSES; None: the status of the upstream (`original`)."""
    headers: tuple[Header, ...] = ()
    """In order; a name may come several times. content-length is never here; content-type only if the rule has it, or
    if it follows from the extension of `body_file`."""
    body: bytes = b""
    enable_on_status: tuple[StatusPattern, ...] = ()
    """The upstream statuses that this answer is for; empty: any, or an unconditional answer (see `Rule`)."""
    handler: str = ""
    """`package.module:function`, a Python function that makes status, headers and body; empty: none."""
    passes: bool = False
    """The response is left alone, and no later rule is asked. The other fields have no effect."""
    variants: tuple[Variant, ...] = ()
    """In place of `body`: a request gets the variant that it accepts best."""
    template: bool = False
    """Body and header values are templates (`rules.template`)."""
    page: bool = False
    """When all files are read, `variants` becomes the built-in page."""
    remote: RemotePage | None = None
    """Another service makes the body and its type; if that fails, the answer's own body is sent."""
    untyped: bool = False
    """A body is sent without a `content-type`."""
    grpc: Grpc | None = None
    """None: the gRPC error that belongs to the status, with the body as message."""
    keep_headers: tuple[str, ...] = ()
    """The response's headers that stay: names in lower case, or prefixes of names that end with `*`."""

    @property
    def fixed(self) -> bool:
        """The reply is always the same, except for the status if that is `original`."""
        made = self.handler or self.passes or self.variants or self.template
        return not (made or self.remote or self.grpc or self.keep_headers)

    def status(self, original: int) -> int:
        """The status that is sent if the upstream sent this one."""
        return original if self.status_code is None else self.status_code

    @property
    def has_content(self) -> bool:
        """Whether it has a body of its own. If it has none, and no page comes, the response is left alone."""
        return bool(self.body or self.variants)


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
    """Tests of the response, as in `RequestMatch.headers`. Before there is a response, they do not fit."""


EVERY_SCOPE: Final = Scope()


@dataclass(frozen=True, slots=True)
class Rule:
    """A scope and its answers. The upstream's status decides which answer is given; if no answer names a status, the
    first one is given without asking an upstream."""

    name: str
    answers: tuple[Answer, ...]
    """Empty if the rule only stops the search (`final`)."""
    scope: Scope = EVERY_SCOPE
    final: bool = False
    """Later rules are not asked about a request that this rule fits, whether or not this one has an answer."""
    unless: Scope | None = None
    """The rule does not fit requests that fit this scope."""
    observe: bool = False
    """A trial: it is only counted and logged that the rule would have answered."""
    source: str = ""
    """The rule fits only responses of an `upstream`, or only `local` ones, which Envoy makes itself; empty: both."""
    position: Position = field(default=Position("", 0), compare=False)
    unconditional: bool = field(init=False, compare=False, repr=False)
    """Whether the first answer is given without asking an upstream."""

    def __hash__(self) -> int:
        return hash(self.name)  # unique, and much faster than hashing all fields

    def __post_init__(self) -> None:
        unconditional = bool(self.answers) and not any(answer.enable_on_status for answer in self.answers)
        object.__setattr__(self, "unconditional", unconditional)

    @property
    def sees_responses(self) -> bool:
        """Whether the rule tests more of a response than its status."""
        return bool(
            self.source or self.scope.response_headers or (self.unless is not None and self.unless.response_headers)
        )

    @property
    def simple(self) -> bool:
        """Whether a route can give its answer: the answer is fixed, and the rule tests what a route can test."""
        return (
            all(answer.fixed for answer in self.answers)
            and not self.observe
            and not self.scope.clients
            and self.unless is None
            and not self.sees_responses
        )


def native_rules(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The unconditional and final rules whose answers routes can give. The list ends before the first unconditional
    or final rule whose answer a route cannot give: the program is asked about that rule and all behind it."""
    simple = itertools.takewhile(lambda rule: rule.simple or not (rule.unconditional or rule.final), rules)
    return tuple(rule for rule in simple if rule.unconditional or rule.final)
