"""What the console shows, as plain values for JSON and for the page.

In: a `Control`, and a query. Out: dictionaries. Nothing is escaped here: every text is as it came from files, Envoys
and requests. Any thread may ask, one at a time.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from rejoinder.cli import values
from rejoinder.cli.control import Control
from rejoinder.cli.envoys import unable
from rejoinder.cli.explanation import Question, action_in_words, as_json, explain, refused
from rejoinder.cli.history import Edit
from rejoinder.rules.answers import Reply
from rejoinder.rules.counts import Kind, RuleCounts
from rejoinder.rules.misfit import in_words
from rejoinder.rules.model import Answer, Route, Rule, Ruleset, Scope, Upstream, native_rules
from rejoinder.rules.problem import Problem, Severity
from rejoinder.rules.request import LOCAL, UPSTREAM, RequestError
from rejoinder.rules.shadow import NEVER
from rejoinder.xds.events import ClientStatus
from rejoinder.xds.forms import MODULE_SINCE
from rejoinder.xds.translate import Placement

Json = dict[str, Any]

_Rows = list[tuple[Json, str]]
"""A row for each thing, and the text in which the search looks."""

PAGE: Final = 100
"""How many rules or routes are shown at once, by default."""
MOST: Final = 1000

_ABOUT_RULE: Final = re.compile(r'rule "(.*?)"')
_NOTHING: Final = RuleCounts()
_NO_RULES: Final = Ruleset()
_SOURCES: Final = {UPSTREAM: "from an upstream", LOCAL: "from Envoy itself", "": ""}


class UnusableError(ValueError):
    """The query is not valid; the text says what was expected."""


class View:
    def __init__(self, control: Control) -> None:
        self._control = control
        self._ruleset, self._placement = _NO_RULES, control.settings.conditional
        self._rules: _Rows = []
        self._routes: _Rows = []

    def revision(self) -> str:
        """Changes with anything that is shown."""
        return f"{self._control.revision}.{sum(self._control.counts().series.values())}"

    def summary(self) -> Json:
        ruleset, clients, version = self._current(), self._control.server.status().clients, self._version()
        problems = self._control.problems
        return {
            "version": version,
            "last_good": self._control.last_good.served or None,
            "rules": len(ruleset.rules),
            "routes": len(ruleset.routes),
            "upstreams": len(ruleset.upstreams),
            "envoys": len(clients),
            "rejecting": sum(_state(client, version) == "rejects" for client in clients),
            "problems": {
                severity.value: sum(problem.severity is severity for problem in problems) for severity in Severity
            },
        }

    def problems(self) -> list[Json]:
        return [_problem(problem) for problem in self._control.problems]

    def rules(self, query: Mapping[str, str]) -> Json:
        """One page of the rules that contain all words of `q`, in order."""
        ruleset = self._current()
        part = _part(self._rules, query)
        about = self._problems_by_rule(ruleset)
        all_counts = self._control.counts()
        counts, failed_pages = all_counts.by_rule(), all_counts.total(Kind.NO_PAGE)
        for at, row in enumerate(part["items"]):
            count, problems = counts.get(row["name"], _NOTHING), about.get(row["name"], [])
            never = f'rule "{row["name"]}": {NEVER}'
            part["items"][at] = {
                **row,
                **dataclasses.asdict(count),
                "last_hit": count.last_hit and _time(count.last_hit),
                "failed_pages": failed_pages.get(row["name"], 0),
                "problems": problems,
                "hidden": any(never in problem["message"] for problem in problems),
            }
        return part

    def routes(self, query: Mapping[str, str]) -> Json:
        """One page of the routes that contain all words of `q`, in order."""
        self._current()
        part, answers = _part(self._routes, query), self._control.counts().total(Kind.ROUTE)
        part["items"] = [row | {"answers": answers.get(row["route"], 0)} for row in part["items"]]
        return part

    def upstreams(self) -> list[Json]:
        return [_upstream(upstream) for upstream in self._current().upstreams]

    def envoys(self) -> list[Json]:
        version = self._version()
        return [
            {
                **{name: getattr(client, name) for name in ("node", "peer", "streams", "version", "target")},
                "envoy": ".".join(map(str, client.envoy)) if client.envoy else None,
                "state": _state(client, version),
                "rejected": client.nack and f"{client.nack.type.name}: {client.nack.message}",
                "about": self._about(client),
                "lacks": unable(client.unable) if client.unable else self._control.envoys.lacks(client.envoy) or None,
            }
            for client in self._control.server.status().clients
        ]

    def history(self) -> list[Json]:
        """The latest first."""
        return [_edit(edit) for edit in reversed(tuple(self._control.history.edits))]

    def explain(self, query: Mapping[str, str]) -> Json:
        """Raises as `explained` does."""
        return self.explained(query)[0]

    def explained(self, query: Mapping[str, str]) -> tuple[Json, Reply | None]:
        """An explanation, and what is sent to a client; None: what an upstream or a handler says.

        Raises:
            UnusableError: of the query.
        """
        question = _question(query)
        try:
            explanation = explain(self._current(), question, conditional := self._conditional())
        except RequestError as error:
            return {"refused": refused(error, self._current(), conditional)}, None
        return as_json(explanation), explanation.reply

    def _current(self) -> Ruleset:
        """What is in force, with its rows."""
        ruleset = self._control.current.ruleset if self._control.current else _NO_RULES
        conditional = self._conditional()
        if ruleset is not self._ruleset or conditional is not self._placement:
            native = set(native_rules(ruleset.rules))
            places = ("native" if rule in native else conditional.value for rule in ruleset.rules)
            rules = map(_rule, itertools.count(1), ruleset.rules, places)
            self._rules = [(row, _searched(row)) for row in rules]
            self._routes = [(row, _searched(row)) for row in map(_route, ruleset.routes)]
            self._ruleset, self._placement = ruleset, conditional
        return ruleset

    def _conditional(self) -> Placement:
        """Where answers to statuses are given: by the module, unless no connected Envoy can use it."""
        clients = self._control.server.status().clients
        without = (client.unable or (client.envoy and client.envoy < MODULE_SINCE) for client in clients)
        return Placement.EXT_PROC if clients and all(without) else self._control.settings.conditional

    def _version(self) -> str:
        """Of what was published last, whether Envoys accept it or not."""
        return self._control.current.snapshot.version if self._control.current else ""

    def _problems_by_rule(self, ruleset: Ruleset) -> Mapping[str, list[Json]]:
        control = self._control
        at = {rule.position: rule.name for rule in ruleset.rules}
        by_rule = defaultdict[str, list[Json]](list)
        for problem in dict.fromkeys((*control.problems, *control.shadowed)):
            named = _ABOUT_RULE.match(problem.message)
            if name := named[1] if named else at.get(problem.position):
                by_rule[name].append(_problem(problem))
        for client in control.server.status().clients:
            for about in self._about(client) if _state(client, self._version()) == "rejects" else ():
                if named := _ABOUT_RULE.search(about):
                    message = f"{client.node} rejects it: {client.nack and client.nack.message}"
                    by_rule[named[1]].append({"at": "", "severity": "error", "message": message})
        return by_rule

    def _about(self, client: ClientStatus) -> Sequence[str]:
        """The places in the files that an Envoy's last rejection is about."""
        edit = client.nack and self._control.history.of(client.nack.snapshot.version)
        rejection = edit and edit.rejected.get(client.node)
        return rejection.about if rejection else ()


