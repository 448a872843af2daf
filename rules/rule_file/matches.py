"""Tests of a request: `domains`, and the common fields of `match`, `unless` and routes."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from rejoinder.rules.document import Map, quoted
from rejoinder.rules.fields import Fields, Place, text_that
from rejoinder.rules.http import CONTROL, TOKEN
from rejoinder.rules.matching import RegexError, compile_regex
from rejoinder.rules.model import EVERY_PATH, MAX_TEXT, PathKind, PathMatch, RequestMatch, StringKind, StringMatch
from rejoinder.rules.request import normalize_path
from rejoinder.rules.rule_file.addresses import HOST_NAME, IPV6, is_ipv6
from rejoinder.rules.rule_file.headers import HEADER_NAME, header_name
from rejoinder.rules.rule_file.values import at_most, distinct
from rejoinder.rules.shape import NOT_EMPTY, TEXT, TRUE, Shape, Table, any_of, by_name, like, one_or_more

MAX_PARAMETER_SIZE: Final = 1024
"""In bytes: Envoy refuses a longer name in a `QueryParameterMatcher`."""

PATH_KINDS: Final = tuple(kind.value for kind in PathKind)
_STRING_KINDS: Final = tuple(kind.value for kind in StringKind)

PATH: Final = like('/[!"$->@-~]*')
_STRING_TEST: Final = Shape(
    "string-test",
    {
        "exact": (TEXT, "It is equal."),
        "prefix": (NOT_EMPTY, "It starts with this."),
        "suffix": (NOT_EMPTY, "It ends with this."),
        "contains": (NOT_EMPTY, "It has this in it."),
        "regex": (NOT_EMPTY, "The expression (RE2) fits it as a whole."),
        "present": (TRUE, "true: it is there, with any value."),
    },
    some_of=(_STRING_KINDS,),
    one_of=(_STRING_KINDS,),
)
HEADER_TESTS: Final = by_name(HEADER_NAME, any_of(TEXT, _STRING_TEST))
DOMAINS: Final = one_or_more(any_of(IPV6, like(rf"\*|(\*\.)?{HOST_NAME.pattern}")))

REQUEST_FIELDS: Final[Table] = {
    "path": (PATH, "Exactly this path, without the query."),
    "prefix": (PATH, "This path and all below it."),
    "regex": (NOT_EMPTY, "Paths that the expression (RE2) fits as a whole."),
    "methods": (one_or_more(like(r"[!#$%&'*+.^_`|~0-9A-Z-]+")), "Any of these methods, in upper case."),
    "headers": (HEADER_TESTS, "Every header named here, with this value."),
    "query": (
        by_name(like(r"[^\x00-\x1f\x7f]+"), any_of(TEXT, _STRING_TEST)),
        "Every query parameter named here, with this value.",
    ),
}

_PATH_SAFE: Final = "/%:@!$&'()*+,;=-._~"  # pchar, RFC 3986, section 3.3


def request_match(fields: Fields) -> RequestMatch:
    """The test that the REQUEST_FIELDS of a mapping describe."""
    kind = fields.first(*PATH_KINDS)
    return RequestMatch(
        path=fields.get(kind, PATHS[kind], EVERY_PATH) if kind else EVERY_PATH,
        methods=fields.get("methods", _methods, ()),
        headers=fields.get("headers", header_matches, ()),
        query=fields.get("query", lambda it: _string_matches(it, parameter_name), ()),
    )


def domains(place: Place) -> tuple[str, ...]:
    """Domains, one or a list, in lower case."""
    return distinct(place.one_or_more(_domain))


def _domain(place: Place) -> str:
    text = place.string().lower()
    if text == "*" or is_ipv6(text) or HOST_NAME.fullmatch(text.removeprefix("*.")):
        return text
    if re.fullmatch(r".+:[0-9]+", text):
        raise place.mistake(f"expected a domain without a port, got {quoted(text)}: ports do not matter")
    if "*" in text.removeprefix("*."):
        raise place.expected('a wildcard as the whole first label, such as "*.example.com", or "*"')
    raise place.expected('a domain such as "example.com" or "*.example.com"')


def _path_regex(place: Place) -> PathMatch:
    text = regex_text(place)
    if re.match(r"\^?[A-Za-z0-9_-](?![*?{|])[^|]*$", text):
        place.warn(f"{quoted(text)} never fits: paths start with /, and it must fit the whole path")
    return PathMatch(PathKind.REGEX, text)


PATHS: Final[dict[str, Callable[[Place], PathMatch]]] = {
    "path": lambda place: PathMatch(PathKind.EXACT, _path(place)),
    "prefix": lambda place: PathMatch(PathKind.PREFIX, path_prefix(place)),
    "regex": _path_regex,
}
"""The reader of each kind of path, by the name of its field."""


def path_prefix(place: Place) -> str:
    """A path prefix, without a slash at its end."""
    if place.string().endswith("*"):
        place.warn(f"the * in {quoted(place.string())} is compared as it stands: a prefix is about all paths below it")
    return _path(place).rstrip("/") or "/"


def _path(place: Place) -> str:
    text = place.string()
    if not text.startswith("/"):
        raise place.expected('a path starting with "/"')
    at_most(place, MAX_TEXT, "bytes", text)
    if odd := re.search(r"[?#\s\x00-\x1f\x7f]", text):
        raise place.mistake(f"expected a path without {quoted(odd[0])}, got {quoted(text)}")
    if not text.isascii():
        encoded = quote(text, safe=_PATH_SAFE)
        raise place.mistake(f"expected a path as it is sent, {quoted(encoded)}, got {quoted(text)}")
    normal, _ = normalize_path(text)
    if text != normal:
        raise place.mistake(f"Envoy normalizes paths first, so {quoted(text)} never fits: write {quoted(normal)}")
    return text


def regex_text(place: Place) -> str:
    """A regular expression that Envoy accepts."""
    text = place.string()
    if not text:
        raise place.expected("a regular expression")
    try:
        compile_regex(text)
    except RegexError as error:
        raise place.mistake(f"expected a regular expression (RE2), got {quoted(text)}: {error}") from None
    return text


def _methods(place: Place) -> tuple[str, ...]:
    method = text_that(lambda it: TOKEN.fullmatch(it) and it == it.upper(), "a method in upper case such as GET")
    methods = distinct(place.one_or_more(method))
    at_most(place, MAX_TEXT, "bytes in all methods together", "|".join(methods))
    return methods


def parameter_name(place: Place, text: str) -> str:
    """The name of a query parameter; an error names the place."""
    if not text or CONTROL.search(text):
        raise place.mistake(f"expected a parameter name, got {quoted(text)}")
    if len(text.encode()) > MAX_PARAMETER_SIZE:
        raise place.mistake(f"Envoy takes at most {MAX_PARAMETER_SIZE:,} bytes in a parameter's name")
    return text


def header_matches(place: Place) -> tuple[tuple[str, StringMatch], ...]:
    """Tests of headers by name, as `headers` and `response_headers` have them."""
    return _string_matches(place, header_name)


def _string_matches(place: Place, read_name: Callable[[Place, str], str]) -> tuple[tuple[str, StringMatch], ...]:
    matches: dict[str, StringMatch] = {}

    def add(name: str, member: Place) -> None:
        key = read_name(member, name)
        if key in matches:
            raise member.mistake(f"{key} is given twice")
        matches[key] = _string_match(member)

    for name, member in place.members():
        member.attempt(functools.partial(add, name), None)
    return tuple(matches.items())


def _string_match(place: Place) -> StringMatch:
    if not isinstance(place.node, Map):
        text = place.string()
        if re.fullmatch(r"/.+/|\*(?!/\*).+", text):
            wanted = "write a mapping with regex, prefix, suffix or contains"
            place.warn(f"{quoted(text)} is compared as it stands: {wanted}")
        return StringMatch(StringKind.EXACT, text)
    fields = place.fields(_STRING_TEST)
    given = fields.first(*_STRING_KINDS)
    if given is None:  # this has been noted
        return StringMatch(StringKind.PRESENT)
    kind = StringKind(given)
    if kind is StringKind.PRESENT:
        if not fields[given].boolean():
            raise fields[given].mistake("expected true: absence cannot be matched")
        return StringMatch(kind)
    if kind is StringKind.REGEX:
        return StringMatch(kind, regex_text(fields[given]))
    value = fields[given].string()
    if not value and kind is not StringKind.EXACT:
        raise fields[given].mistake("an empty string fits everything: write present: true")
    return StringMatch(kind, value)
