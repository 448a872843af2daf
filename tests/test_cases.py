"""Manifests and rule files on which something was once lost in silence, each by the name of its case: what is right.

Manifests are written short: `GATEWAY` and `APP` stand beside each.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from case_files import BRIDGE, CLOSED, GATEWAY, complaints, http_route, ingress, loaded, routes, service, wasm_plugin

from rejoinder.cli import main
from rejoinder.rules.answers import claims
from rejoinder.rules.model import Answer, Endpoint, Forward, Redirect, Upstream, UpstreamTls


def test_f01_an_answer_whose_body_is_not_read_is_not_given(tmp_path: Path) -> None:
    text = GATEWAY.replace('body: "closed"', 'bodyFormat: {text: "asked for %REQ(:path)%"}')
    result = loaded(tmp_path, text + http_route(f"  rules: [{{filters: [{CLOSED}]}}]"))
    assert any("Accepted=False (Invalid): spec: bodyFormat is not supported" in text for text in complaints(result))
    (route,) = routes(result)
    assert isinstance(route.action, Answer)
    assert route.action.status_code == 500


UNKNOWN = [
    pytest.param(
        f"  rules: [{{filter: [{CLOSED}], backendRefs: [{{name: app, port: 80}}]}}]", "filter", 500, id="rule"
    ),
    pytest.param(f"  rules: [{{match: [{{path: {{value: /a}}}}], filters: [{CLOSED}]}}]", "match", 500, id="match"),
    pytest.param(f"  hostname: shop.test\n  rules: [{{filters: [{CLOSED}]}}]", "hostname", None, id="hosts"),
    pytest.param(
        f"  rules: [{{matches: [{{path: {{value: /a, caseSensitive: false}}}}], filters: [{CLOSED}]}}]",
        "caseSensitive",
        500,
        id="a field that no API has",
    ),
]


@pytest.mark.parametrize(("spec", "field", "status"), UNKNOWN)
def test_f02_a_field_that_is_not_known_is_named(tmp_path: Path, spec: str, field: str, status: int | None) -> None:
    """What the rule would do without it is not done: it answers 500; without its hosts, a route has no requests."""
    result = loaded(tmp_path, GATEWAY + http_route(spec))
    assert any(f'unknown field "{field}"' in complaint for complaint in complaints(result))
    answers = [route.action for route in routes(result)]
    assert [answer.status_code for answer in answers if isinstance(answer, Answer)] == (
        [] if status is None else [status]
    )
    assert main(["check", str(tmp_path)]) == 1


@pytest.mark.parametrize("beside", [CLOSED, "{type: RequestRedirect, requestRedirect: {hostname: other.test}}"])
def test_f08_cors_beside_an_answer_is_refused(tmp_path: Path, beside: str) -> None:
    cors = '{type: CORS, cors: {allowOrigins: ["https://app.test"]}}'
    result = loaded(tmp_path, GATEWAY + http_route(f"  rules: [{{filters: [{cors}, {beside}]}}]"))
    assert "CORS has no effect where the gateway answers or redirects by itself" in complaints(result)[0]


REDIRECT = "  rules: [{filters: [{type: RequestRedirect, requestRedirect: {hostname: other.test}}]}]"


def test_f10_an_annotation_says_the_status_of_redirects(tmp_path: Path) -> None:
    metadata = 'name: r, namespace: demo, annotations: {kgateway.dev/http-redirect-status-code: "307"}'
    result = loaded(tmp_path, GATEWAY + http_route(REDIRECT, metadata))
    (route,) = routes(result)
    assert isinstance(route.action, Redirect)
    assert route.action.status_code == 307
    assert complaints(result) == []


@pytest.mark.parametrize("name", ["kgateway.dev/something", "nginx.ingress.kubernetes.io/rewrite-target"])
def test_f10_an_annotation_that_is_not_read_is_named(tmp_path: Path, name: str) -> None:
    metadata = f'name: r, namespace: demo, annotations: {{{name}: "x"}}'
    result = loaded(tmp_path, GATEWAY + http_route(REDIRECT, metadata))
    assert any(f"HTTPRoute demo/r: annotations have no effect here: {name}" in it for it in complaints(result))


def test_h02_a_key_that_the_plug_in_does_not_know_is_ignored(tmp_path: Path) -> None:
    spec = "  matchRules: [{domain: [a.test], config: {status_code: 503, body: closed, note: why}}]"
    result = loaded(tmp_path, wasm_plugin(spec))
    (complaint,) = complaints(result)
    assert 'WasmPlugin higress-system/custom-response: spec.matchRules[0].config: the field "note"' in complaint
    assert result.ruleset is not None
    assert [rule.answers[0].body for rule in result.ruleset.rules] == [b"closed"]


def test_h02_within_the_answers_of_a_list_too(tmp_path: Path) -> None:
    spec = "  defaultConfig: {rules: [{enable_on_status: [503], body: busy, bodi: x}]}"
    result = loaded(tmp_path, wasm_plugin(spec))
    assert 'the field "bodi" is ignored, did you mean "body"?' in complaints(result)[0]
    assert result.ruleset is not None
    assert len(result.ruleset.rules) == 1


def test_h09_the_configuration_in_pluginconfig_is_the_one(tmp_path: Path) -> None:
    spec = """  pluginConfig: {status_code: 503, body: closed, _rules_: [{_match_domain_: [foo.test], body: foo}]}
  defaultConfig: {body: other}"""
    result = loaded(tmp_path, wasm_plugin(spec))
    assert result.ruleset is not None
    assert [rule.answers[0].body for rule in result.ruleset.rules] == [b"foo", b"closed"]
    assert "spec.defaultConfig: has no effect beside pluginConfig" in complaints(result)[0]


@pytest.mark.parametrize("rules", ["{enable_on_status: [503], body: busy}", "[{name: a, body: busy, match: {}}]", "7"])
@pytest.mark.parametrize("field", ["defaultConfig", "pluginConfig"])
def test_h10_rules_that_are_no_answers_are_no_configuration(tmp_path: Path, field: str, rules: str) -> None:
    result = loaded(tmp_path, wasm_plugin(f"  {field}: {{rules: {rules}}}"))
    assert result.ruleset is not None
    assert complaints(result) if "name" in rules else "expected a list" in complaints(result)[0]


def test_h18_an_empty_list_is_no_condition(tmp_path: Path) -> None:
    spec = "  matchRules: [{domain: [a.test], ingress: [], service: [], config: {status_code: 503, body: closed}}]"
    result = loaded(tmp_path, wasm_plugin(spec))
    assert result.ruleset is not None
    (rule,) = result.ruleset.rules
    assert (rule.scope.domains, rule.scope.routes) == (("a.test",), None)
    assert complaints(result) == []


SKIPPED = """
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: r, namespace: demo}
---
apiVersion: extensions.higress.io/v1alpha1
kind: WasmPlugin
metadata: {name: cors, namespace: demo}
spec: {url: "oci://example.com/cors:1"}
"""


def test_a_file_of_kinds_that_are_not_read_is_not_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = loaded(tmp_path, SKIPPED)
    assert result.ruleset is None
    assert main(["check", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "nothing was loaded: no object here is of a kind that is read" in said.out
    assert "fine" not in said.err
    (tmp_path / "rules.yaml").write_text("rules: [{name: a, body: x}]")
    assert main(["check", str(tmp_path)]) == 0, "beside something to read, they are notes"


ROUTE = "upstreams: {{app: 'http://127.0.0.1:1'}}\nroutes: [{{name: a, {0}}}]"
UPSTREAM = "upstreams: {{app: {{urls: 'http://127.0.0.1:1', {0}}}}}"
MISTAKES = [
    (ROUTE, "upstream: app, timeout: 15", "timeout: expected a duration"),
    (ROUTE, "upstream: app, timeout: 87660001h", "timeout: expected a duration of at most 8760h"),
    (ROUTE, "respond: {body: a}, timeout: 1s", "timeout: is not allowed without upstream"),
    (ROUTE, "upstream: app, retries: {attempts: 0}", "retries.attempts: expected a number of attempts from 1 to 10"),
    (ROUTE, "upstream: app, retries: {attempts: 1, on: [never]}", "retries.on[0]: expected a status, a pattern"),
    (ROUTE, "upstream: app, upgrades: [CONNECT]", "upgrades[0]: expected a protocol such as websocket"),
    (ROUTE, "upstream: app, path: /a, rewrite: {prefix: /b}", "the route's prefix, and it has none: write path"),
    (ROUTE, "upstream: app, rewrite: {path: /b?c=d}", "expected a path without a query"),
    (UPSTREAM, "tls: {sni: a.test}", "tls: only https:// upstreams have TLS"),
    (UPSTREAM, "connect_timeout: 0s", "connect_timeout: expected a duration of at least 1ms"),
    (UPSTREAM, "health_check: {}", "health_check: path is missing"),
    (UPSTREAM, "host: 'http://a'", 'host: expected a host such as "example.com"'),
]


@pytest.mark.parametrize(("form", "fields", "message"), MISTAKES, ids=[fields for _, fields, _ in MISTAKES])
def test_a_field_of_a_route_or_upstream_that_cannot_be_used_is_an_error(
    tmp_path: Path, form: str, fields: str, message: str
) -> None:
    result = loaded(tmp_path, form.format(fields))
    (complaint,) = complaints(result)
    assert message in complaint


@pytest.mark.parametrize(
    ("destination", "upstreams"),
    [
        ("web.shop.svc.cluster.local:8080", ("shop/web:8080",)),
        ("legacy.static:80", ("legacy",)),
        ("100% legacy.static:80 v1", ("legacy",)),
        ("80% web.shop.svc.cluster.local:8080\\n20% legacy.static:80", ("shop/web:8080", "legacy")),
    ],
)
def test_h01_a_route_of_the_console_goes_to_its_destination(
    tmp_path: Path, destination: str, upstreams: tuple[str, ...]
) -> None:
    text = ingress(
        "higress-system/r", host="a.test", backend=BRIDGE, annotations=f'higress.io/destination: "{destination}"'
    )
    given = {"shop/web:8080": "http://127.0.0.1:1", "legacy": "http://127.0.0.1:2"}
    result = loaded(tmp_path, text, **given)
    assert complaints(result) == []
    (route,) = routes(result)
    assert isinstance(route.action, Forward)
    assert route.action.upstreams == upstreams
    missing = loaded(tmp_path, text)
    assert "ResolvedRefs=False (BackendNotFound)" in complaints(missing)[0]
    assert isinstance(routes(missing)[0].action, Answer)


REGISTRIES = """
---
apiVersion: networking.higress.io/v1
kind: McpBridge
metadata: {name: default, namespace: higress-system}
spec:
  registries:
  - {type: static, name: legacy, domain: "10.0.0.1:80,10.0.0.2:81", port: 80}
  - {type: dns, name: far, domain: far.test, port: 443, protocol: HTTPS, sni: near.test}
