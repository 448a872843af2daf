"""Health and reflection of the ext_proc service, as `grpc` wants them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rejoinder.extproc.exchange import Metadata, Method, Step
from rejoinder.extproc.grpc_wire import Status
from rejoinder.transport.standard import HEALTH, REFLECTION, Standard


class _Asked:
    """A stream whose messages are answered one by one."""

    def __init__(self, on_message: Callable[[bytes], Step]) -> None:
        self.on_message = on_message

    def on_end(self) -> None:
        """All has been answered."""


def methods(standard: Standard) -> Mapping[str, Method]:
    """By path."""

    def check(request: bytes) -> Step:
        response, known = standard.health(request)
        return Step(response, True) if known else Step(b"", True, Status.NOT_FOUND)

    def watch(request: bytes) -> Step:
        changed = standard.changed

        async def then() -> Step:
            await changed.wait()
            return watch(request)

        return Step(standard.health(request)[0], False, then=then)

    def reflect(request: bytes) -> Step:
        return Step(standard.reflection(request), False)

    def method(on_message: Callable[[bytes], Step]) -> Method:
        def opened(_: Metadata) -> _Asked:
            return _Asked(on_message)

        return opened

    return {
        f"/{HEALTH}/Check": method(check),
        f"/{HEALTH}/Watch": method(watch),
        **{f"/{service}/ServerReflectionInfo": method(reflect) for service in REFLECTION},
    }
