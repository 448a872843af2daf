"""What Rejoinder itself serves over HTTP: its admin interface, and the module for Envoys that fetch it.

The admin interface has two pages: `/status` says what goes on as JSON, `/metrics` the counters in Prometheus' text
format. It is for a loopback or private address: it shows the names of rules and Envoys, and changes nothing.
"""

from __future__ import annotations

import http.server
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from rejoinder.cli.arguments import Address
from rejoinder.envoy.module import library
from rejoinder.rules.http import show_address

_LOG: Final = logging.getLogger("rejoinder.admin")

MAX_CONNECTIONS: Final = 32
"""Each has a thread. Whoever connects and says nothing must not have them all, nor many of our file descriptors."""
IDLE_SECONDS: Final = 10.0

Status = Callable[[], dict[str, Any]]
Pages = Mapping[str, tuple[str, Callable[[], bytes]]]
"""By path: the content type, and what makes the content."""


def pages(status: Status) -> Pages:
    """The admin interface; `status` is what `Control.status` returns, and called in a thread."""
    return {
        "/status": ("application/json", lambda: _json(status()).encode()),
        "/metrics": ("text/plain; version=0.0.4", lambda: _metrics(status()).encode()),
    }


def module() -> Pages:
    """The module, for `dynamic_module_config.module.remote`."""
    return {f"/{library.LIBRARY.name}": ("application/octet-stream", library.LIBRARY.read_bytes)}


@contextmanager
def serving(address: Address, pages: Pages) -> Iterator[Address]:
    """Serve pages for as long as the block lasts; the address that is bound.

    Args:
        address: port 0 takes any free one.
        pages: what there is.

    Raises:
        OSError: the address cannot be used.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = IDLE_SECONDS

        def do_GET(self) -> None:
            if self.path not in pages:
                self.send_error(404, f"expected {' or '.join(pages)}")
                return
            content_type, page = pages[self.path]
            body = page()
            self.send_response(200)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    try:
        server = _Server(address, Handler)
    except OSError as error:
        raise OSError(f"cannot listen on {show_address(*address)}: {error.strerror}") from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="admin", daemon=True)
    thread.start()
    try:
        host, port = server.server_address[:2]
        yield str(host), int(port)
    finally:
        server.shutdown()
        server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    """Hangs up on those that are too many."""

    request_queue_size = MAX_CONNECTIONS

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - the base class's
        return self._room.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def get_request(self) -> tuple[Any, Any]:
        try:
            return super().get_request()
        except OSError:
            time.sleep(0.1)  # no file descriptors left: `serve_forever` would ask again at once, and for ever
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request(request, client_address)
        except BaseException:  # no threads left
            self._room.release()
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class's
        if not isinstance(sys.exception(), OSError):  # a client that has gone
            _LOG.exception("a page could not be made")


def _json(status: dict[str, Any]) -> str:
    return json.dumps(status, indent=2) + "\n"


def _metrics(status: dict[str, Any]) -> str:
    """https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format"""
    counters = status["ext_proc"]
    lines = [
        "# TYPE rejoinder_observed_total counter",
        *(f'rejoinder_observed_total{{rule="{name}"}} {number}' for name, number in counters["observed"].items()),
        "# TYPE rejoinder_replies_total counter",
        *(f'rejoinder_replies_total{{rule="{name}"}} {number}' for name, number in counters["replies"].items()),
        "# TYPE rejoinder_passed_total counter",
        f"rejoinder_passed_total {counters['passed']}",
        "# TYPE rejoinder_overloaded_total counter",
        f"rejoinder_overloaded_total {counters['overloaded']}",
        "# TYPE rejoinder_failures_total counter",
        f"rejoinder_failures_total {counters['failures']}",
        "# TYPE rejoinder_handler_failures_total counter",
        *(
            f'rejoinder_handler_failures_total{{rule="{name}"}} {number}'
            for name, number in counters["handler_failures"].items()
        ),
        "# TYPE rejoinder_reload_failures_total counter",
        f"rejoinder_reload_failures_total {status['reload_failures']}",
        "# TYPE rejoinder_envoys gauge",
        f"rejoinder_envoys {len(status['envoys'])}",
    ]
    return "\n".join(lines) + "\n"
