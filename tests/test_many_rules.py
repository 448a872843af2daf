"""Many rules at a real Envoy: virtual hosts that are resources of their own, by domain and by path."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
from gateway import Gateway, ruleset
from machine import Response, steadily

from rejoinder.rules.decide import decide
from rejoinder.rules.model import Ruleset
from rejoinder.rules.names import XDS_CLUSTER
from rejoinder.rules.request import parse
from rejoinder.xds.events import Nack
from rejoinder.xds.translate.encode import snapshot

RECEIVED = f"cluster.{XDS_CLUSTER}.upstream_cx_rx_bytes_total"


@pytest.fixture(autouse=True)
def _many(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "many_routes", 100)


def rules(tmp_path: Path, count: int, *, by_domain: bool, body: str = "body", start: int = 0) -> Ruleset:
    """So many rules, the one in the middle with this body."""
    file = tmp_path / "rules.yaml"

    def match(number: int) -> str:
        return f"domains: [d{number}.test], path: /x" if by_domain else f"path: /page/{number}"

    file.write_text(
        "rules:\n- {name: all, match: {path: /all}, body: all}\n"
        + "".join(
            f"- {{name: r{n}, match: {{{match(n)}}}, body: '{body if n == count // 2 else 'other'} {n}'}}\n"
            for n in range(start, start + count)
        )
    )
    return ruleset(file)


def ask(gateway: Gateway, number: int, *, by_domain: bool) -> str:
    host, path = (f"d{number}.test", "/x") if by_domain else ("any.test", f"/page/{number}")
    return gateway.ask("GET", host, path).body.decode()


@pytest.mark.parametrize("by_domain", [False, True], ids=["by path", "by domain"])
def test_an_edit_sends_only_the_virtual_host_that_it_changes(gateway: Gateway, tmp_path: Path, by_domain: bool) -> None:
    def received() -> int:
        return gateway.stats(RECEIVED)[RECEIVED]

    start = received()
    built = gateway.build(rules(tmp_path, 1000, by_domain=by_domain))
    assert not isinstance(gateway.publish(built), Nack)
    everything = received() - start
    gateway.wait_for(lambda: ask(gateway, 500, by_domain=by_domain) == "body 500")
    start = received()
    assert not isinstance(gateway.publish(gateway.build(rules(tmp_path, 1000, by_domain=by_domain, body="new"))), Nack)
    assert received() - start < everything / 20
    gateway.wait_for(lambda: ask(gateway, 500, by_domain=by_domain) == "new 500")
    assert ask(gateway, 499, by_domain=by_domain) == "other 499"


def test_more_rules_and_fewer_fail_no_request(gateway: Gateway, tmp_path: Path) -> None:
    gateway.apply(rules(tmp_path, 10, by_domain=False))

    def ask_all() -> list[Response]:
        response = gateway.ask("GET", "any.test", "/all")
        return [] if response.body == b"all" else [response]

    with steadily(ask_all):
        # Whole, by path and by domain, and each to each; and virtual hosts that come and go.
        for count, by_domain in itertools.product((200, 10, 300, 150, 9), (False, True)):
            gateway.apply(rules(tmp_path, count, by_domain=by_domain, start=count))
            assert ask(gateway, count, by_domain=by_domain) == f"other {count}"


def test_a_rejected_virtual_host_leaves_what_was_there(gateway: Gateway, tmp_path: Path) -> None:
    gateway.apply(rules(tmp_path, 200, by_domain=False))
    built = gateway.build(rules(tmp_path, 200, by_domain=False, body="new"))
    split = built.configuration.split
    assert split is not None
    twice = {**split.virtual_hosts[0], "domains": ["*", "/page/1", "/page/1"]}
    broken = dataclasses.replace(split, virtual_hosts=(twice, *split.virtual_hosts[1:]))
    made = snapshot(dataclasses.replace(built.configuration, split=broken))
    event = gateway.publish(dataclasses.replace(built, snapshot=made))
    assert isinstance(event, Nack), event
    assert "Only unique values for domains are permitted" in event.message
    assert ask(gateway, 100, by_domain=False) == "body 100"
    gateway.apply(rules(tmp_path, 200, by_domain=False, body="good again"))
    assert ask(gateway, 100, by_domain=False) == "good again 100"


MATCHES = (
    "path: /page/a",
    "path: /page/A",
    "path: /page/a*b",
    "path: /page/a*",
    "prefix: /st*r/x",
    "path: '/page/a:80'",
    "prefix: '/page/q:z'",
    "path: /page/%C3%BC",
    "path: /page/a/",
    "prefix: /page/a/b",
    "regex: '/PAGE/[0-9]+'",
    "headers: {x-a: '1'}",
    "path: /",
    "prefix: /long",
)
TARGETS = (
    *("/page/a", "/page/A", "/page/a*b", "/page/a*", "/page/a:80", "/page/a:81", "/page/q:z", "/page/q:z/x", "/"),
    *("/page/%C3%BC", "/page/%c3%bc", "/page/a/", "/page/a/b", "/page/a/b/c", "/page/a/bc", "/PAGE/7", "/page/7"),
    *("/?q=/page/a", "/st*r/x/y", "/st*r/y", "/long", "/long" + "/x" * 5000, "/longer", "/page/a?x", "//page/a"),
)


@pytest.mark.parametrize("long_list", [2, 64], ids=["cut", "not cut"])
def test_virtual_hosts_by_path_mean_what_the_rules_say(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long_list: int
) -> None:
    file = tmp_path / "rules.yaml"
    matches = (f"- {{match: {{{match}}}, body: 'rule {n}'}}\n" for n, match in enumerate(MATCHES))
    file.write_text("rules:\n" + "".join(matches))
    rules = ruleset(file)
    monkeypatch.setattr(gateway, "many_routes", 1)
    monkeypatch.setattr(gateway, "long_list", long_list)
    gateway.apply(rules)
    for target, headers in itertools.product(TARGETS, ([], [("x-a", "1")], [("x-rejoinder-path", "/page/a")])):
        wanted = decide(rules, parse("GET", "any.test", target, tuple(headers))).reply
        response = gateway.ask("GET", "any.test", target, headers)
        assert (response.status, response.body) == ((wanted.status, wanted.body) if wanted else (404, b"")), target
