"""Health and reflection of the control plane, as grpcio wants them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from rejoinder.transport.standard import HEALTH, REFLECTION, Standard


def handlers(standard: Standard) -> dict[str, dict[str, Any]]:
    """Of each service, by the names of the methods."""

    async def check(request: bytes, context: Any) -> bytes:
        response, known = standard.health(request)
        if not known:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return response

    async def watch(request: bytes, _: Any) -> AsyncIterator[bytes]:
        while True:
            changed = standard.changed
            yield standard.health(request)[0]
            await changed.wait()

    async def reflect(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield standard.reflection(request)

    health: dict[str, Any] = {
        "Check": grpc.unary_unary_rpc_method_handler(check),
        "Watch": grpc.unary_stream_rpc_method_handler(watch),
    }
    reflection: dict[str, Any] = {"ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(reflect)}
    return {HEALTH: health, **dict.fromkeys(REFLECTION, reflection)}
