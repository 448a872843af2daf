"""Gateways, routes and what is said of them, for tests."""

from __future__ import annotations

from pathlib import Path

from rejoinder.rules.load import Loaded, load

GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: main, namespace: shop, generation: 3}
spec: {listeners: [{name: web, port: 8080, protocol: HTTP, hostname: "*.shop.test"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: other}
spec: {ports: [{port: 80}]}
---
"""

ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: tried, namespace: shop}
spec:
  parentRefs: [{name: main}]
"""

FINE = "{matches: [{path: {value: /fine}}], backendRefs: [{name: web, port: 80}]}"


def loaded(tmp_path: Path, text: str) -> Loaded:
    path = tmp_path / "manifests.yaml"
    path.write_text(text)
    return load([path])


def wrong(result: Loaded) -> list[str]:
    """What is wrong, without the file."""
    return [str(problem).partition("manifests.yaml:")[2] for problem in result.complaints]
