"""A program as the bytes that the module's core reads (docs/program.md).

In: a `Program`. Out: bytes. `encode` writes all of it into one configuration; `cut` writes a large program as parts and
a list of them, so that an edit of one of ten thousand rules changes one part. Pure; nothing is raised. Replies are made
of the same contents as everywhere (`answers.contents`).
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

from rejoinder.rules import template
from rejoinder.rules.answers import Content, claims, contents, grpc_message
from rejoinder.rules.http import BODILESS
from rejoinder.rules.matching import network
from rejoinder.rules.model import EVERY_PATH, Answer, PathKind, RemotePage, Rule, Scope, StringKind, StringMatch
from rejoinder.rules.program import Program
from rejoinder.rules.remote import host, told
from rejoinder.rules.request import LOCAL, UPSTREAM
from rejoinder.rules.template import Template

VERSION: Final = 3
_PROGRAM: Final = b"RJNDR\0" + struct.pack("<H", VERSION)
_PART: Final = b"RJPRT\0" + struct.pack("<H", VERSION)
_BODY, _RULE, _TEMPLATE = 1, 2, 3
_FINAL, _UNCONDITIONAL, _UNLESS, _OBSERVE = 1, 2, 4, 8
_PASSES, _ASKS, _GRPC = 1, 2, 4

# By their numbers, which are those of their order.
_PATH_KINDS: Final = {kind: number for number, kind in enumerate(PathKind, 1)}
_TEST_KINDS: Final = {kind: number for number, kind in enumerate(StringKind)}

_REMEMBERED: Final = 1 << 15

_SHARED: Final = 64
"""In bytes. A longer text in a template is stored once for all templates, like the style of the built-in page."""

WHOLE_SIZE: Final = 48 * 1024
"""In bytes. A smaller program is sent in one piece: with parts, an edit would not send less."""
PART_SIZE: Final = 16 * 1024
"""In bytes, on average. An edit sends one part, and the list of all: with 2 MB of rules, 16 kB and some 15 kB."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a program's records."""

    id: bytes
    """The beginning of the SHA-256 of the records."""
    data: bytes
    """The configuration of a filter that only carries the records."""

    @property
    def name(self) -> str:
        """The id in hexadecimal digits, as configurations name it."""
        return self.id.hex()


@functools.lru_cache(maxsize=4)  # the same program goes into several configurations
def encode(program: Program) -> bytes:
    """The whole program as one configuration."""
    return _PROGRAM + _list(()) + b"".join(_records(program))


@functools.lru_cache(maxsize=4)
def cut(program: Program) -> tuple[bytes, tuple[Part, ...]]:
    """A configuration that names the parts of the program, and the parts; a small program has none.

    The cuts depend on content: if an edit adds or removes a rule, the cuts elsewhere stay the same.
    """
    records = list(_records(program))
    if sum(map(len, records)) <= WHOLE_SIZE:
        return encode(program), ()
    runs = {_id(run): run for run in _runs(records)}
    return _PROGRAM + _list(runs), tuple(Part(key, _PART + key + run) for key, run in runs.items())


def _runs(records: Iterable[bytes]) -> Iterator[bytes]:
    run: list[bytes] = []
    size = 0
    for record in records:
        run.append(record)
        size += len(record)
        # Whether a record ends its part depends on that record alone; the chance grows with its size.
        if size >= PART_SIZE // 4 and (size >= PART_SIZE * 4 or zlib.crc32(record) % PART_SIZE < 2 * len(record)):
            yield b"".join(run)
            run, size = [], 0
    if run:
        yield b"".join(run)


def _records(program: Program) -> Iterator[bytes]:
    """Each rule, behind those of its bodies that no earlier rule has."""
    seen: set[bytes] = set()
    for rule in program.rules:
        record, bodies = _rule(rule)
        for body in bodies:
            if body not in seen:
                seen.add(body)
                yield body
        yield record


# After an edit, nearly all rules are the same as before.
@functools.lru_cache(maxsize=_REMEMBERED)
def _rule(rule: Rule) -> tuple[bytes, tuple[bytes, ...]]:
    """A rule's record, and those of the bodies of its replies."""
    replies = tuple(_replies(rule))
    given = {_FINAL: rule.final, _UNCONDITIONAL: rule.unconditional, _UNLESS: rule.unless, _OBSERVE: rule.observe}
    flags = sum(flag for flag, is_set in given.items() if is_set)
    payload = (
        _u8(flags),
        _text(rule.name),
        _u8(SOURCES.index(rule.source)),
        _scope(rule.scope),
        *([_scope(rule.unless)] if rule.unless is not None else ()),
        _list(data for data, _ in replies),
    )
    return _record(_RULE, b"".join(payload)), tuple(body for _, bodies in replies for body in bodies)


SOURCES: Final = ("", UPSTREAM, LOCAL)
"""By their numbers."""


