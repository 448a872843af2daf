"""A folder of rule files and manifests that are edited, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from machine import SECONDS, ask

from rejoinder import envoy
from rejoinder.envoy.module import library

ROUTE: Final = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: NS}
spec:
  parentRefs: [{name: gateway, namespace: infra}]
  hostnames: [NS.test]
  rules:
  - filters: [{type: ExtensionRef, extensionRef: {group: gateway.kgateway.dev, kind: DirectResponse, name: page}}]
---
apiVersion: gateway.kgateway.dev/v1alpha1
kind: DirectResponse
metadata: {name: page, namespace: NS}
spec: {status: 200, body: TEXT}
"""


def tenant(namespace: str, text: str = "first") -> str:
    return ROUTE.replace("NS", namespace).replace("TEXT", text)


UNUSABLE: Final[dict[str, str | bytes]] = {
    "template": "metadata: {{ .Values.name }}\n",
    "duplicate": "apiVersion: v1\napiVersion: v1\nkind: Service\n",
    "values": "replicaCount: 1\nimage: {repository: nginx}\n",
    "tag": "apiVersion: v1\nkind: !secret x\n",
    "latin-1": "apiVersion: v1\nkind: Service\nmetadata: {name: caf\xe9}\n".encode("latin-1"),
    "empty": "",
}


# --- processes ---


@contextlib.asynccontextmanager
async def new_envoy(port: int) -> AsyncIterator[envoy.EnvoyProcess]:
    bootstrap = envoy.bootstrap(("127.0.0.1", port), admin=("127.0.0.1", 0))
    environ = {**os.environ, **library.environment()}
    async with envoy.running(envoy.find().path, bootstrap, concurrency=1, environ=environ) as running:
        yield running


async def answer(address: tuple[str, int], *headers: tuple[str, str]) -> bytes:
    return (await asyncio.to_thread(ask, address, "GET", "a.test", "/", headers)).body


async def becomes(address: tuple[str, int], body: bytes, *headers: tuple[str, str]) -> None:
    async with asyncio.timeout(SECONDS):
        while await answer(address, *headers) != body:
            await asyncio.sleep(0.05)


async def only_address(running: envoy.EnvoyProcess) -> tuple[str, int]:
    ((address,),) = (await running.ready(["127.0.0.1:0"])).values()
    return address


@contextlib.contextmanager
def up(file: Path, *arguments: str, ends: int = 0) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "rejoinder.cli", "up", str(file), "--concurrency", "1", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            yield process
            process.terminate()
            assert process.wait(SECONDS) == ends
        finally:
            process.kill()


def said(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(text)


def address_of(process: subprocess.Popen[str]) -> tuple[str, int]:
    assert process.stdout is not None
    match = re.fullmatch(r"listening on http://(.*):(\d+)\n", process.stdout.readline())
    assert match
    return match[1], int(match[2])
