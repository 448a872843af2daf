"""Health and reflection of both services, as a client of grpcio sees them, by messages that are grpc.io's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_bench import grpcio

from rejoinder.extproc.server import SERVICE, Processor
from rejoinder.rules.messages import message_classes
from rejoinder.rules.program import compile_rules
from rejoinder.transport.standard import HEALTH, REFLECTION
from rejoinder.xds.server import ADS, Server
from rejoinder.xds.snapshot import Snapshot

SERVING, NOT_SERVING, SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"

# https://github.com/grpc/grpc/blob/master/src/proto/grpc/reflection/v1/reflection.proto
ASK: Final[Any] = message_classes(
    "tests.reflection",
    {
        "Request": {"by_filename": (3, "bytes"), "containing_symbol": (4, "bytes"), "extension": (5, "bytes")},
        "Response": {"files": (4, "Files"), "services": (6, "Services"), "error": (7, "Error")},
        "Files": {"file": (1, "*bytes")},
        "Services": {"service": (1, "*Service")},
        "Service": {"name": (1, "bytes")},
        "Error": {"code": (1, "int32"), "message": (2, "bytes")},
    },
)


def named(service: str) -> bytes:
    return b"\x0a" + bytes([len(service)]) + service.encode()


@contextlib.asynccontextmanager
async def control_plane() -> AsyncIterator[tuple[int, Callable[[], None]]]:
    server = Server()
    yield await server.start("127.0.0.1:0"), lambda: server.publish(Snapshot(()))
    await server.stop()


@contextlib.asynccontextmanager
async def ext_proc() -> AsyncIterator[tuple[int, Callable[[], None]]]:
    processor = Processor()
    yield await processor.start("127.0.0.1:0"), lambda: processor.publish(compile_rules(()))
    assert processor.counters().failures == 0
    await processor.stop()


BOTH = pytest.mark.parametrize(
    ("service", "name"), [pytest.param(control_plane, ADS, id="xds"), pytest.param(ext_proc, SERVICE, id="ext_proc")]
)


def run(work: Awaitable[None]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(work, 60)

    asyncio.run(limited())


async def code(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code()


@BOTH
def test_health_is_that_there_is_something_to_serve(service: Any, name: str) -> None:
    async def main() -> None:
        async with service() as (port, publish), grpcio(port) as channel:
            check: Any = channel.unary_unary(f"/{HEALTH}/Check")
            watched: Any = channel.unary_stream(f"/{HEALTH}/Watch")(named(name))
            unknown: Any = channel.unary_stream(f"/{HEALTH}/Watch")(named("none"))
            assert await watched.read() == NOT_SERVING
            assert await unknown.read() == SERVICE_UNKNOWN
            for known in ("", name, HEALTH):
                assert await check(named(known)) == NOT_SERVING
            assert await code(check(named("none"))) is grpc.StatusCode.NOT_FOUND
            assert await code(check(b"\xff")) is grpc.StatusCode.NOT_FOUND
            publish()
            assert await watched.read() == SERVING
            assert await check(b"") == SERVING
            publish()  # no change, so nothing is said
            reading = asyncio.ensure_future(watched.read())
            assert await check(named(name)) == SERVING
            assert not reading.done()
            watched.cancel()
            unknown.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    run(main())


@BOTH
@pytest.mark.parametrize("reflection", REFLECTION)
def test_reflection_describes_the_services_with_all_their_messages(service: Any, name: str, reflection: str) -> None:
    async def main() -> None:
        async with service() as (port, _), grpcio(port) as channel:
            stream: Any = channel.stream_stream(f"/{reflection}/ServerReflectionInfo")()

            async def ask(**what: bytes) -> Any:
                await stream.write(ASK["Request"](**what).SerializeToString())
                return ASK["Response"].FromString(await stream.read())

            names = {entry.name.decode() for entry in (await ask()).services.service}
            assert {name, HEALTH} <= names
            # What a client does: a file, then those that it needs.
            pool, files = DescriptorPool(), {}
            missing = {(symbol, "containing_symbol") for symbol in names}
            while missing:
                wanted, how = missing.pop()
                (data,) = (await ask(**{how: wanted.encode()})).files.file
                file = FileDescriptorProto.FromString(data)
                files[file.name] = file
                missing |= {(needed, "by_filename") for needed in file.dependency if needed not in files}

            def add(file: FileDescriptorProto) -> None:
                with contextlib.suppress(KeyError):
                    pool.FindFileByName(file.name)
                    return
                for needed in file.dependency:
                    add(files[needed])
                pool.Add(file)

            for file in files.values():
                add(file)
            for service_name in names:
                methods = pool.FindServiceByName(service_name).methods
                assert all(method.input_type.full_name.endswith("Request") for method in methods)
            for wrong in ({"containing_symbol": b"no.such"}, {"by_filename": b"none"}, {"extension": b"x"}):
                assert (await ask(**wrong)).error.code == 5
            assert (await ask(containing_symbol=b"\xff")).error.code == 3
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF

    run(main())


def test_watchers_that_leave_cost_nothing() -> None:
    async def main() -> None:
        async with ext_proc() as (port, _):
            before = len(asyncio.all_tasks())
            async with grpcio(port) as channel:
                for _ in range(20):
                    watching: Any = channel.unary_stream(f"/{HEALTH}/Watch")(b"")
                    assert await watching.read() == NOT_SERVING
                    watching.cancel()
                check: Any = channel.unary_unary(f"/{HEALTH}/Check")
                while len(asyncio.all_tasks()) > before + 1:
                    assert await check(b"") == NOT_SERVING

    run(main())
