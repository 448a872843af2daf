"""Over what services are reached: the options that say it, what must be said with what, and to whom no keys are told.

`serve` listens elsewhere than on this machine only with TLS and client certificates, or if it is told to go without
(`--insecure`). Private keys are told to clients that have shown who they are, or are on this machine.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rejoinder.cli import console
from rejoinder.cli.values import parse_absolute, parse_mode, parse_service
from rejoinder.rules.model import Ruleset
from rejoinder.transport import tls, unix
from rejoinder.transport.addresses import Address, is_loopback, show
from rejoinder.transport.envoy_side import SDS, EnvoyTls

EXT_PROC: Final = ("127.0.0.1", 18001)

PLACE: Final = "HOST:PORT|unix:/PATH"


class UnusableError(Exception):
    """Options that do not go together; the text says which, and what to say instead."""


def add_listening(command: argparse.ArgumentParser) -> None:
    """How `serve` is reached."""
    group = command.add_argument_group("who may connect", "to xDS, ext_proc and --admin; docs/security.md")
    for name, text in (
        ("cert", "speak TLS with this certificate (PEM), and follow the file when it changes"),
        ("key", "... and this key"),
        ("client-ca", "who connects has to show a certificate of these authorities (PEM)"),
    ):
        group.add_argument(f"--tls-{name}", type=Path, metavar="FILE", help=text)
    group.add_argument(
        "--admin-no-client-cert", action="store_true", help="... but not to --admin, where browsers come (still TLS)"
    )
    group.add_argument(
        "--socket-mode", type=parse_mode, default=unix.MODE, metavar="MODE", help="of Unix sockets (default 600)"
    )
    group.add_argument(
        "--insecure",
        action="store_true",
        help="let everybody in who reaches xDS and ext_proc, on other addresses than loopback ones, too",
    )
    group.add_argument(
        "--insecure-keys", action="store_true", help="... and tell them the private keys of listeners and upstreams"
    )


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


def envoy_tls(options: argparse.Namespace) -> EnvoyTls | None:
    """What Envoys need for TLS; None: they go without.

    Raises:
        UnusableError: something is missing.
    """
    certificate, key = options.envoy_cert, options.envoy_key
    if certificate and bool(key) is certificate.endswith(SDS):
        raise UnusableError(
            "--envoy-key: expected with --envoy-cert in PEM, and only then (the key is in the other file)"
        )
    if not options.envoy_ca:
        if certificate or key or options.tls_server_name:
            raise UnusableError("expected --envoy-ca beside --envoy-cert, --envoy-key and --tls-server-name")
        return None
    return EnvoyTls(options.envoy_ca, certificate, key, options.tls_server_name)


def ext_proc(options: argparse.Namespace) -> Address:
    """Where Envoys find the ext_proc service."""
    place: Address = options.ext_proc_advertise or getattr(options, "ext_proc", EXT_PROC)
    return place


def files(options: argparse.Namespace) -> tls.Files | None:
    """What `serve` listens with; None: no TLS.

    Raises:
        UnusableError: it must not listen like that.
    """
    given = (options.tls_cert, options.tls_key)
    if any(given) != all(given) or (options.tls_client_ca and not all(given)):
        raise UnusableError("expected --tls-cert and --tls-key together, and both beside --tls-client-ca")
    if all(given) and not (options.tls_client_ca or options.insecure):
        raise UnusableError(
            "--tls-cert: expected --tls-client-ca, too: the authorities of Envoys' certificates; or --insecure"
        )
    if all(given) and isinstance(ext_proc(options), tuple) and not options.envoy_ca:
        raise UnusableError(
            "--tls-cert: expected --envoy-ca and --envoy-cert, too: with what Envoys reach the ext_proc service; or "
            "--ext-proc unix:/PATH"
        )
    for option, address in (("--xds", options.xds), ("--ext-proc", options.ext_proc)):
        if not (options.insecure or _is_ours(address) or options.tls_client_ca):
            raise UnusableError(
                f"{option} {show(address)}: whoever reaches that address would be let in: say --tls-cert, --tls-key "
                "and --tls-client-ca, or listen on unix:/PATH or 127.0.0.1; or say --insecure"
            )
    return tls.Files(*given, options.tls_client_ca) if all(given) else None


def _is_ours(address: Address) -> bool:
    """Whether only this machine can reach it."""
    return isinstance(address, Path) or is_loopback(address)


def told(options: argparse.Namespace) -> Callable[[Ruleset], Ruleset]:
    """What is told to those who may reach xDS: all, or no private keys. Each time it is said what is left out."""
    if _is_ours(options.xds) or options.tls_client_ca or options.insecure_keys:
        return lambda ruleset: ruleset
    return _without_keys


def _without_keys(ruleset: Ruleset) -> Ruleset:
    def refuse(what: str, becomes: str) -> None:
        console.say(
            f"{what} {becomes}: its private key is not told to Envoys that have not shown who they are: say "
            "--tls-client-ca, or --insecure-keys",
            "yellow",
        )

    for listener in ruleset.listeners:
        if listener.key is not None:
            refuse(f"the listener {show((listener.address, listener.port))}", "is left out")
    upstreams = list(ruleset.upstreams)
    for at, upstream in enumerate(upstreams):
        if upstream.tls_options.key is not None:
            refuse(f'upstream "{upstream.name}"', "gets no client certificate")
            bare = dataclasses.replace(upstream.tls_options, certificate=None, key=None)
            upstreams[at] = dataclasses.replace(upstream, tls_options=bare)
    kept = tuple(listener for listener in ruleset.listeners if listener.key is None)
    return dataclasses.replace(ruleset, listeners=kept, upstreams=tuple(upstreams))
