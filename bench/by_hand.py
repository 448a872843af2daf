"""An ext_proc service as one would write it by hand with grpc.aio: asked about every response, with generated message
classes. Other benchmarks compare with it; run directly, it prints its port and serves until it is killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
from envoys import SENT

from rejoinder.extproc.server import SERVICE
from rejoinder.rules.answers import Reply
from rejoinder.xds.protobuf import message_class

_Request: Any = message_class("envoy.service.ext_proc.v3.ProcessingRequest")
_Response: Any = message_class("envoy.service.ext_proc.v3.ProcessingResponse")


async def serve(sent: Reply) -> tuple[grpc.aio.Server, int]:
    """Answer every 503 with this, on a free port; the server, and the port."""

    async def process(requests: AsyncIterator[Any], _: Any) -> AsyncIterator[Any]:
        async for request in requests:
            response = _Response()
            headers = {header.key: header.raw_value for header in request.response_headers.headers.headers}
            if headers[":status"] == b"503":
                immediate = response.immediate_response
                immediate.status.code = sent.status
                for name, value in sent.headers:
                    option = immediate.headers.set_headers.add()
                    option.header.key, option.header.raw_value = name, value.encode()
                immediate.body = sent.body
            else:
                response.response_headers.SetInParent()
            yield response

    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(
        process, request_deserializer=_Request.FromString, response_serializer=_Response.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Process": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


async def main() -> None:
    server, port = await serve(SENT)
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
