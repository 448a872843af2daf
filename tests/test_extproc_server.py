"""The ext_proc service over a real connection, with a gRPC client in Envoy's place."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import grpc.aio
import pytest

from rejoinder.extproc import Counters, Processor
from rejoinder.extproc.pages import Pages
from rejoinder.extproc.server import SERVICE
from rejoinder.rules.counts import Counts, Series
from rejoinder.rules.model import Answer, Header, RemotePage, Rule, StatusPattern, Upstream
from rejoinder.rules.program import compile_rules
from rejoinder.rules.remote import Page
from rejoinder.transport.sparing import SECONDS, Sparing
from rejoinder.xds.protobuf import message_class

_ProcessingRequest: Final = message_class("envoy.service.ext_proc.v3.ProcessingRequest")
_ProcessingResponse: Final = message_class("envoy.service.ext_proc.v3.ProcessingResponse")


def _rule(name: str, body: bytes = b"ours", headers: tuple[Header, ...] = ()) -> Rule:
    return Rule(name, (Answer(503, headers, body, (StatusPattern("503"),)),))


def _headers(kind: str, **headers: str) -> bytes:
    lines = [{"key": name.replace("_", ":"), "raw_value": value.encode()} for name, value in headers.items()]
    encoded: bytes = _ProcessingRequest(**{kind: {"headers": {"headers": lines}}}).SerializeToString()
    return encoded


_REQUEST: Final = _headers("request_headers", _method="GET", _authority="a.example", _path="/")
_UNAVAILABLE: Final = _headers("response_headers", _status="503")


_PREPARED: Final = """
import asyncio, sys
from rejoinder.extproc import Processor
from rejoinder.rules.model import Answer, RemotePage, Rule, Upstream
from rejoinder.rules.program import compile_rules

async def main():
    processor = Processor()
    processor.publish(compile_rules([Rule("plain", (Answer(503),))]))
    assert "aiohttp" not in sys.modules
    page = RemotePage("errors", service=Upstream("errors", ()))
    processor.publish(compile_rules([Rule("page", (Answer(503, remote=page),))]))
    assert "aiohttp" in sys.modules
    await processor.stop()

