"""A stream at the gRPC server: a method makes an exchange for it, and the exchange makes a step of each message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from rejoinder.extproc.grpc_wire import Status


class Step(NamedTuple):
    """The result of a message."""

    message: bytes
    """The message to be sent; empty: none."""
    end: bool
    """Whether the stream is to be ended."""
    status: Status = Status.OK
    """The status with which it ends."""
    then: Callable[[], Awaitable[Next]] | None = None
    """The next step, without a message of the client; it is cancelled when the client leaves."""


Next = Callable[[], Step]
"""Makes the step from what was awaited; not called if too much waits for the client by then."""

Exchange = Callable[[bytes], Step | Awaitable[Next]]
"""One stream: the step for a message. If the step is awaited, the stream's next message waits for it, too."""

Method = Callable[[], Exchange]
