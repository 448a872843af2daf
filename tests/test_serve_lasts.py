"""`serve` and `up` on a bad day, as processes of their own: they stay, and follow as soon as they can again."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

import grpc
import grpc.aio
import pytest
from edits import TEXT, edited
from gateway import Upstream, free_ports, wait_for
from machine import SECONDS, ask, children, is_running, limited

from rejoinder.envoy.module import library
from rejoinder.extproc.server import SERVICE
from rejoinder.xds.protobuf import message_class

FILES: Final = 80
"""File descriptors that `serve` may have."""


def rule(body: str) -> str:
    return f"rules: [{{name: only, body: {body}}}]\n"


def per_time(per: str) -> str:
    """Intervals that could be read, but not be encoded."""
    route = f"{{name: all, upstream: up, rate_limit: {{requests: 1, {per}}}}}"
    return f"upstreams: {{up: 'http://127.0.0.1:1'}}\nroutes: [{route}]\n"


class Serve:
    """A `serve` with its admin page; `again`: at the addresses of one that has ended; `limits`: of `limited`."""

    def __init__(
        self,
        file: Path,
        *arguments: str,
        again: Serve | None = None,
        limits: dict[str, int] | None = None,
        **options: Any,
    ) -> None:
        self.file = file
        self.ports: list[int] = again.ports if again else free_ports()
        self.xds, self.admin, self.ext_proc = (("127.0.0.1", port) for port in self.ports)
        addresses = {"--xds": self.xds, "--ext-proc": self.ext_proc, "--admin": self.admin}
        given = [text for name, (host, port) in addresses.items() for text in (name, f"{host}:{port}")]
        self.process = subprocess.Popen(
            limited([sys.executable, "-m", "rejoinder.cli", "serve", str(file), *given, *arguments], **limits or {}),
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            **options,
        )
        self.wait_for(lambda: bool(self.status()))

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(ask(self.admin, "GET", "localhost", "/status").body)
        return status

    def wait_for(self, condition: Callable[[], bool]) -> None:
        wait_for(condition, self.process)

    def follows(self, body: str) -> None:
        """It takes an edit."""
        before = self.status()["version"]
        self.file.write_text(rule(body))
        self.wait_for(lambda: self.status()["version"] != before and not self.status()["problems"])


@contextlib.contextmanager
def serving(file: Path, *arguments: str, **options: Any) -> Iterator[Serve]:
    file.write_text(rule("first"))
    serve = Serve(file, *arguments, **options)
    try:
        yield serve
        assert serve.process.poll() is None
    finally:
        serve.process.send_signal(signal.SIGTERM)
        try:
            assert serve.process.wait(SECONDS) in {0, 120}  # 120: Python itself could not flush
        finally:
            serve.process.kill()
            serve.process.wait()


def _broken_pipe() -> IO[bytes]:
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "wb")


def _full_disk() -> IO[bytes]:
    return Path("/dev/full").open("wb")


@pytest.mark.parametrize("output", [_broken_pipe, _full_disk], ids=["nobody-reads", "disk-full"])
def test_output_that_goes_nowhere_ends_nothing(tmp_path: Path, output: Callable[[], IO[bytes]]) -> None:
    with output() as stream, serving(tmp_path / "rules.yaml", stdout=stream, stderr=stream) as serve:
        serve.follows("second")
        serve.file.write_text("wrong: 1\n")
        serve.wait_for(lambda: bool(serve.status()["problems"]))
        serve.follows("third")


def test_edits_of_a_large_body_take_no_more_memory_each(tmp_path: Path) -> None:
    def memory(pid: int) -> int:
        return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) >> 10

    with serving(tmp_path / "rules.yaml", stderr=subprocess.DEVNULL) as serve:
        taken: list[int] = []
        for number in range(120):
            serve.follows(f"'{number}{'x' * 1_000_000}'")
            taken.append(sum(map(memory, [serve.process.pid, *children(serve.process.pid)])))
        # It goes up and down by what is kept before it is thrown away (rules/leftovers.py): some twenty edits.
        assert max(taken[60:]) - max(taken[:60]) < 150, taken


def test_a_name_that_is_no_text_beside_the_rules_or_above_ends_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "rules"
    folder.mkdir()
    with serving(folder / "rules.yaml", stderr=subprocess.DEVNULL) as serve:
        for where in (folder, tmp_path):
            with open(os.path.join(os.fsencode(where), b"\xff\xfe"), "wb"):
                pass
            serve.follows(f"after-{where.name}")


def test_edits_that_cannot_be_built_end_nothing(tmp_path: Path) -> None:
    with serving(tmp_path / "rules.yaml", stderr=subprocess.DEVNULL) as serve:
        for number, edit in enumerate(("per: 87660001h", "per: 9e400s", "per: 1" + "0" * 400 + "h")):
            serve.file.write_text(per_time(edit))
            serve.wait_for(lambda: bool(serve.status()["problems"]))
            serve.follows(f"after-{number}")


def test_after_random_edits_it_is_alive_and_follows(tmp_path: Path) -> None:
    chance = random.Random(10)
    with serving(tmp_path / "rules.yaml", stderr=subprocess.DEVNULL) as serve:
        (tmp_path / "page").write_text("sorry")
        for number in range(5):
            for _ in range(10):
                serve.file.write_bytes(edited(TEXT.encode(), chance))
                time.sleep(chance.random() * 0.1)
            serve.follows(f"after-{number}")


def test_up_stays_with_its_envoy(tmp_path: Path) -> None:
    """Its output read no more, a name that is no text, an edit that cannot be built."""
    file = tmp_path / "rules.yaml"
    file.write_text(rule("first"))
    with subprocess.Popen(
        [sys.executable, "-m", "rejoinder.cli", "up", str(file), "--listen", "127.0.0.1:0", "--concurrency", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            said = re.fullmatch(r"listening on http://(.*):(\d+)\n", process.stdout.readline())
            assert said
            process.stdout.close()
            process.stderr.close()
            with open(os.path.join(os.fsencode(tmp_path), b"\xff"), "wb"):
                pass
            for body in ("second", "third"):
                file.write_text(per_time("per: 87660001h"))
                time.sleep(0.3)
                file.write_text(rule(body))
                end = time.monotonic() + SECONDS
                while _body((said[1], int(said[2]))) != body and time.monotonic() < end:
                    time.sleep(0.05)
                assert _body((said[1], int(said[2]))) == body
            process.terminate()
            assert process.wait(SECONDS) in {0, 120}
        finally:
            process.kill()


def _body(address: tuple[str, int]) -> str:
    return ask(address, "GET", "a.test", "/").body.decode()


@pytest.mark.skipif(not library.LIBRARY.is_file(), reason="the module was not compiled")
def test_envoy_answers_while_up_is_stopped_and_handlers_log(tmp_path: Path) -> None:
    file, upstream = tmp_path / "rules.yaml", Upstream()
    (tmp_path / "chatty.py").write_text(
        "import sys\n"
        "from rejoinder.rules.handlers import Reply\n"
        "def page(request, response):\n"
        "    print('x' * 1000, file=sys.stderr, flush=True)\n"
        "    return Reply(503, (), b'ours')\n"
    )
    file.write_text(
        f"upstreams: {{up: 'http://{upstream.address[0]}:{upstream.address[1]}'}}\n"
        "routes: [{name: all, upstream: up}]\n"
        "rules: [{name: page, enable_on_status: [503], handler: 'chatty:page'}]\n"
    )
    arguments = ("--listen", "127.0.0.1:0", "--concurrency", "1", "--conditional", "module")
    with (
        contextlib.closing(upstream),
        subprocess.Popen(
            [sys.executable, "-m", "rejoinder.cli", "up", str(file), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        ) as process,
    ):
        assert process.stdout is not None
        try:
            said = re.fullmatch(r"listening on http://(.*):(\d+)\n", process.stdout.readline())
            assert said
            process.send_signal(signal.SIGSTOP)
            address = said[1], int(said[2])
            for _ in range(500):  # half a megabyte: more than pipes hold
                assert ask(address, "GET", "a.test", "/", [("x-status", "503")]).body == b"ours"
            process.send_signal(signal.SIGCONT)
            process.terminate()
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()


def test_without_file_descriptors_it_stays_and_follows_when_there_are_some(tmp_path: Path) -> None:
    """A stranger connects, and says nothing."""
    with serving(tmp_path / "rules.yaml", stderr=subprocess.DEVNULL, limits={"nofile": FILES}) as serve:
        with contextlib.ExitStack() as stack:
            for address in (serve.xds, serve.ext_proc):
                for _ in range(FILES):
                    with contextlib.suppress(TimeoutError):  # nobody accepts it, and the queue is full
                        stack.enter_context(socket.create_connection(address, timeout=0.1))
            descriptors = Path(f"/proc/{serve.process.pid}/fd")
            serve.wait_for(lambda: len(list(descriptors.iterdir())) == FILES)
            serve.file.write_text(rule("second"))
            time.sleep(3)  # it tries, and cannot
        before = serve.status()["version"]
        serve.follows("third")
        assert serve.status()["version"] != before


HANGS: Final = """\
import time

