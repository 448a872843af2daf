"""A rule file that is edited at random, for `chaos.py`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

import yaml

SLOTS: Final = 10
"""Paths that have rules and routes of their own."""
MARKER: Final = "/generation"
MARKERS: Final = (f"{MARKER}/route", f"{MARKER}/200", f"{MARKER}/418")

Json = dict[str, Any]


def random_match(chance: random.Random, slot: int) -> Json:
    path = chance.choice(({"prefix": f"/{slot}"}, {"path": f"/{slot}/x"}, {"regex": f"/{slot}/[xy]"}))
    more = chance.choice(({}, {}, {"domains": ["a.test"]}, {"headers": {"x-a": "1"}}, {"methods": ["GET"]}))
    return {**path, **more}


def random_content(chance: random.Random, text: str) -> Json:
    return chance.choice(
        (
            {"body": text},
            {"body": text * 200},
            {"body": f"{text}: {{{{ request.path }}}} {{{{ request.header.x-a }}}}", "template": True},
            {"variants": [{"content_type": kind, "body": f"{text} as {kind}"} for kind in ("text/html", "text/plain")]},
        )
    )


def random_rule(chance: random.Random, slot: int, number: int) -> Json:
    """A rule; half of them are about statuses."""
    rule: Json = {"name": f"slot{slot}", "match": random_match(chance, slot)}
    if chance.random() < 0.1:
        rule["final"] = True
    if chance.random() < 0.5:
        rule["enable_on_status"] = chance.choice(([503], ["5xx"], [404, 429], [200], ["4xx", "5xx"]))
        if chance.random() < 0.1:
            return {**rule, "pass": True}
        if chance.random() < 0.2:
            rule["keep_headers"] = ["x-from"]
        if chance.random() < 0.1:
            rule["source"] = "upstream"
    if chance.random() < 0.5:
        rule["status_code"] = chance.choice((200, 404, 418, 503))
    if chance.random() < 0.1:
        rule["observe"] = True
    return {**rule, "headers": [f"X-Edit={number}"], **random_content(chance, f"slot {slot} edit {number}")}


def random_route(chance: random.Random, slot: int, number: int) -> Json:
    action = chance.choice(
        (
            *({"upstream": "a"}, {"upstream": "b"}, {"upstream": "b"}),
            {"respond": {"status_code": 201, "body": f"route {slot} edit {number}"}},
            {"redirect": {"path": f"/elsewhere/{number}"}},
        )
    )
    return {"name": f"route{slot}", "prefix": f"/{slot}", **action}


class Rules:
    """A rule file that is edited at random, one rule or route at a time."""

    def __init__(self, chance: random.Random, listen: int, upstreams: dict[str, int]) -> None:
        self._chance = chance
        self._listen = listen
        self._upstreams = {name: f"http://127.0.0.1:{port}" for name, port in upstreams.items()}
        self._parts: list[tuple[str, Callable[[random.Random, int, int], Json], int]] = [
            (key, make, slot)
            for slot in range(SLOTS)
            for key, make in (("rules", random_rule), ("routes", random_route))
        ]
        self._made: dict[tuple[str, int], Json] = {
            (key, slot): make(chance, slot, 0) for key, make, slot in self._parts
        }
        self.number = 0

    def edit(self) -> str:
        """The text after one more edit."""
        self.number += 1
        key, make, slot = self._chance.choice(self._parts)
        if self._chance.random() < 0.2:
            self._made.pop((key, slot), None)
        else:
            self._made[key, slot] = make(self._chance, slot, self.number)
        return self.text()

    def replace(self) -> str:
        """The text of another file."""
        self.number += 1
        self._made = {(key, slot): make(self._chance, slot, self.number) for key, make, slot in self._parts}
        return self.text()

    def text(self, *more_listeners: str) -> str:
        # One for each thing that is taken over by itself: routes, and the filters for requests and for responses. The
        # last one ends with its path, so the first half of the file has not all.
        body = {"body": str(self.number)}
        marker = {"name": "marker", "path": f"{MARKER}/route", "respond": body}
        markers = [
            {"name": f"marker{status}", "enable_on_status": [status], **body, "match": {"path": f"{MARKER}/{status}"}}
            for status in (200, 418)
        ]
        del markers[0]["enable_on_status"]
        rules = [made for (key, _), made in sorted(self._made.items()) if key == "rules"]
        routes = [made for (key, _), made in sorted(self._made.items()) if key == "routes"]
        page = {
            "name": "page",
            "enable_on_status": ["5xx"],
            "template": True,
            "body": "{{ status }}: {{ request.path }}",
        }
        document = {
            "listen": [f"127.0.0.1:{self._listen}", *more_listeners],
            "upstreams": self._upstreams,
            "routes": [marker, *routes, {"name": "all", "upstream": "a"}],
            "rules": [*rules, page, *markers],
        }
        return yaml.safe_dump(document, sort_keys=False)
