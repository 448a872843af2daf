"""`rejoinder serve`: the control plane and the ext_proc service, for Envoys that somebody else runs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal

from rejoinder.cli import admin, console
from rejoinder.cli.arguments import Address
from rejoinder.cli.control import Control, summary
from rejoinder.extproc.server import Processor
from rejoinder.rules.model import Endpoint
from rejoinder.xds.translate import Settings


def run(options: argparse.Namespace) -> int:
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    stop = stop_signal()
    processor = Processor()
    settings = Settings(Endpoint(*(options.ext_proc_advertise or options.ext_proc)))
    control = Control(options.sources, options.upstream, settings, processor=processor)
    built = control.start()
    if built is None:
        return 1
    async with contextlib.AsyncExitStack() as stack:
        try:
            await listen(stack, control, options.xds, options.ext_proc)
            if options.admin:
                stack.enter_context(admin.serving(options.admin, control.status))
        except OSError as error:
            return console.fail(str(error))
        console.say(f"serving: {summary(built)}; xDS on {shown(options.xds)}, ext_proc on {shown(options.ext_proc)}", "green")
        following = asyncio.create_task(control.follow())
        await asyncio.wait([following, stop], return_when=asyncio.FIRST_COMPLETED)
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
    return 0


async def listen(stack: contextlib.AsyncExitStack, control: Control, xds: Address, ext_proc: Address) -> tuple[int, int]:
    """Start both services; they stop with the stack. Their ports.

    Raises:
        OSError: an address cannot be used.
    """
    ext_proc_port = await control.processor.start(shown(ext_proc))
    stack.push_async_callback(control.processor.stop)
    xds_port = await control.server.start(shown(xds))
    stack.push_async_callback(control.server.stop)
    return xds_port, ext_proc_port


def stop_signal() -> asyncio.Future[None]:
    """Done when somebody wants this process to end (Ctrl-C, SIGTERM)."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: stop.done() or stop.set_result(None))
    return stop


def shown(address: Address) -> str:
    """An address as one writes it, IPv6 in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
