"""One process of `workers`: a `Processor`, and the pipe that brings it the changes of rules.

Only answers may take long here: rule files are read in another process, which does not hold Python's lock here. Rules
are received and compiled in a thread, in parts (PART), because unpickling holds the lock for a whole message.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ctypes
import gc
import itertools
import logging
import multiprocessing.connection
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

from rejoinder.extproc.server import Processor
from rejoinder.rules import log
from rejoinder.rules.leftovers import Leftovers
from rejoinder.rules.model import Rule
from rejoinder.rules.program import Program, compile_rules
from rejoinder.transport import tls
from rejoinder.transport.addresses import Address, show

PART: Final = 200
"""Rules in a message: unpickling it takes two milliseconds."""
SWITCH_SECONDS: Final = 0.0005
"""Interval after which a computing handler must let other threads have Python's lock. The default is ten times that:
with eight such handlers, an answer, which needs the lock several times, would wait too long."""
_PR_SET_PDEATHSIG: Final = 1

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals for the parent, which then closes the pipe. It starts a process with these blocked."""

Pipe = multiprocessing.connection.Connection


def send_change(send: Callable[[Any], None], told: tuple[Rule, ...], rules: tuple[Rule, ...]) -> None:
    """Send the difference between the rules sent last and these: everything from the first to the last change."""
    before = _same(told, rules)
    behind = _same(told[before:][::-1], rules[before:][::-1])
    changed = rules[before : len(rules) - behind]
    send((before, behind, len(changed)))  # None instead would ask for the counters alone
    for start in range(0, len(changed), PART):
        send(changed[start : start + PART])


def receive_change(
    receive: Callable[[], Any], told: tuple[Rule, ...], change: tuple[int, int, int]
) -> tuple[Rule, ...]:
    """The rules after a change by `send_change`, whose first message has already been received."""
    before, behind, count = change
    changed: list[Rule] = []
    while len(changed) < count:
        changed += receive()
    return (*told[:before], *changed, *told[len(told) - behind :])


def _same(some: tuple[Rule, ...], others: tuple[Rule, ...]) -> int:
    """How many are equal at the beginning."""
    equal = (one is other or one == other for one, other in zip(some, others, strict=False))
    return sum(1 for _ in itertools.takewhile(bool, equal))


def work(
    pipe: Pipe, address: Address, files: tls.Files | None, mode: int, given: socket.socket | None, parent: int
) -> None:
    """The process: sends its port, or why it has none; then, for each message, its counters."""
    if sys.platform == "linux":
        # However the parent dies. (On other systems, the end of the pipe is noticed.)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        return
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # processes that a handler starts can be ended
    log.start(logging.WARNING)
    sys.setswitchinterval(SWITCH_SECONDS)

    async def run() -> None:
        try:
            processor = Processor(tls.Reloading(files) if files and isinstance(address, tuple) else None)
            port = await processor.start(show(address), mode, given)
        except OSError as error:
            pipe.send(str(error))
            return
        pipe.send(port)
        with contextlib.suppress(EOFError, OSError):  # the parent has closed the pipe, or has died
            program, leftovers = compile_rules(()), Leftovers()
            # A pool of its own: in asyncio's default one, name lookups may take all threads for long.
            loop, thread = asyncio.get_running_loop(), concurrent.futures.ThreadPoolExecutor(1)
            while True:
                changed = await loop.run_in_executor(thread, _next_program, pipe, program, leftovers)
                if changed is not None:
                    processor.publish(program := changed)
                pipe.send(processor.counters())
        await processor.stop()

    asyncio.run(run())


def _next_program(pipe: Pipe, program: Program, leftovers: Leftovers) -> Program | None:
    """The program after the next message, compiled in a thread; None: no change."""
    change = pipe.recv()
    if change is None:
        return None
    gc.disable()  # it would go through all rules, again and again, holding Python's lock
    try:
        rules = receive_change(pipe.recv, program.rules, change)
        leftovers.add(program.rules, rules)
        return compile_rules(rules)
    finally:
        gc.freeze()
        gc.enable()
