"""From the answers of a scope to what is sent: which answer a status calls for, and the reply that it makes.

Pure. `reply` turns an answer into status, headers and body; `AnswerTable` is a scope's answers (or those of several
rules that fall through to each other) as a value that can be looked up, named by its content and handed to a placement.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from rejoinder.rules.model import STATUSES, Answer, Header, Rule

TABLE_KEY: Final = "x-rejoinder-table"
"""The gRPC metadata key under which Envoy tells the ext_proc service the name of the answer table to use."""

ROUTE_KEY: Final = "x-rejoinder-route"
"""The same for the name of the rule file's route, where a table has handlers."""

BODILESS: Final = (204, 304)
"""Final statuses that never have content (RFC 9110, sections 15.3.5 and 15.4.5)."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response: what a client gets, but for the headers that Envoy adds to every response."""

    status: int
    headers: tuple[Header, ...]
    """In order; content-length is not among them: it follows from the body."""
    body: bytes


def reply(answer: Answer, status: int) -> Reply:
    """The reply that an answer makes.

    Args:
        answer: from a rule or a route.
        status: the upstream's, for `status_code: original`; an unconditional answer ignores it.
    """
    code = status if answer.status_code is None else answer.status_code
    body = b"" if code in BODILESS else answer.body
    headers = answer.headers
    if not body:  # there is nothing that could have a type, and Envoy would not send one
        headers = tuple((name, value) for name, value in headers if name != "content-type")
    elif not any(name == "content-type" for name, _ in headers):
        headers = (("content-type", _guessed_type(body)), *headers)
    return Reply(code, headers, body)


@functools.lru_cache(maxsize=1 << 14)
def _guessed_type(body: bytes) -> str:
    return f"{'application/json' if _is_json(body) else 'text/plain'}; charset=utf-8"


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON (RFC 8259)")


@dataclass(frozen=True, slots=True)
class Choice:
    """An answer and the rule that it comes from."""

    rule: str
    """The rule's name."""
    answer: Answer


@dataclass(frozen=True, slots=True)
class AnswerTable:
    """Upstream status -> answer, for one scope."""

    by_status: tuple[tuple[int, Choice], ...] = ()
    """Sorted by status."""
    default: Choice | None = None
    """For every other final status."""
    has_handlers: bool = field(init=False, compare=False, repr=False)
    """Whether a reply may be a Python handler's to make."""
    _index: Mapping[int, Choice] = field(init=False, compare=False, repr=False)
    """`by_status` for `choose`, which is asked for every response."""
    _hash: int = field(init=False, compare=False, repr=False)
    """Made once: there are ten thousand tables to look up after every edit."""

    def __post_init__(self) -> None:
        choices = (*(choice for _, choice in self.by_status), *((self.default,) if self.default else ()))
        object.__setattr__(self, "has_handlers", any(choice.answer.handler for choice in choices))
        object.__setattr__(self, "_index", dict(self.by_status))
        object.__setattr__(self, "_hash", hash((self.by_status, self.default)))

    def __hash__(self) -> int:
        return self._hash

    def __bool__(self) -> bool:
        return bool(self.by_status) or self.default is not None

    def choose(self, status: int) -> Choice | None:
        """What a status calls for; None: the response passes untouched. Interim statuses (1xx) always pass."""
        if status < STATUSES.start:
            return None
        return self._index.get(status, self.default)

    @property
    def name(self) -> str:
        """A short name that only tables with this very content have, in whatever process they are made."""
        return _table_name(self)


# 10,000 scopes of one file; a name is asked for again with every reload.
@functools.lru_cache(maxsize=1 << 14)
def _table_name(table: AnswerTable) -> str:
    # repr of frozen dataclasses of tuples, ints, strings and bytes: complete, ordered, and the same everywhere.
    return hashlib.sha256(repr((table.by_status, table.default)).encode()).hexdigest()[:16]


def answer_table(rules: Iterable[Rule]) -> AnswerTable:
    """The answers of rules that are asked in turn: the first one's, and while they fall through, the next one's.

    Within a rule an exact status comes before a pattern, a pattern with more digits before one with fewer, then the
    written order counts, and the answer without a status comes last.
    """
    return _answer_table(tuple(rules))


# Beside a foreign Envoy it is asked for with every request, and its rules hash faster than it is made.
@functools.lru_cache(maxsize=1 << 14)
def _answer_table(rules: tuple[Rule, ...]) -> AnswerTable:
    by_status: dict[int, Choice] = {}
    default: Choice | None = None
    for rule in rules:
        claims = [(pattern, answer) for answer in rule.answers for pattern in answer.enable_on_status]
        for pattern, answer in sorted(claims, key=lambda claim: -len(claim[0].digits)):  # stable: written order
            for status in pattern.statuses():
                by_status.setdefault(status, Choice(rule.name, answer))
        default = next((Choice(rule.name, answer) for answer in rule.answers if not answer.enable_on_status), None)
        if rule.final:
            break
    return AnswerTable(tuple(sorted(by_status.items(), key=lambda entry: entry[0])), default)
