"""A large program reaches the module in parts: an edit sends one, and no request meets half a program."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace

import pytest
from gateway import Gateway
from machine import steadily

from rejoinder.rules.model import Answer, Forward, Route, Rule, Ruleset, Scope, StatusPattern, Upstream
from rejoinder.xds.snapshot import EXTENSIONS, LISTENERS, Resource
from rejoinder.xds.translate import Placement

COUNT = 3000


def rule(number: int, text: str = "page") -> Rule:
    body = f"{text} {number} {'x' * 100}".encode()
    return Rule(f"rule-{number}", (Answer(503, (), body, (StatusPattern("503"),)),), Scope((f"d{number}.test",)))


RULES = tuple(rule(number) for number in range(COUNT))
RULESET = Ruleset(upstreams=(Upstream("up", (), echo=True),), routes=(Route("all", Forward("up")),), rules=RULES)


@pytest.fixture(scope="module", name="module")
def _module() -> Iterator[Gateway]:
    with Gateway(concurrency=2, conditional=Placement.MODULE) as gateway:
        yield gateway


def body(gateway: Gateway, number: int) -> str:
    return gateway.ask("GET", f"d{number}.test", "/", [("x-status", "503")]).body.decode()


def answers(gateway: Gateway, number: int, text: str) -> bool:
    return body(gateway, number).startswith(f"{text} {number} ")


def resources(gateway: Gateway, ruleset: Ruleset) -> dict[tuple[str, str], Resource]:
    return {(resource.type.name, resource.name): resource for resource in gateway.build(ruleset).snapshot.resources}


def with_rule(number: int, changed: Rule) -> Ruleset:
    return replace(RULESET, rules=(*RULES[:number], changed, *RULES[number + 1 :]))


def test_an_edit_sends_one_part_and_what_names_all(module: Gateway) -> None:
    before, after = resources(module, RULESET), resources(module, with_rule(1500, rule(1500, "edited")))
    sent = [new for key, new in after.items() if key not in before or before[key].version != new.version]
    assert {new.name for new in sent if new.type is LISTENERS} == {"rejoinder.parts"}
    new_parts = [new for new in sent if new.type is EXTENSIONS and new.name.startswith("rejoinder.part.")]
    assert 1 <= len(new_parts) <= 2
    bytes_sent = sum(len(new.body) for new in sent if not new.name.startswith(("rejoinder.module", "rejoinder.ext")))
    assert bytes_sent < 64_000  # of 600,000


def test_edits_are_live_and_every_request_is_answered(module: Gateway) -> None:
    module.apply(RULESET)
    assert body(module, COUNT - 1).startswith(f"page {COUNT - 1} ")
    asked = (1, 700, 1499, 1501, COUNT - 1)

    def ask() -> list[str]:
        return [text for number in asked if not (text := body(module, number)).startswith(f"page {number} ")]

    with steadily(ask):
        edits = [(1500, f"edit-{number}") for number in range(10)]
        for number, text in (*edits, (0, "first"), (COUNT - 1, "page")):
            module.apply(with_rule(number, rule(number, text)))
            module.wait_for(functools.partial(answers, module, number, text))


def test_small_and_large_programs_follow_each_other(module: Gateway) -> None:
    few = replace(RULESET, rules=RULES[:3])
    for ruleset, last in ((few, 2), (RULESET, COUNT - 1), (few, 2)):
        module.apply(ruleset)
        module.wait_for(functools.partial(answers, module, last, "page"))
    assert body(module, COUNT - 1) == "<p>from upstream</p>"
