"""The options about who may connect and how; `transport` says what they mean together.

Like `arguments`, it imports nothing that takes long.
"""

from __future__ import annotations

import argparse

from rejoinder.cli.values import parse_absolute, parse_mode, parse_path, parse_service

EXT_PROC = ("127.0.0.1", 18001)

PLACE = "HOST:PORT|unix:/PATH"


def add_admin(command: argparse.ArgumentParser) -> None:
    """Where the console is."""
    command.add_argument(
        "--admin",
        type=parse_service,
        metavar=PLACE,
        help="Rejoinder's own admin interface: the console (a page for a browser), /api, /status (JSON), /metrics "
        "(Prometheus), /healthz and /readyz (default: none)",
    )
    command.add_argument(
        "--admin-name",
        action="append",
        default=[],
        metavar="NAME",
        help="a host name under which --admin is reached, other than localhost (may be repeated)",
    )


def add_listening(command: argparse.ArgumentParser) -> None:
    """How `serve` is reached."""
    group = command.add_argument_group("who may connect", "to xDS, ext_proc and --admin; docs/security.md")
    for name, text in (
        ("cert", "speak TLS with this certificate (PEM), and follow the file when it changes"),
        ("key", "... and this key"),
        ("client-ca", "who connects has to show a certificate of these authorities (PEM)"),
    ):
        group.add_argument(f"--tls-{name}", type=parse_path, metavar="FILE", help=text)
    group.add_argument(
        "--admin-no-client-cert", action="store_true", help="... but not to --admin, where browsers come (still TLS)"
    )
    group.add_argument("--socket-mode", type=parse_mode, metavar="MODE", help="of Unix sockets (default 600)")
    add_insecure(group, "xDS, ext_proc and --admin")
    group.add_argument(
        "--insecure-keys", action="store_true", help="... and tell them the private keys of listeners and upstreams"
    )


def add_insecure(group: argparse._ActionsContainer, what: str) -> None:
    """That everybody is let in."""
    text = f"let everybody in who reaches {what}, on other addresses than loopback ones, too"
    group.add_argument("--insecure", action="store_true", help=text)


def add_envoy_side(command: argparse.ArgumentParser) -> None:
    """How Envoys reach `serve`."""
    group = command.add_argument_group(
        "how Envoy connects to xDS and ext_proc",
        "paths where Envoy runs; PEM, or a file of `rejoinder bootstrap secret` (.yaml), which Envoy follows",
    )
    for name, text in (
        ("ca", "with TLS: the authorities of the certificate of `serve`"),
        ("cert", "the certificate that Envoy shows"),
        ("key", "... and its key, if that is PEM"),
    ):
        group.add_argument(f"--envoy-{name}", type=parse_absolute, metavar="FILE", default="", help=text)
    group.add_argument(
        "--tls-server-name",
        metavar="NAME",
        default="",
        help="what the certificate of `serve` is for (default: the host that Envoy connects to)",
    )
    group.add_argument(
        "--ext-proc-advertise",
        type=parse_service,
        metavar=PLACE,
        help="where Envoy finds the ext_proc service (default: where `serve` listens, 127.0.0.1:18001)",
    )
