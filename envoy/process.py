"""Envoy as a child of an asyncio program: start, watch, query and end it.

In: a binary and a bootstrap. Out: an `EnvoyProcess`, for as long as the `async with running(...)` lasts. Every way out
of the block ends Envoy, and Envoy never outlives this program (see `launch`). Raised: `EnvoyDiedError` if Envoy ends by
itself, `EnvoyNotReadyError` if it takes too long. Envoy's log goes to the logger `rejoinder.envoy`.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from pathlib import Path
from typing import Final

from rejoinder.envoy import launch
from rejoinder.envoy import pump as pump_program
from rejoinder.envoy.admin import Address, Admin
from rejoinder.envoy.bootstrap import Json
from rejoinder.rules.http import parse_address

_LOG: Final = logging.getLogger("rejoinder.envoy")

START_SECONDS: Final = 30.0
"""Until Envoy has read its bootstrap, and until it is ready: it takes half a second on a machine that is not busy."""
STOP_SECONDS: Final = 5.0
"""From SIGTERM to SIGKILL. Envoy ends within milliseconds of the first, unless it hangs."""
LOG_SECONDS: Final = 2.0
"""From the end of Envoy to the end of its log."""
DRAIN_SECONDS: Final = 30
"""How long requests on a listener that was replaced may take to end. Envoy's default, 600 s, would let idle clients
keep their connections, and with them the old configuration, for ten minutes after an edit."""

_POLL_SECONDS: Final = 0.02
_LAST_LINES: Final = 50
_LINE_LIMIT: Final = 1 << 20
"""In bytes. If Envoy rejects a configuration, it quotes it in one line."""
_REASON_LIMIT: Final = 500
"""In characters, for the part of a log line that goes into an error."""

# `--log-format`, and the same as a regex. Lines that do not fit continue the line before, or were not written by the
# logger.
_LOG_FORMAT: Final = "%L|%n|%v"
_LOG_LINE: Final = re.compile(r"(?P<level>[TDIWEC])\|(?P<component>[^|]*)\|(?P<text>.*)", re.DOTALL)
_LOG_LEVELS: Final = {
    "T": logging.DEBUG,
    "D": logging.DEBUG,
    "I": logging.INFO,
    "W": logging.WARNING,
    "E": logging.ERROR,
    "C": logging.CRITICAL,
}


class EnvoyDiedError(Exception):
    """Envoy ended by itself: a rejected bootstrap, a port in use, a crash. `str()` is one line."""

    def __init__(self, status: int, log: tuple[str, ...]) -> None:
        super().__init__(_cause(status, log))
        self.status = status
        """The exit status; negative: the signal that killed it."""
        self.log = log
        """The last lines that Envoy wrote."""


class EnvoyNotReadyError(Exception):
    """Envoy runs, but was not ready in time. `str()` is one line that says what is missing."""


@contextlib.asynccontextmanager
async def running(
    binary: Path,
    bootstrap: Json,
    *,
    concurrency: int | None = None,
    log_level: str = "warning",
    environ: Mapping[str, str] | None = None,
    on_output: Callable[[str], None] | None = None,
) -> AsyncIterator[EnvoyProcess]:
    """Run Envoy for as long as the block lasts.

        async with running(find().path, bootstrap(admin=("127.0.0.1", 0))) as envoy:
            print(await envoy.ready(["rejoinder"]))
            await envoy.wait()

    The block is entered when Envoy has read its bootstrap; it has no listeners from xDS yet. At the end of the block it
    gets SIGTERM, and open requests are cut off. Ctrl-C on a terminal does not reach it, so that this program decides
    when it ends. Enter the block in a thread that lives as long as the program: for Linux, the thread that started a
    process is its parent.

    Args:
        binary: the Envoy to run.
        bootstrap: Envoy's JSON mapping of a bootstrap; it must have an `admin` (port 0 will do, and a Unix socket).
        concurrency: worker threads; None: one for each core.
        log_level: the lowest level that Envoy logs: `trace`, `debug`, `info`, `warning`, `error`, `critical` or `off`.
        environ: Envoy's environment; None: ours.
        on_output: is called with the lines of Envoy's standard output, such as its access log, within a second; None:
            they are not needed.

    Raises:
        EnvoyDiedError: Envoy does not start. Show the text; `log` has the details.
        EnvoyNotReadyError: it has not taken its bootstrap within START_SECONDS.
    """
    assert "admin" in bootstrap, "Envoy can only be watched through its admin interface"
    async with contextlib.AsyncExitStack() as stack:
        # Envoy needs the files until it has written the address of its admin interface.
        with tempfile.TemporaryDirectory(prefix="rejoinder-envoy-") as folder:
            config, admin_address = Path(folder, "bootstrap.json"), Path(folder, "admin")
            config.write_text(json.dumps(bootstrap), encoding="utf-8")
            command = (
                *(sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(binary)),
                *("--config-path", str(config), "--admin-address-path", str(admin_address)),
                "--disable-hot-restart",  # nor its shared memory, over which Envoys on one machine would conflict
                *("--log-level", log_level, "--log-format", _LOG_FORMAT),
                *("--drain-time-s", str(DRAIN_SECONDS), "--drain-strategy", "immediate"),
                *(() if concurrency is None else ("--concurrency", str(concurrency))),
                *(() if on_output is None else ("--file-flush-interval-msec", "500")),
            )
            envoy = EnvoyProcess(*await _started(command, environ, on_output is not None), on_output)
            stack.push_async_callback(envoy.stop)
            await envoy._find_admin(admin_address)
        yield envoy


_Process = asyncio.subprocess.Process


async def _started(
    command: tuple[str, ...], environ: Mapping[str, str] | None, output: bool
) -> tuple[_Process, _Process, _Process | None]:
    """Envoy, the pump of its log, and the pump of its standard output, if that is needed."""
    ends: list[int] = []
    try:
        log = await _pump(ends)
        out = await _pump(ends) if output else None
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=ends[-1] if output else asyncio.subprocess.DEVNULL,
            stderr=ends[1],
            env=environ,
            process_group=0,
        )
    finally:
        for end in ends:
            os.close(end)  # so that the pipe is closed when Envoy ends
    return child, log, out


async def _pump(ends: list[int]) -> _Process:
    """A pump, and the ends of a pipe to it, which must be closed."""
    ends += os.pipe()
    # In a process group of its own, as Envoy is: Ctrl-Z stops this program, but neither Envoy nor its pumps.
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", pump_program.__file__),
        stdin=ends[-2],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=_LINE_LIMIT,
        process_group=0,
    )


class EnvoyProcess:
    """One running Envoy. Made by `running`."""

    admin: Admin
    """Its admin interface."""

    def __init__(
        self, child: _Process, log: _Process, output: _Process | None, on_output: Callable[[str], None] | None
    ) -> None:
        self._child = child
        self._pumps: list[tuple[_Process, Callable[[str], None]]] = [(log, self._take_log)]
        if output and on_output:
            self._pumps.append((output, on_output))
        self._level, self._component = logging.WARNING, "stderr"
        """The level of the last log line, for the lines that continue it."""
        self._stopping = False
        self._last_lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self._ended = asyncio.create_task(self._follow())

    @property
    def pid(self) -> int:
        return self._child.pid

    async def ready(self, listeners: Collection[str] = (), within: float = START_SECONDS) -> dict[str, list[Address]]:
        """Wait until Envoy accepts traffic on these listeners; returns where all its listeners are bound.

        Args:
            listeners: the required names; if empty, it is enough that Envoy reports that it is ready.
            within: seconds.

        Raises:
            EnvoyDiedError: Envoy ended instead.
            EnvoyNotReadyError: not in time; Envoy goes on running.
        """
        state, bound = "not answering", dict[str, list[Address]]()
        try:
            async with asyncio.timeout(within):
                while not (state == "LIVE" and bound.keys() >= set(listeners)):
                    await self._check_alive()
                    # An Envoy that just died, or is busy with a large configuration: the next round will show.
                    with contextlib.suppress(OSError):
                        state, bound = await self.admin.state(), await self.admin.listeners()
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError as error:
            missing = ", ".join(sorted(set(listeners) - bound.keys()))
            raise EnvoyNotReadyError(
                f"Envoy is not ready after {within:g} s: its state is {state}"
                + (f", and it has no listener {missing}" if missing else "")
            ) from error
        return bound

    async def wait(self) -> None:
        """Wait for Envoy's end. Returns when `stop` ended it.

        Raises:
            EnvoyDiedError: it ended by itself.
        """
        # Shielded: cancelling this wait must not stop the reading of the log.
        status = await asyncio.shield(self._ended)
        if not self._stopping:
            raise EnvoyDiedError(status, tuple(self._last_lines))

    async def stop(self) -> None:
        """End Envoy: SIGTERM, and SIGKILL if it still runs after STOP_SECONDS. Does nothing if it has ended."""
        self._stopping = True
        try:
            if self._child.returncode is None:
                _signal(self._child, signal.SIGTERM)
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.shield(self._ended)
        except TimeoutError:
            _LOG.warning("Envoy did not end within %g s of SIGTERM and was killed", STOP_SECONDS)
        finally:
            # Also if this is cancelled: no process is left behind.
            if self._child.returncode is None:
                _signal(self._child, signal.SIGKILL)
                await asyncio.shield(self._ended)

    # From the file that Envoy writes (`--admin-address-path`) once it has read its bootstrap.
    async def _find_admin(self, file: Path) -> None:
        try:
            async with asyncio.timeout(START_SECONDS):
                while not (file.exists() and (text := file.read_text(encoding="utf-8"))):
                    await self._check_alive()
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError as error:
            raise EnvoyNotReadyError(f"Envoy has not taken its bootstrap after {START_SECONDS:g} s") from error
        self.admin = Admin(Path(text.strip()) if text[0] == "/" else parse_address(text.strip()))

    async def _check_alive(self) -> None:
        if self._child.returncode is not None:
            await self.wait()

    # Reads the log until Envoy ends; the exit status.
    async def _follow(self) -> int:
        reading = asyncio.gather(*(_read(pump, take) for pump, take in self._pumps))
        status = await self._child.wait()
        # A process that Envoy has started (by a handler, say) may live on, and keep the log open.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOG_SECONDS):
                await reading
        for pump, _ in self._pumps:
            if pump.returncode is None:
                _signal(pump, signal.SIGKILL)
                await pump.wait()
        return status

    def _take_log(self, line: str) -> None:
        if match := _LOG_LINE.fullmatch(line):
            self._level, self._component, line = _LOG_LEVELS[match["level"]], match["component"], match["text"]
        self._last_lines.append(line)
        # When it is ended on purpose, Envoy warns about the signal and the streams that it cuts off.
        _LOG.log(logging.DEBUG if self._stopping else self._level, "%s: %s", self._component, line)


async def _read(pump: _Process, take: Callable[[str], None]) -> None:
    """Read the pump's output until it ends, line by line."""
    assert pump.stdout is not None
    while True:
        try:
            line = (await pump.stdout.readline()).decode(errors="replace")
        except ValueError:  # from StreamReader: the line was over the limit, and dropped
            line = f"(a line of more than {_LINE_LIMIT} bytes)\n"
        if not line:
            return
        take(line.rstrip("\n"))


def _signal(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    # Not by its own methods: these first poll the process, and if it has just ended, asyncio misses its exit status.
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, number)


def _cause(status: int, log: tuple[str, ...]) -> str:
    if status < 0:
        return f"Envoy was killed by {signal.Signals(-status).name}"
    if status == 0:
        return "Envoy ended, without an error, though nothing here asked it to"
    # The last line that Envoy writes, outside its log format, says why it gives up. Protobuf puts random spaces into
    # its messages, so that programs do not depend on them.
    words = next((line.split() for line in reversed(log) if line.strip()), ["it", "did", "not", "say", "why"])
    return f"Envoy ended with status {status}: {' '.join(words)[:_REASON_LIMIT]}"
