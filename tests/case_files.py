"""Files for the tests of single cases."""

from __future__ import annotations

from pathlib import Path

from rejoinder.rules.load import Loaded, load
from rejoinder.rules.model import Route

GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: demo}
spec:
  gatewayClassName: any
  listeners: [{name: http, protocol: HTTP, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: app, namespace: demo}
spec: {ports: [{port: 80}]}
---
apiVersion: gateway.kgateway.dev/v1alpha1
kind: DirectResponse
metadata: {name: closed, namespace: demo}
spec: {status: 503, body: "closed"}
---
"""

CLOSED = "{type: ExtensionRef, extensionRef: {group: gateway.kgateway.dev, kind: DirectResponse, name: closed}}"


def http_route(spec: str, metadata: str = "name: r, namespace: demo") -> str:
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{{metadata}}}
spec:
  parentRefs: [{{name: edge}}]
{spec}
"""


def loaded(tmp_path: Path, text: str, **upstreams: str) -> Loaded:
    path = tmp_path / "case.yaml"
    path.write_text(text)
    return load([path], upstreams=upstreams)


def complaints(result: Loaded) -> list[str]:
    return [str(complaint).partition("case.yaml:")[2] for complaint in result.complaints]


def routes(result: Loaded) -> list[Route]:
    assert result.ruleset is not None, result.problems
    return list(result.ruleset.routes)


def wasm_plugin(spec: str) -> str:
    return f"""
apiVersion: extensions.higress.io/v1alpha1
kind: WasmPlugin
metadata: {{name: custom-response, namespace: higress-system}}
spec:
  url: oci://higress-registry.cn-hangzhou.cr.aliyuncs.com/plugins/custom-response:1.0.0
{spec}
"""


def ingress(name: str, *, host: str, backend: str, annotations: str = "", path: str = "/") -> str:
    namespace, short = name.split("/")
    return f"""
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: {short}, namespace: {namespace}, annotations: {{{annotations}}}}}
spec: {{rules: [{{host: {host}, http: {{paths: [{{path: "{path}", pathType: Prefix, backend: {backend}}}]}}}}]}}
"""


def service(name: str) -> str:
    return f"{{service: {{name: {name}, port: {{number: 80}}}}}}"


BRIDGE = "{resource: {apiGroup: networking.higress.io, kind: McpBridge, name: default}}"
