"""Ingresses and the WasmPlugin of the custom-response plug-in: what they mean, and what clients get."""

from __future__ import annotations

from pathlib import Path

import pytest
from gateway import Gateway
from machine import ask
from manifests import EchoBackend, publish

from rejoinder.rules.answers import Reply
from rejoinder.rules.decide import decide
from rejoinder.rules.load import Loaded, load
from rejoinder.rules.model import Ruleset
from rejoinder.rules.request import parse

EXAMPLE = Path(__file__).parent.parent / "examples" / "higress"
ALONE = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80, name: http}]}}\n---\n"
INGRESS = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: tried}
spec:
"""
PLUGIN = """
apiVersion: extensions.higress.io/v1alpha1
kind: WasmPlugin
metadata: {name: custom-response, namespace: higress-system}
spec:
  url: oci://registry.test/plugins/custom-response:1.0.0
"""


def loaded(tmp_path: Path, text: str) -> Loaded:
    (tmp_path / "manifests.yaml").write_text(text)
    return load([tmp_path / "manifests.yaml"])


def ruleset(result: Loaded) -> Ruleset:
    assert result.ruleset is not None, result.problems
    return result.ruleset


def answer(rules: Ruleset, url: str, status: int = 200) -> tuple[int, bytes] | None:
    """What is sent in place of the upstream's response with this status; None: nothing."""
    host, _, path = url.partition("/")
    decision = decide(rules, parse("GET", host, f"/{path}"))
    reply: Reply | None = decision.reply
    if reply is None and (chosen := decision.on_status(status)):
        reply = chosen[1]
    return None if reply is None else (reply.status, reply.body)


@pytest.mark.parametrize(
    ("url", "status", "expected"),
    [
        pytest.param("any.test/a/x", 200, (200, b'{"hello":"world"}'), id="route-a is mocked"),
        pytest.param("any.test/b", 500, (200, b'{"hello":"world"}'), id="route-b is mocked"),
        pytest.param("test.com/a", 429, (200, b'{"hello":"world"}'), id="the first rule that fits decides"),
        pytest.param("test.com/x", 429, (200, b'{"errmsg": "rate limited"}'), id="a domain is throttled"),
        pytest.param("a.b.example.com/x", 429, (200, b'{"errmsg": "rate limited"}'), id="and its subdomains"),
        pytest.param("test.com/x", 503, None, id="the default is not for them"),
        pytest.param("example.com/x", 429, None, id="*.example.com is not example.com"),
        pytest.param("example.com/x", 503, (503, b"busy"), id="an exact status comes before a pattern"),
        pytest.param("example.com/x", 502, (503, b"try again"), id="a pattern"),
        pytest.param("example.com/x", 404, (404, b"nothing here"), id="another exact status"),
    ],
)
def test_the_example_answers_as_the_documentation_says(
    url: str, status: int, expected: tuple[int, bytes] | None
) -> None:
    result = load([EXAMPLE])
    assert result.complaints == ()
    assert answer(ruleset(result), url, status) == expected


def test_the_example_answers_in_envoy(gateway: Gateway) -> None:
    with EchoBackend("default", "web") as web:
        place = publish(gateway, ruleset(load([EXAMPLE], upstreams={"default/web:8080": web.url})))[""]
        mock = ask(place, "GET", "any.test", "/a/x")
        assert (mock.status, mock.body) == (200, b'{"hello":"world"}')
        assert mock.values("content-length") == ["17"]
        throttled = ask(place, "GET", "www.example.com", "/x", [("x-status", "429")])
        assert (throttled.status, throttled.body) == (200, b'{"errmsg": "rate limited"}')
        assert throttled.values("content-type") == ["application/json"]
        failed = ask(place, "GET", "other.test", "/x", [("x-status", "502")])
        assert (failed.status, failed.body, failed.values("retry-after")) == (503, b"try again", ["30"])
        assert b'"backend": "web"' in ask(place, "GET", "other.test", "/x").body


