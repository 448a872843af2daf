"""Pages of other services (docs/answers.md): asked for over HTTP/1.1, and kept for a while if a rule says so.

In: the request to a service. Out: its page, or None, if it takes too long, cannot be reached, or sends no page. Nothing
is raised. `rules.remote` defines the request, and what is a page.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import itertools
import logging
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from cachetools import TLRUCache

from rejoinder.rules.http import show_address
from rejoinder.rules.model import Header, RemotePage, Upstream, printable
from rejoinder.rules.remote import MAX_SIZE, SENT, Page, refusal
from rejoinder.transport.sparing import Sparing

if TYPE_CHECKING:
    import aiohttp

_LOG: Final = logging.getLogger("rejoinder.extproc.pages")
_LOG.addFilter(Sparing(20))

# As in envoy/module/page.c.
KEPT: Final = 64
"""Number of pages that are kept."""
MAX_KEPT: Final = 128 << 10
"""Bytes of a kept page."""
MAX_KEY: Final = 4096
"""Characters of the request for a kept page."""

MAX_FIELD: Final = 60 << 10
"""Bytes of a header of its response: Envoy's limit for all headers together."""
CONNECTIONS: Final = 100
"""Connections to each address of a service; further requests wait, at most as long as their page may take."""

LOOKUPS: Final = 256
"""Of names, at once: one that DNS says nothing about takes a thread for half a minute. By default asyncio has five."""

_Key = tuple[RemotePage, tuple[Header, ...]]


class Pages:
    """For one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept: TLRUCache[_Key, Page] = TLRUCache(KEPT, lambda key, _, now: now + key[0].cache, clock)
        self._coming: dict[_Key, asyncio.Task[Page | None]] = {}
        """Requests for pages that will be kept: other requests for the same page wait for them, too."""
        self._session: aiohttp.ClientSession | None = None
        self._turns: dict[str, Iterator[int]] = {}

    async def ask(self, remote: RemotePage, headers: tuple[Header, ...], code: int) -> Page | None:
        """The page of a service.

        Args:
            headers: of the request to the service.
            code: the status that the page is for.
        """
        if not remote.cache:
            return await self._tried(remote, headers, code)
        key = (remote, headers)  # with the service and the time: rules with different ones do not share a page
        if (page := self._kept.get(key)) is not None:
            return page
        if (coming := self._coming.get(key)) is None:
            coming = self._coming[key] = asyncio.create_task(self._tried(remote, headers, code))
            coming.add_done_callback(functools.partial(self._came, key))
        return await asyncio.shield(coming)  # a waiting stream may end before the others

    def _came(self, key: _Key, coming: asyncio.Task[Page | None]) -> None:
        del self._coming[key]
        page = None if coming.cancelled() else coming.result()
        if page and len(page.body) <= MAX_KEPT and sum(len(n) + len(v) for n, v in key[1]) <= MAX_KEY:
            self._kept[key] = page

    def prepare(self, services: Iterable[Upstream]) -> None:
        """Do in advance what would delay the first page. In the event loop."""
        for service in services:
            self._opened()
            if service.tls:
                _tls(service.tls_options.ca)

    async def close(self) -> None:
        """End all connections."""
        for coming in self._coming.values():
            coming.cancel()
        if self._session is not None:
            await self._session.close()

    async def _tried(self, remote: RemotePage, headers: tuple[Header, ...], code: int) -> Page | None:
        try:
            async with asyncio.timeout(remote.timeout):
                return await self._asked(remote, headers, code)
        except TimeoutError:
            _LOG.warning("no page from %s: not within %g s", remote.upstream, remote.timeout)
        except Exception as error:  # whatever it is, the answer goes without the page
            _LOG.warning("no page from %s: %s", remote.upstream, printable(str(error) or type(error).__name__, 200))
        return None

    async def _asked(self, remote: RemotePage, headers: tuple[Header, ...], code: int) -> Page:
        service = remote.service
        if service is None or not service.endpoints:
            raise ValueError("it has no address")
        turn = next(self._turns.setdefault(service.name, itertools.count()))
        endpoint = service.endpoints[turn % len(service.endpoints)]
        url = f"{'https' if service.tls else 'http'}://{show_address(endpoint.host, endpoint.port)}/"
        tls, sni = _tls(service.tls_options.ca) if service.tls else True, service.tls_options.sni or None
        async with self._opened().get(
            url, headers=headers, allow_redirects=False, ssl=tls, server_hostname=sni
        ) as response:
            got = {name.lower(): response.headers[name] for name in response.headers}  # the first line of each
            body = bytearray()
            why = refusal(code, response.status, got, 1)
            if not why:
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > MAX_SIZE:
                        break
                why = refusal(code, response.status, got, len(body))
            if why:
                response.close()  # the body may be endless
                raise ValueError(why)
        return Page(tuple((name, got[name]) for name in SENT if got.get(name)), bytes(body))

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp  # noqa: PLC0415 - it takes as long to import as all the rest, and few rules need it

            asyncio.get_running_loop().set_default_executor(concurrent.futures.ThreadPoolExecutor(LOOKUPS))
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, limit_per_host=CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                max_field_size=MAX_FIELD,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            )
        return self._session


@functools.lru_cache(maxsize=64)
def _tls(ca: bytes | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca.decode("ascii", "ignore") if ca else None)
    # As Envoy: whom it trusts need not end the chain. (And Python 3.13 asks for what few certificates have.)
    context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
