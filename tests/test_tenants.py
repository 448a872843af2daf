"""Whoever may write manifests is a tenant: no operator of this machine, and not of other namespaces."""

from __future__ import annotations

from pathlib import Path

import pytest
from case_files import BRIDGE, GATEWAY, complaints, http_route, ingress, loaded, routes, service, wasm_plugin

from rejoinder.rules.model import Forward

SECRET = "{body_file: /etc/passwd}"
FUNCTION = "{handler: 'os:getcwd', enable_on_status: [5xx]}"


@pytest.mark.parametrize("config", [SECRET, FUNCTION])
@pytest.mark.parametrize(
    "spec",
    [
        "  defaultConfig: {0}",
        "  pluginConfig: {0}",
        "  defaultConfig: {{rules: [{0}]}}",
        "  pluginConfig: {{_rules_: [{{_match_domain_: [a.test], rules: [{0}]}}]}}",
        "  matchRules: [{{domain: [a.test], config: {0}}}]",
        "  matchRules: [{{ingress: [web], config: {{rules: [{0}]}}}}]",
    ],
)
@pytest.mark.parametrize("form", ["{}", "apiVersion: v1\nkind: List\nitems: [{}]"], ids=["object", "list"])
def test_no_object_names_files_or_functions_of_this_machine(tmp_path: Path, config: str, spec: str, form: str) -> None:
    text = wasm_plugin(spec.format(config))
    if form != "{}":
        text = form.replace("[{}]", "\n- " + text.strip().replace("\n", "\n  "))
    result = loaded(tmp_path, text)
    assert result.ruleset is not None
    assert result.ruleset.rules == ()
    assert "a Kubernetes object cannot name a f" in complaints(result)[0]
    assert not [path for path in result.files if path.name == "passwd"], "it is not even read"


def test_a_rule_file_beside_manifests_may(tmp_path: Path) -> None:
    (tmp_path / "page").write_text("ours")
    text = "rules: [{name: a, body_file: page}, {name: b, handler: 'a:b', enable_on_status: [500]}]"
    result = loaded(tmp_path, f"{GATEWAY}---\n{text}")
    assert result.ruleset is not None
    assert [rule.answers[0].body or rule.answers[0].handler for rule in result.ruleset.rules] == [b"ours", "a:b"]


PLUGINS = {
    "default": ("  defaultConfig: {body: x}", ["team-a/web"]),
    "domain": ("  matchRules: [{domain: ['*'], config: {body: x}}]", ["team-a/web"]),
    "its own": ("  matchRules: [{ingress: [team-a/web], config: {body: x}}]", ["team-a/web"]),
    "of another": ("  matchRules: [{ingress: [team-b/web], config: {body: x}}]", []),
    "service": ("  matchRules: [{service: [web.team-b.svc.cluster.local], config: {body: x}}]", []),
    "of a file": ("  matchRules: [{ingress: [own], config: {body: x}}]", []),
    "rules": ("  pluginConfig: {_rules_: [{_match_domain_: ['*'], body: x}]}", ["team-a/web"]),
    "rules of another": ("  pluginConfig: {_rules_: [{_match_route_: [ingress/team-b/web], body: x}]}", []),
    "rules of its own": ("  pluginConfig: {_rules_: [{_match_route_: [ingress/team-a/web], body: x}]}", ["team-a/web"]),
}


@pytest.mark.parametrize(("spec", "about"), PLUGINS.values(), ids=PLUGINS)
def test_a_plug_in_outside_the_system_namespace_is_about_its_own(tmp_path: Path, spec: str, about: list[str]) -> None:
    own = "routes: [{name: own, path: /own, respond: {body: x}}]"
    text = "".join(ingress(f"{team}/web", host=f"{team}.test", backend=service("web")) for team in ("team-a", "team-b"))
    text += f"---{wasm_plugin(spec).replace('higress-system', 'team-a')}---\n{own}"
    given = {f"{team}/web:80": "http://127.0.0.1:1" for team in ("team-a", "team-b")}
    result = loaded(tmp_path, text, **given)
    assert result.ruleset is not None
    names = [name.split("/") for rule in result.ruleset.rules for name in rule.scope.routes or ("everything",)]
    assert ["/".join(parts[1:3]) for parts in names] == about
    assert any("is about routes of the namespace team-a only" in complaint for complaint in complaints(result))


def test_without_routes_such_a_plug_in_is_about_nothing(tmp_path: Path) -> None:
    spec = "  defaultConfig: {body: x}\n  matchRules: [{ingress: [team-b/web], config: {body: x}}]"
    result = loaded(tmp_path, wasm_plugin(spec).replace("higress-system", "team-a"))
    assert result.ruleset is not None
    assert result.ruleset.rules == ()


def test_who_takes_the_requests_of_another_namespace_is_said(tmp_path: Path) -> None:
    gateway = GATEWAY.replace("port: 8080}", "port: 8080, allowedRoutes: {namespaces: {from: All}}}")
    answer = (
        "  hostnames: [shop.test]\n  rules: [{filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}]"
    )
    theirs = "name: steal, namespace: evil, creationTimestamp: 2001-01-01T00:00:00Z"
    text = f"{gateway}{http_route(answer)}---{http_route(answer, theirs)}".replace(
        "{name: edge}]", "{name: edge, namespace: demo}]"
    )
    result = loaded(tmp_path, text)
    assert routes(result)[0].name.startswith("httproute/evil/steal")
    (complaint,) = {line.partition(": ")[2] for line in complaints(result)}
    assert complaint.startswith("HTTPRoute demo/r rule 0 match 0 gets no request for shop.test: HTTPRoute evil/")


def test_two_ingresses_of_one_host_are_of_the_same_kind(tmp_path: Path) -> None:
    text = "".join(ingress(f"{team}/web", host="a.test", backend=service("web")) for team in ("team-a", "team-b"))
    given = {f"{team}/web:80": "http://127.0.0.1:1" for team in ("team-a", "team-b")}
    (complaint,) = complaints(loaded(tmp_path, text, **given))
    assert "Ingress team-b/web rule 0 path 0 gets no request for a.test: Ingress team-a/web" in complaint
    same = text.replace("namespace: team-b", "namespace: team-a").replace("name: web", "name: other", 1)
    assert complaints(loaded(tmp_path, same, **given)) == [], "within a namespace, that is its own matter"


@pytest.mark.parametrize(("namespace", "leads"), [("higress-system", True), ("team-b", True), ("team-a", False)])
def test_an_ingress_leads_to_services_of_its_own_namespace(tmp_path: Path, namespace: str, leads: bool) -> None:
    annotation = 'higress.io/destination: "web.team-b.svc.cluster.local:80"'
    text = ingress(f"{namespace}/r", host="a.test", backend=BRIDGE, annotations=annotation)
    result = loaded(tmp_path, text, **{"team-b/web:80": "http://127.0.0.1:1"})
    (route,) = routes(result)
    assert isinstance(route.action, Forward) is leads
    assert bool(complaints(result)) is not leads
