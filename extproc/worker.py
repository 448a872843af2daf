"""One process of `workers`: a `Processor`, and the pipe by which it is told how the rules have changed.

Nothing that takes long is done beside the answers: who reads rule files does not hold Python's lock here, and a process
takes rules in and compiles them in a thread, in parts (PART), as whoever unpickles keeps the lock for all of a message.
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
"""Rules in a message: unpickling them takes two milliseconds."""
SWITCH_SECONDS: Final = 0.0005
"""After which a handler that computes is made to let others have Python's lock. By default it is ten times that, and
with eight of them an answer, which needs it several times, would wait too long."""
_PR_SET_PDEATHSIG: Final = 1

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""They are for the parent, which then closes the pipe. It starts a process with them blocked."""

Pipe = multiprocessing.connection.Connection


def send_change(send: Callable[[Any], None], told: tuple[Rule, ...], rules: tuple[Rule, ...]) -> None:
    """Send what differs between the rules that were told and these: all between the first and the last difference."""
    before = _same(told, rules)
    behind = _same(told[before:][::-1], rules[before:][::-1])
    changed = rules[before : len(rules) - behind]
    send((before, behind, len(changed)))  # None in its place would ask for the counters alone
    for start in range(0, len(changed), PART):
        send(changed[start : start + PART])


def receive_change(
    receive: Callable[[], Any], told: tuple[Rule, ...], change: tuple[int, int, int]
) -> tuple[Rule, ...]:
    """The rules after what `send_change` sends, of which the first message is here already."""
    before, behind, count = change
    changed: list[Rule] = []
    while len(changed) < count:
        changed += receive()
    return (*told[:before], *changed, *told[len(told) - behind :])


def _same(some: tuple[Rule, ...], others: tuple[Rule, ...]) -> int:
    """How many are the same at the beginning."""
    equal = (one is other or one == other for one, other in zip(some, others, strict=False))
    return sum(1 for _ in itertools.takewhile(bool, equal))


def work(
    pipe: Pipe, address: Address, files: tls.Files | None, mode: int, given: socket.socket | None, parent: int
) -> None:
    """The process: says its port, or why it has none; then for each message its counters."""
    if sys.platform == "linux":
        # However the parent dies. (Elsewhere, the end of the pipe is noticed.)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        return
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # what a handler starts may be ended
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
            # Of its own: asyncio looks names up in the others, for as long as that may take.
            loop, thread = asyncio.get_running_loop(), concurrent.futures.ThreadPoolExecutor(1)
            while True:
                changed = await loop.run_in_executor(thread, _next_program, pipe, program, leftovers)
                if changed is not None:
                    processor.publish(program := changed)
                pipe.send(processor.counters())
        await processor.stop()

    asyncio.run(run())


def _next_program(pipe: Pipe, program: Program, leftovers: Leftovers) -> Program | None:
    """The program after the next message, made beside the answers; None: it is as before."""
    change = pipe.recv()
    if change is None:
        return None
    gc.disable()  # it would walk all rules, again and again, with Python's lock
    try:
        rules = receive_change(pipe.recv, program.rules, change)
        leftovers.add(program.rules, rules)
        return compile_rules(rules)
    finally:
        gc.freeze()
        gc.enable()
