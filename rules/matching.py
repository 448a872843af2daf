"""The algebra of request matches: whether one fits a request, covers another, or can meet another.

Pure functions over `model` values. `decide` uses `fits`; planning, and the warnings about rules that can never decide,
use `covers` and `meet`. `covers` may return False where True is right (for two regexes), `meet` may return a match that
nothing fits; never the other way round.

A client sends bytes. As text they are decoded as UTF-8 with `surrogateescape`, so that texts are equal, or one begins
with the other, exactly if the bytes do so. Regular expressions are matched against the bytes themselves, as in Envoy.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rejoinder.rules.model import (
    EVERY_PATH,
    MAX_REGEX_SIZE,
    PathKind,
    PathMatch,
    RequestMatch,
    Rule,
    Scope,
    StringKind,
    StringMatch,
)

if TYPE_CHECKING:
    from rejoinder.rules.request import Request, Response


class RegexError(ValueError):
    """Envoy would refuse this regex; the text is the reason, for the author of the rule."""


@functools.lru_cache(maxsize=4096)
def compile_regex(pattern: str) -> Any:
    """The regex as Envoy's own engine (RE2) sees it. It is for bytes.

    Raises:
        RegexError: it is not RE2 syntax (look-around, back-references, unbalanced brackets ...), or too large.
    """
    import re2  # noqa: PLC0415 - few rule files have a regex

    options = re2.Options()
    # A byte is a character, in the expression and in the tested text, as in Envoy since 1.39.2. Outside
    # ASCII, `.` is a part of a character, and `[é]` is one of two bytes.
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False  # else re2 writes to stderr what it also raises
    try:
        compiled = re2.compile(pattern.encode(), options)
    except re2.error as error:
        reason = error.args[0] if error.args else "not a regular expression"
        raise RegexError(reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)) from None
    if compiled.programsize > MAX_REGEX_SIZE:
        size = f"{compiled.programsize:,} instructions, and Envoy takes {MAX_REGEX_SIZE:,}"
        raise RegexError(f"it is compiled to {size}: ask for fewer repetitions")
    return compiled


def regex_fits(pattern: str, text: str) -> bool:
    """Whether a text fits a regex as a whole."""
    return compile_regex(pattern).fullmatch(text.encode("utf-8", "surrogateescape")) is not None


def path_fits(match: PathMatch, path: str) -> bool:
    """Whether a normalized path without query fits."""
    if match.kind is PathKind.EXACT:
        return path == match.value
    if match.kind is PathKind.REGEX:
        return regex_fits(match.value, path)
    return match == EVERY_PATH or path == match.value or path.startswith(match.value + "/")


def value_fits(match: StringMatch, value: str) -> bool:
    """Whether one value of a header or a query parameter fits."""
    match match.kind:
        case StringKind.EXACT:
            return value == match.value
        case StringKind.PREFIX:
            return value.startswith(match.value)
        case StringKind.SUFFIX:
            return value.endswith(match.value)
        case StringKind.CONTAINS:
            return match.value in value
        case StringKind.REGEX:
            return regex_fits(match.value, value)
        case StringKind.PRESENT:
            return True


def fits(match: RequestMatch, request: Request) -> bool:
    """Whether a request fits a match."""
    return (
        (not match.methods or request.method in match.methods)
        and path_fits(match.path, request.path)
        and all(any(value_fits(test, value) for value in request.header(name)) for name, test in match.headers)
        and all(any(value_fits(test, value) for value in request.parameter(name)) for name, test in match.query)
    )


def scope_fits(scope: Scope, request: Request, route: str | None, response: Response | None) -> bool:
    """Whether a scope is about a request, and its response.

    Args:
        route: the name of the route that the request takes; None: none.
        response: None: there is none yet.
    """
    return (
        (scope.routes is None or route in scope.routes)
        and domains_cover(scope.domains, request.host)
        and fits(scope.request, request)
        and (not scope.clients or client_fits(scope.clients, request.client))
        and all(
            response is not None and any(value_fits(test, value) for value in response.header(name))
            for name, test in scope.response_headers
        )
    )


def rule_fits(rule: Rule, request: Request, route: str | None, response: Response | None) -> bool:
    """Whether a rule is about a request, and its response. Args as for `scope_fits`."""
    if response is None and rule.sees_responses:
        return False
    return (
        scope_fits(rule.scope, request, route, response)
        and (rule.unless is None or not scope_fits(rule.unless, request, route, response))
        and (not rule.source or (response is not None and response.source == rule.source))
    )


def client_fits(networks: tuple[str, ...], client: str) -> bool:
    """Whether an IP address is in one of the networks; an IPv4-mapped IPv6 address counts as IPv4."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network(text) for text in networks)


