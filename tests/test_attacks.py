"""What strangers, careless rule authors and bad days do to `up` and `serve`, as real processes with a real Envoy.

Each attack is made on both, one after the other on the same processes; afterwards they are alive, answer, and follow an
edit. `test_serve_lasts.py` has what happens to the machine around them: the disk, the terminal, odd names, the parent.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from gateway import Upstream, free_ports, wait_for
from machine import SECONDS, ask, children, tcp_ports

from rejoinder import envoy
from rejoinder.extproc.server import SERVICE
from rejoinder.xds.protobuf import message_class
from rejoinder.xds.server import ADS
from rejoinder.xds.snapshot import CLUSTERS, LISTENERS
from rejoinder.xds.wire import MAX_NAMES

FILES: Final = 300
"""File descriptors that each process may have."""

HANDLERS: Final = """\
import os, sys, time

def ends(request, response):
    sys.exit(3)

def interrupts(request, response):
    raise KeyboardInterrupt

def hangs(request, response):
    time.sleep(3600)
"""

HANDLED: Final = {
    **{name: f"attacked:{name}" for name in ("ends", "interrupts", "hangs")},
    "imports": "unittest.__main__:x",  # whose import ends the process
}

Request: Any = message_class("envoy.service.discovery.v3.DiscoveryRequest")
Response: Any = message_class("envoy.service.discovery.v3.DiscoveryResponse")


class Target(abc.ABC):
    """A program under attack, with its Envoy."""

    xds: int | None = None
    """The port of the control plane, where strangers reach it."""

    def __init__(self, folder: Path, upstream: tuple[str, int], stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.upstream = upstream
        self.file = folder / "rules.yaml"
        listen, admin, *self.own_ports = free_ports(4)
        self.address, self.admin = ("127.0.0.1", listen), ("127.0.0.1", admin)
        self.edits = 0
        (folder / "attacked.py").write_text(HANDLERS)
        self.file.write_text(self.rules())
        self.log = folder / "log"
        stack.callback(self.end)
        self.process = self.start("--admin", f"127.0.0.1:{self.admin[1]}", "--conditional", "ext_proc")

    @abc.abstractmethod
    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the program, and what it needs."""

    def run(self, *arguments: str) -> subprocess.Popen[bytes]:
        limited = f'ulimit -n {FILES} && exec "$@"'
        with self.log.open("wb") as log:
            return subprocess.Popen(
                ["sh", "-c", limited, "sh", sys.executable, "-m", "rejoinder.cli", *arguments],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def end(self) -> None:
        self.process.terminate()
        try:
            assert self.process.wait(SECONDS) == 0
        finally:
            self.process.kill()

    def rules(self) -> str:
        handled = "".join(
            f"  - {{name: {name}, match: {{path: /{name}}}, enable_on_status: [503], handler: '{handler}'}}\n"
            for name, handler in HANDLED.items()
        )
        return (
            f"listen: 127.0.0.1:{self.address[1]}\n"
            f"upstreams: {{up: 'http://{self.upstream[0]}:{self.upstream[1]}'}}\n"
            "routes: [{name: all, upstream: up}]\n"
            f"rules:\n{handled}"
            f"  - {{name: page, match: {{domains: [a.test], path: /page}}, body: page {self.edits}}}\n"
            f"  - {{name: busy, enable_on_status: [503], body: busy {self.edits}}}\n"
        )

    def get(self, path: str, host: str = "a.test") -> bytes:
        return ask(self.address, "GET", host, path, [("x-status", "503")]).body

    def answers(self) -> bool:
        """As the last edit says."""
        return self.get("/page") == f"page {self.edits}".encode() and self.get("/") == f"busy {self.edits}".encode()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        wait_for(condition, self.process)

    def holds(self) -> None:
        """It is alive, answers, and follows an edit."""
        self.edits += 1
        self.file.write_text(self.rules())
        self.wait_for(self.answers)
        self.wait_for(lambda: not self.problems())

    def problems(self) -> list[str]:
        problems: list[str] = json.loads(ask(self.admin, "GET", "localhost", "/status").body)["problems"]
        return problems

    def processes(self) -> list[int]:
        """Of ours: all but Envoy."""
        return [self.process.pid, *children(self.process.pid, Path(sys.executable).name)]

    def ports(self) -> list[int]:
        """On which our own processes listen."""
        return sorted(tcp_ports(self.processes()))

    def said(self) -> str:
        return self.log.read_text(errors="replace")


class Up(Target):
    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return self.run("up", str(self.file), "--concurrency", "1", *arguments)


class Serve(Target):
    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        self.xds, ext_proc = self.own_ports
        config = envoy.bootstrap(("127.0.0.1", self.xds))
        command = [str(envoy.find().path), "--config-yaml", json.dumps(config), "--disable-hot-restart"]
        with (self.folder / "envoy.log").open("wb") as log:
            self.envoy = subprocess.Popen([*command, "--concurrency", "1"], stdout=log, stderr=log)
        ports = ("--xds", f"127.0.0.1:{self.xds}", "--ext-proc", f"127.0.0.1:{ext_proc}", "--workers", "2")
        return self.run("serve", str(self.file), *ports, *arguments)

    def end(self) -> None:
        self.envoy.kill()
        self.envoy.wait()
        super().end()


@pytest.fixture(scope="module", params=[Up, Serve], ids=["up", "serve"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    upstream = Upstream()
    with contextlib.closing(upstream), contextlib.ExitStack() as stack:
        made = request.param(tmp_path_factory.mktemp("attacked"), upstream.address, stack)
        made.wait_for(made.answers)
        yield made


def test_connections_that_say_nothing_take_the_last_file_descriptor(target: Target) -> None:
    with contextlib.ExitStack() as stack:
        for port in (*target.ports(), target.address[1]):
            _connect_silently(stack, port, FILES if port != target.address[1] else 50)
        if target.xds is not None:  # `up` has nothing but --admin to connect to, which lets a few in
            target.wait_for(lambda: any(len(os.listdir(f"/proc/{pid}/fd")) >= FILES - 1 for pid in target.processes()))
        assert target.get("/page") == f"page {target.edits}".encode()  # Envoy's own
        target.file.write_text(target.rules().replace("page", "page in between"))
        time.sleep(0.5)
    target.holds()
    assert len(target.said().splitlines()) < 1000


def _connect_silently(stack: contextlib.ExitStack, port: int, number: int) -> None:
    for _ in range(number):
        stranger = stack.enter_context(socket.socket())
        stranger.setblocking(False)  # it may be that nobody accepts it, and the queue is full
        stranger.connect_ex(("127.0.0.1", port))


def test_bytes_that_are_nothing_are_few_lines(target: Target) -> None:
    chance, before = random.Random(15), len(target.said())
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for port in (*target.ports(), target.address[1]):
        for data in (b"GET / HTTP/1.1\r\n\r\n", chance.randbytes(4096), preface + chance.randbytes(4096), preface):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), SECONDS) as stranger:
                stranger.sendall(data)
                stranger.shutdown(socket.SHUT_WR)
                while stranger.recv(4096):
                    pass
        asyncio.run(_sent_to(port, SERVICE, "Process", [[b"\xff\xff"]] * 50))
        asyncio.run(_sent_to(port, ADS, "StreamAggregatedResources", [[b"\xff\xff"]] * 50))
        asyncio.run(_sent_to(port, ADS, "DeltaAggregatedResources", [[chance.randbytes(100)]] * 50))
    target.holds()
    written = target.said()[before:]
    assert "Traceback" not in written
    assert len(written.splitlines()) < 200


async def _sent_to(port: int, service: str, method: str, streams: Iterable[list[bytes]]) -> None:
    """Some messages on each of some streams, each until it is ended."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.stream_stream(f"/{service}/{method}")
        for messages in streams:
            stream = call()
            with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
                for message in messages:
                    await stream.write(message)
                await stream.done_writing()
                await asyncio.wait_for(stream.read(), SECONDS)
            stream.cancel()


def test_messages_of_any_size_cost_no_memory(target: Target) -> None:
    before = _most_memory(target)
    names = Request(type_url=CLUSTERS.url, resource_names=map(str, range(MAX_NAMES * 5))).SerializeToString()
    for port in target.ports():
        for service, method in ((ADS, "StreamAggregatedResources"), (SERVICE, "Process")):
            asyncio.run(_sent_to(port, service, method, [[bytes(100 << 20)], [names], [names], [names]]))
    target.holds()
    assert _most_memory(target) - before < 200 << 10


def _most_memory(target: Target) -> int:
    """In kB, of all processes together."""
    total = 0
    for pid in target.processes():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one that has looked for a handler has ended
            total += sum(map(int, re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())))
    return total


def test_a_stranger_that_rejects_everything_changes_nothing(target: Target) -> None:
    if target.xds is None:
        pytest.skip("there is no port: test_cli.py has the control plane of up")
    target.edits += 1
    edit = target.rules()

    async def stranger(number: int) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{target.xds}") as channel:
            stream: Any = channel.stream_stream(f"/{ADS}/StreamAggregatedResources")()
            node = {"id": f"\x1b[2J\x1b]0;{number}\x07\nrejoinder: all is well" + "x" * 10_000}
            for kind in (CLUSTERS, LISTENERS):
                await stream.write(Request(node=node, type_url=kind.url).SerializeToString())
                response = Response.FromString(await asyncio.wait_for(stream.read(), SECONDS))
                if number == 5:
                    target.file.write_text(edit)
                error = {"code": 3, "message": "no\x1b[2J\n" * 10_000}
                no = Request(type_url=kind.url, response_nonce=response.nonce, error_detail=error)
                await stream.write(no.SerializeToString())
            stream.cancel()

    for number in range(10):
        asyncio.run(stranger(number))
    target.wait_for(target.answers)
    target.holds()
    assert "\x1b" not in target.said()
    assert "\nrejoinder: all is well" not in target.said()


@pytest.mark.parametrize("handler", HANDLED)
def test_a_handler_that_ends_or_hangs_is_missed_alone(target: Target, handler: str) -> None:
    assert target.get(f"/{handler}") == Upstream.BODY
    target.holds()


def test_processes_of_the_service_that_are_stopped_or_killed_hold_up_nothing(target: Target) -> None:
    workers = [pid for pid in target.processes()[1:] if tcp_ports([pid])]
    if not workers:
        pytest.skip("the service is in the process itself")
    os.kill(workers[0], signal.SIGSTOP)
    try:
        target.edits += 1
        target.file.write_text(target.rules())
        target.wait_for(lambda: target.get("/page") == f"page {target.edits}".encode())
        assert ask(target.admin, "GET", "localhost", "/status").status == 200
    finally:
        os.kill(workers[0], signal.SIGCONT)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    target.wait_for(lambda: all(target.answers() for _ in range(10)))
    target.holds()


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


BROKEN: Final[dict[str, Callable[[Path], object]]] = {
    "empty": lambda file: file.write_bytes(b""),
    "bytes": lambda file: file.write_bytes(bytes(range(256)) * 100),
    "template": lambda file: file.write_text("rules: {{ .Values.rules }}\n"),
    "twice": lambda file: file.write_text("rules: []\nrules: []\n"),
    "tag": lambda file: file.write_text("rules: !!python/object/apply:os.system [exit]\n"),
    "aliases": lambda file: file.write_text(
        "a0: &a0 [x, x]\n" + "".join(f"a{one + 1}: &a{one + 1} [*a{one}, *a{one}]\n" for one in range(20))
    ),
    "deep": lambda file: file.write_text("rules: " + "[" * 100_000),
    "large": lambda file: file.write_bytes(b"# \n" * 4_000_000),
    "body": lambda file: file.write_text("rules: [{body_file: /dev/zero}]\n"),
    "gone": Path.unlink,
    "folder": _folder,
    "loop": _loop,
}


def test_broken_files_change_nothing(target: Target) -> None:
    for name, breaks in BROKEN.items():
        breaks(target.file)
        target.wait_for(lambda: bool(target.problems()))
        assert target.answers(), name
        if target.file.is_dir():
            shutil.rmtree(target.file)
        target.file.unlink(missing_ok=True)
        target.holds()


def test_silent_connections_to_the_admin_page_are_few_threads(target: Target) -> None:
    with contextlib.ExitStack() as stack:
        _connect_silently(stack, target.admin[1], 500)
        time.sleep(0.5)
        threads = Path(f"/proc/{target.process.pid}/status").read_text().partition("Threads:")[2].split()[0]
        assert int(threads) < 80
    target.holds()


def test_a_dot_behind_the_host_is_no_way_around_a_rule(target: Target) -> None:
    for host in ("a.test.", "A.TEST.:80", "a.test:80"):
        assert target.get("/page", host) == f"page {target.edits}".encode()