@pytest.mark.parametrize(
    ("fields", "url", "status", "expected"),
    [
        pytest.param("defaultConfig: {body: hi}", "a.test/", 200, (200, b"hi"), id="one answer"),
        pytest.param("defaultConfig: {body: hi}\n  defaultConfigDisable: true", "a.test/", 200, None, id="turned off"),
        pytest.param(
            "defaultConfig: {body: hi}\n  matchRules: [{domain: [a.test], configDisable: true, config: {body: no}}]",
            "a.test/",
            200,
            (200, b"hi"),
            id="a rule that is turned off leaves its requests to the default",
        ),
        pytest.param(
            "defaultConfig: {rules: [{body: rest}, {enable_on_status: [5xx], body: five},"
            " {enable_on_status: [503], body: exact}, {enable_on_status: [50x], body: tens}]}",
            "a.test/",
            503,
            (200, b"exact"),
            id="exact before fuzzy",
        ),
        pytest.param(
            "defaultConfig: {rules: [{body: rest}, {enable_on_status: [5xx], body: five},"
            " {enable_on_status: [50x], body: tens}]}",
            "a.test/",
            502,
            (200, b"tens"),
            id="of two patterns the narrower",
        ),
        pytest.param(
            "defaultConfig: {rules: [{body: rest}, {enable_on_status: [5xx], body: five}]}",
            "a.test/",
            404,
            (200, b"rest"),
            id="and the default last",
        ),
        pytest.param(
            "matchRules: [{service: [web.default.svc.cluster.local], config: {enable_on_status: ['404'], body: hi}}]",
            "a.test/",
            404,
            (200, b"hi"),
            id="routes to a service",
        ),
        pytest.param(
            "matchRules: [{service: ['web.default.svc.cluster.local:80'], domain: [b.test], config: {body: hi}}]",
            "a.test/",
            200,
            None,
            id="all that a rule says must fit",
        ),
        pytest.param(
            "matchRules: [{ingress: [default/tried], config: {body: hi}}]", "a.test/", 200, (200, b"hi"), id="ingress"
        ),
    ],
)
def test_a_plugin_is_read_as_higress_reads_it(
    tmp_path: Path, fields: str, url: str, status: int, expected: tuple[int, bytes] | None
) -> None:
    backend = "  defaultBackend: {service: {name: web, port: {number: 80}}}\n---"
    result = loaded(tmp_path, f"{ALONE}{INGRESS}{backend}{PLUGIN}  {fields}")
    assert result.complaints == ()
    assert answer(ruleset(result), url, status) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param("defaultConfig: {status_code: 42}", "defaultConfig.status_code: expected a status", id="status"),
        pytest.param("defaultConfig: {enable_on_status: [4x], body: a}", "three characters", id="pattern"),
        pytest.param("matchRules: [{config: {body: a}}]", "expected one of domain, ingress, service", id="no scope"),
        pytest.param("matchRules: [{domain: [a.test]}]", "config is missing", id="no configuration"),
        pytest.param("matchRules: 7", "expected a list", id="wrong type"),
        pytest.param("matchRules: [{ingress: [gone], config: {body: a}}]", 'called "gone"', id="no such route"),
    ],
)
def test_a_plugin_with_a_mistake_is_off_and_says_why(tmp_path: Path, fields: str, message: str) -> None:
    backend = "  defaultBackend: {service: {name: web, port: {number: 80}}}\n---"
    result = loaded(tmp_path, f"{ALONE}{INGRESS}{backend}{PLUGIN}  {fields}")
    (complaint,) = result.complaints
    assert message in str(complaint)
    assert "WasmPlugin higress-system/custom-response: " in str(complaint)
    assert ruleset(result).rules == ()


def test_a_plugin_with_something_superfluous_goes_on(tmp_path: Path) -> None:
    result = loaded(tmp_path, PLUGIN + "  defaultConfig: {headers: [Content-Length=17], body: hi}")
    (warning,) = result.complaints
    assert (
        "WasmPlugin higress-system/custom-response: spec.defaultConfig.headers[0]: content-length is left out"
        in str(warning)
    )
    assert answer(ruleset(result), "a.test/") == (200, b"hi")


