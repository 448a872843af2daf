"""Manifests and rule files on which something was once lost in silence, each by the name of its case: what is right.

Manifests are written short: `GATEWAY` and `APP` stand beside each.
"""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rejoinder.cli import main
from rejoinder.cli.up import _elsewhere
from rejoinder.rules.answers import claims
from rejoinder.rules.load import Loaded, load
from rejoinder.rules.model import Answer, Endpoint, Forward, Redirect, Route, Upstream, UpstreamTls

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


def complaints(found: Loaded) -> list[str]:
    return [str(each).partition("case.yaml:")[2] for each in found.complaints]


def routes(found: Loaded) -> list[Route]:
    assert found.ruleset is not None, found.problems
    return list(found.ruleset.routes)


def wasm_plugin(spec: str) -> str:
    return f"""
apiVersion: extensions.higress.io/v1alpha1
kind: WasmPlugin
metadata: {{name: custom-response, namespace: higress-system}}
spec:
  url: oci://higress-registry.cn-hangzhou.cr.aliyuncs.com/plugins/custom-response:1.0.0
{spec}
"""


def test_f01_an_answer_whose_body_is_not_read_is_not_given(tmp_path: Path) -> None:
    text = GATEWAY.replace('body: "closed"', 'bodyFormat: {text: "asked for %REQ(:path)%"}')
    found = loaded(tmp_path, text + http_route(f"  rules: [{{filters: [{CLOSED}]}}]"))
    assert any("Accepted=False (Invalid): spec: bodyFormat is not supported" in each for each in complaints(found))
    (route,) = routes(found)
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
    found = loaded(tmp_path, GATEWAY + http_route(spec))
    assert any(f'unknown field "{field}"' in each for each in complaints(found))
    answers = [route.action for route in routes(found)]
    assert [each.status_code for each in answers if isinstance(each, Answer)] == ([] if status is None else [status])
    assert main(["check", str(tmp_path)]) == 1


@pytest.mark.parametrize("beside", [CLOSED, "{type: RequestRedirect, requestRedirect: {hostname: other.test}}"])
def test_f08_cors_beside_an_answer_is_refused(tmp_path: Path, beside: str) -> None:
    cors = '{type: CORS, cors: {allowOrigins: ["https://app.test"]}}'
    found = loaded(tmp_path, GATEWAY + http_route(f"  rules: [{{filters: [{cors}, {beside}]}}]"))
    assert "CORS has no effect where the gateway answers or redirects by itself" in complaints(found)[0]


REDIRECT = "  rules: [{filters: [{type: RequestRedirect, requestRedirect: {hostname: other.test}}]}]"


def test_f10_an_annotation_says_the_status_of_redirects(tmp_path: Path) -> None:
    metadata = 'name: r, namespace: demo, annotations: {kgateway.dev/http-redirect-status-code: "307"}'
    found = loaded(tmp_path, GATEWAY + http_route(REDIRECT, metadata))
    (route,) = routes(found)
    assert isinstance(route.action, Redirect)
    assert route.action.status_code == 307
    assert complaints(found) == []


@pytest.mark.parametrize("name", ["kgateway.dev/something", "nginx.ingress.kubernetes.io/rewrite-target"])
def test_f10_an_annotation_that_is_not_read_is_named(tmp_path: Path, name: str) -> None:
    metadata = f'name: r, namespace: demo, annotations: {{{name}: "x"}}'
    found = loaded(tmp_path, GATEWAY + http_route(REDIRECT, metadata))
    assert any(f"HTTPRoute demo/r: annotations have no effect here: {name}" in it for it in complaints(found))


def test_h02_a_key_that_the_plug_in_does_not_know_is_ignored(tmp_path: Path) -> None:
    spec = "  matchRules: [{domain: [a.test], config: {status_code: 503, body: closed, note: why}}]"
    found = loaded(tmp_path, wasm_plugin(spec))
    (complaint,) = complaints(found)
    assert 'WasmPlugin higress-system/custom-response: spec.matchRules[0].config: the field "note"' in complaint
    assert found.ruleset is not None
    assert [rule.answers[0].body for rule in found.ruleset.rules] == [b"closed"]


