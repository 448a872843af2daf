"""What is served at the gRPC server: a method makes an exchange for each stream, and that a step of each message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from rejoinder.extproc.grpc_wire import Status


class Step(NamedTuple):
    """What a message leads to."""

    message: bytes
    """To be sent; empty: nothing is."""
    end: bool
    """The stream is to be ended."""
    status: Status = Status.OK
    """It ends with this one."""
    then: Callable[[], Awaitable[Next]] | None = None
    """What comes next, without a message of the client; it is cancelled when the client goes."""


Next = Callable[[], Step]
"""What that leads to which was awaited; not called where too much waits for the client by then."""

Exchange = Callable[[bytes], Step | Awaitable[Next]]
"""One stream: what a message leads to. What takes time is awaited, and the stream's next message with it."""

Method = Callable[[], Exchange]
