"""Envoy's real answers equal `decide`: hypothesis makes rule files and requests.

pytest tests/test_differential.py                       as in CI: a fixed seed and few examples
pytest tests/test_differential.py --differential 2000   so many rule files, each with ten requests, at random
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from gateway import Gateway, Upstream
from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st
from machine import Response
from random_rules import Json, requests, rule_files

from rejoinder.rules import request as facts
from rejoinder.rules.answers import Reply, as_sent, local_response
from rejoinder.rules.decide import NO_ROUTE_STATUS, decide
from rejoinder.rules.load import load
from rejoinder.rules.model import Forward, Ruleset
from rejoinder.rules.request import Request

REQUESTS = 10
DEAD_STATUS = 503  # what Envoy says for an upstream that does not listen


def expected(ruleset: Ruleset, request: Request, sent: list[tuple[str, str]]) -> Reply | int:
    """What the client must get: a reply of ours, or the status of a response that passes."""
    if request.moved and request.is_grpc:
        return Reply(400, (), b"")  # gRPC knows no redirects, so Envoy says
    if request.moved:
        return Reply(307, (("location", request.target),), b"")
    decision = decide(ruleset, request)
    if decision.reply:
        return decision.reply
    came = facts.Response(int(dict(sent)["x-status"]), Upstream.HEADERS)
    if decision.route is None:
        came = local_response(NO_ROUTE_STATUS, request)
    elif isinstance(decision.route.action, Forward) and decision.route.action.upstream == "dead":
        came = local_response(DEAD_STATUS, request)
    answered = decision.on_status(came)
    return came.status if answered is None else answered[1]


# What Envoy adds to every response, and how it says how long the body is.
ENVOYS_OWN = {
    *("date", "server", "connection", "content-length", "transfer-encoding"),
    "x-envoy-upstream-service-time",  # `keep_headers: ["*"]` keeps it
}


def folded(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by name, several values in their order: Envoy joins those of some headers itself (RFC 9110, 5.3)."""
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(name, []).append(value)
    return {name: ",".join(filter(None, lines)) for name, lines in values.items()}


def check(response: Response, wanted: Reply | int, method: str) -> None:
    if isinstance(wanted, int):
        assert response.status == wanted
        if response.values("x-from") == ["upstream"]:
            assert response.values("etag") == ['"1"']
            assert response.body in (Upstream.BODY, b"")
        return
    assert response.status == wanted.status
    ours = [(name, value) for name, value in response.headers if name not in ENVOYS_OWN]
    assert folded(ours) == folded(wanted.headers)
    assert response.body == (b"" if method == "HEAD" else wanted.body)
    if lengths := response.values("content-length"):
        assert lengths == [str(len(wanted.body))]


def for_every_domain(ruleset: Ruleset) -> Ruleset:
    rules = (replace(rule, scope=replace(rule.scope, domains=())) for rule in ruleset.rules)
    return replace(ruleset, routes=tuple(replace(route, domains=()) for route in ruleset.routes), rules=tuple(rules))


LAYOUTS: Final = {
    "list": (64, 1000, False),
    "buckets": (2, 1000, False),
    "virtual hosts by domain": (64, 0, False),
    "virtual hosts by domain, in buckets": (2, 0, False),
    "virtual hosts by path": (64, 0, True),
    "virtual hosts by path, in buckets": (2, 0, True),
}
"""How routes are told to Envoy: from how many on a list is cut into buckets, from how many on virtual hosts are
resources of their own, and whether all rules are made to be for every domain (where there is one, they are by path)."""


def run(gateway: Gateway, folder: Path, document: Json, asked: list[Any], layout: str) -> None:
    file = folder / "rules.yaml"
    file.write_text(yaml.safe_dump(document, allow_unicode=True, sort_keys=False), encoding="utf-8")
    loaded = load([file])
    assert loaded.ruleset is not None, loaded.problems
    gateway.long_list, gateway.many_routes, one_domain = LAYOUTS[layout]
    ruleset = for_every_domain(loaded.ruleset) if one_domain else loaded.ruleset
    gateway.apply(ruleset)
    for request, target, sent in asked:
        wanted = expected(ruleset, request, sent)
        event("passes" if isinstance(wanted, int) else "answered")
        response = gateway.ask(request.method, request.authority, target, sent)
        check(response, wanted if isinstance(wanted, int) else as_sent(wanted, request), request.method)


def test_envoy_answers_as_decide_says(
    any_gateway: Gateway, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> None:
    folder = tmp_path_factory.mktemp("rules")
    examples = int(pytestconfig.getoption("differential"))

    @settings(
        max_examples=examples or 60,
        derandomize=not examples,
        database=None,
        phases=(Phase.generate, Phase.shrink),
    )
    @given(
        document=rule_files(),
        asked=st.lists(requests(), min_size=REQUESTS, max_size=REQUESTS),
        layout=st.sampled_from(sorted(LAYOUTS)),
    )
    def compare(document: Json, asked: list[Any], layout: str) -> None:
        run(any_gateway, folder, document, asked, layout)

    compare()
