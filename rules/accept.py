"""Which of several variants of an answer a request gets: proactive negotiation by Accept and Accept-Language.

https://www.rfc-editor.org/rfc/rfc9110#section-12.5 - `best` is the way in; nothing is raised, whatever a client sends.
`envoy/module/accept.c` does the same in C, byte for byte.

For each variant, the most specific range that fits it counts: `text/html;level=1` before `text/html`, `text/*` and
`*/*`; a longer language range (RFC 4647, section 3.3.1) before a shorter one, a range that must be truncated (section
3.4: `de-AT` for `de`) and `*`; of equal ranges the one with the higher q. An invalid range is ignored. A header that
accepts no variant, or has no range, is ignored, as RFC 9110 allows: a browser in a language that no variant has gets
the first page, not the JSON.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

LOOKED_AT: Final = 8192
"""How many bytes of a header count, up to a comma; a hundred times what browsers send."""

MAX_ELEMENTS: Final = 64
"""... and how many of the elements in them: each is compared with each variant."""

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_PARAMETER: Final = rb'(%b)=(%b|"(?:[^"\\]|\\.)*+")' % (_TOKEN, _TOKEN)
# Possessive throughout: each byte is read once. A quoted text that never ends takes the rest of the header with it.
_SPLIT: Final = re.compile(rb'(?:[^",]|"(?:[^"\\]|\\.)*+(?:"|\\?\Z))++', re.DOTALL)
_RANGE: Final = re.compile(
    rb"[ \t]*+(%b(?:/%b)?+)((?:[ \t]*+;[ \t]*+(?:%b)?+)*+)[ \t]*+" % (_TOKEN, _TOKEN, _PARAMETER), re.DOTALL
)
_PARAMETERS: Final = re.compile(_PARAMETER, re.DOTALL)
# More lenient than the grammar, as clients are: `.5` and `0.3333` are sent.
_WEIGHT: Final = re.compile(rb"(?=\.?[0-9])([01]?)(?:\.([0-9]*))?")
_WHOLE: Final = 1000
_NO_FIT: Final = -1


class Offer(NamedTuple):
    """The type and language of a variant; empty if it does not say one."""

    content_type: str
    """With its parameters. A charset in it, or in a range, is not compared."""
    language: str
    """A language tag."""


class _Range(NamedTuple):
    """An element of a header, or a content type: in lower case, without charset."""

    head: bytes
    parameters: tuple[tuple[bytes, bytes], ...]
    q: int
    """In thousandths."""


def best(offers: Sequence[Offer], accept: str | None, accept_language: str | None) -> int:
    """The number of the variant with the highest product of both q-values; the first one if there are several.

    A variant without a type, or without a language, has there the best q-value of the others.

    Args:
        offers: the variants, in the order of the rule.
        accept, accept_language: all lines of the header, joined with ", "; None: it was not sent.

    >>> pages = Offer("text/html", "en"), Offer("text/html", "de"), Offer("application/json", "")
    >>> best(pages, "text/html, */*;q=0.8", "de-AT, de;q=0.9, en;q=0.8")
    1
    """
    return _best(tuple(offers), _looked_at(accept or ""), _looked_at(accept_language or ""))


def _looked_at(header: str) -> bytes:
    data = header.encode("utf-8", "surrogateescape")
    return data if len(data) <= LOOKED_AT else data[:LOOKED_AT].rpartition(b",")[0]


@functools.lru_cache(maxsize=256)  # browsers repeat the same headers
def _best(offers: Sequence[Offer], accept: bytes, accept_language: bytes) -> int:
    types = _qualities([offer.content_type for offer in offers], accept, _fits_type)
    languages = _qualities([offer.language for offer in offers], accept_language, _fits_language)
    return max(range(len(offers)), key=lambda number: types[number] * languages[number], default=0)


def _qualities(offered: Sequence[str], header: bytes, specificity: Callable[[_Range, str], int]) -> Sequence[int]:
    elements = (parsed for match in _SPLIT.finditer(header) if (parsed := _parsed(match[0])))
    ranges = list(itertools.islice(elements, MAX_ELEMENTS))

    def quality(of: str) -> int:
        rank, q = max(((specificity(entry, of), entry.q) for entry in ranges), default=(_NO_FIT, 0))
        return 0 if rank == _NO_FIT else q

    qualities = [quality(value) if value else 0 for value in offered]
    highest = max(qualities, default=0)
    return [q if value and highest else highest or _WHOLE for value, q in zip(offered, qualities, strict=True)]


def _parsed(element: bytes) -> _Range | None:
    if not (whole := _RANGE.fullmatch(element)):
        return None
    parameters = []
    q = _WHOLE
    for name, value in _PARAMETERS.findall(whole[2].lower()):
        if name == b"q":
            weight = _weight(value)
            if weight is None:
                return None
            q = weight
        elif name != b"charset":
            parameters.append((name, re.sub(rb"(?s)\\(.)", rb"\1", value[1:-1]) if value[:1] == b'"' else value))
    return _Range(whole[1].lower(), tuple(parameters), q)


def _weight(text: bytes) -> int | None:
    if not (match := _WEIGHT.fullmatch(text)):
        return None
    weight = int(match[1] or 0) * _WHOLE + int(((match[2] or b"") + b"000")[:3])
    return weight if weight <= _WHOLE else None


@functools.lru_cache(maxsize=1024)
def _offered(content_type: str) -> _Range:
    return _parsed(content_type.encode()) or _Range(b"", (), 0)


def _fits_type(accepted: _Range, content_type: str) -> int:
    """How specific a media range is for a content type."""
    offered = _offered(content_type)
    head = accepted.head
    if head == b"*/*":
        rank, fits = 0, True
    elif head.endswith(b"/*"):
        rank, fits = 1, offered.head.startswith(head[:-1])
    else:
        rank, fits = 2, b"/" in head and head == offered.head
    # The number of parameters never reaches the next rank.
    specificity = rank * LOOKED_AT + len(accepted.parameters)
    return specificity if fits and set(accepted.parameters) <= set(offered.parameters) else _NO_FIT


def _fits_language(accepted: _Range, language: str) -> int:
    head, tag = accepted.head, language.encode().lower()
    if head == b"*":
        return 0
    if (tag + b"-").startswith(head + b"-"):
        return 1 + len(head)
    return 1 if accepted.q and head.startswith(tag + b"-") else _NO_FIT
