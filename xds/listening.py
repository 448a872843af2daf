"""The setup of grpcio for xDS: listening addresses, certificates, health checks and reflection."""

from __future__ import annotations

import concurrent.futures
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from rejoinder.transport import tls, unix
from rejoinder.transport.addresses import parse
from rejoinder.transport.standard import HEALTH, REFLECTION, Standard


def listen(server: grpc.aio.Server, address: str, files: tls.Files | None = None, mode: int = unix.MODE) -> int:
    """Make a server listen as soon as it is started.

    Args:
        server: not started yet.
        address: `HOST:PORT`, IPv6 in brackets; port 0: any free one. `unix:/PATH`: a Unix socket.
        files: for TLS, where the address is no Unix socket.
        mode: of a Unix socket.

    Returns:
        The port; of a Unix socket, some number.

    Raises:
        OSError: the address is in use or not this machine's, or the files cannot be used; the text says which. Use
            another address.
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
    def check(pem: tls.Pem) -> None:  # BoringSSL takes less than OpenSSL, and says so when a server is to listen alone
        certificate, key, client_ca = pem
        trial = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
        try:
            credentials = grpc.ssl_server_credentials([(key, certificate)], client_ca, client_ca is not None)
            trial.add_secure_port(f"unix-abstract:rejoinder-{secrets.token_hex(8)}", credentials)
            trial.start()  # it does not let go of its socket otherwise
        except RuntimeError:
            what = " and ".join(str(path) for path in (files.certificate, files.client_ca) if path)
            known = "a key of Ed448 or RSA-PSS, a byte order mark"
            raise OSError(f"expected a certificate that gRPC can use in {what} (it cannot: {known})") from None
        finally:
            trial.stop(None)

    current = tls.Current(files, check)

    def configuration() -> Any:
        certificate, key, client_ca = current.pem
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)

    def fetch() -> Any:  # called by one of gRPC's threads whenever a client connects; None: no change
        return configuration() if current.refresh() else None

    return grpc.dynamic_ssl_server_credentials(
        configuration(), fetch, require_client_authentication=files.client_ca is not None
    )


def handlers(standard: Standard) -> dict[str, dict[str, Any]]:
    """The handlers of each service, by method name."""

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
