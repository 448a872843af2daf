"""What is said about Kubernetes objects: their conditions, in text and as status objects."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from conditions import FINE, GATEWAY, ROUTE, loaded, wrong

from rejoinder.rules.fields import MAX_ITEMS
from rejoinder.rules.load import Loaded, load
from rejoinder.rules.model import Answer, Forward, Route


def routes(result: Loaded) -> dict[str, Route]:
    assert result.ruleset is not None, result.problems
    return {route.title: route for route in result.ruleset.routes}


REFERENCES = [
    pytest.param("{name: gone, port: 80}", "BackendNotFound", "--upstream shop/gone:80=URL", id="no such Service"),
    pytest.param("{name: web, port: 81}", "BackendNotFound", "Service shop/web has no port 81", id="no such port"),
    pytest.param("{name: api, namespace: other, port: 80}", "RefNotPermitted", "no ReferenceGrant", id="no grant"),
    pytest.param("{name: gone, namespace: other, port: 80}", "RefNotPermitted", "no ReferenceGrant", id="nor Service"),
    pytest.param("{kind: Pod, name: web, port: 80}", "InvalidKind", "expected a Service", id="another kind"),
]


@pytest.mark.parametrize(("backend", "reason", "message"), REFERENCES)
def test_a_reference_that_leads_nowhere_is_not_resolved(
    tmp_path: Path, backend: str, reason: str, message: str
) -> None:
    result = loaded(tmp_path, f"{GATEWAY}{ROUTE}  rules: [{{backendRefs: [{backend}]}}, {FINE}]")
    (complaint,) = wrong(result)
    assert f"HTTPRoute shop/tried: Gateway shop/main: ResolvedRefs=False ({reason}): rule 0: " in complaint
    assert message in complaint
    assert routes(result)["HTTPRoute shop/tried rule 0 match 0"].action.status_code == 500  # type: ignore[union-attr]
    assert isinstance(routes(result)["HTTPRoute shop/tried rule 1 match 0"].action, Forward)


NO_NAMESPACE: Final = 'namespace: expected a name of small letters, digits, - and ., got ""'


def test_an_empty_namespace_is_not_the_one_of_the_object(tmp_path: Path) -> None:
    backend = "{name: web, namespace: '', port: 80}"
    found = loaded(tmp_path, f"{GATEWAY}{ROUTE}  rules: [{{backendRefs: [{backend}]}}]")
    assert any(f"rule 0: backendRefs[0].{NO_NAMESPACE}" in complaint for complaint in wrong(found))
    assert routes(found)["HTTPRoute shop/tried rule 0 match 0"].action.status_code == 500  # type: ignore[union-attr]


def test_a_colon_in_the_name_of_a_service_is_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "manifests.yaml").write_text(f"{ROUTE}  rules: [{{backendRefs: [{{name: 'a:b', port: 80}}]}}]")
    found = load([tmp_path / "manifests.yaml"], upstreams={"shop/a:b:80": "http://127.0.0.1:1"})
    assert [route.action for route in routes(found).values()] == [Forward("shop/a:b:80", upgrades=("websocket",))]


GRANT = """
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: shop, namespace: other}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: FROM}]
  to: [{group: "", kind: Service TO}]
