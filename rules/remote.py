"""A page that another service makes, like the `default-backend` of ingress-nginx: the request for it, and the part of
its response that is sent. Pure; nothing is raised.

The service gets `GET /` with the headers of `told`. Its response is the page if `refusal` returns nothing; else the
answer is sent as if it had no `page`. The module's core does the same in C (`envoy/module/page.c`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from rejoinder.rules.answers import Asked, Reply, filled
from rejoinder.rules.document import quoted
from rejoinder.rules.http import BODILESS, CONTROL_IN_VALUE, show_address
from rejoinder.rules.mentions import unknown_upstream
from rejoinder.rules.model import Answer, Header, RemotePage, Rule, Upstream
from rejoinder.rules.problem import Problem
from rejoinder.rules.template import Escape, Template, parse_header

MAX_SIZE: Final = 1 << 20
"""Bytes of a page, as of a body in a rule file."""

_TOLD: Final = {
    "accept": "{{ request.header.accept }}",
    "accept-language": "{{ request.header.accept-language }}",
    "x-code": "{{ status }}",
    "x-format": "{{ request.header.accept }}",
    "x-ingress-name": "{{ route }}",
}
_OF_ONE_REQUEST: Final = {"x-original-uri": "{{ request.target }}", "x-request-id": "{{ request.id }}"}
"""A page that is kept for others must not depend on these."""

SENT: Final = ("content-type", "content-language")
"""The headers of the page that are sent; all others are dropped."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page that a service has made."""

    headers: tuple[Header, ...]
    """Those of SENT, in this order."""
    body: bytes


def asks(answer: Answer, status: int, asked: Asked) -> RemotePage | None:
    """The page to ask for before an answer is sent; None for a status without content, and for gRPC clients. Args as
    for `answers.reply`."""
    return None if answer.status(status) in BODILESS or asked.request.is_grpc else answer.remote


def stays(answer: Answer, status: int, asked: Asked) -> bool:
    """Whether a response is left alone if no page comes (gRPC clients never get a page). Args as for
    `answers.reply`."""
    code = answer.status(status)
    says_more = answer.has_content or (answer.grpc is not None and asked.request.is_grpc)
    return asked.response is not None and answer.remote is not None and code not in BODILESS and not says_more


@functools.lru_cache(maxsize=1024)
def told(remote: RemotePage) -> tuple[tuple[str, Template], ...]:
    """The headers of the request, beside `host`. A header whose value becomes empty is not sent."""
    given = {**_TOLD, **({} if remote.cache else _OF_ONE_REQUEST), **dict(remote.headers)}
    return tuple((name, parse_header(value, Escape.HEADER)) for name, value in given.items())


def request(remote: RemotePage, answer: Answer, status: int, asked: Asked, rule: str) -> tuple[Header, ...]:
    """The headers of the request for a page, all of them. Args as for `answers.reply`."""
    made = ((name, filled(template, answer, status, asked, rule)) for name, template in told(remote))
    return (("host", host(remote)), *((name, value) for name, value in made if value))


def host(remote: RemotePage) -> str:
    """The Host of a request to the service."""
    service = remote.service
    if service is None or not (service.host or service.endpoints):
        return remote.upstream
    return service.host or show_address(service.endpoints[0].host, service.endpoints[0].port)


def refusal(code: int, status: int, headers: Mapping[str, str], size: int) -> str:
    """Why a response is not the page; empty: it is. A page has content without an encoding, and its status is a success
    or `code`, the status that the page is for. With `code`, it must have a `date`: Envoy's own response about a dead
    service has none. The other arguments are the response's.
    """
    if not (200 <= status < 300 or (status == code and "date" in headers)):
        return f"status {status}"
    if "content-encoding" in headers:
        return f"Content-Encoding {headers['content-encoding']}"
    if (coding := headers.get("transfer-encoding", "chunked")).lower() != "chunked":
        return f"Transfer-Encoding {coding}"
    if not headers.get("content-type"):
        return "no Content-Type"
    if any(CONTROL_IN_VALUE.search(headers.get(name, "")) for name in SENT):
        return "control characters in its headers"
    return f"more than {MAX_SIZE} bytes" if size > MAX_SIZE else "" if size else "no body"


def with_page(reply: Reply, page: Page) -> Reply:
    """The reply with a page in it."""
    ours = tuple(header for header in reply.headers if header[0] not in SENT)
    return replace(reply, headers=(*page.headers, *ours), body=page.body)


def rule_with_services(rule: Rule, upstreams: Mapping[str, Upstream]) -> Rule:
    """A rule whose answers have the upstreams of their services."""
    wanted = dict.fromkeys(answer.remote.upstream for answer in rule.answers if answer.remote)
    services = tuple(upstreams[name] for name in wanted if name in upstreams)
    return _rule_with_services(rule, services) if services else rule


@functools.lru_cache(maxsize=1024)  # so that a rule which has not changed is the same after an edit
def _rule_with_services(rule: Rule, services: tuple[Upstream, ...]) -> Rule:
    by_name = {service.name: service for service in services}

    def known(answer: Answer) -> Answer:
        remote = answer.remote
        return replace(answer, remote=remote and replace(remote, service=by_name.get(remote.upstream)))

    return replace(rule, answers=tuple(map(known, rule.answers)))


def problems(rules: Iterable[Rule], upstreams: Mapping[str, Upstream]) -> Iterator[Problem]:
    """Problems of the services that rules ask."""
    unknown = unknown_upstream(upstreams)
    for rule in rules:
        names = dict.fromkeys(
            answer.remote.upstream for answer in rule.answers if answer.remote and answer.remote.upstream
        )
        for name in names:
            service = upstreams.get(name)
            if refused := _refused(service) if service else unknown(name):
                yield Problem(rule.position, f'rule "{rule.name}": page.upstream: {refused}')


def _refused(service: Upstream) -> str:
    name = quoted(service.name)
    if service.echo:
        return f"{name} is builtin:echo, which has no pages"
    if service.http2 or service.tls_options.certificate:
        how = "over HTTP/1.1, and without a client certificate"
        return f"{name} is asked {how}: an upstream of a page has no http2 and no tls"
    return ""
