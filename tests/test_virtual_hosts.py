"""Virtual hosts that are resources of their own: what an Envoy is sent, and when, by calls: no sockets, no time."""

from __future__ import annotations

import pytest
from simulated import Held, IncrementalClient, cluster, described, host, listener, routes, snapshot, split
from simulated_envoy import IncrementalEnvoy, has_all_of, start_envoy

from rejoinder.xds.delta import DeltaRequest, Incremental
from rejoinder.xds.events import Accepted, Nack
from rejoinder.xds.forms import Node
from rejoinder.xds.snapshot import CLUSTERS, LISTENERS, RESOURCE_TYPES, ROUTES, VIRTUAL_HOSTS, ResourceType, Snapshot
from rejoinder.xds.stream import Response

NOTHING: Held = {kind: {} for kind in RESOURCE_TYPES}
A = cluster("a")
B = cluster("b")
L = listener("l", "r:hosts")
R = routes("r:hosts")
X = host("r:hosts/x", "a")
Y = host("r:hosts/y", "a")
TWO_HOSTS = split(A, L, R, X, Y)
WHOLE = snapshot(A, listener("l", "r"), routes("r", "a"))
OTHER = split(A, listener("l", "s:hosts"), routes("s:hosts"), host("s:hosts/z", "a"))


def settled(*given: Snapshot, bad: str | None = None) -> IncrementalEnvoy:
    """An Envoy that has been brought from one snapshot to the next."""
    envoy = start_envoy(bad=bad)
    for newer in given:
        envoy.give(newer)
        envoy.settle()
        assert envoy.session.accepted == newer
        assert has_all_of(envoy, newer) or envoy.draining
    envoy.news.clear()
    return envoy


def test_at_the_start_virtual_hosts_follow_their_route_configuration_all_at_once() -> None:
    envoy = start_envoy()
    envoy.give(TWO_HOSTS)
    assert envoy.settle() == ["clusters: a", "listeners: l", "routes: r:hosts", "virtual hosts: r:hosts/x r:hosts/y"]
    assert envoy.news == [Accepted("envoy-1", TWO_HOSTS)]


HOSTS = [
    pytest.param(
        split(A, L, R, X, host("r:hosts/y", "a", body="2")),
        ["virtual hosts: r:hosts/y"],
        id="an edit sends one",
    ),
    pytest.param(
        split(A, L, R, X, Y, host("r:hosts/z", "a")),
        ["virtual hosts: r:hosts/z"],
        id="a new one is sent alone",
    ),
    pytest.param(
        split(A, L, R, X),
        ["virtual hosts: -r:hosts/y"],
        id="one that is no more is removed",
    ),
    pytest.param(
        split(A, L, R, X, host("r:hosts/z", "a")),
        ["virtual hosts: r:hosts/z -r:hosts/y"],
        id="in the response that brings another",
    ),
    pytest.param(
        split(A, L, routes("r:hosts", body="2"), X, Y),
        ["routes: r:hosts"],
        id="a route configuration keeps them",
    ),
    pytest.param(
        split(A, B, L, R, X, host("r:hosts/y", "b")),
        ["clusters: b", "virtual hosts: r:hosts/y"],
        id="a new cluster comes first",
    ),
    pytest.param(
        split(B, L, R, host("r:hosts/x", "b"), host("r:hosts/y", "b")),
        ["clusters: b", "virtual hosts: r:hosts/x r:hosts/y", "clusters: -a"],
        id="another cluster: the old one stays until all have changed over",
    ),
    pytest.param(
        split(B, L, R, host("r:hosts/z", "b")),
        ["clusters: b", "virtual hosts: r:hosts/z -r:hosts/x -r:hosts/y", "clusters: -a"],
        id="and until those that use it are removed",
    ),
    pytest.param(
        split(A, listener("l", "r:hosts", body="2"), R, host("r:hosts/x", body="2"), host("r:hosts/z")),
        ["listeners: l", "virtual hosts: r:hosts/x r:hosts/z -r:hosts/y"],
        id="what a listener at work does not wait for comes behind it",
    ),
    pytest.param(
        WHOLE,
        ["listeners: l", "routes: -r:hosts", "routes: r"],
        id="with their route configuration they go by themselves",
    ),
    pytest.param(
        OTHER,
        ["listeners: l", "routes: -r:hosts", "routes: s:hosts", "virtual hosts: s:hosts/z"],
        id="of another route configuration all come",
    ),
]


@pytest.mark.parametrize(("after", "sent"), HOSTS)
def test_of_virtual_hosts_only_what_has_changed_goes_out_make_before_break(after: Snapshot, sent: list[str]) -> None:
    envoy = settled(TWO_HOSTS)
    envoy.give(after)
    assert envoy.settle() == sent
    assert envoy.news == [Accepted("envoy-1", after)]
    envoy.drained()
    envoy.settle()
    assert has_all_of(envoy, after)


