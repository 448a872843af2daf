"""The ext_proc service beside an Envoy with a configuration of its own: what clients get, and what it costs.

The filters are those that `rejoinder bootstrap ext_proc RULES` prints.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import httpx
import pytest
from extproc_bench import _BODY, _BROKEN, _ENDLESS, _LATE, _PAGE, _Bench, _Response
from machine import SECONDS


@pytest.fixture(scope="module", name="bench")
def _bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Bench]:
    with asyncio.Runner() as runner:
        bench = _Bench(runner, tmp_path_factory.mktemp("log") / "access.log")
        stack = contextlib.AsyncExitStack()
        runner.run(stack.enter_async_context(bench.set_up()))
        yield bench
        runner.run(stack.aclose())


_TEXT: Final = (("content-type", "text/plain; charset=utf-8"),)
_JSON: Final = (("content-type", "application/json; charset=utf-8"),)
_REDIRECT: Final = (("location", "https://example.com/"),)
_OURS: Final = _Response(503, _PAGE, "length", _BODY)


@pytest.mark.parametrize(
    ("path", "method", "expected"),
    [
        pytest.param("/503", "GET", _OURS, id="body"),
        pytest.param("/503", "HEAD", _Response(503, _PAGE, "length", b""), id="head"),
        pytest.param("/503/empty", "GET", _OURS, id="no-body"),
        pytest.param("/503/gzip", "GET", _OURS, id="gzip"),
        pytest.param("/503/chunked", "GET", _OURS, id="chunked"),
        pytest.param("/503/trailers", "GET", _OURS, id="trailers"),
        pytest.param("/503/300k", "GET", _OURS, id="large"),
        pytest.param("/503/3m", "GET", _OURS, id="very-large"),
        pytest.param(_ENDLESS, "GET", _OURS, id="endless"),
        pytest.param(_LATE, "GET", _OURS, id="late-body"),
        *(pytest.param(path, "GET", _OURS, id=f"h05-{path[1:]}") for path in _BROKEN),
        pytest.param("/204", "GET", _Response(200, _TEXT, "length", b"was empty"), id="204"),
        pytest.param("/304", "GET", _Response(200, _TEXT, "length", b"was empty"), id="304"),
        pytest.param("/500", "GET", _Response(204, (), "", b""), id="to-204"),
        pytest.param("/500", "HEAD", _Response(204, (), "", b""), id="head-to-204"),
        pytest.param("/501", "GET", _Response(304, (("etag", "ours"),), "", b""), id="to-304"),
        pytest.param("/502", "GET", _Response(200, (), "length", b""), id="to-no-body"),
        pytest.param("/504", "GET", _Response(200, _TEXT, "length", b"n" * 9_000), id="to-9000"),
        pytest.param("/505", "GET", _Response(200, _TEXT, "length", b"n" * 300_000), id="to-300k"),
        pytest.param("/506", "GET", _Response(506, _JSON, "length", b"[]"), id="original"),
        pytest.param("/507", "GET", _Response(299, _JSON, "length", b"{}"), id="unheard-of-status"),
        pytest.param("/dead", "GET", _OURS, id="dead-upstream"),
        pytest.param("/nowhere", "GET", _Response(404, _TEXT, "length", b"not here"), id="no-route"),
        pytest.param("/nowhere", "HEAD", _Response(404, _TEXT, "length", b""), id="no-route-head"),
        pytest.param("/aborted", "GET", _Response(302, _REDIRECT, "length", b""), id="429-of-a-filter-in-front"),
    ],
)
def test_client_gets_the_answer_and_nothing_of_the_upstream(
    bench: _Bench, path: str, method: str, expected: _Response
) -> None:
    assert bench.run(bench.get(path, method)) == expected


@pytest.mark.parametrize(
    ("path", "method", "headers", "host", "body"),
    [
        pytest.param("/508", "GET", (), "a.example:80", b"host", id="host, which the route rewrites"),
        pytest.param("/508", "GET", (), "a.test", b"theirs", id="another host"),
        pytest.param("/moved", "GET", (), "a.test", b"path", id="path, which the route rewrites"),
        pytest.param("/509", "GET", (), "a.test", b"theirs", id="another path"),
        pytest.param("/510", "POST", (), "a.test", b"method", id="method"),
        pytest.param("/510", "GET", ("x-a: 12",), "a.test", b"header", id="header"),
        pytest.param("/510", "GET", ("x-a: 2", "x-a: 12"), "a.test", b"header", id="a line of a header"),
        pytest.param("/510", "GET", ("x-a: 2, 12",), "a.test", b"theirs", id="a list in one line"),
        pytest.param("/510", "GET", ("x-a: \xff1",), "a.test", b"theirs", id="header that is no UTF-8"),
        pytest.param("/510?q=1", "GET", (), "a.test", b"query", id="query"),
        pytest.param("/510?q=2", "GET", (), "a.test", b"theirs", id="another query"),
        pytest.param("/510", "GET", ("x-route: 1",), "a.test", b"route", id="route"),
        pytest.param("/510", "GET", (), "a.test", b"theirs", id="nothing"),
    ],
)
def test_rules_are_asked_about_the_request_as_it_came(
    bench: _Bench, path: str, method: str, headers: tuple[str, ...], host: str, body: bytes
) -> None:
    assert bench.run(bench.get(path, method, *headers, host=host)).body == body


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n", b"400", id="an invalid host"),
        pytest.param(b"GET a HTTP/1.1\r\nhost: a.test\r\n\r\n", b"400", id="no path"),
        pytest.param(b"no request\r\n\r\n", b"400", id="no HTTP"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: a.test\r\nx: " + b"x" * 100_000 + b"\r\n\r\n", b"431", id="too large"),
    ],
)
def test_what_envoy_refuses_before_any_filter_is_not_held(bench: _Bench, request_: bytes, status: bytes) -> None:
    async def main() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        with contextlib.closing(writer):
            writer.write(request_)
            async with asyncio.timeout(SECONDS):
                line = await reader.readline()
        assert line.split(b" ")[1] == status

    bench.run(main())


def test_what_a_route_answers_by_itself_is_final(bench: _Bench) -> None:
    own = bench.run(bench.get("/own"))
    assert (own.status, own.body) == (503, b"its own")
    assert bench.run(bench.get("/redirects")).status == 302


def test_rate_limited_request_gets_the_answer_for_429(bench: _Bench) -> None:
    async def main() -> None:
        assert (await bench.get("/limited")).body == b"fine"
        assert await bench.get("/limited") == _Response(302, _REDIRECT, "length", b"")
        assert (await bench.get("/limited", "HEAD")).status == 302

    bench.run(main())


def test_response_that_no_answer_is_for_passes_untouched(bench: _Bench) -> None:
    response = bench.run(bench.get("/200"))
    assert (response.status, response.body) == (200, b"fine")
    assert {"etag", "x-upstream", "set-cookie"} < dict(response.headers).keys()


def test_http2_client_gets_the_same(bench: _Bench) -> None:
    async def main() -> None:
        async with httpx.AsyncClient(http1=False, http2=True, timeout=SECONDS) as client:
            for path in ("/503", "/503/empty", "/503/trailers", "/503/300k", "/reset"):
                response = await client.get(f"http://127.0.0.1:{bench.port}{path}")
                assert response.http_version == "HTTP/2"
                assert (response.status_code, response.content) == (503, _BODY)
                sent = [header for header in response.headers.multi_items() if header[0] not in ("date", "server")]
                assert [header for header in sent if header[0] != "content-length"] == list(_PAGE)

    bench.run(main())


@pytest.mark.parametrize("path", ["/503", "/503/empty"])
def test_upstream_connection_outlives_answers(bench: _Bench, path: str) -> None:
    async def main() -> None:
        await bench.get(path)
        before = bench.upstream.connections
        for _ in range(5):
            await bench.get(path)
        assert bench.upstream.connections == before

    bench.run(main())


def test_only_what_a_rule_may_be_about_costs_a_stream(bench: _Bench) -> None:
    async def main() -> None:
        for path, streams in {"/200": 0, "/511": 0, "/503": 1, "/mock": 1, "/nowhere": 1}.items():
            before = await bench.streams()
            await bench.get(path)
            assert await bench.streams() - before == streams, path

    bench.run(main())


def test_unconditional_answers_spare_the_upstream(bench: _Bench) -> None:
    async def main() -> None:
        before = bench.upstream.requests
        mock = await bench.get("/mock?x=1")
        assert mock == _Response(201, (*_JSON, ("x-mock", "1")), "length", b"{}")
        assert await bench.get("/named", "PUT") == _Response(202, _TEXT, "length", b"route")
        assert bench.upstream.requests == before

    bench.run(main())


def test_access_log_names_the_rule(bench: _Bench) -> None:
    async def main() -> None:
        await bench.get("/503?log")
        async with asyncio.timeout(SECONDS):
            while not (lines := [line for line in bench.log.read_text().splitlines() if "?log" in line]):
                await bench.envoy.admin.get("/reopen_logs", "POST")
                await asyncio.sleep(0.05)
        assert lines == ["/503?log rejoinder:errors_of_all errors of all"]

    bench.run(main())


async def _until_answered(bench: _Bench) -> None:
    async with asyncio.timeout(SECONDS):
        while await bench.get("/503") != _OURS:
            await asyncio.sleep(0.05)


def test_responses_pass_while_the_service_is_dead_and_are_answered_when_it_is_back(bench: _Bench) -> None:
    async def main() -> None:
        await bench.processor.stop()
        for _ in range(5):
            assert (await bench.get("/503")).body == b"theirs"
        await bench.processor.start(f"127.0.0.1:{bench.service_port}")
        await _until_answered(bench)

    bench.run(main())


def test_responses_pass_while_the_service_hangs(bench: _Bench) -> None:
    async def main() -> None:
        hung: list[asyncio.StreamWriter] = []
        await bench.processor.stop()
        server = await asyncio.start_server(lambda _, writer: hung.append(writer), "127.0.0.1", bench.service_port)
        assert (await bench.get("/503")).body == b"theirs"
        assert hung
        server.close()
        for writer in hung:
            writer.close()
        await bench.processor.start(f"127.0.0.1:{bench.service_port}")
        await _until_answered(bench)

    bench.run(main())
