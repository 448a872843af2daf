"""The module's core, compiled for tests: in a host of ours in place of Envoy, or by itself, to be asked from Python."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from rejoinder.rules.accept import Offer
from rejoinder.rules.matching import compile_regex

HARNESS: Final = Path(__file__).parent / "harness"
SOURCES: Final = Path(__file__).parent.parent / "envoy" / "module"

PROGRAM: Final = ("reader.c", "index.c", "request.c", "program.c", "ask.c", "accept.c", "template.c")
"""What neither Envoy nor Python is needed for."""

SANITIZERS: Final = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def compiled(target: Path, sources: Sequence[Path], *options: str, compiler: str = "gcc") -> Path:
    """Compile something of C, with every warning an error; skips the test where there is no compiler."""
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    command = [compiler, "-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", *options]
    subprocess.run([*command, *map(str, sources), "-o", str(target)], check=True)
    return target


def of_core(*names: str) -> list[Path]:
    """Source files of the core."""
    return [SOURCES / name for name in names]


class _Buffer(ctypes.Structure):
    _fields_ = (("ptr", ctypes.c_char_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.POINTER(ctypes.c_char)),
        ("name_length", ctypes.c_size_t),
        ("value", ctypes.POINTER(ctypes.c_char)),
        ("value_length", ctypes.c_size_t),
    )


class _Text(ctypes.Structure):
    """A buffer that is read: not up to its first zero."""

    _fields_ = (("ptr", ctypes.POINTER(ctypes.c_char)), ("length", ctypes.c_size_t))

    def __bytes__(self) -> bytes:
        return self.ptr[: self.length] if self.length else b""


class _Reply(ctypes.Structure):
    _fields_ = (
        ("status", ctypes.c_uint32),
        ("by_handler", ctypes.c_bool),
        ("empty_values", ctypes.c_bool),
        ("handler", ctypes.c_uint32),
        ("rule", _Text),
        ("headers", ctypes.POINTER(_Header)),
        ("header_count", ctypes.c_size_t),
        ("body", _Text),
    )


class _Failure(ctypes.Structure):
    _fields_ = (("text", ctypes.c_char * 512),)


class _Piece(ctypes.Structure):
    _fields_ = (
        ("is_part", ctypes.c_bool),
        ("id", ctypes.c_void_p),
        ("parts", ctypes.c_void_p),
        ("part_count", ctypes.c_size_t),
        ("records", _Text),
        ("offset", ctypes.c_size_t),
    )


class _Line(ctypes.Structure):
    _fields_ = (("name", ctypes.c_uint32), ("value", _Buffer))


_NUMBER = ctypes.POINTER(ctypes.c_uint32)
_REASON = ctypes.POINTER(_Failure)
_MAKE = ctypes.CFUNCTYPE(ctypes.c_bool, _Text, _NUMBER, _REASON)
_FITS = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_uint32, _Text)


class _Engine(ctypes.Structure):
    _fields_ = (("regex", _MAKE), ("handler", _MAKE), ("fits", _FITS))


def library(path: Path) -> ctypes.CDLL:
    """program.h, loaded."""
    loaded = ctypes.CDLL(str(path))
    for name in ("program_read", "request_new"):
        getattr(loaded, name).restype = ctypes.c_void_p
    for name in ("program_on_request", "program_on_status"):
        getattr(loaded, name).restype = ctypes.POINTER(_Reply)
    loaded.program_headers.restype = ctypes.POINTER(_Text)
    for name in ("program_open", "program_names", "program_needs_request", "program_needs_routes"):
        getattr(loaded, name).restype = ctypes.c_bool
    return loaded


def _buffer(text: bytes) -> _Buffer:
    return _Buffer(text, len(text))


class RejectedError(Exception):
    """The core does not take a program; the text is its reason."""


class Core:
    """A program, as the core has it."""

    def __init__(self, loaded: ctypes.CDLL, data: bytes) -> None:
        self._loaded = loaded
        patterns: list[Any] = []

        def regex(pattern: _Text, number: Any, _why: object) -> bool:
            patterns.append(compile_regex(bytes(pattern).decode()))
            number[0] = len(patterns) - 1
            return True

        def fits_whole(number: int, text: _Text) -> bool:
            return patterns[number].fullmatch(bytes(text)) is not None

        self._engine = _Engine(_MAKE(regex), _MAKE(lambda *_: True), _FITS(fits_whole))
        self._data = data
        self._failure = _Failure()
        piece = _Piece()
        if not loaded.program_open(_buffer(data), ctypes.byref(piece), ctypes.byref(self._failure)):
            raise RejectedError(self._failure.text.decode())
        self._program = loaded.program_read(
            ctypes.byref(piece), ctypes.c_size_t(1), True, ctypes.byref(self._engine), ctypes.byref(self._failure)
        )
        if not self._program:
            raise RejectedError(self._failure.text.decode())

    def close(self) -> None:
        self._loaded.program_free(ctypes.c_void_p(self._program))

    def ask(
        self, method: str, authority: str, target: str, headers: Sequence[tuple[str, str]], route: str, status: int
    ) -> tuple[str, int, tuple[tuple[str, str], ...], bytes] | None:
        """Rule, status (0: the upstream's), headers and body of the reply; `status` 0: before there is a response."""
        program = ctypes.c_void_p(self._program)
        count = ctypes.c_size_t()
        names = self._loaded.program_headers(program, ctypes.byref(count))
        lines = [
            _Line(number, _buffer(value.encode("utf-8", "surrogateescape")))
            for number in range(count.value)
            for name, value in ((":authority", authority), *headers)
            if name.encode() == bytes(names[number])
        ]
        request = self._loaded.request_new(
            program,
            *(_buffer(text.encode()) for text in (method, authority, target)),
            (_Line * len(lines))(*lines),
            ctypes.c_size_t(len(lines)),
        )
        asked = (program, ctypes.c_void_p(request), _buffer(route.encode()))
        if status:
            found = self._loaded.program_on_status(*asked, ctypes.c_uint32(status))
        else:
            found = self._loaded.program_on_request(*asked)
        _FREE(ctypes.c_void_p(request))
        if not found:
            return None
        made = found[0]
        sent = tuple(
            (each.name[: each.name_length].decode(), each.value[: each.value_length].decode())
            for each in made.headers[: made.header_count]
        )
        return bytes(made.rule).decode(), made.status, sent, bytes(made.body)


_FREE = ctypes.CDLL(None).free


def accept_best(loaded: ctypes.CDLL, offers: Sequence[Offer], accept: str | None, language: str | None) -> int:
    """What accept.h says."""
    loaded.accept_best.restype = ctypes.c_size_t
    texts = (_Buffer * (2 * len(offers)))(*(_buffer(text.encode()) for offer in offers for text in offer))
    headers = (
        each
        for text in (accept, language)
        for each in (_buffer((text or "").encode("utf-8", "surrogateescape")), ctypes.c_bool(text is not None))
    )
    return int(loaded.accept_best(texts, ctypes.c_size_t(len(offers)), *headers))


class _Reader(ctypes.Structure):
    _fields_ = (
        ("at", ctypes.c_void_p),
        ("end", ctypes.c_void_p),
        ("start", ctypes.c_void_p),
        ("offset", ctypes.c_size_t),
        ("part", ctypes.c_size_t),
        ("why", _REASON),
        ("failed", ctypes.c_bool),
    )


class _Given(ctypes.Structure):
    """As in harness/values.c."""

    _fields_ = (("name", ctypes.c_uint32), ("argument", _Buffer), ("value", _Buffer))


class CoreTemplate:
    """A template, as the core reads it from the beginning of some bytes."""

    def __init__(self, loaded: ctypes.CDLL, data: bytes) -> None:
        for name in ("template_read", "template_fits_header", "fill_with"):
            getattr(loaded, name).restype = ctypes.c_bool
        self._loaded = loaded
        self._data = ctypes.create_string_buffer(data, len(data))
        self._encoded = _Text()
        start, failure = ctypes.addressof(self._data), _Failure()
        reader = _Reader(start, start + len(data), start, 0, 0, ctypes.pointer(failure), False)
        if not loaded.template_read(ctypes.byref(reader), ctypes.byref(self._encoded)):
            raise RejectedError(failure.text.decode())

    @property
    def length(self) -> int:
        """How many of the bytes are the template."""
        return int(self._encoded.length)

    @property
    def fits_header(self) -> bool:
        return bool(self._loaded.template_fits_header(self._encoded))

    def fill(self, values: Mapping[tuple[int, str], str]) -> bytes:
        """The text; values are by name and argument."""
        given = (_Given * len(values))(
            *(
                _Given(name, _buffer(argument.encode()), _buffer(value.encode("utf-8", "surrogateescape")))
                for (name, argument), value in values.items()
            )
        )
        made, length = ctypes.c_void_p(), ctypes.c_size_t()
        count = ctypes.c_size_t(len(values))
        if not self._loaded.fill_with(self._encoded, given, count, ctypes.byref(made), ctypes.byref(length)):
            raise MemoryError
        filled = ctypes.string_at(made, length.value)
        _FREE(made)
        return filled
