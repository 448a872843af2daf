"""Envoy's attributes: with them an ext_proc filter sends what rules need of a request, beside the response. Pure.

In: the attributes of a message, by the text of their expressions; missing ones have no entry. Out: the request.
https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/advanced/attributes
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from rejoinder.rules.request import JOINED_HEADERS, Request, from_envoy

PATH: Final = "request.path"
METHOD: Final = "request.method"
HOST: Final = "request.host"
ROUTE_NAME: Final = "xds.route_name"
CLIENT: Final = "source.address"
"""With its port."""
SCHEME: Final = "request.scheme"
CODE_DETAILS: Final = "response.code_details"
HEADER: Final = "request.headers['%s']"
"""The attribute with the value of a header, in lower case; several lines are joined with commas."""
ORIGINAL_PATH: Final = HEADER % "x-envoy-original-path"
"""The path before the route rewrote it: `PATH` is the result."""
HOST_STATE: Final = "rejoinder.host"
"""The filter state in which a filter in front keeps the host, which the route may rewrite, too."""
ORIGINAL_HOST: Final = f"filter_state['{HOST_STATE}']"

FINAL_DETAILS: Final = frozenset({"direct_response", "path_normalization_failed"})
"""The response code details of responses that no rule is asked about: a route that answers or redirects by itself,
and a path that Envoy refuses (400) or redirects to its normalized form (307)."""

VIA_UPSTREAM: Final = "via_upstream"
"""The response code details of an upstream's response."""

_BEFORE_NAME, _BEHIND_NAME = HEADER.split("%s")


def of_header(name: str) -> str:
    """The attribute of a header. Its name may have a quotation mark in it."""
    return HEADER % name.replace("'", r"\'")


def request_of(attributes: Mapping[str, str]) -> Request:
    """The request, as it was before the route rewrote it."""
    whole = tuple(
        [
            (expression[len(_BEFORE_NAME) : -len(_BEHIND_NAME)].replace(r"\'", "'"), value)
            for expression, value in attributes.items()
            if expression.startswith(_BEFORE_NAME)
        ]
    )
    return from_envoy(
        attributes.get(METHOD, ""),
        attributes.get(ORIGINAL_HOST) or attributes.get(HOST, ""),
        attributes.get(ORIGINAL_PATH) or attributes.get(PATH, ""),
        tuple([(name, line) for name, value in whole for line in _lines(name, value)]),
        attributes.get(SCHEME, "http"),
        client_of(attributes),
        whole,
    )


def client_of(attributes: Mapping[str, str]) -> str:
    """The client's IP address; empty: it is not sent."""
    return attributes.get(CLIENT, "").rpartition(":")[0].strip("[]")


def _lines(name: str, value: str) -> tuple[str, ...]:
    """The lines in which a header may have been sent.

    Envoy has joined them with commas. A list that was sent in one line usually has a space behind each comma. So both
    are tried: the whole value, and the lines that it may have been joined from (RFC 9110, section 5.3).
    """
    if name in JOINED_HEADERS or "," not in value:
        return (value,)
    return (value, *re.split(r",(?! )", value))
