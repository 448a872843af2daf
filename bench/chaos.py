"""Everything goes wrong, in random order, under a steady load: is every answer one of those that the rules ask for?

    python bench/chaos.py [--minutes 10] [--seed 1] [--write]

For each placement: `rejoinder serve` with two ext_proc workers, an Envoy with the output of `rejoinder bootstrap ads`,
and two upstreams, all of them processes. Every request of the load is compared with what `decide` says for the rule
sets that are in force: that of before the last edit, and that of after it, until the edit is live; then the second
alone. (A set that Envoy rejects counts until the next one is live: the ext_proc service has it.) The faults are the
table FAULTS; during each there is an edit, and between them there are many. The second half of the time has no fault
that ends a process: memory is compared between its beginning and its end.

What is allowed besides:
- while an Envoy is killed and not back yet, that it does not answer;
- while an upstream is killed, what the rules say of Envoy's own 503;
- with ext_proc, while `serve` or one of its workers is killed, stopped or comes back: that a response passes as the
  upstream gave it (docs/ext_proc.md). It is counted as "passed".

As root it has a mount namespace of its own, with a disk that can be filled, and `serve` without root's right to read
everything; others can do without the second, and have no full disk. The clock needs a C compiler. `left out` says so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import itertools
import json
import mmap
import os
import random
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import yaml
from harness import machine

from rejoinder import envoy
from rejoinder.envoy import launch
from rejoinder.envoy.module import library
from rejoinder.rules import request as facts
from rejoinder.rules.answers import Reply
from rejoinder.rules.decide import NO_ROUTE_STATUS, decide
from rejoinder.rules.load import load
from rejoinder.rules.model import Forward, Ruleset, native_rules
from rejoinder.rules.request import LOCAL, Request, parse
from rejoinder.xds.translate import Placement

PAGE: Final = Path(__file__).parent.parent / "docs" / "reliability.md"

RATE: Final = 100
"""Requests in a second, for each placement."""
CONNECTIONS: Final = 16
PATIENCE: Final = 60.0
"""Seconds after which an edit is lost, or a process does not come back."""
SLOW: Final = 30.0
"""Seconds after which a request has failed."""
WORKERS: Final = 2
GAP: Final = 0.25
"""Seconds without an answer that are counted as time without answers."""

SLOTS: Final = 10
"""Paths that have rules and routes of their own."""
STATUSES: Final = (200, 404, 429, 500, 503)
HOSTS: Final = ("a.test", "b.test")
VALUES: Final = ("1", "<b>")
"""Of the header `x-a`."""
MARKER: Final = "/generation"
MARKERS: Final = (f"{MARKER}/route", f"{MARKER}/200", f"{MARKER}/418")

ENVOYS_OWN: Final = {
    *("date", "server", "connection", "content-length", "transfer-encoding"),
    "x-envoy-upstream-service-time",
}

Json = dict[str, Any]


# ---- rules, at random


def random_match(chance: random.Random, slot: int) -> Json:
    path = chance.choice(({"prefix": f"/{slot}"}, {"path": f"/{slot}/x"}, {"regex": f"/{slot}/[xy]"}))
    more = chance.choice(({}, {}, {"domains": ["a.test"]}, {"headers": {"x-a": "1"}}, {"methods": ["GET"]}))
    return {**path, **more}


def random_content(chance: random.Random, text: str) -> Json:
    return chance.choice(
        (
            {"body": text},
            {"body": text * 200},
            {"body": f"{text}: {{{{ request.path }}}} {{{{ request.header.x-a }}}}", "template": True},
            {"variants": [{"content_type": kind, "body": f"{text} as {kind}"} for kind in ("text/html", "text/plain")]},
        )
    )


def random_rule(chance: random.Random, slot: int, number: int) -> Json:
    """A rule; half of them are about statuses."""
    rule: Json = {"name": f"slot{slot}", "match": random_match(chance, slot)}
    if chance.random() < 0.1:
        rule["final"] = True
    if chance.random() < 0.5:
        rule["enable_on_status"] = chance.choice(([503], ["5xx"], [404, 429], [200], ["4xx", "5xx"]))
        if chance.random() < 0.1:
            return {**rule, "pass": True}
        if chance.random() < 0.2:
            rule["keep_headers"] = ["x-from"]
        if chance.random() < 0.1:
            rule["source"] = "upstream"
    if chance.random() < 0.5:
        rule["status_code"] = chance.choice((200, 404, 418, 503))
    if chance.random() < 0.1:
        rule["observe"] = True
    return {**rule, "headers": [f"X-Edit={number}"], **random_content(chance, f"slot {slot} edit {number}")}


def random_route(chance: random.Random, slot: int, number: int) -> Json:
    action = chance.choice(
        (
            *({"upstream": "a"}, {"upstream": "b"}, {"upstream": "b"}),
            {"respond": {"status_code": 201, "body": f"route {slot} edit {number}"}},
            {"redirect": {"path": f"/elsewhere/{number}"}},
        )
    )
    return {"name": f"route{slot}", "prefix": f"/{slot}", **action}


class Rules:
    """A rule file that is edited at random, one rule or route at a time."""

    def __init__(self, chance: random.Random, listen: int, upstreams: dict[str, int]) -> None:
        self._chance = chance
        self._listen = listen
        self._upstreams = {name: f"http://127.0.0.1:{port}" for name, port in upstreams.items()}
        self._parts: list[tuple[str, Callable[[random.Random, int, int], Json], int]] = [
            (key, make, slot)
            for slot in range(SLOTS)
            for key, make in (("rules", random_rule), ("routes", random_route))
        ]
        self._made: dict[tuple[str, int], Json] = {
            (key, slot): make(chance, slot, 0) for key, make, slot in self._parts
        }
        self.number = 0

    def edit(self) -> str:
        """The text after one more edit."""
        self.number += 1
        key, make, slot = self._chance.choice(self._parts)
        if self._chance.random() < 0.2:
            self._made.pop((key, slot), None)
        else:
            self._made[key, slot] = make(self._chance, slot, self.number)
        return self.text()

    def replace(self) -> str:
        """The text of another file."""
        self.number += 1
        self._made = {(key, slot): make(self._chance, slot, self.number) for key, make, slot in self._parts}
        return self.text()

    def text(self, *more_listeners: str) -> str:
        # One for each thing that is taken over by itself: routes, and the filters for requests and for responses. The
        # last one ends with its path, so the first half of the file has not all.
        body = {"body": str(self.number)}
        marker = {"name": "marker", "path": f"{MARKER}/route", "respond": body}
        markers = [
            {"name": f"marker{status}", "enable_on_status": [status], **body, "match": {"path": f"{MARKER}/{status}"}}
            for status in (200, 418)
        ]
        del markers[0]["enable_on_status"]
        rules = [made for (key, _), made in sorted(self._made.items()) if key == "rules"]
        routes = [made for (key, _), made in sorted(self._made.items()) if key == "routes"]
        page = {
            "name": "page",
            "enable_on_status": ["5xx"],
            "template": True,
            "body": "{{ status }}: {{ request.path }}",
        }
        document = {
            "listen": [f"127.0.0.1:{self._listen}", *more_listeners],
            "upstreams": self._upstreams,
            "routes": [marker, *routes, {"name": "all", "upstream": "a"}],
            "rules": [*rules, page, *markers],
        }
        return yaml.safe_dump(document, sort_keys=False)


# ---- what is right


def upstream_headers(name: str) -> tuple[tuple[str, str], ...]:
    return (("x-from", name), ("etag", '"1"'), ("content-type", "text/html"))


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of the load."""

    request: Request
    headers: tuple[tuple[str, str], ...]
    """As they are sent."""
    status: int
    """That the upstream is to answer with."""

    def bytes(self) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers)
        start = f"{self.request.method} {self.request.target} HTTP/1.1\r\nhost: {self.request.host}\r\n"
        return f"{start}{lines}\r\n".encode()


