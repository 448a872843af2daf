"""Random requests for `chaos.py`, how they are sent, and their right answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final

from chaos_rules import SLOTS
from chaos_upstream import upstream_headers

from rejoinder.rules import request as facts
from rejoinder.rules.answers import Reply
from rejoinder.rules.decide import NO_ROUTE_STATUS, decide
from rejoinder.rules.model import Forward, Ruleset, native_rules
from rejoinder.rules.request import LOCAL, Request, parse

SLOW: Final = 30.0
"""Seconds after which a request has failed."""
STATUSES: Final = (200, 404, 429, 500, 503)
HOSTS: Final = ("a.test", "b.test")
VALUES: Final = ("1", "<b>")
"""Values of the header `x-a`."""
ENVOYS_OWN: Final = {
    *("date", "server", "connection", "content-length", "transfer-encoding"),
    "x-envoy-upstream-service-time",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of the load."""

    request: Request
    headers: tuple[tuple[str, str], ...]
    """The headers that are sent."""
    status: int
    """The status with which the upstream is to answer."""

    def bytes(self) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers)
        start = f"{self.request.method} {self.request.target} HTTP/1.1\r\nhost: {self.request.host}\r\n"
        return f"{start}{lines}\r\n".encode()


def random_request(chance: random.Random) -> Asked:
    slot, status = chance.randrange(SLOTS + 1), chance.choice(STATUSES)
    target = f"/{slot}/{chance.choice('xyz')}{chance.choice(('', '?q=1'))}"
    headers = (("x-a", chance.choice(VALUES)), ("accept", "text/html"), ("x-status", str(status)))
    return asked(chance.choice(("GET", "GET", "HEAD", "POST")), chance.choice(HOSTS), target, headers, status)


def asked(method: str, host: str, target: str, headers: tuple[tuple[str, str], ...], status: int) -> Asked:
    headers = (*headers, ("content-length", "0")) if method == "POST" else headers
    return Asked(replace(parse(method, host, target, headers), client="127.0.0.1"), headers, status)


def passed(name: str, asked: Asked) -> Reply:
    """An upstream's response, unchanged."""
    return Reply(asked.status, upstream_headers(name), f"{name} {asked.request.target}".encode())


HEADERS, METHOD, HOST, RESPONSE = "request headers", "method", "host", "response headers"
UNTOLD: Final = [frozenset(part) for size in range(5) for part in combinations((HEADERS, METHOD, HOST, RESPONSE), size)]
"""What an ext_proc filter may not send, because its own rules do not need it."""


def right(
    ruleset: Ruleset, asked: Asked, *, down: bool = False, untold: frozenset[str] = frozenset()
) -> list[Reply | int]:
    """What a client must get: a reply, or the status of a response of Envoy's own that passes.

    Args:
        down: the upstream may not answer.
        untold: which of UNTOLD is not known.
    """
    request = asked.request
    request = replace(request, headers=()) if HEADERS in untold else request
    request = replace(request, method="") if METHOD in untold else request
    decision = decide(ruleset, replace(request, host="", authority="") if HOST in untold else request)
    if decision.reply:
        return [decision.reply]
    came: list[tuple[facts.Response, Reply | int]] = []
    if decision.route is None:
        came.append((facts.Response(NO_ROUTE_STATUS, source=LOCAL), NO_ROUTE_STATUS))
    else:
        assert isinstance(decision.route.action, Forward)
        name = decision.route.action.upstream
        headers = () if RESPONSE in untold else upstream_headers(name)
        came.append((facts.Response(asked.status, headers), passed(name, asked)))
        if down:
            came.append((facts.Response(503, source=LOCAL), 503))
    answers = ((decision.on_status(response), otherwise) for response, otherwise in came)
    return [answered[1] if answered else otherwise for answered, otherwise in answers]


def conditional(ruleset: Ruleset) -> Ruleset:
    return replace(ruleset, rules=tuple(rule for rule in ruleset.rules if not rule.unconditional))


def unanswered(ruleset: Ruleset, asked: Asked, *, down: bool = False) -> list[Reply | int]:
    """The allowed answers if the ext_proc service does not answer: before the upstream, after it, or both."""
    return [
        *right(conditional(ruleset), asked, down=down),  # at one of the two it did
        *right(replace(ruleset, rules=()), asked, down=down),
    ]


def mixed(routes: Ruleset, rules: Ruleset) -> Ruleset:
    """Envoy's rules while an edit changes routes and filter for one request: the routes of one set, with the answers
    that they give for rules, and the filter of the other."""
    own = native_rules(rules.rules)
    return replace(routes, rules=(*native_rules(routes.rules), *(rule for rule in rules.rules if rule not in own)))


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def is_(self, wanted: Reply | int, method: str) -> bool:
        if isinstance(wanted, int):
            return self.status == wanted and not any(name == "x-from" for name, _ in self.headers)
        body = b"" if method == "HEAD" else wanted.body
        return (self.status, self.body, folded(self.headers)) == (wanted.status, body, folded(wanted.headers))


def folded(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    values: dict[str, list[str]] = {}
    for name, value in headers:
        if name not in ENVOYS_OWN:
            values.setdefault(name, []).append(value)
    return {name: ",".join(filter(None, lines)) for name, lines in values.items()}


class Connection:
    """An HTTP/1.1 connection, kept alive, with one request at a time; opened when it is needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, asked: Asked) -> Response:
        """Raises:
        OSError, EOFError: no answer in time; the next request uses a new connection.
        """
        try:
            async with asyncio.timeout(SLOW):
                return await self._ask(asked)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None

    async def _ask(self, asked: Asked) -> Response:
        if self._streams and self._streams[0].at_eof():  # the server was killed, or the connection idle
            self.close()
        if not self._streams:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(asked.bytes())
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
        status = int(first.split()[1])
        headers = tuple((name.lower(), value) for name, _, value in (line.partition(": ") for line in lines))
        length = int(dict(headers).get("content-length", 0))
        body = b"" if asked.request.method == "HEAD" else await reader.readexactly(length)
        if dict(headers).get("connection") == "close":
            self.close()
        return Response(status, headers, body)
