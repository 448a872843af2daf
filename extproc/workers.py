"""The ext_proc service as one or several processes (`worker`), for several cores, with the interface of a `Processor`.

They listen on consecutive ports, or Unix sockets, all of which are in Envoy's cluster: so Envoy spreads the streams
evenly. (One port for all, with SO_REUSEPORT, would spread connections; an Envoy has one for each of its threads, and
all of them may reach the same process.) A process gets changes of rules by a pipe, and answers when it uses them; the
end of the pipe, or of this process, ends it. A process that dies is replaced. One that does not answer is waited for
once, and gets the rules when it answers again: each process has a thread here that talks to it, so that a pipe that is
not read blocks nothing else. If it does not answer for long, it is killed and replaced: perhaps a handler never
releases Python's lock.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import multiprocessing.resource_tracker
import os
import queue
import signal
import socket
import threading
import time
import types
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rejoinder.extproc.server import Counters
from rejoinder.extproc.worker import ENDING, Pipe, send_change, work
from rejoinder.rules.counts import Counts, added
from rejoinder.rules.model import Rule
from rejoinder.rules.program import Program
from rejoinder.transport import tls, unix
from rejoinder.transport.addresses import Address, nth, parse, show

_LOG: Final = logging.getLogger("rejoinder.extproc")
_SPAWN: Final = multiprocessing.get_context("spawn")  # a fork would copy half of gRPC's threads

START_SECONDS: Final = 30.0
"""How long a process may take to send its port. It takes a second on a machine that is not busy."""
STARTS: Final = 3
"""How often a process that dies while it starts is started; then the start of the service fails."""
ANSWER_SECONDS: Final = 2.0
"""How long the others wait for a process to answer. It takes milliseconds."""
SILENT_SECONDS: Final = 30.0
"""How long a process may take to answer before it is killed. On a busy machine, ten thousand rules that have all
changed take some seconds."""
LOOK_SECONDS: Final = 5.0
"""Between two checks of all processes."""
STOP_SECONDS: Final = 5.0
"""From the end of its pipe to the end of a process; then it is killed."""
LONGEST_BACKOFF: Final = 10.0
"""Seconds between two attempts to replace a process, at most."""


class _DiedError(Exception):
    """A process has ended, or sent nothing, while it started."""


class _Line:
    """The messages to a process and its answers, in rounds, by a thread that may wait for it."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._program: Program | None = None
        """The program to be sent next."""
        self._next: Future[None] | None = None
        """The round that has not begun; None: none was requested."""
        self._go_on: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """Tells the thread to begin a round, or to end."""
        self._told: tuple[Rule, ...] = ()
        self._since: float | None = None
        """The time of the message that it has not answered yet."""
        self.given_up: Future[None] | None = None
        """The round that was waited for in vain: until it is over nobody waits again."""
        self.counters: Counters | None = None
        """The last answer."""
        threading.Thread(target=self._talk, name="ext_proc", daemon=True).start()

    def say(self, program: Program | None) -> Future[None]:
        """Send a program, or only ask for the counters; done with the answer, or when there will be none."""
        with self._lock:
            self._program = program or self._program
            if self._next is None:
                self._next = Future()
                self._go_on.put(True)
            return self._next

    def silent(self) -> float:
        """How long it has not answered."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """End the pipe, and so the process, unless it does not listen."""
        self._go_on.put(False)

    def _talk(self) -> None:
        try:
            # Suppressed: it has died, and is about to be replaced.
            with self._pipe, contextlib.suppress(EOFError, OSError):
                while self._go_on.get():
                    self._round()
        finally:
            with self._lock:
                self._next = self._next or Future()  # the round of all requests from now on
                self._next.set_result(None)

    def _round(self) -> None:
        with self._lock:
            program, self._program = self._program, None
            this, self._next = self._next, None
        assert this is not None
        try:
            self._since = time.monotonic()
            if program is None:
                self._pipe.send(None)
            else:
                send_change(self._pipe.send, self._told, program.rules)
                self._told = program.rules
            self.counters = self._pipe.recv()
            self._since = None
        finally:
            this.set_result(None)


@dataclass(slots=True)
class _Worker:
    process: multiprocessing.process.BaseProcess
    line: _Line
    address: Address
    """Where it listens; its replacement listens there, too."""


class Workers:
    """Processes that answer for the same rules, with the methods of a `Processor`."""

    def __init__(
        self,
        count: int,
        files: tls.Files | None = None,
        mode: int = unix.MODE,
        given: Mapping[Address, socket.socket] = types.MappingProxyType({}),
    ) -> None:
        """Args:
        count: how many processes.
        files: for TLS, where they do not listen on Unix sockets.
        mode: of Unix sockets.
            given: sockets that already listen, by address. New clients wait there while a process is replaced.
        """
        self._count = count
        self._files, self._mode, self._given = files, mode, given
        self._workers: list[_Worker] = []
        self._published: Program | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def ports(self) -> list[int]:
        """Where the processes listen; 0 for Unix sockets."""
        return [0 if isinstance(worker.address, Path) else worker.address[1] for worker in self._workers]

    @property
    def pids(self) -> list[int | None]:
        """Their process ids, in the same order."""
        return [worker.process.pid for worker in self._workers]

    async def start(self, address: str) -> int:
        """As `grpc.Server.listen`, for an address and the following ones (`addresses.nth`); returns the first port."""
        try:
            for at in range(self._count):
                self._workers.append(await self._started(nth(parse(address), at)))
        except BaseException:
            await self.stop()
            raise
        self._tell_all(self._published)
        for worker in self._workers:
            self._watch(worker)
        self._in_background(self._look())
        return self.ports[0]

    async def stop(self) -> None:
        """End all streams and processes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        workers, self._workers = self._workers, []
        for worker in workers:
            asyncio.get_running_loop().remove_reader(worker.process.sentinel)
            worker.line.close()
        await asyncio.gather(*(_ended(worker.process) for worker in workers))
        for worker in workers:
            if isinstance(worker.address, Path) and worker.address not in self._given:
                worker.address.unlink(missing_ok=True)

    def publish(self, program: Program) -> None:
        """As `Processor.publish`; when it returns, all processes that answer in time answer for these rules."""
        self._published = program
        self._tell_all(program)

    def counters(self) -> Counters:
        """The sums over all processes, as far as known; the counts of a process that died are lost. May be called by
        any thread."""
        self._tell_all(None)
        return _sum([worker.line.counters for worker in self._workers if worker.line.counters])

    def _tell_all(self, program: Program | None) -> None:
        # Send to all first, then wait: they receive it in parallel.
        rounds = {worker.line.say(program): worker.line for worker in list(self._workers)}
        awaited = [answer for answer, line in rounds.items() if line.given_up is None or line.given_up.done()]
        for late in concurrent.futures.wait(awaited, ANSWER_SECONDS).not_done:
            rounds[late].given_up = late
            _LOG.error("an ext_proc process does not answer; it has the rules when it does again")

    async def _started(self, address: Address) -> _Worker:
        for _ in range(STARTS):
            with contextlib.suppress(_DiedError):
                return await self._spawn(address)
        raise OSError(f"a process for {show(address)} did not start, {STARTS} times")

    async def _spawn(self, address: Address) -> _Worker:
        """Raises:
        OSError: the address cannot be used.
        _DiedError: it has ended.
        """
        here, there = _SPAWN.Pipe()
        arguments = there, address, self._files, self._mode, self._given.get(address), os.getpid()
        process = _SPAWN.Process(target=work, args=arguments, name="ext_proc", daemon=True)
        # Not in a thread: a process is ended with the thread that started it.
        multiprocessing.resource_tracker.ensure_running()  # its start would unblock the signals
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # which the process inherits
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        there.close()
        with contextlib.ExitStack() as failed:
            failed.callback(here.close)
            failed.callback(process.kill)
            answer = await asyncio.to_thread(_first, here)
            if isinstance(answer, int):
                failed.pop_all()
                return _Worker(process, _Line(here), (address[0], answer) if isinstance(address, tuple) else address)
        await _ended(process)
        if answer is not None:
            raise OSError(answer)
        raise _DiedError(f"a process for {show(address)} did not start")

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for worker in self._workers:
                worker.line.say(None)
                if worker.line.silent() > SILENT_SECONDS:
                    _LOG.error("an ext_proc process has not answered for %g s, and is killed", SILENT_SECONDS)
                    worker.process.kill()

    def _watch(self, worker: _Worker) -> None:
        loop = asyncio.get_running_loop()

        def died() -> None:
            loop.remove_reader(worker.process.sentinel)
            self._in_background(self._replace(worker))

        loop.add_reader(worker.process.sentinel, died)

    async def _replace(self, worker: _Worker) -> None:
        worker.process.join(1)  # it has closed its files, and is about to have an exit code
        _LOG.error("an ext_proc process has ended (exit code %s) and is replaced", worker.process.exitcode)
        worker.line.close()
        backoff = 0.1
        while True:
            try:
                replacement = await self._spawn(worker.address)
                break
            except Exception as error:  # no memory, no processes: this may be temporary
                _LOG.error("it could not be replaced, and it is tried again in %g s: %s", backoff, error)
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF)
        self._workers[self._workers.index(worker)] = replacement
        replacement.line.say(self._published)
        self._watch(replacement)


async def _ended(process: multiprocessing.process.BaseProcess) -> None:
    """Wait for the end of a process that is ending; if it takes too long, kill it."""
    await asyncio.to_thread(process.join, STOP_SECONDS)
    if process.is_alive():
        process.kill()
        await asyncio.to_thread(process.join, STOP_SECONDS)


def _first(pipe: Pipe) -> Any:
    """The first message of a process that has started; None: none."""
    try:
        return pipe.recv() if pipe.poll(START_SECONDS) else None
    except (EOFError, OSError):
        return None


def _sum(counters: list[Counters]) -> Counters:
    counters = [Counters(Counts(), 0, 0), *counters]
    handler_failures: collections.Counter[str] = collections.Counter()
    for counter in counters:
        handler_failures.update(counter.handler_failures)
    plain = ("passed", "failures", "overloaded", "seconds", "connections", "streams")
    return Counters(
        counts=added(counter.counts for counter in counters),
        handler_failures=dict(handler_failures),
        durations=tuple(map(sum, zip(*(counter.durations for counter in counters), strict=True))),
        **{name: sum(getattr(counter, name) for counter in counters) for name in plain},
    )
