"""How services are reached: TLS with client certificates, and Unix sockets, with a real Envoy; and who is kept out."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import pytest
import yaml
from authorities import Authority, Mount
from command_line import Command, get, wait_for
from gateway import Upstream, free_port, free_ports
from loops import running
from machine import SECONDS, ask, children, tcp_ports

from rejoinder import envoy
from rejoinder.cli import admin, main
from rejoinder.cli.arguments import parser
from rejoinder.cli.transport import told
from rejoinder.envoy.module import library
from rejoinder.extproc import grpc as extproc_grpc
from rejoinder.extproc.server import SERVICE
from rejoinder.rules.load import load
from rejoinder.transport import tls, unix
from rejoinder.transport.addresses import Tcp, nth, parse, show
from rejoinder.xds.protobuf import encoder
from rejoinder.xds.server import ADS

PLACEMENTS = pytest.mark.parametrize("placement", ["module", "ext_proc"])


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    with contextlib.closing(made):
        yield made


def rules(upstream: Upstream) -> Tcp:
    """Write a rule file; where Envoy listens."""
    address = ("127.0.0.1", free_port())
    Path("rules.yaml").write_text(
        f"listen: {show(address)}\n"
        f"upstreams: {{up: 'http://{show(upstream.address)}'}}\n"
        "routes: [{name: all, upstream: up}]\n"
        "rules:\n- {name: mock, match: {path: /mock}, body: mock}\n"
        "- {name: busy, enable_on_status: [503], body: busy}\n"
    )
    return address


def answers(address: Tcp) -> bool:
    """From the route, and from module or ext_proc."""
    return get(address, "/mock").body == b"mock" and get(address, "/", ("x-status", "503")).body == b"busy"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["bootstrap", *arguments]) == 0
    return capsys.readouterr().out


@contextlib.contextmanager
def running_envoy(config: str, name: str = "envoy") -> Iterator[envoy.Admin]:
    """An Envoy with a printed bootstrap."""
    bootstrap = yaml.safe_load(config)
    bootstrap["admin"] = {"address": {"pipe": {"path": str(Path(f"{name}.admin").absolute())}}}
    Path(f"{name}.yaml").write_text(yaml.safe_dump(bootstrap))
    command = [str(envoy.find().path), "-c", f"{name}.yaml", "--disable-hot-restart", "--concurrency", "1"]
    environ = {"ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(library.LIBRARY.parent)}
    with (
        Path(f"{name}.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environ) as process,
    ):
        try:
            yield envoy.Admin(Path(f"{name}.admin").absolute())
        finally:
            process.terminate()
            process.wait(SECONDS)


# --- TLS ---


class Secured:
    """A `serve` that wants client certificates, and what its Envoys have."""

    def __init__(self, folder: Path, *more: str) -> None:
        self.authority = Authority(folder)
        self.ours, self.theirs = (Mount(folder / name, self.authority, self.authority) for name in ("ours", "theirs"))
        self.xds, self.admin, self.ext_proc = (("127.0.0.1", port) for port in free_ports())
        self.envoy = ("--envoy-ca", f"{folder}/ca.yaml", "--envoy-cert", f"{folder}/cert.yaml")
        self.arguments = (
            *("serve", "rules.yaml", "--xds", show(self.xds), "--ext-proc", show(self.ext_proc)),
            *("--admin", show(self.admin), "--tls-cert", str(self.ours.certificate), "--tls-key", str(self.ours.key)),
            *("--tls-client-ca", str(self.ours.ca), *self.envoy, *more),
        )

    def print_secrets(self, capsys: pytest.CaptureFixture[str]) -> None:
        pair = ("--envoy-cert", str(self.theirs.certificate), "--envoy-key", str(self.theirs.key))
        Path("cert.yaml").write_text(printed(capsys, "secret", *pair))
        Path("ca.yaml").write_text(printed(capsys, "secret", "--envoy-ca", str(self.theirs.ca)))

    def pem(self) -> tuple[str, ...]:
        """The same as `envoy` without the files that Envoy would follow."""
        certificate, key = self.authority.sign("envoy")
        return "--envoy-ca", str(self.authority.certificate), "--envoy-cert", str(certificate), "--envoy-key", str(key)

    def context(self, authority: Authority | None = None, *, certified: bool = True) -> ssl.SSLContext:
        """Of a client that trusts an authority, and has a certificate of it."""
        authority = authority or self.authority
        context = ssl.create_default_context(cafile=str(authority.certificate))
        if certified:
            context.load_cert_chain(*authority.sign("client"))
        return context

    def shown(self, context: ssl.SSLContext, *addresses: Tcp) -> set[bytes | None]:
        """The certificates that a service shows."""
        found = set()
        for address in addresses or (self.xds, self.ext_proc, self.admin):
            with socket.create_connection(address, SECONDS) as plain:
                context.set_alpn_protocols(["http/1.1" if address is self.admin else "h2"])
                with context.wrap_socket(plain, server_hostname="localhost") as secured:
                    found.add(secured.getpeercert(binary_form=True))
        return found


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
        for path in ("/", "/status", "/metrics", "/api/rules", "/none"):
            known = 404 if path == "/none" else 200
            assert _status(secured.admin, path, somebody) == known
            assert _status(secured.admin, path, nobody) == (known if lenient else 403)
        for path in ("/healthz", "/readyz"):
            assert _status(secured.admin, path, nobody) == 200
        with pytest.raises((ssl.SSLError, ConnectionError)):
            _status(secured.admin, "/healthz", _wrong(secured, Authority(tmp_path)))


def _wrong(secured: Secured, other: Authority) -> ssl.SSLContext:
    context = secured.context(certified=False)
    context.load_cert_chain(*other.sign("client"))
    return context


def test_connections_that_do_not_agree_on_tls_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "IDLE_SECONDS", 0.3)
    certificate, key = Authority(tmp_path).sign("server")
    context = tls.Reloading(tls.Files(certificate, key))
    serving = admin.serving(("127.0.0.1", 0), admin.application({}), context)
    with running(serving) as address, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(address, SECONDS)) for _ in range(40)]
        for each in silent:
            with contextlib.suppress(ConnectionError):
                assert each.recv(1) == b""


def test_ext_proc_waits_for_tls_for_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extproc_grpc, "HANDSHAKE_SECONDS", 0.3)

    async def main() -> None:
        server = extproc_grpc.Server({}, tls=tls.Reloading(tls.Files(*Authority(tmp_path).sign("server"))))
        reader, writer = await asyncio.open_connection("127.0.0.1", await server.listen("127.0.0.1:0"))
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
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


# --- Unix sockets ---


@PLACEMENTS
def test_everything_goes_over_unix_sockets(
    tmp_path: Path, upstream: Upstream, capsys: pytest.CaptureFixture[str], placement: str
) -> None:
    address = rules(upstream)
    sockets = {name: tmp_path / name for name in ("xds", "ext_proc", "admin")}
    xds, ext_proc, admin = (show(path) for path in sockets.values())
    words = ("serve", "rules.yaml", "--xds", xds, "--ext-proc", ext_proc, "--admin", admin, "--workers", "2")
    with Command(*words, "--conditional", placement) as first:
        first.wait_until_said("serving: ")
        paths = [*sockets.values(), tmp_path / "ext_proc.1"]
        assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o600] * 4
        assert tcp_ports([first.process.pid, *children(first.process.pid)]) == set()
        with Command(*words) as second:  # somebody lives there
            assert second.ended() == 1
        (line,) = second.err
        assert line.endswith(f"Z error rejoinder: cannot listen on {ext_proc}: somebody listens there already\n")
        first.process.kill()
        assert first.ended() == -signal.SIGKILL
    assert all(path.exists() for path in paths)  # nobody is left to take them away
    with (
        Command(*words, "--conditional", placement, "--socket-mode", "660") as serve,
        running_envoy(printed(capsys, "ads", "--xds", xds)),
    ):
        wait_for(lambda: answers(address), serve.process)
        assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o660] * 4
        (status,) = json.loads(page(sockets["admin"], "/status"))["envoys"]
        assert status["version"] == status["target"]


def page(path: Path, what: str) -> bytes:
    """Of the admin interface on a Unix socket."""
    connection = http.client.HTTPConnection("anything.test")
    with contextlib.closing(connection):
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        connection.request("GET", what)
        response = connection.getresponse()
        assert response.status == 200
        return response.read()


def test_a_unix_socket_beside_tls_asks_for_no_certificate(tmp_path: Path, upstream: Upstream) -> None:
    rules(upstream)
    with Command(*Secured(tmp_path, "--admin", f"unix:{tmp_path}/admin").arguments) as serve:
        serve.wait_until_said("serving: ")
        assert page(tmp_path / "admin", "/readyz") == b"ok\n"
        assert json.loads(page(tmp_path / "admin", "/status"))["problems"] == []


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OSError, match=r"cannot listen on unix:.*file: a file that is no socket is there"):
        unix.listen(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(OSError, match=r"cannot listen on unix:.*: No such file or directory"):
        unix.listen(tmp_path / "none" / "socket")


def test_a_socket_whose_owner_is_busy_is_alive(tmp_path: Path) -> None:
    with unix.listen(tmp_path / "s", backlog=0), contextlib.ExitStack() as stack:
        for _ in range(2):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(str(tmp_path / "s"))
        with pytest.raises(OSError, match="somebody listens there already"):
            unix.listen(tmp_path / "s")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]:2", ("::1", 2)),
        ("unix:/run/x", Path("/run/x")),
        ("unix:/" + "x" * 106, Path("/" + "x" * 106)),
    ],
)
def test_addresses_are_read_as_they_are_shown(text: str, address: Any) -> None:
    assert parse(text) == address
    assert show(address) == text


@pytest.mark.parametrize("text", ["x", "unix:", "unix:x", "unix://", "unix:/" + "x" * 107, "/run/x"])
def test_what_is_no_address(text: str) -> None:
    if text == "unix://":
        assert parse(text) == Path("//")  # a folder, as listening will find
    else:
        with pytest.raises(ValueError, match="expected "):
            parse(text)


def test_several_processes_have_addresses_behind_each_other() -> None:
    assert [nth(("a", 0), 1), nth(("a", 5), 1)] == [("a", 0), ("a", 6)]
    assert [nth(Path("/a/b"), at) for at in range(2)] == [Path("/a/b"), Path("/a/b.1")]


# --- who is let in ---

TLS: Final = ["--tls-cert", "c", "--tls-key", "k"]
CLIENTS: Final = ["--tls-client-ca", "a", "--envoy-ca", "/e"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--xds", "0.0.0.0:1"], "--xds 0.0.0.0:1: whoever reaches that address would be let in: say --tls-cert, .*"),
        (["--ext-proc", "[::]:1"], r"--ext-proc \[::\]:1: whoever reaches .* or listen on unix:.*; or say --insecure"),
        (["--xds", "box.test:1"], "--xds box.test:1: .*"),
        ([*TLS, "--envoy-ca", "/e"], ".*expected --tls-client-ca, too.* or --insecure"),
        ([*TLS, "--tls-client-ca", "a"], ".*expected --envoy-ca and --envoy-cert, too.*"),
        (["--tls-cert", "c"], "expected --tls-cert and --tls-key together.*"),
        (["--tls-client-ca", "a"], "expected --tls-cert and --tls-key together.*"),
        ([*TLS, *CLIENTS, "--envoy-cert", "/x.pem"], "--envoy-key: expected with --envoy-cert in PEM.*"),
        (["--envoy-cert", "/x.yaml"], "expected --envoy-ca beside.*"),
        ([*TLS, *CLIENTS], ".*No such file or directory: 'c'"),
    ],
)
def test_serve_says_what_is_missing_before_it_lets_anybody_in(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rules.yaml").write_text("rules: [{name: a, body: x}]\n")
    free = ["--xds", "127.0.0.1:0", "--ext-proc", "127.0.0.1:0"]
    assert main(["serve", "rules.yaml", *free, *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(rf"\S+Z error rejoinder: {message}", line), line


def test_insecure_is_let_listen_anywhere() -> None:
    Path("rules.yaml").write_text("rules: [{name: a, body: x}]\n")
    anywhere = ("--xds", "0.0.0.0:0", "--ext-proc", "0.0.0.0:0")
    with Command("serve", "rules.yaml", *anywhere, "--insecure") as serve:
        serve.wait_until_said("serving: ")


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        pytest.param([], True, id="this machine"),
        pytest.param(["--xds", "unix:/x"], True, id="a Unix socket"),
        pytest.param(["--xds", "0.0.0.0:1", *TLS, *CLIENTS], True, id="client certificates"),
        pytest.param(["--xds", "0.0.0.0:1", "--insecure"], False, id="anybody"),
        pytest.param(["--xds", "0.0.0.0:1", *TLS, "--insecure"], False, id="anybody over TLS"),
        pytest.param(["--xds", "0.0.0.0:1", "--insecure", "--insecure-keys"], True, id="anybody, as somebody wants"),
    ],
)
def test_private_keys_are_for_those_who_have_shown_who_they_are(
    tmp_path: Path, words: list[str], keys: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate, key = Authority(tmp_path).sign("localhost")
    pair = f"certificate: {certificate}, key: {key}"
    Path("rules.yaml").write_text(
        f"listen: [{{address: '127.0.0.1:1', {pair}}}, '127.0.0.1:2']\n"
        f"upstreams: {{up: {{urls: 'https://up.test', tls: {{{pair}}}}}}}\n"
    )
    ruleset = load([Path("rules.yaml")]).ruleset
    assert ruleset is not None
    found = told(parser().parse_args(["serve", "rules.yaml", *words]))(ruleset)
    assert (found == ruleset) is keys
    assert [listener.port for listener in found.listeners] == ([1, 2] if keys else [2])
    assert (found.upstreams[0].tls_options.key is None) is not keys
    said = capsys.readouterr().err.splitlines()
    assert len(said) == (0 if keys else 2)
    if not keys:
        assert said[0].startswith("the listener 127.0.0.1:1 is left out: its private key is not told to Envoys that")
        assert said[1].startswith('upstream "up" gets no client certificate: ')


# --- what probes are told ---


def test_readiness_is_that_there_is_a_configuration_and_says_why_not() -> None:
    xds, admin, ext_proc = (("127.0.0.1", port) for port in free_ports())
    Path("rules.yaml").write_text("rules: [{name: a, boddy: x}]\n")
    words = ("--xds", show(xds), "--ext-proc", show(ext_proc), "--admin", show(admin))
    with Command("serve", "rules.yaml", *words) as serve:
        serve.wait_until_said("serving: ")
        assert ask(admin, "GET", "localhost", "/healthz").body == b"ok\n"
        unready = ask(admin, "GET", "localhost", "/readyz")
        assert unready.status == 503
        assert unready.body.startswith(b"the files cannot be used\nrules.yaml:1: ")
        Path("rules.yaml").write_text("rules: [{name: a, body: x}]\n")
        wait_for(lambda: ask(admin, "GET", "localhost", "/readyz").status == 200, serve.process)
        Path("rules.yaml").write_text("rules: [{name: a, boddy: x}]\n")
        serve.wait_until_said("not reloaded")
        assert ask(admin, "GET", "localhost", "/readyz").body == b"ok\n"  # with what it had


# --- what is printed for Envoy ---

PEM: Final = ["--envoy-ca", "/x/ca.crt", "--envoy-cert", "/x/tls.crt", "--envoy-key", "/x/tls.key"]
FOLLOWED: Final = ["--envoy-ca", "/x/ca.yaml", "--envoy-cert", "/x/cert.json"]


def clusters(capsys: pytest.CaptureFixture[str], *words: str) -> list[Any]:
    assert main(words) == 0
    found = []
    for part in yaml.safe_load_all(capsys.readouterr().out.replace("\n\n", "\n---\n")):
        resources = part.get("static_resources", {}) if isinstance(part, dict) else {"clusters": part}
        found += [each for each in resources.get("clusters", ()) if each["name"].startswith("rejoinder_")]
    return found


@pytest.mark.parametrize("tls", [PEM, FOLLOWED], ids=["PEM", "SDS"])
@pytest.mark.parametrize(
    ("how", "names"),
    [
        ("bootstrap ads", ["rejoinder_xds"]),
        ("bootstrap ext_proc rules.yaml", ["rejoinder_ext_proc"]),
        ("bootstrap ext_proc", ["rejoinder_xds", "rejoinder_ext_proc"]),
        ("bootstrap module", ["rejoinder_xds"]),
        ("render rules.yaml", ["rejoinder_ext_proc"]),
    ],
)
def test_whatever_is_printed_has_tls(
    how: str, names: list[str], tls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rules.yaml").write_text("rules: [{name: a, enable_on_status: [503], body: x}]\n")
    found = clusters(capsys, *how.split(), *tls, "--tls-server-name", "box.test")
    assert [each["name"] for each in found] == names
    for each in found:
        context = each["transport_socket"]["typed_config"]
        assert context["sni"] == "box.test"
        encoder("envoy.config.cluster.v3.Cluster")(each)  # such a message
    places = [*(["--xds", "unix:/x/xds"] if "bootstrap" in how else []), "--ext-proc-advertise", "unix:/x/ext_proc"]
    for each in clusters(capsys, *how.split(), *tls, *places):
        assert "transport_socket" not in each
        (endpoint,) = each["load_assignment"]["endpoints"][0]["lb_endpoints"]
        assert endpoint["endpoint"]["address"]["pipe"]["path"] == each["name"].replace("rejoinder_", "/x/")


@pytest.mark.parametrize(
    ("host", "sni", "verified"),
    [
        ("box.test", "box.test", {"san_type": "DNS", "matcher": {"exact": "box.test"}}),
        ("10.1.2.3", None, {"san_type": "IP_ADDRESS", "matcher": {"exact": "10.1.2.3"}}),
    ],
)
def test_envoy_verifies_the_name_or_address_that_it_connects_to(
    host: str, sni: str | None, verified: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (cluster,) = clusters(capsys, "bootstrap", "ads", "--xds", f"{host}:1", *PEM)
    context = cluster["transport_socket"]["typed_config"]
    assert context.get("sni") == sni
    assert context["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"] == [verified]


def test_a_service_with_another_name_is_told_nothing(
    tmp_path: Path, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    secured = Secured(tmp_path)
    rules(upstream)
    words = (*secured.pem(), "--tls-server-name", "box.test")
    config = printed(capsys, "ads", "--xds", show(secured.xds), *words)
    with Command(*secured.arguments) as serve, running_envoy(config) as admin:
        name = "cluster.rejoinder_xds.ssl.fail_verify_san"
        wait_for(lambda: asyncio.run(admin.stats(name))[name] > 1, serve.process)
        assert not serve.said("has connected")


@pytest.mark.parametrize("words", [[], PEM, ["--envoy-cert", "/x/a"]])
def test_a_secret_is_of_one_kind(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bootstrap", "secret", *words]) == 1
    assert "expected --envoy-cert and --envoy-key, or --envoy-ca" in capsys.readouterr().err
