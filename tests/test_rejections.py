"""What is said to the person who watches when an Envoy rejects something."""

from __future__ import annotations

import pytest

from rejoinder.cli.control import Control
from rejoinder.cli.envoys import MOST_REFUSALS
from rejoinder.extproc import Workers
from rejoinder.rules.model import Endpoint
from rejoinder.xds.events import Connected, Nack, Unable
from rejoinder.xds.snapshot import CLUSTERS, Snapshot
from rejoinder.xds.translate import Settings


@pytest.mark.parametrize(
    ("instead", "had", "last"),
    [
        pytest.param(Snapshot(()), True, "going back to what it had before", id="it had something"),
        pytest.param(Snapshot(()), False, "it gets what others have taken", id="others have something"),
        pytest.param(None, False, "n rejects the clusters: no", id="nobody has"),
    ],
)
def test_going_back_is_said_of_clients_that_had_something(
    instead: Snapshot | None, had: bool, last: str, capsys: pytest.CaptureFixture[str]
) -> None:
    control = Control((), (), Settings(Endpoint("127.0.0.1", 1)), processor=Workers(1))
    control.envoys.tell(Nack("n", CLUSTERS, Snapshot(()), "no", instead, had))
    assert capsys.readouterr().err.splitlines()[-1] == last


def test_of_very_many_rejections_some_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    control = Control((), (), Settings(Endpoint("127.0.0.1", 1)), processor=Workers(1))
    for number in range(MOST_REFUSALS * 2):
        control.envoys.tell(Nack(f"n{number}", CLUSTERS, Snapshot(()), "no"))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == MOST_REFUSALS + 1
    assert said[-1] == "... further rejections are not printed before the next edit"


def test_two_with_one_id_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    control = Control((), (), Settings(Endpoint("127.0.0.1", 1)), processor=Workers(1))
    for peer, envoy in (("ipv4:127.0.0.1:1", (1, 39)), ("ipv6:%5B::1%5D:2", (1, 40))):
        control.envoys.tell(Connected("n", peer, envoy))
    for peer in ("ipv4:127.0.0.1:1", "ipv6:%5B::1%5D:2", "unix:"):
        control.envoys.tell(Unable("n", "no", peer=peer))
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(" gets ")[0] for line in said] == [
        "n (Envoy 1.39, 127.0.0.1:1)",
        "n (Envoy 1.40, [::1]:2)",
        "n",
    ]
