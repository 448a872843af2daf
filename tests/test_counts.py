"""What rules have done, counted: by the pure parts, and by Envoys of ours in all placements."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from gateway import Gateway

from rejoinder.cli.requests import shown
from rejoinder.rules import counts
from rejoinder.rules.counts import NONE, OTHER, Counts, Kind, RuleCounts, Series, Tally, added
from rejoinder.rules.model import (
    Answer,
    Endpoint,
    Forward,
    Listener,
    PathKind,
    PathMatch,
    Position,
    Redirect,
    RequestMatch,
    Route,
    Rule,
    Ruleset,
    Scope,
    StatusPattern,
    Upstream,
)
from rejoinder.xds.build import build
from rejoinder.xds.counts import SERVICE, Counted, decode
from rejoinder.xds.protobuf import message_class
from rejoinder.xds.server import Server
from rejoinder.xds.snapshot import LISTENERS
from rejoinder.xds.sotw import StateOfTheWorld
from rejoinder.xds.stream import Response
from rejoinder.xds.translate import Placement, Settings
from rejoinder.xds.translate.logs import access_logs
from rejoinder.xds.wire import decode_request

BUSY = Series("busy", "module", "503", "200")


def test_counts_by_rule() -> None:
    tally = Tally()
    tally.add(BUSY, 10.0)
    tally.add(BUSY._replace(original_status="502"), 12.0, 2)
    tally.add(BUSY._replace(rule="trial", kind=Kind.OBSERVED), 13.0)
    by_rule = added([tally.counts(), Counts({BUSY._replace(placement="ext_proc"): 4}, {"busy": 11.0})]).by_rule()
    assert by_rule == {
        "busy": RuleCounts(7, 12.0, {"503": 5, "502": 2}),
        "trial": RuleCounts(observed=1),
    }


def test_upstreams_cannot_make_any_number_of_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "MOST_SERIES", 10)
    tally = Tally()
    for status in range(100, 600):
        for rule in ("a", "b"):
            tally.add(Series(rule, "native", str(status), str(status)), 1.0)
    limited = tally.counts()
    assert len(limited.series) == 10 + 2
    assert limited.total() == {"a": 500, "b": 500}
    assert limited.series[Series("a", "native", OTHER, OTHER)] == 495


def test_rules_that_are_no_more_are_forgotten() -> None:
    tally = Tally()
    tally.add(BUSY, 10.0)
    tally.add(BUSY._replace(rule="old"), 10.0)
    tally.keep({"busy"})
    assert tally.counts() == Counts({BUSY: 1}, {"busy": 10.0})


def test_no_more_counters_than_that_in_an_envoy() -> None:
    scopes = [log["typed_config"]["stats_scope"] for log in access_logs(counts=True, lines=False)]
    assert [scope["max_counters"] for scope in scopes] == [counts.MOST_SERIES] * len(scopes)


@pytest.mark.parametrize("data", [b"", b"\x0a\x00"])
def test_reports_that_say_nothing(data: bytes) -> None:
    assert decode(data) == Counted((), ())


def test_garbage_is_refused_and_told_to_nobody() -> None:
    async def main() -> None:
        told: list[object] = []
        server = Server(told.append)
        port = await server.start("127.0.0.1:0")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            export: Any = channel.unary_unary(f"/{SERVICE}/Export")
            with pytest.raises(grpc.aio.AioRpcError, match="no OTLP metrics"):
                await export(b"\xff")
        await server.stop()
        assert told == []

    asyncio.run(main())


def _path(path: str) -> Scope:
    return Scope(request=RequestMatch(PathMatch(PathKind.EXACT, path)))


def _on(status: str, body: bytes = b"ours", **more: object) -> Answer:
    return Answer(status_code=None, body=body, enable_on_status=(StatusPattern(status),), **more)  # type: ignore[arg-type]


CODE = """
from rejoinder.rules.handlers import Reply

def fails(request, response):
    raise RuntimeError("no")

def answers(request, response):
    return Reply(410, (), b"made")