def _scope(scope: Scope) -> bytes:
    match = scope.request
    every = match.path == EVERY_PATH
    return b"".join(
        (
            _list(map(_text, scope.domains)),
            _u8(scope.routes is not None),
            _list(map(_text, scope.routes or ())),
            _u8(0 if every else _PATH_KINDS[match.path.kind]),
            _text("" if every else match.path.value),
            _list(map(_text, match.methods)),
            _list(itertools.starmap(_test, match.headers)),
            _list(itertools.starmap(_test, match.query)),
            _list(map(_network, scope.clients)),
            _list(itertools.starmap(_test, scope.response_headers)),
        )
    )


def _network(text: str) -> bytes:
    """An IPv4 network is written as the part of IPv6 that it is mapped to (RFC 4291, section 2.5.5.2)."""
    parsed = network(text)
    mapped = b"" if parsed.version == 6 else bytes(10) + b"\xff\xff"
    return _u8(parsed.prefixlen + 8 * len(mapped)) + mapped + parsed.network_address.packed


def _replies(rule: Rule) -> Iterator[tuple[bytes, tuple[bytes, ...]]]:
    """What each reply of a rule is, and the records of its bodies."""
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


def _reply(answer: Answer, known: int | None, ranges: Sequence[tuple[int, int]]) -> tuple[bytes, tuple[bytes, ...]]:
    code = known if answer.status_code is None else answer.status_code
    offers = contents(answer, code in BODILESS)
    remote = None if code in BODILESS else answer.remote
    given = {_PASSES: answer.passes, _ASKS: remote, _GRPC: answer.grpc}
    data = (
        _list(struct.pack("<HH", first, last) for first, last in ranges),
        _u8(sum(flag for flag, is_set in given.items() if is_set)),
        struct.pack("<H", code or 0),
        _text(answer.handler),
        _list(map(_text, answer.keep_headers)),
        _asked(remote, not answer.has_content) if remote else b"",
        _grpc(answer) if answer.grpc else b"",
        _list(map(_offer, offers)),
    )
    return b"".join(data), tuple(record for content in offers if content.body for record in _body(content.body))


def _asked(remote: RemotePage, stays: bool) -> bytes:
    """The page to ask for; `stays`: without a page, the response is left alone."""
    return b"".join(
        (
            _text(remote.upstream),
            _text(host(remote)),
            struct.pack("<II", *(min(round(seconds * 1000), 2**32 - 1) for seconds in (remote.timeout, remote.cache))),
            _u8(stays),
            _list(_text(name) + template.encode(value) for name, value in told(remote)),
        )
    )


def _grpc(answer: Answer) -> bytes:
    message = grpc_message(answer)
    made = message if isinstance(message, Template) else Template((message,) if message else ())
    return _u8(answer.grpc.status if answer.grpc else 0) + template.encode(made)


def _offer(content: Content) -> bytes:
    plain = [(name, value) for name, value in content.headers if isinstance(value, str)]
    filled = [(name, value) for name, value in content.headers if isinstance(value, Template)]
    return b"".join(
        (
            _text(content.offer.content_type),
            _text(content.offer.language),
            _list(_text(name) + _text(value) for name, value in plain),
            _list(_text(name) + template.encode(value) for name, value in filled),
            _body(content.body)[-1][:1] + _body(content.body)[-1][5:21] if content.body else b"\x00",
        )
    )


# Ten thousand rules may share one error page of 100 kB.
@functools.lru_cache(maxsize=1024)
def _body(body: bytes | Template) -> tuple[bytes, ...]:
    """The record of a body, behind the records of its texts that other bodies may share."""
    if not isinstance(body, Template):
        return (_record(_BODY, _id(body) + body),)
    shared = [piece for piece in body.pieces if isinstance(piece, bytes) and len(piece) >= _SHARED]
    data = template.encode(body, {text: _id(text) for text in shared})
    return (*(_record(_BODY, _id(text) + text) for text in shared), _record(_TEMPLATE, _id(data) + data))


def _ranges(statuses: Iterable[int]) -> list[tuple[int, int]]:
    """Ranges of statuses, each as its first and last.

    >>> _ranges([500, 501, 502, 504])
    [(500, 502), (504, 504)]
    """
    runs = itertools.groupby(enumerate(sorted(statuses)), key=lambda pair: pair[1] - pair[0])
    return [(run[0], run[-1]) for run in ([status for _, status in group] for _, group in runs)]


def _test(name: str, match: StringMatch) -> bytes:
    return _text(name) + _u8(_TEST_KINDS[match.kind]) + _text(match.value)


def _record(kind: int, payload: bytes) -> bytes:
    return struct.pack("<BI", kind, len(payload)) + payload


def _id(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:16]


def _list(entries: Iterable[bytes]) -> bytes:
    entries = tuple(entries)
    return struct.pack("<I", len(entries)) + b"".join(entries)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def _u8(number: int) -> bytes:
    return bytes((number,))