"""


@pytest.mark.parametrize(
    ("source", "target", "allowed"),
    [
        pytest.param("shop", "", True, id="all Services"),
        pytest.param("shop", ", name: api", True, id="this one"),
        pytest.param("shop", ", name: web", False, id="another one"),
        pytest.param("else", "", False, id="from elsewhere"),
    ],
)
def test_a_grant_allows_what_it_names(tmp_path: Path, source: str, target: str, allowed: bool) -> None:
    rules = "  rules: [{backendRefs: [{name: api, namespace: other, port: 80}]}]"
    grant = GRANT.replace("FROM", source).replace(" TO", target)
    result = loaded(tmp_path, f"{GATEWAY}{ROUTE}{rules}{grant}")
    assert (wrong(result) == []) is allowed
    action = routes(result)["HTTPRoute shop/tried rule 0 match 0"].action
    assert action == Forward("other/api:80", upgrades=("websocket",)) if allowed else isinstance(action, Answer)


FAULTS = [
    pytest.param("matches: [{path: {type: RegularExpression, value: '/(a'}}]", "RE2", id="a regex that Envoy refuses"),
    pytest.param("matches: [{path: {value: nowhere}}]", 'path starting with "/"', id="no path"),
    pytest.param("matches: [{method: FETCH}]", "expected one of GET", id="no method"),
    pytest.param("filters: [{type: RequestRedirect}]", "requestRedirect is missing", id="a filter without its field"),
    pytest.param("filters: [{type: URLRewrite, urlRewrite: {hostname: 'a b'}}]", "host name", id="no host name"),
    pytest.param(
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: host, value: x}]}}]",
        "URLRewrite only",
        id="a header that Envoy does not let be set",
    ),
    pytest.param("timeouts: {request: soon}", "duration", id="no duration"),
    pytest.param("timeouts: {request: 1s, backendRequest: 2s}", "longer than", id="timeouts the wrong way round"),
    pytest.param("sessionPersistence: {}", "not supported", id="what is not supported"),
    pytest.param("matches: 7", "expected a list", id="a wrong type"),
    pytest.param("matches: [7]", "expected a mapping", id="a wrong type within"),
    pytest.param(f"timeouts: [{'x, ' * (MAX_ITEMS + 1)}]", "expected at most 100,000 entries", id="too much"),
]


@pytest.mark.parametrize(("fields", "message"), FAULTS)
def test_a_value_that_cannot_be_used_costs_its_rule_alone(tmp_path: Path, fields: str, message: str) -> None:
    rules = f"  rules: [{{backendRefs: [{{name: web, port: 80}}], {fields}}}, {FINE}]"
    result = loaded(tmp_path, f"{GATEWAY}{ROUTE}{rules}")
    partially, accepted = wrong(result)  # the object, and a line within it
    assert "Accepted=False (UnsupportedValue): rule 0: " in accepted
    assert message in accepted
    assert "PartiallyInvalid=True (UnsupportedValue): the faults of rule 0 answer 500, the rest works" in partially
    actions = {title: route.action for title, route in routes(result).items()}
    assert actions["HTTPRoute shop/tried rule 0 match 0"].status_code == 500  # type: ignore[union-attr]
    assert isinstance(actions["HTTPRoute shop/tried rule 1 match 0"], Forward)
    # It comes behind what works, whatever it would take.
    assert next(iter(actions)) == "HTTPRoute shop/tried rule 1 match 0"


PARENTS = [
    pytest.param("parentRefs: [{name: gone}]", "NoMatchingParent", "there is no Gateway shop/gone", id="no Gateway"),
    pytest.param("parentRefs: [{name: main, sectionName: x}]", "NoMatchingParent", "no listener", id="no listener"),
    pytest.param("parentRefs: [{name: main, port: 1}]", "NoMatchingParent", "no listener", id="no port"),
    pytest.param("parentRefs: [{kind: Service, name: web}]", "NoMatchingParent", "no Gateway", id="no Gateway at all"),
    pytest.param("parentRefs: [{name: main, namespace: ''}]", "NoMatchingParent", NO_NAMESPACE, id="no namespace"),
    pytest.param("{}", "NoMatchingParent", "parentRefs is missing", id="no reference"),
    pytest.param(
        "{parentRefs: [{name: main}], hostnames: [shop.test]}",
        "NoMatchingListenerHostname",
        "shop.test",
        id="no host in common",
    ),
]


@pytest.mark.parametrize(("spec", "reason", "message"), PARENTS)
def test_a_route_that_cannot_be_attached_is_not_accepted(tmp_path: Path, spec: str, reason: str, message: str) -> None:
    head = ROUTE.partition("spec:")[0]
    result = loaded(tmp_path, f"{GATEWAY}{head}spec:\n  {spec}")
    (complaint,) = wrong(result)
    assert f"Accepted=False ({reason})" in complaint
    assert message in complaint
    assert routes(result) == {}


@pytest.mark.parametrize(
    ("field", "message"),
    [
        pytest.param("hostnames: [a b]", "spec.hostnames[0]: expected a domain", id="a host"),
        pytest.param("hostnames: 7", "spec.hostnames: expected a list", id="no hosts"),
        pytest.param("rules: 7", "spec.rules: expected a list", id="no rules"),
    ],
)
def test_a_route_without_its_hosts_or_rules_takes_no_requests(tmp_path: Path, field: str, message: str) -> None:
    rules = "" if field.startswith("rules") else f"  rules: [{FINE}]"
    result = loaded(tmp_path, f"{GATEWAY}{ROUTE}  {field}\n{rules}")
    (complaint,) = wrong(result)
    assert "Accepted=False (UnsupportedValue)" in complaint
    assert message in complaint
    assert routes(result) == {}


def test_a_namespace_is_let_in_by_its_labels(tmp_path: Path) -> None:
    text = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: main, namespace: infra}
spec:
  listeners:
  - name: web
    port: 8080
    protocol: HTTP
    allowedRoutes:
      namespaces: {from: Selector, selector: {matchExpressions: [{key: team, operator: In, values: [a]}]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: ours, labels: {team: a}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: theirs, labels: {team: b}}}
"""
    for name in ("ours", "theirs"):
        text += f"""---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: web, namespace: {name}}}
spec: {{parentRefs: [{{name: main, namespace: infra}}]}}
"""
    result = loaded(tmp_path, text)
    (complaint,) = wrong(result)
    assert "HTTPRoute theirs/web: Gateway infra/main: Accepted=False (NotAllowedByListeners)" in complaint
    assert list(routes(result)) == ["HTTPRoute ours/web rule 0 match 0"]