"""
STATUSES = ("200", "404", "503", "502", "504", "418", "500")
OWN = RequestMatch(PathMatch(PathKind.EXACT, "/own"))
RULES = Ruleset(
    upstreams=(Upstream("up", (), echo=True),),
    routes=(
        Route("own", Answer(body=b"own"), request=OWN),
        Route("moved", Redirect(path="/x"), request=RequestMatch(PathMatch(PathKind.EXACT, "/moved"))),
        Route("all", Forward("up")),
    ),
    rules=(
        Rule("shield", (), _path("/shield"), final=True),
        Rule("guard", (), _path("/own"), final=True),
        Rule("never", (Answer(body=b"never"),), _path("/own")),
        Rule("mock, too", (Answer(body=b"mock"),), _path("/mock")),
        Rule("below", (Answer(body=b"below"),), Scope(request=RequestMatch(PathMatch(PathKind.PREFIX, "/shield")))),
        Rule("let", (_on("500", b"", passes=True),)),
        Rule("trial", (_on("5"),), observe=True),
        Rule("missing", (Answer(200, body=b"here", enable_on_status=(StatusPattern("404"),)),)),
        Rule("busy", (_on("503"),)),
        Rule("fails", (_on("418", b"", handler="counted_handlers:fails"),)),
        Rule("made", (_on("504", b"", handler="counted_handlers:answers"),)),
    ),
)
REQUESTS = (
    ("/mock", "-"),
    ("/mock", "-"),
    ("/own", "-"),
    *(("/x", status) for status in STATUSES),
    ("/shield", "200"),
    ("/shield", "503"),
    ("/shield/x", "-"),
    ("/moved", "-"),
)


@pytest.fixture(name="gateway", scope="module", params=list(Placement), ids=lambda placement: placement.value)
def _gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("code")
    (folder / "counted_handlers.py").write_text(CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        with Gateway(conditional=request.param, counts=0.1, handlers=[folder]) as gateway:
            yield gateway


def test_every_placement_is_counted_told_and_logged(gateway: Gateway) -> None:
    placement, by_module = gateway.conditional.value, gateway.conditional is Placement.MODULE
    gateway.apply(RULES)
    gateway.events.clear()
    for path, status in REQUESTS:
        gateway.ask("GET", "a.test", path, [("x-status", status)] if status != "-" else [])

    expected = {
        Series("mock, too", "native", NONE, "200"): 2,
        Series("missing", placement, "404", "200"): 1,
        Series("busy", placement, "503", "503"): 1,
        Series("trial", placement, "502", "502", kind=Kind.OBSERVED): 1,
        Series("trial", placement, "503", "503", kind=Kind.OBSERVED): 1,
        Series("made", placement, "504", "410"): 1,
        Series("trial", placement, "504", "410", kind=Kind.OBSERVED): 1,
        Series("below", "native", NONE, "200"): 1,
        Series("let", placement, "500", "500", Kind.PASSED): 1,
        # By the route alone, but for what the module is asked about; ext_proc sees requests, for there are handlers.
        Series("shield", "native" if by_module else placement, "200", "200", Kind.PASSED): 1,
        Series("shield", placement, "503", "503", Kind.PASSED): 1,
        Series("own", "native", NONE, "200", Kind.ROUTE): 1,
        Series("guard", "native", "200", "200", Kind.PASSED): 1,
        Series("moved", "native", NONE, "301", Kind.ROUTE): 1,
    }

    gateway.wait_for(lambda: _told(gateway) == expected)
    if by_module:
        failed = [event.handler_failures for event in gateway.events if isinstance(event, Counted)]
        assert (("fails", 1),) in failed
    else:
        own = {key: number for key, number in expected.items() if key.placement == placement and key.rule != "shield"}
        # It tells when the request comes.
        own[Series("shield", placement, NONE, NONE, Kind.PASSED)] = 2
        assert gateway.processor.counters().counts.series == own

    def logged() -> list[dict[str, Any]]:
        return [line for line in map(json.loads, gateway.output) if line["host"] == "a.test"]

    gateway.wait_for(lambda: len(logged()) == len(REQUESTS))
    lines = logged()
    assert [(line["rule"] or None, line.get("original_status"), line.get("source")) for line in lines] == [
        ("mock, too", None, None),
        ("mock, too", None, None),
        (None, None, None),
        (None, None, None),
        ("missing", "404", "upstream"),
        ("busy", "503", "upstream"),
        (None, None, None),
        ("made", "504", "upstream"),
        (None, None, None),
        (None, None, None),
        (None, None, None),
        (None, None, None),
        ("below", None, None),
        (None, None, None),
    ]
    assert [line.get("observed") for line in lines[:9]] == [*[None] * 5, "trial", "trial", "trial", None]
    shield = None if by_module else "shield"
    assert [line.get("passed") for line in lines[9:]] == ["let", shield, "shield", None, None]
    assert [line.get("passed_by_route") for line in lines[9:]] == [None, "shield", "shield", None, None]
    assert lines[4]["details"] in ("via_upstream", "rejoinder:missing")


EARLY = Ruleset(
    upstreams=RULES.upstreams,
    routes=RULES.routes,
    rules=(
        Rule('"a" 100%', (_on("431", b"too large"),)),
        Rule("other", (Answer(451, body=b"no", enable_on_status=(StatusPattern("400"),)),)),
        Rule("missing", (_on("404", b"missing"),)),
    ),
)
"""What Envoy refuses before any filter has seen it is answered by the module or, where that is not there, by itself."""


def test_what_envoy_refuses_at_once_is_counted_and_logged(gateway: Gateway) -> None:
    gateway.apply(EARLY)
    gateway.events.clear()
    gateway.output.clear()
    for sent, status in ((b"x: 1\r\n" * 200, 431), (b"content-length: 1\r\ntransfer-encoding: chunked\r\n", 451)):
        with socket.create_connection(gateway.address) as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: a.test\r\n" + sent + b"\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 %d" % status)
    # No such thing, though the statuses are the same.
    assert gateway.ask("GET", "a.test", "/a", [("x-status", "451")]).status == 451
    assert gateway.ask("GET", "a.test", "/a", [("x-status", "431")]).body == b"too large"
    placement = "module" if gateway.conditional is Placement.MODULE else "native"
    expected = {
        Series('"a" 100%', placement, "431", "431"): 1,
        Series("other", placement, "400", "451"): 1,
        Series('"a" 100%', gateway.conditional.value, "431", "431"): 2 if placement == "module" else 1,
    }
    gateway.wait_for(lambda: _told(gateway) == expected)

    def logged() -> list[tuple[str, str | None]]:
        lines = (line for line in map(json.loads, gateway.output) if line["status"] in (431, 451))
        return [(line["rule"], line.get("original_status")) for line in lines]

    gateway.wait_for(lambda: len(logged()) == 4)
    assert logged() == [('"a" 100%', "431"), ("other", "400"), ("", None), ('"a" 100%', "431")]


def _told(gateway: Gateway) -> Counter[Series]:
    """What Envoy has told of."""
    told: Counter[Series] = Counter()
    for event in list(gateway.events):
        if isinstance(event, Counted):
            told.update({series: number for series, number in event.answers if series.rule != "generation"})
    return told


def test_what_cannot_be_delivered_is_told_when_there_is_a_control_plane_again() -> None:
    with Gateway(counts=0.1) as gateway:
        gateway.apply(RULES)
        gateway.run(gateway.server.stop())
        gateway.events.clear()
        mock = Series("mock, too", "native", NONE, "200")
        for _ in range(3):
            gateway.ask("GET", "a.test", "/mock")
            flushed = _retries(gateway)
            gateway.wait_for(lambda flushed=flushed: _retries(gateway) > flushed)  # type: ignore[misc]
        gateway.restart()
        gateway.wait_for(lambda: _told(gateway)[mock] == 3)


def _retries(gateway: Gateway) -> int:
    return gateway.stats(r"^cluster\.rejoinder_xds\.upstream_rq_retry$")["cluster.rejoinder_xds.upstream_rq_retry"]


def _listener(node: dict[str, Any], metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a client that says this of itself is told of its listener's access logs, as JSON has it."""
    ruleset = Ruleset(listeners=(Listener("127.0.0.1", 80),), rules=(RULES.rules[0],))
    built = build(ruleset, Settings(Endpoint("127.0.0.1", 1)))
    ask = message_class("envoy.service.discovery.v3.DiscoveryRequest")(type_url=LISTENERS.url, node=node)
    ask.node.metadata.update(metadata or {})
    sent, *_ = StateOfTheWorld(built.snapshot, LISTENERS).on_request(decode_request(ask.SerializeToString()))
    assert isinstance(sent, Response)
    listener = message_class(LISTENERS.message).FromString(sent.resources[0].body)
    manager = message_class(MANAGER)()
    listener.filter_chains[0].filters[0].typed_config.Unpack(manager)
    return {"names": [log.name for log in manager.access_log], "version": sent.resources[0].version}