def _question(query: Mapping[str, str]) -> Question:
    """The question in the fields of the form: the options of `rejoinder explain`, with one header per line."""
    given: dict[str, Any] = {"url": values.parse_url("/")}
    for name, parse in _FIELDS.items():
        try:
            if text := query.get(name, "").strip():
                given[name] = parse(text)
        except argparse.ArgumentTypeError as error:
            raise UnusableError(f"{name}: {error}") from None
    return Question(**given)


def _headers(text: str) -> list[tuple[str, str]]:
    return [values.parse_header(line) for line in text.splitlines() if line.strip()]


_FIELDS: Final[Mapping[str, Callable[[str], Any]]] = {
    "url": values.parse_url,
    "method": str,
    "header": _headers,
    "client": str,
    "status": values.parse_status,
    "response_header": _headers,
    "source": values.like(f"{UPSTREAM}|{LOCAL}", f"{UPSTREAM} or {LOCAL}"),
}


def _part(rows: _Rows, query: Mapping[str, str]) -> Json:
    words = query.get("q", "").casefold().split()
    matching = [row for row, text in rows if all(word in text for word in words)]
    offset, limit = (_number(query, *given) for given in (("offset", 0), ("limit", PAGE)))
    return {"total": len(matching), "offset": offset, "items": matching[offset : offset + min(limit, MOST)]}


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UnusableError(f"{name}: expected a whole number, got {text!r}")
    return int(text)