@functools.lru_cache(maxsize=4096)
def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Raises:
    ValueError: it is not a network in CIDR notation, or has host bits set; the text says which.
    """
    parsed = ipaddress.ip_network(text)
    mapped = parsed.network_address.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Network) else None
    return ipaddress.IPv4Network((mapped, parsed.prefixlen - 96)) if mapped and parsed.prefixlen >= 96 else parsed


def domain_covers(pattern: str, other: str) -> bool:
    """Whether every host of one domain pattern is a host of the first; a plain host counts as its own pattern.

    `*.example.com` covers `a.b.example.com` and `*.b.example.com`, not `example.com`.
    """
    if pattern in ("*", other):
        return True
    suffix = pattern[1:]
    return pattern.startswith("*") and other.endswith(suffix) and len(other) > len(suffix)


def domains_cover(patterns: tuple[str, ...], other: str) -> bool:
    """Whether any of the patterns covers the other; no patterns stand for every domain."""
    return not patterns or any(domain_covers(pattern, other) for pattern in patterns)


@functools.lru_cache(maxsize=1 << 15)
def wider_domains(domain: str) -> tuple[str, ...]:
    """Every pattern that covers a domain, the narrowest first.

    >>> wider_domains("a.example.com")
    ('a.example.com', '*.example.com', '*.com', '*')
    """
    labels = domain.split(".")[1:]
    wildcards = ("*." + ".".join(labels[start:]) for start in range(len(labels)))
    return tuple(dict.fromkeys((domain, *wildcards, "*")))


@functools.lru_cache(maxsize=1 << 15)
def wider_paths(path: PathMatch) -> tuple[PathMatch, ...]:
    """The path itself, and every prefix that covers it, without EVERY_PATH; for a regex, only itself.

    >>> [wider.value for wider in wider_paths(PathMatch(PathKind.EXACT, "/a/b"))]
    ['/a/b', '/a', '/a/b']
    """
    if path.kind is PathKind.REGEX:
        return (path,)
    elements = path.value.split("/")
    prefixes = [PathMatch(PathKind.PREFIX, "/".join(elements[:end])) for end in range(2, len(elements) + 1)]
    return (path, *(prefix for prefix in prefixes if prefix != path))


def path_covers(match: PathMatch, other: PathMatch) -> bool:
    """Whether it is certain that every path that fits the second fits the first."""
    if EVERY_PATH in (match, other):
        return match == EVERY_PATH
    if other.kind is PathKind.EXACT:
        return path_fits(match, other.value)
    if match.kind is PathKind.PREFIX and other.kind is PathKind.PREFIX:
        return path_fits(match, other.value)
    return match == other


def _value_covers(match: StringMatch, other: StringMatch) -> bool:
    if match == other or match.kind is StringKind.PRESENT:
        return True
    if other.kind is StringKind.EXACT:
        return value_fits(match, other.value)
    if match.kind is StringKind.CONTAINS:
        return other.kind in (StringKind.PREFIX, StringKind.SUFFIX, StringKind.CONTAINS) and match.value in other.value
    return match.kind is other.kind in (StringKind.PREFIX, StringKind.SUFFIX) and value_fits(match, other.value)


def covers(match: RequestMatch, other: RequestMatch) -> bool:
    """Whether it is certain that every request that fits the second fits the first."""
    return (
        path_covers(match.path, other.path)
        and (not match.methods or (bool(other.methods) and set(other.methods) <= set(match.methods)))
        and all(_some_covered(test, other.headers) for test in match.headers)
        and all(_some_covered(test, other.query) for test in match.query)
    )


def _some_covered(test: tuple[str, StringMatch], others: Iterable[tuple[str, StringMatch]]) -> bool:
    return any(name == test[0] and _value_covers(test[1], other) for name, other in others)


@dataclass(frozen=True, slots=True)
class Meet:
    """What fits several matches at once."""

    paths: tuple[PathMatch, ...] = ()
    """All must fit. Simplified: empty for every path, one exact path alone, or at most one prefix beside regexes."""
    methods: tuple[str, ...] = ()
    headers: tuple[tuple[str, StringMatch], ...] = ()
    query: tuple[tuple[str, StringMatch], ...] = ()

    def __hash__(self) -> int:
        return hash(self.paths)  # the other fields rarely differ

    @classmethod
    def of(cls, match: RequestMatch) -> Meet:
        return cls(() if match.path == EVERY_PATH else (match.path,), match.methods, match.headers, match.query)


EVERYTHING = Meet()


def meet(first: Meet, second: Meet) -> Meet | None:
    """The match for what fits both; None if it is certain that nothing does.

    >>> meet(Meet((PathMatch(PathKind.PREFIX, "/a"),)), Meet((PathMatch(PathKind.EXACT, "/a/b"),))).paths
    (PathMatch(kind=<PathKind.EXACT: 'path'>, value='/a/b'),)
    """
    paths: tuple[PathMatch, ...] | None = first.paths
    for path in second.paths:
        paths = None if paths is None else _meet_paths(paths, path)
    methods = _meet_methods(first.methods, second.methods)
    if paths is None or methods is None:
        return None
    headers = _meet_values(first.headers, second.headers)
    return Meet(paths, methods, headers, _meet_values(first.query, second.query))


def host_test(first: Meet, domain: str) -> Meet:
    """The match, restricted to the hosts of a domain pattern by a test of the Host header."""
    name = f"[^:]+{quote(domain[1:])}" if domain.startswith("*.") else quote(domain)
    # Letter case and ports do not matter.
    test = ("host", StringMatch(StringKind.REGEX, f"(?i){name}(:[0-9]*)?"))
    return replace(first, headers=(*first.headers, test))


def quote(text: str) -> str:
    """A text as a regex (RE2) that fits just this text."""
    return re.sub(r"(?a)([^\w/\x80-\U0010FFFF-])", r"\\\1", text)  # a backslash may stand before ASCII only


def _meet_paths(paths: tuple[PathMatch, ...], new: PathMatch) -> tuple[PathMatch, ...] | None:
    if new == EVERY_PATH:
        return paths
    if not paths:
        return (new,)
    if any(path_covers(new, path) for path in paths):
        return paths
    if any(_paths_disjoint(path, new) for path in paths):
        return None
    return (*(path for path in paths if not path_covers(path, new)), new)


def _paths_disjoint(one: PathMatch, other: PathMatch) -> bool:
    known = PathKind.EXACT in (one.kind, other.kind) or one.kind is other.kind is PathKind.PREFIX
    return known and not (path_covers(one, other) or path_covers(other, one))


def _meet_methods(methods: tuple[str, ...], new: tuple[str, ...]) -> tuple[str, ...] | None:
    if not methods or not new:
        return methods or new
    return tuple(method for method in methods if method in new) or None


def _meet_values(
    tests: tuple[tuple[str, StringMatch], ...], new: tuple[tuple[str, StringMatch], ...]
) -> tuple[tuple[str, StringMatch], ...]:
    # Two exact values of one header can both fit, if it is sent twice, so the result is never None here.
    if not new:
        return tests
    return (*tests, *(test for test in new if not _some_covered(test, tests)))
