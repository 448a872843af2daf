"""From the answers of a rule to the response: which answer is for a status, and the reply that it makes. Pure."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from rejoinder.rules.accept import Offer, best
from rejoinder.rules.http import BODILESS, GRPC_OF_STATUS, GRPC_STATUSES, GRPC_UNKNOWN, NEVER_KEPT
from rejoinder.rules.model import STATUSES, Answer, Header, Rule, StatusPattern, Variant
from rejoinder.rules.request import LOCAL, Request, Response
from rejoinder.rules.template import Escape, Name, Template, Variable, default_escape, fill, parse, parse_header, reason

_REMEMBERED: Final = 1 << 15


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response, without the headers that Envoy adds to every response."""

    status: int
    headers: tuple[Header, ...]
    """In order; content-length is not among them: it follows from the body."""
    body: bytes
    """For a gRPC client, Envoy makes it the `grpc-message`."""
    grpc: int | None = None
    """The gRPC status for a gRPC client; None: the one that belongs to `status`. `as_sent` handles both."""

    @property
    def is_untyped(self) -> bool:
        """Whether it has a body without a `content-type`."""
        return bool(self.body) and not any(name == "content-type" for name, _ in self.headers)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a reply may depend on."""

    request: Request
    route: str | None = None
    """The name of the route that the request takes; None: none."""
    response: Response | None = None
    """The response that is replaced; None: no upstream is asked."""
    time: str = ""
    """Now, as RFC 3339 has it."""


NOBODY: Final = Asked(Request("", "", ""))


@dataclass(frozen=True, slots=True)
class Choice:
    """An answer and the rule that it comes from."""

    rule: str
    """The rule's name."""
    answer: Answer

    def reply(self, status: int, asked: Asked = NOBODY) -> Reply:
        """The reply to an upstream's status. Not for an answer with a handler. Args as for `reply`."""
        return reply(self.answer, status, asked, self.rule)


class Content(NamedTuple):
    """Headers and body, before templates are filled."""

    offer: Offer
    headers: tuple[tuple[str, str | Template], ...]
    body: bytes | Template


def reply(answer: Answer, status: int, asked: Asked = NOBODY, rule: str = "") -> Reply:
    """The reply that an answer makes.

    Args:
        answer: from a rule or a route.
        status: the upstream's, for `status_code: original`; an unconditional answer ignores it.
        asked: what else it depends on, unless it is `fixed`.
        rule: the name of the rule that the answer is from.
    """
    code = answer.status(status)
    offers = contents(answer, code in BODILESS)
    chosen = offers[0]
    if len(offers) > 1:
        accept, language = (asked.request.joined(name) for name in ("accept", "accept-language"))
        chosen = offers[best([content.offer for content in offers], accept, language)]

    value = functools.partial(_value, asked=asked, code=code, rule=rule)
    headers = tuple(
        (name, given if isinstance(given, str) else fill(given, value).decode().strip(" \t"))
        for name, given in chosen.headers
    )
    body = chosen.body if isinstance(chosen.body, bytes) else fill(chosen.body, value)
    if not body:  # Envoy would remove it, too
        headers = tuple(header for header in headers if header[0] != "content-type")
    grpc = answer.grpc if asked.request.is_grpc else None
    if grpc:
        message = grpc_message(answer)
        body = message if isinstance(message, bytes) else fill(message, value)
    return Reply(code, (*headers, *_kept(answer, headers, asked.response)), body, grpc.status if grpc else None)


def sent_status(status: int, request: Request) -> int:
    """The status with which a reply to a request is sent."""
    return 200 if request.is_grpc else status


