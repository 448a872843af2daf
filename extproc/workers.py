"""The ext_proc service on several cores: processes that each run a `Processor`, with the face of one.

They listen on consecutive ports, and Envoy's cluster has them all: so Envoy spreads the streams evenly. (One port for
all, with SO_REUSEPORT, spreads connections, of which an Envoy has one for each of its threads: they may well all meet
in one process.) A process is told the rules by a pipe, and says when it answers for them; the end of the pipe is its
end. One that dies is replaced.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import signal
import threading
from dataclasses import dataclass
from typing import Any, Final

from rejoinder.extproc.server import Counters, Processor
from rejoinder.rules.program import Program, compile_rules

_LOG: Final = logging.getLogger("rejoinder.extproc")
_SPAWN: Final = multiprocessing.get_context("spawn")  # a fork would take half of gRPC's threads along

Pipe = multiprocessing.connection.Connection


@dataclass(slots=True)
class _Worker:
    process: multiprocessing.process.BaseProcess
    pipe: Pipe
    port: int


class Workers:
    """Several processes that answer for the same rules. What a `Processor` has, this has too."""

    def __init__(self, count: int) -> None:
        """Args: count: how many processes."""
        self._count = count
        self._host = ""
        self._workers: list[_Worker] = []
        self._published = compile_rules(())
        self._talking = threading.Lock()
        """`counters` is called from other threads."""

    @property
    def ports(self) -> list[int]:
        """Where the processes listen."""
        return [worker.port for worker in self._workers]

    @property
    def pids(self) -> list[int | None]:
        """Their process ids, in the same order."""
        return [worker.process.pid for worker in self._workers]

    async def start(self, address: str) -> int:
        """Listen, on a port and those behind it.

        Args:
            address: `HOST:PORT`, IPv6 in brackets; port 0: any free ones.

        Returns:
            The first port.

        Raises:
            OSError: one of the addresses is in use or not this machine's; the text says which address.
        """
        self._host, _, text = address.rpartition(":")
        first = int(text)
        try:
            for number in range(self._count):
                self._workers.append(await asyncio.to_thread(self._spawn, first + number if first else 0))
        except OSError:
            await self.stop()
            raise
        self._tell_all(self._published)
        for worker in self._workers:
            self._watch(worker)
        return self._workers[0].port

    async def stop(self) -> None:
        """End all streams and processes."""
        workers, self._workers = self._workers, []
        for worker in workers:
            asyncio.get_running_loop().remove_reader(worker.process.sentinel)
            worker.pipe.close()
        for worker in workers:
            await asyncio.to_thread(worker.process.join)

    def publish(self, program: Program) -> None:
        """As `Processor.publish`; when it returns, every process answers for these rules."""
        self._published = program
        self._tell_all(self._published)

    def counters(self) -> Counters:
        """The sums over all processes; what one had counted that died is lost."""
        return _sum(self._tell_all(None))

    def _tell_all(self, message: Program | None) -> list[Counters]:
        with self._talking:
            # All at once, then wait: they take it in side by side.
            told = [worker for worker in self._workers if _sent(worker.pipe, message)]
            return [answer for worker in told if (answer := _received(worker.pipe)) is not None]

    def _spawn(self, port: int) -> _Worker:
        here, there = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_work, args=(there, f"{self._host}:{port}"), name="ext_proc", daemon=True)
        process.start()
        there.close()
        answer = _received(here)
        if not isinstance(answer, int):
            process.join()
            raise OSError(answer or f"a process for {self._host}:{port} did not start")
        return _Worker(process, here, answer)

    def _watch(self, worker: _Worker) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(worker.process.sentinel, lambda: loop.create_task(self._replace(worker)))

    async def _replace(self, worker: _Worker) -> None:
        asyncio.get_running_loop().remove_reader(worker.process.sentinel)
        if worker not in self._workers:
            return
        _LOG.error("an ext_proc process has ended (exit code %s) and is replaced", worker.process.exitcode)
        try:
            replacement = await asyncio.to_thread(self._spawn, worker.port)
        except OSError as error:
            _LOG.error("it could not be replaced: %s", error)
            return
        with self._talking:
            worker.pipe.close()
            self._workers[self._workers.index(worker)] = replacement
            if _sent(replacement.pipe, self._published):
                _received(replacement.pipe)
        self._watch(replacement)


def _sent(pipe: Pipe, message: object) -> bool:
    try:
        pipe.send(message)
    except OSError:
        return False  # it has died, and is about to be replaced
    return True


def _received(pipe: Pipe) -> Any:
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return None


def _sum(counters: list[Counters]) -> Counters:
    replies: collections.Counter[str] = collections.Counter()
    handler_failures: collections.Counter[str] = collections.Counter()
    for each in counters:
        replies.update(each.replies)
        handler_failures.update(each.handler_failures)
    return Counters(
        replies=dict(replies),
        passed=sum(each.passed for each in counters),
        failures=sum(each.failures for each in counters),
        overloaded=sum(each.overloaded for each in counters),
        connections=sum(each.connections for each in counters),
        streams=sum(each.streams for each in counters),
        handler_failures=dict(handler_failures),
    )


def _work(pipe: Pipe, address: str) -> None:
    """The process: says its port, or why it has none; then for each message its counters."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes the pipe
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")

    async def run() -> None:
        processor = Processor()
        try:
            port = await processor.start(address)
        except OSError as error:
            pipe.send(str(error))
            return
        pipe.send(port)
        with contextlib.suppress(EOFError, OSError):  # the parent has closed the pipe, or has died
            while True:
                message: Program | None = await asyncio.to_thread(pipe.recv)
                if message is not None:
                    processor.publish(message)
                pipe.send(processor.counters())
        await processor.stop()

    asyncio.run(run())
