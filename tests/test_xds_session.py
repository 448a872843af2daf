"""What one client is sent, and when, by calls: no sockets, no time.

`Client` stands for the other end of the wire. It checks the protocol with every response, whatever the test is about,
and in `settle` it behaves as Envoy does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rejoinder.xds.session import Accepted, Nack, Output, Unable
from rejoinder.xds.snapshot import (
    CLUSTERS,
    ENDPOINTS,
    EXTENSIONS,
    LISTENERS,
    RESOURCE_TYPES,
    ROUTES,
    Resource,
    ResourceType,
    Snapshot,
    content_version,
)
from rejoinder.xds.sotw import Request, StateOfTheWorld
from rejoinder.xds.stream import Response


def resource(kind: ResourceType, name: str, *references: tuple[ResourceType, str], body: str = "1") -> Resource:
    return Resource(kind, name, body.encode(), frozenset(references))


def cluster(name: str, body: str = "1", *, eds: bool = False) -> Resource:
    return resource(CLUSTERS, name, *([(ENDPOINTS, name)] if eds else []), body=f"{body} {eds=}")


def endpoints(name: str, body: str = "1") -> Resource:
    return resource(ENDPOINTS, name, body=body)


def listener(name: str, *routes: str, body: str = "1") -> Resource:
    return resource(LISTENERS, name, *((ROUTES, route) for route in routes), body=body + ",".join(routes))


def routes(name: str, *clusters: str, body: str = "1") -> Resource:
    return resource(ROUTES, name, *((CLUSTERS, of) for of in clusters), body=body + ",".join(clusters))


def snapshot(*resources: Resource) -> Snapshot:
    made = Snapshot(resources)
    assert made.check() == ()
    return made


class Client:
    """A client that holds a session to the protocol."""

    def __init__(self, snapshot: Snapshot | None = None, proven: Mapping[ResourceType, Snapshot] | None = None) -> None:
        self.session = StateOfTheWorld(snapshot, proven=proven or {})
        self.news: list[Accepted | Nack | Unable] = []
        self.unanswered: dict[ResourceType, Response] = {}
        self.names: dict[ResourceType, tuple[str, ...]] = {}
        self.has: dict[ResourceType, dict[str, Resource]] = {kind: {} for kind in RESOURCE_TYPES}
        self._nonces: dict[ResourceType, str] = {}
        self._versions: dict[ResourceType, str] = {}
        self._last_nonce = 0

    def subscribe(self, kind: ResourceType, *names: str, version: str = "") -> list[Response]:
        """Send a request that answers nothing: the first one, or one with other names."""
        assert kind not in self.unanswered, "answer it first"
        return self._send(kind, names, version=version or self._versions.get(kind, ""))

    def ack(self, kind: ResourceType, *names: str) -> list[Response]:
        """Accept the response under way; with names: and ask for these from now on."""
        response = self.unanswered.pop(kind)
        received = {resource.name: resource for resource in response.resources}
        self.has[kind] = received if kind.whole else {**self.has[kind], **received}
        self._versions[kind] = response.version
        return self._send(kind, names or self.names[kind], version=response.version)

    def nack(self, kind: ResourceType, error: str = "no") -> list[Response]:
        del self.unanswered[kind]
        return self._send(kind, self.names[kind], version=self._versions.get(kind, ""), error=error)

    def give(self, snapshot: Snapshot) -> list[Response]:
        return self.receive(self.session.on_snapshot(snapshot))

    def ack_all(self) -> list[str]:
        """Accept until nothing more comes, oldest first; give the responses as `describe` does."""
        log = []
        while self.unanswered:
            kind = min(self.unanswered, key=lambda kind: int(self.unanswered[kind].nonce))
            log.append(describe(self.unanswered[kind]))
            self.ack(kind)
        return log

    def receive(self, outputs: Iterable[Output]) -> list[Response]:
        responses = []
        for output in outputs:
            if not isinstance(output, Response):
                self.news.append(output)
                continue
            assert output.type in self.names, "not asked for"
            assert output.type not in self.unanswered, "there is one under way already"
            assert int(output.nonce) > self._last_nonce
            assert output.version
            assert all(resource.type is output.type for resource in output.resources)
            assert len({resource.name for resource in output.resources}) == len(output.resources)
            assert output.resources or output.type.whole, "says nothing"
            self._last_nonce = int(output.nonce)
            self._nonces[output.type] = output.nonce
            self.unanswered[output.type] = output
            responses.append(output)
        return responses

    def _send(
        self, kind: ResourceType, names: tuple[str, ...], version: str, error: str | None = None
    ) -> list[Response]:
        self.names[kind] = names
        request = Request(kind.url, names, version, self._nonces.get(kind, ""), error, node="envoy-1")
        return self.receive(self.session.on_request(request))


def describe(response: Response) -> str:
    return f"{response.type.name}: {' '.join(sorted(resource.name for resource in response.resources))}"


def described(responses: Iterable[Response]) -> list[str]:
    return [describe(response) for response in responses]


class Envoy(Client):
    """A client that asks and answers in the order in which Envoy does. It rejects what has a body of `bad`."""

    def __init__(self, snapshot: Snapshot | None = None, bad: str | None = None) -> None:
        self._bad = bad
        self._cold: set[str] = set()
        """The clusters that wait for endpoints. Until there are none, Envoy does not acknowledge the clusters."""
        super().__init__(snapshot)
        self.subscribe(CLUSTERS)

    def receive(self, outputs: Iterable[Output]) -> list[Response]:
        responses = super().receive(outputs)
        for response in responses:
            if response.type is CLUSTERS:
                changed = [of for of in response.resources if self.has[CLUSTERS].get(of.name) != of]
                self._cold = set(named(ENDPOINTS, changed))
        return responses

    def step(self) -> bool:
        """Ask for something, or answer one response; False: there is nothing to do."""
        clusters = self.unanswered.get(CLUSTERS)
        if clusters and self._ask(ENDPOINTS, named(ENDPOINTS, clusters.resources)):
            return True
        if self._ask(ROUTES, named(ROUTES, self.has[LISTENERS].values())):
            return True
        for response in sorted(self.unanswered.values(), key=lambda response: int(response.nonce)):
            if response is clusters and self._cold:
                continue
            if response.type is ENDPOINTS and not (clusters and int(response.nonce) < int(clusters.nonce)):
                # Endpoints that Envoy rejects warm a cluster too: it goes on without.
                self._cold -= {endpoints.name for endpoints in response.resources}
            if self._bad and any(resource.body.decode().startswith(self._bad) for resource in response.resources):
                self.nack(response.type)
            else:
                self.ack(response.type)
            if response is clusters and LISTENERS not in self.names:
                self.subscribe(LISTENERS)
            if self.session.accepted:
                self.no_route_leads_nowhere()
            return True
        # Endpoints that were removed while Envoy asked for them never come. It waits 15 s for them, then goes on.
        timed_out, self._cold = self._cold, set()
        return bool(timed_out)

    def settle(self) -> None:
        for _ in range(200):
            if not self.step():
                return
        raise AssertionError("it goes on and on")

    def _ask(self, kind: ResourceType, names: set[str]) -> bool:
        if kind in self.unanswered or names == set(self.names.get(kind, ())):
            return False
        self.has[kind] = {name: resource for name, resource in self.has[kind].items() if name in names}
        self.subscribe(kind, *sorted(names))
        return True

    def no_route_leads_nowhere(self) -> None:
        for route in self.has[ROUTES].values():
            for _, name in route.references:
                assert name in self.has[CLUSTERS], f"{route.name} leads to {name}, which Envoy does not have"


def named(kind: ResourceType, parents: Iterable[Resource]) -> set[str]:
    return {name for parent in parents for of, name in parent.references if of is kind}


ONE = snapshot(cluster("a"), listener("l", "r"), routes("r", "a"))


def connected(first: Snapshot = ONE) -> Client:
    """A client that has accepted a snapshot in full."""
    client = Client(first)
    client.subscribe(CLUSTERS)
    client.ack_all()
    client.subscribe(LISTENERS)
    client.ack_all()
    for kind in (ENDPOINTS, ROUTES):
        client.subscribe(kind, *first.by_type[kind])
        client.ack_all()
    assert client.news == [Accepted("envoy-1", first)]
    client.news.clear()
    return client


# ---- subscriptions


@pytest.mark.parametrize("kind", [CLUSTERS, LISTENERS], ids=lambda kind: kind.name)
def test_no_names_stand_for_all(kind: ResourceType) -> None:
    client = Client(snapshot(resource(kind, "x"), resource(kind, "y")))
    assert described(client.subscribe(kind)) == [f"{kind.name}: x y"]


@pytest.mark.parametrize("kind", [ENDPOINTS, ROUTES], ids=lambda kind: kind.name)
def test_no_names_stand_for_none_where_there_is_no_wildcard(kind: ResourceType) -> None:
    assert Client(snapshot(resource(kind, "x"))).subscribe(kind) == []


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
    client = Client(snapshot(cluster("x"), cluster("y")))
    sent: list[str] = []
    for names in requests:
        client.subscribe(CLUSTERS, *names)
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
@pytest.mark.parametrize("kind", [ENDPOINTS, ROUTES], ids=lambda kind: kind.name)
def test_routes_and_endpoints_are_sent_by_name(
    kind: ResourceType, requests: list[tuple[str, ...]], expected: list[str]
) -> None:
    client = Client(snapshot(resource(kind, "x"), resource(kind, "y")))
    sent: list[str] = []
    for names in requests:
        client.subscribe(kind, *names)
        sent += client.ack_all()
    assert sent == [f"{kind.name}: {names}" for names in expected]


def test_what_comes_to_exist_is_sent_then() -> None:
    client = Client(snapshot())
    client.subscribe(ROUTES, "r")
    assert described(client.give(snapshot(routes("r")))) == ["routes: r"]


def test_an_empty_snapshot_is_an_answer_to_a_wildcard() -> None:
    assert described(Client(snapshot()).subscribe(CLUSTERS)) == ["clusters: "]


def test_before_the_first_snapshot_nothing_is_sent() -> None:
    client = Client()
    assert client.subscribe(CLUSTERS) == []
    assert described(client.give(ONE)) == ["clusters: a"]


def test_a_type_that_is_not_ours_is_ignored() -> None:
    assert StateOfTheWorld(ONE).on_request(Request("type.googleapis.com/envoy.service.runtime.v3.Runtime")) == []


# ---- versions and nonces


def test_a_response_has_the_version_of_its_content() -> None:
    client = Client(snapshot(routes("x"), routes("y")))
    (response,) = client.subscribe(ROUTES, "x")
    assert response.version == content_version({"x": routes("x")})
    (response,) = client.ack(ROUTES, "x", "y")
    assert response.version == content_version({"x": routes("x"), "y": routes("y")})


def test_a_request_with_an_old_nonce_is_ignored() -> None:
    client = connected()
    client.give(snapshot(cluster("a", "2"), listener("l", "r"), routes("r", "a")))
    overtaken = Request(CLUSTERS.url, ("x",), nonce="1", error="too late")
    assert client.session.on_request(overtaken) == []
    assert client.session.on_request(Request(CLUSTERS.url)) == []
    client.ack_all()
    assert [type(news) for news in client.news] == [Accepted]


def test_an_acknowledgement_is_not_answered() -> None:
    client = connected()
    assert client.subscribe(CLUSTERS) == []


def test_a_client_that_comes_back_with_the_same_clusters_and_listeners_is_not_sent_them_again() -> None:
    client = Client(ONE)
    assert client.subscribe(CLUSTERS, version=ONE.versions[CLUSTERS]) == []
    assert client.subscribe(LISTENERS, version=ONE.versions[LISTENERS]) == []
    assert described(client.subscribe(ROUTES, "r", version=ONE.versions[ROUTES])) == ["routes: r"]
    client.ack_all()
    assert client.news == [Accepted("envoy-1", ONE)]


def test_a_client_that_comes_back_with_an_older_version_is_sent_the_new_one() -> None:
    assert described(Client(ONE).subscribe(CLUSTERS, version="older")) == ["clusters: a"]


# ---- changes


def test_the_same_content_again_sends_nothing() -> None:
    client = connected()
    assert client.give(snapshot(*ONE.resources)) == []
    assert client.news == []


CHANGES = [
    pytest.param(
        snapshot(cluster("a"), listener("l", "r"), routes("r", "a", body="2")),
        ["routes: r"],
        id="routes alone",
    ),
    pytest.param(
        snapshot(cluster("b"), listener("l", "r"), routes("r", "b")),
        ["clusters: a b", "routes: r", "clusters: b"],
        id="another cluster: both while routes change over",
    ),
    pytest.param(
        snapshot(cluster("a", "2"), listener("l", "r", body="2"), routes("r", "a", body="2")),
        ["clusters: a", "listeners: l", "routes: r"],
        id="everything: in order",
    ),
    pytest.param(
        snapshot(cluster("a"), cluster("b"), listener("l", "r"), routes("r", "a")),
        ["clusters: a b"],
        id="one more cluster",
    ),
    pytest.param(
        snapshot(),
        ["listeners: ", "clusters: "],
        id="nothing left: the cluster goes last",
    ),
    pytest.param(
        snapshot(cluster("a"), listener("l", "r"), listener("m"), routes("r", "a")),
        ["listeners: l m"],
        id="one more listener",
    ),
]


@pytest.mark.parametrize(("after", "sent"), CHANGES)
def test_a_change_goes_out_make_before_break(after: Snapshot, sent: list[str]) -> None:
    client = connected()
    client.give(after)
    assert client.ack_all() == sent
    assert client.news == [Accepted("envoy-1", after)]


def test_listeners_and_routes_wait_for_the_clusters() -> None:
    client = connected()
    after = snapshot(cluster("b"), listener("l", "r", body="2"), routes("r", "b"))
    assert described(client.give(after)) == ["clusters: a b"]
    assert described(client.ack(CLUSTERS)) == ["listeners: l"]
    assert described(client.ack(LISTENERS)) == ["routes: r"]
    assert described(client.ack(ROUTES)) == ["clusters: b"]


def test_routes_that_a_new_listener_asks_for_are_sent_before_it_is_acknowledged() -> None:
    client = connected()
    client.give(snapshot(cluster("a"), listener("l", "s"), routes("s", "a")))
    assert described(client.subscribe(ROUTES, "r", "s")) == ["routes: s"]
    client.ack_all()
    assert isinstance(client.news[-1], Accepted)


def test_a_snapshot_is_not_accepted_before_the_routes_of_its_listeners_are() -> None:
    client = connected()
    client.give(snapshot(cluster("b"), listener("l", "s"), routes("s", "b")))
    assert client.ack_all() == ["clusters: a b", "listeners: l"]
    assert client.news == []
    client.subscribe(ROUTES, "s")
    assert client.ack_all() == ["routes: s", "clusters: b"]
    assert isinstance(client.news[-1], Accepted)


def test_endpoints_follow_a_changed_cluster_without_waiting_even_if_they_have_not_changed() -> None:
    client = connected(snapshot(cluster("a", eds=True), endpoints("a"), listener("l", "r"), routes("r", "a")))
    after = snapshot(cluster("a", "2", eds=True), endpoints("a"), listener("l", "r"), routes("r", "a"))
    assert described(client.give(after)) == ["clusters: a", "endpoints: a"]


def test_endpoints_alone_are_sent_alone() -> None:
    client = connected(snapshot(cluster("a", eds=True), endpoints("a")))
    after = snapshot(cluster("a", eds=True), endpoints("a", "2"))
    assert described(client.give(after)) == ["endpoints: a"]


def test_a_newer_snapshot_in_the_middle_of_a_change_replaces_what_was_not_sent_yet() -> None:
    client = connected()
    client.give(snapshot(cluster("b"), listener("l", "r", body="2"), routes("r", "b")))
    newest = snapshot(cluster("c"), listener("l", "r", body="3"), routes("r", "c"))
    assert client.give(newest) == []
    assert client.ack_all() == ["clusters: a b", "clusters: a b c", "listeners: l", "routes: r", "clusters: c"]
    assert client.news == [Accepted("envoy-1", newest)]
    assert client.has[LISTENERS] == newest.by_type[LISTENERS]


def test_a_client_with_clusters_only_is_trimmed_but_has_not_accepted_in_full() -> None:
    client = Client(ONE)
    client.subscribe(CLUSTERS)
    client.ack_all()
    client.give(snapshot(cluster("b"), listener("l", "r"), routes("r", "b")))
    assert client.ack_all() == ["clusters: b"]
    assert client.news == []


def test_a_client_with_listeners_and_routes_only_accepts() -> None:
    client = Client(ONE)
    client.subscribe(LISTENERS)
    client.ack_all()
    client.subscribe(ROUTES, "r")
    client.ack_all()
    assert client.news == [Accepted("envoy-1", ONE)]


def test_a_snapshot_without_listeners_is_accepted_without_routes() -> None:
    client = Client(snapshot(cluster("a")))
    client.subscribe(CLUSTERS)
    client.ack_all()
    client.subscribe(LISTENERS)
    client.ack_all()
    assert [type(news) for news in client.news] == [Accepted]


# ---- rejection


def test_a_client_that_rejects_goes_back_to_what_it_had_in_full() -> None:
    client = connected()
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
    client = connected()
    client.give(snapshot(cluster("b"), cluster("c"), listener("l", "r"), routes("r", "b"), routes("s", "c")))
    client.ack(CLUSTERS)
    assert described(client.ack(ROUTES, "r", "s")) == ["routes: s"]
    client.nack(ROUTES)
    assert client.ack_all() == ["routes: r", "clusters: a"]


@pytest.mark.parametrize("kind", [CLUSTERS, ENDPOINTS, LISTENERS, ROUTES], ids=lambda kind: kind.name)
def test_what_was_rejected_is_not_tried_again(kind: ResourceType) -> None:
    before = snapshot(cluster("a", eds=True), endpoints("a"), listener("l", "r"), routes("r", "a"))
    bad = snapshot(
        cluster("a", "2", eds=True), endpoints("a", "2"), listener("l", "r", body="2"), routes("r", "a", body="2")
    )
    client = connected(before)
    client.give(bad)
    while kind not in client.unanswered:
        client.ack(next(iter(client.unanswered)))
    client.nack(kind)
    client.ack_all()
    assert client.has == before.by_type
    assert client.give(bad) == []
    assert client.ack_all() == []
    assert len(client.news) == 1


def test_what_was_rejected_is_tried_again_if_it_was_made_anew() -> None:
    client = connected()
    bad = snapshot(cluster("a"), listener("l", "r", body="bad"), routes("r", "a"))
    client.give(bad)
    client.nack(LISTENERS)
    client.ack_all()
    client.give(snapshot(*bad.resources))
    assert client.ack_all() == ["listeners: l"]
    assert client.news[-1] == Accepted("envoy-1", bad)


def test_a_first_snapshot_that_is_rejected_leaves_nothing_to_go_back_to() -> None:
    client = Client(ONE)
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


def test_a_rejection_of_what_is_already_replaced_leads_on_to_the_newest() -> None:
    client = connected()
    bad = snapshot(cluster("a"), listener("l", "r", body="bad"), routes("r", "a"))
    good = snapshot(cluster("a"), listener("l", "r", body="good"), routes("r", "a"))
    client.give(bad)
    client.give(good)
    client.nack(LISTENERS)
    client.ack_all()
    assert client.news == [Nack("envoy-1", LISTENERS, bad, "no"), Accepted("envoy-1", good)]


def test_a_client_that_rejects_what_it_goes_back_to_is_left_alone() -> None:
    client = connected()
    client.give(snapshot(cluster("a"), listener("l", "r", body="bad"), routes("r", "a")))
    client.nack(LISTENERS)
    assert client.nack(LISTENERS) == []
    assert client.ack_all() == []
    good = snapshot(cluster("a"), listener("l", "r", body="good"), routes("r", "a"))
    client.give(good)
    client.ack_all()
    assert client.news[-1] == Accepted("envoy-1", good)


# ---- any sequence of changes, at any pace


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    bodies = st.sampled_from("123")
    of_clusters = draw(st.dictionaries(st.sampled_from("abc"), st.tuples(bodies, st.booleans()), min_size=1))
    resources = [cluster(name, body, eds=eds) for name, (body, eds) in of_clusters.items()]
    resources += [endpoints(name, draw(bodies)) for name, (_, eds) in of_clusters.items() if eds]
    of_routes = draw(
        st.dictionaries(st.sampled_from("rst"), st.tuples(bodies, st.sets(st.sampled_from(sorted(of_clusters)))))
    )
    resources += [routes(name, *sorted(clusters), body=body) for name, (body, clusters) in of_routes.items()]
    if of_routes:
        some_routes = st.sets(st.sampled_from(sorted(of_routes)))
        of_listeners = draw(st.dictionaries(st.sampled_from("lm"), st.tuples(bodies, some_routes)))
        resources += [listener(name, *sorted(names), body=body) for name, (body, names) in of_listeners.items()]
    return snapshot(*resources)


CHANGING = st.lists(st.tuples(snapshots(), st.integers(0, 12)), min_size=1, max_size=5)
"""Snapshots, and how many steps Envoy gets on before the next one comes."""


def drive(envoy: Envoy, changes: list[tuple[Snapshot, int]]) -> Snapshot:
    """Give the snapshots one after the other, and the last one all the time it needs."""
    for each, steps in changes:
        envoy.give(each)
        for _ in range(steps):
            envoy.step()
    envoy.settle()
    assert not envoy.unanswered
    return changes[-1][0]


def has_all_of(envoy: Envoy, wanted: Snapshot) -> bool:
    in_use = {
        kind: {n: r for n, r in wanted.by_type[kind].items() if n in envoy.names.get(kind, ())} for kind in _NAMED
    }
    return all(envoy.has[kind] == wanted.by_type[kind] for kind in (CLUSTERS, LISTENERS)) and all(
        envoy.has[kind].items() >= in_use[kind].items() for kind in _NAMED
    )


_NAMED = (ENDPOINTS, ROUTES)
FEW = settings(max_examples=100, deadline=None, derandomize=True)


@FEW
@given(CHANGING)
def test_whatever_happens_on_the_way_envoy_ends_with_the_newest(changes: list[tuple[Snapshot, int]]) -> None:
    envoy = Envoy()
    newest = drive(envoy, changes)
    assert has_all_of(envoy, newest)
    assert envoy.news[-1:] == [Accepted("envoy-1", newest)]


@FEW
@given(CHANGING)
def test_an_envoy_that_rejects_ends_with_the_newest_or_the_last_that_it_had(
    changes: list[tuple[Snapshot, int]],
) -> None:
    envoy = Envoy(bad="3")
    newest = drive(envoy, changes)
    if not any(resource.body.startswith(b"3") for resource in newest.resources):
        assert has_all_of(envoy, newest)
        assert envoy.session.accepted == newest
    elif envoy.session.accepted:
        assert has_all_of(envoy, envoy.session.accepted)


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
        return session.on_request(Request(EXTENSIONS.url, (FILTER,), nonce=nonce, error=error, node="envoy-1"))

    def bodies(outputs: Iterable[Output]) -> list[bytes]:
        return [each.body for output in outputs if isinstance(output, Response) for each in output.resources]

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
        (response,) = session.on_request(Request(EXTENSIONS.url, (FILTER,), node="envoy-1", envoy=version))
        assert isinstance(response, Response)
        assert [each.body for each in response.resources] == [expected]
