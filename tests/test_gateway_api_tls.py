"""Gateways with certificates from Secrets, and backends that speak HTTP/2 in plain text, in a real Envoy."""

from __future__ import annotations

import base64
import dataclasses
import http.client
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import yaml
from gateway import Gateway, free_port
from machine import SECONDS

from rejoinder.rules.load import load
from rejoinder.rules.model import Endpoint
from rejoinder.rules.program import compile_rules
from rejoinder.xds.events import Accepted
from rejoinder.xds.translate import Settings
from rejoinder.xds.translate.clusters import clusters

GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: main, namespace: shop}
spec:
  listeners:
  - {name: a, port: 443, protocol: HTTPS, hostname: a.test, tls: {certificateRefs: [{name: a.test}]}}
  - {name: b, port: 443, protocol: HTTPS, hostname: b.test, tls: {certificateRefs: [{name: b.test}]}}
  - {name: c, port: 444, protocol: HTTPS, hostname: c.test, tls: {certificateRefs: [{name: broken}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{name: main}]
  rules:
  - {matches: [{path: {value: /plain}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: http}}]}
  - filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /new}}}]
"""

SECRET = """
---
apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: shop}}
type: kubernetes.io/tls
data: {{tls.crt: {certificate}, tls.key: {key}}}
"""


def secret(folder: Path, name: str) -> str:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -keyout key -out crt"
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run([*command.split(), *names], cwd=folder, check=True, capture_output=True)
    certificate, key = (base64.b64encode((folder / part).read_bytes()).decode() for part in ("crt", "key"))
    (folder / name).write_bytes((folder / "crt").read_bytes())
    return SECRET.format(name=name, certificate=certificate, key=key)


def test_each_host_gets_its_certificate(gateway: Gateway, tmp_path: Path) -> None:
    secrets = "".join(secret(tmp_path, name) for name in ("a.test", "b.test"))
    broken = SECRET.format(name="broken", certificate="bm90IFBFTQ==", key="bm90IFBFTQ==")
    (tmp_path / "manifests.yaml").write_text(GATEWAY + secrets + broken)
    loaded = load([tmp_path / "manifests.yaml"])
    (complaint, *_) = loaded.complaints
    assert "listener c: " in str(complaint)
    assert loaded.ruleset is not None
    (listener,) = loaded.ruleset.listeners  # the broken one costs itself alone
    port = free_port()
    moved = dataclasses.replace(listener, address="127.0.0.1", port=port)
    event = gateway.publish(gateway.build(loaded.ruleset, (moved,)))
    assert isinstance(event, Accepted), event
    for name in ("a.test", "b.test"):
        assert location(port, name, tmp_path / name, "/x") == f"https://{name}/new"
        assert location(port, name, tmp_path / name, "/plain") == f"http://{name}/plain"


def location(port: int, host: str, trusted: Path, path: str, client: tuple[Path, Path] | None = None) -> str | None:
    context = ssl.create_default_context(cafile=str(trusted))
    if client:
        context.load_cert_chain(*client)
    with (
        socket.create_connection(("127.0.0.1", port), SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        secured.sendall(f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
        response = http.client.HTTPResponse(secured)
        response.begin()
        return response.headers["location"]


def test_f14_a_certificate_may_stand_in_stringdata(tmp_path: Path) -> None:
    plain = yaml.safe_load(secret(tmp_path, "a.test").removeprefix("\n---\n"))
    plain["stringData"] = {name: base64.b64decode(value).decode() for name, value in plain.pop("data").items()}
    only_a = yaml.safe_dump_all([plain, *yaml.safe_load_all(GATEWAY)])
    (tmp_path / "manifests.yaml").write_text(only_a)
    loaded = load([tmp_path / "manifests.yaml"])
    assert not any("listener a:" in str(complaint) for complaint in loaded.complaints)


AUTHORITIES = "caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]"
DEMANDS = [
    pytest.param("", f"frontendValidation: {{{AUTHORITIES}}}", id="of the listener"),
    pytest.param(f"frontend: {{default: {{validation: {{{AUTHORITIES}}}}}}}", "", id="of the Gateway"),
    pytest.param(
        f"frontend: {{perPort: [{{port: 443, tls: {{validation: {{{AUTHORITIES}}}}}}}]}}", "", id="of the port"
    ),
]


def demanding(folder: Path, gateway: str, listener: str) -> Path:
    """A Gateway with one listener, and what they demand of clients' certificates."""
    path = folder / "manifests.yaml"
    path.write_text(
        f"""
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: main, namespace: shop}}
spec:
  tls: {{{gateway}}}
  listeners: [{{name: a, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: a.test}}], {listener}}}}}]
{GATEWAY[GATEWAY.index("---") :]}{secret(folder, "a.test")}"""
    )
    return path


