"""`routes`: a list of named request matches with one action each (`upstream`, `respond` or `redirect`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from rejoinder.rules.document import Scalar, quoted
from rejoinder.rules.fields import FieldError, Fields, Mention, Place, text_that
from rejoinder.rules.http import CONTROL, REDIRECTS, TOKEN
from rejoinder.rules.model import (
    MAX_TEXT,
    WEBSOCKET,
    Answer,
    Forward,
    PathKind,
    RateLimit,
    Redirect,
    RequestMatch,
    Retries,
    Rewrite,
    Route,
)
from rejoinder.rules.rule_file import matches, values
from rejoinder.rules.rule_file.addresses import HOST_NAME, IPV6, PORTS, is_ipv6
from rejoinder.rules.rule_file.answers import ANSWER_FIELDS, TOGETHER, answer, refuse_original
from rejoinder.rules.shape import DURATION, Shape, Table, any_of, choice, integer, like, listed, one_or_more

MIN_RATE_LIMIT_INTERVAL: Final = 0.05
"""In seconds: Envoy refuses a shorter fill interval of a local rate limit."""


RETRY_REASONS: Final = ("connect-failure", "refused-stream", "reset")
"""The reasons for a retry beside statuses, in Envoy's words."""
DEFAULT_RETRIES: Final = RETRY_REASONS[:2]
"""The reasons where the upstream has not seen the request."""

_URL_PATH: Final = like(r"/[^ #\x00-\x1f\x7f]*")
_HOST: Final = any_of(like(HOST_NAME), IPV6)

_ACTION_FIELDS: Final = ("upstream", "respond", "redirect")
_RATE_LIMIT: Final = Shape(
    "rate-limit",
    {
        "requests": (integer(range(1, 2**32)), "So many requests are let through ..."),
        "per": (like(DURATION), "... in this time, from 50ms on."),
    },
    required=("requests", "per"),
)
_RETRIES: Final = Shape(
    "retries",
    {
        "attempts": (integer(range(1, 11)), "At most so often."),
        "on": (
            one_or_more(any_of(values.STATUS_PATTERN, choice(*RETRY_REASONS))),
            f"On statuses, patterns such as 5xx, and {', '.join(RETRY_REASONS)} (default: the first two of these).",
        ),
    },
    required=("attempts",),
)
_REWRITE: Final = Shape(
    "rewrite",
    {
        "host": (_HOST, "The Host that the upstream gets."),
        "path": (like(r"/[^ #?\x00-\x1f\x7f]*"), "The whole new path, without a query."),
        "prefix": (matches.PATH, "What takes the place of the route's prefix."),
    },
    some_of=(("host", "path", "prefix"),),
    one_of=(("path", "prefix"),),
)
_FORWARD_FIELDS: Final[Table] = {
    "rate_limit": (_RATE_LIMIT, "What exceeds it is answered 429 by Envoy."),
    "timeout": (like(DURATION), "How long the whole response may take, such as 30s; 0s, the default: for ever."),
    "idle_timeout": (like(DURATION), "How long nothing may be sent either way (default 300s)."),
    "retries": (_RETRIES, "Send a request that has failed again."),
    "upgrades": (listed(like(TOKEN)), "Protocols that a client may switch to (default: websocket)."),
    "rewrite": (_REWRITE, "What the upstream is asked for."),
}
_RESPOND: Final = Shape(
    "respond",
    {
        "status_code": (values.STATUS, "200 (the default) to 599."),
        **{name: ANSWER_FIELDS[name] for name in ("headers", "body", "body_file")},
    },
    some_of=(("status_code", "headers", "body", "body_file"),),
    hints={
        **dict.fromkeys(ANSWER_FIELDS, "a route gives the same answer to everybody: it belongs into a rule"),
        "enable_on_status": "a route that answers asks no upstream",
    },
    **TOGETHER,
)
_REDIRECT: Final = Shape(
    "redirect",
    {
        "scheme": (choice("http", "https"), "http or https."),
        "host": (_HOST, "A host name, without port."),
        "port": (integer(PORTS), "1 to 65535."),
        "path": (_URL_PATH, "The whole new path, maybe with a query."),
        "prefix": (matches.PATH, "What takes the place of the route's prefix."),
        "status_code": (
            any_of(choice(*REDIRECTS), choice(*map(str, REDIRECTS))),
            "301 (the default), 302, 303, 307 or 308.",
        ),
    },
    some_of=(("scheme", "host", "port", "path", "prefix"),),
    one_of=(("path", "prefix"),),
)
_ROUTE: Final = Shape(
    "route",
    {
        "name": (values.NAME, "Unique. Rules name routes by it."),
        "domains": (matches.DOMAINS, "One or a list: example.com, *.example.com or * (default: every domain)."),
        **matches.REQUEST_FIELDS,
        "upstream": (values.NAME, "Name of the upstream to forward to."),
        "respond": (_RESPOND, "An answer."),
        "redirect": (_REDIRECT, "Where to send the client; what is not given stays as it is in the request."),
        **_FORWARD_FIELDS,
    },
    required=("name",),
    some_of=(_ACTION_FIELDS,),
    one_of=(_ACTION_FIELDS, matches.PATH_KINDS),
    needs=dict.fromkeys(_FORWARD_FIELDS, "upstream"),
)
ROUTES: Final = listed(_ROUTE)


