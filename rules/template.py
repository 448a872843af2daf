"""Templates: `{{ name }}` and `{{ name | filter }}` in bodies and in the values of headers.

`parse` and `parse_header` make a `Template` of a text when a file is loaded, `fill` makes bytes of it for a response.
`encode` is the form for the module's core, whose results are the same bytes (`envoy/module/template.c`,
docs/program.md). Pure. Raises `TemplateError`: the author of the text must act.

Values come from untrusted clients. Each is cut, made valid UTF-8, and escaped for its context, so that it cannot end a
text, a string or a header. Two braces themselves are written `{{ "{{" }}`.
"""

from __future__ import annotations

import enum
import http
import re
import struct
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from rejoinder.rules.fields import closest

LONGEST_VALUE: Final = 8192
"""In bytes, before escaping. Envoy accepts headers of 60 kB; no text for people is as long."""

MAX_VARIABLES: Final = 1000
"""In a text: a client may make 8 KiB of each, and Envoy holds all of it at once."""


class Escape(enum.IntEnum):
    """How a value is escaped. Numbered as in the bytes of a program."""

    RAW = 0
    """Not at all: for formats without markup."""
    HTML = 1
    """For text and quoted attributes of HTML and XML; not for scripts, style sheets and attributes without quotes."""
    JSON = 2
    """For the inside of a string of JSON or JavaScript, in `<script>` too."""
    URL = 3
    """For a component of a URL: all but RFC 3986's unreserved characters is percent-encoded, byte by byte."""
    HEADER = 4
    """For a header: control characters are dropped."""


class Name(enum.IntEnum):
    """The names of variables. Numbered as in the bytes of a program."""

    REQUEST_ID = 1
    REQUEST_METHOD = 2
    REQUEST_SCHEME = 3
    REQUEST_HOST = 4
    REQUEST_PATH = 5
    REQUEST_URL = 6
    REQUEST_QUERY = 7
    REQUEST_HEADER = 8
    STATUS = 9
    STATUS_REASON = 10
    ORIGINAL_STATUS = 11
    SOURCE = 12
    ROUTE = 13
    RULE = 14
    TIME = 15
    CLIENT = 16
    REQUEST_TARGET = 17


NAMES: Final = {re.sub("^(request|status)_", r"\1.", name.name.lower()): name for name in Name}
"""As they are written: `request.id`. `.NAME` follows those with an argument."""

_WITH_ARGUMENT: Final = re.compile(r"(request\.(?:query|header))(?:\.(.*))?")
# A token (RFC 9110, section 5.6.2) without `|`, which comes before a filter; and the characters of a URL.
_ARGUMENTS: Final = {
    Name.REQUEST_HEADER: re.compile(r"[!#$%&'*+.^_`~0-9A-Za-z-]+"),
    Name.REQUEST_QUERY: re.compile(r"[!-~]+"),
}
_FILTERS: Final = {"raw": Escape.RAW, "html": Escape.HTML, "json": Escape.JSON, "urlencode": Escape.URL}
_BRACES: Final = '"{{"'
_SHOWN: Final = 60
"""How many characters of a mistake a message repeats: braces may close a page later."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A place for a value."""

    name: Name
    argument: str
    """The name of a header, in lower case, or of a query parameter, as in the URL; else empty."""
    escape: Escape


@dataclass(frozen=True, slots=True)
class Template:
    """A text with variables."""

    pieces: tuple[bytes | Variable, ...]
    """In order; no bytes are empty, and no two bytes are neighbours."""

    @property
    def names(self) -> frozenset[Name]:
        """The variables that it uses."""
        return frozenset(piece.name for piece in self.pieces if isinstance(piece, Variable))

    @property
    def headers(self) -> frozenset[str]:
        """The request headers that it uses, in lower case."""
        variables = (piece for piece in self.pieces if isinstance(piece, Variable))
        return frozenset(variable.argument for variable in variables if variable.name is Name.REQUEST_HEADER)


class TemplateError(ValueError):
    """A text that is not a valid template."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        """What was expected, and what came."""
        self.offset = offset
        """Where the braces open, in characters."""


def parse(text: str, default: Escape) -> Template:
    """The template of a body.

    Args:
        default: for variables without a filter; see `default_escape`.

    Raises:
        TemplateError: there is a name or a filter that does not exist, or braces are not closed.

    >>> parse("Error {{ status }}", Escape.HTML).pieces
    (b'Error ', Variable(name=<Name.STATUS: 9>, argument='', escape=<Escape.HTML: 1>))
    """
    pieces: list[bytes | Variable] = []
    literal: list[str] = []
    at = 0
    while (start := text.find("{{", at)) >= 0:
        end = text.find("}}", start)
        between = text[start + 2 : end]
        literal.append(text[at:start])
        at = end + 2
        braces = between.strip() == _BRACES
        if end < 0 or "\n" in between or ("{{" in between and not braces):
            raise TemplateError('expected "}}" behind "{{", in the same line', start)
        if braces:
            literal.append("{{")
        else:
            pieces += ("".join(literal).encode(), _variable(between, default, start))
            literal.clear()
            if len(pieces) > 2 * MAX_VARIABLES:
                raise TemplateError(f"expected at most {MAX_VARIABLES:,} variables", start)
    pieces.append("".join((*literal, text[at:])).encode())
    return Template(tuple(filter(None, pieces)))


def parse_header(text: str, default: Escape = Escape.HEADER) -> Template:
    """The template of a header's value: as `parse`, but no filter keeps control characters; `raw` is HEADER."""
    pieces = parse(text, default).pieces
    return Template(
        tuple(
            replace(piece, escape=Escape.HEADER)
            if isinstance(piece, Variable) and piece.escape is Escape.RAW
            else piece
            for piece in pieces
        )
    )


