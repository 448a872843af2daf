"""What is served at the gRPC server: a method makes an exchange for each stream, and that a step of each message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from rejoinder.extproc.grpc_wire import Status
from rejoinder.extproc.headers import Headers

Metadata = Headers
"""A request's headers, with the pseudo headers."""


class Step(NamedTuple):
    """What a message leads to."""

    message: bytes
    """To be sent; empty: nothing is."""
    end: bool
    """The stream is to be ended."""
    status: Status = Status.OK
    """It ends with this one."""
    then: Callable[[], Awaitable[Step]] | None = None
    """What comes next, without a message of the client; it is cancelled when the client goes."""


class Exchange(Protocol):
    """One stream."""

    def on_message(self, data: bytes) -> Step | Awaitable[Step]:
        """What a message leads to. What takes time is awaited, and the stream's next message with it."""

    def on_end(self) -> None:
        """Both sides have ended the stream. (Not called where the client has reset it, or gone away.)"""


Method = Callable[[Metadata], Exchange]
