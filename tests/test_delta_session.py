"""What one client of the incremental protocol is sent, and when, by calls: no sockets, no time.

`Client` stands for the other end of the wire and checks the protocol with every response; `Envoy` asks and answers in
the order in which Envoy does. What it does with virtual hosts as resources of their own was tried with Envoy 1.40.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_xds_session import (
    FEW,
    ONE,
    cluster,
    endpoints,
    listener,
    named,
    resource,
    routes,
    snapshot,
    snapshots,
)

from rejoinder.xds.delta import DeltaRequest, Incremental
from rejoinder.xds.forms import SPLITS_SINCE
from rejoinder.xds.session import Accepted, Nack, Output, Unable
from rejoinder.xds.snapshot import (
    CLUSTERS,
    ENDPOINTS,
    LISTENERS,
    RESOURCE_TYPES,
    ROUTES,
    VIRTUAL_HOSTS,
    Resource,
    ResourceType,
    Snapshot,
    routes_of,
)
from rejoinder.xds.stream import Response

Held = dict[ResourceType, dict[str, Resource]]

SPLIT = ":hosts"
"""The end of the name of a route configuration whose virtual hosts are resources of their own."""


def host(name: str, *clusters: str, body: str = "1") -> Resource:
    return resource(VIRTUAL_HOSTS, name, *((CLUSTERS, of) for of in clusters), body=body + ",".join(clusters))


def split(*resources: Resource) -> Snapshot:
    """A snapshot that has these for clients that can take virtual hosts, and nothing for others."""
    made = Snapshot((), Snapshot(resources))
    assert made.check() == ()
    return made


def ours(of: Snapshot) -> Mapping[ResourceType, Mapping[str, Resource]]:
    """What a client is to have."""
    return (of.split or of).by_type


def hosts_of(name: str, hosts: Iterable[Resource]) -> dict[str, Resource]:
    return {each.name: each for each in hosts if routes_of(each.name) == name}


def after(resources: Mapping[str, Resource], response: Response) -> dict[str, Resource]:
    """What there is after a response, of what there was before."""
    kept = {name: each for name, each in resources.items() if name not in response.removed}
    return {**kept, **{each.name: each for each in response.resources}}


class Client:
    """A client that holds a session to the protocol.

    Args:
        has: what it has from an earlier stream.
    """

    def __init__(
        self,
        snapshot: Snapshot | None = None,
        has: Held | None = None,
        proven: Mapping[ResourceType, Snapshot] | None = None,
    ) -> None:
        self.session = Incremental(snapshot, proven=proven or {})
        self.has: Held = has or {kind: {} for kind in RESOURCE_TYPES}
        self.recorded: Held = {kind: dict(resources) for kind, resources in self.has.items()}
        """What its side of the protocol takes it to have."""
        self.sent: list[str] = []
        """What it was sent, as `describe` says."""
        self.news: list[Accepted | Nack | Unable] = []
        self.unanswered: dict[ResourceType, Response] = {}
        self.names: dict[ResourceType, set[str]] = {}
        """What was asked for and not given up; no names at first: everything."""
        self._last_nonce = 0

    def subscribe(self, kind: ResourceType, *names: str) -> list[Response]:
        first = kind not in self.names
        initial = {name: each.version for name, each in self.recorded[kind].items()} if first else {}
        self.names.setdefault(kind, set() if names else {"*"}).update(names)
        return self._send(DeltaRequest(kind.url, names, initial=initial, node="envoy-1", envoy=SPLITS_SINCE))

    def unsubscribe(self, kind: ResourceType, *names: str) -> list[Response]:
        self.names[kind] -= set(names)
        if "*" not in self.names[kind]:
            for held in (self.has, self.recorded):
                held[kind] = {name: each for name, each in held[kind].items() if name in self.names[kind]}
        return self._send(DeltaRequest(kind.url, unsubscribe=names))

    def ack(self, kind: ResourceType) -> list[Response]:
        response = self.unanswered.pop(kind)
        # What was given up meanwhile is ignored.
        wanted = [each for each in response.resources if not self.names[kind].isdisjoint({"*", each.name})]
        self.take(replace(response, resources=tuple(wanted)))
        self.recorded[kind] = after(self.recorded[kind], replace(response, resources=tuple(wanted)))
        return self._send(DeltaRequest(kind.url, nonce=response.nonce))

    def take(self, response: Response) -> None:
        self.has[response.type] = after(self.has[response.type], response)

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
            self.sent.append(describe(output))
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
    """A client that asks and answers in the order in which Envoy does. It rejects what has a body of `bad`.

    Of route configurations whose names end in SPLIT it gets the virtual hosts one by one, by a wildcard that it asks
    for once in a stream. A listener is at work when its route configurations are there with their virtual hosts; until
    then the one that it replaces is. That one goes on in the background for a while with the route configurations that
    it has (`draining`), whatever is said about them.

    Args:
        before: the same Envoy with its previous stream.
    """

    def __init__(self, snapshot: Snapshot | None = None, bad: str | None = None, before: Envoy | None = None) -> None:
        super().__init__(snapshot, before.has if before else None)
        self._bad = bad
        self._cold: set[str] = set()
        """The clusters that wait for endpoints. Until there are none, Envoy does not acknowledge the clusters."""
        self._given = [snapshot] if snapshot else []
        self.at_work: dict[str, Resource] = before.at_work if before else {}
        """The listeners that answer requests."""
        self.draining: set[str] = before.draining if before else set()
        """The names of the route configurations of listeners that have been replaced."""
        self.waiting: set[str] = before.waiting if before else set()
        """The names of the route configurations that have been told nothing about virtual hosts so far."""
        if before:
            self.recorded = before.recorded
        self.subscribe(CLUSTERS)
        if before:  # it asks for all at once
            for kind in (ENDPOINTS, LISTENERS, ROUTES, VIRTUAL_HOSTS):
                if before.names.get(kind):
                    self.subscribe(kind, *sorted(before.names[kind] - {"*"}))

    def give(self, snapshot: Snapshot) -> list[Response]:
        self._given.append(snapshot)
        return super().give(snapshot)

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
        if self._ask(ROUTES, self._in_use()):
            return True
        for response in sorted(self.unanswered.values(), key=lambda response: int(response.nonce)):
            if response is clusters and self._cold:
                continue
            if response.type is ENDPOINTS and not (clusters and int(response.nonce) < int(clusters.nonce)):
                self._cold -= response.names
            if any(each.name.endswith(SPLIT) for each in response.resources) and VIRTUAL_HOSTS not in self.names:
                self.subscribe(VIRTUAL_HOSTS)
            if any(self._is_bad(each) for each in response.resources):
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

    def settle(self) -> list[str]:
        """Go on until there is nothing more to do; give what has been sent since the last time."""
        for _ in range(300):
            if not self.step():
                sent, self.sent = self.sent, []
                return sent
        raise AssertionError("it goes on and on")

    def drained(self) -> None:
        """The listeners that were replaced are gone."""
        self.draining.clear()

    def take(self, response: Response) -> None:
        if response.type is ROUTES:
            self._take_routes(response.resources)
        elif response.type is VIRTUAL_HOSTS:
            for name in map(routes_of, response.names):
                self._take_hosts(name, response)
        else:
            super().take(response)
        self._put_to_work()

    def nack(self, kind: ResourceType, error: str = "no") -> list[Response]:
        response = self.unanswered[kind]
        # One route configuration has nothing to do with the other.
        if kind is ROUTES:
            good = [each for each in response.resources if not self._is_bad(each)]
            self._take_routes([each for each in good if each.name in self.names[ROUTES]])
        elif kind is VIRTUAL_HOSTS:
            bad = {routes_of(each.name) for each in response.resources if self._is_bad(each)}
            for name in set(map(routes_of, response.names)) - bad:
                self._take_hosts(name, response)
            self.waiting -= bad
        self._put_to_work()
        return super().nack(kind, error)

    def unsubscribe(self, kind: ResourceType, *names: str) -> list[Response]:
        if kind is ROUTES:
            self.waiting -= set(names)
            hosts = self.has[VIRTUAL_HOSTS]
            self.has[VIRTUAL_HOSTS] = {name: each for name, each in hosts.items() if routes_of(name) not in names}
        return super().unsubscribe(kind, *names)

    def _take_routes(self, resources: Iterable[Resource]) -> None:
        # That one is no more means nothing to Envoy, as long as there is a listener that uses it.
        for each in resources:
            if each.name.endswith(SPLIT) and each.name not in self.has[ROUTES]:
                self.waiting.add(each.name)
            self.has[ROUTES] = {**self.has[ROUTES], each.name: each}

    def _take_hosts(self, name: str, response: Response) -> None:
        if name not in self.has[ROUTES]:
            return  # and it has recorded what it does not have
        if name in self.waiting:
            said = hosts_of(name, response.resources)
            whole = [hosts_of(name, ours(each)[VIRTUAL_HOSTS].values()) for each in self._given]
            assert said in whole, f"{name} is put to work with some of its virtual hosts: {describe(response)}"
            self.waiting.remove(name)
        others = {key: each for key, each in self.has[VIRTUAL_HOSTS].items() if routes_of(key) != name}
        hosts = hosts_of(name, after(self.has[VIRTUAL_HOSTS], response).values())
        self.has[VIRTUAL_HOSTS] = {**others, **hosts}

    def _put_to_work(self) -> None:
        for name in self.at_work.keys() - self.has[LISTENERS].keys():
            self.draining |= named(ROUTES, [self.at_work.pop(name)])
        for name, each in self.has[LISTENERS].items():
            needed, before = named(ROUTES, [each]), self.at_work.get(name)
            if each != before and needed <= self.has[ROUTES].keys() - self.waiting:
                self.draining |= named(ROUTES, [before] if before else [])
                self.at_work[name] = each

    def _in_use(self) -> set[str]:
        return named(ROUTES, [*self.has[LISTENERS].values(), *self.at_work.values()]) | self.draining

    def _is_bad(self, each: Resource) -> bool:
        return self._bad is not None and each.body.decode().startswith(self._bad)

    def _ask(self, kind: ResourceType, names: set[str]) -> bool:
        # In both directions it is the difference that counts. Envoy does not wait for what is under way.
        before = self.names.get(kind, set())
        if names == before:
            return False
        if before - names:
            self.unsubscribe(kind, *sorted(before - names))
        else:
            self.subscribe(kind, *sorted(names - before))
        return True

    def no_route_leads_nowhere(self) -> None:
        """Of the listeners at work: those that are draining keep what they had."""
        for name in named(ROUTES, self.at_work.values()):
            for each in (self.has[ROUTES][name], *hosts_of(name, self.has[VIRTUAL_HOSTS].values()).values()):
                for _, of in each.references:
                    assert of in self.has[CLUSTERS], f"{each.name} leads to {of}, which Envoy does not have"


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


def test_a_name_that_is_given_up_while_a_response_is_under_way_is_answered_behind_it() -> None:
    client = Client(snapshot(cluster("x")))
    client.subscribe(CLUSTERS, "*", "nowhere")
    assert client.unsubscribe(CLUSTERS, "nowhere") == []
    assert client.ack_all() == ["clusters: x -nowhere", "clusters: -nowhere"]
    assert client.give(snapshot(cluster("x"))) == []


def test_names_that_were_given_up_are_forgotten() -> None:
    client = Client(snapshot(cluster("x")))
    for number in range(3):
        client.subscribe(CLUSTERS, "*", f"nowhere{number}")
        client.ack_all()
        client.unsubscribe(CLUSTERS, f"nowhere{number}")
        client.ack_all()
    stream = client.session._streams[CLUSTERS]
    assert (stream.absent, stream.given_up) == (frozenset(), frozenset())


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
    assert client.news == [Nack("envoy-1", LISTENERS, bad, "cannot bind", ONE, had=True)]
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


# ---- virtual hosts as resources of their own

A = cluster("a")
B = cluster("b")
L = listener("l", "r:hosts")
R = routes("r:hosts")
X = host("r:hosts/x", "a")
Y = host("r:hosts/y", "a")
TWO_HOSTS = split(A, L, R, X, Y)
WHOLE = snapshot(A, listener("l", "r"), routes("r", "a"))
OTHER = split(A, listener("l", "s:hosts"), routes("s:hosts"), host("s:hosts/z", "a"))


def settled(*given: Snapshot, bad: str | None = None) -> Envoy:
    """An Envoy that has been brought from one snapshot to the next."""
    envoy = Envoy(bad=bad)
    for each in given:
        envoy.give(each)
        envoy.settle()
        assert envoy.session.accepted == each
        assert has_all_of(envoy, each) or envoy.draining
    envoy.news.clear()
    return envoy


def test_at_the_start_virtual_hosts_follow_their_route_configuration_all_at_once() -> None:
    envoy = Envoy()
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
    had: Held = {kind: {} for kind in RESOURCE_TYPES}
    client = Client(TWO_HOSTS, {**had, ROUTES: {"r:hosts": routes("r:hosts", body="old")}})
    client.subscribe(CLUSTERS)
    client.ack_all()
    client.subscribe(LISTENERS)
    client.ack_all()
    client.subscribe(ROUTES, "r:hosts")
    client.nack(ROUTES)
    assert described(client.subscribe(LISTENERS, "l")) == ["listeners: l"]


def test_a_listener_does_not_wait_for_virtual_hosts_that_have_been_rejected() -> None:
    before = Envoy(TWO_HOSTS)
    before.settle()
    envoy = Envoy(split(A, L, R, host("r:hosts/x", body="3")), bad="3", before=before)
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
    envoy = Envoy(now, before=settled(TWO_HOSTS))
    assert envoy.settle() == ["virtual hosts: r:hosts/z -r:hosts/y"]
    assert envoy.news == [Accepted("envoy-1", now)]


def test_virtual_hosts_that_envoy_says_it_has_and_dropped_are_sent_again() -> None:
    # The stream ended before the server could say that they are no more.
    before = settled(TWO_HOSTS, WHOLE)
    before.drained()
    before.unsubscribe(ROUTES, "r:hosts")
    assert before.recorded[VIRTUAL_HOSTS].keys() == {"r:hosts/x", "r:hosts/y"}
    now = split(A, L, R, X)
    envoy = Envoy(now, before=before)
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
    before.unsubscribe(ROUTES, "r:hosts")
    before.names[ROUTES].add("r:hosts")
    envoy = Envoy(TWO_HOSTS, before=before)
    assert envoy.settle() == ["routes: r:hosts", "virtual hosts: r:hosts/x r:hosts/y"]
    assert has_all_of(envoy, TWO_HOSTS)


def test_virtual_hosts_wait_for_the_routes_that_envoy_asks_for_later() -> None:
    client = Client(TWO_HOSTS, {**held(snapshot()), VIRTUAL_HOSTS: {"r:hosts/x": X, "r:hosts/gone": X}})
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
    envoy = Envoy(bad="3")
    envoy.give(split(A, L, routes("r:hosts", body="3"), X))
    envoy.settle()
    corrected = split(A, L, R, X)
    envoy.give(corrected)
    assert envoy.settle() == ["listeners: l", "routes: r:hosts", "virtual hosts: r:hosts/x"]
    assert has_all_of(envoy, corrected)


def test_the_first_virtual_hosts_of_routes_that_were_taken_stay_when_other_routes_are_rejected() -> None:
    envoy = Envoy(bad="3")
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
    envoy = Envoy(bad="3")
    envoy.give(split(A, L, R, host("r:hosts/x", body="3"), Y))
    envoy.settle()
    assert [type(news) for news in envoy.news] == [Nack]
    assert envoy.at_work == {}
    envoy.give(TWO_HOSTS)
    assert envoy.settle() == ["listeners: l", "virtual hosts: r:hosts/x r:hosts/y"]
    assert has_all_of(envoy, TWO_HOSTS)


def test_a_client_that_never_asks_for_virtual_hosts_is_sent_the_rest() -> None:
    client = Client(TWO_HOSTS)
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
    client = Client(TWO_HOSTS)
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
    session.on_request(DeltaRequest(CLUSTERS.url, node="envoy-1", envoy=envoy))
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
    client = Client(split(A, L, R, X, routes("r", "a")))
    assert described(client.subscribe(ROUTES, "r")) == ["routes: r"]


# ---- any sequence of changes, at any pace


@st.composite
def splits(draw: st.DrawFn) -> Snapshot:
    """Snapshots in which some route configurations have virtual hosts as resources of their own, and others not."""
    bodies = st.sampled_from("123")
    some_clusters = st.sets(st.sampled_from("ab"), min_size=1)
    resources = []
    for name in "rs":
        inline = routes(name, *sorted(draw(some_clusters)), body=draw(bodies))
        head = routes(name + SPLIT, body=draw(bodies))
        hosts = draw(st.dictionaries(st.sampled_from("xyz"), st.tuples(bodies, some_clusters), min_size=1))
        apart = [host(f"{head.name}/{key}", *sorted(of), body=body) for key, (body, of) in hosts.items()]
        resources += draw(st.sampled_from(([inline], [head, *apart], [inline, head, *apart])))
    names = st.sampled_from([each.name for each in resources if each.type is ROUTES])
    of_listeners = draw(st.dictionaries(st.sampled_from("lm"), st.tuples(names, bodies), min_size=1))
    resources += [listener(name, of, body=body) for name, (of, body) in of_listeners.items()]
    resources += [cluster(name, draw(bodies)) for name in sorted(named(CLUSTERS, resources))]
    return split(*resources)


Changes = list[tuple[Snapshot, list[bool]]]


def changing(of: st.SearchStrategy[Snapshot]) -> st.SearchStrategy[Changes]:
    """Snapshots, and for each step of Envoy before the next one comes: whether what is draining is gone by then."""
    return st.lists(st.tuples(of, st.lists(st.booleans(), max_size=16)), min_size=1, max_size=5)


CHANGES_OF_ALL = changing(snapshots()) | changing(splits())


def start(envoy: Envoy, changes: Changes) -> None:
    """Give the snapshots one after the other."""
    for each, steps in changes:
        envoy.give(each)
        for drained in steps:
            if drained:
                envoy.drained()
            envoy.step()


def drive(envoy: Envoy, changes: Changes) -> Snapshot:
    """And the last one all the time it needs."""
    start(envoy, changes)
    envoy.settle()
    envoy.drained()
    envoy.settle()
    assert not envoy.unanswered
    return changes[-1][0]


def has_all_of(envoy: Envoy, wanted: Snapshot) -> bool:
    """And nothing else, and it is at work."""
    of = ours(wanted)
    in_use = named(ROUTES, of[LISTENERS].values())
    names = {
        ENDPOINTS: named(ENDPOINTS, of[CLUSTERS].values()),
        ROUTES: in_use,
        VIRTUAL_HOSTS: {name for name in of[VIRTUAL_HOSTS] if routes_of(name) in in_use},
    }
    return (
        all(envoy.has[kind] == of[kind] for kind in (CLUSTERS, LISTENERS))
        and all(envoy.has[kind] == {name: of[kind][name] for name in names[kind]} for kind in names)
        and envoy.at_work == envoy.has[LISTENERS]
    )


@FEW
@given(CHANGES_OF_ALL)
def test_whatever_happens_on_the_way_envoy_ends_with_the_newest(changes: Changes) -> None:
    envoy = Envoy()
    newest = drive(envoy, changes)
    assert has_all_of(envoy, newest)
    assert envoy.news[-1:] == [Accepted("envoy-1", newest)]


@FEW
@given(CHANGES_OF_ALL)
def test_an_envoy_that_rejects_ends_with_the_newest_or_the_last_that_it_had(changes: Changes) -> None:
    envoy = Envoy(bad="3")
    newest = drive(envoy, changes)
    if not any(each.body.startswith(b"3") for resources in ours(newest).values() for each in resources.values()):
        assert has_all_of(envoy, newest)
        assert envoy.session.accepted == newest
    elif envoy.session.accepted:
        assert has_all_of(envoy, envoy.session.accepted)


@FEW
@given(CHANGES_OF_ALL, CHANGES_OF_ALL)
def test_an_envoy_that_comes_back_in_the_middle_ends_with_the_newest(before: Changes, after: Changes) -> None:
    first = Envoy()
    start(first, before)
    second = Envoy(after[0][0], before=first)
    newest = drive(second, after)
    assert has_all_of(second, newest)
    # What is empty answers who has nothing.
    assert not any(each.names for each in Envoy(newest, before=second).unanswered.values())
