"""How much memory hostile clients can make the two services use: before, at most, and after, one kind at a time.

    python bench/hostile.py [--short]

One `rejoinder serve`, with one ext_proc worker and a rule with a large body. Each of ATTACKS is a number of connections
that do the same, and stay, for as long as SECONDS; then they are hung up. Memory is what is resident, of the process
that is attacked. Meanwhile the file is edited, and afterwards, too: how long it takes until `serve` has published it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from chaos_processes import children, free_ports, memory
from harness import Goal, Report, arguments, publish

from rejoinder.extproc.frames import ACK, END_HEADERS, HEADER, PREFACE, Frame, Setting, frame, parse_settings, settings
from rejoinder.extproc.grpc_wire import framed
from rejoinder.extproc.headers import encode
from rejoinder.extproc.server import SERVICE
from rejoinder.xds.protobuf import message_class
from rejoinder.xds.server import ADS
from rejoinder.xds.snapshot import CLUSTERS, EXTENSIONS
from rejoinder.xds.translate.settings import MAX_REQUEST
from rejoinder.xds.wire import MAX_NAMES

SECONDS: Final = 8.0
MOST: Final = 400
"""MB that one kind of client may add."""
BODY: Final = 500_000

SERVE, WORKER = "xDS", "ext_proc"
PATHS: Final = {SERVE: f"/{ADS}/StreamAggregatedResources", WORKER: f"/{SERVICE}/Process"}

_Discovery = message_class("envoy.service.discovery.v3.DiscoveryRequest")
_Processing = message_class("envoy.service.ext_proc.v3.ProcessingRequest")
NAMES: Final = _Discovery(type_url=CLUSTERS.url, resource_names=map(str, range(MAX_NAMES))).SerializeToString()
NOTHING: Final = _Discovery(type_url=EXTENSIONS.url, resource_names=["nothing"]).SerializeToString()
WANTED: Final = _Discovery(type_url=EXTENSIONS.url, resource_names=["rejoinder.module"]).SerializeToString()
BUSY: Final = _Processing(
    response_headers={"headers": {"headers": [{"key": ":status", "raw_value": b"503"}]}}
).SerializeToString()
BEGUN: Final = _Processing(
    request_headers={"headers": {"headers": [{"key": "x", "raw_value": bytes(60_000)}]}}
).SerializeToString()


# ---- what strangers say


class Attack(NamedTuple):
    text: str
    service: str
    connections: int
    streams: int = 0
    """On each, that begin and do not end."""
    said: bytes = b""
    """On each of them, as fast as the windows allow."""
    more: tuple[tuple[str, str], ...] = ()
    """Metadata."""
    window: int = 1 << 20
    """That each stream has for answers."""
    flood: bytes = b""
    """What is sent on the connection again and again."""
    preface: bool = True


def message(text: bytes, sent: int | None = None) -> bytes:
    """A message of gRPC, or so much of it."""
    return framed(text)[:sent]


PINGS: Final = frame(Frame.PING, 0, 0, bytes(8)) * 500 + frame(Frame.SETTINGS, 0, 0, b"") * 50
RESETS: Final = frame(Frame.RST_STREAM, 0, 1, bytes(4)) * 1_000

ATTACKS: Final = (
    Attack("connections that say nothing", SERVE, 3_000, preface=False),
    Attack("connections without a stream", SERVE, 3_000),
    Attack("streams that ask for nothing", SERVE, 500, 16),
    Attack("streams with 4 kB of metadata", SERVE, 500, 16, more=(("x", "y" * 4_000),)),
    Attack("streams that wait for news", SERVE, 500, 16, message(NOTHING)),
    Attack(f"{MAX_NAMES:,} names on a stream", SERVE, 100, 1, message(NAMES)),
    Attack("requests of 4 MB that do not end", SERVE, 50, 16, message(NOTHING) + message(bytes(MAX_REQUEST), -1)),
    Attack("clients that never read", SERVE, 100, 4, message(WANTED), window=0),
    Attack("floods of pings and settings", SERVE, 50, flood=PINGS),
    Attack("connections that say nothing", WORKER, 3_000, preface=False),
    Attack("streams that ask for nothing", WORKER, 100, 4_000),
    Attack("streams with 15 kB of metadata", WORKER, 20, 4_000, more=(("x", "y" * 15_000),)),
    Attack("messages of 4 MB that do not end", WORKER, 100, 4, message(bytes(4 << 20), 2 << 20)),
    Attack("requests without their responses", WORKER, 50, 1_000, message(BEGUN)),
    Attack("clients that never read", WORKER, 100, 100, message(BUSY), window=0),
    Attack("floods of pings and settings", WORKER, 50, flood=PINGS),
    Attack("floods of resets", WORKER, 50, 1, flood=RESETS),
)


class Stranger:
    """One connection."""

    def __init__(self, attack: Attack) -> None:
        self._attack = attack
        self._window = self._initial = 65_535
        self._left = {2 * number + 1: attack.said for number in range(attack.streams if attack.said else 0)}
        self._windows: dict[int, int] = dict.fromkeys(self._left, 0)
        """As much more or less than the initial one."""

    async def run(self, port: int) -> None:
        """Until this is cancelled, or hung up on."""
        with contextlib.suppress(OSError, EOFError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            tasks = []
            try:
                if self._attack.preface:
                    wanted = settings({Setting.INITIAL_WINDOW_SIZE: self._attack.window})
                    writer.write(PREFACE + frame(Frame.SETTINGS, 0, 0, wanted))
                    tasks.append(asyncio.ensure_future(self._say(writer)))
                while True:
                    size, kind, flags, stream = parse(await reader.readexactly(9))
                    self._hear(kind, flags, stream, await reader.readexactly(size), writer)
            finally:
                for task in tasks:
                    task.cancel()
                writer.transport.abort()

    async def _say(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            fields = ((":method", "POST"), (":scheme", "http"), (":path", PATHS[self._attack.service]))
            grpc = ((":authority", "x"), ("te", "trailers"), ("content-type", "application/grpc"))
            block = encode((*fields, *grpc, *self._attack.more))
            for number in range(self._attack.streams):
                writer.write(frame(Frame.HEADERS, END_HEADERS, 2 * number + 1, block))
                await writer.drain()
            self._send(writer)
            while self._attack.flood:
                writer.write(self._attack.flood)
                await writer.drain()
                await asyncio.sleep(0)

    def _hear(self, kind: int, flags: int, stream: int, payload: bytes, writer: asyncio.StreamWriter) -> None:
        if kind == Frame.WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            if stream == 0:
                self._window += more
            elif stream in self._windows:
                self._windows[stream] += more
        elif kind == Frame.SETTINGS and not flags & ACK:
            self._initial = parse_settings(payload).get(Setting.INITIAL_WINDOW_SIZE, self._initial)
            writer.write(frame(Frame.SETTINGS, ACK, 0, b""))
        elif kind == Frame.PING and not flags & ACK:
            writer.write(frame(Frame.PING, ACK, 0, payload))
        self._send(writer)

    def _send(self, writer: asyncio.StreamWriter) -> None:
        for stream, left in list(self._left.items()):
            size = min(self._window, self._initial + self._windows[stream], len(left))
            if size > 0:
                for start in range(0, size, 16_000):
                    writer.write(frame(Frame.DATA, 0, stream, left[start : min(start + 16_000, size)]))
                self._window -= size
                self._windows[stream] -= size
                self._left[stream] = left[size:]
                if size == len(left):
                    del self._left[stream]


def parse(head: bytes) -> tuple[int, int, int, int]:
    high, low, kind, flags, stream = HEADER.unpack(head)
    return high << 8 | low, kind, flags, stream


# ---- what they meet


class Serve:
    """`rejoinder serve`."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process, ports: Sequence[int]) -> None:
        self.file = folder / "rules.yaml"
        self.ports = {SERVE: ports[0], WORKER: ports[2]}
        self._process = process
        self._admin = ports[1]
        self._edits = 0

    def memory(self, service: str) -> float:
        return memory(self._process.pid) if service == SERVE else sum(map(memory, children(self._process.pid)))

    def write(self) -> None:
        self._edits += 1
        rule = f"{{name: page, enable_on_status: [503], body: '{self._edits}{'x' * BODY}'}}"
        self.file.write_text(f"rules: [{rule}]\n")

    async def edit(self) -> float:
        """How long it takes until an edit is published."""
        before, begin = await asyncio.to_thread(self._version), time.monotonic()
        self.write()
        async with asyncio.timeout(120):
            while await asyncio.to_thread(self._version) in ("", before):
                await asyncio.sleep(0.02)
        return time.monotonic() - begin

    def _version(self) -> str:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{self._admin}/status", timeout=60) as page,
        ):
            return str(json.load(page)["version"])
        return ""


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Serve]:
    with tempfile.TemporaryDirectory() as folder:
        ports = free_ports(4)
        names = ("--xds", "--admin", "--ext-proc")
        addresses = [text for name, port in zip(names, ports, strict=False) for text in (name, f"127.0.0.1:{port}")]
        Path(folder, "rules.yaml").touch()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rejoinder.cli", "serve", str(Path(folder, "rules.yaml")), *addresses),
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "GRPC_VERBOSITY": "NONE"},
        )
        try:
            serve = Serve(Path(folder), process, ports)
            await serve.edit()
            yield serve
        finally:
            process.terminate()
            await process.wait()


