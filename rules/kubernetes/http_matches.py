"""The `matches` of a rule of an HTTPRoute. In: places. Out: `Match`es. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rejoinder.rules.fields import Place
from rejoinder.rules.kubernetes.known import HTTP_MATCH, check
from rejoinder.rules.kubernetes.objects import items, noted, one_of, open_fields
from rejoinder.rules.model import EVERY_PATH, EVERY_REQUEST, PathMatch, RequestMatch, StringKind, StringMatch
from rejoinder.rules.problem import Severity
from rejoinder.rules.rule_file.headers import header_name
from rejoinder.rules.rule_file.matches import PATHS, parameter_name, regex_text

_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
_PATH_TYPES: Final = {"Exact": "path", "PathPrefix": "prefix", "RegularExpression": "regex"}


@dataclass(frozen=True, slots=True)
class Match:
    """One entry of a rule's `matches`."""

    request: RequestMatch = EVERY_REQUEST
    whole: bool = True
    """False: one of its tests cannot be used, so it fits more requests than intended. They get the rule's refusal."""


def read_matches(place: Place) -> tuple[Match, ...]:
    """`matches`."""
    return tuple(map(_match, items(place)))


def _match(place: Place) -> Match:
    request, problems = noted(place, _request, EVERY_REQUEST)
    return Match(request, whole=all(problem.severity is not Severity.ERROR for problem in problems))


def _request(place: Place) -> RequestMatch:
    check(place, HTTP_MATCH)
    fields = open_fields(place)
    method = fields.get("method", one_of(*_METHODS), "")
    return RequestMatch(
        path=fields.get("path", _path, EVERY_PATH),
        methods=(method,) if method else (),
        headers=fields.get("headers", lambda it: _values(it, header_name), ()),
        query=fields.get("queryParams", lambda it: _values(it, parameter_name), ()),
    )


def _path(place: Place) -> PathMatch:
    fields = open_fields(place)
    kind = fields.get("type", one_of(*_PATH_TYPES), "PathPrefix")
    return fields.get("value", PATHS[_PATH_TYPES[kind]], EVERY_PATH)


def _values(place: Place, read_name: Callable[[Place, str], str]) -> tuple[tuple[str, StringMatch], ...]:
    tests: dict[str, StringMatch] = {}
    for item in place.items():
        fields = open_fields(item)
        name = fields.require("name", lambda it: read_name(it, it.string()), None)
        kind = fields.get("type", one_of("Exact", "RegularExpression"), "Exact")
        if kind == "Exact":
            test = StringMatch(StringKind.EXACT, fields.require("value", Place.string, ""))
        else:
            test = StringMatch(StringKind.REGEX, fields.require("value", regex_text, ".*"))
        if name is not None:  # the specification: of several with one name, the first counts
            tests.setdefault(name, test)
    return tuple(tests.items())
