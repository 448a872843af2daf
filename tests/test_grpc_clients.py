"""Answers to gRPC clients are gRPC errors (trailers-only), never pages."""

from __future__ import annotations

from pathlib import Path

from gateway import Gateway, ruleset

RULES = """
upstreams: {up: "builtin:echo"}
routes: [{name: all, upstream: up}]
rules:
  - {name: closed, match: {path: /closed.Service/Method}, status_code: 503, headers: [X-Ours=1], body: closed}
  - {name: denied, enable_on_status: [403], headers: [X-Ours=1], body: "denied: {{ request.path }}", template: true}
  - {name: own, match: {path: /own}, enable_on_status: [502], headers: [Grpc-Status=5, X-Ours=1], body: sorry}
  - {name: errors, enable_on_status: [5xx], headers: [Content-Type=text/html, X-Ours=1], body: sorry}
"""


def test_an_answer_to_a_grpc_client_is_a_grpc_error(any_gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES)
    any_gateway.apply(ruleset(file))
    asked = {
        "/closed.Service/Method": ("200", "14", "closed"),
        "/a.Service/Denied": ("403", "7", "denied: /a.Service/Denied"),
        "/a.Service/Busy": ("503", "14", "sorry"),
        "/own": ("502", "5", "sorry"),
    }
    for content_type in ("application/grpc", "application/grpc+proto"):
        for path, (upstream, status, message) in asked.items():
            sent = [("content-type", content_type), ("x-status", upstream)]
            response = any_gateway.ask("POST", "a.test", path, sent)
            assert (response.status, response.body) == (200, b""), path
            assert response.values("content-type") == ["application/grpc"]
            assert (response.values("grpc-status"), response.values("grpc-message")) == ([status], [message])
            assert response.values("x-ours") == ["1"]
    plain = any_gateway.ask(
        "POST", "a.test", "/a.Service/Busy", [("content-type", "application/grpc-web"), ("x-status", "503")]
    )
    assert (plain.status, plain.body) == (503, b"sorry")
