"""`rejoinder serve`: the control plane and the ext_proc service, for Envoys that somebody else runs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol

from rejoinder.cli import admin, console, handlers
from rejoinder.cli.control import Control, summary
from rejoinder.cli.values import Address
from rejoinder.cli.web import Console
from rejoinder.envoy.module import library
from rejoinder.extproc import Workers
from rejoinder.rules.http import show_address
from rejoinder.rules.model import Endpoint
from rejoinder.xds.translate import Placement, Settings


def run(options: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    stop = stop_signal()
    settings = Settings(
        Endpoint(*(options.ext_proc_advertise or options.ext_proc)),
        Placement(options.conditional),
        fallback=True,
        ext_proc_ports=options.workers,
        trusted_ca=options.trusted_ca,
    )
    handlers.find_in(handlers.folders_of(options.sources))
    control = Control(options.sources, options.upstream, settings, processor=Workers(options.workers))
    control.start()
    async with contextlib.AsyncExitStack() as stack:
        try:
            await started(stack, control.processor, options.ext_proc)
            await started(stack, control.server, options.xds)
            await start_console(stack, control, options)
            if options.module:
                module = admin.serving(options.module, admin.application(admin.module()))
                where = shown(await stack.enter_async_context(module))
                console.say(f"module at http://{where}/{library.LIBRARY.name}, sha256 {library.sha256()}")
        except OSError as error:
            return console.fail(str(error))
        where = f"xDS on {shown(options.xds)}, ext_proc on {shown(options.ext_proc)}"
        if built := control.current:
            console.warn_of_echo(built.ruleset)
        console.say(f"serving: {summary(built) if built else 'nothing so far'}; {where}", "green")
        await until(stop, control.follow())
    return 0


class _Service(Protocol):
    async def start(self, address: str) -> int: ...

    async def stop(self) -> None: ...


async def started(stack: contextlib.AsyncExitStack, service: _Service, address: Address | Path) -> int:
    """Start a service that stops with the stack; its port.

    Raises:
        OSError: the address cannot be used.
    """
    port = await service.start(shown(address))
    stack.push_async_callback(service.stop)
    return port


async def start_console(stack: contextlib.AsyncExitStack, control: Control, options: argparse.Namespace) -> None:
    """The admin interface, if it is wanted, until the stack ends.

    Raises:
        OSError: the address cannot be used.
    """
    if options.admin is None:
        return
    knows = admin.knows_host(options.admin, options.admin_name)
    app = admin.application(admin.pages(control.status, control.metrics), Console(control).routes(), knows=knows)
    console.say(f"console at http://{shown(await stack.enter_async_context(admin.serving(options.admin, app)))}/")
    if not admin.is_loopback(options.admin):
        console.say("whoever reaches that address can read what the files say, without a password", "yellow")


def stop_signal() -> asyncio.Future[None]:
    """Done when somebody wants this process to end (Ctrl-C, SIGTERM)."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: None if stop.done() else stop.set_result(None))
    return stop


async def until(stop: asyncio.Future[None], *work: Coroutine[Any, Any, None]) -> None:
    """Wait for the stop signal or the first of these to end, and cancel the rest. Raises what that one raises."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for ended in done:
        ended.result()


def shown(address: Address | Path) -> str:
    """An address as one writes it, IPv6 in brackets; of a Unix socket, as gRPC does."""
    return f"unix:{address}" if isinstance(address, Path) else show_address(*address)
