"""How the gRPC services of this project come to a port."""

from __future__ import annotations

from pathlib import Path

import grpc.aio


def listen(server: grpc.aio.Server, address: str) -> int:
    """Have a server listen, once it is started.

    Args:
        server: not started yet.
        address: `HOST:PORT`, IPv6 in brackets; port 0: any free one. `unix:PATH`: a Unix socket for this user alone.

    Returns:
        The port; of a Unix socket, some number.

    Raises:
        OSError: the address is in use or not this machine's; the text says which address. Choose another.
    """
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: it is in use, or not this machine's") from error
    if address.startswith("unix:"):
        Path(address.removeprefix("unix:")).chmod(0o600)
    return port
