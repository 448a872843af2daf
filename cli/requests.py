"""`up --log`: Envoy's access log, made into a line for each request that a rule has answered. Pure.

In: the lines of JSON that Envoy writes (`xds/translate/logs.py`). Out: lines for a person. Any other line is shown
unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rejoinder.rules.counts import NONE
from rejoinder.rules.model import Position, printable

_MOST_OF_TARGET = 200
"""Of host and path together, in characters."""


def fields(line: str) -> Mapping[str, Any]:
    """What Envoy logged about a request; empty if the line is not about a request."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    # Before 1.40, Envoy writes `null` for missing values.
    return {key: value for key, value in said.items() if value is not None} if isinstance(said, dict) else {}


def shown(line: str, positions: Mapping[str, Position], routes: Mapping[str, Position]) -> Iterator[str]:
    """The lines about a request: one for the rule or route that has answered, and one for each rule that only observes
    or lets the request pass.

    Args:
        line: of Envoy's log.
        positions: of rules, by name.
        routes: positions of routes, by name.

    >>> log = '{"time": "2026-11-26T13:06:49.123Z", "method": "GET", "host": "a.test", "path": "/", "status": 302, '
    >>> log += '"rule": "login", "original_status": "401"}'
    >>> list(shown(log, {"login": Position("rules.yaml", 3)}, {}))
    ['13:06:49 GET a.test/ 401 -> 302 login (rules.yaml:3)']
    >>> log = '{"time": "2026-11-26T17:09:10.123Z", "status": 400, "rule": "bad", "original_status": "400"}'
    >>> list(shown(log, {"bad": Position("rules.yaml", 3)}, {}))
    ['17:09:10 what is no request 400 -> 400 bad (rules.yaml:3)']
    """
    said = fields(line)
    if "time" not in said:
        yield printable(line, _MOST_OF_TARGET)
        return
    time = str(said["time"])[11:19]

    def named(name: str, positions: Mapping[str, Position] = positions) -> str:
        return f"{printable(name, _MOST_OF_TARGET)} ({positions.get(name, 'it is no more')})"

    status, original = said.get("status", 0), said.get("original_status", NONE)
    target = printable(f"{said.get('host', '')}{said.get('path', '')}", _MOST_OF_TARGET)
    asked = f"{printable(str(said['method']), 20)} {target}" if "method" in said else "what is no request"
    request = f"{time} {asked}"
    if rule := said.get("rule"):
        yield f"{request} {'' if original == NONE else f'{original} -> '}{status} {named(rule)}"
    elif said.get("details") == "direct_response":
        yield f"{request} {status} by route {named(str(said.get('route')), routes)}"
    if passed := said.get("passed", said.get("passed_by_route")):
        yield f"{request} {original if rule else status} passed by {named(passed)}"
    if observed := said.get("observed"):
        yield f"{request} {original if rule else status} observed by {', '.join(map(named, observed.split(',')))}"
