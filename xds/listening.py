"""How the gRPC services of this project come to a port."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from rejoinder.transport import tls, unix
from rejoinder.transport.addresses import parse


def listen(server: grpc.aio.Server, address: str, files: tls.Files | None = None, mode: int = unix.MODE) -> int:
    """Have a server listen, once it is started.

    Args:
        server: not started yet.
        address: `HOST:PORT`, IPv6 in brackets; port 0: any free one. `unix:/PATH`: a Unix socket.
        files: for TLS, where the address is no Unix socket.
        mode: of a Unix socket.

    Returns:
        The port; of a Unix socket, some number.

    Raises:
        OSError: the address is in use or not this machine's, or the files cannot be used; the text says which. Choose
            another.
    """
    try:
        where = parse(address)
        if isinstance(where, Path):
            with unix.claimed(where, mode):
                return server.add_insecure_port(address)
        return server.add_secure_port(address, _credentials(files)) if files else server.add_insecure_port(address)
    except ValueError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
    except RuntimeError as error:
        why = "no socket can be there" if isinstance(where, Path) else "it is in use, or not this machine's"
        raise OSError(f"cannot listen on {address}: {why}") from error


def _credentials(files: tls.Files) -> grpc.ServerCredentials:
    current = tls.Current(files)

    def configuration() -> Any:
        certificate, key, client_ca = current.pem
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)

    def fetch() -> Any:  # whenever a client connects, by one of gRPC's threads; None: it is as before
        return configuration() if current.refresh() else None

    return grpc.dynamic_ssl_server_credentials(
        configuration(), fetch, require_client_authentication=files.client_ca is not None
    )
