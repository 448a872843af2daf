"""An upstream of `chaos.py`: python bench/chaos_upstream.py NAME PORT"""

from __future__ import annotations

import asyncio
import contextlib
import sys


def upstream_headers(name: str) -> tuple[tuple[str, str], ...]:
    return (("x-from", name), ("etag", '"1"'), ("content-type", "text/html"))


async def upstream(name: str, port: int) -> None:
    """An upstream: answers with the status that a request's `x-status` says."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError), contextlib.closing(writer):
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
                method, target, _ = first.split(" ")
                status = dict(line.lower().split(": ", 1) for line in lines).get("x-status", "200")
                body = f"{name} {target}".encode()
                headers = (*upstream_headers(name), ("content-length", str(len(body))))
                head = "".join(f"{key}: {value}\r\n" for key, value in headers)
                writer.write(f"HTTP/1.1 {status} Some\r\n{head}\r\n".encode() + (b"" if method == "HEAD" else body))

    async with await asyncio.start_server(serve, "127.0.0.1", port, backlog=1000) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(upstream(sys.argv[1], int(sys.argv[2])))
