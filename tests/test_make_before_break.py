"""What a change of the snapshot sends, and in which order, in both variants of xDS: by calls, no sockets, no time."""

from __future__ import annotations

import pytest
from simulated import Client, IncrementalClient, StateOfTheWorldClient, cluster, connected, listener, routes, snapshot

from rejoinder.xds.events import Accepted
from rejoinder.xds.snapshot import Snapshot

# The snapshot after `simulated.ONE`; what is sent in the state of the world, and incrementally.
CHANGES = {
    "routes alone": (
        snapshot(cluster("a"), listener("l", "r"), routes("r", "a", body="2")),
        ["routes: r"],
        ["routes: r"],
    ),
    "another cluster: the old one stays until routes have changed over": (
        snapshot(cluster("b"), listener("l", "r"), routes("r", "b")),
        ["clusters: a b", "routes: r", "clusters: b"],
        ["clusters: b", "routes: r", "clusters: -a"],
    ),
    "everything: in order": (
        snapshot(cluster("a", "2"), listener("l", "r", body="2"), routes("r", "a", body="2")),
        ["clusters: a", "listeners: l", "routes: r"],
        ["clusters: a", "listeners: l", "routes: r"],
    ),
    "one more cluster": (
        snapshot(cluster("a"), cluster("b"), listener("l", "r"), routes("r", "a")),
        ["clusters: a b"],
        ["clusters: b"],
    ),
    "nothing left: listeners go first": (
        snapshot(),
        ["listeners: ", "clusters: "],
        ["listeners: -l", "clusters: -a", "routes: -r"],
    ),
    "one more listener": (
        snapshot(cluster("a"), listener("l", "r"), listener("m"), routes("r", "a")),
        ["listeners: l m"],
        ["listeners: m"],
    ),
}
CASES = [
    pytest.param(client, after, sent, id=f"{change}, {variant}")
    for change, (after, whole, differences) in CHANGES.items()
    for variant, client, sent in (
        ("state of the world", StateOfTheWorldClient, whole),
        ("incremental", IncrementalClient, differences),
    )
]


@pytest.mark.parametrize(("client", "after", "sent"), CASES)
def test_a_change_goes_out_make_before_break(client: type[Client], after: Snapshot, sent: list[str]) -> None:
    connection = connected(client.new())
    connection.give(after)
    assert connection.ack_all() == sent
    assert connection.news == [Accepted("envoy-1", after)]
    for kind, resources in after.by_type.items():
        assert connection.has[kind].items() >= resources.items()
