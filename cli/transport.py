"""How services are reached: which options belong together, and which clients get no private keys.

`serve` and `up` accept clients of other machines only with TLS and client certificates, or with `--insecure`. Private
keys are sent to clients that have shown a certificate, or are on this machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from rejoinder.cli import console
from rejoinder.cli.arguments import EXT_PROC, UnusableError
from rejoinder.rules.model import Ruleset
from rejoinder.transport import tls
from rejoinder.transport.addresses import Address, is_loopback, nth, overlap, show
from rejoinder.transport.envoy_side import SDS, EnvoyTls
from rejoinder.xds.translate import Placement, Settings

_TLS: Final = ("tls_cert", "tls_key", "tls_client_ca")

MAX_PORT: Final = 65535

_ONLY_WITH: Final = (
    ("insecure_keys", "insecure"),
    ("admin_no_client_cert", "tls_client_ca"),
    ("admin_no_client_cert", "admin"),
    ("admin_name", "admin"),
)
"""Options that have no effect without another option."""


def envoy_tls(options: argparse.Namespace) -> EnvoyTls | None:
    """What Envoys need for TLS; None: no TLS.

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


def settings(options: argparse.Namespace, *, fallback: bool = False) -> Settings:
    """How Envoys reach the services of `serve`. Raises as `envoy_tls` does."""
    return Settings(
        ext_proc(options),
        Placement(options.conditional),
        fallback=fallback,
        ext_proc_ports=options.workers,
        envoy_tls=envoy_tls(options),
        trusted_ca=options.trusted_ca,
    )


def files(options: argparse.Namespace) -> tls.Files | None:
    """What `serve` or `up` listens with; None: no TLS.

    Raises:
        UnusableError: these options are not allowed together, or not safe.
    """
    cert, key, client_ca = given = [vars(options).get(name) for name in _TLS]
    wrong = [*_misused(options), *_overlapping(options)]
    try:
        if "envoy_ca" in options:
            envoy_tls(options)
    except UnusableError as error:
        wrong += error.args
    if any(given):
        wrong += _wrong_tls(options)
    if not (options.insecure or client_ca):
        tls_too = "use --tls-cert, --tls-key and --tls-client-ca, or " if "tls_client_ca" in options else ""
        wrong += (
            f"{option} {show(address)}: every client would be let in: {tls_too}listen on unix:/PATH or "
            "127.0.0.1; or use --insecure"
            for option, address in exposed(options)
        )
    if wrong:
        raise UnusableError(*wrong)
    return tls.Files(cert, key, client_ca) if cert and key else None


def _misused(options: argparse.Namespace) -> Iterator[str]:
    for option, other in _ONLY_WITH:
        if getattr(options, option, None) and not getattr(options, other):
            yield f"{_written(option)}: expected only beside {_written(other)}"
    sockets = [address for _, address in _services(options) if isinstance(address, Path)]
    if getattr(options, "socket_mode", None) is not None and not sockets:
        yield "--socket-mode: expected only beside a service on unix:/PATH"


def _wrong_tls(options: argparse.Namespace) -> Iterator[str]:
    if not (options.tls_cert and options.tls_key):
        yield "expected --tls-cert and --tls-key together, and both beside --tls-client-ca"
    elif not (options.tls_client_ca or options.insecure):
        yield "--tls-cert: expected --tls-client-ca, too: the authorities of Envoys' certificates; or --insecure"
    if options.tls_cert and isinstance(ext_proc(options), tuple) and not options.envoy_ca:
        yield (
            "--tls-cert: expected --envoy-ca and --envoy-cert, too: with what Envoys reach the ext_proc service; or "
            "--ext-proc unix:/PATH"
        )
    for option in _TLS:
        try:
            if path := getattr(options, option):
                path.read_bytes()
        except OSError as error:
            yield f"{_written(option)} {path}: {error.strerror}"


def _overlapping(options: argparse.Namespace) -> Iterator[str]:
    """Services that would share an address."""
    places = _services(options)
    workers = getattr(options, "workers", 1)
    for at in range(1, workers):
        name = f"process {at + 1} of the ext_proc service (--ext-proc {show(options.ext_proc)}, --workers {workers})"
        places.append((name, nth(options.ext_proc, at)))
    if places and isinstance(last := places[-1][1], tuple) and last[1] > MAX_PORT:
        yield f"--workers {workers}: expected as many ports from --ext-proc on; the last port is {MAX_PORT}"
    for (one, here), (other, there) in itertools.combinations(places, 2):
        if overlap(here, there):
            yield f"{one} {show(here)}: expected an address of its own, and that is where {other} listens"


def exposed(options: argparse.Namespace) -> list[tuple[str, Address]]:
    """The services that other machines can reach without a client certificate."""
    certified = bool(getattr(options, "tls_client_ca", None))
    return [
        (option, address)
        for option, address in _services(options)
        if option != "--module" and not _is_ours(address)  # the module is no secret
        if not certified or (option == "--admin" and options.admin_no_client_cert)
    ]


def warn(options: argparse.Namespace) -> None:
    """Warn where every client is let in."""
    for option, address in exposed(options):
        text = f"{option} {show(address)}: every client is let in, and can read the rules"
        console.say(text, "yellow", event="insecure")


def _services(options: argparse.Namespace) -> list[tuple[str, Address]]:
    """The options that say where to listen."""
    places = ((name, getattr(options, name, None)) for name in ("xds", "ext_proc", "admin", "module"))
    return [(_written(name), address) for name, address in places if address is not None]


def _written(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _is_ours(address: Address) -> bool:
    """Whether only this machine can reach it."""
    return isinstance(address, Path) or is_loopback(address)


def told(options: argparse.Namespace) -> Callable[[Ruleset], Ruleset]:
    """The part of a ruleset that is sent to Envoys: all, or without private keys. What is left out is logged."""
    if _is_ours(options.xds) or options.tls_client_ca or options.insecure_keys:
        return lambda ruleset: ruleset
    return _without_keys


def _without_keys(ruleset: Ruleset) -> Ruleset:
    def refuse(what: str, becomes: str) -> None:
        console.say(
            f"{what} {becomes}: its private key is not told to Envoys that have not shown who they are: say "
            "--tls-client-ca, or --insecure-keys",
            "yellow",
            event="private_key",
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