def as_sent(reply: Reply, request: Request) -> Reply:
    """The reply as a client gets it: for a gRPC client, Envoy turns a local reply into a trailers-only response.

    Returns: the reply; for a gRPC client, a reply with a gRPC status, without body and content-length.
    """
    if not request.is_grpc:
        return reply
    grpc = GRPC_OF_STATUS.get(reply.status, GRPC_UNKNOWN) if reply.grpc is None else reply.grpc
    body = b"" if request.method == "HEAD" else reply.body
    message = "".join(chr(byte) if 0x20 <= byte < 0x7E and byte != 0x25 else f"%{byte:02X}" for byte in body)
    said = dict(reply.headers).get("grpc-status", str(grpc))
    grpc = int(said) if said in map(str, range(len(GRPC_STATUSES))) else grpc
    headers = {"content-type": "application/grpc", "grpc-status": said, "grpc-message": message.strip(" ")}
    ours = [header for header in reply.headers if header[0] not in headers]
    if not message:  # a message of spaces alone is sent empty
        del headers["grpc-message"]
    return Reply(sent_status(reply.status, request), (*headers.items(), *ours), b"", grpc)


def local_response(status: int, request: Request, headers: tuple[Header, ...] = ()) -> Response:
    """A response that Envoy makes by itself, as rules see it."""
    sent = as_sent(Reply(status, headers, b""), request)
    return Response(sent.status, sent.headers, LOCAL)


def filled(template: Template, answer: Answer, status: int, asked: Asked, rule: str) -> str:
    """A template as it is in a header. Other args as for `reply`."""
    value = functools.partial(_value, asked=asked, code=answer.status(status), rule=rule)
    return fill(template, value).decode().strip(" \t")


def grpc_message(answer: Answer) -> bytes | Template:
    """The message for a gRPC client, of an answer with `grpc`."""
    message = answer.grpc.message if answer.grpc else ""
    made = parse(message, Escape.RAW) if answer.template else Template((message.encode(),))
    return made if made.names else b"".join(piece for piece in made.pieces if isinstance(piece, bytes))


@functools.lru_cache(maxsize=_REMEMBERED)
def contents(answer: Answer, bodiless: bool) -> tuple[Content, ...]:
    """The variants of an answer, in order, at least one; `bodiless`: its status never has a body."""
    if not answer.variants:
        return (_content(answer, Variant(body=answer.body, template=answer.template), "", bodiless),)
    axes = (
        any(variant.content_type for variant in answer.variants),
        any(variant.language for variant in answer.variants),
    )
    vary = ", ".join(itertools.compress(("accept", "accept-language"), axes)) if len(answer.variants) > 1 else ""
    return tuple(_content(answer, variant, vary, bodiless) for variant in answer.variants)


def _content(answer: Answer, variant: Variant, vary: str, bodiless: bool) -> Content:
    body = b"" if bodiless else variant.body
    headers = answer.headers
    given = variant.content_type or next((value for name, value in headers if name == "content-type"), "")
    template = bool(body) and (variant.template or answer.template)
    # Without a body, Envoy would remove it.
    content_type = given or _guessed_type(body, template) if body and not answer.untyped else ""
    if variant.content_type or not content_type:
        headers = tuple((name, value) for name, value in headers if name != "content-type")
    if content_type and (variant.content_type or not given):
        charset = "; charset=utf-8" if content_type.startswith("text/") and ";" not in content_type else ""
        headers = (("content-type", content_type + charset), *headers)
    if variant.language and body:
        headers = (*headers, ("content-language", variant.language))
    if vary:
        headers = (*headers, ("vary", vary))
    made = tuple((name, _header_template(name, value) if answer.template else value) for name, value in headers)
    made = tuple(sorted(made, key=lambda header: isinstance(header[1], Template)))  # as in a program's bytes
    return Content(
        Offer(variant.content_type, variant.language),
        made,
        parse(body.decode(), default_escape(content_type)) if template else body,
    )


def templates(answer: Answer) -> Iterator[Template]:
    """The templates of an answer: of its headers and its bodies."""
    for content in contents(answer, False):
        for given in (*(value for _, value in content.headers), content.body):
            if isinstance(given, Template):
                yield given
    if isinstance(message := grpc_message(answer), Template):
        yield message


def _header_template(name: str, value: str) -> str | Template:
    made = parse_header(value, Escape.URL if name == "location" else Escape.HEADER)
    return made if any(isinstance(piece, Variable) for piece in made.pieces) else value


