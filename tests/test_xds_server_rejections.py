"""What the xDS server does when clients reject a snapshot, which it may take back."""

from __future__ import annotations

import pytest
from xds_clients import Running, clusters, served, values

from rejoinder.xds.events import Accepted, Disconnected, Nack
from rejoinder.xds.snapshot import CLUSTERS, LISTENERS, ROUTES, Resource, ResourceType, Snapshot


@served
async def test_what_nobody_has_accepted_is_taken_back_for_everybody(it: Running) -> None:
    good, bad = clusters("good"), clusters("bad")
    picky, other = await it.taken(good, "picky", "other")

    it.server.publish(bad)
    for number, client in enumerate((picky, other), start=1):
        await client.answer(await client.read(), error="no such thing")
        assert (await it.until(Nack, number)).snapshot is bad
        assert values(await client.read()) == ["good"]
    late = it.client("late")
    await late.ask(CLUSTERS)
    assert values(await late.read()) == ["good"]
    status = it.server.status()
    assert status.version == good.version
    assert status.nack == Nack("other", CLUSTERS, bad, "no such thing", good, had=True)
    assert [(c.node, c.nack is not None) for c in status.clients] == [
        ("late", False),
        ("other", True),
        ("picky", True),
    ]


@pytest.mark.parametrize("incremental", [False, True])
@served
async def test_the_status_says_who_rejects_what_was_published_last(it: Running, incremental: bool) -> None:
    bad = clusters("bad")
    it.server.publish(clusters("good"))
    picky = it.client("picky", incremental=incremental)
    await picky.bring_up()
    await it.until(Accepted)

    def rejected() -> Nack | None:
        return it.server.status().clients[0].nack

    it.server.publish(bad)
    await picky.answer(await picky.read(), error="no")
    await picky.answer(await picky.read(), error="and not what it had before, either")
    await it.until(Nack, 2)
    assert rejected() == (await it.until(Nack))
    it.server.publish(clusters("better"))
    await picky.answer(await picky.read())
    await it.until(Accepted, 2)
    assert rejected() is None
    it.server.publish(bad)
    await picky.answer(await picky.read())
    await it.until(Accepted, 3)
    assert rejected() is None


@pytest.mark.parametrize("says", ["yes", "no", "nothing"])
@served
async def test_one_that_rejects_waits_for_what_the_others_say_even_if_they_have_to_come_back(
    it: Running, says: str
) -> None:
    old, new = clusters("old"), clusters("new")
    picky, other = await it.taken(old, "picky", "other")

    it.server.publish(new)
    await other.read()
    await picky.answer(await picky.read(), error="no")
    assert values(await picky.read()) == ["old"]
    await other.close()
    await it.until(Disconnected)
    assert it.server.status().version == new.version
    if says != "nothing":
        other = it.client("other")
        await other.ask(CLUSTERS)
        await other.answer(await other.read(), error="no" if says == "no" else None)
        await (it.until(Nack, 2) if says == "no" else it.until(Accepted, 3))
    assert it.server.status().version == (old if says == "no" else new).version


@served
async def test_what_has_been_taken_in_part_is_not_taken_back(it: Running) -> None:
    old, new = clusters("old"), clusters("new")
    it.server.publish(old)
    first = it.client("first")
    await first.ask(LISTENERS)
    await first.answer(await first.read())
    await it.until(Accepted)
    await first.close()
    await it.until(Disconnected)

    it.server.publish(new)
    first = it.client("first")
    await first.ask(CLUSTERS)
    await first.answer(await first.read())
    await it.until(Accepted, 2)
    await first.ask(LISTENERS)
    await first.answer(await first.read(), error="no")
    await it.until(Nack)
    assert it.server.status().version == new.version


