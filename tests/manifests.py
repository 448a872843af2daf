"""Kubernetes manifests in a real Envoy: each port of a Gateway on an address of its own, and backends that tell.

with EchoBackend("shop", "web") as backend: ...
places = publish(gateway, load([path], upstreams={"shop/web:8080": backend.url}).ruleset)
answer = ask(places["gateway/shop/main/80"], "GET", "shop.test", "/")
"""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import threading
import time
from types import TracebackType
from typing import Self

from gateway import MARKER_DOMAIN, Gateway, free_port
from machine import HttpServer, ask

from rejoinder.rules.model import Answer, Listener, Rule, Ruleset, Scope
from rejoinder.xds.events import Accepted

Address = tuple[str, int]

_GENERATIONS = itertools.count(1)


def publish(gateway: Gateway, rules: Ruleset) -> dict[str, Address]:
    """Have Envoy answer by these rules, on ports that are free; where each group of listeners is."""
    places = {group: ("127.0.0.1", free_port()) for group in rules.groups}
    generation = f"manifests {next(_GENERATIONS)}"
    marker = Rule("generation", (Answer(body=generation.encode()),), Scope(domains=(MARKER_DOMAIN,)))
    listeners = tuple(Listener(*place, group=group) for group, place in places.items())
    built = gateway.build(Ruleset(listeners, rules.upstreams, rules.routes, (marker, *rules.rules)), listeners)
    event = gateway.publish(built)
    assert isinstance(event, Accepted), event

    def there(place: Address) -> bool:
        return ask(place, "GET", MARKER_DOMAIN, "/").body.decode() == generation

    gateway.wait_for(lambda: all(map(there, places.values())))
    return places


class EchoBackend:
    """One port of a Service: says what it was asked, and which Service it is."""

    def __init__(self, namespace: str, service: str) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", "0")))
                time.sleep(float(self.headers.get("x-echo-wait", "0")))
                headers: dict[str, list[str]] = {}
                for name, value in self.headers.items():
                    headers.setdefault(name.lower(), []).append(value)
                seen = {"method": self.command, "path": self.path, "headers": headers}
                body = json.dumps({**seen, "namespace": namespace, "backend": service}).encode()
                self.send_response(int(self.headers.get("x-status", "200")))
                for pair in self.headers.get("x-echo-set-header", "").split(","):
                    name, colon, value = pair.partition(":")
                    if colon:
                        self.send_header(name.strip(), value.strip())
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    with contextlib.suppress(ConnectionError):  # Envoy did not wait for it
                        self.wfile.write(body)

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = handle_any  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        self._server = HttpServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