def routes(place: Place) -> tuple[Route, ...]:
    """`routes`: a list of named request matches with one action each."""
    return values.as_list(place).each(_route)


def _route(place: Place) -> Route:
    place = values.named(place, "route", "")
    fields = place.fields(_ROUTE)
    action = fields.first(*_ACTION_FIELDS)
    request = matches.request_match(fields)
    does = fields.get(action or "", _ACTIONS[action or "upstream"], Answer())
    return Route(
        name=fields.get("name", values.name, ""),
        action=_forwarding(fields, does, request) if isinstance(does, Forward) else does,
        domains=fields.get("domains", matches.domains, ()),
        request=request,
        rate_limit=fields.get("rate_limit", _rate_limit, None),
        position=place.position,
    )


def _forward(place: Place) -> Forward:
    upstream = values.name(place)
    place.source.upstreams.append(Mention(place, upstream))
    return Forward(upstream)


def _forwarding(fields: Fields, forward: Forward, request: RequestMatch) -> Forward:
    return replace(
        forward,
        rewrite=fields.get("rewrite", functools.partial(_rewrite, request=request), Rewrite()),
        timeout=fields.get("timeout", Place.duration, forward.timeout),
        idle_timeout=fields.get("idle_timeout", Place.duration, None),
        retries=fields.get("retries", _retries, None),
        upgrades=fields.get("upgrades", lambda it: it.each(_upgrade), WEBSOCKET),
    )


def _rewrite(place: Place, request: RequestMatch) -> Rewrite:
    fields = place.fields(_REWRITE)
    if "prefix" in fields and request.path.kind is not PathKind.PREFIX:
        fields["prefix"].error("takes the place of the route's prefix, and it has none: write path")
    return Rewrite(
        host=fields.get("host", redirect_host, None),
        path=fields.get("path", rewrite_path, None),
        prefix=fields.get("prefix", matches.path_prefix, None),
    )


def rewrite_path(place: Place) -> str:
    """The path of the request to the upstream, without a query, because the request's query is kept."""
    text = redirect_path(place)
    if "?" in text:
        raise place.mistake(f"expected a path without a query, got {quoted(text)}: that of the request is kept")
    return text


def _retries(place: Place) -> Retries:
    fields = place.fields(_RETRIES)
    return Retries(
        attempts=fields.get("attempts", lambda it: it.integer(range(1, 11), "a number of attempts"), 1),
        on=fields.get("on", lambda it: values.distinct(it.one_or_more(_retry_reason)), DEFAULT_RETRIES),
    )


def _retry_reason(place: Place) -> str:
    node = place.node
    if isinstance(node, Scalar) and node.text in RETRY_REASONS:
        return node.text
    try:
        return str(values.status_pattern(place))
    except FieldError:
        raise place.expected(f"a status, a pattern such as 5xx, or one of {', '.join(RETRY_REASONS)}") from None


def _upgrade(place: Place) -> str:
    text = place.string()
    if not TOKEN.fullmatch(text) or text.lower() in ("connect", "connect-udp", "h2c"):
        raise place.expected("a protocol such as websocket")
    return text.lower()


def _respond(place: Place) -> Answer:
    response = answer(place, shape=_RESPOND)
    refuse_original(place, response)
    return response


def _redirect(place: Place) -> Redirect:
    fields = place.fields(_REDIRECT)
    return Redirect(
        scheme=fields.get("scheme", lambda it: it.choice("http", "https"), None),
        host=fields.get("host", redirect_host, None),
        port=fields.get("port", lambda it: it.integer(PORTS, "a port"), None),
        path=fields.get("path", redirect_path, None),
        prefix=fields.get("prefix", matches.path_prefix, None),
        status_code=fields.get("status_code", _redirect_status, 301),
    )


_ACTIONS: Final[dict[str, Callable[[Place], Answer | Redirect | Forward]]] = {
    "upstream": _forward,
    "respond": _respond,
    "redirect": _redirect,
}


redirect_host: Final = text_that(
    lambda it: HOST_NAME.fullmatch(it) or is_ipv6(it), "a host name without scheme, port and path"
)
"""A reader for a host to put into a URL."""


def redirect_path(place: Place) -> str:
    """A path to put into a URL; it may have a query."""
    text = values.at_most(place, MAX_TEXT, "bytes", place.string())
    if not text.startswith("/") or CONTROL.search(text) or " " in text or "#" in text:
        raise place.expected('a path starting with "/", without spaces or "#"')
    return text


def _redirect_status(place: Place) -> int:
    code = values.status(place)
    if code not in REDIRECTS:
        raise place.expected(f"one of {', '.join(map(str, REDIRECTS))}")
    return code


def _rate_limit(place: Place) -> RateLimit:
    fields = place.fields(_RATE_LIMIT)
    return RateLimit(
        requests=fields.get("requests", lambda it: it.integer(range(1, 2**32), "a number of requests"), 1),
        interval=fields.get(
            "per", lambda it: it.duration(MIN_RATE_LIMIT_INTERVAL, "50ms, the shortest that Envoy takes"), 1.0
        ),
    )
