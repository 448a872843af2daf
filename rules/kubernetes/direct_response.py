"""kgateway's DirectResponse: an answer that a rule of an HTTPRoute refers to. docs/kgateway.md is for its users.

In: `DirectResponse` objects. Out: `Answer`s, or what is wrong with the object. Pure.
"""

from __future__ import annotations

import functools
from typing import Final

from rejoinder.rules.document import Scalar, ScalarKind
from rejoinder.rules.fields import Place
from rejoinder.rules.kubernetes.objects import Object, member, open_fields, read_spec
from rejoinder.rules.kubernetes.status import Fault, as_faults
from rejoinder.rules.model import STATUSES, Answer

GROUP: Final = "gateway.kgateway.dev"
GROUPS: Final = (GROUP, "gateway.gloo.solo.io")
"""The second is the group before the project was called kgateway."""
KIND: Final = "DirectResponse"

MAX_BODY_SIZE: Final = 4096
"""In bytes; the limit of kgateway's schema."""


def read_direct_response(manifest: Object) -> tuple[Answer | None, tuple[Fault, ...]]:
    """The answer of an object; None, with faults, if it has mistakes."""
    answer, problems = read_spec(manifest, _answer, None)
    return (None if problems else answer), as_faults(problems)


def read_filter(place: Place) -> Answer:
    """The Gateway API's own filter with this name (experimental), which contains the answer."""
    fields = open_fields(place)
    body = open_fields(member(place, "body")).get("string", _body, b"")
    return _made(fields.require("statusCode", status, 200), body)


def _answer(spec: Place) -> Answer:
    fields = open_fields(spec)
    return _made(fields.require("status", status, 200), fields.get("body", _body, b""))


status: Final = functools.partial(Place.integer, allowed=STATUSES, what="a status")


def _made(code: int, body: bytes) -> Answer:
    return Answer(
        status_code=code,
        # The default of Envoy, and so of kgateway.
        headers=(("content-type", "text/plain"),) if body else (),
        body=body,
    )


def _body(place: Place) -> bytes:
    # For a number or a date, the author forgot the quotes; kubectl refuses it.
    if not (isinstance(place.node, Scalar) and place.node.kind is ScalarKind.STRING):
        raise place.expected("a string")
    body = place.string().encode()
    if len(body) > MAX_BODY_SIZE:
        raise place.mistake(f"a body has at most {MAX_BODY_SIZE:,} bytes, this one has {len(body):,}")
    return body
