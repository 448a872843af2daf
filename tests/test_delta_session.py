"""What one client of the incremental protocol is sent, and when, by calls: no sockets, no time."""

from __future__ import annotations

import pytest
from simulated import (
    ONE,
    Held,
    IncrementalClient,
    cluster,
    connected,
    describe,
    described,
    listener,
    resource,
    routes,
    snapshot,
)

from rejoinder.xds.delta import DeltaRequest, Incremental
from rejoinder.xds.events import Accepted, Nack
from rejoinder.xds.snapshot import CLUSTERS, EXTENSIONS, LISTENERS, ROUTES, ResourceType, Snapshot
from rejoinder.xds.stream import Response


def started(first: Snapshot = ONE) -> IncrementalClient:
    client = IncrementalClient.new()
    connected(client, first)
    return client


# ---- subscriptions

Step = tuple[str, tuple[str, ...]]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([("+", ())], ["x y"], id="no names at first are all"),
        pytest.param([("+", ("*",))], ["x y"], id="a star is all"),
        pytest.param([("+", ("x",))], ["x"], id="a name is that one"),
        pytest.param([("+", ("x",)), ("+", ("y",))], ["x", "y"], id="a further name is answered alone"),
        pytest.param([("+", ("x",)), ("+", ("x",))], ["x", "x"], id="a name that is asked for again is answered again"),
        pytest.param([("+", ("x",)), ("-", ("x",))], ["x"], id="a name that is given up is not answered"),
        pytest.param([("+", ("x",)), ("-", ("x",)), ("+", ("x",))], ["x", "x"], id="a name that comes back is"),
        pytest.param([("+", ("x",)), ("-", ("x",)), ("+", ())], ["x"], id="no names after names are none"),
        pytest.param([("+", ()), ("+", ("x",))], ["x y", "x"], id="a name is answered though the wildcard has it"),
        pytest.param(
            [("+", ("*", "x")), ("-", ("x",))], ["x y", "x"], id="what is given up beside the wildcard is said again"
        ),
        pytest.param(
            [("+", ("*", "nowhere")), ("-", ("nowhere",))],
            ["x y -nowhere", "-nowhere"],
            id="also that it does not exist",
        ),
        pytest.param([("+", ("*",)), ("-", ("nowhere",))], ["x y", "-nowhere"], id="even if it was never asked for"),
        pytest.param(
            [("+", ("*", "nowhere")), ("-", ("nowhere", "*"))], ["x y -nowhere"], id="but not without the wildcard"
        ),
        pytest.param(
            [("+", ("*", "x")), ("-", ("*",)), ("+", ("y",))], ["x y", "y"], id="without the star, names stay"
        ),
        pytest.param([("+", ("nowhere",))], ["-nowhere"], id="what does not exist is removed"),
        pytest.param([("+", ("x", "nowhere"))], ["x -nowhere"], id="in the same response"),
        pytest.param([("+", ("nowhere",)), ("+", ("nowhere",))], ["-nowhere"] * 2, id="as often as it is asked for"),
    ],
)
def test_clusters_are_sent_as_asked_for(steps: list[Step], expected: list[str]) -> None:
    client = IncrementalClient.new(snapshot(cluster("x"), cluster("y")))
    sent: list[str] = []
    for sign, names in steps:
        (client.subscribe if sign == "+" else client.drop)(CLUSTERS, *names)
        sent += client.ack_all()
    assert sent == [f"clusters: {names}" for names in expected]


@pytest.mark.parametrize("kind", [ROUTES, EXTENSIONS], ids=lambda kind: kind.name)
@pytest.mark.parametrize("names", [(), ("*",)], ids=["no names", "a star"])
def test_there_is_no_wildcard_for_what_is_asked_for_by_name(kind: ResourceType, names: tuple[str, ...]) -> None:
    client = IncrementalClient.new(snapshot(resource(kind, "x")))
    assert client.subscribe(kind, *names) == []


def test_a_name_that_does_not_exist_is_said_to_be_missing_once() -> None:
    client = IncrementalClient.new(snapshot())
    assert described(client.subscribe(ROUTES, "r")) == ["routes: -r"]
    client.ack_all()
    assert client.give(snapshot(cluster("a"))) == []


def test_what_comes_to_exist_is_sent_then_and_removed_when_it_goes() -> None:
    client = IncrementalClient.new(snapshot())
    client.subscribe(ROUTES, "r")
    client.ack_all()
    client.give(snapshot(routes("r")))
    assert client.ack_all() == ["routes: r"]
    client.give(snapshot())
    assert client.ack_all() == ["routes: -r"]


def test_an_empty_snapshot_is_an_answer_to_a_wildcard() -> None:
    assert described(IncrementalClient.new(snapshot()).subscribe(CLUSTERS)) == ["clusters: "]


