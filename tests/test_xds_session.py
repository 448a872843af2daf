"""What one client of the older variant is sent, and when, by calls: no sockets, no time."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from simulated import (
    NODE,
    ONE,
    StateOfTheWorldClient,
    cluster,
    connected,
    described,
    listener,
    resource,
    routes,
    snapshot,
)

from rejoinder.xds.events import Accepted, Nack, Unable
from rejoinder.xds.forms import Node
from rejoinder.xds.remember import Frozen
from rejoinder.xds.session import Output
from rejoinder.xds.snapshot import CLUSTERS, EXTENSIONS, LISTENERS, ROUTES, ResourceType, Snapshot, content_version
from rejoinder.xds.sotw import Request, StateOfTheWorld
from rejoinder.xds.stream import Response


def started(first: Snapshot = ONE) -> StateOfTheWorldClient:
    client = StateOfTheWorldClient.new()
    connected(client, first)
    return client


# ---- subscriptions


@pytest.mark.parametrize("kind", [CLUSTERS, LISTENERS], ids=lambda kind: kind.name)
def test_no_names_stand_for_all(kind: ResourceType) -> None:
    client = StateOfTheWorldClient.new(snapshot(resource(kind, "x"), resource(kind, "y")))
    assert described(client.ask(kind)) == [f"{kind.name}: x y"]


@pytest.mark.parametrize("kind", [ROUTES, EXTENSIONS], ids=lambda kind: kind.name)
def test_no_names_stand_for_none_where_there_is_no_wildcard(kind: ResourceType) -> None:
    assert StateOfTheWorldClient.new(snapshot(resource(kind, "x"))).ask(kind) == []


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        pytest.param([("*",)], ["x y"], id="a star is all"),
        pytest.param([("x",)], ["x"], id="a name is that one"),
        pytest.param([("*", "x")], ["x y"], id="a star and a name are all"),
        pytest.param([(), ("*", "x")], ["x y", "x y"], id="a new name is answered though the star has it"),
        pytest.param([("*", "x"), ("x",)], ["x y"], id="without the star nothing new is due"),
        pytest.param([("x",), ()], ["x"], id="no names after names are none"),
        pytest.param([("x",), (), ("x",)], ["x", "x"], id="a name that comes back is answered again"),
        pytest.param([("x",), ("x", "y")], ["x", "x y"], id="a further name is answered with all"),
        pytest.param([("nowhere",)], [""], id="what does not exist is not in the response"),
    ],
)
def test_clusters_are_sent_as_asked_for(requests: list[tuple[str, ...]], expected: list[str]) -> None:
    client = StateOfTheWorldClient.new(snapshot(cluster("x"), cluster("y")))
    sent: list[str] = []
    for names in requests:
        client.ask(CLUSTERS, *names)
        sent += client.ack_all()
    assert sent == [f"clusters: {names}" for names in expected]


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        pytest.param([("x",)], ["x"], id="a name is that one"),
        pytest.param([("x",), ("x", "y")], ["x", "y"], id="a further name is answered alone"),
        pytest.param([("x", "y"), ("x",)], ["x y"], id="a name that is dropped is not answered"),
        pytest.param([("x", "y"), ("x",), ("x", "y")], ["x y", "y"], id="a name that comes back is answered again"),
        pytest.param([("nowhere",)], [], id="what does not exist is not sent"),
        pytest.param([("x", "nowhere")], ["x"], id="what exists is sent"),
    ],
)
@pytest.mark.parametrize("kind", [ROUTES, EXTENSIONS], ids=lambda kind: kind.name)
def test_routes_and_extensions_are_sent_by_name(
    kind: ResourceType, requests: list[tuple[str, ...]], expected: list[str]
) -> None:
    client = StateOfTheWorldClient.new(snapshot(resource(kind, "x"), resource(kind, "y")))
    sent: list[str] = []
    for names in requests:
        client.ask(kind, *names)
        sent += client.ack_all()
    assert sent == [f"{kind.name}: {names}" for names in expected]


def test_what_comes_to_exist_is_sent_then() -> None:
    client = StateOfTheWorldClient.new(snapshot())
    client.ask(ROUTES, "r")
    assert described(client.give(snapshot(routes("r")))) == ["routes: r"]


def test_an_empty_snapshot_is_an_answer_to_a_wildcard() -> None:
    assert described(StateOfTheWorldClient.new(snapshot()).ask(CLUSTERS)) == ["clusters: "]


def test_before_the_first_snapshot_nothing_is_sent() -> None:
    client = StateOfTheWorldClient.new()
    assert client.ask(CLUSTERS) == []
    assert described(client.give(ONE)) == ["clusters: a"]


def test_a_type_that_is_not_ours_is_ignored() -> None:
    assert StateOfTheWorld(ONE).on_request(Request("type.googleapis.com/envoy.service.runtime.v3.Runtime")) == []


# ---- versions and nonces


def test_a_response_has_the_version_of_its_content() -> None:
    client = StateOfTheWorldClient.new(snapshot(routes("x"), routes("y")))
    (response,) = client.ask(ROUTES, "x")
    assert response.version == content_version(Frozen({"x": routes("x")}))
    (response,) = client.ack(ROUTES, "x", "y")
    assert response.version == content_version(Frozen({"x": routes("x"), "y": routes("y")}))


def test_a_request_with_an_old_nonce_is_ignored() -> None:
    client = started()
    client.give(snapshot(cluster("a", "2"), listener("l", "r"), routes("r", "a")))
    overtaken = Request(CLUSTERS.url, ("x",), nonce="1", error="too late")
    assert client.session.on_request(overtaken) == []
    assert client.session.on_request(Request(CLUSTERS.url)) == []
    client.ack_all()
    assert [type(news) for news in client.news] == [Accepted]


def test_an_acknowledgement_is_not_answered() -> None:
    client = started()
    assert client.ask(CLUSTERS) == []


def test_a_client_that_comes_back_with_the_same_clusters_and_listeners_is_not_sent_them_again() -> None:
    client = StateOfTheWorldClient.new(ONE)
    assert client.ask(CLUSTERS, version=ONE.versions[CLUSTERS]) == []
    assert client.ask(LISTENERS, version=ONE.versions[LISTENERS]) == []
    assert described(client.ask(ROUTES, "r", version=ONE.versions[ROUTES])) == ["routes: r"]
    client.ack_all()
    assert client.news == [Accepted("envoy-1", ONE)]


def test_a_client_that_comes_back_with_an_older_version_is_sent_the_new_one() -> None:
    assert described(StateOfTheWorldClient.new(ONE).ask(CLUSTERS, version="older")) == ["clusters: a"]


# ---- changes


def test_the_same_content_again_sends_nothing() -> None:
    client = started()
    assert client.give(snapshot(*ONE.resources)) == []
    assert client.news == []


def test_listeners_and_routes_wait_for_the_clusters() -> None:
    client = started()
    after = snapshot(cluster("b"), listener("l", "r", body="2"), routes("r", "b"))
    assert described(client.give(after)) == ["clusters: a b"]
    assert described(client.ack(CLUSTERS)) == ["listeners: l"]
    assert described(client.ack(LISTENERS)) == ["routes: r"]
    assert described(client.ack(ROUTES)) == ["clusters: b"]


def test_routes_that_a_new_listener_asks_for_are_sent_before_it_is_acknowledged() -> None:
    client = started()
    client.give(snapshot(cluster("a"), listener("l", "s"), routes("s", "a")))
    assert described(client.ask(ROUTES, "r", "s")) == ["routes: s"]
    client.ack_all()
    assert isinstance(client.news[-1], Accepted)


def test_a_snapshot_is_not_accepted_before_the_routes_of_its_listeners_are() -> None:
    client = started()
    client.give(snapshot(cluster("b"), listener("l", "s"), routes("s", "b")))
    assert client.ack_all() == ["clusters: a b", "listeners: l"]
    assert client.news == []
    client.ask(ROUTES, "s")
    assert client.ack_all() == ["routes: s", "clusters: b"]
    assert isinstance(client.news[-1], Accepted)


def test_a_newer_snapshot_in_the_middle_of_a_change_replaces_what_was_not_sent_yet() -> None:
    client = started()
    client.give(snapshot(cluster("b"), listener("l", "r", body="2"), routes("r", "b")))
    newest = snapshot(cluster("c"), listener("l", "r", body="3"), routes("r", "c"))
    assert client.give(newest) == []
    assert client.ack_all() == ["clusters: a b", "clusters: a b c", "listeners: l", "routes: r", "clusters: c"]
    assert client.news == [Accepted("envoy-1", newest)]
    assert client.has[LISTENERS] == newest.by_type[LISTENERS]


def test_a_client_with_clusters_only_is_trimmed_but_has_not_accepted_in_full() -> None:
    client = StateOfTheWorldClient.new(ONE)
    client.ask(CLUSTERS)
    client.ack_all()
    client.give(snapshot(cluster("b"), listener("l", "r"), routes("r", "b")))
    assert client.ack_all() == ["clusters: b"]
    assert client.news == []


def test_a_client_with_listeners_and_routes_only_accepts() -> None:
    client = StateOfTheWorldClient.new(ONE)
    client.ask(LISTENERS)
    client.ack_all()
    client.ask(ROUTES, "r")
    client.ack_all()
    assert client.news == [Accepted("envoy-1", ONE)]


def test_a_snapshot_without_listeners_is_accepted_without_routes() -> None:
    client = StateOfTheWorldClient.new(snapshot(cluster("a")))
    client.ask(CLUSTERS)
    client.ack_all()
    client.ask(LISTENERS)
    client.ack_all()
    assert [type(news) for news in client.news] == [Accepted]


# ---- rejection


def test_a_client_that_rejects_goes_back_to_what_it_had_in_full() -> None:
    client = started()
    bad = snapshot(cluster("b"), listener("l", "r", body="bad"), routes("r", "b"))
    client.give(bad)
    client.ack(CLUSTERS)
    client.nack(LISTENERS, "cannot bind")
    assert client.news == [Nack("envoy-1", LISTENERS, bad, "cannot bind", ONE, had=True)]
    assert client.ack_all() == ["listeners: l", "clusters: a"]
    assert client.has[CLUSTERS] == ONE.by_type[CLUSTERS]
    assert client.has[LISTENERS] == ONE.by_type[LISTENERS]
    assert client.session.target is client.session.accepted is ONE


def test_going_back_keeps_the_clusters_of_routes_that_were_replaced() -> None:
    client = started()
    client.give(snapshot(cluster("b"), cluster("c"), listener("l", "r"), routes("r", "b"), routes("s", "c")))
    client.ack(CLUSTERS)
    assert described(client.ack(ROUTES, "r", "s")) == ["routes: s"]
    client.nack(ROUTES)
    assert client.ack_all() == ["routes: r", "clusters: a"]


def test_what_was_rejected_is_tried_again_if_it_was_made_anew() -> None:
    client = started()
    bad = snapshot(cluster("a"), listener("l", "r", body="bad"), routes("r", "a"))
    client.give(bad)
    client.nack(LISTENERS)
    client.ack_all()
    client.give(snapshot(*bad.resources))
    assert client.ack_all() == ["listeners: l"]
    assert client.news[-1] == Accepted("envoy-1", bad)


def test_a_rejection_of_what_is_already_replaced_leads_on_to_the_newest() -> None:
    client = started()
    bad = snapshot(cluster("a"), listener("l", "r", body="bad"), routes("r", "a"))
    good = snapshot(cluster("a"), listener("l", "r", body="good"), routes("r", "a"))
    client.give(bad)
    client.give(good)
    client.nack(LISTENERS)
    client.ack_all()
    assert client.news == [Nack("envoy-1", LISTENERS, bad, "no"), Accepted("envoy-1", good)]


# --- clients that cannot use the module ---

FILTER = "rejoinder.rules"


def with_module(body: str) -> Snapshot:
    instead = snapshot(resource(EXTENSIONS, FILTER, body=f"ext_proc {body}"))
    return Snapshot((resource(EXTENSIONS, FILTER, body=f"module {body}"),), without_module=instead)


@pytest.mark.parametrize(
    ("words", "lasts"),
    [
        pytest.param("Failed to load dynamic module: no such file", True, id="the file is missing"),
        pytest.param("Failed to initialize dynamic module", False, id="this program is none for it"),
    ],
)
def test_a_client_that_cannot_use_the_module_gets_ext_proc(words: str, lasts: bool) -> None:
    session = StateOfTheWorld(with_module("1"))

    def ask(nonce: str = "", error: str | None = None) -> list[Output]:
        return session.on_request(Request(EXTENSIONS.url, (FILTER,), nonce=nonce, error=error, node=NODE))

    def bodies(outputs: Iterable[Output]) -> list[bytes]:
        return [resource.body for output in outputs if isinstance(output, Response) for resource in output.resources]

    (first,) = ask()
    assert isinstance(first, Response)
    refused = ask(first.nonce, words)
    assert [output.message for output in refused if isinstance(output, Unable)] == [words]
    assert not any(isinstance(output, Nack) for output in refused)
    assert bodies(refused) == [b"ext_proc 1"]
    (second,) = [output for output in refused if isinstance(output, Response)]
    assert [type(output) for output in ask(second.nonce)] == [Accepted]
    assert bodies(session.on_snapshot(with_module("2"))) == [b"ext_proc 2" if lasts else b"module 2"]


def test_a_client_that_is_too_old_for_the_module_gets_ext_proc_at_once() -> None:
    for version, expected in (((1, 37), b"ext_proc 1"), ((1, 38), b"module 1"), (None, b"module 1")):
        session = StateOfTheWorld(with_module("1"))
        (response,) = session.on_request(Request(EXTENSIONS.url, (FILTER,), node=Node("envoy-1", version)))
        assert isinstance(response, Response)
        assert [resource.body for resource in response.resources] == [expected]
