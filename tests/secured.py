"""Rules, Envoys and certificates for the tests of TLS and Unix sockets."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from authorities import Authority, Mount
from command_line import get
from gateway import Upstream, free_port, free_ports
from machine import SECONDS

from rejoinder import envoy
from rejoinder.cli import main
from rejoinder.envoy.module import library
from rejoinder.transport.addresses import Tcp, show

PLACEMENTS = pytest.mark.parametrize("placement", ["module", "ext_proc"])


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(name="upstream")
def _upstream() -> Iterator[Upstream]:
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
        certificates = set()
        for address in addresses or (self.xds, self.ext_proc, self.admin):
            with socket.create_connection(address, SECONDS) as plain:
                context.set_alpn_protocols(["http/1.1" if address is self.admin else "h2"])
                with context.wrap_socket(plain, server_hostname="localhost") as secured:
                    certificates.add(secured.getpeercert(binary_form=True))
        return certificates