LISTENERS = [
    pytest.param("[{name: a, port: 1, protocol: TCP}]", "a: Accepted=False (UnsupportedProtocol)", id="protocol"),
    pytest.param("[{name: a, port: 0, protocol: HTTP}]", "a: Accepted=False (Invalid)", id="port"),
    pytest.param("[{name: a, port: 1, protocol: HTTPS}]", "a: Accepted=False (Invalid)", id="no certificate"),
    pytest.param(
        "[{name: a, port: 1, protocol: HTTPS, tls: {certificateRefs: [{name: gone}]}}]",
        "a: ResolvedRefs=False (InvalidCertificateRef)",
        id="a Secret that is not there",
    ),
    pytest.param(
        "[{name: a, port: 1, protocol: HTTPS, tls: {certificateRefs: [{name: it, namespace: other}]}}]",
        "a: ResolvedRefs=False (RefNotPermitted)",
        id="a Secret elsewhere",
    ),
    pytest.param(
        "[{name: a, port: 1, protocol: HTTP}, {name: b, port: 1, protocol: HTTP}]",
        "a: Conflicted=True (HostnameConflict)",
        id="two for all hosts",
    ),
    pytest.param(
        "[{name: a, port: 1, protocol: HTTP}, {name: b, port: 1, protocol: TLS}]",
        "a: Conflicted=True (ProtocolConflict)",
        id="two protocols",
    ),
]


@pytest.mark.parametrize(("listeners", "expected"), LISTENERS)
def test_a_listener_that_cannot_be_used_costs_itself_alone(tmp_path: Path, listeners: str, expected: str) -> None:
    gateway = f"""
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: tried, namespace: shop}}
spec: {{listeners: {listeners}}}
---
"""
    result = loaded(tmp_path, f"{gateway}{GATEWAY}")
    assert any(f"Gateway shop/tried: listener {expected}" in complaint for complaint in wrong(result))
    assert result.ruleset is not None
    assert result.ruleset.groups == ("gateway/shop/main/8080",)


def test_a_listener_goes_on_with_the_kinds_that_there_are(tmp_path: Path) -> None:
    kinds = "allowedRoutes: {kinds: [{kind: TCPRoute}, {kind: HTTPRoute}]}"
    result = loaded(
        tmp_path, f"{GATEWAY}{ROUTE}  rules: [{FINE}]".replace("protocol: HTTP,", f"protocol: HTTP, {kinds},")
    )
    (complaint,) = wrong(result)
    assert "listener web: ResolvedRefs=False (InvalidRouteKinds): allowedRoutes.kinds: TCPRoute" in complaint
    assert list(routes(result)) == ["HTTPRoute shop/tried rule 0 match 0"]


@pytest.mark.parametrize(
    ("listener", "reason"),
    [
        pytest.param("protocol: TLS", "NotAllowedByListeners", id="another protocol"),
        pytest.param("protocol: HTTP, allowedRoutes: {kinds: [{kind: TLSRoute}]}", "NotAllowedByListeners", id="kind"),
        pytest.param("protocol: HTTP, allowedRoutes: {namespaces: {from: None}}", "NotAllowedByListeners", id="none"),
        pytest.param("protocol: HTTPS", "NoMatchingParent", id="a listener that cannot be used"),
    ],
)
def test_a_listener_that_is_not_for_a_route_does_not_accept_it(tmp_path: Path, listener: str, reason: str) -> None:
    result = loaded(tmp_path, f"{GATEWAY}{ROUTE}  rules: [{FINE}]".replace("protocol: HTTP", listener, 1))
    assert any(f"Gateway shop/main: Accepted=False ({reason})" in complaint for complaint in wrong(result))
    assert routes(result) == {}


def test_two_gateways_cannot_have_one_address(tmp_path: Path) -> None:
    second = GATEWAY.partition("---")[0].replace("name: main", "name: second")
    result = loaded(tmp_path, f"{GATEWAY}{second}")
    assert any("Gateway shop/second: Programmed=False (AddressNotUsable)" in complaint for complaint in wrong(result))
    result = loaded(tmp_path, f"{GATEWAY}{second.replace('spec: {', 'spec: {addresses: [{value: 127.0.0.1}], ')}")
    assert wrong(result) == []
