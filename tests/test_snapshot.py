"""Versions are content, and what is inconsistent is found."""

from __future__ import annotations

import itertools

import pytest
from envoy_data_plane.envoy.service.discovery.v3 import DeltaDiscoveryResponse, DiscoveryResponse

from rejoinder.xds.remember import Frozen
from rejoinder.xds.snapshot import (
    CLUSTERS,
    EXTENSIONS,
    LISTENERS,
    RESOURCE_TYPES,
    ROUTES,
    VIRTUAL_HOSTS,
    Resource,
    ResourceType,
    Snapshot,
    content_version,
)


def resource(kind: ResourceType, name: str, *references: tuple[ResourceType, str], body: bytes = b"x") -> Resource:
    return Resource(kind, name, body, frozenset(references))


A = resource(CLUSTERS, "a")
B = resource(CLUSTERS, "b")
R = resource(ROUTES, "r", (CLUSTERS, "a"))
L = resource(LISTENERS, "l", (ROUTES, "r"))
X = resource(VIRTUAL_HOSTS, "r/x", (CLUSTERS, "a"))
GROUP = resource(ROUTES, "r/group")
Y = resource(VIRTUAL_HOSTS, "r/group/y")


def test_types_are_in_ads_sending_order() -> None:
    assert [kind.url for kind in RESOURCE_TYPES] == [
        "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "type.googleapis.com/envoy.config.listener.v3.Listener",
        "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "type.googleapis.com/envoy.config.route.v3.VirtualHost",
        "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
    ]


def test_a_version_does_not_change_from_one_process_to_the_next() -> None:
    assert Snapshot((A, B, R, L)).version == Snapshot((L, B, A, R)).version == "2ff660990ee761e7411e"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(resource(CLUSTERS, "a", body=b"y"), id="body"),
        pytest.param(resource(CLUSTERS, "b"), id="name"),
        pytest.param(resource(EXTENSIONS, "a"), id="type"),
    ],
)
def test_another_content_is_another_version(other: Resource) -> None:
    assert other != A
    assert other.version != A.version
    assert Snapshot((other,)) != Snapshot((A,))
    assert Snapshot((other,)).version != Snapshot((A,)).version


def test_a_type_keeps_its_version_when_another_type_changes() -> None:
    before, after = Snapshot((A, R)), Snapshot((A, resource(ROUTES, "r", body=b"y")))
    assert before.versions[CLUSTERS] == after.versions[CLUSTERS] == content_version(Frozen({"a": A}))
    assert before.versions[ROUTES] != after.versions[ROUTES]


def test_a_resource_is_encoded_as_it_stands_in_a_response() -> None:
    response = DiscoveryResponse.parse(A.encoded + B.encoded)
    assert [(any_.type_url, any_.value) for any_ in response.resources] == [(CLUSTERS.url, b"x")] * 2


@pytest.mark.parametrize("size", [0, 100, 127, 128, 20_000], ids=str)
def test_a_resource_is_encoded_as_it_stands_in_an_incremental_response(size: int) -> None:
    big = resource(CLUSTERS, "big", body=b"x" * size)
    response = DeltaDiscoveryResponse.parse(A.delta_head + A.encoded + big.delta_head + big.encoded)
    assert [(one.name, one.version, one.resource and one.resource.value) for one in response.resources] == [
        ("a", A.version, b"x"),
        ("big", big.version, b"x" * size),
    ]
    assert {one.resource and one.resource.type_url for one in response.resources} == {CLUSTERS.url}


@pytest.mark.parametrize(
    ("resources", "problems"),
    [
        pytest.param((), (), id="nothing"),
        pytest.param((L, R, A, B), (), id="whole"),
        pytest.param((A, resource(EXTENSIONS, "a")), (), id="same name, other type"),
        pytest.param((A, B, A), ('clusters: "a" comes 2 times',), id="twice"),
        pytest.param((R,), ('routes: "r" refers to "a", which is not among the clusters',), id="no cluster"),
        pytest.param((A, R, X), (), id="virtual host"),
        pytest.param(
            (R, A, Y), ('virtual hosts: "r/group/y" refers to "r/group", which is not among the routes',), id="no group"
        ),
        pytest.param(
            (R, X),
            (
                'routes: "r" refers to "a", which is not among the clusters',
                'virtual hosts: "r/x" refers to "a", which is not among the clusters',
            ),
            id="no cluster of a virtual host",
        ),
        pytest.param((L, A), ('listeners: "l" refers to "r", which is not among the routes',), id="no routes"),
        pytest.param(
            (A, A, resource(CLUSTERS, "c", (EXTENSIONS, "e2"), (EXTENSIONS, "e1"))),
            (
                'clusters: "a" comes 2 times',
                'clusters: "c" refers to "e1", which is not among the extensions',
                'clusters: "c" refers to "e2", which is not among the extensions',
            ),
            id="three mistakes are three problems",
        ),
    ],
)
def test_check_finds_what_does_not_hang_together(resources: tuple[Resource, ...], problems: tuple[str, ...]) -> None:
    assert Snapshot(resources).check() == problems


def test_what_does_not_hang_together_in_both_forms_is_said_once() -> None:
    assert Snapshot((A, A, L), Snapshot((A, A, X))).check() == (
        'clusters: "a" comes 2 times',
        'listeners: "l" refers to "r", which is not among the routes',
        'virtual hosts: "r/x" refers to "r", which is not among the routes',
    )


def test_a_snapshot_is_another_one_if_virtual_hosts_are() -> None:
    without, with_x = Snapshot((A, R)), Snapshot((A, R), Snapshot((A, R, X)))
    other_x = Snapshot((A, R), Snapshot((A, R, resource(VIRTUAL_HOSTS, "r/x", body=b"y"))))
    assert len({without.version, with_x.version, other_x.version}) == 3
    assert with_x == Snapshot((R, A), Snapshot((X, R, A)))
    assert without != with_x != other_x


def test_virtual_hosts_are_those_of_some_routes() -> None:
    made = Snapshot((A, R, GROUP, X, Y))
    assert made.virtual_hosts(frozenset()) == {}
    assert made.virtual_hosts(frozenset({"r"})) == {"r/x": X}
    assert made.virtual_hosts(frozenset({"r/group"})) == {"r/group/y": Y}


def test_virtual_hosts_are_the_same_object_for_the_same_routes() -> None:
    made = Snapshot((A, R, GROUP, X, Y))
    assert made.virtual_hosts(frozenset({"r"})) is made.virtual_hosts(frozenset({"r", "nowhere"}))
    assert made.virtual_hosts(frozenset({"r", "r/group"})) is made.by_type[VIRTUAL_HOSTS]


def test_virtual_hosts_of_whatever_is_asked_for_are_not_all_remembered() -> None:
    names = [f"r{number}" for number in range(8)]
    made = Snapshot(tuple(Resource(kind, name, b"") for name in names for kind in (ROUTES, VIRTUAL_HOSTS)))
    for size in range(len(names)):
        for some in itertools.combinations(names, size):
            made.virtual_hosts(frozenset(some))
    assert len(made._hosts) <= 32
    assert made.virtual_hosts(frozenset({"r1"})) is made.virtual_hosts(frozenset({"r1"}))
