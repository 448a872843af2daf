"""Templates as bytes, which the module's core reads."""

from __future__ import annotations

import ctypes
import http
import re
import struct
import time
from typing import Final

import pytest
from core import CoreTemplate, RejectedError
from filling import (
    Fill,
    _filled,  # noqa: F401 - a fixture
    _loaded,  # noqa: F401 - a fixture
)

from rejoinder.rules.template import (
    Escape,
    Name,
    Template,
    Variable,
    encode,
    parse,
    reason,
)

# ---- as bytes

WHOLE: Final = encode(parse("a{{ status }}{{ request.header.x | raw }}b", Escape.HTML))


def test_encode() -> None:
    assert WHOLE == (b"\4\0\0\0" + b"\0\1\0\0\0a" + b"\x09\1\0\0\0\0" + b"\x08\0\1\0\0\0x" + b"\0\1\0\0\0b")


def test_the_core_reads_just_the_template(loaded: ctypes.CDLL) -> None:
    assert CoreTemplate(loaded, WHOLE + b"more").length == len(WHOLE)
    for length in range(len(WHOLE)):
        with pytest.raises(RejectedError):
            CoreTemplate(loaded, WHOLE[:length])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack("<IBI", 0xFFFFFFFF, 0, 0), "byte 4: expected a list of that length"),
        (struct.pack("<IBI", 1, 0, 9), "byte 9: expected a text of that length"),
        (struct.pack("<IBI", 1, 18, 0), "byte 4: expected a piece of a template: 0 to 17, or 255"),
        (struct.pack("<IBI", 1, 255, 0), "byte 5: expected the id of a text"),
        (struct.pack("<IBBI", 1, 9, 5, 0), "byte 5: expected how a value is escaped: 0 to 4"),
        (struct.pack("<IBBI", 1, 9, 1, 1) + b"a", "byte 11: expected the name of a header or parameter, or nothing"),
        (struct.pack("<IBBI", 1, 8, 1, 0), "byte 10: expected the name of a header or parameter, or nothing"),
        (struct.pack("<IBBI", 1, 7, 1, 1) + b"\xff", "in UTF-8"),
    ],
)
def test_the_core_rejects(loaded: ctypes.CDLL, data: bytes, message: str) -> None:
    with pytest.raises(RejectedError, match=re.escape(message)):
        CoreTemplate(loaded, data)


def test_reasons(loaded: ctypes.CDLL) -> None:
    loaded.status_reason.restype = ctypes.c_char_p
    assert {status: loaded.status_reason(status).decode() for status in range(1000)} == {
        status: reason(status) for status in range(1000)
    }
    unlike = {status: reason(status) for status in http.HTTPStatus if status >= 200 and reason(status) != status.phrase}
    # Python 3.13 took over RFC 9110's; it has one more.
    assert set(unlike) <= {413, 414, 416, 418, 422}


@pytest.mark.parametrize("escape", Escape)
def test_many_values_take_time_that_is_linear(filled: Fill, escape: Escape) -> None:
    template = Template((Variable(Name.CLIENT, "", escape), b"x") * 300)
    start = time.process_time()
    filled(template, {(16, ""): '"é<\udcff' * 15_000})
    assert time.process_time() - start < 3


def test_many_braces_take_time_that_is_linear() -> None:
    start = time.process_time()
    assert parse('{{"{{"}}xxx' * 95_000, Escape.HTML).pieces == (b"{{xxx" * 95_000,)
    assert time.process_time() - start < 2
