"""Python handlers of the ext_proc service: called in threads of their own, for a limited time.

In: a handler's name, a request and a response. Out: its reply, or a `HandlerError`, also when it takes too long.
A handler has up to THREADS_EACH calls at once, however many calls other handlers have. In a call that takes too long,
an exception is raised, which ends Python code that computes. A call that blocks elsewhere keeps its thread: Python
cannot stop it. Such a handler is called again after the call has ended, and a pause. Other handlers, loading, and the
end of the process do not wait for it.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ctypes
import functools
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Final

from rejoinder.rules.answers import Reply
from rejoinder.rules.handlers import HandlerError, Handlers, Request, Response

SECONDS: Final = 0.9
"""The limit of a call, including its wait: Envoy waits for a second (`message_timeout`, docs/ext_proc.md)."""
THREADS_EACH: Final = 8
"""Calls of one handler at once. Python runs one at a time; the others wait for a file or a database."""
REST: Final = 10.0
"""Seconds from the end of a late call until another one takes its place: if all calls are late, they get a tenth of the
time."""

Made = Reply | HandlerError | None
"""The result of a call."""


class Calls:
    """For one event loop."""

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers
        self._idle = 0
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._turns: dict[str, asyncio.Semaphore] = {}
        """By handler: the calls that it may have at once."""
        self._late: collections.Counter[str] = collections.Counter()
        """By handler: its calls that nobody waits for any more, and those in their pause."""

    async def call(self, name: str, request: Request, response: Response | None) -> Made:
        """As `Handlers.call`, but no longer than the limit.

        Returns:
            HandlerError: it failed, or takes too long; count that and let the response pass. It has been logged.
        """
        if self._late[name] >= THREADS_EACH:
            text = (
                f"{THREADS_EACH} calls of it took too long: it is not called until one of them has ended, and rested\n"
            )
            return self._handlers.failed(name, text, "its calls take too long")
        turns = self._turns.setdefault(name, asyncio.Semaphore(THREADS_EACH))
        running: _Running | None = None
        try:
            async with asyncio.timeout(SECONDS):
                await turns.acquire()
                running = _Running(functools.partial(self._handlers.call, name, request, response), turns.release)
                self._start(running)
                return await asyncio.shield(running.result)
        except TimeoutError:
            text = f"no reply within {SECONDS:g} s\n" + (running.where() if running else "")
            if running and not running.result.done():
                self._late[name] += 1
                loop = asyncio.get_running_loop()
                running.result.add_done_callback(lambda _: loop.call_later(REST, self._late.subtract, (name,)))
                running.interrupt()
            return self._handlers.failed(name, text, "takes too long")
        except RuntimeError as error:  # the system has no threads left
            turns.release()
            return self._handlers.failed(name, f"{error}\n", str(error))

    def _start(self, running: _Running) -> None:
        if not self._idle:
            # A daemon: the process ends whatever the thread does.
            threading.Thread(target=self._run, name="handler", daemon=True).start()
            self._idle += 1
        self._idle -= 1
        running.result.add_done_callback(self._done)
        self._work.put(running.run)

    def _done(self, _: object) -> None:
        self._idle += 1

    def _run(self) -> None:
        while True:
            self._work.get()()


class _Running:
    """One call."""

    def __init__(self, call: Callable[[], Reply | None], release: Callable[[], None]) -> None:
        self._call = call
        self._release = release
        self._loop = asyncio.get_running_loop()
        self._thread: int | None = None
        self._switching = threading.Lock()
        """While the thread changes from the handler to other code, or back."""
        self.result: asyncio.Future[Made] = self._loop.create_future()

    def run(self) -> None:
        self._thread = threading.get_ident()
        made: Made
        try:
            try:
                made = self._call()
            finally:
                with self._switching:
                    self._thread = None
        except HandlerError as error:
            made = error
        except BaseException as error:  # from logging, at most, or an interruption that came late
            made = HandlerError(str(error))
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._end, made)

    def _end(self, made: Made) -> None:
        self._release()
        self.result.set_result(made)

    def interrupt(self) -> None:
        """Raise an exception in the handler, as soon as it runs Python code."""
        with self._switching:
            if self._thread is not None:
                raised = ctypes.py_object(TimeoutError)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), raised)

    def where(self) -> str:
        """Where it is now, as a traceback."""
        frame = sys._current_frames().get(self._thread or 0)
        return "".join(traceback.format_stack(frame)) if frame else ""
