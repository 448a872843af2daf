"""An event loop in a thread, for tests that ask it as strangers do."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from machine import SECONDS

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