def test_h02_within_the_answers_of_a_list_too(tmp_path: Path) -> None:
    spec = "  defaultConfig: {rules: [{enable_on_status: [503], body: busy, bodi: x}]}"
    found = loaded(tmp_path, wasm_plugin(spec))
    assert 'the field "bodi" is ignored, did you mean "body"?' in complaints(found)[0]
    assert found.ruleset is not None
    assert len(found.ruleset.rules) == 1


def test_h09_the_configuration_in_pluginconfig_is_the_one(tmp_path: Path) -> None:
    spec = """  pluginConfig: {status_code: 503, body: closed, _rules_: [{_match_domain_: [foo.test], body: foo}]}
  defaultConfig: {body: other}"""
    found = loaded(tmp_path, wasm_plugin(spec))
    assert found.ruleset is not None
    assert [rule.answers[0].body for rule in found.ruleset.rules] == [b"foo", b"closed"]
    assert "spec.defaultConfig: has no effect beside pluginConfig" in complaints(found)[0]


@pytest.mark.parametrize("rules", ["{enable_on_status: [503], body: busy}", "[{name: a, body: busy, match: {}}]", "7"])
@pytest.mark.parametrize("field", ["defaultConfig", "pluginConfig"])
def test_h10_rules_that_are_no_answers_are_no_configuration(tmp_path: Path, field: str, rules: str) -> None:
    found = loaded(tmp_path, wasm_plugin(f"  {field}: {{rules: {rules}}}"))
    assert found.ruleset is not None
    assert complaints(found) if "name" in rules else "expected a list" in complaints(found)[0]


def test_h18_an_empty_list_is_no_condition(tmp_path: Path) -> None:
    spec = "  matchRules: [{domain: [a.test], ingress: [], service: [], config: {status_code: 503, body: closed}}]"
    found = loaded(tmp_path, wasm_plugin(spec))
    assert found.ruleset is not None
    (rule,) = found.ruleset.rules
    assert (rule.scope.domains, rule.scope.routes) == (("a.test",), None)
    assert complaints(found) == []


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
    found = loaded(tmp_path, SKIPPED)
    assert found.ruleset is None
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
    (ROUTE, "respond: {body: a}, timeout: 1s", "timeout: has no place without upstream"),
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
    found = loaded(tmp_path, form.format(fields))
    (complaint,) = complaints(found)
    assert message in complaint


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
    found = loaded(tmp_path, text, **given)
    assert complaints(found) == []
    (route,) = routes(found)
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
    found = loaded(tmp_path, text)
    assert complaints(found) == []
    assert found.ruleset is not None
    assert found.ruleset.upstreams == (upstream,)
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
    found = loaded(tmp_path, f"{text}---{plugin}", **given)
    assert found.ruleset is not None
    assert [list(rule.scope.routes or ()) for rule in found.ruleset.rules] == ([] if scope is None else [scope])
    if scope is None:
        assert 'called "other": did you mean "team-a/other"?' in complaints(found)[0]


@pytest.mark.parametrize("prefix", ["nginx.ingress.kubernetes.io", "higress.io", "mse.ingress.kubernetes.io"])
def test_h08_a_canary_is_left_out(tmp_path: Path, prefix: str) -> None:
    canary = f'{prefix}/canary: "true", {prefix}/canary-weight: "0"'
    text = ingress("default/a-canary", host="a.test", backend=service("canary"), annotations=canary)
    text += ingress("default/main", host="a.test", backend=service("stable"))
    given = {f"default/{name}:80": "http://127.0.0.1:1" for name in ("canary", "stable")}
    found = loaded(tmp_path, text, **given)
    assert [route.action for route in routes(found)] == [Forward("default/stable:80")]
    assert f"Ingress default/a-canary is left out: {prefix}/canary is not supported" in complaints(found)[0]


