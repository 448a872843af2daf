"""How services are reached: TLS with client certificates, and Unix sockets, with a real Envoy; and who is kept out."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from authorities import Authority, Mount
from command_line import Command, wait_for
from gateway import Upstream
from loops import running
from machine import SECONDS, children
from secured import (
    PLACEMENTS,
    Secured,
    _in_a_folder_of_its_own,  # noqa: F401 - a fixture
    _upstream,  # noqa: F401 - a fixture
    answers,
    printed,
    rules,
    running_envoy,
)

from rejoinder.cli import admin
from rejoinder.extproc import grpc as extproc_grpc
from rejoinder.extproc.server import SERVICE
from rejoinder.transport import accepting, tls
from rejoinder.transport.addresses import Tcp, show
from rejoinder.xds.server import ADS, Server


async def _read(address: Tcp, service: str, method: str, credentials: grpc.ChannelCredentials | None) -> Any:
    where = f"localhost:{address[1]}"
    channel: Any = grpc.aio.secure_channel(where, credentials) if credentials else grpc.aio.insecure_channel(where)
    async with channel:
        stream = channel.stream_stream(f"/{service}/{method}")()
        with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
            await stream.write(b"")
        return await stream.code()


@PLACEMENTS
def test_an_envoy_with_a_certificate_has_its_configuration_and_one_without_has_nothing(
    tmp_path: Path, upstream: Upstream, capsys: pytest.CaptureFixture[str], placement: str
) -> None:
    secured = Secured(tmp_path, "--conditional", placement)
    secured.print_secrets(capsys)
    address = rules(upstream)
    where = ("ads", "--xds", show(secured.xds))
    theirs = secured.envoy if placement == "ext_proc" else secured.pem()
    welcome, stranger = printed(capsys, *where, *theirs), printed(capsys, *where, *secured.envoy[:2])
    with Command(*secured.arguments) as serve, running_envoy(stranger, "stranger") as admin:
        serve.wait_until_said("serving: ")

        def stat(name: str) -> int:
            return asyncio.run(admin.stats(name)).get(name, 0)

        wait_for(lambda: stat("cluster.rejoinder_xds.upstream_cx_destroy") > 2, serve.process)  # it tries and tries
        assert stat("listener_manager.lds.update_success") == stat("cluster_manager.cds.update_success") == 0
        with running_envoy(welcome):
            wait_for(lambda: answers(address), serve.process)
        roots = secured.authority.certificate.read_bytes()
        other = Authority(tmp_path)
        certificate, key = (path.read_bytes() for path in other.sign("client"))
        for credentials in (
            None,
            grpc.ssl_channel_credentials(roots),
            grpc.ssl_channel_credentials(roots, key, certificate),
        ):
            for place, service, method in (
                (secured.xds, ADS, "StreamAggregatedResources"),
                (secured.ext_proc, SERVICE, "Process"),
            ):
                code = asyncio.run(_read(place, service, method, credentials))
                assert code is grpc.StatusCode.UNAVAILABLE
        why = ": TLS handshake failed: peer did not return a certificate"
        wait_for(lambda: serve.said(why) and serve.said("failed: certificate verify failed: "), serve.process)
        (connected,) = {line for line in serve.err if "has connected" in line}
        assert "Envoy 1.40" in connected


def test_certificates_are_replaced_without_a_restart(
    tmp_path: Path, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    secured = Secured(tmp_path, "--conditional", "ext_proc")
    secured.print_secrets(capsys)
    address = rules(upstream)
    config = printed(capsys, "ads", "--xds", show(secured.xds), *secured.envoy)
    with Command(*secured.arguments) as serve, running_envoy(config) as admin:
        wait_for(lambda: answers(address), serve.process)
        ours = {ssl.PEM_cert_to_DER_cert(secured.ours.certificate.read_text())}
        client = secured.context()
        assert secured.shown(client) == ours
        # Another certificate by the same authority, then half of a third one, and other authorities throughout.
        secured.ours.replace(secured.authority, secured.authority)
        renewed = {ssl.PEM_cert_to_DER_cert(secured.ours.certificate.read_text())}
        assert secured.shown(client) == renewed != ours
        data = secured.ours.folder / "..data"
        whole = (data / "tls.key").read_bytes()
        (data / "tls.key").write_bytes(b"half")
        assert secured.shown(client) == renewed
        (data / "tls.key").write_bytes(whole)
        other = Authority(tmp_path)
        secured.theirs.replace(other, other)
        secured.ours.replace(other, other)
        assert secured.shown(secured.context(other)) == {ssl.PEM_cert_to_DER_cert(secured.ours.certificate.read_text())}
        with pytest.raises(ssl.SSLError):
            secured.shown(client, secured.xds)
        gone = _credentials(secured.authority, other)
        assert asyncio.run(_read(secured.xds, ADS, "StreamAggregatedResources", gone)) is grpc.StatusCode.UNAVAILABLE
        # The connection of before has lasted; new ones are made with what is new, on both sides.
        assert len([line for line in serve.err if "has connected" in line]) == 1
        assert answers(address)
        for pid in children(serve.process.pid):
            if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)
        made = "cluster.rejoinder_ext_proc.upstream_cx_total"
        wait_for(lambda: answers(address) and asyncio.run(admin.stats(made))[made] > 1, serve.process)


def _credentials(of: Authority, trusted: Authority) -> grpc.ChannelCredentials:
    certificate, key = of.sign("client")
    return grpc.ssl_channel_credentials(trusted.certificate.read_bytes(), key.read_bytes(), certificate.read_bytes())


def _status(address: Tcp, path: str, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection(*address, timeout=SECONDS, context=context)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


@pytest.mark.parametrize("lenient", [False, True], ids=["certificates", "no certificates"])
def test_the_console_wants_certificates_but_for_probes(tmp_path: Path, upstream: Upstream, lenient: bool) -> None:
    secured = Secured(tmp_path, *(["--admin-no-client-cert"] if lenient else []))
    rules(upstream)
    with Command(*secured.arguments) as serve:
        serve.wait_until_said("serving: ")
        assert serve.said(f"console at https://{show(secured.admin)}/")
        nobody, somebody = secured.context(certified=False), secured.context()
        for path in ("/", "/status", "/metrics", "/api/rules", "/none%0Aforged"):
            known = 404 if "none" in path else 200
            assert _status(secured.admin, path, somebody) == known
            assert _status(secured.admin, path, nobody) == (known if lenient else 403)
        for path in ("/healthz", "/readyz"):
            assert _status(secured.admin, path, nobody) == 200
        with pytest.raises((ssl.SSLError, ConnectionError)):
            _status(secured.admin, "/healthz", _wrong(secured, Authority(tmp_path)))
        wait_for(
            lambda: serve.said("warning peer 127.0.0.1:") and serve.said(": TLS handshake failed: "), serve.process
        )
        assert serve.said("127.0.0.1 asks for /status without a client certificate") is not lenient
        assert not any(line.startswith("forged") for line in serve.err)


def _wrong(secured: Secured, other: Authority) -> ssl.SSLContext:
    context = secured.context(certified=False)
    context.load_cert_chain(*other.sign("client"))
    return context


def test_connections_that_do_not_agree_on_tls_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "HANDSHAKE_SECONDS", 0.3)
    certificate, key = Authority(tmp_path).sign("server")
    context = tls.Reloading(tls.Files(certificate, key))
    serving = admin.serving(("127.0.0.1", 0), admin.application([]), context)
    with running(serving) as address, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(address, SECONDS)) for _ in range(40)]
        for client in silent:
            with contextlib.suppress(ConnectionError):
                assert client.recv(1) == b""


def test_ext_proc_waits_for_tls_for_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "HANDSHAKE_SECONDS", 0.3)

    async def main() -> None:
        server = extproc_grpc.Server({}, tls=tls.Reloading(tls.Files(*Authority(tmp_path).sign("server"))))
        reader, writer = await asyncio.open_connection("127.0.0.1", await server.listen("127.0.0.1:0"))
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        await server.stop()

    asyncio.run(asyncio.wait_for(main(), SECONDS))


def test_however_many_do_not_agree_on_tls_others_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "MAX_HANDSHAKES", 8)
    monkeypatch.setattr(accepting, "HANDSHAKE_SECONDS", 10 * SECONDS)
    authority = Authority(tmp_path)
    client = ssl.create_default_context(cafile=authority.certificate)
    client.set_alpn_protocols(["h2"])

    async def main() -> None:
        server = extproc_grpc.Server({}, tls=tls.Reloading(tls.Files(*authority.sign("server"))))
        port = await server.listen("127.0.0.1:0")
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
        for reader, _ in silent[:32]:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        reader, writer = await asyncio.open_connection("localhost", port, ssl=client)
        assert await reader.read(9)  # settings
        for opened in (writer, *(writer for _, writer in silent)):
            opened.close()
        await server.stop()

    asyncio.run(asyncio.wait_for(main(), SECONDS))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("tls.key", b"", "its key, without a password, in .*tls.key", id="no key"),
        pytest.param("tls.key", None, "No such file.*tls.key", id="no file"),
        pytest.param("tls.crt", b"x", "expected a certificate in .*tls.crt", id="no certificate"),
        pytest.param("ca.crt", b"x", "expected certificates.*ca.crt", id="no authority"),
    ],
)
def test_files_that_cannot_be_used_are_an_error_that_names_them(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    authority = Authority(tmp_path)
    mount = Mount(tmp_path / "mount", authority, authority)
    file = mount.folder / "..data" / name
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(OSError, match=message):
        tls.Current(tls.Files(mount.certificate, mount.key, mount.ca))


def test_a_key_of_another_certificate_or_with_a_password_is_an_error(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    (one, _), (_, other) = authority.sign("a"), authority.sign("b")
    with pytest.raises(OSError, match="KEY_VALUES_MISMATCH"):
        tls.Current(tls.Files(one, other))
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "ec", "-in", str(other), "-aes128", "-passout", "pass:secret", "-out", str(locked)],
        check=True,
        capture_output=True,
    )
    with pytest.raises(OSError, match="without a password"):
        tls.Current(tls.Files(one, locked))


def test_a_key_that_grpc_cannot_use_is_an_error_that_names_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority, good, used = Authority(tmp_path), tmp_path / "tls.crt", tmp_path / "tls.key"
    bad = tmp_path / "ed448.crt", tmp_path / "ed448.key"
    command = f"openssl req -x509 -newkey ed448 -nodes -days 1 -subj /CN=a -out {bad[0]} -keyout {bad[1]}"
    subprocess.run(command.split(), check=True, capture_output=True)

    def put(certificate: Path, key: Path) -> bytes:
        good.write_bytes(certificate.read_bytes())
        used.write_bytes(key.read_bytes())
        return ssl.PEM_cert_to_DER_cert(certificate.read_text())

    context = ssl.create_default_context(cafile=authority.certificate)
    context.set_alpn_protocols(["h2"])

    async def shown(port: int) -> Any:
        _, writer = await asyncio.open_connection("localhost", port, ssl=context)
        writer.close()
        return writer.get_extra_info("ssl_object").getpeercert(binary_form=True)

    async def main() -> None:
        server, where = Server(), ("127.0.0.1:0", tls.Files(good, used))
        put(*bad)
        with pytest.raises(OSError, match=f"expected a certificate that gRPC can use in {good}"):
            await server.start(*where)
        before = put(*authority.sign("server"))
        port = await server.start(*where)
        put(*bad)
        for _ in range(3):
            assert await shown(port) == before
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "that gRPC can use" in caplog.text
        for _ in range(3):
            after = put(*authority.sign("server"))
            assert await shown(port) == after
        await server.stop()

    caplog.set_level("INFO", "rejoinder.tls")
    asyncio.run(main())
    assert caplog.text.count("new connections get what is now in") == 3
