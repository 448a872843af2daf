"""The streams of one HTTP/2 connection, server side, and what is sent on them: responses, flow control, their end.

`http2.Connection` is built on `Streams`: it reads what the client sends, and changes the state of streams accordingly.
Only `_widen` raises, for a window that a client has made too large.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from rejoinder.extproc.frames import (
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    LONG,
    MAX_WINDOW,
    ErrorCode,
    Frame,
    ProtocolError,
    frame,
)

MAX_FRAME_SIZE: Final = 1 << 14
"""Bytes of a frame's payload. This and STREAM_WINDOW are the protocol's defaults: they are valid from the first byte
on, not only after the client has acknowledged our settings."""
STREAM_WINDOW: Final = (1 << 16) - 1
"""Bytes that a client may send ahead on a stream. A request for one answer is some hundred bytes."""
EARNED: Final = 2
"""How many useless frames a stream makes up for when it is served, and each part of its body: the client may send a
WINDOW_UPDATE or two for it."""


_NOTHING: Final = memoryview(b"")


@dataclass(slots=True, eq=False)
class Stream:
    """One stream that is not closed. A stream that this side ends is closed at once (`Streams._end`)."""

    send_window: int
    ended: bool
    """The client has sent everything: section 5.1, half-closed."""
    received: int = 0
    """Received bytes for which the window was not opened again yet."""
    waiting: memoryview = _NOTHING
    """Data to be sent when the windows allow it; the trailers follow, and the end."""
    trailers: bytes | None = None


class Streams:
    """What is sent on one connection."""

    def __init__(self) -> None:
        self.closed = False
        """GOAWAY was sent: received bytes are ignored."""
        self.waiting = 0
        """Bytes that wait for the client's windows. There is no limit here: the caller has one."""
        self._streams: dict[int, Stream] = {}
        self._last_id = 0
        """The highest number that a stream of the client had."""
        self._blocked: OrderedDict[int, Stream] = OrderedDict()
        """Streams that only wait for the connection's window, in turn."""
        self._send_window = self._initial_window = STREAM_WINDOW
        self._max_frame_size = MAX_FRAME_SIZE
        self._useless = 0
        """Useless frames of the client (`forgive`)."""
        self._out: list[bytes] = []

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    def data_to_send(self) -> bytes:
        """The bytes to be written now. Each byte is returned once."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def respond(self, stream_id: int, headers: bytes, data: bytes, trailers: bytes) -> None:
        """A whole response: as `send_headers`, `send_data` and `send_trailers`, but cheaper."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        size = len(data)
        if size > self._send_window or size > stream.send_window or size > self._max_frame_size:
            self.send_headers(stream_id, headers)
            self.send_data(stream_id, data)
            self.send_trailers(stream_id, trailers)
            return
        self._send_window -= size
        self._out += (
            frame(1, END_HEADERS, stream_id, headers),
            frame(0, 0, stream_id, data),
            frame(1, END_HEADERS | END_STREAM, stream_id, trailers),
        )
        self._end(stream_id, stream)

    def send_headers(self, stream_id: int, headers: bytes) -> None:
        """The headers of a response, from `headers.encode`."""
        if stream_id in self._streams:
            self._out.append(frame(Frame.HEADERS, END_HEADERS, stream_id, headers))

    def send_data(self, stream_id: int, data: bytes) -> None:
        """A part of a body; bytes beyond the windows wait."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.waiting = memoryview(bytes(stream.waiting) + data if stream.waiting else data)
            self.waiting += len(data)
            self._useless -= EARNED
            self._send(stream_id, stream)

    def send_trailers(self, stream_id: int, trailers: bytes) -> None:
        """The end, after everything that waits. Without headers and a body before, it is the whole response."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.trailers = trailers
            self._send(stream_id, stream)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """Reset a stream."""
        if self._forget(stream_id) is not None:
            self._out.append(frame(Frame.RST_STREAM, 0, stream_id, LONG.pack(code)))

    def ping(self, data: bytes) -> None:
        """Ask for a `Pong` with these eight bytes."""
        self._out.append(frame(Frame.PING, 0, 0, data))

    def shut_down(self) -> None:
        """Tell the client to open no more streams. Open streams are still served (section 6.8)."""
        self._out.append(frame(Frame.GOAWAY, 0, 0, GOAWAY.pack(MAX_WINDOW, ErrorCode.NO_ERROR)))

    def close(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """End the connection and all its streams."""
        if not self.closed:
            self.closed = True
            self._streams.clear()
            self._blocked.clear()
            self.waiting = 0
            self._out.append(frame(Frame.GOAWAY, 0, 0, GOAWAY.pack(self._last_id, code)))

    def forgive(self) -> None:
        """Forget the useless frames of the client. Call this once a second."""
        self._useless = 0

    def _send(self, stream_id: int, stream: Stream) -> None:
        waiting = stream.waiting
        while waiting:
            size = min(len(waiting), self._send_window, stream.send_window, self._max_frame_size)
            if size <= 0:
                if stream.send_window > 0:
                    self._blocked[stream_id] = stream
                break
            self._out.append(frame(Frame.DATA, 0, stream_id, bytes(waiting[:size])))
            self._send_window -= size
            stream.send_window -= size
            self.waiting -= size
            waiting = waiting[size:]
        stream.waiting = waiting
        if not waiting and stream.trailers is not None:
            self._out.append(frame(Frame.HEADERS, END_HEADERS | END_STREAM, stream_id, stream.trailers))
            self._end(stream_id, stream)

    # The response is complete, and more of the request is not needed: section 8.1, RST_STREAM with NO_ERROR.
    def _end(self, stream_id: int, stream: Stream) -> None:
        del self._streams[stream_id]
        if not stream.ended:
            self._out.append(frame(3, 0, stream_id, b"\0\0\0\0"))
        self._useless -= EARNED

    def _forget(self, stream_id: int) -> Stream | None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._blocked.pop(stream_id, None)
            self.waiting -= len(stream.waiting)
        return stream

    def _open_window(self, stream_id: int, size: int) -> None:
        self._out.append(frame(Frame.WINDOW_UPDATE, 0, stream_id, LONG.pack(size)))

    def _widen(self, stream_id: int, stream: Stream, change: int, wrong: type[ProtocolError]) -> None:
        stream.send_window += change
        if stream.send_window > MAX_WINDOW:
            raise wrong(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window is too large")
        self._send(stream_id, stream)
