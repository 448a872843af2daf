"""One HTTP/2 connection, server side, without I/O: bytes in, events and bytes out. Only what gRPC needs.

The entry point is `Connection`. In: a client's bytes (`receive_data`) and responses (`respond` and its parts). Out:
events, and bytes (`data_to_send`). Nothing that a client sends raises an exception: a protocol error ends the stream
with RST_STREAM, or the connection with GOAWAY; then it is `closed`, and the caller closes it as soon as the bytes are
written. What is sent on a stream that does not exist (any more) is dropped: a client may reset a stream at any time.
This file reads what the client sends; `streams` writes to the client. No other file changes the state of a
connection.

The numbers of sections are those of RFC 9113, https://www.rfc-editor.org/rfc/rfc9113
"""

from __future__ import annotations

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
    Setting,
    frame,
    parse_settings,
    settings,
    unpadded,
)
from rejoinder.extproc.headers import MAX_BLOCK, MAX_LIST_SIZE, Blocks, Headers, Kind
from rejoinder.extproc.streams import MAX_FRAME_SIZE, STREAM_WINDOW, Stream, Streams

CONNECTION_WINDOW: Final = 1 << 20
"""Bytes that a client may send ahead on all streams: hundreds of requests between two turns of the event loop."""
MAX_CONCURRENT_STREAMS: Final = 4096
"""Streams of a connection. Each costs about 1 kB here. For more, Envoy opens another connection."""
MAX_USELESS: Final = 10_000
"""Useless frames that are allowed between two calls of `forgive`: settings, pings, resets of unanswered streams, empty
frames. At up to 10 us each, they take a tenth of a second. It must be large: when an Envoy's clients all give up at
once, it resets thousands of streams."""
SMALL: Final = 64
"""DATA frames with fewer bytes count as useless: a message in such small pieces costs as many events as it has bytes.
An answer makes up for the small message of its request."""
SETTINGS_COST: Final = 100
"""How many useless frames a SETTINGS counts for: it may change the windows of all streams."""


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
    """A stream has ended early: the client, or this side, has reset it. Nothing more can be sent."""

    stream_id: int
    error_code: int


class Pong(NamedTuple):
    """The client has answered a `ping`."""

    data: bytes


Event = Request | Data | Reset | Pong


# Without a dynamic table, all streams of an Envoy's route have the same header block: it is decoded once.
_ANNOUNCED: Final = {
    Setting.HEADER_TABLE_SIZE: 0,
    Setting.MAX_CONCURRENT_STREAMS: MAX_CONCURRENT_STREAMS,
    Setting.MAX_HEADER_LIST_SIZE: MAX_LIST_SIZE,
}


class Connection(Streams):
    """One connection.

    connection = Connection()
    for event in connection.receive_data(data): ...
    connection.respond(event.stream_id, headers, body, trailers)
    transport.write(connection.data_to_send())
    if connection.closed: transport.close()
    """

    def __init__(self) -> None:
        super().__init__()
        self.error = ""
        """The connection error; empty: none."""
        self._buffer = b""
        self._expected: int | None = Frame.SETTINGS
        """The only frame type allowed now: SETTINGS at first (3.4), CONTINUATION in a header block; None: any."""
        self._preface_awaited = True
        self._block: tuple[int, int, bytearray] | None = None
        """Stream, flags and beginning of a header block that is not complete."""
        self._blocks = Blocks()
        self._events: list[Event] = []
        self._received = 0
        self._out.append(frame(Frame.SETTINGS, 0, 0, settings(_ANNOUNCED)))
        self._open_window(0, CONNECTION_WINDOW - STREAM_WINDOW)

    def receive_data(self, data: bytes) -> list[Event]:
        """The events of some bytes of the client, in order. Then see `data_to_send`, and whether it is `closed`."""
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

    # Received frames: one method for each type; `_FRAMES`, below, has all of them.

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
            # A stream error would do for PRIORITY (6.3), but may be treated as a connection error (5.4.1).
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

    # The stream of a frame (section 5.1); None: it is closed; the frame, maybe sent before that, is ignored.
    def _stream(self, kind: Frame, stream_id: int) -> Stream | None:
        stream = self._streams.get(stream_id)
        if stream is None:
            self._spend(1)
            if stream_id > self._last_id or stream_id % 2 == 0:
                raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, f"{kind.name} on a stream that is IDLE")
        elif stream.ended and kind in (Frame.DATA, Frame.HEADERS):
            raise BrokenStreamError(ErrorCode.STREAM_CLOSED, f"{kind.name} on a stream that is HALF_CLOSED")
        return stream

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        # Received data is handed on at once, so the windows are opened again in any case: they limit only what is on
        # the way. They are never less than half open here, so no frame is too long for them.
        size = len(payload)
        self._received += size
        if self._received >= CONNECTION_WINDOW // 2:
            self._open_window(0, self._received)
            self._received = 0
        if flags & PADDED:
            payload = unpadded(payload)
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended:
            stream = self._stream(Frame.DATA, stream_id)
            if stream is None:
                return
        end_stream = flags & END_STREAM > 0
        if end_stream:
            stream.ended = True
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

    # The junction: a complete header block of HEADERS and CONTINUATION frames.
    def _on_block(self, flags: int, stream_id: int, block: bytes) -> None:
        kind, headers = self._blocks.decode(block)
        end_stream = flags & END_STREAM > 0
        if stream_id > self._last_id and stream_id % 2:
            self._last_id = stream_id
            if len(self._streams) >= MAX_CONCURRENT_STREAMS:
                raise BrokenStreamError(ErrorCode.REFUSED_STREAM, "too many streams")  # section 5.1.2
            if kind is not Kind.REQUEST:
                raise BrokenStreamError(ErrorCode.PROTOCOL_ERROR, "malformed")  # section 8.1.1
            self._streams[stream_id] = Stream(self._initial_window, end_stream)
            self._events.append(Request(stream_id, headers, end_stream))
            return
        if kind is Kind.REQUEST and stream_id not in self._streams:
            raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, f"{stream_id} is no new stream")  # section 5.1.1
        stream = self._stream(Frame.HEADERS, stream_id)
        if stream is not None:
            if kind is not Kind.TRAILERS or not end_stream:
                raise BrokenStreamError(ErrorCode.PROTOCOL_ERROR, "malformed")  # section 8.1
            stream.ended = True
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
        self._spend(1)  # the client will open no more streams, and close the connection later

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


# For each type of frame: its method; whether it is about a stream (True), the connection (False) or either (None); and
# the length of its payload (None: any).
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
