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
from gateway import SECONDS, Gateway, free_port

from rejoinder.rules.load import load
from rejoinder.rules.model import Endpoint
from rejoinder.rules.program import compile_rules
from rejoinder.xds.session import Accepted
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


def location(port: int, host: str, trusted: Path, path: str) -> str | None:
    context = ssl.create_default_context(cafile=str(trusted))
    with (
        socket.create_connection(("127.0.0.1", port), SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        secured.sendall(f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
        response = http.client.HTTPResponse(secured)
        response.begin()
        return response.headers["location"]


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
