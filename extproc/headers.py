"""Header blocks: bytes to headers and back, and whether they can be those of a request or of trailers.

The entry points are `Blocks.decode`, for the header blocks of one client, and `encode`. A block that cannot be decoded
ends the connection (`BrokenConnectionError`), because the two sides' decoders no longer agree.

RFC 7541 is HPACK, https://www.rfc-editor.org/rfc/rfc7541; the other section numbers are those of RFC 9113.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Iterable
from typing import Final

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.hpack import encode_integer

from rejoinder.extproc.frames import BrokenConnectionError, ErrorCode

MAX_LIST_SIZE: Final = 1 << 14
"""Size of decoded headers, with 32 bytes more for each (section 6.5.2). gRPC's limit for metadata is 8 to 16 kB."""
MAX_BLOCK: Final = MAX_LIST_SIZE
"""Bytes of a block: encoding makes no header list longer than that."""
MAX_REMEMBERED: Final = 1 << 10
"""Size up to which the decoded form of a block is remembered: 1,024 of them are 1 MB."""

Headers = tuple[tuple[str, str], ...]


class Kind(enum.Enum):
    """What kind of headers they can be."""

    REQUEST = enum.auto()
    TRAILERS = enum.auto()
    MALFORMED = enum.auto()


class Blocks:
    """The header blocks of one client."""

    def __init__(self) -> None:
        self._decoder = Decoder(MAX_LIST_SIZE)

    def forbid_table(self) -> None:
        """The client has acknowledged that it may not use a dynamic table."""
        self._decoder.max_allowed_table_size = 0

    def decode(self, block: bytes) -> tuple[Kind, Headers]:
        """Decode a block.

        Raises:
            BrokenConnectionError: it cannot be decoded, or is too large.
        """
        # Without a dynamic table, a block can be decoded by its bytes alone. (The first block after the acknowledgement
        # must go to the old decoder: it says that the table is empty now.)
        stateless = self._decoder.header_table_size == 0 == self._decoder.max_allowed_table_size
        if stateless and len(block) <= MAX_REMEMBERED:
            return _decode_alone(block)
        return _decode(self._decoder, block)


# For all clients: the streams of an Envoy's route have the same block.
@functools.lru_cache(maxsize=1024)
def _decode_alone(block: bytes) -> tuple[Kind, Headers]:
    decoder = Decoder(MAX_LIST_SIZE)
    decoder.max_allowed_table_size = decoder.header_table_size = 0
    return _decode(decoder, block)


# RFC 7541, section 4.2: two size updates are enough; a block may be full of them.
_SIZE_UPDATES: Final = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*[\x00-\x7f]){3}")


def _decode(decoder: Decoder, block: bytes) -> tuple[Kind, Headers]:
    if _SIZE_UPDATES.match(block):
        raise BrokenConnectionError(ErrorCode.COMPRESSION_ERROR, "a third dynamic table size update")
    try:
        raw = decoder.decode(block, raw=True)
    except OversizedHeaderListError as error:
        raise BrokenConnectionError(ErrorCode.ENHANCE_YOUR_CALM, str(error)) from error
    except HPACKError as error:
        raise BrokenConnectionError(ErrorCode.COMPRESSION_ERROR, str(error)) from error
    headers = tuple((_text(name), _text(value)) for name, value in raw)
    return _kind(headers), headers


# Any bytes may come; metadata that matters to us is UTF-8.
def _text(data: str | bytes) -> str:
    return data if isinstance(data, str) else data.decode("utf-8", "replace")


# Section 8.2: the characters of names and values; 8.3.1: the pseudo headers of a request; 8.2.2: forbidden headers.
_NAME: Final = re.compile(r":?[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE: Final = re.compile(r"(?![ \t])[^\0\r\n]*(?<![ \t])")
_REQUIRED: Final = {":method", ":scheme", ":path"}
_PSEUDO: Final = _REQUIRED | {":authority"}
_CONNECTION_SPECIFIC: Final = {"connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"}


def _kind(headers: Headers) -> Kind:
    pseudo = [name for name, _ in headers if name[:1] == ":"]
    well_formed = (
        all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in headers)
        and all(name[:1] == ":" for name, _ in headers[: len(pseudo)])  # they come first
        and len(set(pseudo)) == len(pseudo)
        and (not pseudo or _REQUIRED <= set(pseudo) <= _PSEUDO)
        and not any(name in _CONNECTION_SPECIFIC or (name == "te" and value != "trailers") for name, value in headers)
    )
    if not well_formed:
        return Kind.MALFORMED
    return Kind.REQUEST if pseudo else Kind.TRAILERS


def encode(headers: Iterable[tuple[str, str]]) -> bytes:
    """Encode a block that changes no decoder state: the same bytes serve all streams of all connections."""
    # It begins with a dynamic table size update to 0 (RFC 7541, section 6.3), which a client that has made its table
    # smaller expects. Literals without indexing follow (section 6.2.2).
    return b"\x20" + b"".join(b"\x00" + _string(name) + _string(value) for name, value in headers)


# RFC 7541, section 5.2, without Huffman's code.
def _string(text: str) -> bytes:
    data = text.encode()
    return bytes(encode_integer(len(data), 7)) + data