@dataclass(frozen=True, slots=True)
class Sample:
    before: float
    most: float
    after: float
    edit_meanwhile: float
    edit_afterwards: float


async def measure(attack: Attack, seconds: float, share: float) -> Sample:
    async with serving() as serve:
        before = most = serve.memory(attack.service)
        strangers = [
            asyncio.ensure_future(Stranger(attack).run(serve.ports[attack.service]))
            for _ in range(max(1, int(attack.connections * share)))
        ]
        end = time.monotonic() + seconds
        editing = asyncio.ensure_future(serve.edit())
        while time.monotonic() < end or not editing.done():
            await asyncio.sleep(0.05)
            most = max(most, serve.memory(attack.service))
        for task in strangers:
            task.cancel()
        await asyncio.gather(*strangers, return_exceptions=True)
        afterwards = await serve.edit()
        await asyncio.sleep(1)
        return Sample(before, most, serve.memory(attack.service), editing.result(), afterwards)


def report(samples: dict[Attack, Sample], seconds: float, share: float) -> Report:
    most = max(sample.most - sample.before for sample in samples.values())
    return Report(
        title="Clients that mean harm",
        text=(
            f"Memory (MB) of `rejoinder serve` (xDS) or its ext_proc worker before, at most and after {seconds:g} s of "
            f"so many connections that all do the same; the rules have a body of {BODY // 1000} kB. And how many "
            "seconds an edit takes meanwhile and afterwards. The strangers run on the same machine and take a share."
        ),
        columns=("service", "clients", "connections", "before", "at most", "after", "edit meanwhile", "afterwards"),
        rows=tuple(
            (
                *(
                    attack.service,
                    f"{attack.text}{f' ({attack.streams:,} streams each)' if attack.streams > 1 else ''}",
                ),
                f"{int(attack.connections * share):,}",
                *(f"{value:.0f}" for value in (sample.before, sample.most, sample.after)),
                *(f"{value:.2g}" for value in (sample.edit_meanwhile, sample.edit_afterwards)),
            )
            for attack, sample in samples.items()
        ),
        goals=(Goal.at_most("strangers of one kind take, at most", MOST, most, "MB"),),
    )


def main() -> None:
    parser = arguments(__doc__, "a twentieth of the clients, for a second")
    parser.add_argument("--only", metavar="TEXT", default="", help="those whose service and text have this")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    seconds, share = (1.0, 0.05) if options.short else (SECONDS, 1.0)
    attacks = [attack for attack in ATTACKS if options.only in f"{attack.service} {attack.text}"]
    publish("hostile", report({name: asyncio.run(measure(name, seconds, share)) for name in attacks}, seconds, share))


if __name__ == "__main__":
    main()