@pytest.mark.parametrize(("of_gateway", "of_listener"), DEMANDS)
def test_f03_who_has_no_client_certificate_is_refused(
    gateway: Gateway, tmp_path: Path, of_gateway: str, of_listener: str
) -> None:
    path = demanding(tmp_path, of_gateway, of_listener)
    secret(tmp_path, "client.test")
    authority = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca", "namespace": "shop"}}
    data = {"data": {"ca.crt": (tmp_path / "crt").read_text()}}
    path.write_text(f"{path.read_text()}\n---\n{yaml.safe_dump({**authority, **data})}")
    loaded = load([path])
    assert loaded.complaints == ()
    assert loaded.ruleset is not None
    (listener,) = loaded.ruleset.listeners
    port = free_port()
    event = gateway.publish(
        gateway.build(loaded.ruleset, (dataclasses.replace(listener, address="127.0.0.1", port=port),))
    )
    assert isinstance(event, Accepted), event
    client = (tmp_path / "crt", tmp_path / "key")
    assert location(port, "a.test", tmp_path / "a.test", "/x", client) == "https://a.test/new"
    with pytest.raises((ssl.SSLError, ConnectionError), match=r"(?i)certificate.required|EOF occurred|reset|closed"):
        location(port, "a.test", tmp_path / "a.test", "/x")


@pytest.mark.parametrize(
    "config_map",
    [
        pytest.param("", id="none"),
        pytest.param("data: {ca.crt: nothing}", id="no certificates"),
        pytest.param("data: {ca.key: x}", id="no such key"),
    ],
)
@pytest.mark.parametrize(("of_gateway", "of_listener"), DEMANDS)
def test_f03_without_authorities_nobody_gets_in(
    tmp_path: Path, of_gateway: str, of_listener: str, config_map: str
) -> None:
    path = demanding(tmp_path, of_gateway, of_listener)
    if config_map:
        text = f"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca, namespace: shop}}\n{config_map}\n"
        path.write_text(path.read_text() + "\n" + text)
    loaded = load([path])
    assert any(
        "listener a: ResolvedRefs=False (InvalidCACertificateRef)" in str(complaint) for complaint in loaded.complaints
    )
    assert loaded.ruleset is not None
    assert not any(listener.group.startswith("gateway/") for listener in loaded.ruleset.listeners)


MISTAKES = [
    pytest.param("frontend: {perPort: {port: 443}}", "", id="no list"),
    pytest.param("frontend: {perPort: [{port: '443', tls: {validation: {}}}]}", "", id="a port in quotes"),
    pytest.param("frontend: {default: {validation: 7}}", "", id="no mapping"),
    pytest.param("fronted: {}", "", id="misspelt"),
    pytest.param("", "options: {gateway.istio.io/tls-terminate-mode: MUTUAL}", id="an option"),
    pytest.param("", f"frontendValidation: {{mode: AllowInsecureFallback, {AUTHORITIES}}}", id="another mode"),
    pytest.param("", "frontendValidation: {caCertificateRefs: []}", id="no authorities"),
]


@pytest.mark.parametrize(("of_gateway", "of_listener"), MISTAKES)
def test_f03_a_mistake_lets_nobody_in(tmp_path: Path, of_gateway: str, of_listener: str) -> None:
    loaded = load([demanding(tmp_path, of_gateway, of_listener)])
    assert loaded.complaints
    assert loaded.ruleset is not None
    assert not any(listener.group.startswith("gateway/") for listener in loaded.ruleset.listeners)


@pytest.mark.parametrize(
    ("protocol", "cluster_ip", "expected", "http2"),
    [
        pytest.param("kubernetes.io/h2c", "10.0.0.1", ("web.shop.svc.cluster.local", 80), True, id="h2c"),
        pytest.param("", "10.0.0.1", ("web.shop.svc.cluster.local", 80), False, id="HTTP/1.1"),
        pytest.param("", "None", ("web.shop.svc.cluster.local", 8080), False, id="headless: the pods' own port"),
    ],
)
def test_a_service_is_found_by_its_name_in_the_cluster(
    tmp_path: Path, protocol: str, cluster_ip: str, expected: tuple[str, int], http2: bool
) -> None:
    (tmp_path / "manifests.yaml").write_text(
        f"""
        apiVersion: v1
        kind: Service
        metadata: {{name: web, namespace: shop}}
        spec: {{clusterIP: "{cluster_ip}", ports: [{{port: 80, targetPort: 8080, appProtocol: "{protocol}"}}]}}
        ---
        apiVersion: gateway.networking.k8s.io/v1
        kind: HTTPRoute
        metadata: {{name: web, namespace: shop}}
        spec: {{parentRefs: [{{name: any}}], rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}
        """.replace("\n        ", "\n")
    )
    ruleset = load([tmp_path / "manifests.yaml"]).ruleset
    assert ruleset is not None
    (upstream,) = ruleset.upstreams
    assert (upstream.endpoints, upstream.http2) == ((Endpoint(*expected),), http2)
    (cluster,) = clusters(ruleset, compile_rules(ruleset.rules), Settings(Endpoint("127.0.0.1", 1)))
    assert ("typed_extension_protocol_options" in cluster) is http2