def _searched(row: Json) -> str:
    return " ".join(map(str, _leaves(row))).casefold()


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return (value,)
    return (leaf for part in value for leaf in _leaves(part))


def _rule(number: int, rule: Rule, placement: str) -> Json:
    return {
        "number": number,
        "name": rule.name,
        "at": str(rule.position),
        "scope": list(in_words(rule.scope)),
        "unless": list(in_words(rule.unless)) if rule.unless else [],
        "source": _SOURCES[rule.source],
        "answers": [{"on": [*map(str, answer.enable_on_status)], "sends": _sends(answer)} for answer in rule.answers],
        "placement": placement,
        "kind": "observe" if rule.observe else "" if not rule.final else "final" if rule.answers else "pass",
    }


def _sends(answer: Answer) -> str:
    if answer.passes:
        return "left alone"
    if answer.handler:
        return f"what {answer.handler} makes"
    status = "the same status" if answer.status_code is None else str(answer.status_code)
    if answer.remote:
        return f"{status}, the page of {answer.remote.upstream}"
    if answer.variants:
        return f"{status}, {len(answer.variants)} variants"
    return f"{status}, {len(answer.body)} bytes" if answer.body else status


def _route(route: Route) -> Json:
    limit = route.rate_limit
    return {
        "name": route.title or route.name,
        "route": route.name,
        "at": str(route.position),
        "scope": list(in_words(Scope(domains=route.domains, request=route.request))),
        "action": action_in_words(route),
        "rate_limit": limit and f"{limit.requests} in {limit.interval:g} s",
        "group": route.group,
    }


def _upstream(upstream: Upstream) -> Json:
    return {
        "name": upstream.name,
        "at": str(upstream.position),
        "addresses": [f"{endpoint.host}:{endpoint.port}" for endpoint in upstream.endpoints],
        "protocol": ("HTTP/2" if upstream.http2 else "HTTP/1.1") + (" over TLS" if upstream.tls else ""),
        "host": upstream.host,
        "health_check": upstream.health_check and upstream.health_check.path,
    }


def _state(client: ClientStatus, version: str) -> str:
    if client.nack and client.nack.snapshot.version == version != client.version:
        return "rejects"
    if client.version == client.target == version:
        return "current"
    return "waits" if not client.target else "on its way"


def _edit(edit: Edit) -> Json:
    return {
        "time": _time(edit.time),
        "version": edit.version,
        "errors": edit.errors,
        "changes": {
            kind: {word: dataclasses.asdict(names) for word, names in groups.items()}
            for kind, groups in edit.changes.items()
        },
        "accepted": list(edit.accepted),
        "rejected": [{"node": node} | dataclasses.asdict(said) for node, said in edit.rejected.copy().items()],
    }


def _problem(problem: Problem) -> Json:
    return {"at": str(problem.position), "severity": problem.severity.value, "message": problem.message}


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
