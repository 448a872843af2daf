"""`rejoinder serve`: the control plane and the ext_proc service, for Envoys that somebody else runs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

from rejoinder.cli import admin, certificate, console, handlers, systemd, transport
from rejoinder.cli.control import Control, summary
from rejoinder.cli.web import Console
from rejoinder.envoy.module import library
from rejoinder.extproc import Workers
from rejoinder.transport.addresses import Address, nth, show
from rejoinder.transport.tls import Files, Reloading
from rejoinder.transport.unix import MODE
from rejoinder.xds.server import Server

MOST_REASONS: Final = 10
"""Problems that `/readyz` names."""


def run(options: argparse.Namespace) -> int:
    console.start_log(options.log_format, logging.INFO, "%(message)s")
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    stop = stop_signal()
    try:
        tls = transport.files(options)
        ext_proc = [nth(options.ext_proc, at) for at in range(options.workers)]
        given = systemd.sockets(options.xds, *ext_proc, options.admin)
    except OSError as error:
        return console.fail(str(error))
    mode = MODE if options.socket_mode is None else options.socket_mode
    handlers.find_in(handlers.folders_of(options.sources))
    control = Control(
        options.sources,
        options.upstream,
        transport.settings(options, fallback=True),
        processor=Workers(options.workers, tls, mode, given),
        adjust=transport.told(options),
        state=options.state,
    )
    transport.warn(options)
    control.start()
    async with contextlib.AsyncExitStack() as stack:
        try:
            await started(stack, control.processor, options.ext_proc)
            xds = await stack.enter_async_context(systemd.relayed(given.get(options.xds), options.xds, tls))
            await started(stack, control.server, xds, tls, mode)
            await start_console(stack, control, options, tls, mode, given.get(options.admin))
            if options.module:
                path = f"/{library.LIBRARY.name}"  # for `dynamic_module_config.module.remote`
                module = admin.page(path, "application/octet-stream", library.LIBRARY.read_bytes)
                serving = admin.serving(options.module, admin.application([module]))
                where = show(await stack.enter_async_context(serving))
                console.say(f"module at http://{where}{path}, sha256 {library.sha256()}", event="module")
        except OSError as error:
            return console.fail(str(error))
        where = f"xDS on {show(options.xds)}, ext_proc on {show(options.ext_proc)}"
        if built := control.current:
            console.warn_of_echo(built.ruleset)
        does = "serving the last good set" if control.last_good.served else "serving"
        console.say(f"{does}: {summary(built) if built else 'nothing so far'}; {where}", "green", event="serving")
        await until(stop, control.follow(), systemd.tell(control), certificate.watch(tls, control.metrics))
    return control.exit_code


async def started(stack: contextlib.AsyncExitStack, service: Workers | Server, address: Address, *how: Any) -> None:
    """Start a service that stops with the stack.

    Raises:
        OSError: the address cannot be used.
    """
    await service.start(show(address), *how)
    stack.push_async_callback(service.stop)


async def start_console(
    stack: contextlib.AsyncExitStack,
    control: Control,
    options: argparse.Namespace,
    tls: Files | None = None,
    mode: int = MODE,
    given: socket.socket | None = None,
) -> None:
    """The admin interface, if it is wanted, until the stack ends.

    Raises:
        OSError: the address cannot be used.
    """
    address = options.admin
    if address is None:
        return
    if isinstance(address, Path):
        tls = None
    certified = tls is not None and tls.client_ca is not None and not options.admin_no_client_cert
    app = admin.application(
        [*admin.probes(lambda: unready(control)), *Console(control).routes()],
        knows=admin.knows_host(address, options.admin_name),
        certified=certified,
    )
    serving = admin.serving(address, app, Reloading(tls, required=False) if tls else None, mode, given)
    bound = show(await stack.enter_async_context(serving))
    where = bound if isinstance(address, Path) else f"{'https' if tls else 'http'}://{bound}/"
    console.say(f"console at {where}", event="console")


def unready(control: Control) -> str:
    """Why there is nothing to serve; empty: there is."""
    if control.current is not None:
        return ""
    return "\n".join(["the files cannot be used", *map(str, control.problems[:MOST_REASONS])])


def stop_signal() -> asyncio.Event:
    """Set when this process has to end (Ctrl-C, SIGTERM, or its terminal is closed). Without a terminal, SIGHUP is
    ignored: it usually means to reload the files, which happens anyway."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, stop.set if any(map(os.isatty, range(3))) else lambda: None)
    return stop


async def until(stop: asyncio.Event, *work: Coroutine[Any, Any, Any]) -> None:
    """Wait for the stop signal or the first of these to end, and cancel the rest. Raises what that one raises."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in (stop.wait(), *work)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for ended in done:
        ended.result()