def _envoy(minor: int) -> dict[str, Any]:
    version = {"version": {"major_number": 1, "minor_number": minor}}
    return {"id": "one", "user_agent_name": "envoy", "user_agent_build_version": version}


MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


@pytest.mark.parametrize(
    ("node", "lines", "names"),
    [
        pytest.param({"id": "one"}, False, [], id="nobody knows what it is"),
        pytest.param(_envoy(38), False, [], id="too old to be counted in"),
        pytest.param(_envoy(39), False, ["counts"] * 5, id="counts"),
        pytest.param(_envoy(36), True, ["stdout"], id="old, and wants lines"),
        pytest.param(_envoy(40), True, [*["counts"] * 5, "stdout"], id="both"),
    ],
)
def test_an_envoy_gets_the_access_logs_that_it_can_take_and_wants(
    node: dict[str, Any], lines: bool, names: list[str]
) -> None:
    metadata = {"rejoinder": {"access_log": True}} if lines else {"rejoinder": {"else": 1}, "other": {}}
    listener = _listener(node, metadata)
    assert listener["names"] == names
    assert listener == _listener(node, metadata)  # two servers tell the same


@pytest.mark.parametrize(
    "line",
    ["", "[]", "null", "12", '{"time": 3}', "Envoy says something", '{"time": "2026-11-26T13:00:00Z", "status": 200}'],
)
def test_lines_of_any_kind_are_shown_or_passed_over(line: str) -> None:
    assert len(list(shown(line, {}, {}))) <= 1


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"rule": "r", "status": 200, "details": "direct_response"}, ["200 r (rules.yaml:3)"]),
        ({"rule": "r", "status": 302, "original_status": "429"}, ["429 -> 302 r (rules.yaml:3)"]),
        (
            {"rule": "", "route": "own", "status": 200, "details": "direct_response"},
            ["200 by route own (routes.yaml:4)"],
        ),
        ({"rule": "", "status": 503, "passed": "r"}, ["503 passed by r (rules.yaml:3)"]),
        ({"rule": "", "status": 200, "passed_by_route": "r"}, ["200 passed by r (rules.yaml:3)"]),
        ({"rule": "", "status": 200, "observed": "r,gone"}, ["200 observed by r (rules.yaml:3), gone (it is no more)"]),
        ({"rule": "", "status": 200}, []),
    ],
)
def test_what_is_said_of_a_request(entry: dict[str, Any], said: list[str]) -> None:
    request = {"time": "2026-11-26T13:00:00Z", "method": "GET", "host": "a.test", "path": "/x"}
    places = {"r": Position("rules.yaml", 3)}, {"own": Position("routes.yaml", 4)}
    nothing = dict.fromkeys(("rule", "original_status", "observed", "passed", "passed_by_route"))
    for left_out in ({}, nothing):
        lines = shown(json.dumps({**left_out, **request, **entry}), *places)
        assert list(lines) == [f"13:00:00 GET a.test/x {words}" for words in said]


def test_what_clients_send_cannot_write_to_a_terminal() -> None:
    entry = {"time": "2026-11-26T13:00:00Z", "method": "GET", "host": "a\x1b[2J", "path": "/\n" * 500, "rule": "r"}
    (text,) = shown(json.dumps({**entry, "status": 200}), {"r": Position("rules.yaml", 3)}, {})
    assert text.isprintable()
    assert len(text) < 600
    assert text.endswith(" 200 r (rules.yaml:3)")
