"""From the answers of a rule to what is sent: which answer a status calls for, and the reply that it makes. Pure."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rejoinder.rules.http import BODILESS
from rejoinder.rules.model import STATUSES, Answer, Header, Rule, StatusPattern

_REMEMBERED: Final = 1 << 15


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response: what a client gets, but for the headers that Envoy adds to every response."""

    status: int
    headers: tuple[Header, ...]
    """In order; content-length is not among them: it follows from the body."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Choice:
    """An answer and the rule that it comes from."""

    rule: str
    """The rule's name."""
    answer: Answer

    def reply(self, status: int) -> Reply:
        """The reply to an upstream's status. Not for an answer with a handler."""
        return reply(self.answer, status)


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


@functools.lru_cache(maxsize=_REMEMBERED)
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
class Claims:
    """Which statuses the answers of one rule are for."""

    named: Mapping[int, int]
    """The statuses that answers with `enable_on_status` name, sorted, each with the number of the answer that it calls
    for: one object for all rules that name the same ones."""
    answers: tuple[Answer, ...]
    otherwise: Answer | None
    """For every other final status; of an unconditional rule, what is answered at once."""

    def answer(self, status: int) -> Answer | None:
        """The answer that a status calls for; None: there is none. Only STATUSES call for any."""
        if status not in STATUSES:
            return None
        number = self.named.get(status)
        return self.otherwise if number is None else self.answers[number]


@functools.lru_cache(maxsize=_REMEMBERED)
def claims(rule: Rule) -> Claims:
    """Which statuses a rule's answers are for.

    An exact status comes before a pattern, a pattern with more digits before one with fewer, then the written order
    counts, and the answer without a status comes last.
    """
    otherwise = next((answer for answer in rule.answers if not answer.enable_on_status), None)
    return Claims(_named(tuple(answer.enable_on_status for answer in rule.answers)), rule.answers, otherwise)


@functools.lru_cache(maxsize=1024)
def _named(patterns: tuple[tuple[StatusPattern, ...], ...]) -> Mapping[int, int]:
    """By status, which answer's patterns it is about."""
    found: dict[int, int] = {}
    claimed = [(pattern, number) for number, of_answer in enumerate(patterns) for pattern in of_answer]
    for pattern, number in sorted(claimed, key=lambda claim: -claim[0].exactness):  # stable: written order
        for status in pattern.statuses():
            found.setdefault(status, number)
    return dict(sorted(found.items()))
