"""What a client that rejects goes back to, in both variants of the protocol: by calls, no sockets, no time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from simulated import (
    ONE,
    Client,
    IncrementalClient,
    StateOfTheWorldClient,
    cluster,
    connected,
    described,
    listener,
    routes,
    snapshot,
)

from rejoinder.xds.events import Accepted, Nack
from rejoinder.xds.snapshot import CLUSTERS, EXTENSIONS, LISTENERS, ROUTES, Resource, ResourceType

Connect = Callable[..., Client]


@pytest.fixture(
    name="connect", params=[StateOfTheWorldClient.new, IncrementalClient.new], ids=["state of the world", "incremental"]
)
def _connect(request: pytest.FixtureRequest) -> Connect:
    connect: Connect = request.param
    return connect


def test_a_client_without_listeners_goes_back_to_what_it_had_of_all_that_it_asks_for(connect: Connect) -> None:
    client = connect(ONE)
    client.subscribe(CLUSTERS)
    client.ack_all()
    client.subscribe(ROUTES, "r")
    client.ack_all()
    assert client.news == [Accepted("envoy-1", ONE)]
    bad = snapshot(cluster("b"), listener("l", "r"), routes("r", "b"))
    client.give(bad)
    client.nack(CLUSTERS)
    client.ack_all()
    assert client.news[1:] == [Nack("envoy-1", CLUSTERS, bad, "no", ONE, had=True)]
    assert (client.has[CLUSTERS], client.has[ROUTES]) == (ONE.by_type[CLUSTERS], ONE.by_type[ROUTES])


def test_a_client_with_clusters_only_goes_back_to_those_that_it_had(connect: Connect) -> None:
    client = connect(ONE)
    client.subscribe(CLUSTERS)
    client.ack_all()
    bad = snapshot(cluster("a", "bad"), listener("l", "r"), routes("r", "a"))
    client.give(bad)
    client.nack(CLUSTERS)
    client.ack_all()
    assert client.news == [Nack("envoy-1", CLUSTERS, bad, "no", ONE, had=True)]
    assert client.has[CLUSTERS] == ONE.by_type[CLUSTERS]


def test_a_newcomer_that_rejects_gets_what_others_have_taken_of_the_type(connect: Connect) -> None:
    bad = snapshot(cluster("a"), listener("l", "r", body="bad"), routes("r", "a"))
    client = connect(bad, proven={LISTENERS: ONE, CLUSTERS: bad})
    client.subscribe(CLUSTERS)
    client.ack_all()
    client.subscribe(LISTENERS)
    client.nack(LISTENERS)
    client.subscribe(ROUTES, "r")
    client.ack_all()
    assert client.news == [Nack("envoy-1", LISTENERS, bad, "no", ONE), Accepted("envoy-1", ONE)]
    assert client.has == {kind: dict(resources) for kind, resources in ONE.by_type.items()}


def test_a_newcomer_that_rejects_everything_is_left_alone(connect: Connect) -> None:
    two = snapshot(cluster("a", "2"), listener("l", "r", body="2"), routes("r", "a"))
    client = connect(two, proven={LISTENERS: ONE, CLUSTERS: two})
    client.subscribe(CLUSTERS)
    client.ack_all()
    client.subscribe(LISTENERS)
    client.nack(LISTENERS)
    for _ in range(10):
        for kind in list(client.unanswered)[:1]:
            client.nack(kind)
    assert client.unanswered == {}
    rejected = [(news.type, news.instead) for news in client.news if isinstance(news, Nack)]
    assert rejected[0] == (LISTENERS, ONE)
    assert rejected[1:] in ([(LISTENERS, None), (CLUSTERS, None)], [(CLUSTERS, None), (LISTENERS, None)])


@pytest.mark.parametrize("kind", [ROUTES, EXTENSIONS])
def test_a_newcomer_keeps_no_listener_whose_routes_or_filters_it_rejects(connect: Connect, kind: ResourceType) -> None:
    first, name = Resource(LISTENERS, "l", b"1", frozenset({(kind, "r")})), "r"
    other = Resource(LISTENERS, "m", b"1", frozenset({(ROUTES, "s")}))
    bad = snapshot(cluster("a"), first, other, Resource(kind, name, b"bad"), routes("s", "a"))
    client = connect(bad)
    client.subscribe(CLUSTERS)
    client.ack_all()
    client.subscribe(LISTENERS)
    client.ack_all()
    client.subscribe(kind, "r")
    client.nack(kind)
    client.ack_all()
    assert client.has[LISTENERS] == {"m": other}
    good = snapshot(cluster("a"), first, other, Resource(kind, name, b"good"), routes("s", "a"))
    client.give(good)
    client.ack_all()
    assert client.has[LISTENERS] == {"l": first, "m": other}


def test_of_several_routes_that_a_newcomer_rejects_at_once_the_good_ones_stay(connect: Connect) -> None:
    bad = snapshot(cluster("a"), listener("l", "r"), listener("m", "s"), routes("r", "a", body="bad"), routes("s", "a"))
    client = connect(bad)
    client.subscribe(CLUSTERS)
    client.ack_all()
    client.subscribe(LISTENERS)
    client.ack_all()
    client.subscribe(ROUTES, "r", "s")
    client.nack(ROUTES)
    while client.unanswered:
        if ROUTES in client.unanswered and any(
            b"bad" in resource.body for resource in client.unanswered[ROUTES].resources
        ):
            client.nack(ROUTES)
        else:
            client.ack(min(client.unanswered, key=lambda kind: kind is not ROUTES))
    assert client.has[LISTENERS].keys() == {"m"}
    assert client.has[ROUTES].keys() == {"s"}


def test_a_client_that_comes_back_keeps_its_listener_when_it_rejects_new_routes(connect: Connect) -> None:
    bad = snapshot(cluster("a"), listener("l", "r"), routes("r", "a", body="bad"))
    client = connect(bad)
    client.subscribe(CLUSTERS)
    client.ack_all()
    client.subscribe(LISTENERS)
    client.ack_all()
    if isinstance(client, StateOfTheWorldClient):
        client.ask(ROUTES, "r", version="old")
    elif isinstance(client, IncrementalClient):
        client.recorded[ROUTES] = {"r": routes("r", "a", body="old")}
        client.subscribe(ROUTES, "r")
    client.nack(ROUTES)
    client.ack_all()
    assert client.has[LISTENERS].keys() == {"l"}


@pytest.mark.parametrize("kind", [CLUSTERS, LISTENERS, ROUTES], ids=lambda kind: kind.name)
def test_what_was_rejected_is_not_tried_again(connect: Connect, kind: ResourceType) -> None:
    before = snapshot(cluster("a"), listener("l", "r"), routes("r", "a"))
    bad = snapshot(cluster("a", "2"), listener("l", "r", body="2"), routes("r", "a", body="2"))
    client = connected(connect(), before)
    client.give(bad)
    while kind not in client.unanswered:
        client.ack(next(iter(client.unanswered)))
    client.nack(kind)
    client.ack_all()
    assert client.has == before.by_type
    assert client.give(bad) == []
    assert client.ack_all() == []
    assert len(client.news) == 1


def test_a_first_snapshot_that_is_rejected_leaves_nothing_to_go_back_to(connect: Connect) -> None:
    client = connect(ONE)
    client.subscribe(CLUSTERS)
    client.ack_all()
    client.subscribe(LISTENERS)
    assert client.nack(LISTENERS) == []
    # Envoy may have taken other listeners of the response; they get their routes.
    assert described(client.subscribe(ROUTES, "r")) == ["routes: r"]
    client.ack_all()
    assert [type(news) for news in client.news] == [Nack]
    client.give(snapshot(cluster("a"), listener("l", "r", body="2"), routes("r", "a")))
    assert client.ack_all() == ["listeners: l"]
    assert [type(news) for news in client.news] == [Nack, Accepted]


def test_a_client_that_rejects_what_it_goes_back_to_is_left_alone(connect: Connect) -> None:
    client = connected(connect())
    client.give(snapshot(cluster("a"), listener("l", "r", body="bad"), routes("r", "a")))
    client.nack(LISTENERS)
    assert client.nack(LISTENERS) == []
    assert client.ack_all() == []
    good = snapshot(cluster("a"), listener("l", "r", body="good"), routes("r", "a"))
    client.give(good)
    client.ack_all()
    assert client.news[-1] == Accepted("envoy-1", good)
