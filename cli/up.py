"""`rejoinder up`: Envoy, control plane and ext_proc service in one go, until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import functools
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from rejoinder import envoy
from rejoinder.cli import console, handlers, placement, requests, transport
from rejoinder.cli.arguments import UnusableError
from rejoinder.cli.control import Control, summary
from rejoinder.cli.echo import EchoServer
from rejoinder.cli.serve import start_console, started, stop_signal, until
from rejoinder.envoy.module import library
from rejoinder.extproc import Workers
from rejoinder.rules.model import Endpoint, Listener, Ruleset, numbered
from rejoinder.transport import accepting
from rejoinder.transport.addresses import Tcp, show
from rejoinder.xds.build import Build
from rejoinder.xds.translate import Settings
from rejoinder.xds.translate.listeners import listener_name

FLUSH_SECONDS: Final = 1.0
"""Between two reports of what has been counted."""


def run(options: argparse.Namespace) -> int:
    console.start_log(options.log_format, logging.WARNING, "%(name)s: %(message)s")
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    stop = stop_signal()
    transport.files(options)
    transport.warn(options)
    async with contextlib.AsyncExitStack() as stack:
        try:
            binary = envoy.find(options.envoy)
            place, why_not_module = placement.choose(options.conditional, binary.path)
            if why_not_module:
                text = f"note: answers to upstream statuses come from ext_proc: {why_not_module}"
                console.say(text, event="placement")
            folders = handlers.folders_of(options.sources)
            handlers.find_in(folders)
            processor = Workers(1)
            # No other user may enter: the control plane sends private keys, and the admin interface can end Envoy.
            sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rejoinder-")))
            await started(stack, processor, sockets / "ext_proc")
            control = Control(
                options.sources,
                options.upstream,
                Settings(sockets / "ext_proc", place, fallback=True, trusted_ca=options.trusted_ca),
                processor=processor,
                adjust=_adjust(options.listen, stack),
                state=options.state,
            )
            control.start()
            await start_console(stack, control, options)
            await started(stack, control.server, sockets / "xds")
            environ = {**os.environ, **library.environment(handlers=folders)}
            await until(stop, control.follow(), _run_envoy(control, binary.path, sockets, environ, options))
        except (
            OSError,
            library.ModuleUnavailableError,
            envoy.EnvoyNotFoundError,
            envoy.EnvoyDiedError,
            envoy.EnvoyNotReadyError,
        ) as error:
            return console.fail(str(error))
    return control.exit_code


async def _run_envoy(
    control: Control, binary: Path, sockets: Path, environ: Mapping[str, str], options: argparse.Namespace
) -> None:
    """Wait until there is something to serve, then run Envoy until it ends."""
    built = await control.usable()
    addresses = [(listener.address, listener.port) for listener in built.ruleset.listeners]
    _check_free([*addresses, options.envoy_admin] if options.envoy_admin else addresses)
    bootstrap = envoy.bootstrap(
        sockets / "xds",
        admin=options.envoy_admin or sockets / "admin",
        access_log=options.log,
        counts=FLUSH_SECONDS if _sends_counts(binary) else None,
    )
    on_output = (lambda line: _tell(line, control)) if options.log else None
    async with envoy.running(
        binary, bootstrap, concurrency=options.concurrency, environ=environ, on_output=on_output
    ) as gateway:
        built = await _ready(gateway, control)
        console.say(
            f"serving: {summary(built)}; edit the files, and Envoy follows; Ctrl-C ends", "green", event="serving"
        )
        await gateway.wait()


def _sends_counts(binary: Path) -> bool:
    try:
        return tuple(map(int, envoy.version(binary).split(".")[:2])) >= envoy.COUNTS_SINCE
    except envoy.EnvoyNotFoundError:  # its version is not known
        return True


def _tell(line: str, control: Control) -> None:
    for text in requests.shown(line, control.envoys.positions, control.envoys.routes):
        console.announce(text, event="request", **requests.fields(line))


async def _ready(gateway: envoy.EnvoyProcess, control: Control) -> Build:
    """Wait until Envoy listens where the files say. That may need an edit, if Envoy rejects the present files."""
    while True:
        built = await control.usable()
        listeners = {listener_name(listener): listener for listener in built.ruleset.listeners}
        try:
            bound = await gateway.ready(listeners)
        except envoy.EnvoyNotReadyError:
            if built is control.current and not control.envoys.rejected:
                raise
            continue
        for name, listener in listeners.items():
            scheme = "https" if listener.certificate else "http"
            for address in bound[name]:
                url = f"{scheme}://{show(address)}"
                console.announce(f"listening on {url}", event="listening", url=url)
        return built


def _adjust(listen: list[Tcp] | None, stack: contextlib.AsyncExitStack) -> Callable[[Ruleset], Ruleset]:
    """What `up` changes about the files' ruleset: where it listens, and where `builtin:echo` is."""
    echo = functools.cache(lambda: stack.enter_context(EchoServer()))

    def adjust(ruleset: Ruleset) -> Ruleset:
        upstreams = tuple(
            dataclasses.replace(upstream, endpoints=(Endpoint(*echo().address),)) if upstream.echo else upstream
            for upstream in ruleset.upstreams
        )
        listeners = _elsewhere(ruleset, listen) if listen else ruleset.listeners
        return dataclasses.replace(ruleset, upstreams=upstreams, listeners=listeners)

    return adjust


def _elsewhere(ruleset: Ruleset, listen: list[Tcp]) -> tuple[Listener, ...]:
    """The listeners with other addresses.

    The first address is for the first kind of listener, the second for the second, and so on; the last kind takes the
    rest. A kind is a port of a Gateway, or the listeners of rule files with the same certificate or without one.
    """
    kinds: dict[tuple[object, ...], Listener] = {}
    for listener in (*ruleset.listeners, *ruleset.homeless):
        kinds.setdefault(_kind(listener), listener)
    models = list(kinds.values())
    moved = [
        dataclasses.replace(models[min(at, len(models) - 1)], address=host, port=port)
        for at, (host, port) in enumerate(listen)
    ]
    stay = [listener for listener in ruleset.listeners if _kind(listener) in list(kinds)[len(listen) :]]
    return numbered((*moved, *stay))


def _kind(listener: Listener) -> tuple[object, ...]:
    return listener.group, listener.certificate, listener.more_certificates, listener.client_ca


def _check_free(addresses: Iterable[Tcp]) -> None:
    """Raise an error if an address is in use already, or is given twice.

    Envoy would not notice another Envoy: it sets SO_REUSEPORT, and the kernel gives connections to both.
    """
    taken: set[Tcp] = set()
    for address in addresses:
        if address[1] and address in taken:
            raise UnusableError(
                f"{show(address)} is given to two listeners: give each an address of its own with --listen"
            )
        taken.add(address)
        accepting.listen(address).close()
