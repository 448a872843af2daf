"""Single cases: what is said about them."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from case_files import CLOSED, GATEWAY, complaints, http_route, loaded, routes
from machine import ask
from test_kubernetes_examples import up

from rejoinder.cli import main
from rejoinder.cli.up import _elsewhere
from rejoinder.rules.model import Forward, Redirect

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
    result = loaded(tmp_path, TWO)
    assert "Programmed=False (AddressNotUsable)" in complaints(result)[0]
    assert result.ruleset is not None
    assert [listener.group for listener in result.ruleset.listeners] == ["gateway/demo/external/80"]
    moved = _elsewhere(result.ruleset, [("127.0.0.1", 1), ("127.0.0.2", 1)])
    assert [(listener.address, listener.group) for listener in moved] == [
        ("127.0.0.1", "gateway/demo/external/80"),
        ("127.0.0.2", "gateway/demo/internal/80"),
    ]
    (route,) = replace(result.ruleset, listeners=moved).of_group("gateway/demo/internal/80").routes
    assert isinstance(route.action, Redirect)
    assert route.action.host == "internal.test"
    assert _elsewhere(result.ruleset, [("127.0.0.1", 1)])[1:] == (), "nobody listens at an address of another"


def test_of_two_timeouts_the_shorter_counts(tmp_path: Path) -> None:
    timeouts = "timeouts: {request: 1m30s, backendRequest: 500ms}"
    read = loaded(tmp_path, GATEWAY + http_route(f"  rules: [{{{timeouts}, backendRefs: [{{name: app, port: 80}}]}}]"))
    assert [route.action.timeout for route in routes(read) if isinstance(route.action, Forward)] == [0.5]


def test_routes_of_longer_hosts_stand_in_front(tmp_path: Path) -> None:
    result = loaded(tmp_path, GATEWAY + http_route("  hostnames: ['*.test', a.b.test, '*.b.test']"))
    assert [route.domains for route in routes(result)] == [("a.b.test",), ("*.b.test",), ("*.test",)]


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
    result = loaded(tmp_path, GATEWAY + text)
    (said,) = complaints(result)
    assert "r: spec.rules[0]." in said
    assert 'the * in "/api/*" is compared as it stands' in said
    assert "/api/*" in [route.request.path.value for route in routes(result) if isinstance(route.action, Forward)]


def test_f12_what_answers_500_is_said(tmp_path: Path) -> None:
    spec = "  rules: [{matches: [{path: {value: /nothing}}]}]"
    (nothing,) = complaints(loaded(tmp_path, GATEWAY + http_route(spec)))
    assert "it has no backendRefs: there is nothing to forward to; it answers 500" in nothing


def test_f12_a_content_type_that_is_removed_is_gone(tmp_path: Path) -> None:
    remove = "{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [content-type]}}"
    typed = f"{{matches: [{{path: {{value: /typed}}}}], filters: [{CLOSED}]}}"
    text = GATEWAY + http_route(f"  rules: [{typed}, {{filters: [{remove}, {CLOSED}]}}]")
    assert complaints(loaded(tmp_path, text)) == []
    with up([tmp_path / "case.yaml"], 1) as (place,):
        got = [ask(place, "GET", "a.test", path) for path in ("/x", "/typed")]
    assert [response.values("content-type") for response in got] == [[], ["text/plain"]]
    assert [(response.status, response.body) for response in got] == [(503, b"closed")] * 2


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
    result = loaded(tmp_path, "rules: [{status_code: 503, headers: {Retry-After: 30, X: [1.50, a]}}]")
    assert result.ruleset is not None
    assert result.ruleset.rules[0].answers[0].headers == (("retry-after", "30"), ("x", "1.50"), ("x", "a"))


@pytest.mark.parametrize("text", ["api|/x", "(?i)/x", "a*/x", "[/]x", "/x", ".*x"])
def test_a_regex_that_may_fit_is_no_warning(tmp_path: Path, text: str) -> None:
    assert complaints(loaded(tmp_path, f"rules: [{{body: a, match: {{regex: '{text}'}}}}]")) == []


def test_check_reads_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"rules: [{body: a}]\nroutes: 7\n")))
    assert main(["check", "-"]) == 1
    assert "-:2: error: routes: expected a list" in capsys.readouterr().out


def test_check_each_takes_the_examples(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    assert main(["check", "--each", "examples/"]) == 0, capsys.readouterr().out
    said = capsys.readouterr().err
    for one in ("examples/quickstart.yaml", "examples/final.yaml", "examples/kgateway"):
        assert f"{one}: fine: " in said


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