def test_a_route_configuration_with_virtual_hosts_comes_back_after_its_listener_has_drained() -> None:
    envoy = settled(TWO_HOSTS, WHOLE)
    envoy.drained()
    # Envoy has dropped them, and would list them nevertheless when it comes back.
    assert envoy.settle() == ["virtual hosts: -r:hosts/x -r:hosts/y"]
    assert not envoy.recorded[VIRTUAL_HOSTS]
    envoy.give(TWO_HOSTS)
    assert envoy.settle() == ["listeners: l", "routes: -r", "routes: r:hosts", "virtual hosts: r:hosts/x r:hosts/y"]
    envoy.drained()
    envoy.settle()
    assert has_all_of(envoy, TWO_HOSTS)


def test_a_route_configuration_with_virtual_hosts_comes_back_while_its_listener_is_draining() -> None:
    envoy = settled(TWO_HOSTS, WHOLE, OTHER)
    now = split(A, B, L, R, host("r:hosts/x", "b"), host("r:hosts/z", "b"))
    envoy.give(now)
    # A listener that uses it again waits for nothing: all must be there before.
    assert envoy.settle() == [
        "clusters: b",
        "routes: r:hosts",
        "virtual hosts: r:hosts/x r:hosts/z -r:hosts/y",
        "listeners: l",
        "routes: -s:hosts",
    ]
    assert envoy.news == [Accepted("envoy-1", now)]
    envoy.drained()
    assert envoy.settle() == ["virtual hosts: -s:hosts/z"]
    assert has_all_of(envoy, now)


def test_a_listener_waits_for_the_virtual_hosts_that_come_back() -> None:
    envoy = settled(TWO_HOSTS, WHOLE, OTHER)
    assert described(envoy.give(TWO_HOSTS)) == ["routes: r:hosts", "virtual hosts: r:hosts/x r:hosts/y"]
    assert envoy.ack(ROUTES) == []
    assert described(envoy.ack(VIRTUAL_HOSTS)) == ["listeners: l"]


def test_a_listener_waits_for_the_virtual_hosts_that_come_back_behind_others() -> None:
    envoy = settled(TWO_HOSTS, WHOLE, OTHER)
    envoy.give(split(A, listener("l", "s:hosts"), routes("s:hosts"), host("s:hosts/z", "a", body="2")))
    assert described(envoy.give(TWO_HOSTS)) == ["routes: r:hosts"]
    assert envoy.ack(ROUTES) == []
    assert described(envoy.ack(VIRTUAL_HOSTS)) == ["virtual hosts: r:hosts/x r:hosts/y"]
    assert described(envoy.ack(VIRTUAL_HOSTS)) == ["listeners: l"]


def test_a_listener_does_not_wait_for_routes_that_have_been_rejected() -> None:
    """By a client that goes on with those that it had."""
    client = IncrementalClient.new(TWO_HOSTS, has={**NOTHING, ROUTES: {"r:hosts": routes("r:hosts", body="old")}})
    client.subscribe(CLUSTERS)
    client.ack_all()
    client.subscribe(LISTENERS)
    client.ack_all()
    client.subscribe(ROUTES, "r:hosts")
    client.nack(ROUTES)
    assert described(client.subscribe(LISTENERS, "l")) == ["listeners: l"]


def test_a_listener_does_not_wait_for_virtual_hosts_that_have_been_rejected() -> None:
    before = start_envoy(TWO_HOSTS)
    before.settle()
    envoy = start_envoy(split(A, L, R, host("r:hosts/x", body="3")), bad="3", before=before)
    envoy.settle()
    assert [type(news) for news in envoy.news] == [Nack]
    assert described(envoy.subscribe(ROUTES, "r:hosts")) == ["routes: r:hosts"]
    envoy.settle()
    assert described(envoy.subscribe(LISTENERS, "l")) == ["listeners: l"]


def test_virtual_hosts_wait_for_the_clusters() -> None:
    envoy = settled(TWO_HOSTS)
    assert described(envoy.give(split(A, B, L, R, X, host("r:hosts/z", "b")))) == ["clusters: b"]
    assert described(envoy.ack(CLUSTERS)) == ["virtual hosts: r:hosts/z -r:hosts/y"]


def test_routes_come_back_while_their_listener_is_draining() -> None:
    envoy = settled(WHOLE, TWO_HOSTS)
    envoy.give(snapshot(B, listener("l", "r"), routes("r", "b")))
    assert envoy.settle() == ["clusters: b", "routes: r", "listeners: l", "clusters: -a", "routes: -r:hosts"]


