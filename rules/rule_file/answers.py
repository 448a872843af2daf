"""One answer: of a rule, of an entry of its `rules`, or of a route's `respond`."""

from __future__ import annotations

import functools
import re
from typing import Any, Final

from rejoinder.rules.document import Map, Scalar, ScalarKind, quoted
from rejoinder.rules.fields import Fields, Place, text_that
from rejoinder.rules.http import BODILESS, GRPC_STATUSES, NEVER_KEPT, REDIRECTS
from rejoinder.rules.model import Answer, Grpc, RemotePage, StatusPattern
from rejoinder.rules.rule_file import content, values
from rejoinder.rules.rule_file.headers import HEADERS, headers
from rejoinder.rules.shape import DURATION, TEXT, TRUE, Shape, Table, any_of, choice, integer, like, one_or_more

_CONTENT: Final = ("body", "body_file", "variants")
_HANDLER: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_KEPT_HEADER: Final = re.compile(r"\*|[!#$%&'+.^_`|~0-9A-Za-z-]+\*?")

_REMOTE: Final = Shape(
    "page",
    {
        "upstream": (values.NAME, "Name of the upstream that is asked."),
        "timeout": (like(DURATION), "How long it may take, from 10ms to 1m (default 1s)."),
        "cache": (like(DURATION), "How long a page is kept for others who ask for the same (default: not at all)."),
        "headers": (HEADERS, "What the upstream is told beside the usual; values are templates."),
    },
    required=("upstream",),
)
_GRPC: Final = Shape(
    "grpc",
    {
        "status": (
            any_of(choice(*GRPC_STATUSES[1:]), integer(range(1, len(GRPC_STATUSES)))),
            "The status, by name or number.",
        ),
        "message": (TEXT, "What is said beside it."),
    },
    required=("status",),
)

PLUG_IN_FIELDS: Final[Table] = {
    "status_code": (values.STATUS_OR_ORIGINAL, "The status that is sent: 200 to 599, or original, the upstream's own."),
    "headers": (HEADERS, "Headers that are sent: a list of name=value, or a mapping from names to values."),
    **content.CONTENT,
    "handler": (like(_HANDLER), "Instead of all else: a Python function, package.module:function, that answers."),
    "enable_on_status": (
        one_or_more(values.STATUS_PATTERN),
        "The upstream statuses that call for this answer: numbers, and patterns such as 5xx. Without it, the upstream "
        "is not asked.",
    ),
}
"""The fields of an answer in every form."""
OUR_FIELDS: Final[Table] = {
    "pass": (TRUE, "true: the response is left alone, and no later rule is asked."),
    "variants": (
        content.VARIANTS,
        "Instead of body: several, of which each request gets the one that it accepts best.",
    ),
    "template": content.TEMPLATE,
    "page": (
        any_of(choice("builtin"), _REMOTE),
        "builtin: instead of body, a page that comes with Rejoinder; or one that an upstream is asked for before that.",
    ),
    "grpc": (_GRPC, "What a client that speaks gRPC gets (default: what belongs to the status, and the body)."),
    "keep_headers": (
        one_or_more(like(_KEPT_HEADER)),
        "Headers of the upstream's response that stay: names, or beginnings of names with a * at the end.",
    ),
}
"""Fields that the plug-in does not have."""
ANSWER_FIELDS: Final[Table] = {**PLUG_IN_FIELDS, **OUR_FIELDS}


_ALONE: Final = {
    name: (why, tuple(field for field in ANSWER_FIELDS if field not in (name, "enable_on_status")))
    for name, why in (("handler", "the function says what is sent"), ("pass", "the response is left alone"))
}
TOGETHER: Final[dict[str, Any]] = {"one_of": (_CONTENT,), "alone": _ALONE}
"""For every shape with the fields of an answer: the fields that exclude others."""
SCOPE_TOGETHER: Final[dict[str, Any]] = {
    "one_of": (_CONTENT,),
    "alone": {**_ALONE, "rules": ("move it into one of them", tuple(ANSWER_FIELDS))},
}
"""The same for shapes that may have a list of answers instead, as `rules`."""

ANSWER: Final = Shape("answer", ANSWER_FIELDS, some_of=(tuple(ANSWER_FIELDS),), **TOGETHER)
PLUG_IN_ANSWER: Final = Shape("plug-in-answer", PLUG_IN_FIELDS, some_of=(tuple(PLUG_IN_FIELDS),), **TOGETHER)

OK: Final = 200
"""The status of an unconditional answer without `status_code`."""

NEEDS_STATUS: Final = "needs enable_on_status: without it no upstream is asked"


def answer(place: Place, default: int | None = OK, shape: Shape = ANSWER) -> Answer:
    """One answer on its own. Args as for `answer_of`."""
    return answer_of(place.fields(shape), default)