def hangs(request, response):
    time.sleep(3600)

def ends(request, response):
    raise SystemExit
"""


def _handled(name: str) -> str:
    return f"rules: [{{name: {name}, enable_on_status: [503], handler: 'hanging:{name}'}}]\n"


def test_handlers_that_hang_or_end_hold_up_neither_edits_nor_the_end(tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(HANGS)
    with serving(tmp_path / "rules.yaml", stderr=subprocess.DEVNULL) as serve:
        for name in ("ends", "hangs"):
            before = serve.status()["version"]
            serve.file.write_text(_handled(name))
            serve.wait_for(functools.partial(_is_another, serve, before))
            assert asyncio.run(_exchanges(serve.ext_proc[1], 40)) == 40
            assert serve.status()["ext_proc"]["handler_failures"][name] == 40
        serve.follows("after")


def _is_another(serve: Serve, version: str) -> bool:
    return bool(serve.status()["version"] != version)


async def _exchanges(port: int, number: int) -> int:
    """Ask so many times at once about a 503; how many of the responses pass."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method: Any = channel.stream_stream(f"/{SERVICE}/Process")

        async def exchange() -> bool:
            stream = method()
            for kind, headers in _ASKED:
                lines = [{"key": name, "raw_value": value} for name, value in headers.items()]
                await stream.write(_ProcessingRequest(**{kind: {"headers": {"headers": lines}}}).SerializeToString())
                passes = await stream.read() is grpc.aio.EOF
            return passes

        return sum(await asyncio.wait_for(asyncio.gather(*(exchange() for _ in range(number))), SECONDS))


_ProcessingRequest: Final = message_class("envoy.service.ext_proc.v3.ProcessingRequest")
_ASKED: Final = (
    ("request_headers", {":method": b"GET", ":authority": b"a.test", ":path": b"/"}),
    ("response_headers", {":status": b"503"}),
)


def test_processes_die_with_their_parent_however_it_dies(tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(HANGS)
    file = tmp_path / "rules.yaml"
    file.write_text(_handled("hangs"))
    serve = Serve(file, "--workers", "2", stderr=subprocess.DEVNULL)
    try:
        asyncio.run(_exchanges(serve.ext_proc[1], 40))
        started = children(serve.process.pid)
        assert len(started) >= 2
        os.kill(started[-1], signal.SIGSTOP)
        serve.process.kill()
        serve.process.wait()
        wait_for(lambda: not any(map(is_running, started)))
    finally:
        serve.process.kill()
