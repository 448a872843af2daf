"""Conditions of objects, as `check` and `explain` tell them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conditions import FINE, GATEWAY, ROUTE, loaded, wrong

from rejoinder.cli import main
from rejoinder.rules.load import load

BROKEN = """
# no name
apiVersion: gateway.kgateway.dev/v1alpha1
kind: DirectResponse
metadata: {namespace: shop}
spec: {status: 200}
---
# wrong types
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: types, namespace: shop}, spec: [1, 2]}
---
{apiVersion: gateway.kgateway.dev/v1alpha1, kind: DirectResponse, metadata: {name: large, namespace: shop},
 spec: {status: 200, body: "LARGE"}}
---
{apiVersion: gateway.kgateway.dev/v1alpha1, kind: DirectResponse, metadata: {name: teen, namespace: shop},
 spec: {status: 42}}
---
{apiVersion: gateway.kgateway.dev/v1alpha1, kind: DirectResponse, metadata: {name: twice, namespace: shop},
 spec: {status: 200}}
---
{apiVersion: gateway.kgateway.dev/v1alpha1, kind: DirectResponse, metadata: {name: twice, namespace: shop},
 spec: {status: 201}}
---
{apiVersion: v1, kind: Service, metadata: {name: odd, namespace: shop}, spec: {ports: [{port: eighty}]}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}}
---
{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: main, namespace: shop}}
---
{apiVersion: v1, metadata: {name: kindless}}
"""


def test_check_prints_a_condition_for_each_broken_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    regex = "{matches: [{path: {type: RegularExpression, value: '/(a'}}], backendRefs: [{name: web, port: 80}]}"
    cross = "{matches: [{path: {value: /cross}}], backendRefs: [{name: api, namespace: other, port: 80}]}"
    route = f"{GATEWAY}{ROUTE}  rules: [{regex}, {cross}, {FINE}]\n---"
    (tmp_path / "manifests.yaml").write_text(route + BROKEN.replace("LARGE", "x" * 5000))
    assert main(["check", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    for expected in (
        "note: Deployment shop/web is skipped: nothing here reads apps/v1 Deployment",
        "note: Gateway shop/main is skipped: nothing here reads networking.istio.io/v1 Gateway",
        "Accepted=False (Invalid): kind is missing",
        "DirectResponse without a name",
        "Accepted=False (Invalid): metadata: name is missing",
        "spec: expected a mapping, got a list",
        "Accepted=False (Invalid): spec.body: a body has at most 4,096 bytes, this one has 5,000",
        "Accepted=False (Invalid): spec.status: expected a status from 200 to 599, got the number 42",
        "Accepted=False (Invalid): it is given twice, first at ",
        "Accepted=False (Invalid): spec.ports[0].port: expected a port from 1 to 65535",
        "Accepted=False (UnsupportedValue): rule 0: matches[0].path.value: expected a regular expression (RE2)",
        "ResolvedRefs=False (RefNotPermitted): rule 1: backendRefs[0]: ",
        "PartiallyInvalid=True",
    ):
        assert expected in printed


def test_check_gives_kubernetes_status_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifests.yaml").write_text(f"{GATEWAY}{ROUTE}  rules: [{FINE}]")
    assert main(["check", str(tmp_path), "--format", "json"]) == 0
    gateway, route = json.loads(capsys.readouterr().out)
    assert (gateway["kind"], gateway["metadata"]) == ("Gateway", {"namespace": "shop", "name": "main"})
    (listener,) = gateway["status"]["listeners"]
    assert (listener["name"], listener["attachedRoutes"]) == ("web", 1)
    assert shown(gateway["status"]["conditions"]) == {"Accepted": "True", "Programmed": "True"}
    assert gateway["status"]["conditions"][0]["observedGeneration"] == 3
    assert shown(listener["conditions"])["Conflicted"] == "False"
    (parent,) = route["status"]["parents"]
    assert parent["parentRef"]["name"] == "main"
    assert shown(parent["conditions"]) == {"Accepted": "True", "ResolvedRefs": "True"}


def shown(conditions: list[dict[str, Any]]) -> dict[str, str]:
    return {condition["type"]: condition["status"] for condition in conditions}


def test_explain_names_the_object_rule_and_match(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifests.yaml").write_text(f"{GATEWAY}{ROUTE}  rules: [{FINE}]")
    assert main(["explain", str(tmp_path), "--url", "http://a.shop.test:8080/fine/x"]) == 0
    expected = 'HTTPRoute shop/tried rule 0 match 0 (PATH): takes the request: forward to upstream "shop/web:80"'
    printed = capsys.readouterr().out
    assert expected.replace("PATH", f"{tmp_path / 'manifests.yaml'}:23") in printed


def test_a_route_without_any_gateway_is_attached_where_rule_files_listen(tmp_path: Path) -> None:
    services = GATEWAY.partition("---")[2]
    result = loaded(tmp_path, f"{services}{ROUTE}  rules: [{FINE}]")
    assert wrong(result) == []
    assert result.ruleset is not None
    assert result.ruleset.groups == ("",)
    assert next(str(condition) for status in result.statuses for _, condition in status.said()) == (
        "Accepted=True (Accepted): no Gateway is among the files, so it is attached where the rule files listen"
    )


def test_a_gateway_and_rule_files_cannot_have_one_address(tmp_path: Path) -> None:
    (tmp_path / "manifests.yaml").write_text(GATEWAY)
    (tmp_path / "rules.yaml").write_text("listen: 0.0.0.0:8080\nroutes: [{name: mock, respond: {body: hi}}]")
    result = load([tmp_path])
    assert result.ruleset is None
    assert "port 8080: rule files listen at 0.0.0.0:8080, too" in str(result.problems[0])


def test_rule_files_listen_beside_gateways_only_if_they_have_routes(tmp_path: Path) -> None:
    (tmp_path / "manifests.yaml").write_text(f"{GATEWAY}{ROUTE}  rules: [{FINE}]")
    (tmp_path / "rules.yaml").write_text("rules: [{name: mock, body: hi}]")
    result = load([tmp_path])
    assert result.ruleset is not None
    assert result.ruleset.groups == ("gateway/shop/main/8080",)
    (tmp_path / "rules.yaml").write_text("routes: [{name: mock, respond: {body: hi}}]")
    result = load([tmp_path])
    assert result.ruleset is not None
    assert result.ruleset.groups == ("", "gateway/shop/main/8080")