def random_request(chance: random.Random) -> Asked:
    slot, status = chance.randrange(SLOTS + 1), chance.choice(STATUSES)
    target = f"/{slot}/{chance.choice('xyz')}{chance.choice(('', '?q=1'))}"
    headers = (("x-a", chance.choice(VALUES)), ("accept", "text/html"), ("x-status", str(status)))
    return asked(chance.choice(("GET", "GET", "HEAD", "POST")), chance.choice(HOSTS), target, headers, status)


def asked(method: str, host: str, target: str, headers: tuple[tuple[str, str], ...], status: int) -> Asked:
    headers = (*headers, ("content-length", "0")) if method == "POST" else headers
    return Asked(replace(parse(method, host, target, headers), client="127.0.0.1"), headers, status)


def passed(name: str, asked: Asked) -> Reply:
    """An upstream's response, as it gave it."""
    return Reply(asked.status, upstream_headers(name), f"{name} {asked.request.target}".encode())


def right(ruleset: Ruleset, asked: Asked, *, down: bool = False, untold: str = "") -> list[Reply | int]:
    """What a client must get: a reply, or the status of a response of Envoy's own that passes.

    Args:
        down: the upstream does not answer, maybe.
        untold: whose headers are not known: of the "request", the "response" or "both".
    """
    known = untold not in ("request", "both")
    decision = decide(ruleset, asked.request if known else replace(asked.request, headers=()))
    if decision.reply:
        return [decision.reply]
    came: list[tuple[facts.Response, Reply | int]] = []
    if decision.route is None:
        came.append((facts.Response(NO_ROUTE_STATUS, source=LOCAL), NO_ROUTE_STATUS))
    else:
        assert isinstance(decision.route.action, Forward)
        name = decision.route.action.upstream
        headers = () if untold in ("response", "both") else upstream_headers(name)
        came.append((facts.Response(asked.status, headers), passed(name, asked)))
        if down:
            came.append((facts.Response(503, source=LOCAL), 503))
    answers = ((decision.on_status(response), otherwise) for response, otherwise in came)
    return [answered[1] if answered else otherwise for answered, otherwise in answers]


