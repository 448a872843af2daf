"""TLS of a Gateway's listeners: certificates with keys from Secrets, client authorities from ConfigMaps.

In: places of a Gateway that refer to them, the `Cluster`. Out: PEM, and a `Fault` for each reference that cannot be
used. Pure.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from rejoinder.rules.fields import Place
from rejoinder.rules.files import UnreadableError
from rejoinder.rules.kubernetes.cluster import Cluster
from rejoinder.rules.kubernetes.objects import Object, Reference, alone, member, one_of, open_fields, reference
from rejoinder.rules.kubernetes.status import RESOLVED_REFS, Fault, as_faults


@dataclass(frozen=True, slots=True)
class _Use:
    """The expectations about a referenced object."""

    kind: str
    purpose: str
    reason: str
    """The reason in the specification for a reference that cannot be used."""
    absent: str
    """The end of the message if there is no such object."""


_CERTIFICATE: Final = _Use("Secret", "a certificate", "InvalidCertificateRef", ": add it to the files")
_CLIENT_CA: Final = _Use(
    "ConfigMap",
    "client authorities",
    "InvalidCACertificateRef",
    ", which clients' certificates are to be verified with",
)


def certificates(tls: Place, gateway: Object, cluster: Cluster) -> tuple[tuple[tuple[bytes, bytes], ...], list[Fault]]:
    """Chains with their keys, from the `tls` of a listener."""
    references, problems = alone(tls, partial(_certificate_refs, gateway=gateway), ())
    faults = [*as_faults(problems)]
    pairs: list[tuple[bytes, bytes]] = []
    for named in references:
        secret = _find(named, _CERTIFICATE, gateway, cluster)
        if isinstance(secret, Fault):
            faults.append(secret)
            continue
        pair, problems = alone(secret.place, _pair, None)
        if pair is None or problems:
            reason = problems[0].message if problems else "nothing in it"
            cluster.faults[secret] = as_faults(problems)
            message = f"Secret {secret.key} has no certificate that can be used: {reason}"
            faults.append(_fault(named, _CERTIFICATE, message))
        else:
            pairs.append(pair)
    return tuple(pairs), faults


def client_authorities(place: Place | None, gateway: Object, cluster: Cluster) -> tuple[bytes | None, list[Fault]]:
    """The authorities of clients' certificates, from a `validation`; None: no certificate is demanded.

    A reference that cannot be used is a fault, so that no client gets in without a certificate.
    """
    if place is None:
        return None, []
    references, problems = alone(place, partial(_authority_refs, gateway=gateway), ())
    faults = [*as_faults(problems)]
    contents: list[bytes] = []
    for named in references:
        config_map = _find(named, _CLIENT_CA, gateway, cluster)
        if isinstance(config_map, Fault):
            faults.append(config_map)
            continue
        content, problems = alone(config_map.place, _authorities, b"")
        cluster.faults[config_map] = as_faults(problems)
        contents.append(content)
        if problems:
            message = f"ConfigMap {config_map.key} cannot be used: {problems[0].message}"
            faults.append(_fault(named, _CLIENT_CA, message))
    return b"\n".join(contents), faults


def _find(named: Reference, use: _Use, gateway: Object, cluster: Cluster) -> Object | Fault:
    """The object that a reference names, if it may be used."""
    target = f"{use.kind} {named.key}"
    if (named.group, named.kind) != ("", use.kind):
        return _fault(named, use, f"{named.kind} cannot hold {use.purpose}: expected a {use.kind}")
    if not cluster.granted(gateway, named):
        message = f"{target} is in another namespace, which has no ReferenceGrant for it"
        return replace(_fault(named, use, message), reason="RefNotPermitted")
    return cluster.find(use.kind, named.key) or _fault(named, use, f"there is no {target}{use.absent}")


def _fault(named: Reference, use: _Use, message: str) -> Fault:
    return Fault(named.place.position, message, reason=use.reason, condition=RESOLVED_REFS)


def _certificate_refs(tls: Place, gateway: Object) -> tuple[Reference, ...]:
    fields = open_fields(tls)
    fields.get("mode", one_of("Terminate"), "")
    return fields.get("certificateRefs", lambda it: it.each(partial(_reference, gateway)), ())


def _authority_refs(place: Place, gateway: Object) -> tuple[Reference, ...]:
    fields = open_fields(place)
    fields.get("mode", one_of("AllowValidOnly"), "")
    references = fields.require("caCertificateRefs", Place.items, [])
    if not references and "caCertificateRefs" in fields:
        raise fields["caCertificateRefs"].expected("at least one entry")
    return tuple(_reference(gateway, entry) for entry in references)


def _reference(gateway: Object, place: Place) -> Reference:
    return reference(place, gateway.key.namespace, kind="Secret")


def _authorities(config_map: Place) -> bytes:
    content = open_fields(member(config_map, "data")).require("ca.crt", lambda it: it.string().encode(), b"")
    try:
        config_map.source.files.check_authorities(content)
    except UnreadableError as reason:
        raise config_map.mistake(f"data.ca.crt: {reason}") from None
    return content


def _pair(secret: Place) -> tuple[bytes, bytes] | None:
    certificate = _content(secret, "tls.crt")
    key = _content(secret, "tls.key")
    if not (certificate and key):
        return None
    try:
        secret.source.files.check_pem(certificate, key)
    except UnreadableError as reason:
        raise secret.mistake(str(reason)) from None
    return certificate, key


def _content(secret: Place, name: str) -> bytes:
    """An entry of a Secret; like the API server, this prefers `stringData` to `data`."""
    plain = open_fields(member(secret, "stringData"))
    if name in plain:
        return plain.get(name, lambda it: it.string().encode(), b"")
    return open_fields(member(secret, "data")).require(name, _base64, b"")


def _base64(place: Place) -> bytes:
    try:
        return base64.b64decode("".join(place.string().split()), validate=True)
    except binascii.Error:
        raise place.mistake("expected base64") from None
