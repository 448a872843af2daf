"""A rule file in its own format: routes, rules, matches and answers. docs/rule-format.md is what users read about it.

In: places of a document (see `fields`). Out: values of `model`, with what is wrong noted in the place's `Source`.
Raised is `FieldError`, as by every reader, where nothing can be made of a value. Each reader is its list of fields: to
add one, add it there and in the docs. `listen` and `upstreams` are in `addresses`, the plug-in's forms in `higress`.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote

from rejoinder.rules.addresses import HOST_NAME, PORTS, is_ipv6
from rejoinder.rules.answers import contents
from rejoinder.rules.document import List, Map, Scalar, ScalarKind, describe, quoted
from rejoinder.rules.fields import FieldError, Fields, Mention, Place, content_beside
from rejoinder.rules.http import BODILESS, CONNECTION_HEADERS, CONTROL, CONTROL_IN_VALUE, REDIRECTS, TOKEN
from rejoinder.rules.matching import RegexError, compile_regex, network
from rejoinder.rules.model import (
    EVERY_PATH,
    EVERY_SCOPE,
    MAX_HEADERS,
    MAX_TEXT,
    STATUSES,
    WEBSOCKET,
    Answer,
    Forward,
    Header,
    PathKind,
    PathMatch,
    Position,
    RateLimit,
    Redirect,
    RequestMatch,
    Retries,
    Rewrite,
    Route,
    Rule,
    Scope,
    StatusPattern,
    StringKind,
    StringMatch,
    Variant,
)
from rejoinder.rules.page import Branding
from rejoinder.rules.request import LOCAL, UPSTREAM, normalize_path
from rejoinder.rules.template import TemplateError

if TYPE_CHECKING:
    import mimetypes

T = TypeVar("T", bound=Sized)

MAX_BODY_SIZE: Final = 1024 * 1024
"""In bytes. Every Envoy gets every body with each change of its configuration, and keeps it in memory: a larger one is
a download and belongs on an upstream. (Envoy's own default for a direct response is 4,096.)"""

MAX_HEADER_SIZE: Final = 16384
"""In bytes, for a name or a value: Envoy refuses a `HeaderValue` that is longer."""

MAX_PARAMETER_SIZE: Final = 1024
"""In bytes: Envoy refuses a longer name in a `QueryParameterMatcher`."""

MIN_RATE_LIMIT_INTERVAL: Final = 0.05
"""In seconds: Envoy refuses a shorter fill interval of a local rate limit."""

PLUG_IN_FIELDS: Final = ("status_code", "headers", "body", "body_file", "handler", "enable_on_status")
"""Of an answer, in every form."""
OUR_FIELDS: Final = ("pass", "variants", "template", "page", "keep_headers")
"""... that the plug-in has not."""
ANSWER_FIELDS: Final = (*PLUG_IN_FIELDS, *OUR_FIELDS)
RULE_ONLY_FIELDS: Final = ("name", "match", "unless", "source", "rules", "final", "observe")
"""What a rule has and an answer has not."""
REQUEST_FIELDS: Final = (*(kind.value for kind in PathKind), "methods", "headers", "query")

_PATH_KINDS: Final = tuple(kind.value for kind in PathKind)

_NAME: Final = re.compile(r"[A-Za-z0-9._/-]+")  # becomes part of Envoy resource names and statistics
_HANDLER: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_STATUS_PATTERN: Final = re.compile(r"[2-5][0-9]{2}|(?=.*x)[1-5x][0-9x]{2}", re.IGNORECASE)
_PATH_SAFE: Final = "/%:@!$&'()*+,;=-._~"  # pchar, RFC 3986, section 3.3

_OVERWRITTEN_HEADERS: Final = frozenset({"date", "server"})


# --- routes ---


def routes(place: Place) -> tuple[Route, ...]:
    """`routes`: a list of named request matches with one action each."""
    return _listed(place).each(_route)


def _listed(place: Place) -> Place:
    if isinstance(place.node, Map) and place.node.entries:
        raise place.mistake('expected a list, got a mapping: begin each entry with "- "')
    return place


def _route(place: Place) -> Route:
    place = _about(place, "route", "")
    fields = place.fields(
        "name", "domains", *REQUEST_FIELDS, "upstream", "respond", "redirect", "rate_limit", *_FORWARD_FIELDS
    )  # fmt: skip
    action = fields.only_one("upstream", "respond", "redirect")
    if action is None and not fields.unknown:
        place.error("expected one of upstream, respond, redirect")
    for each in ("rate_limit", *_FORWARD_FIELDS):
        if each in fields and action not in ("upstream", None):
            fields[each].error(f"only a route with an upstream can have {each}")
    request = _request(fields)
    found = fields.get(action or "", _ACTIONS[action or "upstream"], Answer())
    return Route(
        name=fields.require("name", name, ""),
        action=_forwarding(fields, found, request) if isinstance(found, Forward) else found,
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
        prefix=fields.get("prefix", _prefix, None),
    )


def rewrite_path(place: Place) -> str:
    """A path to ask an upstream for. The request's query is kept, so it has none."""
    text = redirect_path(place)
    if "?" in text:
        raise place.mistake(f"expected a path without a query, got {quoted(text)}: that of the request is kept")
    return text


def _retries(place: Place) -> Retries:
    fields = place.fields("attempts", "on")
    return Retries(
        attempts=fields.require("attempts", lambda it: it.integer(range(1, 11), "a number of attempts"), 1),
        on=fields.get("on", lambda it: _distinct(it.one_or_more(_retry_reason)), DEFAULT_RETRIES),
    )


RETRY_REASONS: Final = ("connect-failure", "refused-stream", "reset")
"""What retries may be made on beside statuses, in Envoy's words."""
DEFAULT_RETRIES: Final = RETRY_REASONS[:2]
"""Those where the upstream has not seen the request."""


def _retry_reason(place: Place) -> str:
    node = place.node
    if isinstance(node, Scalar) and node.text in RETRY_REASONS:
        return node.text
    try:
        return str(_status_pattern(place))
    except FieldError:
        raise place.expected(f"a status, a pattern such as 5xx, or one of {', '.join(RETRY_REASONS)}") from None


def _upgrade(place: Place) -> str:
    text = place.string()
    if not TOKEN.fullmatch(text) or text.lower() in ("connect", "connect-udp", "h2c"):
        raise place.expected("a protocol such as websocket")
    return text.lower()


def _respond(place: Place) -> Answer:
    for each in ("enable_on_status", "handler"):
        if place.has(each):
            raise place.mistake(f"{each} has no meaning here: a route that answers asks no upstream")
    found = answer(place)
    _refuse_original(place, found)
    if not found.fixed or found.page:
        place.error("a route gives the same answer to everybody: what depends on the request is a rule's to say")
    return found


def _redirect(place: Place) -> Redirect:
    fields = place.fields("scheme", "host", "port", "path", "prefix", "status_code")
    if not fields.given.keys() - {"status_code"}:
        place.error("expected at least one of scheme, host, port, path, prefix")
    fields.only_one("path", "prefix")
    return Redirect(
        scheme=fields.get("scheme", _scheme, None),
        host=fields.get("host", redirect_host, None),
        port=fields.get("port", lambda it: it.integer(PORTS, "a port"), None),
        path=fields.get("path", redirect_path, None),
        prefix=fields.get("prefix", _prefix, None),
        status_code=fields.get("status_code", _redirect_status, 301),
    )


_ACTIONS: Final[dict[str, Callable[[Place], Answer | Redirect | Forward]]] = {
    "upstream": _forward,
    "respond": _respond,
    "redirect": _redirect,
}


def _scheme(place: Place) -> str:
    text = place.string()
    if text not in ("http", "https"):
        raise place.expected("http or https")
    return text


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
    status = _status(place)
    if status not in REDIRECTS:
        raise place.expected(f"one of {', '.join(map(str, REDIRECTS))}")
    return status


def _rate_limit(place: Place) -> RateLimit:
    fields = place.fields("requests", "per")
    return RateLimit(
        requests=fields.require("requests", lambda it: it.integer(range(1, 2**32), "a number of requests"), 1),
        interval=fields.require("per", _interval, 1.0),
    )


def _interval(place: Place) -> float:
    return place.duration(MIN_RATE_LIMIT_INTERVAL, "50ms, the shortest that Envoy takes")


# --- rules ---


def rules(place: Place) -> tuple[Rule, ...]:
    """`rules`: a list of scopes, each with one or more answers."""
    return _listed(place).each(_rule)


def _rule(place: Place) -> Rule:
    default_name = next_rule_name(place)
    place = _about(place, "rule", default_name)
    fields = place.fields(*RULE_ONLY_FIELDS, *ANSWER_FIELDS, hints=_ELSEWHERE)
    made = Rule(
        name=fields.get("name", name, default_name),
        answers=scope_answers(fields),
        scope=fields.get("match", _scope, EVERY_SCOPE),
        final=fields.get("final", Place.boolean, False),
        unless=fields.get("unless", _scope, None),
        observe=fields.get("observe", Place.boolean, False),
        source=fields.get("source", _source, ""),
        position=place.position,
    )
    if made.answers and made.unconditional:
        _refuse_about_responses(fields, made)
        if made.answers[0].passes:  # nothing but the end of the search is left of it
            return replace(made, answers=(), final=True)
    return made


def _source(place: Place) -> str:
    text = place.string()
    if text not in (UPSTREAM, LOCAL, "any"):
        raise place.expected("upstream, local or any")
    return "" if text == "any" else text


def _refuse_about_responses(fields: Fields, rule: Rule) -> None:
    """An unconditional rule is asked before there is a response."""
    given = {"source": bool(rule.source), "match": bool(rule.scope.response_headers)}
    given["unless"] = rule.unless is not None and bool(rule.unless.response_headers)
    for each, wrong in given.items():
        if wrong:
            what = each if each == "source" else "response_headers"
            fields[each].error(f"{what} needs enable_on_status: without it no upstream is asked")


_ELSEWHERE: Final = {
    "location": 'it is a header: write headers: ["Location=https://example.com"]',
    "redirect": 'routes have it: in a rule, write status_code: 302 and headers: ["Location=https://example.com"]',
    "respond": "routes have it: what stands in it are the fields of a rule itself",
    "upstream": "routes have it",
    "path": "it belongs into match",
    "prefix": "it belongs into match",
    "domains": "it belongs into match",
}
"""What is written in a rule, and where it belongs."""


def next_rule_name(place: Place) -> str:
    """The name of an unnamed rule: its number within its file. To be called once for every rule, in their order."""
    place.source.rules += 1
    return default_rule_name(place.source.prefix, place.source.rules)


def default_rule_name(prefix: str, number: int) -> str:
    """What the rule of this number in its file, counted from 1, is called if it says no name itself."""
    return f"{prefix}rule-{number}"


def _scope(place: Place) -> Scope:
    fields = place.fields("domains", "routes", *REQUEST_FIELDS, "clients", "response_headers")
    return Scope(
        domains=fields.get("domains", domains, ()),
        routes=fields.get("routes", route_names, None),
        request=_request(fields),
        clients=fields.get("clients", lambda it: _distinct(it.one_or_more(_network)), ()),
        response_headers=fields.get("response_headers", lambda it: _string_matches(it, header_name), ()),
    )


def _network(place: Place) -> str:
    text = place.string()
    try:
        return str(network(text))
    except ValueError as error:
        if "host bits" in str(error):
            wanted = str(ipaddress.ip_network(text, strict=False))
            raise place.mistake(f"{quoted(text)} has bits behind its prefix: write {quoted(wanted)}") from None
        raise place.expected('an address such as "203.0.113.7", or a network such as "203.0.113.0/24"') from None


def route_names(place: Place) -> tuple[str, ...]:
    """Names of routes, one or a list. Whether they exist is known when all files are read."""

    def one(item: Place) -> str:
        found = item.string()
        item.source.routes.append(Mention(item, found))
        return found

    return _distinct(place.one_or_more(one))


OK: Final = 200
"""The status of an answer that says none, and that no status calls for."""


def scope_answers(fields: Fields, *, plug_in: bool = False) -> tuple[Answer, ...]:
    """The answers of one scope: its own fields are one answer, or `rules` is a list of them.

    Args:
        fields: of the scope.
        plug_in: a form of the plug-in's, where `status_code` is 200 if it is left out; in a rule, an answer to the
            upstream's status then keeps that.
    """
    if "rules" in fields:
        for each in ANSWER_FIELDS:
            if each in fields:
                fields[each].error("has no place beside rules: move it into one of them")
        return fields["rules"].attempt(functools.partial(_answers_of_one_scope, plug_in=plug_in), ())
    conditional = "enable_on_status" in fields and not plug_in
    return _checked((fields.place,), (_answer(fields, None if conditional else OK),))


def _answers_of_one_scope(place: Place, plug_in: bool) -> tuple[Answer, ...]:
    """A list of answers for one scope; no status may be claimed twice."""
    items = place.items()
    if not items:
        raise place.expected("at least one answer")
    conditional = any(item.has("enable_on_status") for item in items) and not plug_in
    known = PLUG_IN_FIELDS if plug_in else ANSWER_FIELDS
    one = functools.partial(answer, default=None if conditional else OK, known=known)
    found = [(item, item.attempt(one, None)) for item in items]
    read = [(item, each) for item, each in found if each is not None]
    return _checked([item for item, _ in read], tuple(each for _, each in read))


def _checked(places: Sequence[Place], answers: tuple[Answer, ...]) -> tuple[Answer, ...]:
    unconditional = not any(place.has("enable_on_status") for place in places)  # also where it is wrong
    claimed: dict[StatusPattern, int] = {}
    default: Place | None = None
    for place, each in zip(places, answers, strict=True):
        for pattern in each.enable_on_status:
            if pattern in claimed:
                message = f"{pattern} is claimed twice in this scope, first in line {claimed[pattern]}"
                place.field("enable_on_status").error(message)
            claimed.setdefault(pattern, place.field("enable_on_status").node.line)
        if unconditional:
            _refuse_original(place, each)
            if each.keep_headers:
                place.field("keep_headers").error("needs enable_on_status: without it no upstream is asked")
        if not each.enable_on_status:
            if default is not None:
                line = default.node.line
                place.warn(f"is never given: the answer without enable_on_status in line {line} comes first")
            default = default or place
    return answers


def _refuse_original(place: Place, answer: Answer) -> None:
    if answer.status_code is None:
        place.field("status_code").error("original needs enable_on_status: without it no upstream is asked")


# --- answers ---


def answer(place: Place, default: int | None = OK, known: Sequence[str] = ANSWER_FIELDS) -> Answer:
    """One answer on its own; `default` is its status if it says none, None: the upstream's."""
    return _answer(place.fields(*known), default)


_CONTENT: Final = ("body", "body_file", "variants", "page")


def _answer(fields: Fields, default: int | None) -> Answer:
    if not fields.unknown and not any(each in fields for each in ANSWER_FIELDS):
        raise fields.place.mistake(f"says nothing to answer: expected one of {', '.join(ANSWER_FIELDS)}")
    if "handler" in fields:
        return _handled(fields, default)
    patterns = fields.get("enable_on_status", lambda it: it.one_or_more(_status_pattern), ())
    if fields.get("pass", Place.boolean, False):
        for each in fields.given.keys() & {*ANSWER_FIELDS} - {"pass", "enable_on_status"}:
            fields[each].error("has no place beside pass: the response is left alone")
        return Answer(default, enable_on_status=patterns, passes=True)
    content = fields.only_one(*_CONTENT)
    template = fields.get("template", Place.boolean, False)
    body = _content(fields, template)
    status = fields.get("status_code", _status_or_original, default)
    bodiless = [s for s in BODILESS if s == status or (status is None and StatusPattern(str(s)) in patterns)]
    if bodiless and content and (body or content not in ("body", "body_file")):
        fields[content].error(f"a response with status {bodiless[0]} cannot have a body")
    given_headers = fields.get("headers", functools.partial(headers, template=template), ())
    if status in REDIRECTS and "headers" not in fields:
        fields["status_code"].warn("a redirect without a Location header leads nowhere")
    if "body_file" in fields and not any(each == "content-type" for each, _ in given_headers):
        given_headers = (*_type_of_file(fields["body_file"]), *given_headers)
    made = Answer(
        status,
        given_headers,
        body,
        patterns,
        variants=fields.get("variants", functools.partial(_variants, template=template), ()),
        template=template,
        page=fields.get("page", _page, "") == "builtin",
        keep_headers=fields.get("keep_headers", lambda it: _distinct(it.one_or_more(_kept_header)), ()),
    )
    if template and content in ("body", "body_file"):
        _check_template(fields[content], made)
    return made


def _content(fields: Fields, template: bool) -> bytes:
    body = functools.partial(_body, template=template)
    return fields.get("body", body, b"") or fields.get("body_file", _body_file, b"")


def _check_template(place: Place, answer: Answer) -> None:
    try:
        contents(answer, False)
    except UnicodeDecodeError:
        place.error("expected a template in UTF-8")
    except TemplateError as error:
        place.error(str(error))


def _variants(place: Place, template: bool) -> tuple[Variant, ...]:
    found = _listed(place).each(functools.partial(_variant, template=template))
    if not found:
        raise place.expected("at least one variant")
    return found


def _variant(place: Place, template: bool) -> Variant:
    fields = place.fields("content_type", "language", "body", "body_file", "template")
    content = fields.only_one("body", "body_file")
    if content is None and not fields.unknown:
        raise place.mistake("expected body or body_file")
    template = fields.get("template", Place.boolean, template)
    made = Variant(
        content_type=fields.get("content_type", _media_type, ""),
        language=fields.get("language", _language, ""),
        body=_content(fields, template),
        template=template,
    )
    if not made.content_type and "body_file" in fields:
        made = replace(made, content_type=dict(_type_of_file(fields["body_file"])).get("content-type", ""))
    if template and content:
        _check_template(fields[content], Answer(variants=(made,)))
    return made


_MEDIA_TYPE: Final = re.compile(rf"{TOKEN.pattern}/{TOKEN.pattern}( *; *{TOKEN.pattern}=({TOKEN.pattern}|\"[^\"]*\"))*")
_LANGUAGE: Final = re.compile(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*")  # RFC 4647, section 2.1


def _media_type(place: Place) -> str:
    text = place.string()
    if not _MEDIA_TYPE.fullmatch(text) or "*" in text:
        raise place.expected("a media type such as text/html")
    return text


def _language(place: Place) -> str:
    text = place.string()
    if not _LANGUAGE.fullmatch(text):
        raise place.expected("a language tag such as de or pt-BR")
    return text


def branding(place: Place) -> tuple[Position, Branding]:
    """`branding`: whose the built-in page is; and where that stands."""
    fields = place.fields("name", "logo_file", "accent", "link")

    try:
        return place.position, Branding(
            name=fields.get("name", Place.string, ""),
            logo=fields.get("logo_file", lambda it: content_beside(it, it.string()), None),
            accent=fields.get("accent", Place.string, ""),
            link=fields.get("link", Place.string, ""),
        )
    except ValueError as error:
        raise place.mistake(str(error)) from None


def _page(place: Place) -> str:
    text = place.string()
    if text != "builtin":
        raise place.expected("builtin")
    return text


def _kept_header(place: Place) -> str:
    text = place.string()
    return text if text == "*" else header_name(place, text.removesuffix("*")) + "*" * text.endswith("*")


_TEXT_TYPES: Final = r"text/.*|application/(json|javascript|xml|.*\+(json|xml))|image/svg\+xml"


@functools.cache
def _types() -> mimetypes.MimeTypes:
    import mimetypes  # noqa: PLC0415 - few rule files have such a body

    return mimetypes.MimeTypes(filenames=())  # the same on every machine, whatever its own files say


def _type_of_file(place: Place) -> tuple[Header, ...]:
    """What the file's name says of its type; nothing if it says nothing."""
    found = _types().guess_type(place.node.text)[0] if isinstance(place.node, Scalar) else None
    if found is None:
        return ()
    return (("content-type", f"{found}; charset=utf-8" if re.fullmatch(_TEXT_TYPES, found) else found),)


def _handled(fields: Fields, default: int | None) -> Answer:
    for each in (*PLUG_IN_FIELDS, *OUR_FIELDS):
        if each in fields and each not in ("handler", "enable_on_status"):
            fields[each].error("has no place beside handler: the function says what is sent")
    return Answer(
        default,
        enable_on_status=fields.get("enable_on_status", lambda it: it.one_or_more(_status_pattern), ()),
        handler=fields.get("handler", _handler, ""),
    )


def _handler(place: Place) -> str:
    if not place.source.operated:
        raise place.mistake("a Kubernetes object cannot name a function of this machine: rule files can")
    text = place.string()
    if (file := re.fullmatch(r"(?:\./)?(.+)\.py:(\w+)", text)) is not None:
        written = f"{file[1].replace('/', '.')}:{file[2]}"
        raise place.mistake(f"expected a Python function as package.module:function: write {quoted(written)}")
    if not _HANDLER.fullmatch(text):
        raise place.expected("a Python function as package.module:function")
    return text


def _status(place: Place) -> int:
    node = place.node
    # The plug-in takes numbers in quotes too.
    if isinstance(node, Scalar) and re.fullmatch("[0-9]{3}", node.text) and int(node.text) in STATUSES:
        return int(node.text)
    raise place.expected("a status from 200 to 599")


def _status_or_original(place: Place) -> int | None:
    if isinstance(place.node, Scalar) and place.node.text == "original":
        return None
    if isinstance(place.node, Scalar) and place.node.kind is ScalarKind.STRING and not place.node.text.isdecimal():
        raise place.expected("a status from 200 to 599, or original")
    return _status(place)


def _status_pattern(place: Place) -> StatusPattern:
    text = place.node.text if isinstance(place.node, Scalar) else ""
    if not _STATUS_PATTERN.fullmatch(text):
        raise place.expected("a status from 200 to 599, or three characters such as 5xx or 40x")
    found = StatusPattern(text.lower().rstrip("x"))
    if not found.statuses():
        place.warn(f"no response has a status such as {text}: they are 200 to 599")
    return found


def _body(place: Place, template: bool = False) -> bytes:
    if isinstance(place.node, Map | List):
        raise place.mistake(
            f"expected a string, got {describe(place.node)}: put the text in quotes, as in body: '{{\"a\": 1}}'"
        )
    odd = None if template else re.search(r"\{\{|%[A-Z_]+\(", place.string())
    if odd is not None:
        place.warn(f"{quoted(odd[0])} is sent as it stands: say template: true for {{{{ variables }}}}")
    return _limited(place, place.string().encode())


def _body_file(place: Place) -> bytes:
    return _limited(place, content_beside(place, place.string()))


def _limited(place: Place, body: bytes) -> bytes:
    if len(body) > MAX_BODY_SIZE:
        raise place.mistake(f"a body has at most {MAX_BODY_SIZE:,} bytes, this one has {len(body):,}")
    return body


def headers(place: Place, template: bool = False) -> tuple[Header, ...]:
    """An answer's headers: a list of `name=value`, or a mapping from names to one or several values.

    Args:
        template: values are templates.
    """
    found: list[Header | None]
    if isinstance(place.node, Map):
        found = [value for name, member in place.members() for value in _header_values(name, member)]
    elif isinstance(place.node, List):
        found = [item.attempt(_header_pair, None) for item in place.items()]
    else:
        raise place.expected("a list of name=value, or a mapping")
    kept = at_most(place, MAX_HEADERS, "headers", tuple(each for each in found if each is not None))
    if sum(each == "content-type" for each, _ in kept) > 1:
        place.error("content-type is given twice")
    if template:
        _check_template(place, Answer(headers=kept, template=True))
    return kept


# A list of values is a header that is sent several times.
def _header_values(name: str, place: Place) -> Sequence[Header | None]:
    return place.attempt(lambda it: it.one_or_more(lambda item: _header(item, name, _value_text(item))), ())


def _value_text(place: Place) -> str:
    # Nobody quotes `Retry-After: 30`, and no two ways to write a number are meant to be the same here.
    node = place.node
    if isinstance(node, Scalar) and node.kind in (ScalarKind.INTEGER, ScalarKind.FLOAT):
        return node.text
    return place.string()


def _header_pair(place: Place) -> Header | None:
    if isinstance(place.node, Map) and len(place.node.entries) == 1:
        (entry,) = place.node.entries.items()
        value = entry[1].value.text if isinstance(entry[1].value, Scalar) else "..."
        raise place.mistake(f"expected name=value, got a mapping: write {quoted(f'{entry[0]}={value}')}")
    name, equals, value = place.string().partition("=")
    if not equals:
        raise place.expected("name=value")
    return _header(place, name, value)


# None: a header that is left out, which was said.
def _header(place: Place, name: str, value: str) -> Header | None:
    name, value = header_name(place, name.strip(" \t")), value.strip(" \t")
    if name in CONNECTION_HEADERS:
        raise place.mistake(f"the header {name} is not an answer's to set: Envoy does")
    if name == "content-length":
        place.warn("content-length is left out: it is always computed")
        return None
    if name in _OVERWRITTEN_HEADERS:
        place.warn(f"the header {name} has no effect: Envoy writes its own")
    if CONTROL_IN_VALUE.search(value):
        raise place.mistake(f"the value of {name} has a line break or control character: {quoted(value)}")
    if len(value.encode()) > MAX_HEADER_SIZE:
        raise place.mistake(f"Envoy takes at most {MAX_HEADER_SIZE:,} bytes in a header's value")
    return name, value


def header_name(place: Place, text: str) -> str:
    """A header's name in lower case; the place is for the mistake that it may be."""
    if not TOKEN.fullmatch(text):
        raise place.mistake(f"expected a header name, got {quoted(text)}")
    if len(text) > MAX_HEADER_SIZE:
        raise place.mistake(f"Envoy takes at most {MAX_HEADER_SIZE:,} bytes in a header's name")
    return text.lower()


def at_most(place: Place, most: int, what: str, found: T) -> T:
    """What was found at a place, unless that is more than Envoy takes."""
    if len(found) > most:
        raise place.mistake(f"expected at most {most:,} {what}, got {len(found):,}")
    return found


# --- matches ---


def domains(place: Place) -> tuple[str, ...]:
    """Domains, one or a list, in lower case."""
    return _distinct(place.one_or_more(_domain))


def _domain(place: Place) -> str:
    text = place.string().lower()
    if text == "*" or is_ipv6(text) or HOST_NAME.fullmatch(text.removeprefix("*.")):
        return text
    if re.fullmatch(r".+:[0-9]+", text):
        raise place.mistake(f"expected a domain without a port, got {quoted(text)}: ports do not matter")
    if "*" in text:
        raise place.expected('a wildcard as the whole first label, such as "*.example.com", or "*"')
    raise place.expected('a domain such as "example.com" or "*.example.com"')


def _request(fields: Fields) -> RequestMatch:
    kind = fields.only_one(*_PATH_KINDS)
    return RequestMatch(
        path=fields.get(kind, PATHS[kind], EVERY_PATH) if kind else EVERY_PATH,
        methods=fields.get("methods", _methods, ()),
        headers=fields.get("headers", lambda it: _string_matches(it, header_name), ()),
        query=fields.get("query", lambda it: _string_matches(it, parameter_name), ()),
    )


def _exact(place: Place) -> PathMatch:
    return PathMatch(PathKind.EXACT, _path(place))


def _path_prefix(place: Place) -> PathMatch:
    return PathMatch(PathKind.PREFIX, _prefix(place))


def _path_regex(place: Place) -> PathMatch:
    text = regex_text(place)
    if re.match(r"\^?[A-Za-z0-9_-](?![*?{|])[^|]*$", text):
        place.warn(f"{quoted(text)} never fits: paths start with /, and it must fit the whole path")
    return PathMatch(PathKind.REGEX, text)


PATHS: Final = {"path": _exact, "prefix": _path_prefix, "regex": _path_regex}
"""How each kind of path is read, by the name of its field."""


def _prefix(place: Place) -> str:
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
    """A regular expression that Envoy takes."""
    text = place.string()
    if not text:
        raise place.expected("a regular expression")
    try:
        compile_regex(text)
    except RegexError as error:
        raise place.mistake(f"expected a regular expression (RE2), got {quoted(text)}: {error}") from None
    return text


def _methods(place: Place) -> tuple[str, ...]:
    found = _distinct(place.one_or_more(_method))
    at_most(place, MAX_TEXT, "bytes in all methods together", "|".join(found))
    return found


def _method(place: Place) -> str:
    text = place.string()
    if not TOKEN.fullmatch(text) or text != text.upper():
        raise place.expected("a method in upper case such as GET")
    return text


def parameter_name(place: Place, text: str) -> str:
    """The name of a query parameter; the place is for the mistake that it may be."""
    if not text or CONTROL.search(text):
        raise place.mistake(f"expected a parameter name, got {quoted(text)}")
    if len(text.encode()) > MAX_PARAMETER_SIZE:
        raise place.mistake(f"Envoy takes at most {MAX_PARAMETER_SIZE:,} bytes in a parameter's name")
    return text


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
    kinds = [kind.value for kind in StringKind]
    fields = place.fields(*kinds)
    given = fields.only_one(*kinds)
    if given is None and fields.unknown:
        return StringMatch(StringKind.PRESENT)
    if given is None:
        raise place.expected(f"a string or a mapping with one of {', '.join(kinds)}")
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


# --- names ---


def name(place: Place) -> str:
    """A name that becomes part of Envoy's resource names."""
    text = place.string()
    if not _NAME.fullmatch(text):
        raise place.expected("a name of letters, digits and . _ / -")
    return text


# A named thing; without a name, the place it stands at is its name in messages.
def _about(place: Place, kind: str, default_name: str) -> Place:
    found = default_name
    if isinstance(place.node, Map) and "name" in place.node.entries:
        node = place.node.entries["name"].value
        if isinstance(node, Scalar) and node.text:
            found = node.text
    return place.about(f"{kind} {quoted(found)}") if found else place


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
