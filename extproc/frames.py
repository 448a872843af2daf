"""HTTP/2 on the wire: frames, their types and flags, settings, error codes.

Only names and bytes; `http2` has their meaning. The section numbers are those of RFC 9113.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

MAX_WINDOW: Final = (1 << 31) - 1
"""Section 6.9.1. (Also the largest number of a stream.)"""


class ErrorCode(enum.IntEnum):
    """Section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Frame(enum.IntEnum):
    """Section 6."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class ProtocolError(Exception):
    """A protocol error of the client."""

    def __init__(self, code: ErrorCode, why: str) -> None:
        super().__init__(why)
        self.code = code


class BrokenConnectionError(ProtocolError):
    """A connection error (section 5.4.1)."""


class BrokenStreamError(ProtocolError):
    """A stream error (section 5.4.2)."""


class Setting(enum.IntEnum):
    """Section 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


# Section 6.5.2: the allowed values of a setting, and the error for any other value. Settings that are not listed here
# may have any value.
_VALUES: Final[Mapping[int, tuple[int, int, ErrorCode]]] = {
    Setting.ENABLE_PUSH: (0, 1, ErrorCode.PROTOCOL_ERROR),
    Setting.INITIAL_WINDOW_SIZE: (0, MAX_WINDOW, ErrorCode.FLOW_CONTROL_ERROR),
    Setting.MAX_FRAME_SIZE: (1 << 14, (1 << 24) - 1, ErrorCode.PROTOCOL_ERROR),
}

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FLAG: Final = 0x20

# Section 4.1: the length in two parts, type, flags, stream.
HEADER: Final = struct.Struct(">HBBBL")
_SETTING: Final = struct.Struct(">HL")
LONG: Final = struct.Struct(">L")
GOAWAY: Final = struct.Struct(">LL")


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """The bytes of a frame."""
    size = len(payload)
    return HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def settings(values: Mapping[Setting, int]) -> bytes:
    """The payload of SETTINGS."""
    return b"".join(_SETTING.pack(setting, value) for setting, value in values.items())


def parse_settings(payload: bytes) -> dict[int, int]:
    """The settings in a SETTINGS payload. Of several values for one, the last counts, and the others cost nothing.

    Raises:
        BrokenConnectionError: the length or a value is wrong.
    """
    if len(payload) % _SETTING.size:
        raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, f"settings of {len(payload)} bytes")
    values: dict[int, int] = {}
    for setting, value in _SETTING.iter_unpack(payload):
        low, high, code = _VALUES.get(setting, (0, value, ErrorCode.NO_ERROR))
        if not low <= value <= high:
            raise BrokenConnectionError(code, f"setting {setting} is {value}")
        values[setting] = value
    return values


def unpadded(payload: bytes) -> bytes:
    """A payload without its padding.

    Raises:
        BrokenConnectionError: there is more padding than payload.
    """
    if not payload:
        raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, "padding without a length")
    if payload[0] >= len(payload):
        raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "padding longer than the frame")  # section 6.1
    return payload[1 : len(payload) - payload[0]]
