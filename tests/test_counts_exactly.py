"""What is counted where Envoy has a part in it: the status that is sent, and where a rule makes a difference."""

from __future__ import annotations

from gateway import Gateway
from test_counts import (
    RULES,
    _gateway,  # noqa: F401 - a fixture
    _on,
    _told,
)

from rejoinder.rules.counts import Kind, Series
from rejoinder.rules.model import (
    Answer,
    PathKind,
    PathMatch,
    RequestMatch,
    Rule,
    Ruleset,
    Scope,
    StringKind,
    StringMatch,
)
from rejoinder.xds.translate import Placement

GRPC = [("content-type", "application/grpc")]
OFFICE = Scope(request=RequestMatch(headers=(("x-office", StringMatch(StringKind.PRESENT)),)))
KEEPS = Ruleset(
    upstreams=RULES.upstreams,
    routes=RULES.routes,
    rules=(
        Rule("office", (), OFFICE, final=True),
        Rule("maint", (Answer(503),), Scope(request=RequestMatch(PathMatch(PathKind.PREFIX, "/maint")))),
        Rule("busy", (_on("503"),)),
    ),
)


def test_what_clients_get_that_speak_grpc_is_counted_with_the_status_that_is_sent(gateway: Gateway) -> None:
    gateway.apply(KEEPS)
    gateway.events.clear()
    assert gateway.ask("GET", "a.test", "/grpc", [*GRPC, ("x-status", "503")]).status == 200
    answered = Series("busy", gateway.conditional.value, "503", "200")
    gateway.wait_for(lambda: answered in _told(gateway))
    if gateway.conditional is Placement.EXT_PROC:
        assert gateway.processor.counters().counts.series[answered] == 1


def test_a_rule_that_passes_counts_where_it_keeps_another_from_answering(gateway: Gateway) -> None:
    gateway.apply(KEEPS)
    gateway.events.clear()
    for path, status in (("/maint", "200"), ("/maint/x", "418"), ("/x", "200"), ("/x", "418"), ("/x", "503")):
        gateway.ask("GET", "a.test", path, [("x-office", "1"), ("x-status", status)])
    expected = {
        Series("office", "native", "200", "200", Kind.PASSED): 1,
        Series("office", "native", "418", "418", Kind.PASSED): 1,
        Series("office", gateway.conditional.value, "503", "503", Kind.PASSED): 1,
    }
    gateway.wait_for(lambda: sum(_told(gateway).values()) >= len(expected))
    assert _told(gateway) == expected
