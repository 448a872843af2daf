"""`routes`: a list of named request matches with one action each (`upstream`, `respond` or `redirect`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from rejoinder.rules.document import Scalar, quoted
from rejoinder.rules.fields import FieldError, Fields, Mention, Place
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
from rejoinder.rules.rule_file.addresses import HOST_NAME, PORTS, is_ipv6
from rejoinder.rules.rule_file.answers import answer, refuse_original
from rejoinder.rules.rule_file.matches import REQUEST_FIELDS, domains, path_prefix, request_match
from rejoinder.rules.rule_file.values import at_most, distinct, listed, name, named, status, status_pattern

MIN_RATE_LIMIT_INTERVAL: Final = 0.05
"""In seconds: Envoy refuses a shorter fill interval of a local rate limit."""


def routes(place: Place) -> tuple[Route, ...]:
    """`routes`: a list of named request matches with one action each."""
    return listed(place).each(_route)


def _route(place: Place) -> Route:
    place = named(place, "route", "")
    fields = place.fields(
        "name", "domains", *REQUEST_FIELDS, "upstream", "respond", "redirect", "rate_limit", *_FORWARD_FIELDS
    )  # fmt: skip
    action = fields.only_one("upstream", "respond", "redirect")
    if action is None and not fields.unknown:
        place.error("expected one of upstream, respond, redirect")
    for field in ("rate_limit", *_FORWARD_FIELDS):
        if field in fields and action not in ("upstream", None):
            fields[field].error(f"only a route with an upstream can have {field}")
    request = request_match(fields)
    does = fields.get(action or "", _ACTIONS[action or "upstream"], Answer())
    return Route(
        name=fields.require("name", name, ""),
        action=_forwarding(fields, does, request) if isinstance(does, Forward) else does,
        domains=fields.get("domains", domains, ()),
        request=request,
        rate_limit=fields.get("rate_limit", _rate_limit, None),
        position=place.position,
    )


def _forward(place: Place) -> Forward:
    upstream = name(place)
    place.source.upstreams.append(Mention(place, upstream))
    return Forward(upstream)


_FORWARD_FIELDS: Final = ("timeout", "idle_timeout", "retries", "upgrades", "rewrite")


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
    fields = place.fields("host", "path", "prefix")
    if not fields.given and not fields.unknown:
        raise place.expected("at least one of host, path, prefix")
    fields.only_one("path", "prefix")
    if "prefix" in fields and request.path.kind is not PathKind.PREFIX:
        fields["prefix"].error("takes the place of the route's prefix, and it has none: write path")
    return Rewrite(
        host=fields.get("host", redirect_host, None),
        path=fields.get("path", rewrite_path, None),
        prefix=fields.get("prefix", path_prefix, None),
    )


def rewrite_path(place: Place) -> str:
    """The path that an upstream is asked for. It has no query, as the request's query is kept."""
    text = redirect_path(place)
    if "?" in text:
        raise place.mistake(f"expected a path without a query, got {quoted(text)}: that of the request is kept")
    return text


def _retries(place: Place) -> Retries:
    fields = place.fields("attempts", "on")
    return Retries(
        attempts=fields.require("attempts", lambda it: it.integer(range(1, 11), "a number of attempts"), 1),
        on=fields.get("on", lambda it: distinct(it.one_or_more(_retry_reason)), DEFAULT_RETRIES),
    )


RETRY_REASONS: Final = ("connect-failure", "refused-stream", "reset")
"""The reasons for a retry beside statuses, in Envoy's words."""
DEFAULT_RETRIES: Final = RETRY_REASONS[:2]
"""The reasons where the upstream has not seen the request."""


def _retry_reason(place: Place) -> str:
    node = place.node
    if isinstance(node, Scalar) and node.text in RETRY_REASONS:
        return node.text
    try:
        return str(status_pattern(place))
    except FieldError:
        raise place.expected(f"a status, a pattern such as 5xx, or one of {', '.join(RETRY_REASONS)}") from None


def _upgrade(place: Place) -> str:
    text = place.string()
    if not TOKEN.fullmatch(text) or text.lower() in ("connect", "connect-udp", "h2c"):
        raise place.expected("a protocol such as websocket")
    return text.lower()


def _respond(place: Place) -> Answer:
    for field in ("enable_on_status", "handler"):
        if place.has(field):
            raise place.mistake(f"{field} has no meaning here: a route that answers asks no upstream")
    response = answer(place)
    refuse_original(place, response)
    if not response.fixed or response.page:
        place.error("a route gives the same answer to everybody: what depends on the request is a rule's to say")
    return response


def _redirect(place: Place) -> Redirect:
    fields = place.fields("scheme", "host", "port", "path", "prefix", "status_code")
    if not fields.given.keys() - {"status_code"}:
        place.error("expected at least one of scheme, host, port, path, prefix")
    fields.only_one("path", "prefix")
    return Redirect(
        scheme=fields.get("scheme", lambda it: it.choice("http", "https"), None),
        host=fields.get("host", redirect_host, None),
        port=fields.get("port", lambda it: it.integer(PORTS, "a port"), None),
        path=fields.get("path", redirect_path, None),
        prefix=fields.get("prefix", path_prefix, None),
        status_code=fields.get("status_code", _redirect_status, 301),
    )


_ACTIONS: Final[dict[str, Callable[[Place], Answer | Redirect | Forward]]] = {
    "upstream": _forward,
    "respond": _respond,
    "redirect": _redirect,
}


def redirect_host(place: Place) -> str:
    """A host to put into a URL."""
    text = place.string()
    if not (HOST_NAME.fullmatch(text) or is_ipv6(text)):
        raise place.expected("a host name without scheme, port and path")
    return text


def redirect_path(place: Place) -> str:
    """A path to put into a URL; it may have a query."""
    text = at_most(place, MAX_TEXT, "bytes", place.string())
    if not text.startswith("/") or CONTROL.search(text) or " " in text or "#" in text:
        raise place.expected('a path starting with "/", without spaces or "#"')
    return text


def _redirect_status(place: Place) -> int:
    code = status(place)
    if code not in REDIRECTS:
        raise place.expected(f"one of {', '.join(map(str, REDIRECTS))}")
    return code


def _rate_limit(place: Place) -> RateLimit:
    fields = place.fields("requests", "per")
    return RateLimit(
        requests=fields.require("requests", lambda it: it.integer(range(1, 2**32), "a number of requests"), 1),
        interval=fields.require(
            "per", lambda it: it.duration(MIN_RATE_LIMIT_INTERVAL, "50ms, the shortest that Envoy takes"), 1.0
        ),
    )
