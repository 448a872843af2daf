"""A real gateway for tests: Envoy, control plane and ext_proc service in this process, and an upstream that obeys.

with Gateway() as gateway:
    gateway.apply(load([path]).ruleset)
    answer = gateway.ask("GET", "a.test", "/x", [("x-status", "503")])
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import copy
import dataclasses
import functools
import http.client
import http.server
import itertools
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest
from machine import SECONDS, HttpServer, Response, ask

from rejoinder import envoy
from rejoinder.envoy.module import library
from rejoinder.extproc.server import Processor
from rejoinder.rules.load import load
from rejoinder.rules.model import (
    Answer,
    Endpoint,
    Listener,
    PathKind,
    PathMatch,
    RequestMatch,
    Route,
    Rule,
    Ruleset,
    Scope,
    StatusPattern,
)
from rejoinder.rules.names import TRUSTED_CA
from rejoinder.xds.build import Build, build
from rejoinder.xds.events import Accepted, Event, Nack
from rejoinder.xds.server import Server
from rejoinder.xds.translate import Configuration, Placement, Settings
from rejoinder.xds.translate.clusters import ext_proc_cluster
from rejoinder.xds.translate.encode import snapshot
from rejoinder.xds.translate.extensions import FOREIGN_TYPES, foreign_filters
from rejoinder.xds.translate.filters import discovered

MARKER_DOMAIN = "generation.invalid"
MARKER_PATH = RequestMatch(PathMatch(PathKind.EXACT, "/generation.invalid"))
ROUTES_MARKER_PATH = RequestMatch(PathMatch(PathKind.EXACT, "/routes.generation.invalid"))

HANDLERS = Path(__file__).parent.parent / "examples" / "handler"
"""The example of a Python handler."""

T = TypeVar("T")


def ruleset(path: Path) -> Ruleset:
    """The rule set of files that must have no error."""
    loaded = load([path])
    assert loaded.ruleset is not None, loaded.problems
    return loaded.ruleset


def only_for(gateway: Gateway, placement: Placement) -> None:
    """Skip a test that is about one placement."""
    if gateway.conditional is not placement:
        pytest.skip(f"about {placement.value}")


def wait_for(
    condition: Callable[[], bool],
    process: subprocess.Popen[Any] | None = None,
    failures: tuple[type[Exception], ...] = (OSError,),
) -> None:
    """Wait until something is so.

    Args:
        process: must live meanwhile.
        failures: what is tried again: for lack of a connection.
    """
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        assert process is None or process.poll() is None, "it has ended"
        with contextlib.suppress(*failures):
            if condition():
                return
        time.sleep(0.02)
    raise AssertionError("it does not come to be so")


@functools.cache
def _reserved() -> tuple[socket.socket, Iterator[int]]:
    """Ports of this process, for as long as it has the socket: no other one that asks here is given them, and the
    system gives them to no connection."""
    for first in range(20_000, 32_000, 200):
        taken = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            taken.bind(f"\0rejoinder-test-ports-{first}")
            atexit.register(taken.close)
            return taken, itertools.cycle(range(first, first + 200))
        taken.close()
    raise OSError("no ports are left")


def free_port() -> int:
    for port in _reserved()[1]:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            break
    return port


def free_ports(number: int = 3) -> list[int]:
    """In a row. The one behind the last is free, too: two workers have both."""
    while True:
        *ports, last = (free_port() for _ in range(number + 1))
        if last - ports[0] == number:
            return ports


class Upstream:
    """Answers with the status that the request header `x-status` says (else 200), and remembers what it was asked."""

    HEADERS = (("x-from", "upstream"), ("etag", '"1"'), ("set-cookie", "up=1"), ("content-type", "text/html"))
    BODY = b"<p>from upstream</p>"

    def __init__(self) -> None:
        upstream = self
        self.requests: list[str] = []
        self.connections = 0

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                upstream.connections += 1

            def handle_any(self) -> None:
                upstream.requests.append(f"{self.command} {self.path}")
                status = int(self.headers.get("x-status", "200"))
                self.rfile.read(int(self.headers.get("content-length", "0")))
                self.send_response_only(status)
                for name, value in Upstream.HEADERS:
                    self.send_header(name, value)
                body = b"" if status in (204, 304) or self.headers.get("x-empty") else Upstream.BODY
                if status not in (204, 304):
                    self.send_header("content-length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815 - the base class's names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        self._server = HttpServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _with_routes_of_its_own(built: Build, settings: Settings) -> Build:
    """The same for an Envoy whose routes know of no rule: all are answered by the filters for such Envoys."""
    routes = build(dataclasses.replace(built.ruleset, rules=()), settings)
    filters = [
        {"name": entry["name"], **discovered(*FOREIGN_TYPES[settings.conditional])}
        for entry in foreign_filters(built.program, settings.conditional)
    ]

    def with_filters(form: Configuration) -> Configuration:
        listeners = copy.deepcopy(form.listeners)
        for listener in listeners:
            manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
            others = [other for other in manager["http_filters"] if "config_discovery" not in other]
            manager["http_filters"] = [*filters, *others]
        clusters = {cluster["name"]: cluster for cluster in (*form.clusters, ext_proc_cluster(settings.ext_proc))}
        return dataclasses.replace(
            form,
            listeners=listeners,
            clusters=tuple(clusters.values()),
            extensions=built.configuration.extensions,
            split=with_filters(form.split) if form.split else None,
        )

    configuration = with_filters(routes.configuration)
    return dataclasses.replace(built, configuration=configuration, snapshot=snapshot(configuration))


class Gateway:
    """Envoy with our control plane and ext_proc service, run by an event loop in a thread."""

    def __init__(
        self,
        concurrency: int = 1,
        conditional: Placement = Placement.EXT_PROC,
        handlers: Sequence[Path] = (),
        binary: Path | None = None,
        fallback: bool = False,
        foreign: bool = False,
        counts: float | None = None,
    ) -> None:
        self.conditional = conditional
        self.fallback = fallback
        """Whether an Envoy that cannot load the module gets the ext_proc filter."""
        self._binary = binary
        self.foreign = foreign
        """Whether Envoy has routes of its own: those of the rule sets, but no rule in them."""
        self._counts = counts
        """Every how many seconds Envoy says what it has counted; None: never."""
        self.trusted_ca = TRUSTED_CA
        self.long_list = 64
        """From how many routes on a list is cut into buckets."""
        self.many_routes = 1000
        """From how many routes on virtual hosts are resources of their own."""
        self.upstream = Upstream()
        self.address = ("127.0.0.1", free_port())
        self.events: list[Event] = []
        self.output: list[str] = []
        """Envoy's access log."""
        self.processor = Processor()
        self.envoy: envoy.EnvoyProcess
        self._concurrency = concurrency
        self._handlers = handlers
        self._generations = itertools.count(1)
        self._settled = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._stack = contextlib.AsyncExitStack()

    def __enter__(self) -> Self:
        if self.conditional is Placement.MODULE and not library.LIBRARY.is_file():
            pytest.skip("the module was not compiled")
        self._thread.start()
        self.run(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.upstream.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something in the gateway's event loop."""
        future: concurrent.futures.Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(SECONDS)

    async def _start(self) -> None:
        self.server = Server(self._on_event)
        self.ext_proc_port = await self.processor.start(f"127.0.0.1:{free_port()}")
        self._stack.push_async_callback(self.processor.stop)
        self.xds_port = xds = await self.server.start(f"127.0.0.1:{free_port()}")
        self._stack.push_async_callback(self._stop_server)
        self.envoy = await self._stack.enter_async_context(
            envoy.running(
                self._binary or envoy.find().path,
                envoy.bootstrap(("127.0.0.1", xds), admin=("127.0.0.1", 0), access_log=True, counts=self._counts),
                concurrency=self._concurrency,
                environ={**os.environ, **library.environment(handlers=self._handlers)},
                on_output=self.output.append,
            )
        )

    async def _stop_server(self) -> None:
        await self.server.stop()

    def restart(self) -> None:
        """Have a new control plane where the old one was, which says nothing yet."""

        async def start() -> None:
            self.server = Server(self._on_event)
            await self.server.start(f"127.0.0.1:{self.xds_port}")

        self.run(start())

    def _on_event(self, event: Event) -> None:
        with self._settled:
            self.events.append(event)
            self._settled.notify_all()

    def build(self, rules: Ruleset, listeners: tuple[Listener, ...] = ()) -> Build:
        """What is made of a ruleset here: upstreams that are `builtin:echo` lead to `self.upstream`."""
        upstreams = tuple(
            dataclasses.replace(upstream, endpoints=(Endpoint(*self.upstream.address),)) if upstream.echo else upstream
            for upstream in rules.upstreams
        )
        listeners = listeners or (Listener(*self.address),)
        settings = Settings(
            Endpoint("127.0.0.1", self.ext_proc_port),
            self.conditional,
            self.fallback,
            long_list=self.long_list,
            many_routes=self.many_routes,
            trusted_ca=self.trusted_ca,
        )
        ruleset = dataclasses.replace(rules, upstreams=upstreams, listeners=listeners)
        built = build(ruleset, settings)
        return _with_routes_of_its_own(built, settings) if self.foreign else built

    def publish(self, built: Build) -> Event:
        """Publish, and wait for what Envoy says to it."""
        version = built.snapshot.version

        def settled() -> list[Event]:
            return [
                event
                for event in self.events
                if isinstance(event, Accepted | Nack) and event.snapshot.version == version
            ]

        async def publish() -> None:
            self.events.clear()
            self.processor.publish(built.program)
            self.server.publish(built.snapshot)

        self.run(publish())
        with self._settled:
            assert self._settled.wait_for(lambda: bool(settled()), SECONDS), "Envoy says nothing"
        return settled()[0]

    def apply(self, rules: Ruleset) -> None:
        """Have Envoy answer by these rules, and wait until its worker does."""
        generation = str(next(self._generations))
        # A domain of its own, so that nothing else in the routes is different; if there are none, a path of its own.
        domains = [*(route.domains for route in rules.routes), *(rule.scope.domains for rule in rules.rules)]
        scope = Scope(domains=(MARKER_DOMAIN,)) if any(domains) else Scope(request=MARKER_PATH)
        marker = Rule("generation", (Answer(body=generation.encode()),), scope)
        routes = Route("generation", Answer(body=generation.encode()), scope.domains, ROUTES_MARKER_PATH)
        marked = dataclasses.replace(rules, rules=(marker, *rules.rules))
        if self.foreign:
            marker = dataclasses.replace(marker, scope=dataclasses.replace(scope, request=MARKER_PATH))
            # Keeps the others from answering in place of the route.
            never = Answer(enable_on_status=(StatusPattern("599"),))
            shield = Rule("shield", (never,), dataclasses.replace(scope, request=ROUTES_MARKER_PATH), final=True)
            marked = dataclasses.replace(rules, rules=(marker, shield, *rules.rules), routes=(routes, *rules.routes))
        event = self.publish(self.build(marked))
        assert isinstance(event, Accepted), event
        # Envoy says yes before its worker threads have heard of it.
        for path in (MARKER_PATH, ROUTES_MARKER_PATH)[: 2 if self.foreign else 1]:
            self.wait_for(functools.partial(self._answers, MARKER_DOMAIN, path.path.value, generation))

    def _answers(self, host: str, path: str, body: str) -> bool:
        return self.ask("GET", host, path).body.decode() == body

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """As the function of this name."""
        wait_for(condition)

    def ask(self, method: str, host: str, target: str, headers: Sequence[tuple[str, str]] = ()) -> Response:
        return ask(self.address, method, host, target, headers)

    def stats(self, pattern: str) -> dict[str, int]:
        return self.run(self.envoy.admin.stats(pattern))
