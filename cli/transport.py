"""Over what services are reached: what options must be said with what, and to whom no keys are told.

`serve` listens elsewhere than on this machine only with TLS and client certificates, or if it is told to go without
(`--insecure`). Private keys are told to clients that have shown who they are, or are on this machine.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

from rejoinder.cli import console
from rejoinder.cli.connecting import EXT_PROC
from rejoinder.rules.model import Ruleset
from rejoinder.transport import tls
from rejoinder.transport.addresses import Address, is_loopback, show
from rejoinder.transport.envoy_side import SDS, EnvoyTls


class UnusableError(Exception):
    """Options that do not go together; the text says which, and what to say instead."""


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