@pytest.mark.parametrize("path", ["/foo/[A-Z0-9]{3}", "/api/.*"])
def test_h14_a_regular_expression_is_no_path(tmp_path: Path, path: str) -> None:
    regex = 'nginx.ingress.kubernetes.io/use-regex: "true"'
    text = ingress("default/a", host="a.test", backend=service("web"), annotations=regex, path=path)
    found = loaded(tmp_path, text, **{"default/web:80": "http://127.0.0.1:1"})
    assert "a regular expression (nginx.ingress.kubernetes.io/use-regex) is not supported" in complaints(found)[0]
    assert isinstance(routes(found)[0].action, Answer)


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
    found = loaded(tmp_path, f"rules: [{{enable_on_status: [{pattern}], body: a}}]")
    assert found.ruleset is not None
    assert list(claims(found.ruleset.rules[0]).named) == statuses


def test_an_exact_status_comes_before_two_digits_and_those_before_one(tmp_path: Path) -> None:
    answers = ", ".join(f"{{enable_on_status: [{each}], body: '{each}'}}" for each in ("xx4", "4x4", "404"))
    found = loaded(tmp_path, f"rules: [{{name: a, rules: [{answers}]}}]")
    assert found.ruleset is not None
    called = [claims(found.ruleset.rules[0]).answer(status) for status in (404, 414, 504)]
    assert [answer and answer.body for answer in called] == [b"404", b"4x4", b"xx4"]


def test_a_pattern_of_interim_statuses_is_never_asked_for(tmp_path: Path) -> None:
    found = loaded(tmp_path, "rules: [{enable_on_status: [1x4], body: a}]")
    assert found.ruleset is not None
    assert "no response has a status such as 1x4" in complaints(found)[0]


def test_the_older_name_of_directresponse_is_read(tmp_path: Path) -> None:
    text = (GATEWAY + http_route(f"  rules: [{{filters: [{CLOSED}]}}]")).replace(
        "gateway.kgateway.dev", "gateway.gloo.solo.io"
    )
    found = loaded(tmp_path, text)
    assert complaints(found) == []
    (route,) = routes(found)
    assert isinstance(route.action, Answer)
    assert (route.action.status_code, route.action.body) == (503, b"closed")


TWO = "".join(
    f"""
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: demo}}
spec: {{listeners: [{{name: http, protocol: HTTP, port: 80}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: demo}}
spec:
  parentRefs: [{{name: {name}}}]
  rules: [{{filters: [{{type: RequestRedirect, requestRedirect: {{hostname: {name}.test}}}}]}}]
---
"""
    for name in ("external", "internal")
)


def test_f06_the_second_gateway_is_where_listen_puts_it(tmp_path: Path) -> None:
    found = loaded(tmp_path, TWO)
    assert "Programmed=False (AddressNotUsable)" in complaints(found)[0]
    assert found.ruleset is not None
    assert [each.group for each in found.ruleset.listeners] == ["gateway/demo/external/80"]
    moved = _elsewhere(found.ruleset, [("127.0.0.1", 1), ("127.0.0.2", 1)])
    assert [(each.address, each.group) for each in moved] == [
        ("127.0.0.1", "gateway/demo/external/80"),
        ("127.0.0.2", "gateway/demo/internal/80"),
    ]
    (route,) = replace(found.ruleset, listeners=moved).of_group("gateway/demo/internal/80").routes
    assert isinstance(route.action, Redirect)
    assert route.action.host == "internal.test"
    assert _elsewhere(found.ruleset, [("127.0.0.1", 1)])[1:] == (), "nobody listens at an address of another"


def test_of_two_timeouts_the_shorter_counts(tmp_path: Path) -> None:
    timeouts = "timeouts: {request: 1m30s, backendRequest: 500ms}"
    found = loaded(tmp_path, GATEWAY + http_route(f"  rules: [{{{timeouts}, backendRefs: [{{name: app, port: 80}}]}}]"))
    assert [route.action.timeout for route in routes(found) if isinstance(route.action, Forward)] == [0.5]


def test_routes_of_longer_hosts_stand_in_front(tmp_path: Path) -> None:
    found = loaded(tmp_path, GATEWAY + http_route("  hostnames: ['*.test', a.b.test, '*.b.test']"))
    assert [route.domains for route in routes(found)] == [("a.b.test",), ("*.b.test",), ("*.test",)]


