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
    unix = address.startswith("unix:")
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        # https://man7.org/linux/man-pages/man7/unix.7.html: 108 bytes
        why = "no socket can be there, or its path is too long" if unix else "it is in use, or not this machine's"
        raise OSError(f"cannot listen on {address}: {why}") from error
    if unix:
        Path(address.removeprefix("unix:")).chmod(0o600)
    return port
