"""No edit of rules or routes changes a listener: Envoy replaces one that has changed, and cuts what lasts longer than
the old one drains. The exceptions are here, too."""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from gateway import Gateway, ruleset
from loading import _in_an_empty_folder, ruleset_of  # noqa: F401

from rejoinder.rules.model import Endpoint
from rejoinder.xds.build import build
from rejoinder.xds.snapshot import LISTENERS
from rejoinder.xds.translate import Placement, Settings

Json = dict[str, Any]

PAGE: Final[Json] = {"name": "page", "match": {"prefix": "/"}, "enable_on_status": ["5xx"], "body": "page"}
PLACEMENTS: Final = pytest.mark.parametrize("placement", Placement, ids=lambda placement: placement.value)


def listeners(placement: Placement, rules: list[Json], routes: list[Json]) -> list[bytes]:
    """Whatever Envoys get, in all forms and with all access logs."""
    document = {
        "listen": "127.0.0.1:10000",
        "upstreams": {"up": "http://127.0.0.1:1", "pages": "http://127.0.0.1:2"},
        "routes": [*routes, {"name": "all", "upstream": "up"}],
        "rules": rules,
    }
    ruleset = ruleset_of(yaml.safe_dump({key: value for key, value in document.items() if value}))
    made = build(ruleset, Settings(Endpoint("127.0.0.1", 9), conditional=placement)).snapshot
    forms = [form for form in (made, made.without_module, made.split) if form]
    logged = [form.logged(counts, lines) for form in forms for counts in (False, True) for lines in (False, True)]
    return [listener.body for form in logged for _, listener in sorted(form.by_type[LISTENERS].items())]


def rule(**fields: Any) -> Json:
    return {"name": "new", "match": {"path": "/x"}, **fields}


RULES: Final[dict[str, list[Json]]] = {
    "unconditional": [rule(body="text")],
    "without a body": [rule(status_code=204)],
    "of another status": [rule(status_code=503, body="text", headers=["A=b"])],
    "a redirect": [rule(status_code=302, headers=["Location=/y"])],
    "conditional": [rule(enable_on_status=[404], body="text")],
    "conditional, about a class": [rule(enable_on_status=["4xx", "5xx"], body="text")],
    "several answers": [rule(rules=[{"enable_on_status": [404], "body": "1"}, {"body": "2"}])],
    "pass": [rule(**{"pass": True})],
    "pass before an unconditional one": [rule(**{"pass": True}), rule(name="other", match={"prefix": "/"}, body="2")],
    "pass on a status": [rule(**{"pass": True}, enable_on_status=[503])],
    "final before an unconditional one": [
        rule(enable_on_status=[503], body="1", final=True),
        rule(name="other", match={"prefix": "/"}, body="2"),
    ],
    "observe": [rule(observe=True, body="text")],
    "observe on a status": [rule(observe=True, enable_on_status=[503], body="text")],
    "a template": [rule(template=True, body="{{ request.path }}")],
    "a template on a status": [rule(enable_on_status=[503], template=True, body="{{ request.header.x-a }}")],
    "variants": [rule(enable_on_status=[503], variants=[{"content_type": "text/html", "body": "1"}])],
    "the built-in page": [rule(enable_on_status=[503], page="builtin")],
    "a page of an upstream": [rule(enable_on_status=[503], page={"upstream": "pages"})],
    "gRPC": [rule(enable_on_status=[503], body="text", grpc={"status": 14, "message": "no"})],
    "keep_headers": [rule(enable_on_status=[503], body="text", keep_headers=["etag"])],
    "clients": [rule(match={"path": "/x", "clients": ["10.0.0.0/8"]}, body="text")],
    "unless": [rule(unless={"path": "/x/y"}, enable_on_status=[503], body="text")],
    "a regex": [rule(match={"regex": "/[ab]+"}, body="text")],
    "a regex and a prefix": [
        rule(match={"regex": "/a/[ab]+"}, enable_on_status=[503], body="1", final=True),
        rule(name="other", match={"prefix": "/a/b"}, body="2"),
    ],
    "headers, query, methods": [
        rule(match={"path": "/x", "headers": {"x-a": "1"}, "query": {"q": "1"}, "methods": ["GET"]}, body="text")
    ],
    "domains": [rule(match={"domains": ["a.test", "*.b.test"]}, body="text")],
    "routes": [rule(match={"routes": ["all"]}, body="text")],
    "response headers": [rule(match={"response_headers": {"x-a": "1"}}, enable_on_status=[503], body="text")],
    "source": [rule(enable_on_status=[503], source="local", body="text")],
    "a handler": [rule(handler="code:f")],
    "a handler on a status": [rule(enable_on_status=[503], handler="code:f")],
}
ROUTES: Final[dict[str, Json]] = {
    "respond": {"respond": {"body": "text"}},
    "respond without a body": {"respond": {"status_code": 204}},
    "redirect": {"redirect": {"path": "/y"}},
    "a rate limit": {"upstream": "up", "rate_limit": {"requests": 2, "per": "60s"}},
}


@PLACEMENTS
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_no_edit_of_rules_changes_a_listener(placement: Placement, rules: list[Json]) -> None:
    Path("code.py").write_text("def f(request, response):\n    return None\n")
    before = listeners(placement, [PAGE], [])
    assert listeners(placement, [*rules, PAGE], []) == before
    assert listeners(placement, [PAGE, *rules], []) == before


@PLACEMENTS
@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
def test_no_edit_of_routes_changes_a_listener(placement: Placement, route: Json) -> None:
    for rules in ([PAGE], []):
        before = listeners(placement, rules, [])
        assert listeners(placement, rules, [{"name": "new", "path": "/x", **route}]) == before


@PLACEMENTS
def test_the_first_rule_changes_none_and_the_last_neither(placement: Placement) -> None:
    assert (
        listeners(placement, [PAGE], [])
        == listeners(placement, [rule(body="text")], [])
        == listeners(placement, [], [])
    )


@PLACEMENTS
def test_only_what_the_listener_itself_answers_without_the_module_does(placement: Placement) -> None:
    early = {"name": "early", "enable_on_status": [431], "body": "too large"}
    changed = listeners(placement, [early, PAGE], []) != listeners(placement, [PAGE], [])
    assert changed is (placement is Placement.EXT_PROC)


def test_a_connection_lives_through_the_first_rule_and_the_last(gateway: Gateway, tmp_path: Path) -> None:
    host, port = gateway.upstream.address
    site = f"upstreams: {{up: 'http://{host}:{port}'}}\nroutes: [{{name: all, upstream: up}}]\n"
    sets = []
    for name, rules in (("without", ""), ("with", "rules: [{name: page, enable_on_status: [503], body: page}]\n")):
        (tmp_path / name).write_text(site + rules)
        sets.append(ruleset(tmp_path / name))
    gateway.apply(sets[0])
    client = http.client.HTTPConnection(*gateway.address)
    client.connect()
    connection = client.sock
    for which in (1, 0, 1, 0):
        gateway.apply(sets[which])
        client.request("GET", "/", headers={"x-status": "503"})
        with client.getresponse() as answer:
            assert (answer.read() == b"page") is bool(which)
            assert client.sock is connection, "Envoy has hung up"
    client.close()
    assert not any(gateway.stats(r"^listener_manager\.listener_(modified|in_place_updated|removed)$").values())
