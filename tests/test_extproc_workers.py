"""The ext_proc service as several processes: they answer for the same rules, and one that dies is replaced."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import queue
import signal
import socket
import time
from collections.abc import Coroutine
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from gateway import free_port, free_ports
from machine import SECONDS

from rejoinder.extproc import Workers
from rejoinder.extproc.server import SERVICE
from rejoinder.extproc.worker import PART, receive_change, send_change
from rejoinder.extproc.workers import STARTS
from rejoinder.rules.model import Answer, Endpoint, RemotePage, Rule, StatusPattern, Upstream
from rejoinder.rules.program import Program, compile_rules
from rejoinder.xds.protobuf import message_class

Request: Any = message_class("envoy.service.ext_proc.v3.ProcessingRequest")


def program(body: str) -> Program:
    return compile_rules([Rule("busy", (Answer(503, (), body.encode(), (StatusPattern("503"),)),))])


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has the time that it takes on a busy machine."""
    monkeypatch.setattr("rejoinder.extproc.workers.ANSWER_SECONDS", SECONDS)


async def ask(port: int, status: int = 503) -> bytes:
    """What a process sends for a status; empty: the response passes."""
    request = Request()
    header = request.response_headers.headers.headers.add()
    header.key, header.raw_value = ":status", b"%d" % status
    request.response_headers.end_of_stream = True
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.stream_stream(f"/{SERVICE}/Process")()
        await call.write(request.SerializeToString())
        answer = await call.read()
        return b"" if answer is grpc.aio.EOF else bytes(answer)


def tell(workers: Workers, number: int, what: signal.Signals) -> None:
    """Send a signal to a process, and to no other."""
    pid = workers.pids[number]
    assert pid
    os.kill(pid, what)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, SECONDS))


def test_every_process_answers_for_what_was_published_before_and_after_the_start() -> None:
    async def test() -> None:
        workers = Workers(2)
        workers.publish(program("before"))
        first = await workers.start("127.0.0.1:0")
        try:
            assert first == workers.ports[0]
            for port in workers.ports:
                assert b"before" in await ask(port)
            workers.publish(program("after"))
            for port in workers.ports:
                assert b"after" in await ask(port)
            counters = workers.counters()
            assert counters.counts.total() == {"busy": 4}
            assert counters.passed == 0
        finally:
            await workers.stop()

    run(test())


def no_name_is_found(*_: object) -> None:
    """A handler, by which the process has no names any more."""
    socket.getaddrinfo = lambda *_, **__: time.sleep(3600)  # type: ignore[assignment]


def test_names_that_are_looked_up_for_ever_keep_no_rules_away() -> None:
    def on(status: int, **what: Any) -> Rule:
        return Rule(f"on-{status}", (Answer(enable_on_status=(StatusPattern(str(status)),), **what),))

    def asking(number: int) -> Rule:
        service = Upstream(f"{number}", (Endpoint(f"{number}.test", 80),))
        return on(510 + number, remote=RemotePage(service.name, timeout=0.1, service=service))

    async def test() -> None:
        workers = Workers(1)
        port, names = await workers.start("127.0.0.1:0"), range(40)
        try:
            handler = on(500, handler=f"{__name__}:no_name_is_found")
            workers.publish(compile_rules([handler, *map(asking, names)]))
            assert await ask(port, 500) == b""
            assert await asyncio.gather(*(ask(port, 510 + name) for name in names)) == [b""] * 40
            before = workers.pids
            for body in ("after", "and after"):
                workers.publish(program(body))
                assert body.encode() in await ask(port)
            assert workers.pids == before
        finally:
            await workers.stop()

    run(test())


def test_a_process_that_dies_is_replaced_on_its_port_with_the_rules() -> None:
    async def test() -> None:
        workers = Workers(2)
        await workers.start(f"127.0.0.1:{free_ports()[0]}")
        try:
            workers.publish(program("here"))
            ports = workers.ports
            tell(workers, 1, signal.SIGKILL)
            while workers.ports != ports or not await _answers(ports[1]):
                await asyncio.sleep(0.05)
            assert b"here" in await ask(ports[0])
        finally:
            await workers.stop()

    run(test())


