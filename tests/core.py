"""The module's core, compiled for tests: in a host of ours in place of Envoy, or by itself, to be asked from Python."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from rejoinder.envoy.module.build import PURE
from rejoinder.rules.accept import Offer
from rejoinder.rules.answers import Reply
from rejoinder.rules.matching import compile_regex
from rejoinder.rules.program import Seen
from rejoinder.rules.request import LOCAL, Request, Response

HARNESS: Final = Path(__file__).parent / "harness"
SOURCES: Final = Path(__file__).parent.parent / "envoy" / "module"

PROGRAM: Final = PURE
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


class _Text(ctypes.Structure):
    """A buffer that is read: not up to its first zero."""

    _fields_ = (("ptr", ctypes.POINTER(ctypes.c_char)), ("length", ctypes.c_size_t))

    def __bytes__(self) -> bytes:
        return self.ptr[: self.length] if self.length else b""


class _Header(ctypes.Structure):
    _fields_ = (("name", _Text), ("value", _Text))


class _GivenHeader(ctypes.Structure):
    _fields_ = (("name", _Buffer), ("value", _Buffer))


class _Reply(ctypes.Structure):
    """Its beginning."""

    _fields_ = (
        ("status", ctypes.c_uint32),
        ("passes", ctypes.c_bool),
        ("by_handler", ctypes.c_bool),
        ("is_fixed", ctypes.c_bool),
        ("empty_values", ctypes.c_bool),
        ("handler", ctypes.c_uint32),
        ("grpc", ctypes.c_uint32),
        ("asks", ctypes.c_uint32),
        ("rule", _Text),
        ("headers", ctypes.POINTER(_Header)),
        ("header_count", ctypes.c_size_t),
        ("body", _Text),
        ("grpc_message", _Text),
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


class _Arrived(ctypes.Structure):
    _fields_ = (
        ("method", _Buffer),
        ("scheme", _Buffer),
        ("authority", _Buffer),
        ("path", _Buffer),
        ("client", _Buffer),
        ("lines", ctypes.POINTER(_Line)),
        ("line_count", ctypes.c_size_t),
    )


class _Response(ctypes.Structure):
    _fields_ = (
        ("status", ctypes.c_uint32),
        ("is_local", ctypes.c_bool),
        ("headers", ctypes.POINTER(_GivenHeader)),
        ("header_count", ctypes.c_size_t),
    )


class _Question(ctypes.Structure):
    _fields_ = (("request", ctypes.c_void_p), ("route", _Buffer), ("response", ctypes.POINTER(_Response)))


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
    for name in ("program_ask", "reply_make"):
        getattr(loaded, name).restype = ctypes.POINTER(_Reply)
    loaded.program_observed.restype = ctypes.c_uint32
    loaded.program_passed.restype = _Text
    loaded.program_headers.restype = ctypes.POINTER(_Text)
    loaded.program_open.restype = ctypes.c_bool
    return loaded


def _buffer(text: str | bytes) -> _Buffer:
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return _Buffer(data, len(data))


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
        self,
        request: Request,
        route: str,
        response: Response | None,
        now: int = 0,
        seen: Seen | None = None,
    ) -> tuple[str, Reply] | None:
        """The rule that answers, and the reply; one of status 0 and nothing else: a handler makes it.

        Args:
            response: None: there is none yet.
            now: seconds since 1970.
            seen: is told what rules do that give no answer.
        """
        loaded, program = self._loaded, ctypes.c_void_p(self._program)
        taken = loaded.request_new(program, ctypes.byref(self._arrived(request)))
        came = None if response is None else ctypes.pointer(_response(response))
        about = _Question(taken, _buffer(route), came)
        end, at, name = ctypes.c_uint32(), 0, _Text()
        chosen = loaded.program_ask(program, ctypes.byref(about), ctypes.byref(end))
        while seen is not None:
            at = loaded.program_observed(program, ctypes.byref(about), at, end, ctypes.byref(name))
            if at == end.value:
                break
            seen.observed.append(bytes(name).decode())
            at += 1
        if seen is not None and not chosen:
            seen.passed = bytes(loaded.program_passed(program, ctypes.byref(about), end)).decode()
        made = None
        if chosen and not (chosen[0].by_handler or chosen[0].is_fixed):
            made = loaded.reply_make(program, chosen, ctypes.byref(about), ctypes.c_long(now))
        _FREE(ctypes.c_void_p(taken))
        sent = made[0] if made else chosen[0] if chosen else None
        said = None if sent is None else _reply(chosen[0], sent, response.status if response else 0, request.is_grpc)
        loaded.reply_free(made)
        return said

    def _arrived(self, request: Request) -> _Arrived:
        count = ctypes.c_size_t()
        names = self._loaded.program_headers(ctypes.c_void_p(self._program), ctypes.byref(count))
        authority = request.authority or request.host
        lines = [
            _Line(number, _buffer(value))
            for number in range(count.value)
            for name, value in ((":authority", authority), *request.headers)
            if name.encode() == bytes(names[number])
        ]
        client = f"[{request.client}]:1" if ":" in request.client else f"{request.client}:1"
        texts = (request.method, request.scheme, authority, request.target, client)
        return _Arrived(*map(_buffer, texts), (_Line * len(lines))(*lines), len(lines))


def _response(response: Response) -> _Response:
    headers = [_GivenHeader(_buffer(name), _buffer(value)) for name, value in response.headers]
    return _Response(response.status, response.source == LOCAL, (_GivenHeader * len(headers))(*headers), len(headers))


def _reply(chosen: _Reply, made: _Reply, status: int, is_grpc: bool) -> tuple[str, Reply]:
    rule = bytes(chosen.rule).decode()
    if chosen.by_handler:
        return rule, Reply(0, (), b"")
    headers = [(bytes(header.name), bytes(header.value)) for header in made.headers[: made.header_count]]
    sent = tuple((name.decode(), value.decode("utf-8", "surrogateescape")) for name, value in headers)
    if is_grpc and made.grpc:
        return rule, Reply(made.status or status, sent, bytes(made.grpc_message), made.grpc)
    return rule, Reply(made.status or status, sent, bytes(made.body))


_FREE = ctypes.CDLL(None).free


def accept_best(loaded: ctypes.CDLL, offers: Sequence[Offer], accept: str | None, language: str | None) -> int:
    """What accept.h says."""
    loaded.accept_best.restype = ctypes.c_size_t
    texts = (_Buffer * (2 * len(offers)))(*(_buffer(text.encode()) for offer in offers for text in offer))
    headers = (_buffer((text or "").encode("utf-8", "surrogateescape")) for text in (accept, language))
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
