"""Any sequence of snapshots, at any pace: what Envoys end with, by calls: no sockets, no time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import cluster, host, listener, named, ours, routes, snapshot, split
from simulated_envoy import SPLIT, Envoy, has_all_of, start_envoy, start_older_envoy

from rejoinder.xds.events import Accepted
from rejoinder.xds.snapshot import CLUSTERS, ROUTES, Snapshot


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    bodies = st.sampled_from("123")
    of_clusters = draw(st.dictionaries(st.sampled_from("abc"), bodies, min_size=1))
    resources = [cluster(name, body) for name, body in of_clusters.items()]
    of_routes = draw(
        st.dictionaries(st.sampled_from("rst"), st.tuples(bodies, st.sets(st.sampled_from(sorted(of_clusters)))))
    )
    resources += [routes(name, *sorted(clusters), body=body) for name, (body, clusters) in of_routes.items()]
    if of_routes:
        some_routes = st.sets(st.sampled_from(sorted(of_routes)))
        of_listeners = draw(st.dictionaries(st.sampled_from("lm"), st.tuples(bodies, some_routes)))
        resources += [listener(name, *sorted(names), body=body) for name, (body, names) in of_listeners.items()]
    return snapshot(*resources)


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
    names = st.sampled_from([resource.name for resource in resources if resource.type is ROUTES])
    of_listeners = draw(st.dictionaries(st.sampled_from("lm"), st.tuples(names, bodies), min_size=1))
    resources += [listener(name, of, body=body) for name, (of, body) in of_listeners.items()]
    resources += [cluster(name, draw(bodies)) for name in sorted(named(CLUSTERS, resources))]
    return split(*resources)


Changes = list[tuple[Snapshot, list[bool]]]


def changing(of: st.SearchStrategy[Snapshot]) -> st.SearchStrategy[Changes]:
    """Snapshots, and for each step of Envoy before the next one comes: whether what is draining is gone by then."""
    return st.lists(st.tuples(of, st.lists(st.booleans(), max_size=16)), min_size=1, max_size=5)


PLAIN = changing(snapshots())
ANY = PLAIN | changing(splits())
VARIANTS: dict[str, tuple[Callable[..., Envoy], st.SearchStrategy[Changes]]] = {
    "incremental": (start_envoy, ANY),
    "state of the world": (start_older_envoy, PLAIN),
}


def begin(envoy: Envoy, changes: Changes) -> None:
    """Give the snapshots one after the other."""
    for newer, steps in changes:
        envoy.give(newer)
        for drained in steps:
            if drained:
                envoy.drained()
            envoy.step()


def drive(envoy: Envoy, changes: Changes) -> Snapshot:
    """And the last one all the time it needs."""
    begin(envoy, changes)
    envoy.settle()
    envoy.drained()
    envoy.settle()
    assert not envoy.unanswered
    return changes[-1][0]


@pytest.mark.parametrize(("start", "changes"), VARIANTS.values(), ids=VARIANTS)
@given(data=st.data())
def test_whatever_happens_on_the_way_envoy_ends_with_the_newest(
    start: Callable[..., Envoy], changes: st.SearchStrategy[Changes], data: st.DataObject
) -> None:
    envoy = start()
    newest = drive(envoy, data.draw(changes))
    assert has_all_of(envoy, newest)
    assert envoy.news[-1:] == [Accepted("envoy-1", newest)]


@pytest.mark.parametrize(("start", "changes"), VARIANTS.values(), ids=VARIANTS)
@given(data=st.data())
def test_an_envoy_that_rejects_ends_with_the_newest_or_the_last_that_it_had(
    start: Callable[..., Envoy], changes: st.SearchStrategy[Changes], data: st.DataObject
) -> None:
    envoy = start(bad="3")
    newest = drive(envoy, data.draw(changes))
    if not any(
        resource.body.startswith(b"3") for resources in ours(newest).values() for resource in resources.values()
    ):
        assert has_all_of(envoy, newest)
        assert envoy.session.accepted == newest
    elif envoy.session.accepted:
        assert has_all_of(envoy, envoy.session.accepted)


@given(ANY, ANY)
def test_an_envoy_that_comes_back_in_the_middle_ends_with_the_newest(before: Changes, after: Changes) -> None:
    first = start_envoy()
    begin(first, before)
    second = start_envoy(after[0][0], before=first)
    newest = drive(second, after)
    assert has_all_of(second, newest)
    # What is empty answers who has nothing.
    assert not any(request.names for request in start_envoy(newest, before=second).unanswered.values())
