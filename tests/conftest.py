"""What several test files share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from gateway import Gateway
from hypothesis import HealthCheck, settings

from rejoinder.cli import console
from rejoinder.xds.translate import Placement

# The same examples every time, however slow the machine is. (`--differential` has others.)
settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("same")


@pytest.fixture(autouse=True)
def _no_log_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command in this process has begun ends with its test."""
    monkeypatch.setattr(console, "_dated", False)


@pytest.fixture(autouse=True, scope="session")
def _no_loop_answers_for_another() -> Iterator[None]:
    """grpcio has one queue for all event loops of a process. What comes for one that an earlier test has closed ("Event
    loop is closed") fails in whichever reads the queue, and is logged there (https://github.com/grpc/grpc/pull/36096).
    """

    def wanted(record: logging.LogRecord) -> bool:
        return "PollerCompletionQueue._handle_events" not in record.getMessage()

    logging.getLogger("asyncio").addFilter(wanted)
    yield
    logging.getLogger("asyncio").removeFilter(wanted)


@pytest.fixture(scope="module", params=list(Placement), ids=lambda placement: placement.value)
def gateway(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """One real gateway of each placement for a test file; each test applies rules of its own."""
    with Gateway(conditional=request.param) as running:
        yield running


@pytest.fixture(
    scope="module",
    params=[(placement, foreign) for foreign in (False, True) for placement in Placement],
    ids=lambda param: f"{param[0].value}{', beside' if param[1] else ''}",
)
def any_gateway(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """The same in each of the four ways: each placement, in an Envoy of ours and in one with routes of its own."""
    placement, foreign = request.param
    with Gateway(conditional=placement, foreign=foreign) as running:
        yield running


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--differential",
        default=0,
        type=int,
        metavar="N",
        help="compare Envoy with `decide` on N random rule files, instead of the few and fixed ones of CI",
    )
    parser.addoption(
        "--envoys",
        default=None,
        metavar="FOLDER",
        help="try everything with all versions of Envoy that are unpacked here (bench/versions.py), not just with ours",
    )
    parser.addoption(
        "--rewrite-golden",
        action="store_true",
        help="write tests/golden/out and tables of fields anew, instead of comparing; look at the difference then",
    )