def test_a_process_that_is_stopped_holds_up_nothing_and_has_the_rules_when_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rejoinder.extproc.workers.ANSWER_SECONDS", 0.2)

    async def test() -> None:
        workers = Workers(2)
        await workers.start("127.0.0.1:0")
        try:
            workers.publish(program("before"))
            tell(workers, 0, signal.SIGSTOP)
            large = program("x" * 1_000_000)  # more than a pipe takes that nobody reads
            for _ in range(3):
                workers.publish(large)
                workers.counters()
            workers.publish(program("here"))
            while not await _answers(workers.ports[1]) or not workers.counters().counts.total():
                await asyncio.sleep(0.05)
            tell(workers, 0, signal.SIGCONT)
            while not await _answers(workers.ports[0]):
                await asyncio.sleep(0.05)
            tell(workers, 1, signal.SIGSTOP)
        finally:
            await workers.stop()

    run(test())


def test_a_process_that_answers_nothing_for_long_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("ANSWER_SECONDS", 0.2), ("SILENT_SECONDS", 2), ("LOOK_SECONDS", 1)):
        monkeypatch.setattr(f"rejoinder.extproc.workers.{name}", seconds)

    async def test() -> None:
        workers = Workers(1)
        await workers.start(f"127.0.0.1:{free_port()}")
        try:
            workers.publish(program("here"))
            stopped = workers.pids[0]
            tell(workers, 0, signal.SIGSTOP)
            while workers.pids[0] == stopped or not await _answers(workers.ports[0]):
                await asyncio.sleep(0.05)
        finally:
            await workers.stop()

    run(test())


def test_a_process_that_dies_while_it_starts_is_replaced() -> None:
    async def test() -> None:
        workers = Workers(1)
        killed: list[int | None] = []

        async def kill_those_that_start(number: int) -> None:
            seen = set(workers.pids)
            while number:
                for process in multiprocessing.active_children():
                    if process.name == "ext_proc" and process.pid not in seen and number:
                        seen.add(process.pid)
                        killed.append(process.pid)
                        process.kill()
                        number -= 1
                await asyncio.sleep(0.001)

        killing = asyncio.create_task(kill_those_that_start(STARTS - 1))
        await workers.start(f"127.0.0.1:{free_port()}")
        try:
            await killing
            workers.publish(program("here"))
            port = workers.ports[0]
            while not await _answers(port):
                await asyncio.sleep(0.05)
            killing = asyncio.create_task(kill_those_that_start(2))
            tell(workers, 0, signal.SIGKILL)
            await killing
            while not await _answers(port):
                await asyncio.sleep(0.05)
            assert len(killed) == STARTS + 1
        finally:
            await workers.stop()

    run(test())


def test_a_process_that_starts_is_not_ended_by_signals_for_its_parent(capfd: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        workers = Workers(1)
        told: set[int] = set()

        async def tell_those_that_start() -> None:
            while True:
                for pid in {process.pid or 0 for process in multiprocessing.active_children()} - told - {0}:
                    for what in (signal.SIGINT, signal.SIGTERM):
                        os.kill(pid, what)
                    told.add(pid)
                await asyncio.sleep(0)

        telling = asyncio.create_task(tell_those_that_start())
        try:
            await workers.start("127.0.0.1:0")
            assert workers.pids == list(told)
        finally:
            telling.cancel()
            await workers.stop()

    run(test())
    assert "Traceback" not in capfd.readouterr().err


async def _answers(port: int) -> bool:
    try:
        return b"here" in await ask(port)
    except grpc.aio.AioRpcError:
        return False


def test_a_port_that_is_taken_is_an_error_that_names_it() -> None:
    async def test() -> None:
        holder = Workers(1)
        port = await holder.start("127.0.0.1:0")
        try:
            with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
                await Workers(1).start(f"127.0.0.1:{port}")
        finally:
            await holder.stop()

    run(test())


RULES: Final = tuple(program(f"{number}").rules[0] for number in range(3 * PART))
NEW: Final = program("new").rules
CHANGES: Final = {
    "nothing": (RULES, 0),
    "one in front": (NEW + RULES, 1),
    "one less": (RULES[:7] + RULES[8:], 0),
    "one behind": (RULES + NEW, 1),
    "one other": (RULES[:7] + NEW + RULES[8:], 1),
    "one twice": (RULES[:8] + RULES[7:], 1),
    "two others": (RULES[:7] + NEW + RULES[8:10] + NEW + RULES[11:], 4),
    "all": (RULES[::-1], len(RULES)),
    "none left": ((), 0),
}


@pytest.mark.parametrize(("rules", "sent"), CHANGES.values(), ids=CHANGES)
def test_what_has_changed_is_sent_in_small_parts(rules: tuple[Rule, ...], sent: int) -> None:
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    send_change(messages.put, RULES, rules)
    change = messages.get()
    assert messages.qsize() == -(-sent // PART)
    assert receive_change(messages.get, RULES, change) == rules