@served
async def test_a_stranger_that_rejects_while_the_only_client_restarts_changes_nothing_for_it(it: Running) -> None:
    old, new = clusters("old"), clusters("new")
    (ours,) = await it.taken(old, "ours")
    await ours.close()
    await it.until(Disconnected)

    it.server.publish(new)
    stranger = it.client("stranger")
    await stranger.ask(CLUSTERS)
    await stranger.answer(await stranger.read(), error="no")
    nack = await it.until(Nack)
    assert (nack.instead, nack.had) == (old, False)
    assert values(await stranger.read()) == ["old"]
    assert it.server.status().version == new.version
    ours = it.client("ours")
    await ours.ask(CLUSTERS)
    assert values(await ours.read()) == ["new"]


@served
async def test_a_stranger_that_leaves_half_way_is_not_waited_for(it: Running) -> None:
    old, new = clusters("old"), clusters("new")
    (picky,) = await it.taken(old, "picky")

    it.server.publish(new)
    stranger = it.client("stranger")
    await stranger.ask(CLUSTERS)
    await stranger.read()
    for count in (1, 2):  # the old one, too, when it goes back to that
        await picky.answer(await picky.read(), error="no")
        await it.until(Nack, count)
    assert it.server.status().version == new.version
    await stranger.close()
    await it.until(Disconnected)
    assert it.server.status().version == old.version


FULL = tuple(
    Snapshot((Resource(CLUSTERS, "c", body), Resource(LISTENERS, "l", body), Resource(ROUTES, "r", body)))
    for body in (b"1", b"2")
)
"""Two snapshots with everything, so that one who has asked for clusters alone has not seen all."""


@pytest.mark.parametrize("further", [False, True], ids=["clusters alone", "clusters and routes"])
@served
async def test_a_client_without_listeners_keeps_what_it_has_taken_when_another_rejects(
    it: Running, further: bool
) -> None:
    (picky,) = await it.taken(FULL[0], "picky")
    it.server.publish(FULL[1])
    pending = await picky.read()

    taker = it.client("taker")  # half way, or all there
    await taker.ask(CLUSTERS)
    await taker.answer(await taker.read())
    if further:
        await taker.ask(ROUTES, "r")
        await taker.answer(await taker.read())
        await it.until(Accepted, 2)
    await picky.answer(pending, error="no")
    assert values(await picky.read()) == ["1"]
    assert {c.node: c.target for c in it.server.status().clients} == {
        "picky": FULL[0].version,
        "taker": FULL[1].version,
    }
    await taker.ask(LISTENERS)
    assert values(await taker.read()) == ["2"]


@pytest.mark.parametrize("kind", [CLUSTERS, ROUTES], ids=lambda kind: kind.name)
@served
async def test_a_service_of_one_type_keeps_what_its_client_has_taken_when_another_rejects(
    it: Running, kind: ResourceType
) -> None:
    method = {CLUSTERS: "cluster.v3.ClusterDiscoveryService/StreamClusters",
              ROUTES: "route.v3.RouteDiscoveryService/StreamRoutes"}[kind]  # fmt: skip
    it.server.publish(FULL[0])
    picky = it.client("picky")
    taker = it.client("taker", f"envoy.service.{method}")
    await picky.bring_up()
    await taker.ask(kind, *FULL[0].by_type[kind])
    await taker.answer(await taker.read())
    await it.until(Accepted, 2)

    it.server.publish(FULL[1])
    await taker.answer(await taker.read())
    await it.until(Accepted, 3)
    await picky.answer(await picky.read(), error="no")
    assert values(await picky.read()) == ["1"]
    assert {c.node: c.target for c in it.server.status().clients} == {
        "picky": FULL[0].version,
        "taker": FULL[1].version,
    }


@served
async def test_what_others_have_accepted_is_taken_back_for_one_client_alone(it: Running) -> None:
    old, new = clusters("old"), clusters("new")
    picky, other = await it.taken(old, "picky", "other")

    it.server.publish(new)
    await other.answer(await other.read())
    await it.until(Accepted, 3)
    await picky.answer(await picky.read(), error="no")
    assert values(await picky.read()) == ["old"]
    assert it.server.status().version == new.version
    assert [(c.node, c.target) for c in it.server.status().clients] == [
        ("other", new.version),
        ("picky", old.version),
    ]