def answer_of(fields: Fields, default: int | None) -> Answer:
    """The answer that fields describe; `default` is its status if none is given, None: that of the upstream."""
    patterns = fields.get("enable_on_status", lambda it: it.one_or_more(values.status_pattern), ())
    if "handler" in fields:
        return Answer(default, enable_on_status=patterns, handler=fields.get("handler", _handler, ""))
    if fields.get("pass", _true, False):
        return Answer(default, enable_on_status=patterns, passes=True)
    asks = "page" in fields and isinstance(fields["page"].node, Map)
    kind = fields.first(*_CONTENT)
    if "page" in fields and not asks:
        if kind:
            fields["page"].error(f"give only one of {', '.join(_CONTENT)} and page: builtin; {kind} is given too")
        kind = "page"
    template = fields.get("template", Place.boolean, False)
    body = content.body_of(fields, template)
    code = fields.get("status_code", _status_or_original, default)
    bodiless = [s for s in BODILESS if s == code or (code is None and StatusPattern(str(s)) in patterns)]
    if bodiless and kind and (body or kind not in ("body", "body_file")):
        fields[kind].error(f"a response with status {bodiless[0]} cannot have a body")
    if bodiless and asks:
        fields["page"].error(f"a response with status {bodiless[0]} cannot have a body")
    given_headers = fields.get("headers", headers, ())
    for header in given_headers if template else ():
        content.check_template(fields["headers"], Answer(headers=(header,), template=True), f"{header[0]}: ")
    if code in REDIRECTS and "headers" not in fields:
        fields["status_code"].warn("a redirect without a Location header leads nowhere")
    if "body_file" in fields and not any(name == "content-type" for name, _ in given_headers):
        given_headers = (*content.type_of_file(fields["body_file"]), *given_headers)
    made = Answer(
        code,
        given_headers,
        body,
        patterns,
        variants=fields.get("variants", lambda it: content.variants(it, template), ()),
        template=template,
        page=not asks and bool(fields.get("page", _page, "")),
        remote=fields.get("page", _remote, None) if asks else None,
        grpc=fields.get("grpc", functools.partial(_grpc, template=template), None),
        keep_headers=fields.get("keep_headers", lambda it: values.distinct(it.one_or_more(_kept_header)), ()),
    )
    if template and kind in ("body", "body_file"):
        content.check_template(fields[kind], Answer(body=body, template=True))
    if made.page and not patterns and (code is None or code < 400):
        fields["page"].error(f"builtin is about errors: say enable_on_status, or a status_code from 400 on, not {code}")
    typed = made.page or (bool(made.variants) and all(variant.content_type for variant in made.variants))
    if typed and "headers" in fields and any(name == "content-type" for name, _ in given_headers):
        fields["headers"].warn(f"content-type has no effect: {kind} says its own")
    return made


def _true(place: Place) -> bool:
    if not place.boolean():
        raise place.mistake("expected true, or nothing at all")
    return True


def refuse_original(place: Place, answer: Answer) -> None:
    """Note `status_code: original` of an unconditional answer as a mistake."""
    if answer.status_code is None:
        place.field("status_code").error(f"original {NEEDS_STATUS}")


def _page(place: Place) -> str:
    if not (isinstance(place.node, Scalar) and place.node.text == "builtin"):
        raise place.expected("builtin, or a mapping such as {upstream: errors}")
    return place.node.text


def _remote(place: Place) -> RemotePage:
    if not place.source.operated:
        raise place.mistake("a Kubernetes object cannot name an upstream of rule files")
    fields = place.fields(_REMOTE)
    given = fields.get("headers", headers, ())
    for header in given:
        content.check_template(fields["headers"], Answer(headers=(header,), template=True), f"{header[0]}: ")
    return RemotePage(
        upstream=fields.get("upstream", values.name, ""),
        timeout=fields.get("timeout", lambda it: it.duration(0.01, "10ms", 60.0, "1m"), 1.0),
        cache=fields.get("cache", Place.duration, 0.0),
        headers=given,
    )


def _grpc(place: Place, template: bool) -> Grpc:
    fields = place.fields(_GRPC)
    made = Grpc(fields.get("status", _grpc_status, 0), fields.get("message", Place.string, ""))
    if template and "message" in fields:
        content.check_template(fields["message"], Answer(grpc=made, template=True))
    return made


def _grpc_status(place: Place) -> int:
    text = place.node.text if isinstance(place.node, Scalar) else ""
    code = GRPC_STATUSES.index(text) if text in GRPC_STATUSES else int(text) if re.fullmatch("[0-9]{1,2}", text) else 0
    if not 0 < code < len(GRPC_STATUSES):
        raise place.expected(f"a gRPC status that is an error, by name or number: {', '.join(GRPC_STATUSES[1:])}")
    return code


def _kept_header(place: Place) -> str:
    name = text_that(_KEPT_HEADER.fullmatch, "a header name, with a * at its end at most")(place).lower()
    if name in NEVER_KEPT:
        raise place.mistake(f"{name} is about the body that is replaced, or how it was sent: it cannot stay")
    return name


def _handler(place: Place) -> str:
    if not place.source.operated:
        raise place.mistake("a Kubernetes object cannot name a function of this machine: rule files can")
    if (file := re.fullmatch(r"(?:\./)?(.+)\.py:(\w+)", place.string())) is not None:
        written = f"{file[1].replace('/', '.')}:{file[2]}"
        raise place.mistake(f"expected a Python function as package.module:function: write {quoted(written)}")
    return text_that(_HANDLER.fullmatch, "a Python function as package.module:function")(place)


def _status_or_original(place: Place) -> int | None:
    if isinstance(place.node, Scalar) and place.node.text == "original":
        return None
    if isinstance(place.node, Scalar) and place.node.kind is ScalarKind.STRING and not place.node.text.isdecimal():
        raise place.expected("a status from 200 to 599, or original")
    return values.status(place)