asyncio.run(main())
"""


def test_pages_are_prepared_for_when_rules_come() -> None:
    subprocess.run([sys.executable, "-c", _PREPARED], check=True)


class _Client:
    """Opens streams as Envoy does."""

    def __init__(self, port: int) -> None:
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._method: Any = self.channel.stream_stream(f"/{SERVICE}/Process")

    def open(self) -> Any:
        return self._method()

    async def exchange(self, *messages: bytes) -> list[bytes]:
        """The bodies of the replies to some messages; empty where there is none. The stream must then end well."""
        stream = self.open()
        bodies = []
        for message in messages:
            await stream.write(message)
            data = await stream.read()
            if data is grpc.aio.EOF:
                break
            bodies.append(_ProcessingResponse.FromString(data).immediate_response.body)
        assert await stream.code() is grpc.StatusCode.OK
        return bodies


@contextlib.asynccontextmanager
async def _serving(*rules: Rule) -> AsyncIterator[tuple[Processor, _Client]]:
    processor = Processor()
    processor._grpc.max_wait = math.inf  # however busy the machine is, nothing is let pass for having waited
    client = _Client(await processor.start("127.0.0.1:0"))
    processor.publish(compile_rules(rules))
    try:
        yield processor, client
    finally:
        await client.channel.close()
        await processor.stop()


# A handler, so that a stream which has begun with the request goes on to the response.
_HANDLED: Final = Rule("handled", (Answer(enable_on_status=(StatusPattern("599"),), handler="m:f"),))


def test_streams_of_both_kinds_are_answered_and_counted() -> None:
    async def main() -> None:
        async with _serving(_rule("busy"), _HANDLED) as (processor, client):
            assert await client.exchange(_UNAVAILABLE) == [b"ours"]
            assert await client.exchange(_REQUEST, _UNAVAILABLE) == [b"", b"ours"]
            assert await client.exchange(_REQUEST, _headers("response_headers", _status="500")) == [b""]
            counters = processor.counters()
            assert (counters.passed, counters.failures) == (1, 0)
            assert counters.counts.series == {Series("busy", "ext_proc", "503", "503"): 2}

    asyncio.run(main())


def test_an_answer_that_passes_in_the_end_is_not_counted_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def come_too_late(*_: object) -> Page:
        monkeypatch.setattr("rejoinder.extproc.client.MAX_WAITING", -1)
        return Page((), b"page")

    async def main() -> None:
        remote = RemotePage("errors", service=Upstream("errors", ()))
        rule = Rule("asks", (Answer(503, enable_on_status=(StatusPattern("503"),), remote=remote),))
        async with _serving(rule) as (processor, client):
            monkeypatch.setattr(Pages, "ask", come_too_late)
            assert await client.exchange(_UNAVAILABLE) == []
            counters = processor.counters()
            assert (counters.passed, counters.overloaded, sum(counters.durations)) == (1, 1, 0)
            assert counters.counts.series == {}

    asyncio.run(main())


def test_before_anything_is_published_everything_passes() -> None:
    async def main() -> None:
        async with _serving() as (_, client):
            assert await client.exchange(_REQUEST) == []
            assert await client.exchange(_UNAVAILABLE) == []

    asyncio.run(main())


def test_exchange_keeps_to_the_rules_of_its_request() -> None:
    async def main() -> None:
        async with _serving(_rule("old", b"old"), _HANDLED) as (processor, client):
            stream = client.open()
            await stream.write(_REQUEST)
            await stream.read()
            processor.publish(compile_rules([_rule("new", b"new")]))
            await stream.write(_UNAVAILABLE)
            assert _ProcessingResponse.FromString(await stream.read()).immediate_response.body == b"old"
            assert await client.exchange(_UNAVAILABLE) == [b"new"]

    asyncio.run(main())


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"\xff\xff", id="no-protobuf"),
        pytest.param(_ProcessingRequest(request_body={}).SerializeToString(), id="unexpected"),
    ],
)
def test_message_that_makes_no_sense_lets_the_exchange_pass(message: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with _serving(_rule("busy")) as (processor, client):
            assert await client.exchange(message) == []
            assert processor.counters() == Counters(Counts(), passed=1, failures=1)
            assert await client.exchange(_UNAVAILABLE) == [b"ours"]

    asyncio.run(main())
    assert caplog.messages == ["an exchange passes untouched: expected headers (start), got Other"]
    assert [record.exc_info for record in caplog.records] == [None]


def test_of_many_lines_of_one_kind_few_are_written_and_the_rest_is_counted() -> None:
    sparing = Sparing(2)

    def written(line: int, at: float) -> str | None:
        record = logging.LogRecord("", logging.WARNING, "here.py", line, "%s came", ("it",), None)
        record.created = at
        return record.getMessage() if sparing.filter(record) else None

    assert [written(1, 0.0) for _ in range(5)] == ["it came", "it came", None, None, None]
    assert written(2, 0.0) == "it came"
    assert written(1, SECONDS - 1) is None
    assert written(1, SECONDS) == "it came (and 4 such lines before that)"
    assert [written(1, SECONDS) for _ in range(2)] == ["it came", None]
    assert written(2, SECONDS * 3) == "it came"


def test_answer_that_cannot_be_sent_lets_the_response_pass(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        rule = _rule("broken", headers=(("x-\udc80", "text"),))  # no UTF-8 for that
        async with _serving(rule) as (processor, client):
            assert await client.exchange(_UNAVAILABLE) == []
            assert processor.counters().failures == 1

    asyncio.run(main())
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_many_streams_are_open_at_once() -> None:
    async def main() -> None:
        async with _serving(_rule("busy"), _HANDLED) as (processor, client):
            streams = [client.open() for _ in range(200)]
            for stream in streams:
                await stream.write(_REQUEST)
            await asyncio.gather(*(stream.read() for stream in streams))
            for stream in reversed(streams):
                await stream.write(_UNAVAILABLE)
            replies = await asyncio.gather(*(stream.read() for stream in streams))
            assert {_ProcessingResponse.FromString(data).immediate_response.body for data in replies} == {b"ours"}
            assert processor.counters().counts.total() == {"busy": 200}

    asyncio.run(main())


def test_client_that_goes_away_leaves_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with _serving(_rule("busy"), _HANDLED) as (processor, client):
            stream = client.open()
            await stream.write(_REQUEST)
            await stream.read()
            stream.cancel()
            assert await client.exchange(_UNAVAILABLE) == [b"ours"]
            assert processor.counters().counts.total() == {"busy": 1}

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert caplog.messages == []


def test_taken_port_is_told() -> None:
    async def main() -> None:
        one, two = Processor(), Processor()
        port = await one.start("127.0.0.1:0")
        with pytest.raises(OSError, match=rf"^cannot listen on 127\.0\.0\.1:{port}: "):
            await two.start(f"127.0.0.1:{port}")
        await one.stop()
        assert await two.start(f"127.0.0.1:{port}") == port
        await two.stop()

    asyncio.run(main())
