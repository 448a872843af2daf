"""TLS on both sides: to an upstream whose certificate is verified, and from clients, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from gateway import Gateway, free_port, ruleset
from machine import SECONDS

from rejoinder.cli import main
from rejoinder.xds.events import Accepted


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate that vouches for itself, and its key."""
    made = folder / f"{name}.crt", folder / f"{name}.key"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1"
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run(
        [*command.split(), *names, "-out", str(made[0]), "-keyout", str(made[1])], check=True, capture_output=True
    )
    return made


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "6")
        self.end_headers()
        self.wfile.write(b"secret")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def secure_upstream(tmp_path: Path) -> Iterator[int]:
    """The port of an HTTPS server whose certificate is for `localhost`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate(tmp_path, "localhost"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("host", "trusted", "status"),
    [
        pytest.param("localhost", "localhost", 200, id="the right name, vouched for"),
        pytest.param("127.0.0.1", "localhost", 503, id="another name"),
        pytest.param("localhost", "somebody-else", 503, id="nobody vouches for it"),
    ],
)
def test_an_upstreams_certificate_is_verified(
    gateway: Gateway, tmp_path: Path, secure_upstream: int, host: str, trusted: str, status: int
) -> None:
    certificate(tmp_path, "somebody-else")
    gateway.trusted_ca = str(tmp_path / f"{trusted}.crt")
    file = tmp_path / "rules.yaml"
    file.write_text(f"upstreams: {{up: 'https://{host}:{secure_upstream}'}}\nroutes: [{{name: all, upstream: up}}]\n")
    gateway.apply(ruleset(file))
    # Envoy looks the host up before it has the cluster.
    gateway.wait_for(lambda: gateway.ask("GET", "a.test", "/").status == status)


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
def test_clients_are_served_over_tls(gateway: Gateway, tmp_path: Path, http2: bool) -> None:
    certificate(tmp_path, "localhost")
    port = free_port()
    file = tmp_path / "rules.yaml"
    file.write_text(
        f"listen: {{address: '127.0.0.1:{port}', certificate: localhost.crt, key: localhost.key}}\n"
        "rules: [{name: a, body: over tls}]\n"
    )
    rules = ruleset(file)
    event = gateway.publish(gateway.build(rules, rules.listeners))
    assert isinstance(event, Accepted), event
    trust = ssl.create_default_context(cafile=str(tmp_path / "localhost.crt"))

    def served() -> bool:
        try:
            with httpx.Client(http1=not http2, http2=http2, verify=trust, trust_env=False, timeout=SECONDS) as client:
                response = client.get(f"https://localhost:{port}/")
        except httpx.ConnectError:
            return False
        assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        return response.text == "over tls"

    gateway.wait_for(served)
    gateway.apply(replace(rules, listeners=()))  # as it was for the next test


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("listen: {address: '127.0.0.1:1', certificate: localhost.crt, key: localhost.key}", True),
        ("upstreams: {a: {urls: 'https://a', tls: {certificate: localhost.crt, key: localhost.key}}}", True),
        ("upstreams: {a: {urls: 'https://a', tls: {ca: localhost.crt}}}", False),
    ],
)
def test_render_says_that_it_prints_private_keys(
    tmp_path: Path, text: str, keys: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate(tmp_path, "localhost")
    (tmp_path / "rules.yaml").write_text(text)
    assert main(["render", str(tmp_path / "rules.yaml")]) == 0
    assert ("private keys" in capsys.readouterr().err) is keys
