"""`builtin:echo`: an upstream to try rules on, with nothing installed.

In: HTTP/1.1 requests. Out: for `/status/NNN` a response with that status (200-599; anything else after `/status/` gets
400), for every other path the request itself, as JSON. The method does not matter, but HEAD gets no body.

The server runs in threads of its own, so that a blocked event loop or a slow client does not delay it.
"""

from __future__ import annotations

import http.server
import json
import re
import socketserver
import threading
from typing import Final, Self

_STATUS_PATH: Final = re.compile(r"/status/(?P<status>[2-5][0-9]{2})")
_BODYLESS: Final = {204, 205, 304}
"""Statuses whose responses have no content (RFC 9110, sections 15.3.5, 15.3.6, 15.4.5)."""

_CHUNK_SIZE: Final = re.compile(rb"(?P<size>[0-9a-fA-F]+)[ \t]*(;.*)?")
"""RFC 9112, section 7.1: `chunk-size [ chunk-ext ]`."""

_MAX_LINE: Final = 1 << 16
"""Of a chunk's size or a trailer, in bytes: the limit of http.server for request lines and headers."""


class EchoServer(socketserver.ThreadingTCPServer):
    """The server, on a free port of 127.0.0.1, until the `with` block ends."""

    daemon_threads = True
    block_on_close = False  # a client that keeps its connection open must not keep us
    request_queue_size = 1024

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address: tuple[str, int] = self.socket.getsockname()
        """IP address and port."""
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="builtin:echo", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a client that disconnects is of no interest to a user who tries out rules."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body in one packet
    timeout = 600  # an idle connection's, in seconds

    def _answer(self) -> None:
        try:
            body = self._read_body()
        except ValueError as error:
            self.close_connection = True  # nobody knows where the next request starts
            self._send(400, {"error": str(error)})
            return
        path = self.path.partition("?")[0]
        if not path.startswith("/status/"):
            self._send(200, self._request_as_json(body))
        elif match := _STATUS_PATH.fullmatch(path):
            status = int(match["status"])
            self._send(status, {"status": status})
        else:
            self._send(400, {"error": "expected /status/ and a number from 200 to 599"})

    # Whatever the method: they are all the same here.
    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = _answer  # noqa: N815

    def _request_as_json(self, body: bytes) -> dict[str, object]:
        headers = {name.lower(): ", ".join(self.headers.get_all(name, ())) for name in self.headers}
        return {
            "method": self.command,
            "path": self.path,
            "host": headers.get("host", ""),
            "headers": headers,
            "body": body.decode("utf-8", errors="replace"),
        }

    def _send(self, status: int, content: dict[str, object]) -> None:
        body = b"" if status in _BODYLESS else json.dumps(content, indent=2).encode() + b"\n"
        self.send_response(status)
        if body:
            self.send_header("Content-Type", "application/json; charset=utf-8")
        if status not in (204, 304):  # RFC 9110, section 8.6
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # RFC 9112, section 6.3: chunked if the request says so, else as long as Content-Length says, else empty.
    def _read_body(self) -> bytes:
        if coding := self.headers.get("transfer-encoding"):
            if coding.strip().lower() != "chunked":
                raise ValueError(f"expected a body that is sent whole or chunked, got {coding!r}")
            return b"".join(iter(self._read_chunk, b""))
        length = self.headers.get("content-length", "0").strip()
        if not (length.isascii() and length.isdigit()):
            raise ValueError(f"expected a Content-Length in digits, got {length!r}")
        return self._read(int(length))

    # RFC 9112, section 7.1. Empty: the last chunk; its trailers are read, too.
    def _read_chunk(self) -> bytes:
        line = self._read_line()
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise ValueError(f"expected the size of a chunk, got {line!r}")
        if size := int(match["size"], 16):
            data = self._read(size)
            if self._read_line():
                raise ValueError("expected the end of a chunk")
            return data
        while self._read_line():
            pass
        return b""

    def _read_line(self) -> bytes:
        line = self.rfile.readline(_MAX_LINE)
        if not line.endswith(b"\n"):
            raise ValueError("expected a whole line of a chunked body")
        return line.rstrip(b"\r\n")

    def _read(self, length: int) -> bytes:
        data = self.rfile.read(length)
        if len(data) < length:
            raise ValueError(f"expected {length} bytes, got {len(data)}")
        return data

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing: Envoy has a log."""