def conditional(ruleset: Ruleset) -> Ruleset:
    return replace(ruleset, rules=tuple(rule for rule in ruleset.rules if not rule.unconditional))


def unanswered(ruleset: Ruleset, asked: Asked, *, down: bool = False) -> list[Reply | int]:
    """What a client may get where the ext_proc service does not answer: neither before the upstream nor after it."""
    return [
        *right(conditional(ruleset), asked, down=down),  # at one of the two it did
        *right(replace(ruleset, rules=()), asked, down=down),
    ]


def mixed(routes: Ruleset, rules: Ruleset) -> Ruleset:
    """What Envoy has while an edit is on its way that changes both for one request: one's routes, with the answers that
    they give for rules, and the other's filter."""
    own = native_rules(rules.rules)
    return replace(routes, rules=(*native_rules(routes.rules), *(rule for rule in rules.rules if rule not in own)))


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def is_(self, wanted: Reply | int, method: str) -> bool:
        if isinstance(wanted, int):
            return self.status == wanted and not any(name == "x-from" for name, _ in self.headers)
        body = b"" if method == "HEAD" else wanted.body
        return (self.status, self.body, folded(self.headers)) == (wanted.status, body, folded(wanted.headers))


def folded(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    values: dict[str, list[str]] = {}
    for name, value in headers:
        if name not in ENVOYS_OWN:
            values.setdefault(name, []).append(value)
    return {name: ",".join(filter(None, each)) for name, each in values.items()}


class Connection:
    """HTTP/1.1, kept alive, one request at a time; made when it is needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, asked: Asked) -> Response:
        """Raises:
        OSError, EOFError: no answer, or not in time; the next request is made on a new connection.
        """
        try:
            async with asyncio.timeout(SLOW):
                return await self._ask(asked)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None

    async def _ask(self, asked: Asked) -> Response:
        if self._streams and self._streams[0].at_eof():  # of one that was killed, or was idle
            self.close()
        if not self._streams:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(asked.bytes())
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
        status = int(first.split()[1])
        headers = tuple((name.lower(), value) for name, _, value in (line.partition(": ") for line in lines))
        length = int(dict(headers).get("content-length", 0))
        body = b"" if asked.request.method == "HEAD" else await reader.readexactly(length)
        if dict(headers).get("connection") == "close":
            self.close()
        return Response(status, headers, body)


# ---- processes


CLOCK: Final = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long *offset;

__attribute__((constructor)) static void open_offset(void) {
    const char *name = getenv("CHAOS_CLOCK");
    int file = name ? open(name, O_RDONLY) : -1;
    void *mapped = file < 0 ? MAP_FAILED : mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) offset = mapped;
    if (file >= 0) close(file);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, id, now);
    if (!failed && offset && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += *offset;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}
"""
"""A wall clock that is moved by a number in a file, for the processes that are started with it."""


class Clock:
    def __init__(self, folder: Path) -> None:
        self.environ: dict[str, str] = {}
        """For processes that are to have this clock; empty: there is no C compiler."""
        compiler = shutil.which("cc") or shutil.which("gcc")
        file, source, made = (folder / name for name in ("offset", "clock.c", "clock.so"))
        file.write_bytes(bytes(8))
        with file.open("r+b") as opened:
            self._offset = mmap.mmap(opened.fileno(), 8)
        if compiler:
            source.write_text(CLOCK)
            subprocess.run([compiler, "-O2", "-shared", "-fPIC", source, "-o", made], check=True)
            self.environ = {"LD_PRELOAD": str(made), "CHAOS_CLOCK": str(file)}

    def move(self, seconds: int) -> None:
        self._offset[:] = struct.pack("q", seconds)


def started(command: Sequence[str], log: Path, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process that ends with this one."""
    # Root may read what nobody may; without these it is like others.
    rights = "-dac_override,-dac_read_search"
    drop = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if os.geteuid() == 0 else []
    with log.open("ab") as output:
        return subprocess.Popen(
            [*drop, sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), *command],
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "GRPC_VERBOSITY": "NONE", **environ},
        )


def children(pid: int) -> list[int]:
    """The ext_proc workers of a `serve`."""
    lines = " ".join(each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/children"))
    return sorted(
        child for child in map(int, lines.split()) if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    )


def memory(pid: int) -> float:
    """What is resident, in MB."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024
    return 0.0


def free_ports(number: int) -> list[int]:
    """Ports in a row: workers have consecutive ones. They are below those that the system gives to connections, one of
    which might have them when a process comes back."""
    while True:
        first = random.SystemRandom().randrange(10_000, 30_000)
        ports = list(range(first, first + number))
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in ports:
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return ports


async def upstream(name: str, port: int) -> None:
    """An upstream: answers with the status that a request's `x-status` says."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError), contextlib.closing(writer):
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
                method, target, _ = first.split(" ")
                status = dict(line.lower().split(": ", 1) for line in lines).get("x-status", "200")
                body = f"{name} {target}".encode()
                headers = (*upstream_headers(name), ("content-length", str(len(body))))
                head = "".join(f"{key}: {value}\r\n" for key, value in headers)
                writer.write(f"HTTP/1.1 {status} Some\r\n{head}\r\n".encode() + (b"" if method == "HEAD" else body))

    async with await asyncio.start_server(serve, "127.0.0.1", port, backlog=1000) as server:
        await server.serve_forever()


# ---- what is under load


@dataclass(slots=True)
class Window:
    """A time in which something is allowed."""

    kind: str
    begin: float
    end: float = float("inf")


@dataclass(slots=True)
class Tally:
    requests: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    """Of what must not be."""
    reloads: int = 0
    seconds_to_live: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    longest_gap: dict[bool, float] = field(default_factory=lambda: {False: 0.0, True: 0.0})
    """Between two answers, in seconds; by whether Envoy or an upstream was away meanwhile."""
    gaps: dict[bool, float] = field(default_factory=lambda: {False: 0.0, True: 0.0})
    """The sum of those of more than GAP."""
    memory: list[dict[str, float]] = field(default_factory=list)


ENVOY_KILLED, UPSTREAM_KILLED, SERVICE, STOPPED = "Envoy killed", "upstream killed", "service away", "stopped"


class Site:
    """One placement: `serve`, Envoy, upstreams, and the load."""

    def __init__(self, placement: Placement, folder: Path, disk: Path, seed: int) -> None:
        self.placement = placement
        self.chance = random.Random(f"{seed} {placement.value}")
        self.folder = folder
        self.disk = disk
        """Where the rules are, and what `serve` says."""
        self.clock = Clock(folder)
        listen, xds, self.admin, a, b, self.ext_proc, *_ = free_ports(6 + WORKERS)
        self.listen, self.xds = listen, xds
        self.upstreams = {"a": a, "b": b}
        self.file = disk / "rules.yaml"
        self.rules = Rules(self.chance, listen, self.upstreams)
        self.tally = Tally()
        self.windows: list[Window] = []
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._sets: list[Ruleset] = []
        self._oldest = 0
        """The first of the sets that may be in force."""
        self._answered = time.monotonic()
        self._monitor = Connection(listen)

    # Processes.

    def start(self, name: str) -> None:
        environ: dict[str, str] = {}
        match name:
            case "serve":
                ports = {"--xds": self.xds, "--ext-proc": self.ext_proc, "--admin": self.admin}
                command = [sys.executable, "-m", "rejoinder.cli", "serve", str(self.file), "--workers", str(WORKERS)]
                command += [text for key, port in ports.items() for text in (key, f"127.0.0.1:{port}")]
                command += ["--conditional", self.placement.value]
            case "envoy":
                config = json.dumps(envoy.bootstrap(("127.0.0.1", self.xds), node_id=self.placement.value))
                command = [str(envoy.find().path), "--config-yaml", config, "--log-level", "error"]
                command += ["--disable-hot-restart", "--concurrency", "1", "--drain-time-s", "5"]
                environ = library.environment()
            case _:
                command = [sys.executable, __file__, "--upstream", name, str(self.upstreams[name])]
        log = (self.disk if name == "serve" else self.folder) / f"{name}.log"
        self.running[name] = started(command, log, {**environ, **self.clock.environ})

    async def end(self, name: str) -> None:
        """kill -9."""
        process = self.running.pop(name)
        process.kill()
        await asyncio.to_thread(process.wait)

    def workers(self) -> list[int]:
        return children(self.running["serve"].pid)

    def sizes(self) -> dict[str, float]:
        return {
            "serve": memory(self.running["serve"].pid),
            "workers": sum(map(memory, self.workers())),
            "Envoy": memory(self.running["envoy"].pid),
        }

    def said(self) -> str:
        """The ends of the logs, and who runs."""
        logs = {**{name: self.folder / f"{name}.log" for name in self.running}, "serve": self.disk / "serve.log"}
        states = {name: process.poll() for name, process in self.running.items()}
        ends = (f"{name}: {log.read_text(errors='replace')[-2000:]}" for name, log in logs.items())
        return "\n".join([f"ended: {states}", *ends])

    # Rules.

    def know(self, text: str) -> bool:
        """A text is about to be in the file: what it says may be in force from now on; whether it says anything."""
        scratch = self.folder / "rules.yaml"
        scratch.write_text(text)
        loaded = load([scratch])
        if loaded.ruleset is not None:
            self._sets.append(loaded.ruleset)
        return loaded.ruleset is not None

    def save(self, text: str) -> None:
        assert self.know(text), text
        if self.chance.random() < 0.5:
            self.file.write_text(text)
        else:
            new = self.file.with_name("new")
            new.write_text(text)
            new.replace(self.file)

    async def live(self, since: float | None = None) -> None:
        """Wait until the last set is in force, wherever answers are given: then it alone is."""
        number, right_ones = str(self.rules.number).encode(), 0
        since = since or time.monotonic()
        async with asyncio.timeout(PATIENCE):
            # (Workers are asked in turn: each has its turn among so many.)
            while right_ones < 4 * WORKERS + len(MARKERS):
                target = MARKERS[min(right_ones, len(MARKERS) - 1)]
                try:
                    reply = await self._monitor.ask(asked("GET", "a.test", target, (("x-status", "418"),), 418))
                    right_ones = right_ones + 1 if reply.body == number else 0
                except (OSError, EOFError):
                    right_ones = 0
                await asyncio.sleep(0 if right_ones else 0.01)
        self._oldest = len(self._sets) - 1
        self.tally.reloads += 1
        self.tally.seconds_to_live.append(time.monotonic() - since)

    async def edit(self) -> None:
        since = time.monotonic()
        self.save(self.rules.edit())
        await self.live(since)

    async def problems(self) -> None:
        """Wait until `serve` has seen that the rules cannot be used."""
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(OSError, EOFError):
                    connection = Connection(self.admin)
                    reply = await connection.ask(asked("GET", "localhost", "/status", (), 200))
                    connection.close()
                    if json.loads(reply.body)["problems"]:
                        return
                await asyncio.sleep(0.02)

    # The load.

    def was(self, since: float, *kinds: str) -> bool:
        return any(window.kind in kinds and window.end >= since for window in self.windows)

    @contextlib.contextmanager
    def window(self, *kinds: str) -> Iterator[None]:
        """Something is allowed for as long as the block lasts: end it when all answers are right again."""
        made = [Window(kind, time.monotonic()) for kind in kinds]
        self.windows += made
        try:
            yield
        finally:
            for each in made:
                each.end = time.monotonic()
            self.windows = [each for each in self.windows if each.end > time.monotonic() - 2 * SLOW]

    async def ask(self, connection: Connection, asked: Asked) -> None:
        self.tally.requests += 1
        begin, oldest = time.monotonic(), self._oldest
        try:
            response = await connection.ask(asked)
        except (OSError, EOFError) as error:
            outcome = "not answered, Envoy killed" if self.was(begin, ENVOY_KILLED) else "failed"
            self._note(outcome, f"{type(error).__name__} {error}", asked, begin)
            return
        outcome = self._judged(response, asked, begin, self._sets[oldest:])
        self._note(outcome, str(response), asked, begin)
        if outcome != "wrong":
            now, away = time.monotonic(), self.was(self._answered, ENVOY_KILLED, UPSTREAM_KILLED, STOPPED)
            gap, self._answered = now - self._answered, now
            self.tally.longest_gap[away] = max(self.tally.longest_gap[away], gap)
            self.tally.gaps[away] += gap if gap > GAP else 0

    def _judged(self, response: Response, asked: Asked, begin: float, sets: Sequence[Ruleset]) -> str:
        def is_one(wanted: Callable[..., list[Reply | int]], sets: Iterable[Ruleset], **options: Any) -> bool:
            each = (reply for one in sets for reply in wanted(one, asked, **options))
            return any(response.is_(reply, asked.request.method) for reply in each)

        down = self.was(begin, UPSTREAM_KILLED)
        if is_one(right, sets):
            return "answered"
        if down and is_one(right, sets, down=True):
            return "answered, upstream killed"
        pairs = list(itertools.permutations(sets, 2))
        mixtures = [mixed(*pair) for pair in pairs]
        late = [mixed(routes, each) for routes, rules in pairs for each in (rules, conditional(rules))]
        if is_one(right, mixtures, down=down):
            return "mixed"
        # One's filter has not asked before the upstream, or tells too little, and the other's rules are asked after it.
        if self.placement is Placement.EXT_PROC and any(
            is_one(right, late, down=down, untold=untold) for untold in ("", "request", "response", "both")
        ):
            return "mixed"
        away = self.placement is Placement.EXT_PROC and self.was(begin, SERVICE)
        return "passed" if away and is_one(unanswered, [*sets, *mixtures], down=down) else "wrong"

    def _note(self, outcome: str, what: str, asked: Asked, begin: float) -> None:
        self.tally.outcomes[outcome] += 1
        if outcome in ("wrong", "failed") and len(self.tally.examples) < 20:
            request = asked.request
            sets = self._sets[self._oldest :]
            self.tally.examples.append(
                f"{self.placement.value} {time.monotonic() - begin:.3f} s, "
                f"last fault {self.last}: {outcome}: {request.method} {request.host}{request.target} "
                f"{request.headers}: {what[:400]}; wanted {[r for one in sets for r in right(one, asked)]}"
            )

    last = "none"

    async def load(self, number: int) -> None:
        connection, chance = Connection(self.listen), random.Random(number)
        period = CONNECTIONS / RATE
        due = time.monotonic() + number / RATE
        with contextlib.closing(connection):
            while True:
                await asyncio.sleep(due - time.monotonic())
                # What is late by more than a second is not made up for: the load is bounded.
                due = max(due + period, time.monotonic() - 1)
                await self.ask(connection, random_request(chance))


# ---- faults


Fault = Callable[[Site], Awaitable[None]]


def pause(site: Site) -> Awaitable[None]:
    return asyncio.sleep(site.chance.uniform(0.2, 1.5))


async def kill_serve(site: Site) -> None:
    with site.window(SERVICE):
        await site.end("serve")
        site.save(site.rules.edit())
        await pause(site)
        site.start("serve")
        await site.live()


async def kill_worker(site: Site) -> None:
    with site.window(SERVICE):
        os.kill(site.chance.choice(site.workers()), signal.SIGKILL)
        site.save(site.rules.edit())
        await site.live()
        await all_workers(site)


async def all_workers(site: Site) -> None:
    async with asyncio.timeout(PATIENCE):
        while len(site.workers()) < WORKERS or not all(map(listens, range(site.ext_proc, site.ext_proc + WORKERS))):
            await asyncio.sleep(0.05)
    await site.edit()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def kill_envoy(site: Site) -> None:
    with site.window(ENVOY_KILLED):
        await site.end("envoy")
        site.save(site.rules.edit())
        site.start("envoy")
        await site.live()


async def kill_upstream(site: Site) -> None:
    name = site.chance.choice(sorted(site.upstreams))
    with site.window(UPSTREAM_KILLED):
        await site.end(name)
        await site.edit() if name != "a" else site.save(site.rules.edit())
        await pause(site)
        site.start(name)
        async with asyncio.timeout(PATIENCE):
            while not listens(site.upstreams[name]):
                await asyncio.sleep(0.02)
        await site.live()


async def stop(site: Site, pid: int, *windows: str) -> None:
    with site.window(STOPPED, *windows):
        os.kill(pid, signal.SIGSTOP)
        try:
            site.save(site.rules.edit())
            await pause(site)
        finally:
            os.kill(pid, signal.SIGCONT)
        await site.live()


async def stop_serve(site: Site) -> None:
    await stop(site, site.running["serve"].pid)


async def stop_worker(site: Site) -> None:
    await stop(site, site.chance.choice(site.workers()), SERVICE)


async def stop_envoy(site: Site) -> None:
    await stop(site, site.running["envoy"].pid)


async def stop_upstream(site: Site) -> None:
    await stop(site, site.running[site.chance.choice(sorted(site.upstreams))].pid)


async def mend(site: Site) -> None:
    await site.problems()
    await pause(site)
    await site.edit()


async def broken_rules(site: Site) -> None:
    text = site.rules.text()
    at = site.chance.randrange(len(text))
    broken = site.chance.choice(("", "rules: [", f"{text[:at]}\0{text[at:]}", "rules: {a: 1}\n", "\tx", "rulez: []\n"))
    assert not site.know(broken)
    site.file.write_text(broken)
    await mend(site)


async def deleted_rules(site: Site) -> None:
    site.file.unlink()
    await mend(site)


async def folder_for_rules(site: Site) -> None:
    site.file.unlink()
    site.file.mkdir()
    await site.problems()
    site.file.rmdir()
    await site.edit()


async def replaced_rules(site: Site) -> None:
    site.save(site.rules.replace())
    await site.live()


async def half_written_rules(site: Site) -> None:
    text = site.rules.edit()
    half = text[: site.chance.randrange(len(text))]
    site.know(half)  # it may well be a rule set
    with site.file.open("w") as file:
        file.write(half)
        file.flush()
        await pause(site)
        site.know(text)
        file.write(text[len(half) :])
    await site.live()


async def burst_of_edits(site: Site) -> None:
    for _ in range(20):
        site.save(site.rules.edit())
    await site.live()


async def no_permission(site: Site) -> None:
    what = site.chance.choice((site.file, site.disk))
    mode = what.stat().st_mode
    what.chmod(0)
    await site.problems()
    what.chmod(mode)
    await site.edit()


async def full_disk(site: Site) -> None:
    """An editor has truncated the file, and can write nothing; then one that renames can write nothing either."""
    filler = site.disk / "filler"
    with filler.open("wb", buffering=0) as full, site.file.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while full.write(bytes(1 << 12)):
                pass
        for target in (file, full):
            with contextlib.suppress(OSError):
                assert not target.write(site.rules.text().encode())
    await site.problems()
    await pause(site)
    filler.unlink()
    await site.edit()


async def moved_clock(site: Site) -> None:
    for seconds in site.chance.sample((3600, -3600, 86_400 * 400, -86_400 * 400, 1, -1, 0), 3):
        site.clock.move(seconds)
        await site.edit()
    site.clock.move(0)
    await site.edit()


async def rejected_rules(site: Site) -> None:
    """A listener on an address that is not this machine's."""
    site.rules.edit()
    text = site.rules.text("192.0.2.1:1")
    assert site.know(text)
    site.file.write_text(text)
    await pause(site)
    await site.edit()


FAULTS: Final[dict[str, Fault]] = {
    "`serve` killed": kill_serve,
    "worker killed": kill_worker,
    "Envoy killed": kill_envoy,
    "upstream killed": kill_upstream,
    "`serve` stopped": stop_serve,
    "worker stopped": stop_worker,
    "Envoy stopped": stop_envoy,
    "upstream stopped": stop_upstream,
    "rules broken": broken_rules,
    "rules deleted": deleted_rules,
    "a folder for rules": folder_for_rules,
    "rules replaced": replaced_rules,
    "rules half written": half_written_rules,
    "20 edits at once": burst_of_edits,
    "rules without permission": no_permission,
    "disk full": full_disk,
    "clock moved": moved_clock,
    "rules that Envoy rejects": rejected_rules,
}
DEADLY: Final = {name for name in FAULTS if name.endswith("killed")}


# ---- the run


async def run(site: Site, minutes: float, left_out: frozenset[str]) -> Tally:
    for name in ("a", "b", "serve", "envoy"):
        if name == "serve":
            site.save(site.rules.text())
        site.start(name)
    loads: list[asyncio.Task[None]] = []
    try:
        await site.live()  # and not a moment of that counts
        site.tally = Tally()
        site._answered = time.monotonic()
        loads += (asyncio.ensure_future(site.load(number)) for number in range(CONNECTIONS))
        begin = time.monotonic()
        half, end = begin + minutes * 30, begin + minutes * 60
        await faults(site, half, sorted(FAULTS.keys() - left_out))
        rest = sorted(FAULTS.keys() - left_out - DEADLY)
        await faults(site, half + (end - half) / 4, rest)  # processes that have just been started grow
        site.tally.memory.append(site.sizes())
        await faults(site, end, rest)
        site.tally.memory.append(site.sizes())
    finally:
        for task in loads:
            task.cancel()
        ended = await asyncio.gather(*loads, return_exceptions=True)
        for process in site.running.values():
            process.kill()
            process.wait()
    for error in ended:
        if isinstance(error, Exception):
            raise error
    return site.tally


async def faults(site: Site, until: float, names: Sequence[str]) -> None:
    """All of them in random order, again and again, with edits between."""
    order: list[str] = []
    while time.monotonic() < until:
        order = order or site.chance.sample(names, len(names))
        name = site.last = order.pop()
        try:
            await FAULTS[name](site)
        except TimeoutError:
            raise TimeoutError(
                f"{site.placement.value}: it does not recover from this: {name}\n{site.said()}"
            ) from None
        site.tally.faults[name] += 1
        for _ in range(site.chance.randrange(5)):
            await site.edit()


# ---- what came of it


def rows(tallies: dict[Placement, Tally]) -> list[tuple[str, ...]]:
    def each(what: str, said: Callable[[Tally], str]) -> tuple[str, ...]:
        return (what, *map(said, tallies.values()))

    def counted(what: str, outcome: str) -> tuple[str, ...]:
        return each(what, lambda tally: f"{tally.outcomes[outcome]:,}")

    names = sorted({name for tally in tallies.values() for name in tally.faults}, key=list(FAULTS).index)
    return [
        ("", *(placement.value for placement in tallies)),
        ("---",) * (len(tallies) + 1),
        each("requests", lambda tally: f"{tally.requests:,}"),
        counted("... **wrong answers**", "wrong"),
        counted("... **failed, where Envoy was there**", "failed"),
        counted("... answered by one's routes and the other's filter, during an edit of both", "mixed"),
        counted("... not answered, Envoy killed", "not answered, Envoy killed"),
        counted("... answered as the rules say of a dead upstream", "answered, upstream killed"),
        counted("... passed, the service away", "passed"),
        each("longest time without an answer", lambda tally: f"{tally.longest_gap[False]:.2f} s"),
        each("... while Envoy or an upstream was away", lambda tally: f"{tally.longest_gap[True]:.2f} s"),
        each(f"times of more than {GAP:g} s without one, together", lambda tally: f"{tally.gaps[False]:.1f} s"),
        each("... while Envoy or an upstream was away", lambda tally: f"{tally.gaps[True]:.1f} s"),
        each("reloads", lambda tally: f"{tally.reloads:,}"),
        each("... from save to answer, median", lambda tally: f"{statistics.median(tally.seconds_to_live):.2f} s"),
        *(
            each(f"memory of {name}, before and after", lambda tally, name=name: memory_said(tally, name))  # type: ignore[misc]
            for name in ("serve", "workers", "Envoy")
        ),
        *(each(name, lambda tally, name=name: f"{tally.faults[name]}") for name in names),  # type: ignore[misc]
    ]


def memory_said(tally: Tally, name: str) -> str:
    return " / ".join(f"{sizes[name]:.0f}" for sizes in tally.memory) + " MB"


def is_good(tally: Tally) -> bool:
    return not (tally.outcomes["wrong"] or tally.outcomes["failed"])


def write(table: str) -> None:
    begin, end = "<!-- bench/chaos.py writes this report -->\n", "<!-- end of the report -->\n"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")


_CLONE_NEWNS, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 0x20000, 0x4000, 1 << 18, 2


def small_disk(folder: Path) -> bool:
    """Mount one, that nobody else sees; whether that could be done."""
    libc = ctypes.CDLL(None, use_errno=True)
    return not (
        libc.unshare(_CLONE_NEWNS)
        or libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
        or libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=2m,mode=0700")
    )


async def main(minutes: float, seed: int, placements: Sequence[Placement]) -> tuple[str, dict[Placement, Tally]]:
    left_out: set[str] = set()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rejoinder-chaos-"))
        sites = []
        for placement in placements:
            place = Path(folder, placement.value)
            disk = place / "disk"
            disk.mkdir(parents=True)
            if small_disk(disk):
                stack.callback(ctypes.CDLL(None).umount2, os.fsencode(disk), _MNT_DETACH)
            else:
                left_out.add("disk full")
            sites.append(Site(placement, place, disk, seed))
        if not sites[0].clock.environ:
            left_out.add("clock moved")
        found = await asyncio.gather(*(run(site, minutes, frozenset(left_out)) for site in sites))
    tallies = dict(zip(placements, found, strict=True))
    where = machine()
    text = (
        f"`python bench/chaos.py --minutes {minutes:g} --seed {seed}`, {RATE} requests per second and placement over "
        f"{CONNECTIONS} connections, {where['cores']} cores, {where['cpu']}, Python {where['python']}; left out: "
        f"{', '.join(sorted(left_out)) or 'nothing'}.\n\n"
    )
    return text + "".join(f"| {' | '.join(row)} |\n" for row in rows(tallies)), tallies


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--placement", choices=[each.value for each in Placement], help="one of them only")
    parser.add_argument("--write", action="store_true", help="put the report into docs/reliability.md")
    parser.add_argument("--upstream", nargs=2, metavar=("NAME", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.upstream:
        asyncio.run(upstream(options.upstream[0], int(options.upstream[1])))
    wanted = [Placement(options.placement)] if options.placement else list(Placement)
    report, tallies = asyncio.run(main(options.minutes, options.seed, wanted))
    print(report)
    for example in itertools.chain.from_iterable(tally.examples for tally in tallies.values()):
        print(example)
    if options.write:
        write(report)
    sys.exit(not all(map(is_good, tallies.values())))
