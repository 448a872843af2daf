"""An event loop in a thread, for tests that ask it as strangers do."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from gateway import SECONDS

T = TypeVar("T")


@contextlib.contextmanager
def running(manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Enter a context in a loop that runs until the block ends."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            entered = asyncio.run_coroutine_threadsafe(manager.__aenter__(), loop).result(SECONDS)
            try:
                yield entered
            finally:
                asyncio.run_coroutine_threadsafe(manager.__aexit__(None, None, None), loop).result(SECONDS)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so. What fails for lack of a connection is tried again."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if condition():
                return
        time.sleep(0.02)
    raise AssertionError("it does not come to be so")
