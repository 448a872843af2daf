"""What Rejoinder itself serves over HTTP: its admin interface, and the module for Envoys that fetch it.

The pages of the admin interface are in `web`. They are for a loopback or private address: they show what the files say,
and change nothing. The event loop is that of xDS and ext_proc, so slow work is done in a separate thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar, TypeVarTuple

from aiohttp import web

from rejoinder.rules.model import printable
from rejoinder.rules.request import host_of
from rejoinder.transport import accepting, unix
from rejoinder.transport.addresses import Address, Tcp, is_ip, is_loopback
from rejoinder.transport.sparing import Sparing

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
A = TypeVar("A", Tcp, Path)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LOG: Final = logging.getLogger("rejoinder.admin")
_LOG.addFilter(Sparing(20))

_STRANGERS: Final = logging.Logger("strangers", logging.CRITICAL)
"""Drops the log of requests that are not HTTP (answered 400). Errors of our pages are logged in `application`."""

MAX_CONNECTIONS: Final = 32
"""A client that sends nothing must not hold connections for ever, nor many of our file descriptors."""
IDLE_SECONDS: Final = 10.0

HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
"""A page loads nothing from other origins, sends them nothing, and no text becomes a script or a frame."""

HEALTHY: Final = "/healthz"
READY: Final = "/readyz"

_THREAD: Final = web.AppKey("thread", ThreadPoolExecutor)


def page(path: str, content_type: str, make: Callable[[], bytes]) -> web.RouteDef:
    """A page that is made in a thread when it is requested."""

    async def made(request: web.Request) -> web.Response:
        return web.Response(body=await in_thread(request, make), headers={"content-type": content_type})

    return web.get(path, made)


def probes(unready: Callable[[], str]) -> list[web.RouteDef]:
    """The probes of an orchestrator: whether the process lives, and whether it has something to serve.

    Args:
        unready: why there is nothing to serve; empty: there is something.
    """

    async def healthy(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_: web.Request) -> web.Response:
        reason = unready()
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    return [web.get(HEALTHY, healthy), web.get(READY, ready)]


def application(
    routes: Iterable[web.RouteDef], *, knows: Callable[[str], bool] = lambda _: True, certified: bool = False
) -> web.Application:
    """What `serving` serves.

    Args:
        routes: all pages.
        knows: whether a request may have this host name.
        certified: whether clients need a certificate for all but `probes`.
    """

    @web.middleware
    async def checked(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not knows(host_of(request.host)):
            text = f"expected an address, localhost or a name given with --admin-name as the host, got {request.host!r}"
            raise web.HTTPMisdirectedRequest(text=text)
        if certified and request.path not in (HEALTHY, READY) and not request.get_extra_info("peercert"):
            _LOG.warning("%s asks for %s without a client certificate", request.remote, printable(request.path, 200))
            raise web.HTTPForbidden(text="expected a client certificate of an authority in --tls-client-ca")
        try:
            return await handler(request)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception:
            _LOG.exception("a page could not be made")
            raise web.HTTPInternalServerError(text="this page could not be made; the log says why") from None

    async def secured(_: web.Request, response: web.StreamResponse) -> None:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)

    app = web.Application(middlewares=[checked])
    app.on_response_prepare.append(secured)
    app.add_routes(routes)
    return app


async def in_thread(request: web.Request, make: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    """Make something in the thread of the admin interface. There is one: only clients of this interface wait for it."""
    return await asyncio.get_running_loop().run_in_executor(request.app[_THREAD], make, *arguments)


def knows_host(address: Address, names: Iterable[str]) -> Callable[[str], bool]:
    """Which host names are valid for a server at this address: addresses, localhost, and `names`. Any other may be the
    name of a foreign page that now resolves to this address (DNS rebinding). Names without a dot are valid: containers
    and services have them, pages of the internet do not. No page can reach a Unix socket."""
    if isinstance(address, Path):
        return lambda _: True
    known = {"localhost", address[0].lower(), *names}
    elsewhere = not is_loopback(address)
    return lambda name: is_ip(name.strip("[]")) or name in known or (elsewhere and "." not in name)


@contextlib.asynccontextmanager
async def serving(
    address: A,
    app: web.Application,
    tls: ssl.SSLContext | None = None,
    mode: int = unix.MODE,
    given: socket.socket | None = None,
) -> AsyncIterator[A]:
    """Serve for as long as the block lasts; the address that is bound.

    Args:
        address: port 0 takes any free one.
        app: cannot be used again afterwards.
        tls: for TLS.
        mode: of a Unix socket.
        given: a socket that listens there already.

    Raises:
        OSError: the address cannot be used.
    """
    if isinstance(address, Path):
        listening = given or unix.listen(address, mode)
    else:
        listening = given or accepting.listen(address)
        # Also for clients that do not read their responses (accepted sockets inherit it).
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(IDLE_SECONDS * 1000))
    runner = web.AppRunner(
        app, access_log=None, logger=_STRANGERS, keepalive_timeout=IDLE_SECONDS, shutdown_timeout=0.1
    )
    with ThreadPoolExecutor(1, "admin") as app[_THREAD]:
        await runner.setup()
        connections = runner.server
        assert connections is not None

        def has_room(connecting: int) -> bool:
            return len(connections.connections) + connecting < MAX_CONNECTIONS

        accept = asyncio.create_task(accepting.accept(listening, connections, tls, has_room))
        try:
            yield address if isinstance(address, Path) else listening.getsockname()[:2]
        finally:
            accept.cancel()
            await asyncio.gather(accept, return_exceptions=True)
            listening.close()
            if isinstance(address, Path) and given is None:
                address.unlink(missing_ok=True)
            await runner.cleanup()
