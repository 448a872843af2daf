"""One HTTP/2 connection, the server's side, without I/O: bytes in, events and bytes out. What gRPC needs, no more.

The way in is `Connection`. In go a client's bytes (`receive_data`) and what is to be said to it (`respond` and its
parts); out come events, and bytes (`data_to_send`). Nothing is raised for anything that a client sends: what breaks the
protocol ends the stream with RST_STREAM, or the connection with GOAWAY; then it is `closed`, and is to be hung up as
soon as the bytes are written. What is sent on a stream that is not there (any more) is dropped: a client may reset it
at any time. Whatever changes the state of a connection is in this file.

The numbers of sections are those of RFC 9113, https://www.rfc-editor.org/rfc/rfc9113
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from rejoinder.extproc.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADER,
    LONG,
    MAX_WINDOW,
    PADDED,
    PREFACE,
    PRIORITY_FLAG,
    BrokenConnectionError,
    BrokenStreamError,
    ErrorCode,
    Frame,
    ProtocolError,
    Setting,
    frame,
    parse_settings,
    settings,
    unpadded,
)
from rejoinder.extproc.headers import MAX_BLOCK, MAX_LIST_SIZE, Blocks, HeaderError, Headers, HeadersTooLargeError, Kind

MAX_FRAME_SIZE: Final = 1 << 14
"""Of a payload. This and the next are the protocol's defaults, so that they hold from the first byte on, and not only
when the client has acknowledged something."""
STREAM_WINDOW: Final = (1 << 16) - 1
"""Bytes that may be on their way on a stream. A request for one answer is some hundred bytes."""
CONNECTION_WINDOW: Final = 1 << 20
"""The same for a connection: hundreds of requests between two turns of the event loop."""
MAX_CONCURRENT_STREAMS: Final = 4096
"""Each costs about 1 kB here. For more Envoy opens another connection."""
MAX_USELESS: Final = 10_000
"""Frames between two calls of `forgive` that cost something and bring nothing: settings, pings, resets of what nobody
has answered yet, empty frames. At up to 10 us each it is a tenth of a second. It must be large: when an Envoy's clients
give up all at once, it resets thousands of streams."""
SMALL: Final = 64
"""Bytes of DATA that are of little use: a message in pieces that small costs as many events as it has bytes. An answer
makes up for the small message that it is to."""
SETTINGS_COST: Final = 100
"""In such frames: the windows of all streams may have to change."""
EARNED: Final = 2
"""What a stream that is served makes up for, and so does each part of its body: with it may come a WINDOW_UPDATE or
two."""


class Request(NamedTuple):
    """A stream has begun."""

    stream_id: int
    headers: Headers
    """In order, with the pseudo headers. The same object for the same bytes, as a rule."""
    end_stream: bool


class Data(NamedTuple):
    """More of a stream's body."""

    stream_id: int
    data: bytes
    """May be empty where the stream ends."""
    end_stream: bool


class Reset(NamedTuple):
    """A stream is gone: the client has reset it, or we had to. Nothing more can be sent."""

    stream_id: int
    error_code: int


class Pong(NamedTuple):
    """The client has answered a `ping`."""

    data: bytes


Event = Request | Data | Reset | Pong


class _State(enum.Enum):
    """Of a stream, section 5.1. What we end is closed at once (`Connection._end`): there is no half-closed (local)."""

    IDLE = enum.auto()
    OPEN = enum.auto()
    HALF_CLOSED = enum.auto()
    """The client has sent all."""
    CLOSED = enum.auto()


# Section 5.1: which frame may not come in which state, and what follows. Frames for closed streams may have been under
# way, and are let fall.
_MISPLACED: Final[Mapping[tuple[_State, int], tuple[type[ProtocolError], ErrorCode]]] = {
    (_State.IDLE, Frame.HEADERS): (BrokenConnectionError, ErrorCode.PROTOCOL_ERROR),
    (_State.IDLE, Frame.DATA): (BrokenConnectionError, ErrorCode.PROTOCOL_ERROR),
    (_State.IDLE, Frame.RST_STREAM): (BrokenConnectionError, ErrorCode.PROTOCOL_ERROR),
    (_State.IDLE, Frame.WINDOW_UPDATE): (BrokenConnectionError, ErrorCode.PROTOCOL_ERROR),
    (_State.HALF_CLOSED, Frame.DATA): (BrokenStreamError, ErrorCode.STREAM_CLOSED),
    (_State.HALF_CLOSED, Frame.HEADERS): (BrokenStreamError, ErrorCode.STREAM_CLOSED),
}