def test_names_count_while_a_response_is_under_way() -> None:
    client = IncrementalClient.new(snapshot(routes("x"), routes("y"), routes("z")))
    client.subscribe(ROUTES, "x", "y")
    assert client.subscribe(ROUTES, "z") == []
    assert client.drop(ROUTES, "y") == []
    assert client.ack_all() == ["routes: x y", "routes: z"]


def test_a_name_that_is_given_up_while_a_response_is_under_way_is_answered_behind_it() -> None:
    client = IncrementalClient.new(snapshot(cluster("x")))
    client.subscribe(CLUSTERS, "*", "nowhere")
    assert client.drop(CLUSTERS, "nowhere") == []
    assert client.ack_all() == ["clusters: x -nowhere", "clusters: -nowhere"]
    assert client.give(snapshot(cluster("x"))) == []


def test_names_that_were_given_up_are_forgotten() -> None:
    client = IncrementalClient.new(snapshot(cluster("x")))
    for number in range(3):
        client.subscribe(CLUSTERS, "*", f"nowhere{number}")
        client.ack_all()
        client.drop(CLUSTERS, f"nowhere{number}")
        client.ack_all()
    stream = client.session._streams[CLUSTERS]
    assert (stream.absent, stream.given_up) == (frozenset(), frozenset())


def test_an_answer_to_an_old_response_is_none() -> None:
    client = started()
    client.give(snapshot(cluster("a", "2"), listener("l", "r"), routes("r", "a")))
    assert client.session.on_request(DeltaRequest(CLUSTERS.url, nonce="1", error="too late")) == []
    client.ack_all()
    assert [type(news) for news in client.news] == [Accepted]


def test_a_type_that_is_not_ours_is_ignored() -> None:
    assert Incremental(ONE).on_request(DeltaRequest("type.googleapis.com/envoy.service.runtime.v3.Runtime")) == []


# ---- a service of one type


def test_a_service_of_one_type_need_not_be_told_the_type() -> None:
    session = Incremental(ONE, only=ROUTES)
    (response, accepted) = [
        *session.on_request(DeltaRequest("", ("r",))),
        *session.on_request(DeltaRequest("", nonce="1")),
    ]
    assert isinstance(response, Response)
    assert describe(response) == "routes: r"
    assert accepted == Accepted("", ONE)


def test_a_service_of_one_type_has_no_other() -> None:
    assert Incremental(ONE, only=ROUTES).on_request(DeltaRequest(CLUSTERS.url)) == []


# ---- coming back


def held(of: Snapshot) -> Held:
    return {kind: dict(resources) for kind, resources in of.by_type.items()}


def test_a_client_that_comes_back_is_sent_nothing_that_it_has() -> None:
    client = IncrementalClient.new(ONE, has=held(ONE))
    assert client.subscribe(CLUSTERS) + client.subscribe(LISTENERS) + client.subscribe(ROUTES, "r") == []
    assert client.news == [Accepted("envoy-1", ONE)]


def test_a_client_that_comes_back_is_sent_what_has_changed_since() -> None:
    before = snapshot(cluster("a"), cluster("b"), cluster("gone"), listener("l", "r"), routes("r", "a"))
    now = snapshot(cluster("a"), cluster("b", "2"), cluster("new"), listener("l", "r"), routes("r", "b"))
    client = IncrementalClient.new(now, has=held(before))
    client.subscribe(CLUSTERS)
    assert client.ack_all() == ["clusters: b new -gone"]
    client.subscribe(LISTENERS)
    client.subscribe(ROUTES, "r")
    assert client.ack_all() == ["routes: r"]
    assert client.has == held(now)


def test_a_client_that_comes_back_with_a_name_that_is_no_more_is_told_so() -> None:
    client = IncrementalClient.new(snapshot(), has=held(snapshot(routes("r"))))
    client.subscribe(ROUTES, "r")
    assert client.ack_all() == ["routes: -r"]


# ---- changes


def test_a_newer_snapshot_in_the_middle_of_a_change_replaces_what_was_not_sent_yet() -> None:
    client = started()
    client.give(snapshot(cluster("b"), listener("l", "r", body="2"), routes("r", "b")))
    newest = snapshot(cluster("c"), listener("l", "r", body="3"), routes("r", "c"))
    assert client.give(newest) == []
    assert client.ack_all() == ["clusters: b", "clusters: c", "listeners: l", "routes: r", "clusters: -a -b"]
    assert client.news == [Accepted("envoy-1", newest)]


# ---- rejection


def test_a_client_that_rejects_goes_back_to_what_it_had_in_full() -> None:
    client = started()
    bad = snapshot(cluster("b"), listener("l", "r", body="bad"), listener("m"), routes("r", "b"))
    client.give(bad)
    client.ack(CLUSTERS)
    client.nack(LISTENERS, "cannot bind")
    assert client.news == [Nack("envoy-1", LISTENERS, bad, "cannot bind", ONE, had=True)]
    # Envoy may have taken the one listener and not the other.
    assert client.ack_all() == ["listeners: l -m", "clusters: -b"]
    assert client.has == held(ONE)
    assert client.session.target is client.session.accepted is ONE
