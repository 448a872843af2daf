"""What is said to the person who watches when an Envoy rejects something."""

from __future__ import annotations

import pytest

from rejoinder.cli.control import Control
from rejoinder.extproc import Processor
from rejoinder.rules.model import Endpoint
from rejoinder.xds.session import Nack
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
    control = Control((), (), Settings(Endpoint("127.0.0.1", 1)), processor=Processor())
    control._on_event(Nack("n", CLUSTERS, Snapshot(()), "no", instead, had))
    assert capsys.readouterr().err.splitlines()[-1] == last
