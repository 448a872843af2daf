"""Health and reflection of the ext_proc service, as methods of `grpc`."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from rejoinder.extproc.exchange import Method, Next, Step
from rejoinder.extproc.grpc_wire import Status
from rejoinder.transport.standard import HEALTH, REFLECTION, Standard


def methods(standard: Standard) -> Mapping[str, Method]:
    """By path."""

    def check(request: bytes) -> Step:
        response, known = standard.health(request)
        return Step(response, True) if known else Step(b"", True, Status.NOT_FOUND)

    def watch(request: bytes) -> Step:
        changed = standard.changed

        async def then() -> Next:
            await changed.wait()
            return functools.partial(watch, request)

        return Step(standard.health(request)[0], False, then=then)

    def reflect(request: bytes) -> Step:
        return Step(standard.reflection(request), False)

    return {
        f"/{HEALTH}/Check": lambda: check,
        f"/{HEALTH}/Watch": lambda: watch,
        **{f"/{service}/ServerReflectionInfo": lambda: reflect for service in REFLECTION},
    }