# Without a dynamic table, the header block of each stream of an Envoy's route is the same bytes: decoded once.
_ANNOUNCED: Final = {
    Setting.HEADER_TABLE_SIZE: 0,
    Setting.MAX_CONCURRENT_STREAMS: MAX_CONCURRENT_STREAMS,
    Setting.MAX_HEADER_LIST_SIZE: MAX_LIST_SIZE,
}


class _Stream:
    __slots__ = ("received", "send_window", "state", "trailers", "waiting")

    def __init__(self, state: _State, send_window: int) -> None:
        self.state = state
        self.send_window = send_window
        self.received = 0
        """Bytes that the client has not been told yet that it may send again."""
        self.waiting = _NOTHING
        """What is to be sent when the windows allow it; behind it come the trailers, and the end."""
        self.trailers: bytes | None = None


_NOTHING: Final = memoryview(b"")


class Connection:
    """One connection.

    connection = Connection()
    for event in connection.receive_data(data): ...
    connection.respond(event.stream_id, headers, body, trailers)
    transport.write(connection.data_to_send())
    if connection.closed: transport.close()
    """

    def __init__(self) -> None:
        self.closed = False
        """All is said: what is received is ignored."""
        self.error = ""
        """Why the connection was broken off; empty: it was not."""
        self.waiting = 0
        """Bytes that wait for the client's windows. There is no limit here: say no more when it gets too much."""
        self._buffer = b""
        self._expected: int | None = Frame.SETTINGS
        """The only frame that may come now: SETTINGS at first (3.4), CONTINUATION in a header block; None: any."""
        self._preface_awaited = True
        self._block: tuple[int, int, bytearray] | None = None
        """Stream, flags and beginning of a header block that goes on."""
        self._blocks = Blocks()
        self._events: list[Event] = []
        self._streams: dict[int, _Stream] = {}
        self._last_id = 0
        self._blocked: OrderedDict[int, _Stream] = OrderedDict()
        """Streams that could go on if the connection's window were open, in turn."""
        self._send_window = self._initial_window = STREAM_WINDOW
        self._max_frame_size = MAX_FRAME_SIZE
        self._received = 0
        self._useless = 0
        self._out = [frame(Frame.SETTINGS, 0, 0, settings(_ANNOUNCED))]
        self._open_window(0, CONNECTION_WINDOW - STREAM_WINDOW)

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    def receive_data(self, data: bytes) -> list[Event]:
        """What some bytes of the client lead to, in order. Then see `data_to_send`, and whether it is `closed`."""
        events: list[Event] = []
        self._events = events
        if self.closed:
            return events
        buffer = self._buffer + data if self._buffer else data
        position, end = 0, len(buffer)
        try:
            if self._preface_awaited:
                if not PREFACE.startswith(buffer[: len(PREFACE)]):
                    raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2")
                if end >= len(PREFACE):
                    self._preface_awaited, position = False, len(PREFACE)
            while end - position >= 9 and not self._preface_awaited:
                high, low, kind, flags, stream_id = HEADER.unpack_from(buffer, position)
                start = position + 9
                size = high << 8 | low
                if size > MAX_FRAME_SIZE:
                    raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes")  # section 4.2
                if start + size > end:
                    break
                position = start + size
                self._on_frame(kind, flags, stream_id & MAX_WINDOW, buffer[start:position])
        except BrokenConnectionError as error:
            self.error = f"{error.code.name}: {error}"
            self.close(error.code)
        self._buffer = b"" if self.closed else buffer[position:]
        return events

    def data_to_send(self) -> bytes:
        """What is to be written now. Each byte is handed out once."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    # What is sent.

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
        """A part of a body; what the windows do not allow waits."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.waiting = memoryview(bytes(stream.waiting) + data if stream.waiting else data)
            self.waiting += len(data)
            self._useless -= EARNED
            self._send(stream_id, stream)

    def send_trailers(self, stream_id: int, trailers: bytes) -> None:
        """The end, behind what waits. Without headers and a body before: the response is only this."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.trailers = trailers
            self._send(stream_id, stream)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """Break a stream off."""
        if self._forget(stream_id) is not None:
            self._out.append(frame(Frame.RST_STREAM, 0, stream_id, LONG.pack(code)))

    def ping(self, data: bytes) -> None:
        """Ask for a `Pong` with these eight bytes."""
        self._out.append(frame(Frame.PING, 0, 0, data))

    def shut_down(self) -> None:
        """Have the client open no more streams. Those that are under way are served (section 6.8)."""
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
        """To be called once a second: what the client did that was of no use is in the past."""
        self._useless = 0

    def _send(self, stream_id: int, stream: _Stream) -> None:
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

    # What has been said in full needs no more of the client: section 8.1, RST_STREAM with NO_ERROR.
    def _end(self, stream_id: int, stream: _Stream) -> None:
        del self._streams[stream_id]
        if stream.state is _State.OPEN:
            self._out.append(frame(3, 0, stream_id, b"\0\0\0\0"))
        self._useless -= EARNED

    def _forget(self, stream_id: int) -> _Stream | None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._blocked.pop(stream_id, None)
            self.waiting -= len(stream.waiting)
        return stream

    def _open_window(self, stream_id: int, size: int) -> None:
        self._out.append(frame(Frame.WINDOW_UPDATE, 0, stream_id, LONG.pack(size)))

    # What is received: one method for each type of frame; `_FRAMES`, below, leads here.

    def _on_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._expected is not None and kind != self._expected:
            raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, f"a frame of type {kind}, not {self._expected}")
        rule = _FRAMES.get(kind)
        if rule is None:
            self._spend(1)  # section 4.1: unknown ones are ignored
            return
        step, about, size = rule
        if about is not None and about is not (stream_id > 0):
            raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, f"a frame of type {kind} on stream {stream_id}")
        if size is not None and size != len(payload):
            # For PRIORITY a stream error would do (6.3), which may be taken for one of the connection (5.4.1).
            raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of type {kind} of {len(payload)} bytes")
        try:
            step(self, flags, stream_id, payload)
        except BrokenStreamError as error:
            self._spend(1)
            if self._forget(stream_id) is not None:
                self._events.append(Reset(stream_id, error.code))
            self._out.append(frame(Frame.RST_STREAM, 0, stream_id, LONG.pack(error.code)))

    def _spend(self, cost: int) -> None:
        self._useless = max(self._useless, 0) + cost
        if self._useless > MAX_USELESS:
            raise BrokenConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that are of no use")

    # The stream that a frame may be about; None: it is closed, and what is said about it is let fall.
    def _stream(self, kind: Frame, stream_id: int) -> _Stream | None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            state = stream.state
        else:
            state = _State.IDLE if stream_id > self._last_id or stream_id % 2 == 0 else _State.CLOSED
            self._spend(1)
        if (state, kind) in _MISPLACED:
            error, code = _MISPLACED[state, kind]
            raise error(code, f"{kind.name} on a stream that is {state.name}")
        return stream

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        # What is received is handed on at once, so the windows are opened again whatever becomes of it: they limit what
        # is under way. As they are never less than half open here, no frame is too long for them.
        size = len(payload)
        self._received += size
        if self._received >= CONNECTION_WINDOW // 2:
            self._open_window(0, self._received)
            self._received = 0
        if flags & PADDED:
            payload = unpadded(payload)
        stream = self._streams.get(stream_id)
        if stream is None or stream.state is not _State.OPEN:
            stream = self._stream(Frame.DATA, stream_id)
            if stream is None:
                return
        end_stream = flags & END_STREAM > 0
        if end_stream:
            stream.state = _State.HALF_CLOSED
        else:
            stream.received += size
            if stream.received >= STREAM_WINDOW // 2:
                self._open_window(stream_id, stream.received)
                stream.received = 0
            if len(payload) < SMALL:
                self._spend(1)
            if not payload:
                return
        self._events.append(Data(stream_id, payload, end_stream))

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if flags & PADDED:
            payload = unpadded(payload)
        if flags & PRIORITY_FLAG:
            if len(payload) < 5:
                raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without room for a priority")
            payload = payload[5:]
        if flags & END_HEADERS:
            self._on_block(flags, stream_id, payload)
        else:
            self._block = (flags, stream_id, bytearray(payload))
            self._expected = Frame.CONTINUATION

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._spend(1)
        if self._block is None or self._block[1] != stream_id:
            raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        first_flags, _, block = self._block
        block += payload
        if len(block) > MAX_BLOCK:
            raise BrokenConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "a header block without an end")
        if flags & END_HEADERS:
            self._block = self._expected = None
            self._on_block(first_flags, stream_id, bytes(block))

    # The junction: what HEADERS and its CONTINUATIONs have brought.
    def _on_block(self, flags: int, stream_id: int, block: bytes) -> None:
        try:
            kind, headers = self._blocks.decode(block)
        except HeadersTooLargeError as error:
            raise BrokenConnectionError(ErrorCode.ENHANCE_YOUR_CALM, str(error)) from error
        except HeaderError as error:
            raise BrokenConnectionError(ErrorCode.COMPRESSION_ERROR, str(error)) from error
        end_stream = flags & END_STREAM > 0
        if stream_id > self._last_id and stream_id % 2:
            self._last_id = stream_id
            if len(self._streams) >= MAX_CONCURRENT_STREAMS:
                raise BrokenStreamError(ErrorCode.REFUSED_STREAM, "too many streams")  # section 5.1.2
            if kind is not Kind.REQUEST:
                raise BrokenStreamError(ErrorCode.PROTOCOL_ERROR, "malformed")  # section 8.1.1
            state = _State.HALF_CLOSED if end_stream else _State.OPEN
            self._streams[stream_id] = _Stream(state, self._initial_window)
            self._events.append(Request(stream_id, headers, end_stream))
            return
        if kind is Kind.REQUEST and stream_id not in self._streams:
            raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, f"{stream_id} is no new stream")  # section 5.1.1
        stream = self._stream(Frame.HEADERS, stream_id)
        if stream is not None:
            if kind is not Kind.TRAILERS or not end_stream:
                raise BrokenStreamError(ErrorCode.PROTOCOL_ERROR, "malformed")  # section 8.1
            stream.state = _State.HALF_CLOSED
            self._events.append(Data(stream_id, b"", True))

    def _on_priority(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        self._spend(1)  # deprecated, section 5.3.2

    def _on_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if self._stream(Frame.RST_STREAM, stream_id) is not None:
            self._spend(1)
            self._forget(stream_id)
            self._events.append(Reset(stream_id, *LONG.unpack(payload)))

    def _on_settings(self, flags: int, _: int, payload: bytes) -> None:
        self._spend(SETTINGS_COST)
        if flags & ACK:
            if self._expected is not None:
                raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "an acknowledgement instead of settings")
            if payload:
                raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement with settings")
            self._blocks.forbid_table()
            return
        values = parse_settings(payload)
        self._max_frame_size = values.get(Setting.MAX_FRAME_SIZE, self._max_frame_size)
        change = values.get(Setting.INITIAL_WINDOW_SIZE, self._initial_window) - self._initial_window
        if change:  # section 6.9.2
            self._initial_window += change
            for stream_id, stream in list(self._streams.items()):
                self._widen(stream_id, stream, change, BrokenConnectionError)
        self._expected = None
        self._out.append(frame(Frame.SETTINGS, ACK, 0, b""))

    def _on_push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "a client cannot push")  # section 8.4

    def _on_ping(self, flags: int, _: int, payload: bytes) -> None:
        if flags & ACK:
            self._events.append(Pong(payload))
        else:
            self._out.append(frame(Frame.PING, ACK, 0, payload))
        self._spend(1)

    def _on_goaway(self, _flags: int, _: int, payload: bytes) -> None:
        if len(payload) < GOAWAY.size:
            raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, f"GOAWAY of {len(payload)} bytes")
        self._spend(1)  # it will open no more streams, and hang up some time

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        self._spend(1)
        increment = LONG.unpack(payload)[0] & MAX_WINDOW
        wrong = BrokenStreamError if stream_id else BrokenConnectionError
        stream = self._stream(Frame.WINDOW_UPDATE, stream_id) if stream_id else None
        if increment == 0:
            raise wrong(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
        if stream is not None:
            self._widen(stream_id, stream, increment, BrokenStreamError)
        elif not stream_id:
            self._send_window += increment
            if self._send_window > MAX_WINDOW:
                raise wrong(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is too large")
            while self._blocked and self._send_window > 0:
                self._send(*self._blocked.popitem(last=False))

    def _widen(self, stream_id: int, stream: _Stream, change: int, wrong: type[ProtocolError]) -> None:
        stream.send_window += change
        if stream.send_window > MAX_WINDOW:
            raise wrong(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window is too large")
        self._send(stream_id, stream)


# For each type of frame: what is done; whether it is about a stream (True), the connection (False) or either (None),
# and the length of its payload (None: any).
_FRAMES: Final[Mapping[int, tuple[Callable[[Connection, int, int, bytes], None], bool | None, int | None]]] = {
    Frame.DATA: (Connection._on_data, True, None),
    Frame.HEADERS: (Connection._on_headers, True, None),
    Frame.PRIORITY: (Connection._on_priority, True, 5),
    Frame.RST_STREAM: (Connection._on_rst_stream, True, 4),
    Frame.SETTINGS: (Connection._on_settings, False, None),
    Frame.PUSH_PROMISE: (Connection._on_push_promise, True, None),
    Frame.PING: (Connection._on_ping, False, 8),
    Frame.GOAWAY: (Connection._on_goaway, False, None),
    Frame.WINDOW_UPDATE: (Connection._on_window_update, None, 4),
    Frame.CONTINUATION: (Connection._on_continuation, True, None),
}
