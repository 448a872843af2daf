"""What one client of the incremental protocol is sent, and when, by calls: no sockets, no time.

`Client` stands for the other end of the wire and checks the protocol with every response; `Envoy` asks and answers in
the order in which Envoy does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given
from test_xds_session import CHANGING, FEW, ONE, cluster, endpoints, listener, named, resource, routes, snapshot

from rejoinder.xds.delta import DeltaRequest, Incremental
from rejoinder.xds.session import Accepted, Nack, Output, Response
from rejoinder.xds.snapshot import (
    CLUSTERS,
    ENDPOINTS,
    LISTENERS,
    RESOURCE_TYPES,
    ROUTES,
    Resource,
    ResourceType,
    Snapshot,
)

Held = dict[ResourceType, dict[str, Resource]]


class Client:
    """A client that holds a session to the protocol.

    Args:
        has: what it has from an earlier stream.
    """

    def __init__(self, snapshot: Snapshot | None = None, has: Held | None = None) -> None:
        self.session = Incremental(snapshot)
        self.has: Held = has or {kind: {} for kind in RESOURCE_TYPES}
        self.news: list[Accepted | Nack] = []
        self.unanswered: dict[ResourceType, Response] = {}
        self.names: dict[ResourceType, set[str]] = {}
        """What was asked for and not given up; no names at first: everything."""
        self._last_nonce = 0

    def subscribe(self, kind: ResourceType, *names: str) -> list[Response]:
        first = kind not in self.names
        initial = {name: each.version for name, each in self.has[kind].items()} if first else {}
        self.names.setdefault(kind, set() if names else {"*"}).update(names)
        return self._send(DeltaRequest(kind.url, subscribe=names, initial=initial, node="envoy-1"))

    def unsubscribe(self, kind: ResourceType, *names: str) -> list[Response]:
        self.names[kind] -= set(names)
        if "*" not in self.names[kind]:
            self.has[kind] = {name: each for name, each in self.has[kind].items() if name in self.names[kind]}
        return self._send(DeltaRequest(kind.url, unsubscribe=names))

    def ack(self, kind: ResourceType) -> list[Response]:
        response = self.unanswered.pop(kind)
        kept = {name: each for name, each in self.has[kind].items() if name not in response.removed}
        self.has[kind] = {**kept, **{each.name: each for each in response.resources}}
        return self._send(DeltaRequest(kind.url, nonce=response.nonce))

    def nack(self, kind: ResourceType, error: str = "no") -> list[Response]:
        return self._send(DeltaRequest(kind.url, nonce=self.unanswered.pop(kind).nonce, error=error))

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
            kind = output.type
            assert kind not in self.unanswered, "there is one under way already"
            assert int(output.nonce) > self._last_nonce
            said = [*(each.name for each in output.resources), *output.removed]
            assert len(set(said)) == len(said), "one name twice"
            assert "*" in self.names[kind] or self.names[kind].issuperset(said), "not asked for"
            self._last_nonce = int(output.nonce)
            self.unanswered[kind] = output
            responses.append(output)
        return responses

    def _send(self, request: DeltaRequest) -> list[Response]:
        return self.receive(self.session.on_request(request))


def describe(response: Response) -> str:
    """`clusters: a b -c`: a and b are sent, c is removed."""
    said = [*sorted(each.name for each in response.resources), *(f"-{name}" for name in sorted(response.removed))]
    return f"{response.type.name}: {' '.join(said)}"


def described(responses: Iterable[Response]) -> list[str]:
    return [describe(response) for response in responses]


def connected(first: Snapshot = ONE, has: Held | None = None) -> Client:
    """A client that has accepted a snapshot in full."""
    client = Client(first, has)
    for kind in (CLUSTERS, LISTENERS):
        client.subscribe(kind)
        client.ack_all()
    for kind in (ENDPOINTS, ROUTES):
        if first.by_type[kind]:
            client.subscribe(kind, *first.by_type[kind])
            client.ack_all()
    assert client.news == [Accepted("envoy-1", first)]
    client.news.clear()
    return client


class Envoy(Client):
    """A client that asks and answers in the order in which Envoy does. It rejects what has a body of `bad`."""

    def __init__(self, snapshot: Snapshot | None = None, bad: str | None = None, has: Held | None = None) -> None:
        super().__init__(snapshot, has)
        self._bad = bad
        self._cold: set[str] = set()
        """The clusters that wait for endpoints. Until there are none, Envoy does not acknowledge the clusters."""
        self.subscribe(CLUSTERS)
        for kind in (ENDPOINTS, LISTENERS, ROUTES):  # with another stream behind it, it asks for all at once
            if self.has[kind]:
                self.subscribe(kind, *(() if kind.whole else self.has[kind]))

    def receive(self, outputs: Iterable[Output]) -> list[Response]:
        responses = super().receive(outputs)
        for response in responses:
            if response.type is CLUSTERS:
                self._cold = named(ENDPOINTS, response.resources)
        return responses

    def step(self) -> bool:
        """Ask for something, or answer one response; False: there is nothing to do."""
        clusters = self.unanswered.get(CLUSTERS)
        coming = clusters.resources if clusters else ()
        if self._ask(ENDPOINTS, named(ENDPOINTS, [*self.has[CLUSTERS].values(), *coming])):
            return True
        if self._ask(ROUTES, named(ROUTES, self.has[LISTENERS].values())):
            return True
        for response in sorted(self.unanswered.values(), key=lambda response: int(response.nonce)):
            if response is clusters and self._cold:
                continue
            if response.type is ENDPOINTS and not (clusters and int(response.nonce) < int(clusters.nonce)):
                self._cold -= response.names
            if self._bad and any(each.body.decode().startswith(self._bad) for each in response.resources):
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
        if not timed_out and LISTENERS not in self.names:
            self.subscribe(LISTENERS)  # nothing was sent: it had all clusters already
            return True
        return bool(timed_out)

    def settle(self) -> None:
        for _ in range(200):
            if not self.step():
                return
        raise AssertionError("it goes on and on")

    def _ask(self, kind: ResourceType, names: set[str]) -> bool:
        # In both directions it is the difference that counts. Envoy does not wait for what is under way.
        before = self.names.get(kind, set())
        if kind in self.unanswered or names == before:
            return False
        if before - names:
            self.unsubscribe(kind, *sorted(before - names))
        else:
            self.subscribe(kind, *sorted(names - before))
        return True

    def no_route_leads_nowhere(self) -> None:
        for route in self.has[ROUTES].values():
            for _, name in route.references:
                assert name in self.has[CLUSTERS], f"{route.name} leads to {name}, which Envoy does not have"


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
            [("+", ("*", "x")), ("-", ("*",)), ("+", ("y",))], ["x y", "y"], id="without the star, names stay"
        ),
        pytest.param([("+", ("nowhere",))], ["-nowhere"], id="what does not exist is removed"),
        pytest.param([("+", ("x", "nowhere"))], ["x -nowhere"], id="in the same response"),
        pytest.param([("+", ("nowhere",)), ("+", ("nowhere",))], ["-nowhere"] * 2, id="as often as it is asked for"),
    ],
)
def test_clusters_are_sent_as_asked_for(steps: list[Step], expected: list[str]) -> None:
    client = Client(snapshot(cluster("x"), cluster("y")))
    sent: list[str] = []
    for sign, names in steps:
        (client.subscribe if sign == "+" else client.unsubscribe)(CLUSTERS, *names)
        sent += client.ack_all()
    assert sent == [f"clusters: {names}" for names in expected]


@pytest.mark.parametrize("kind", [ENDPOINTS, ROUTES], ids=lambda kind: kind.name)
@pytest.mark.parametrize("names", [(), ("*",)], ids=["no names", "a star"])
def test_there_is_no_wildcard_for_what_is_asked_for_by_name(kind: ResourceType, names: tuple[str, ...]) -> None:
    client = Client(snapshot(resource(kind, "x")))
    assert client.subscribe(kind, *names) == []


def test_a_name_that_does_not_exist_is_said_to_be_missing_once() -> None:
    client = Client(snapshot())
    assert described(client.subscribe(ROUTES, "r")) == ["routes: -r"]
    client.ack_all()
    assert client.give(snapshot(cluster("a"))) == []


def test_what_comes_to_exist_is_sent_then_and_removed_when_it_goes() -> None:
    client = Client(snapshot())
    client.subscribe(ROUTES, "r")
    client.ack_all()
    client.give(snapshot(routes("r")))
    assert client.ack_all() == ["routes: r"]
    client.give(snapshot())
    assert client.ack_all() == ["routes: -r"]


def test_an_empty_snapshot_is_an_answer_to_a_wildcard() -> None:
    assert described(Client(snapshot()).subscribe(CLUSTERS)) == ["clusters: "]


def test_names_count_while_a_response_is_under_way() -> None:
    client = Client(snapshot(routes("x"), routes("y"), routes("z")))
    client.subscribe(ROUTES, "x", "y")
    assert client.subscribe(ROUTES, "z") == []
    assert client.unsubscribe(ROUTES, "y") == []
    assert client.ack_all() == ["routes: x y", "routes: z"]


def test_an_answer_to_an_old_response_is_none() -> None:
    client = connected()
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
    client = Client(ONE, held(ONE))
    assert client.subscribe(CLUSTERS) + client.subscribe(LISTENERS) + client.subscribe(ROUTES, "r") == []
    assert client.news == [Accepted("envoy-1", ONE)]


def test_a_client_that_comes_back_is_sent_what_has_changed_since() -> None:
    before = snapshot(cluster("a"), cluster("b"), cluster("gone"), listener("l", "r"), routes("r", "a"))
    now = snapshot(cluster("a"), cluster("b", "2"), cluster("new"), listener("l", "r"), routes("r", "b"))
    client = Client(now, held(before))
    client.subscribe(CLUSTERS)
    assert client.ack_all() == ["clusters: b new -gone"]
    client.subscribe(LISTENERS)
    client.subscribe(ROUTES, "r")
    assert client.ack_all() == ["routes: r"]
    assert client.has == held(now)


def test_a_client_that_comes_back_with_a_name_that_is_no_more_is_told_so() -> None:
    client = Client(snapshot(), held(snapshot(routes("r"))))
    client.subscribe(ROUTES, "r")
    assert client.ack_all() == ["routes: -r"]


# ---- changes

CHANGES = [
    pytest.param(
        snapshot(cluster("a"), listener("l", "r"), routes("r", "a", body="2")),
        ["routes: r"],
        id="routes alone",
    ),
    pytest.param(
        snapshot(cluster("b"), listener("l", "r"), routes("r", "b")),
        ["clusters: b", "routes: r", "clusters: -a"],
        id="another cluster: the old one stays until routes have changed over",
    ),
    pytest.param(
        snapshot(cluster("a", "2"), listener("l", "r", body="2"), routes("r", "a", body="2")),
        ["clusters: a", "listeners: l", "routes: r"],
        id="everything: in order",
    ),
    pytest.param(
        snapshot(cluster("a"), cluster("b"), listener("l", "r"), routes("r", "a")),
        ["clusters: b"],
        id="one more cluster is sent alone",
    ),
    pytest.param(
        snapshot(),
        ["listeners: -l", "clusters: -a", "routes: -r"],
        id="nothing left: listeners go first",
    ),
    pytest.param(
        snapshot(cluster("a"), listener("l", "r"), listener("m"), routes("r", "a")),
        ["listeners: m"],
        id="one more listener is sent alone",
    ),
]


@pytest.mark.parametrize(("after", "sent"), CHANGES)
def test_only_what_has_changed_goes_out_make_before_break(after: Snapshot, sent: list[str]) -> None:
    client = connected()
    client.give(after)
    assert client.ack_all() == sent
    assert client.news == [Accepted("envoy-1", after)]
    assert client.has == held(after)


def test_endpoints_follow_a_changed_cluster_without_waiting_even_if_they_have_not_changed() -> None:
    client = connected(snapshot(cluster("a", eds=True), endpoints("a"), listener("l", "r"), routes("r", "a")))
    after = snapshot(cluster("a", "2", eds=True), endpoints("a"), listener("l", "r"), routes("r", "a"))
    assert described(client.give(after)) == ["clusters: a", "endpoints: a"]


def test_a_newer_snapshot_in_the_middle_of_a_change_replaces_what_was_not_sent_yet() -> None:
    client = connected()
    client.give(snapshot(cluster("b"), listener("l", "r", body="2"), routes("r", "b")))
    newest = snapshot(cluster("c"), listener("l", "r", body="3"), routes("r", "c"))
    assert client.give(newest) == []
    assert client.ack_all() == ["clusters: b", "clusters: c", "listeners: l", "routes: r", "clusters: -a -b"]
    assert client.news == [Accepted("envoy-1", newest)]


# ---- rejection


def test_a_client_that_rejects_goes_back_to_what_it_had_in_full() -> None:
    client = connected()
    bad = snapshot(cluster("b"), listener("l", "r", body="bad"), listener("m"), routes("r", "b"))
    client.give(bad)
    client.ack(CLUSTERS)
    client.nack(LISTENERS, "cannot bind")
    assert client.news == [Nack("envoy-1", LISTENERS, bad, "cannot bind")]
    # Envoy may have taken the one listener and not the other.
    assert client.ack_all() == ["listeners: l -m", "clusters: -b"]
    assert client.has == held(ONE)
    assert client.session.target is client.session.accepted is ONE


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


def test_a_first_snapshot_that_is_rejected_leaves_nothing_to_go_back_to() -> None:
    client = Client(ONE)
    client.subscribe(CLUSTERS)
    client.ack_all()
    client.subscribe(LISTENERS)
    assert client.nack(LISTENERS) == []
    # Envoy may have taken other listeners of the response; they get their routes.
    assert described(client.subscribe(ROUTES, "r")) == ["routes: r"]
    client.ack_all()
    client.give(snapshot(cluster("a"), listener("m", "r"), routes("r", "a")))
    assert client.ack_all() == ["listeners: m -l"]
    assert [type(news) for news in client.news] == [Nack, Accepted]


def test_a_client_that_rejects_what_it_goes_back_to_is_left_alone() -> None:
    client = connected()
    client.give(snapshot(cluster("a"), listener("l", "r", body="bad"), routes("r", "a")))
    client.nack(LISTENERS)
    assert client.nack(LISTENERS) == []
    assert client.ack_all() == []


# ---- any sequence of changes, at any pace


def drive(envoy: Envoy, changes: list[tuple[Snapshot, int]]) -> Snapshot:
    """Give the snapshots one after the other, and the last one all the time it needs."""
    for each, steps in changes:
        envoy.give(each)
        for _ in range(steps):
            envoy.step()
    envoy.settle()
    assert not envoy.unanswered
    return changes[-1][0]


def has_all_of(has: Mapping[ResourceType, Mapping[str, Resource]], wanted: Snapshot) -> bool:
    """And nothing else."""
    in_use = {
        ENDPOINTS: named(ENDPOINTS, wanted.by_type[CLUSTERS].values()),
        ROUTES: named(ROUTES, wanted.by_type[LISTENERS].values()),
    }
    return all(has[kind] == wanted.by_type[kind] for kind in (CLUSTERS, LISTENERS)) and all(
        has[kind] == {name: wanted.by_type[kind][name] for name in names} for kind, names in in_use.items()
    )


@FEW
@given(CHANGING)
def test_whatever_happens_on_the_way_envoy_ends_with_the_newest(changes: list[tuple[Snapshot, int]]) -> None:
    envoy = Envoy()
    newest = drive(envoy, changes)
    assert has_all_of(envoy.has, newest)
    assert envoy.news[-1:] == [Accepted("envoy-1", newest)]


@FEW
@given(CHANGING)
def test_an_envoy_that_rejects_ends_with_the_newest_or_the_last_that_it_had(
    changes: list[tuple[Snapshot, int]],
) -> None:
    envoy = Envoy(bad="3")
    newest = drive(envoy, changes)
    if not any(each.body.startswith(b"3") for each in newest.resources):
        assert has_all_of(envoy.has, newest)
        assert envoy.session.accepted == newest
    elif envoy.session.accepted:
        assert has_all_of(envoy.has, envoy.session.accepted)


@FEW
@given(CHANGING, CHANGING)
def test_an_envoy_that_comes_back_in_the_middle_ends_with_the_newest(
    before: list[tuple[Snapshot, int]], after: list[tuple[Snapshot, int]]
) -> None:
    first = Envoy()
    for each, steps in before:
        first.give(each)
        for _ in range(steps):
            first.step()
    second = Envoy(after[0][0], has=first.has)
    newest = drive(second, after)
    assert has_all_of(second.has, newest)
    assert not Envoy(newest, has=second.has).unanswered
