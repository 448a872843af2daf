"""Python handlers under ext_proc: what one that hangs costs the others. Nothing here measures time."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import ModuleType
from typing import Any

import pytest
from machine import SECONDS

from rejoinder.extproc.calls import Calls
from rejoinder.rules.handlers import HandlerError, Handlers, Reply, Request, Response

REQUEST = Request("GET", "a.test", "/x", None, (), "")
RESPONSE = Response(503, ())


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """What the handler `made:hangs` waits for."""
    gate, made = threading.Event(), ModuleType("made")

    def hangs(*_: object) -> None:
        gate.wait(SECONDS)

    made.__dict__.update(hangs=hangs, other=hangs, good=lambda *_: Reply(200, (), b"good"))
    monkeypatch.setitem(sys.modules, "made", made)
    yield gate
    gate.set()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, SECONDS))


async def call(calls: Calls, name: str) -> bytes | str:
    made = await calls.call(f"made:{name}", REQUEST, RESPONSE)
    return str(made) if isinstance(made, HandlerError) else made.body if made else b""


async def until_called(calls: Calls, name: str, reply: bytes) -> None:
    """At last, if not at once: the machine may be busy for as long as a call may take."""
    while await call(calls, name) != reply:
        await asyncio.sleep(0.01)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def limits(monkeypatch: pytest.MonkeyPatch, **values: float) -> None:
    for name, value in values.items():
        monkeypatch.setattr(f"rejoinder.extproc.calls.{name}", value)


def test_a_handler_that_hangs_takes_its_own_threads_and_nobody_elses(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, SECONDS=0.2, THREADS_EACH=2, REST=0.1)
    log: list[str] = []

    async def main() -> None:
        calls = Calls(Handlers(log.append))
        late = await asyncio.gather(*(call(calls, "hangs") for _ in range(6)))
        assert set(late) == {"handler made:hangs: takes too long"}
        assert await call(calls, "hangs") == "handler made:hangs: its calls take too long"
        await until_called(calls, "good", b"good")
        gate.set()
        with contextlib.suppress(HandlerError):
            await until(lambda: not calls._late["made:hangs"])
        await until_called(calls, "hangs", b"")

    run(main())
    assert len(log) == 1
    assert "no reply within 0.2 s" in log[0]
    assert "gate.wait(SECONDS)" in log[0]


def test_more_calls_than_threads_wait_for_their_turn(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, SECONDS=SECONDS, THREADS_EACH=2)

    async def main() -> None:
        calls = Calls(Handlers(print))
        before = set(threading.enumerate())
        several = [asyncio.create_task(call(calls, "hangs")) for _ in range(20)]
        await until(lambda: len(set(threading.enumerate()) - before) == 2)
        assert await call(calls, "good") == b"good"
        gate.set()
        assert set(await asyncio.gather(*several)) == {b""}
        assert set(await asyncio.gather(*(call(calls, "good") for _ in range(20)))) == {b"good"}
        assert len(set(threading.enumerate()) - before) == 3

    run(main())


@pytest.mark.usefixtures("gate")
def test_however_many_handlers_hang_the_others_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        limits(monkeypatch, SECONDS=0.5)
        calls = Calls(Handlers(print))
        names = [f"hangs{number}" for number in range(20)]
        for name in names:
            monkeypatch.setattr(f"made.{name}", sys.modules["made"].hangs, raising=False)
        await asyncio.gather(*(call(calls, name) for name in names for _ in range(8)))
        await until_called(calls, "good", b"good")

    run(main())


@pytest.mark.usefixtures("gate")
def test_a_handler_that_computes_for_ever_is_ended_and_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    def computes(*_: object) -> None:
        while True:
            pass

    async def main() -> None:
        monkeypatch.setattr("made.computes", computes, raising=False)
        limits(monkeypatch, SECONDS=0.2, THREADS_EACH=2, REST=0.5)
        calls = Calls(Handlers(print))
        before = set(threading.enumerate())
        for _ in range(3):
            late = await asyncio.gather(*(call(calls, "computes") for _ in range(2)))
            assert set(late) == {"handler made:computes: takes too long"}
            assert await call(calls, "computes") == "handler made:computes: its calls take too long"
            await until(lambda: not calls._late["made:computes"])
        await until_called(calls, "good", b"good")
        assert len(set(threading.enumerate()) - before) <= 3  # they are the same threads

    run(main())