def test_an_envoy_that_comes_back_is_sent_the_virtual_hosts_that_have_changed_since() -> None:
    now = split(A, L, R, X, host("r:hosts/z", "a"))
    envoy = start_envoy(now, before=settled(TWO_HOSTS))
    assert envoy.settle() == ["virtual hosts: r:hosts/z -r:hosts/y"]
    assert envoy.news == [Accepted("envoy-1", now)]


def test_virtual_hosts_that_envoy_says_it_has_and_dropped_are_sent_again() -> None:
    # The stream ended before the server could say that they are no more.
    before = settled(TWO_HOSTS, WHOLE)
    before.drained()
    before.drop(ROUTES, "r:hosts")
    assert before.recorded[VIRTUAL_HOSTS].keys() == {"r:hosts/x", "r:hosts/y"}
    now = split(A, L, R, X)
    envoy = start_envoy(now, before=before)
    assert envoy.settle() == [
        "listeners: l",
        "routes: -r",
        "virtual hosts: -r:hosts/x -r:hosts/y",
        "routes: r:hosts",
        "virtual hosts: r:hosts/x",
    ]
    envoy.drained()
    envoy.settle()
    assert has_all_of(envoy, now)


def test_virtual_hosts_that_envoy_has_no_routes_for_when_it_comes_back_are_sent_again() -> None:
    # The stream ended when Envoy had just given the routes up and asked for them again.
    before = settled(TWO_HOSTS)
    before.drop(ROUTES, "r:hosts")
    before.names[ROUTES].add("r:hosts")
    envoy = start_envoy(TWO_HOSTS, before=before)
    assert envoy.settle() == ["routes: r:hosts", "virtual hosts: r:hosts/x r:hosts/y"]
    assert has_all_of(envoy, TWO_HOSTS)


def test_virtual_hosts_wait_for_the_routes_that_envoy_asks_for_later() -> None:
    client = IncrementalClient.new(TWO_HOSTS, has={**NOTHING, VIRTUAL_HOSTS: {"r:hosts/x": X, "r:hosts/gone": X}})
    assert client.subscribe(VIRTUAL_HOSTS) == []
    assert described(client.subscribe(ROUTES, "r:hosts")) == [
        "routes: r:hosts",
        "virtual hosts: r:hosts/x r:hosts/y -r:hosts/gone",
    ]


def test_routes_that_are_asked_for_again_bring_their_virtual_hosts_again() -> None:
    envoy = settled(TWO_HOSTS)
    assert described(envoy.subscribe(ROUTES, "r:hosts")) == [
        "routes: r:hosts",
        "virtual hosts: r:hosts/x r:hosts/y",
    ]


def test_routes_that_are_asked_for_again_while_virtual_hosts_are_under_way_bring_them_again() -> None:
    envoy = settled(TWO_HOSTS)
    envoy.give(split(A, L, R, X, host("r:hosts/y", "a", body="2")))
    assert described(envoy.subscribe(ROUTES, "r:hosts")) == ["routes: r:hosts"]
    assert envoy.settle() == ["virtual hosts: r:hosts/y", "routes: r:hosts", "virtual hosts: r:hosts/x r:hosts/y"]


def test_so_they_do_when_those_under_way_are_rejected() -> None:
    envoy = settled(TWO_HOSTS)
    envoy.give(split(A, L, R, X, host("r:hosts/y", "a", body="2")))
    envoy.subscribe(ROUTES, "r:hosts")
    assert described(envoy.nack(VIRTUAL_HOSTS)) == ["virtual hosts: r:hosts/x r:hosts/y"]


def test_virtual_hosts_of_routes_that_were_rejected_come_again_with_the_next_ones() -> None:
    # Envoy has acknowledged and dropped them, as it had no route configuration for them.
    envoy = start_envoy(bad="3")
    envoy.give(split(A, L, routes("r:hosts", body="3"), X))
    envoy.settle()
    corrected = split(A, L, R, X)
    envoy.give(corrected)
    assert envoy.settle() == ["listeners: l", "routes: r:hosts", "virtual hosts: r:hosts/x"]
    assert has_all_of(envoy, corrected)


def test_the_first_virtual_hosts_of_routes_that_were_taken_stay_when_other_routes_are_rejected() -> None:
    envoy = start_envoy(bad="3")
    envoy.give(split(A, L, listener("m", "s:hosts"), R, X, routes("s:hosts", body="3"), host("s:hosts/z")))
    envoy.settle()
    assert envoy.has[VIRTUAL_HOSTS] == {"r:hosts/x": X}
    assert envoy.at_work.keys() == {"l"}


