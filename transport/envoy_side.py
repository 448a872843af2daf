"""TLS from Envoy to our services: the transport socket of a cluster, and files by which Envoy follows certificates.

In: paths on Envoy's machine. Out: messages in Envoy's JSON mapping. Pure; raises nothing. Envoy reads a certificate
that is named in a cluster once, when it gets the cluster. It reads one that comes by SDS from a file (YAML or JSON,
made by `secret`) again whenever the folder of that file changes.
https://www.envoyproxy.io/docs/envoy/latest/configuration/security/secret
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from rejoinder.transport.addresses import Address, is_ip

Json = dict[str, Any]

SDS: Final = (".yaml", ".yml", ".json")
"""The name suffixes of SDS files."""

_TLS: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"


@dataclass(frozen=True, slots=True)
class EnvoyTls:
    """How Envoys verify us, and their own certificate. Paths on Envoy's machine, of PEM or SDS files."""

    ca: str
    certificate: str = ""
    """Empty: they show none."""
    key: str = ""
    """Of a certificate in PEM."""
    server_name: str = ""
    """The name in our certificate; empty: the host that Envoy connects to."""


def transport_socket(tls: EnvoyTls | None, address: Address) -> Json:
    """A cluster's transport socket for this address; empty without TLS, or on a Unix socket."""
    if tls is None or not isinstance(address, tuple):
        return {}
    name = tls.server_name or address[0]
    verified: Json = {"match_typed_subject_alt_names": alt_names((name,))}
    common: Json = {"alpn_protocols": ["h2"]}
    if tls.certificate.endswith(SDS):
        common["tls_certificate_sds_secret_configs"] = [_followed(_CERTIFICATE, tls.certificate)]
    elif tls.certificate:
        common["tls_certificates"] = [_pair(tls.certificate, tls.key)]
    if tls.ca.endswith(SDS):
        common["combined_validation_context"] = {
            "default_validation_context": verified,
            "validation_context_sds_secret_config": _followed(_CA, tls.ca),
        }
    else:
        common["validation_context"] = {"trusted_ca": {"filename": tls.ca}, **verified}
    context = {
        "@type": f"{_TLS}.UpstreamTlsContext",
        **({} if is_ip(name) else {"sni": name}),
        "common_tls_context": common,
    }
    return {"transport_socket": {"name": "tls", "typed_config": context}}


def alt_names(hosts: Iterable[str]) -> list[Json]:
    """The names, one of which a certificate must have."""
    return [{"san_type": "IP_ADDRESS" if is_ip(host) else "DNS", "matcher": {"exact": host}} for host in hosts]


_CERTIFICATE: Final = "rejoinder_certificate"
_CA: Final = "rejoinder_ca"


def _followed(name: str, path: str) -> Json:
    return {"name": name, "sds_config": {"resource_api_version": "V3", "path_config_source": {"path": path}}}


def _pair(certificate: str, key: str) -> Json:
    return {"certificate_chain": {"filename": certificate}, "private_key": {"filename": key}}


def secret(certificate: str, key: str, ca: str) -> Json:
    """The content of an SDS file: a certificate and its key, or authorities; a file can have one of the two."""
    if certificate:
        what = {"tls_certificate": {**_pair(certificate, key), **_watched(certificate)}}
    else:
        what = {"validation_context": {"trusted_ca": {"filename": ca}, **_watched(ca)}}
    name = _CERTIFICATE if certificate else _CA
    return {"resources": [{"@type": f"{_TLS}.Secret", "name": name, **what}]}


def _watched(path: str) -> Json:
    # A mounted Secret is replaced by renaming a link in its folder, `..data`.
    return {"watched_directory": {"path": str(PurePath(path).parent)}}
