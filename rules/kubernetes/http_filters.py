"""The filters of a rule of an HTTPRoute, or of one of its backends.

In: places, and the `References` of the route. Out: `Filters`, values that can be joined. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rejoinder.rules.document import quoted
from rejoinder.rules.fields import Fields, Place, text_that
from rejoinder.rules.http import CONTROL_IN_VALUE, REDIRECTS
from rejoinder.rules.kubernetes import direct_response
from rejoinder.rules.kubernetes.objects import items, one_of, open_fields, port
from rejoinder.rules.kubernetes.references import References
from rejoinder.rules.kubernetes.status import INCOMPATIBLE_FILTERS, UNSUPPORTED_VALUE, refuse
from rejoinder.rules.model import MAX_HEADERS, UNCHANGED, Answer, Cors, Header, HeaderChanges, Redirect, Rewrite
from rejoinder.rules.rule_file.headers import MAX_HEADER_SIZE, header_name
from rejoinder.rules.rule_file.routes import redirect_host, redirect_path
from rejoinder.rules.rule_file.values import at_most

MAX_ORIGIN: Final = 1024
"""In bytes: a `*` in it is several instructions of a regular expression."""

_ORIGIN: Final = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Filters:
    request_headers: HeaderChanges = UNCHANGED
    response_headers: HeaderChanges = UNCHANGED
    redirect: Redirect | None = None
    rewrite: Rewrite | None = None
    cors: Cors | None = None
    mirrors: tuple[tuple[str, float], ...] = ()
    responses: tuple[Answer, ...] = ()
    """Of DirectResponses; for one that cannot be used, which is noted, any answer."""

    def joined(self, other: Filters) -> Filters:
        """Both; for what can exist only once, that of the other."""
        return Filters(
            other.request_headers or self.request_headers,
            other.response_headers or self.response_headers,
            other.redirect or self.redirect,
            other.rewrite or self.rewrite,
            other.cors or self.cors,
            (*self.mirrors, *other.mirrors),
            (*self.responses, *other.responses),
        )


def read_filters(place: Place, references: References, *, backend: bool = False) -> Filters:
    """The filters of a rule, or of a backend, which may have fewer."""
    readers = _readers(references, backend)
    filters, seen = Filters(), set[str]()
    for item in items(place):
        fields = open_fields(item)
        kind = fields.require("type", Place.string, "")
        if kind in seen and kind not in _SEVERAL:
            refuse(item, INCOMPATIBLE_FILTERS, f"{kind} is given twice")
        seen.add(kind)
        if kind not in readers or (backend and kind in _OF_RULES):
            where = "on a backendRef" if kind in readers else "here"
            refuse(item, UNSUPPORTED_VALUE, f"the filter {quoted(kind)} is not supported {where}")
            continue
        name, read = readers[kind]
        if name not in fields:
            raise item.mistake(f"{name} is missing")
        for other in fields.given.keys() & ({field for field, _ in readers.values()} - {name}):
            refuse(fields[other], UNSUPPORTED_VALUE, f"is not for a filter of the type {kind}")
        filters = filters.joined(read(fields[name]))
    return filters


_SEVERAL: Final = ("RequestMirror", "ExtensionRef")
"""Filters that may be given several times."""
_OF_RULES: Final = ("CORS", "DirectResponse")
"""Filters that no backend can have."""


def _readers(references: References, backend: bool) -> dict[str, tuple[str, Callable[[Place], Filters]]]:
    """All filters, each with the field of its settings, and the reader of that field."""
    return {
        "RequestHeaderModifier": ("requestHeaderModifier", lambda it: Filters(request_headers=_header_changes(it))),
        "ResponseHeaderModifier": ("responseHeaderModifier", lambda it: Filters(response_headers=_header_changes(it))),
        "RequestRedirect": ("requestRedirect", lambda it: Filters(redirect=_redirect(it))),
        "URLRewrite": ("urlRewrite", lambda it: Filters(rewrite=_rewrite(it))),
        "RequestMirror": ("requestMirror", lambda it: Filters(mirrors=_mirrors(it, references))),
        "ExtensionRef": ("extensionRef", lambda it: Filters(responses=_responses(it, references, backend))),
        "CORS": ("cors", lambda it: Filters(cors=_cors(it))),
        "DirectResponse": ("directResponse", lambda it: Filters(responses=(direct_response.read_filter(it),))),
    }


def _responses(place: Place, references: References, backend: bool) -> tuple[Answer, ...]:
    response = references.response(place)
    if response is not None and backend:
        place.warn("a DirectResponse on a backendRef is ignored: refer to it in the rule's own filters")
    return () if response is None or backend else (response,)


def _mirrors(place: Place, references: References) -> tuple[tuple[str, float], ...]:
    fields = open_fields(place)
    upstream = fields.require("backendRef", references.upstream, None)
    return () if upstream is None else ((upstream, _share(fields)),)


def _rewrite(place: Place) -> Rewrite:
    fields = open_fields(place)
    path, prefix = _path_modifier(fields)
    if path and "?" in path:
        fields["path"].error("replaceFullPath: expected a path without a query: that of the request is kept")
    return Rewrite(fields.get("hostname", redirect_host, None), path, prefix)


def _header_changes(place: Place) -> HeaderChanges:
    fields = open_fields(place)
    changes = HeaderChanges(
        set=fields.get("set", lambda it: it.each(_header), ()),
        add=fields.get("add", lambda it: it.each(_header), ()),
        remove=fields.get("remove", lambda it: it.each(_name), ()),
    )
    at_most(place, MAX_HEADERS, "headers", (*changes.set, *changes.add))
    return changes


def _header(place: Place) -> Header:
    fields = open_fields(place)
    return fields.require("name", _name, ""), fields.require("value", _header_value, "")


def _name(place: Place) -> str:
    name = header_name(place, place.string())
    if name == "host":
        raise place.mistake("Envoy changes Host by URLRewrite only")
    return name


_header_value: Final = text_that(
    lambda it: not CONTROL_IN_VALUE.search(it) and len(it.encode()) <= MAX_HEADER_SIZE,
    f"a header value without control characters and of at most {MAX_HEADER_SIZE:,} bytes",
)


def _redirect(place: Place) -> Redirect:
    fields = open_fields(place)
    path, prefix = _path_modifier(fields)
    return Redirect(
        scheme=fields.get("scheme", one_of("http", "https"), None),
        host=fields.get("hostname", redirect_host, None),
        port=fields.get("port", port, None),
        path=path,
        prefix=prefix,
        status_code=fields.get("statusCode", _redirect_status, 302),
    )


def _redirect_status(place: Place) -> int:
    status = direct_response.status(place)
    if status not in REDIRECTS:
        raise place.expected(f"one of {', '.join(map(str, REDIRECTS))}")
    return status


def _path_modifier(fields: Fields) -> tuple[str | None, str | None]:
    """The whole new path, and the new prefix: at most one is given."""
    if "path" not in fields:
        return None, None
    inner = open_fields(fields["path"])
    kind = inner.require("type", one_of("ReplaceFullPath", "ReplacePrefixMatch"), "ReplaceFullPath")
    name = "replaceFullPath" if kind == "ReplaceFullPath" else "replacePrefixMatch"
    path = inner.require(name, lambda it: redirect_path(it) if it.string() else "", "/")
    return (path or "/", None) if kind == "ReplaceFullPath" else (None, path)


def _share(fields: Fields) -> float:
    if "fraction" not in fields:
        return float(fields.get("percent", lambda it: it.integer(range(101), "a percentage"), 100))
    fraction = open_fields(fields["fraction"])
    numerator = fraction.require("numerator", lambda it: it.integer(range(2**31)), 0)
    denominator = fraction.get("denominator", lambda it: it.integer(range(1, 2**31)), 100)
    return min(100.0, numerator / denominator * 100)


def _cors(place: Place) -> Cors:
    fields = open_fields(place)

    def texts(name: str) -> tuple[str, ...]:
        return fields.get(name, lambda it: it.each(Place.string), ())

    return Cors(
        origins=fields.get("allowOrigins", lambda it: it.each(_origin), ()) or ("*",),
        methods=texts("allowMethods"),
        headers=texts("allowHeaders"),
        expose=texts("exposeHeaders"),
        credentials=fields.get("allowCredentials", Place.boolean, False),
        max_age=fields.get("maxAge", lambda it: it.integer(range(1, 2**31), "a number of seconds"), 5),
    )


def _origin(place: Place) -> str:
    text = at_most(place, MAX_ORIGIN, "bytes", place.string())
    if not _ORIGIN.fullmatch(text):
        raise place.expected('an origin such as "https://example.com", or "*"')
    return text