def _kept(answer: Answer, headers: tuple[Header, ...], response: Response | None) -> Iterator[Header]:
    """The headers of the response that stay; headers of the answer replace those with the same name."""
    ours = {name for name, _ in headers}
    for name, value in response.headers if response and answer.keep_headers else ():
        if name not in ours and name not in NEVER_KEPT and keeps(answer.keep_headers, name):
            yield name, value


def keeps(patterns: tuple[str, ...], name: str) -> bool:
    """Whether a header stays, by `Answer.keep_headers`."""
    return any(name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern for pattern in patterns)


def _value(variable: Variable, asked: Asked, code: int, rule: str) -> str:
    request, response = asked.request, asked.response
    if variable.name is Name.REQUEST_QUERY:
        return next(iter(request.parameter(variable.argument)), "")
    if variable.name is Name.REQUEST_HEADER:
        return request.joined(variable.argument) or ""
    values: dict[Name, str | None] = {
        Name.REQUEST_ID: request.joined("x-request-id"),
        Name.REQUEST_METHOD: request.method,
        Name.REQUEST_SCHEME: request.scheme,
        Name.REQUEST_HOST: request.host,
        Name.REQUEST_PATH: request.path,
        Name.REQUEST_TARGET: request.target,
        Name.REQUEST_URL: f"{request.scheme}://{request.authority}{request.target}",
        Name.STATUS: str(code),
        Name.STATUS_REASON: reason(code),
        Name.ORIGINAL_STATUS: str(response.status) if response else "",
        Name.SOURCE: response.source if response else LOCAL,
        Name.ROUTE: asked.route,
        Name.RULE: rule,
        Name.TIME: asked.time,
        Name.CLIENT: request.client,
    }
    return values[variable.name] or ""


_VARIABLE: Final = re.compile(rb"\{\{[^\n]*?\}\}")


@functools.lru_cache(maxsize=_REMEMBERED)
def _guessed_type(body: bytes, template: bool) -> str:
    if template:  # an object or a list, with values in quotes or without
        body = _VARIABLE.sub(b"0", body)
        body = body if body.lstrip()[:1] in (b"{", b"[") else b""
    return f"{'application/json' if _is_json(body) else 'text/plain'}; charset=utf-8"


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON (RFC 8259)")


@dataclass(frozen=True, slots=True)
class Claims:
    """Which statuses the answers of one rule are for."""

    named: Mapping[int, int]
    """The statuses in `enable_on_status` of the answers, sorted, each with the number of its answer. Rules with the
    same patterns share one object."""
    answers: tuple[Answer, ...]
    otherwise: Answer | None
    """For every other final status; in an unconditional rule, the answer that is given at once."""

    def answer(self, status: int) -> Answer | None:
        """The answer for a status; None: there is none. Only STATUSES can have one."""
        if status not in STATUSES:
            return None
        number = self.named.get(status)
        return self.otherwise if number is None else self.answers[number]


@functools.lru_cache(maxsize=_REMEMBERED)
def claims(rule: Rule) -> Claims:
    """Which statuses a rule's answers are for.

    An exact status comes before a pattern, a pattern with more digits before one with fewer, then the written order
    counts, and the answer without a status comes last.
    """
    otherwise = next((answer for answer in rule.answers if not answer.enable_on_status), None)
    return Claims(_named(tuple(answer.enable_on_status for answer in rule.answers)), rule.answers, otherwise)


@functools.lru_cache(maxsize=1024)
def _named(patterns: tuple[tuple[StatusPattern, ...], ...]) -> Mapping[int, int]:
    """By status, the number of the answer whose pattern counts."""
    numbers: dict[int, int] = {}
    claimed = [(pattern, number) for number, of_answer in enumerate(patterns) for pattern in of_answer]
    for pattern, number in sorted(claimed, key=lambda claim: -claim[0].exactness):  # stable: written order
        for status in pattern.statuses():
            numbers.setdefault(status, number)
    return dict(sorted(numbers.items()))