INGRESS = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: r, namespace: demo}
spec:
  rules: [{http: {paths: [{path: %s, pathType: Prefix, backend: {service: {name: app, port: {number: 80}}}}]}}]
"""


@pytest.mark.parametrize(
    "text",
    [
        http_route("  rules: [{matches: [{path: {value: '/api/*'}}], backendRefs: [{name: app, port: 80}]}]"),
        INGRESS % "'/api/*'",
    ],
    ids=["HTTPRoute", "Ingress"],
)
def test_a_warning_about_a_path_takes_no_route_away(tmp_path: Path, text: str) -> None:
    found = loaded(tmp_path, GATEWAY + text)
    (said,) = complaints(found)
    assert "r: spec.rules[0]." in said
    assert 'the * in "/api/*" is compared as it stands' in said
    assert "/api/*" in [route.request.path.value for route in routes(found) if isinstance(route.action, Forward)]


def test_f12_what_answers_500_or_has_no_effect_is_said(tmp_path: Path) -> None:
    remove = "{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [content-type]}}"
    spec = f"  rules: [{{matches: [{{path: {{value: /nothing}}}}]}}, {{filters: [{remove}, {CLOSED}]}}]"
    nothing, removed = complaints(loaded(tmp_path, GATEWAY + http_route(spec)))
    assert "it has no backendRefs: there is nothing to forward to; it answers 500" in nothing
    assert "content-type is not removed" in removed


def test_f12_a_rewrite_has_no_query(tmp_path: Path) -> None:
    rewrite = "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: '/new?x=1'}}}"
    spec = f"  rules: [{{filters: [{rewrite}], backendRefs: [{{name: app, port: 80}}]}}]"
    assert "expected a path without a query" in complaints(loaded(tmp_path, GATEWAY + http_route(spec)))[0]


def test_f12_a_parent_that_is_no_gateway_is_called_what_it_is(tmp_path: Path) -> None:
    text = http_route("  rules: []").replace("{name: edge}", "{group: '', kind: Service, name: app, port: 80}")
    (complaint,) = complaints(loaded(tmp_path, GATEWAY + text))
    assert "HTTPRoute demo/r: Service demo/app port 80: Accepted=False" in complaint
    assert "Service demo/app is no Gateway" in complaint


def test_f13_explain_says_what_becomes_of_the_headers_of_a_route(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = "{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: a, value: b}]}}"
    text = GATEWAY + http_route(f"  rules: [{{filters: [{changes}], backendRefs: [{{name: app, port: 80}}]}}]")
    (tmp_path / "manifests.yaml").write_text(text)
    (tmp_path / "rules.yaml").write_text("rules: [{enable_on_status: [5xx], body: busy}]")
    said = {}
    for status in ("404", "503"):
        assert main(["explain", str(tmp_path), "--url", "http://a.test:8080/", "--status", status]) == 0
        said[status] = "which this answer replaces" in capsys.readouterr().out
    assert said == {"404": False, "503": True}


MESSAGES = [
    ("rules: [{match: {domains: *.example.com}, body: a}]", 'starts with * stands in quotes, such as "*.example.com"'),
    ("rules:\n  - body: a\n    headers: [{Location: /x}]", 'write "Location=/x"'),
    ("rules:\n  - body: a\n    headers:\n      - Location: /x", 'write "Location=/x"'),
    ("rules:\n  - body: error: x", "put a text with a colon in quotes"),
    ("rules:\n  - body: {a: 1}", "put the text in quotes, as in body: '{\"a\": 1}'"),
    ("rules:\n  - {name: a, location: /x}", 'unknown field "location", it is a header'),
    ("rules:\n  - {name: a, body: x, redirect: {host: a}}", 'unknown field "redirect", routes have it'),
    ("rules:\n  - {name: a, respond: {body: x}}", 'unknown field "respond", routes have it'),
    ("upstreams: {a: 'localhost:80'}\nroutes: [{name: a, upstream: a}]", "expected a URL such as"),
    ("rules: {name: a, body: x}", 'got a mapping: begin each entry with "- "'),
    ("rules: [{enable_on_status: [500], handler: 'a/h.py:f'}]", 'write "a.h:f"'),
    ("rules: [{body: a, match: {headers: {x: {not: v}}}}]", 'unknown field "not"'),
    # And what has no effect, or none that anybody wants: warnings.
    ("rules: [{body: a, match: {prefix: '/api/*'}}]", 'the * in "/api/*" is compared as it stands'),
    ("rules: [{status_code: 302}]", "a redirect without a Location header leads nowhere"),
    ("rules: [{body: a, match: {headers: {accept: '*/json'}}}]", '"*/json" is compared as it stands'),
    ("rules: [{body: a, match: {headers: {accept: /json/}}}]", '"/json/" is compared as it stands'),
    ("rules: [{body: 'hi {{name}}'}]", '"{{" is sent as it stands'),
    ("rules: [{body: 'hi %REQ(x)%'}]", '"%REQ(" is sent as it stands'),
    ("rules: [{body: a, match: {regex: 'api/.*'}}]", '"api/.*" never fits'),
]


@pytest.mark.parametrize(("text", "message"), MESSAGES, ids=[text for text, _ in MESSAGES])
def test_a_message_says_what_to_write(tmp_path: Path, text: str, message: str) -> None:
    (complaint,) = complaints(loaded(tmp_path, text))
    assert message in complaint


def test_numbers_are_header_values(tmp_path: Path) -> None:
    found = loaded(tmp_path, "rules: [{status_code: 503, headers: {Retry-After: 30, X: [1.50, a]}}]")
    assert found.ruleset is not None
    assert found.ruleset.rules[0].answers[0].headers == (("retry-after", "30"), ("x", "1.50"), ("x", "a"))


@pytest.mark.parametrize("text", ["api|/x", "(?i)/x", "a*/x", "[/]x", "/x", ".*x"])
def test_a_regex_that_may_fit_is_no_warning(tmp_path: Path, text: str) -> None:
    assert complaints(loaded(tmp_path, f"rules: [{{body: a, match: {{regex: '{text}'}}}}]")) == []


def test_check_reads_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"rules: [{body: a}]\nroutes: 7\n")))
    assert main(["check", "-"]) == 1
    assert "-:2: error: routes: expected a list" in capsys.readouterr().out


def test_check_each_takes_folders_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("a", "a/b", "c"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rules.yaml").write_text("rules: [{name: same, body: x}]")
    assert main(["check", str(tmp_path), "--each"]) == 0
    assert capsys.readouterr().err.count("fine: 0 upstreams, 0 routes, 1 rule") == 3
    (tmp_path / "a" / "b" / "rules.yaml").write_text("rules: 7")
    assert main(["check", str(tmp_path), "--each"]) == 1


HANDLERS = {
    "page:show": "",
    "page:shwo": 'handler page:shwo: AttributeError: there is no "shwo": did you mean "show"?',
    "pgae:show": "No module named 'pgae': did you mean \"page\"?",
    "page:Class.method": "",
    "ends:show": "SystemExit: 3",
    "dies:show": "handler dies:show: its import ends the process",
    "page:number": "expected a function, got int",
}


def test_check_says_which_handlers_are_not_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.py").write_text(
        "print('noise')\nnumber = 1\ndef show(request, response): ...\nclass Class:\n    def method(): ..."
    )
    (tmp_path / "ends.py").write_text("raise SystemExit(3)")
    (tmp_path / "dies.py").write_text("import os\nos._exit(0)")
    rules = "".join(
        f"- {{match: {{path: /{at}}}, enable_on_status: [503], handler: '{name}'}}\n"
        for at, name in enumerate(HANDLERS)
    )
    (tmp_path / "rules.yaml").write_text(f"rules:\n{rules}")
    assert main(["check", str(tmp_path)]) == 0
    said = capfd.readouterr()
    lines = said.out.splitlines()
    wanted = [(at + 2, message) for at, message in enumerate(HANDLERS.values()) if message]
    assert len(lines) == len(wanted)
    for line, (number, message) in zip(lines, wanted, strict=True):
        assert f"rules.yaml:{number}: warning: " in line
        assert message in line
    assert "noise" in said.err, "what a module prints is no part of the report"
    assert main(["check", str(tmp_path), "--strict"]) == 1
