"""The ext_proc service's client for pages of other services, without an Envoy: what `test_remote_page` cannot see."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from machine import SECONDS, taken_port
from test_tls import certificate

from rejoinder.extproc.pages import KEPT, Pages
from rejoinder.rules.model import Endpoint, RemotePage, Upstream, UpstreamTls
from rejoinder.rules.remote import Page, refusal

REMOTE = RemotePage("errors", timeout=5.0)
KEPT_FOR = replace(REMOTE, cache=10.0)

Work = Callable[[Pages, Callable[[RemotePage], RemotePage]], Awaitable[None]]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(
    work: Work, clock: Clock | None = None, tls: ssl.SSLContext | None = None, options: Upstream | None = None
) -> int:
    """Run some work beside a service whose page says how often it has been asked; how often that was.

    Args:
        work: gets the client, and what puts the service into what is asked for.
    """
    asked = 0

    async def answer(_: web.BaseRequest) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(text=str(asked))

    async def main() -> None:
        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port = runner.addresses[0][1]
        service = replace(options or Upstream("errors", ()), endpoints=(Endpoint("127.0.0.1", port),))
        pages = Pages(clock or Clock())
        try:
            await work(pages, lambda remote: replace(remote, service=service))
        finally:
            await pages.close()
            await runner.cleanup()

    asyncio.run(main())
    return asked


def body(page: Page | None) -> str:
    assert page is not None
    return page.body.decode()


def test_a_page_is_kept_as_long_as_the_rule_says() -> None:
    clock = Clock()

    async def work(pages: Pages, at: Callable[[RemotePage], RemotePage]) -> None:
        for moment, wanted in ((0.0, "1"), (9.9, "1"), (10.0, "2"), (19.9, "2")):
            clock.now = moment
            assert body(await pages.ask(at(KEPT_FOR), (("x-code", "503"),), 503)) == wanted
        assert body(await pages.ask(at(KEPT_FOR), (("x-code", "404"),), 404)) == "3"
        assert body(await pages.ask(at(REMOTE), (("x-code", "503"),), 503)) == "4"  # this one wants none that was kept

    assert run(work, clock) == 4


def test_none_is_kept_of_where_the_service_was_before_nor_longer_than_this_rule_says() -> None:
    clock = Clock()

    async def work(pages: Pages, at: Callable[[RemotePage], RemotePage]) -> None:
        assert body(await pages.ask(at(KEPT_FOR), (), 503)) == "1"
        service = at(KEPT_FOR).service
        assert service is not None
        moved = replace(service, endpoints=(Endpoint("localhost", service.endpoints[0].port),))
        assert body(await pages.ask(replace(KEPT_FOR, service=moved), (), 503)) == "2"
        assert body(await pages.ask(at(replace(KEPT_FOR, cache=1.0)), (), 503)) == "3"

    assert run(work, clock) == 3


def test_only_so_many_are_kept_and_none_that_is_too_long_to_ask_for() -> None:
    async def work(pages: Pages, at: Callable[[RemotePage], RemotePage]) -> None:
        for number in (*range(KEPT + 1), KEPT, 0):
            await pages.ask(at(KEPT_FOR), (("accept", str(number)),), 503)
        for _ in range(2):
            await pages.ask(at(KEPT_FOR), (("accept", "x" * 5000),), 503)

    assert run(work) == KEPT + 1 + 1 + 2


def test_many_who_want_what_is_to_be_kept_ask_once() -> None:
    async def work(pages: Pages, at: Callable[[RemotePage], RemotePage]) -> None:
        goes = asyncio.create_task(pages.ask(at(KEPT_FOR), (), 503))
        stay = [asyncio.create_task(pages.ask(at(KEPT_FOR), (), 503)) for _ in range(20)]
        await asyncio.sleep(0)
        goes.cancel()
        assert {body(page) for page in await asyncio.gather(*stay)} == {"1"}
        without = replace(KEPT_FOR, service=None)
        assert await asyncio.gather(*(pages.ask(without, (), 503) for _ in range(20))) == [None] * 20
        assert len({body(await pages.ask(at(remote), (), 503)) for remote in (KEPT_FOR, REMOTE, REMOTE)}) == 3

    assert run(work) == 3


def test_what_is_still_asked_for_at_the_end_is_given_up_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            silent.setblocking(False)
            service = Upstream("errors", (Endpoint("127.0.0.1", silent.getsockname()[1]),))
            pages = Pages()
            asked = asyncio.create_task(pages.ask(replace(KEPT_FOR, service=service), (), 503))
            connection, _ = await asyncio.get_running_loop().sock_accept(silent)
            with connection:
                await pages.close()
                await asyncio.wait([asked])
            assert asked.cancelled()

    asyncio.run(main())
    assert not caplog.records


def test_a_page_that_is_coded_for_its_way_is_none() -> None:
    for coding, wanted in (("chunked", ""), ("Chunked", ""), ("gzip, chunked", "Transfer-Encoding gzip, chunked")):
        assert refusal(503, 200, {"content-type": "text/html", "transfer-encoding": coding}, 1) == wanted


def test_the_addresses_of_a_service_have_their_turns() -> None:
    async def work(pages: Pages, at: Callable[[RemotePage], RemotePage]) -> None:
        service = at(REMOTE).service
        assert service is not None
        with taken_port() as port:
            dead = replace(service, endpoints=(*service.endpoints, Endpoint("localhost.invalid", port)))
            got = [await pages.ask(replace(REMOTE, service=dead), (), 503) for _ in range(4)]
        assert [page is None for page in got] == [False, True, False, True]

    assert run(work) == 2


def test_names_that_dns_says_nothing_about_hold_up_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    told, end, look_up = threading.Semaphore(0), threading.Event(), socket.getaddrinfo

    def silent(host: str, *arguments: Any, **named: Any) -> Any:
        if host.startswith("silent"):
            told.release()
            end.wait()
        return look_up(host, *arguments, **named)

    async def work(pages: Pages, at: Callable[[RemotePage], RemotePage]) -> None:
        service = at(REMOTE).service
        assert service is not None
        (endpoint,) = service.endpoints

        def ask(host: str) -> asyncio.Task[Page | None]:
            named = replace(service, endpoints=(Endpoint(host, endpoint.port),))
            return asyncio.create_task(pages.ask(replace(REMOTE, timeout=SECONDS, service=named), (), 503))

        asked = [ask(f"silent{number}.invalid") for number in range(40)]
        try:
            assert body(await ask("localhost")) == "1"
            assert all(told.acquire(timeout=SECONDS) for _ in asked), "they are all looked up"
        finally:
            end.set()
        assert await asyncio.gather(*asked) == [None] * 40

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    assert run(work) == 1


def test_a_service_without_an_address_has_no_page() -> None:
    async def work(pages: Pages, _: Callable[[RemotePage], RemotePage]) -> None:
        assert await pages.ask(REMOTE, (), 503) is None

    assert run(work) == 0


@pytest.mark.parametrize("name", ["localhost", "other.test"])
def test_its_certificate_is_verified(tmp_path: Path, name: str) -> None:
    chain, key = certificate(tmp_path, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    options = Upstream("errors", (), tls=True, tls_options=UpstreamTls(ca=chain.read_bytes(), sni="localhost"))

    async def work(pages: Pages, at: Callable[[RemotePage], RemotePage]) -> None:
        page = await pages.ask(at(REMOTE), (), 503)
        assert (page is None) == (name != "localhost")

    assert run(work, tls=context, options=options) == (1 if name == "localhost" else 0)
