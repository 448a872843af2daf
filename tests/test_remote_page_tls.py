"""Pages of a service over TLS: whom Envoy and the ext_proc service believe, in all four ways."""

from __future__ import annotations

import contextlib
import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway import Gateway, ruleset
from machine import HttpServer

SIGNED: Final = {
    # name: (who signs it, what it is for, for how many days)
    "root": ("root", "basicConstraints=critical,CA:TRUE", 1),
    "between": ("root", "basicConstraints=critical,CA:TRUE", 1),
    "named": ("between", "subjectAltName=DNS:localhost", 1),
    "numbered": ("between", "subjectAltName=IP:127.0.0.1", 1),
    "expired": ("between", "subjectAltName=DNS:localhost", -1),
    "stranger": ("stranger", "basicConstraints=critical,CA:TRUE", 1),
}
ASKED: Final = {
    # what is asked: (the certificate that is shown, the URL's host, `tls`, whether there is a page)
    "by its name": ("named", "localhost", "ca: root.crt", True),
    "by an sni": ("named", "127.0.0.1", "ca: root.crt, sni: localhost", True),
    "by its address": ("numbered", "127.0.0.1", "ca: root.crt", True),
    "an authority between": ("named", "localhost", "ca: between.crt", True),
    "authorities with comments": ("named", "localhost", "ca: bundle.crt", True),
    "another sni": ("named", "localhost", "ca: root.crt, sni: other.test", False),
    "another name": ("numbered", "localhost", "ca: root.crt", False),
    "another address": ("named", "127.0.0.1", "ca: root.crt", False),
    "an expired one": ("expired", "localhost", "ca: root.crt", False),
    "other authorities": ("named", "localhost", "ca: stranger.crt", False),
    "nobody's": ("named", "localhost", "", False),
}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", "4")
        self.end_headers()
        self.wfile.write(b"page")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


def _certificates(folder: Path) -> None:
    def openssl(command: str, *more: str) -> None:
        subprocess.run(["openssl", *command.split(), *more], check=True, capture_output=True, cwd=folder)

    for name, (by, extension, days) in SIGNED.items():
        (folder / f"{name}.cnf").write_text(extension)
        key = f"-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key"
        openssl(f"req {key} -subj /CN={name} -out {name}.csr")
        signer = f"-signkey {name}.key" if by == name else f"-CA {by}.crt -CAkey {by}.key -CAcreateserial"
        openssl(f"x509 -req -in {name}.csr {signer} -days {days} -extfile {name}.cnf -out {name}.crt")
    (folder / "bundle.crt").write_text("# Főtanúsítvány\n" + (folder / "root.crt").read_text(), encoding="utf-8")


@contextlib.contextmanager
def _service(folder: Path, name: str) -> Iterator[int]:
    (folder / "chain.pem").write_bytes((folder / f"{name}.crt").read_bytes() + (folder / "between.crt").read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "chain.pem", folder / f"{name}.key")
    server = HttpServer(("127.0.0.1", 0), _Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_a_page_comes_from_whom_its_certificate_says_it_is(any_gateway: Gateway, tmp_path: Path) -> None:
    _certificates(tmp_path)
    with contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(_service(tmp_path, name)) for name in ("named", "numbered", "expired")}
        text = "upstreams:\n  up: builtin:echo\n"
        for at, (shown, host, tls, _) in enumerate(ASKED.values()):
            text += f"  s{at}: {{urls: 'https://{host}:{ports[shown]}', tls: {{{tls}}}}}\n"
        text += "routes: [{name: all, upstream: up}]\nrules:\n"
        for at in range(len(ASKED)):
            page = f"page: {{upstream: s{at}, timeout: 20s}}, body: own"
            text += f"  - {{name: r{at}, match: {{path: /{at}}}, enable_on_status: [503], {page}}}\n"
        (tmp_path / "rules.yaml").write_text(text)
        any_gateway.apply(ruleset(tmp_path / "rules.yaml"))
        # Twice, for connections that are kept are not those of other names.
        for _ in range(2):
            got = {
                case: any_gateway.ask("GET", "a.test", f"/{at}", [("x-status", "503")]).body
                for at, case in enumerate(ASKED)
            }
            assert got == {case: b"page" if comes else b"own" for case, (*_, comes) in ASKED.items()}