def _variable(inner: str, default: Escape, offset: int) -> Variable:
    spelled, bar, wanted = (part.strip() for part in inner.partition("|"))
    if not spelled:
        raise TemplateError(f'expected a name between "{{{{" and "}}}}": {closest("", NAMES)}', offset)
    if bar and wanted not in _FILTERS:
        raise TemplateError(f'unknown filter "{wanted[:_SHOWN]}": {closest(wanted[:_SHOWN], _FILTERS)}', offset)
    escape = _FILTERS[wanted] if bar else default
    if match := _WITH_ARGUMENT.fullmatch(spelled):
        name, argument = NAMES[match[1]], match[2] or ""
        if not _ARGUMENTS[name].fullmatch(argument):
            raise TemplateError(f'expected a name behind "{match[1]}.", got "{argument[:_SHOWN]}"', offset)
        return Variable(name, argument.lower() if name is Name.REQUEST_HEADER else argument, escape)
    if spelled in NAMES:
        return Variable(NAMES[spelled], "", escape)
    raise TemplateError(f'unknown name "{spelled[:_SHOWN]}": {closest(spelled[:_SHOWN], NAMES)}', offset)


def default_escape(content_type: str) -> Escape:
    """How variables in a body of this type are escaped. An invalid media type is escaped as HTML: browsers guess.

    >>> default_escape("application/problem+json; charset=utf-8")
    <Escape.JSON: 2>
    """
    subtype = content_type.partition(";")[0].partition("/")[2].strip().lower().rpartition("+")[2]
    return _OF_SUBTYPES.get(subtype, Escape.RAW)


_OF_SUBTYPES: Final = {
    **dict.fromkeys(("", "html", "xml"), Escape.HTML),
    **dict.fromkeys(("json", "javascript"), Escape.JSON),
}

_CONTROLS: Final = (*range(0x20), 0x7F)
_REPLACED: Final = "\N{REPLACEMENT CHARACTER}"
# XML 1.0 has only these three control characters; as references, they cannot end a header either.
_HTML: Final = {
    **dict.fromkeys((*_CONTROLS, 0xFFFE, 0xFFFF), _REPLACED),
    **{ord(char): f"&#{ord(char)};" for char in "\t\n\r'"},
    **{ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord('"'): "&quot;"},
}
_JSON: Final = {code: f"\\u{code:04x}" for code in (*_CONTROLS, *map(ord, "\"'\\<>&\u2028\u2029"))}
_TABLES: Final = {Escape.RAW: {}, Escape.HTML: _HTML, Escape.JSON: _JSON, Escape.HEADER: dict.fromkeys(_CONTROLS, "")}


def fill(template: Template, value: Callable[[Variable], str]) -> bytes:
    """The text with values in it.

    Args:
        value: the value of a variable; bytes that are not UTF-8 as `surrogateescape` has them. They become U+FFFD,
            except in a URL. A value is cut after LONGEST_VALUE bytes.
    """
    return b"".join(_filled(piece, value(piece)) if isinstance(piece, Variable) else piece for piece in template.pieces)


def _filled(variable: Variable, value: str) -> bytes:
    data = _cut(value.encode("utf-8", "surrogateescape"))
    if variable.escape is Escape.URL:
        return urllib.parse.quote(data, safe="").encode()
    return data.decode("utf-8", "replace").translate(_TABLES[variable.escape]).encode()


def _cut(data: bytes) -> bytes:
    if len(data) <= LONGEST_VALUE:
        return data
    # At the beginning of a character, if there is one: none has more than four bytes.
    return next(
        (data[:end] for end in range(LONGEST_VALUE, LONGEST_VALUE - 4, -1) if data[end] & 0xC0 != 0x80),
        data[:LONGEST_VALUE],
    )


def encode(template: Template, shared: Mapping[bytes, bytes] = MappingProxyType({})) -> bytes:
    """The template in the form of docs/program.md; `shared`: the ids of texts that are stored as bodies."""
    return struct.pack("<I", len(template.pieces)) + b"".join(_encoded(piece, shared) for piece in template.pieces)


_SHARED: Final = 255
"""In place of a name."""


def _encoded(piece: bytes | Variable, shared: Mapping[bytes, bytes]) -> bytes:
    if isinstance(piece, bytes):
        if piece in shared:
            return bytes((_SHARED,)) + shared[piece]
        return struct.pack("<BI", 0, len(piece)) + piece
    argument = piece.argument.encode()
    return struct.pack("<BBI", piece.name, piece.escape, len(argument)) + argument


def reason(status: int) -> str:
    """The reason phrase of a final status; empty for one that has none."""
    return _REASONS.get(status, "")


# https://www.iana.org/assignments/http-status-codes/ - those of Python depend on its version.
_REASONS: Final = {status.value: status.phrase for status in http.HTTPStatus if status >= 200 and status != 418} | {
    305: "Use Proxy",
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
