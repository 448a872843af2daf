"""A program as the bytes that the module's core reads (docs/program.md).

A `Program` goes in, bytes come out: `encode` writes all of it into one configuration; `cut` writes a large one as parts
and what names them, so that an edit of one of ten thousand rules changes one part. Pure; nothing is raised. Replies are
made by the same function as everywhere (`answers.reply`).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rejoinder.rules.answers import claims, reply
from rejoinder.rules.http import BODILESS
from rejoinder.rules.model import EVERY_PATH, STATUSES, Answer, PathKind, Rule, StringKind, StringMatch
from rejoinder.rules.program import Program

VERSION: Final = 1
_PROGRAM: Final = b"RJNDR\0" + struct.pack("<H", VERSION)
_PART: Final = b"RJPRT\0" + struct.pack("<H", VERSION)
_BODY, _RULE = 1, 2
_FINAL, _UNCONDITIONAL = 1, 2

_PATH_KINDS: Final = {PathKind.EXACT: 1, PathKind.PREFIX: 2, PathKind.REGEX: 3}
_TEST_KINDS: Final = {
    StringKind.EXACT: 0,
    StringKind.PREFIX: 1,
    StringKind.SUFFIX: 2,
    StringKind.CONTAINS: 3,
    StringKind.REGEX: 4,
    StringKind.PRESENT: 5,
}

_REMEMBERED: Final = 1 << 15

WHOLE_SIZE: Final = 48 * 1024
"""In bytes. A program of this size is sent in one piece: an edit sends no more than an edit of parts would."""
PART_SIZE: Final = 16 * 1024
"""In bytes, on average. An edit sends one part, and the list of all: with 2 MB of rules, 16 kB and some 15 kB."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a program's records."""

    id: bytes
    """The beginning of the SHA-256 of the records."""
    data: bytes
    """The configuration of a filter that only brings them."""

    @property
    def name(self) -> str:
        """What leads to it: the id in hexadecimal digits."""
        return self.id.hex()


@functools.lru_cache(maxsize=4)  # the same program goes into several configurations
def encode(program: Program) -> bytes:
    """The whole program as one configuration."""
    return _PROGRAM + _list(()) + b"".join(_records(program))


@functools.lru_cache(maxsize=4)
def cut(program: Program) -> tuple[bytes, tuple[Part, ...]]:
    """The program as a configuration that names parts, and these; a small one has none.

    They are cut by content: where an edit adds or takes away a rule, the cuts elsewhere stay where they were.
    """
    records = list(_records(program))
    if sum(map(len, records)) <= WHOLE_SIZE:
        return encode(program), ()
    parts = tuple(dict.fromkeys(map(_part, _runs(records))))
    return _PROGRAM + _list(part.id for part in parts), parts


def _part(records: bytes) -> Part:
    key = _id(records)
    return Part(key, _PART + key + records)


def _runs(records: Iterable[bytes]) -> Iterator[bytes]:
    run: list[bytes] = []
    size = 0
    for record in records:
        run.append(record)
        size += len(record)
        # Each record has a chance to be the last one of its run that grows with its size, and that only it decides.
        if size >= PART_SIZE // 4 and (size >= PART_SIZE * 4 or zlib.crc32(record) % PART_SIZE < 2 * len(record)):
            yield b"".join(run)
            run, size = [], 0
    if run:
        yield b"".join(run)


def _records(program: Program) -> Iterator[bytes]:
    """Each rule, behind the bodies that are met for the first time with it."""
    seen: set[bytes] = set()
    for rule in program.rules:
        record, bodies = _rule(rule)
        for body in bodies:
            if body not in seen:
                seen.add(body)
                yield _record(_BODY, _body_id(body) + body)
        yield record


# After an edit, nearly all rules are the same as before.
@functools.lru_cache(maxsize=_REMEMBERED)
def _rule(rule: Rule) -> tuple[bytes, tuple[bytes, ...]]:
    """A rule's record, and the bodies of its replies."""
    scope, match = rule.scope, rule.scope.request
    replies = tuple(_replies(rule))
    every = match.path == EVERY_PATH
    payload = (
        _u8((rule.final and _FINAL) | (rule.unconditional and _UNCONDITIONAL)),
        _text(rule.name),
        _list(map(_text, scope.domains)),
        _u8(scope.routes is not None),
        _list(map(_text, scope.routes or ())),
        _u8(0 if every else _PATH_KINDS[match.path.kind]),
        _text("" if every else match.path.value),
        _list(map(_text, match.methods)),
        _list(itertools.starmap(_test, match.headers)),
        _list(itertools.starmap(_test, match.query)),
        _list(each.data for each in replies),
    )
    return _record(_RULE, b"".join(payload)), tuple(each.body for each in replies if each.body)


@dataclass(frozen=True, slots=True)
class _Reply:
    data: bytes
    body: bytes


def _replies(rule: Rule) -> Iterator[_Reply]:
    claimed = claims(rule)
    if not rule.unconditional:
        by_reply: dict[tuple[int, int | None], list[int]] = {}
        for status, number in claimed.named.items():
            by_reply.setdefault((number, _known(claimed.answers[number], status)), []).append(status)
        for (number, known), statuses in by_reply.items():
            yield _reply(claimed.answers[number], known, _ranges(statuses))
        if claimed.otherwise:
            # `original` is a reply for each of these of its own, for they have no body.
            for status in BODILESS:
                if status not in claimed.named and _known(claimed.otherwise, status):
                    yield _reply(claimed.otherwise, status, _ranges([status]))
    if claimed.otherwise:
        yield _reply(claimed.otherwise, None, ())


def _known(answer: Answer, status: int) -> int | None:
    """The status, if the answer's reply depends on it."""
    return status if answer.status_code is None and status in BODILESS else None


def _reply(answer: Answer, known: int | None, ranges: Sequence[tuple[int, int]]) -> _Reply:
    original = answer.status_code is None and known is None
    made = reply(answer, STATUSES.start if known is None else known)
    data = (
        _list(struct.pack("<HH", first, last) for first, last in ranges),
        struct.pack("<H", 0 if original else made.status),
        _text(answer.handler),
        _list(itertools.starmap(_header, made.headers)),
        b"\x01" + _body_id(made.body) if made.body else b"\x00",
    )
    return _Reply(b"".join(data), made.body)


def _ranges(statuses: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of statuses, each by its first and last.

    >>> _ranges([500, 501, 502, 504])
    [(500, 502), (504, 504)]
    """
    runs = itertools.groupby(enumerate(sorted(statuses)), key=lambda pair: pair[1] - pair[0])
    return [(run[0], run[-1]) for run in ([status for _, status in group] for _, group in runs)]


def _test(name: str, match: StringMatch) -> bytes:
    return _text(name) + _u8(_TEST_KINDS[match.kind]) + _text(match.value)


def _header(name: str, value: str) -> bytes:
    return _text(name) + _text(value)


def _record(kind: int, payload: bytes) -> bytes:
    return struct.pack("<BI", kind, len(payload)) + payload


def _id(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:16]


# One error page of 100 kB may be ten thousand rules' own.
@functools.lru_cache(maxsize=1024)
def _body_id(body: bytes) -> bytes:
    return _id(body)


def _list(entries: Iterable[bytes]) -> bytes:
    entries = tuple(entries)
    return struct.pack("<I", len(entries)) + b"".join(entries)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def _u8(number: int) -> bytes:
    return bytes((number,))