def test_another_plugin_is_skipped_with_a_note(tmp_path: Path) -> None:
    result = loaded(tmp_path, PLUGIN.replace("custom-response:1", "key-auth:1") + "  defaultConfig: {body: a}")
    nothing, note = result.problems
    assert "nothing was loaded" in str(nothing)
    assert "note" in note.severity.value
    assert "is skipped: its url does not name the custom-response plug-in" in str(note)


def test_ingress_paths_are_tried_from_the_most_specific_on(tmp_path: Path) -> None:
    text = f"""{ALONE}{INGRESS}
  defaultBackend: {{service: {{name: web, port: {{number: 80}}}}}}
  rules:
  - http: {{paths: [{{path: /, pathType: Prefix, backend: &web {{service: {{name: web, port: {{name: http}}}}}}}}]}}
  - host: "*.shop.test"
    http: {{paths: [{{path: /a, pathType: Prefix, backend: *web}}, {{path: /a/b, pathType: Exact, backend: *web}}]}}
  - host: www.shop.test
    http: {{paths: [{{path: /a, pathType: ImplementationSpecific, backend: *web}}]}}
"""
    rules = ruleset(loaded(tmp_path, text))

    def taken(url: str) -> str:
        host, _, path = url.partition("/")
        route = decide(rules, parse("GET", host, f"/{path}")).route
        assert route is not None
        return route.title.removeprefix("Ingress default/tried ")

    assert taken("www.shop.test/a/b") == "rule 2 path 0"
    assert taken("x.shop.test/a/b") == "rule 1 path 1"
    assert taken("x.shop.test/a/c") == "rule 1 path 0"
    assert taken("x.shop.test/x") == "rule 0 path 0"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param("{}", "Accepted=False (Invalid): spec: it has neither rules", id="empty"),
        pytest.param(
            "{defaultBackend: {service: {name: gone, port: {number: 80}}}}",
            "ResolvedRefs=False (BackendNotFound): spec.defaultBackend: there is no Service default/gone",
            id="no Service",
        ),
        pytest.param(
            "{defaultBackend: {service: {name: web, port: {name: grpc}}}}",
            "ResolvedRefs=False (BackendNotFound): spec.defaultBackend: Service default/web has no port grpc",
            id="no port of that name",
        ),
        pytest.param(
            "{defaultBackend: {resource: {kind: Bucket, name: b}}}",
            "Accepted=False (Invalid): spec.defaultBackend: service is missing",
            id="no Service at all",
        ),
        pytest.param(
            "{rules: [{http: {paths: [{path: a, pathType: Exact, "
            "backend: {service: {name: web, port: {number: 80}}}}]}}]}",
            'Accepted=False (Invalid): spec.rules[0].http.paths[0].path: expected a path starting with "/"',
            id="no path",
        ),
    ],
)
def test_an_ingress_that_cannot_be_honoured_answers_500_and_says_why(tmp_path: Path, spec: str, expected: str) -> None:
    result = loaded(tmp_path, f"{ALONE}{INGRESS}  {spec}")
    (complaint,) = result.complaints
    assert expected in str(complaint)
    assert all(answer(ruleset(result), "a.test/x") == (500, route.action.body) for route in ruleset(result).routes)  # type: ignore[union-attr]


def test_what_an_ingress_cannot_say_here_is_told(tmp_path: Path) -> None:
    noted = INGRESS.replace("{name: tried}", "{name: tried, annotations: {higress.io/rewrite-target: /}}")
    spec = "  tls: [{hosts: [a.test]}]\n  defaultBackend: {service: {name: web, port: {number: 80}}}"
    annotations, tls = loaded(tmp_path, f"{ALONE}{noted}{spec}").problems
    assert "annotations have no effect here: higress.io/rewrite-target" in str(annotations)
    assert "spec.tls has no effect" in str(tls)