def test_rejected_virtual_hosts_lead_back_to_the_previous_ones() -> None:
    envoy = settled(TWO_HOSTS, bad="3")
    envoy.give(split(A, L, R, host("r:hosts/x", "a", body="3"), host("r:hosts/z")))
    assert envoy.settle() == [
        "virtual hosts: r:hosts/x r:hosts/z -r:hosts/y",
        "virtual hosts: r:hosts/x r:hosts/y -r:hosts/z",
    ]
    assert [type(news) for news in envoy.news] == [Nack]
    assert has_all_of(envoy, TWO_HOSTS)


def test_the_first_virtual_hosts_that_are_rejected_lead_back_to_the_previous_routes() -> None:
    envoy = settled(WHOLE, bad="3")
    envoy.give(split(A, B, L, R, host("r:hosts/x", "b", body="3")))
    assert envoy.settle() == [
        "clusters: b",
        "listeners: l",
        "routes: -r",
        "routes: r:hosts",
        "virtual hosts: r:hosts/x",
        "routes: r",
        "listeners: l",
        "clusters: -b",
        "routes: -r:hosts",
    ]
    assert envoy.session.accepted is envoy.session.target
    envoy.drained()
    assert envoy.settle() == ["virtual hosts: -r:hosts/x"]
    assert has_all_of(envoy, WHOLE)


def test_the_very_first_virtual_hosts_that_are_rejected_are_not_tried_again() -> None:
    envoy = start_envoy(bad="3")
    envoy.give(split(A, L, R, host("r:hosts/x", body="3"), Y))
    envoy.settle()
    assert [type(news) for news in envoy.news] == [Nack]
    assert envoy.at_work == {}
    envoy.give(TWO_HOSTS)
    assert envoy.settle() == ["listeners: l", "virtual hosts: r:hosts/x r:hosts/y"]
    assert has_all_of(envoy, TWO_HOSTS)


def test_a_client_that_never_asks_for_virtual_hosts_is_sent_the_rest() -> None:
    client = IncrementalClient.new(TWO_HOSTS)
    for kind, names in ((CLUSTERS, ()), (LISTENERS, ()), (ROUTES, ("r:hosts",))):
        client.subscribe(kind, *names)
        client.ack_all()
    client.give(split(B, listener("l", "r:hosts", body="2"), routes("r:hosts", body="2"), host("r:hosts/x", "b")))
    # Whether the old cluster is in use is not known.
    assert client.ack_all() == ["clusters: b", "listeners: l", "routes: r:hosts"]
    client.give(snapshot(B, listener("l", "r"), routes("r", "b")))
    client.ack_all()
    client.subscribe(ROUTES, "r")
    assert client.ack_all() == ["routes: r", "clusters: -a"]
    assert isinstance(client.news[-1], Accepted)


def test_a_client_may_ask_for_virtual_hosts_by_name() -> None:
    client = IncrementalClient.new(TWO_HOSTS)
    for kind, names in (
        (CLUSTERS, ()),
        (LISTENERS, ()),
        (ROUTES, ("r:hosts",)),
        (VIRTUAL_HOSTS, ("r:hosts/x", "r:hosts/n")),
    ):
        client.subscribe(kind, *names)
        sent = client.ack_all()
    assert sent == ["virtual hosts: r:hosts/x -r:hosts/n"]
    assert client.news == [Accepted("envoy-1", TWO_HOSTS)]


@pytest.mark.parametrize("envoy", [None, (1, 39)], ids=["no Envoy", "an older one"])
def test_who_may_not_know_virtual_hosts_has_them_in_the_routes(envoy: tuple[int, int] | None) -> None:
    session = Incremental(Snapshot(WHOLE.resources, TWO_HOSTS.split))
    session.on_request(DeltaRequest(CLUSTERS.url, node=Node("envoy-1", envoy)))
    session.on_request(DeltaRequest(CLUSTERS.url, nonce="1"))
    (response, *_) = session.on_request(DeltaRequest(LISTENERS.url))
    assert isinstance(response, Response)
    assert response.resources == tuple(WHOLE.by_type[LISTENERS].values())


@pytest.mark.parametrize("only", [LISTENERS, ROUTES], ids=lambda kind: kind.name)
def test_a_service_of_one_type_has_virtual_hosts_in_their_routes(only: ResourceType) -> None:
    both = Snapshot(WHOLE.resources, TWO_HOSTS.split)
    session = Incremental(both, only)
    (response,) = session.on_request(DeltaRequest("", tuple(WHOLE.by_type[only])))
    assert isinstance(response, Response)
    assert response.resources == tuple(WHOLE.by_type[only].values())
    assert session.on_request(DeltaRequest("", nonce=response.nonce)) == [Accepted("", both)]


def test_routes_that_no_listener_uses_may_be_asked_for_in_one_piece() -> None:
    # By listeners that an Envoy has from elsewhere.
    client = IncrementalClient.new(split(A, L, R, X, routes("r", "a")))
    assert described(client.subscribe(ROUTES, "r")) == ["routes: r"]
