"""The ext_proc service behind a real Envoy: what clients get, and what upstreams are spared."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import pytest
from rejoinder.envoy import EnvoyProcess, bootstrap, find, running
from rejoinder.extproc import Processor
from rejoinder.rules.answers import TABLE_KEY, AnswerTable, answer_table
from rejoinder.rules.model import Answer, Forward, Route, Rule, Ruleset, Scope, StatusPattern

_TYPE: Final = "type.googleapis.com/envoy."
_FILTER: Final = "rejoinder"
GATE: Final = "404|429|5.."


def _typed(name: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"{_TYPE}{name}", **fields}


@dataclass
class Upstream:
    """An HTTP/1.1 server whose responses are written out in full by the test, by path."""

    responses: dict[str, bytes]
    connections: int = 0
    requests: int = 0
    broken: int = 0
    """Connections that Envoy closed."""
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                method, path, _ = head.decode().split(" ", 2)
                response = self.responses[path]
                if method == "HEAD":
                    response = response[: response.index(b"\r\n\r\n") + 4]
                writer.write(response)
                await writer.drain()
                while path == "/endless":
                    writer.write(b"4\r\nmore\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.01)
        writer.close()


def http(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status} Whatever", "etag: x", "x-up: stream", "set-cookie: up=1", "server: up", *headers)
    if not any(header.startswith("transfer-encoding") for header in headers) and status not in (204, 304):
        lines = (*lines, f"content-length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode() + body