"""


@pytest.mark.parametrize(
    ("destination", "upstream"),
    [
        ("legacy.static:80", Upstream("legacy", (Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 81)))),
        (
            "far.dns:443",
            Upstream("far", (Endpoint("far.test", 443),), tls=True, tls_options=UpstreamTls(sni="near.test")),
        ),
    ],
)
def test_h01_a_registry_says_where_its_service_is(tmp_path: Path, destination: str, upstream: Upstream) -> None:
    annotation = f'higress.io/destination: "{destination}"'
    text = REGISTRIES + ingress("higress-system/r", host="a.test", backend=BRIDGE, annotations=annotation)
    result = loaded(tmp_path, text)
    assert complaints(result) == []
    assert result.ruleset is not None
    assert result.ruleset.upstreams == (upstream,)
    (given,) = loaded(tmp_path, text, **{upstream.name: "http://127.0.0.1:1"}).ruleset.upstreams  # type: ignore[union-attr]
    assert given.endpoints == (Endpoint("127.0.0.1", 1),), "the command line comes first"
    elsewhere = loaded(tmp_path, text.replace("name: default, namespace: higress-system", "name: default"))
    assert "it has to be in higress-system" in complaints(elsewhere)[0]
    assert isinstance(routes(elsewhere)[0].action, Answer)


@pytest.mark.parametrize("domain", ["10.0.0.1", "a.test:80x", "10.0.0.1:80,", "10.0.0.1:70000", ""])
def test_a_registry_without_usable_addresses_is_an_error(tmp_path: Path, domain: str) -> None:
    text = REGISTRIES.replace("10.0.0.1:80,10.0.0.2:81", domain)
    assert "domain: expected addresses such as" in complaints(loaded(tmp_path, text))[0]


@pytest.mark.parametrize(
    ("named", "scope"),
    [
        ("web", ["ingress/higress-system/web/rule/0/path/0"]),
        ("team-a/web", ["ingress/team-a/web/rule/0/path/0"]),
        ("other", None),
    ],
)
def test_h07_a_name_without_namespace_is_in_that_of_the_plug_in(
    tmp_path: Path, named: str, scope: list[str] | None
) -> None:
    text = "".join(
        ingress(name, host=f"{at}.test", backend=service("web"))
        for at, name in enumerate(("team-a/web", "higress-system/web", "team-a/other"))
    )
    plugin = wasm_plugin(f"  matchRules: [{{ingress: [{named}], config: {{status_code: 503, body: maintenance}}}}]")
    given = {f"{namespace}/web:80": "http://127.0.0.1:1" for namespace in ("team-a", "higress-system")}
    result = loaded(tmp_path, f"{text}---{plugin}", **given)
    assert result.ruleset is not None
    assert [list(rule.scope.routes or ()) for rule in result.ruleset.rules] == ([] if scope is None else [scope])
    if scope is None:
        assert 'called "other": did you mean "team-a/other"?' in complaints(result)[0]


@pytest.mark.parametrize("prefix", ["nginx.ingress.kubernetes.io", "higress.io", "mse.ingress.kubernetes.io"])
def test_h08_a_canary_is_left_out(tmp_path: Path, prefix: str) -> None:
    canary = f'{prefix}/canary: "true", {prefix}/canary-weight: "0"'
    text = ingress("default/a-canary", host="a.test", backend=service("canary"), annotations=canary)
    text += ingress("default/main", host="a.test", backend=service("stable"))
    given = {f"default/{name}:80": "http://127.0.0.1:1" for name in ("canary", "stable")}
    result = loaded(tmp_path, text, **given)
    assert [route.action for route in routes(result)] == [Forward("default/stable:80")]
    assert f"Ingress default/a-canary is left out: {prefix}/canary is not supported" in complaints(result)[0]


@pytest.mark.parametrize("path", ["/foo/[A-Z0-9]{3}", "/api/.*"])
def test_h14_a_regular_expression_is_no_path(tmp_path: Path, path: str) -> None:
    regex = 'nginx.ingress.kubernetes.io/use-regex: "true"'
    text = ingress("default/a", host="a.test", backend=service("web"), annotations=regex, path=path)
    result = loaded(tmp_path, text, **{"default/web:80": "http://127.0.0.1:1"})
    assert "a regular expression (nginx.ingress.kubernetes.io/use-regex) is not supported" in complaints(result)[0]
    assert isinstance(routes(result)[0].action, Answer)


@pytest.mark.parametrize(
    ("pattern", "statuses"),
    [
        ("4x4", [404, 414, 424, 434, 444, 454, 464, 474, 484, 494]),
        ("x23", [223, 323, 423, 523]),
        ("xx9", [status for status in range(200, 600) if status % 10 == 9]),
        ("50X", list(range(500, 510))),
    ],
)
def test_a_pattern_has_an_x_at_any_place(tmp_path: Path, pattern: str, statuses: list[int]) -> None:
    result = loaded(tmp_path, f"rules: [{{enable_on_status: [{pattern}], body: a}}]")
    assert result.ruleset is not None
    assert list(claims(result.ruleset.rules[0]).named) == statuses


def test_an_exact_status_comes_before_two_digits_and_those_before_one(tmp_path: Path) -> None:
    answers = ", ".join(f"{{enable_on_status: [{pattern}], body: '{pattern}'}}" for pattern in ("xx4", "4x4", "404"))
    result = loaded(tmp_path, f"rules: [{{name: a, rules: [{answers}]}}]")
    assert result.ruleset is not None
    called = [claims(result.ruleset.rules[0]).answer(status) for status in (404, 414, 504)]
    assert [answer and answer.body for answer in called] == [b"404", b"4x4", b"xx4"]


def test_a_pattern_of_interim_statuses_is_never_asked_for(tmp_path: Path) -> None:
    result = loaded(tmp_path, "rules: [{enable_on_status: [1x4], body: a}]")
    assert result.ruleset is not None
    assert "no response has a status such as 1x4" in complaints(result)[0]


def test_the_older_name_of_directresponse_is_read(tmp_path: Path) -> None:
    text = (GATEWAY + http_route(f"  rules: [{{filters: [{CLOSED}]}}]")).replace(
        "gateway.kgateway.dev", "gateway.gloo.solo.io"
    )
    result = loaded(tmp_path, text)
    assert complaints(result) == []
    (route,) = routes(result)
    assert isinstance(route.action, Answer)
    assert (route.action.status_code, route.action.body) == (503, b"closed")
