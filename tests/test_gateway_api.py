"""What clients and backends get from Gateways, HTTPRoutes and DirectResponses, in a real Envoy."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway import Gateway
from gateway_api_manifests import MANIFESTS, RULES
from machine import Response, ask
from manifests import Address, EchoBackend, publish

from rejoinder.rules.decide import decide
from rejoinder.rules.load import load
from rejoinder.rules.request import parse


@pytest.fixture(scope="module")
def places(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Address]]:
    folder = tmp_path_factory.mktemp("manifests")
    (folder / "manifests.yaml").write_text(MANIFESTS)
    (folder / "rules.yaml").write_text(RULES)
    with EchoBackend("shop", "one") as one, EchoBackend("shop", "two") as two:
        loaded = load([folder], upstreams={"shop/one:80": one.url, "shop/two:80": two.url})
        assert loaded.ruleset is not None, loaded.problems
        yield publish(gateway, loaded.ruleset)


def asked(
    places: dict[str, Address],
    url: str,
    *,
    method: str = "GET",
    port: int = 80,
    headers: tuple[tuple[str, str], ...] = (),
) -> Response:
    host, _, path = url.partition("/")
    return ask(places[f"gateway/shop/main/{port}"], method, host, f"/{path}", headers)


def seen(response: Response) -> dict[str, str]:
    """What the backend saw."""
    assert response.status == 200, response
    echoed: dict[str, str] = json.loads(response.body)
    return echoed


def test_the_share_of_a_backend_that_is_not_there_is_answered_500(places: dict[str, Address]) -> None:
    statuses = [asked(places, "forward.test/half").status for _ in range(60)]
    assert set(statuses) == {200, 500}
    assert 10 < statuses.count(500) < 50


def test_backends_of_weight_0_alone_are_answered_500(places: dict[str, Address]) -> None:
    assert asked(places, "forward.test/zero").status == 500


@pytest.mark.parametrize(
    ("path", "host", "rewritten"),
    [
        pytest.param("/prefix/one", "forward.test", "/new", id="the prefix itself"),
        pytest.param("/prefix/one/x?q=/prefix/one", "forward.test", "/new/x?q=/prefix/one", id="the query stays"),
        pytest.param("/prefix/one/two/x", "forward.test", "/new/two/x", id="where a rule narrows the route"),
        pytest.param("/strip/x", "in.test", "/x", id="to the root, and another host"),
        pytest.param("/strip", "in.test", "/", id="to the root alone"),
        pytest.param("/only/one/x", "in.test", "/new/x", id="by a filter of the only backend"),
        pytest.param(
            "/one-of-two/x", "two.test", "/one-of-two/x", id="the host by a filter of one of several backends"
        ),
        pytest.param("/full/x?q", "forward.test", "/whole\\1?q", id="the whole path, nothing is substituted"),
    ],
)
def test_urls_are_rewritten(places: dict[str, Address], path: str, host: str, rewritten: str) -> None:
    came = json.loads(asked(places, f"forward.test{path}").body)
    assert (came["path"], came["headers"]["host"]) == (rewritten, [host])


def test_a_backend_may_be_a_redirect(places: dict[str, Address]) -> None:
    response = asked(places, "forward.test/elsewhere")
    assert (response.status, response.values("location")) == (302, ["http://elsewhere.test/elsewhere"])
    several = asked(places, "forward.test/several")
    assert (several.status, b"on one of several backendRefs" in several.body) == (500, True)


def test_headers_are_changed_for_one_backend_and_in_its_response(places: dict[str, Address]) -> None:
    echoed = ("x-echo-set-header", "X-Set:old, X-Add:a, X-Gone:1")
    response = asked(places, "forward.test/backend-headers", headers=(echoed,))
    assert json.loads(response.body)["headers"]["x-backend"] == ["two"]
    assert response.values("x-set") == ["100%"]
    assert ",".join(response.values("x-add")) == "a,b"
    assert response.values("x-gone") == []


def test_cors_answers_preflights_and_names_the_origin(places: dict[str, Address]) -> None:
    origin = ("origin", "https://a.web.test")
    preflight = asked(
        places, "forward.test/cors", method="OPTIONS", headers=(origin, ("access-control-request-method", "PUT"))
    )
    assert preflight.status == 200
    assert preflight.values("access-control-allow-origin") == ["https://a.web.test"]
    assert preflight.values("access-control-allow-methods") == ["GET, PUT"]
    assert preflight.values("access-control-max-age") == ["60"]
    assert asked(places, "forward.test/cors", headers=(origin,)).values("access-control-allow-origin") == [origin[1]]
    other = (("origin", "https://web.test.evil.test"),)
    assert asked(places, "forward.test/cors", headers=other).values("access-control-allow-origin") == []


def test_cors_for_all_says_what_was_asked_for(places: dict[str, Address]) -> None:
    asks = (
        ("origin", "https://a.test:123"),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x-one, x-two"),
    )
    preflight = asked(places, "forward.test/any-origin", method="OPTIONS", headers=asks)
    assert preflight.status == 200
    assert preflight.values("access-control-allow-origin") == ["https://a.test:123"]
    assert preflight.values("access-control-allow-credentials") == ["true"]
    # A browser takes `*` for a name where credentials are allowed.
    assert preflight.values("access-control-allow-methods") == ["PUT"]
    assert preflight.values("access-control-allow-headers") == ["x-one, x-two"]


def test_a_mirrored_request_is_answered_by_the_backend(places: dict[str, Address]) -> None:
    assert seen(asked(places, "forward.test/mirror"))["backend"] == "one"


def test_a_timeout_is_answered_504(places: dict[str, Address]) -> None:
    assert asked(places, "forward.test/patience", headers=(("x-echo-wait", "2"),)).status == 504


@pytest.mark.parametrize(
    ("url", "method", "headers", "backend"),
    [
        pytest.param("order.test/", "GET", (), None, id="the shortest prefix"),
        pytest.param("order.test/a/x", "GET", (), "one", id="a longer prefix"),
        pytest.param("order.test/a/x", "POST", (), "two", id="a method"),
        pytest.param("order.test/a", "GET", (("x-v", "2"),), "two", id="a header"),
        pytest.param("order.test/a?v=2", "GET", (), "two", id="a query parameter"),
        pytest.param("order.test/a/b", "GET", (), "two", id="an exact path"),
        pytest.param("order.test/a/7", "GET", (), "two", id="a regular expression before a prefix"),
        pytest.param("deep.order.test/a/deep/x", "GET", (), "two", id="the most specific host"),
        pytest.param("deep.order.test/a/x", "GET", (), "one", id="else the next one"),
    ],
)
def test_the_most_specific_match_takes_the_request(
    places: dict[str, Address], url: str, method: str, headers: tuple[tuple[str, str], ...], backend: str | None
) -> None:
    response = asked(places, url, method=method, headers=headers)
    if backend is None:
        assert (response.status, response.body) == (418, b"short and stout")
    else:
        assert seen(response)["backend"] == backend


@pytest.mark.parametrize(
    ("path", "port", "location"),
    [
        pytest.param("/scheme", 80, "https://redirect.test/scheme", id="the well-known port of a new scheme"),
        pytest.param("/scheme", 8081, "https://redirect.test/scheme", id="and not the listener's"),
        pytest.param("/host", 80, "http://new.test/host", id="a new host"),
        pytest.param("/host", 8081, "http://new.test:8081/host", id="a new host at the listener's port"),
        pytest.param("/port", 80, "http://redirect.test:8443/port", id="a new port"),
        pytest.param("/eighty", 80, "http://redirect.test/eighty", id="port 80 is left out"),
        pytest.param("/both", 80, "https://redirect.test:80/both", id="but not from https"),
        pytest.param("/old/x?q", 80, "http://redirect.test/new/x?q", id="a new prefix"),
        pytest.param("/all/x", 80, "http://redirect.test/one", id="a new path"),
    ],
)
def test_redirects_say_the_port_that_the_specification_wants(
    places: dict[str, Address], path: str, port: int, location: str
) -> None:
    response = asked(places, f"redirect.test{path}", port=port)
    assert response.status == (308 if path == "/port" else 302)
    assert response.values("location") == [location]
    assert urllib.parse.urlsplit(location).hostname in ("redirect.test", "new.test")
    assert response.values("x-why") == (["moved"] if path.startswith("/old") else [])


def test_a_direct_response_is_sent_with_the_headers_of_its_rule(places: dict[str, Address]) -> None:
    response = asked(places, "direct.test/tea")
    assert (response.status, response.body) == (418, b"short and stout")
    assert (response.values("content-type"), response.values("x-pot")) == (["text/tea"], ["1"])


def test_a_filter_may_hold_the_response_itself(places: dict[str, Address]) -> None:
    response = asked(places, "direct.test/own")
    assert (response.status, response.body) == (403, b"Forbidden")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/two", "several DirectResponses"),
        ("/redirect", "a DirectResponse and RequestRedirect exclude each other"),
        ("/backend", "a DirectResponse and backendRefs exclude each other"),
        ("/missing", "there is no DirectResponse shop/nothing"),
        ("/broken", "DirectResponse shop/broken cannot be used"),
        ("/unknown", 'the filter "Teleport" is not supported'),
    ],
)
def test_a_rule_that_cannot_be_honoured_answers_500_and_says_why(
    places: dict[str, Address], path: str, reason: str
) -> None:
    response = asked(places, f"direct.test{path}")
    assert response.status == 500
    assert reason in response.body.decode()
    assert response.body.decode().startswith("HTTPRoute shop/direct rule ")


def test_a_listener_has_its_hosts_for_itself(places: dict[str, Address]) -> None:
    assert seen(asked(places, "one.iso.test/only", port=8082))["backend"] == "two"
    assert seen(asked(places, "two.iso.test/only", port=8082))["backend"] == "one"
    assert asked(places, "one.iso.test/other", port=8082).status == 404


def test_rule_files_apply_to_the_routes_of_gateways(places: dict[str, Address]) -> None:
    for port in (80, 8081):
        assert asked(places, "rules.test/", port=port).body == b"from a rule file"


def test_a_rule_may_be_about_a_rule_of_an_httproute(places: dict[str, Address]) -> None:
    missing = (("x-status", "404"),)
    assert asked(places, "order.test/a/x", headers=missing).body == b"sorry"
    assert asked(places, "order.test/a/b", headers=missing).body != b"sorry"
    assert asked(places, "x.order.test/a/x", headers=missing).body != b"sorry"


def test_the_routes_stand_in_the_order_that_decide_takes_them(tmp_path: Path) -> None:
    path = tmp_path / "manifests.yaml"
    path.write_text(MANIFESTS)
    ruleset = load([path]).ruleset
    assert ruleset is not None
    decision = decide(ruleset.of_group("gateway/shop/main/80"), parse("GET", "x.order.test", "/a/b"))
    assert decision.route is not None
    assert decision.route.title == "HTTPRoute shop/order rule 5 match 0"
    assert decision.route.name == "httproute/shop/order/rule/5/match/0"


@pytest.mark.parametrize("listener", [80, 8080])
@pytest.mark.parametrize("hostnames", ["", "hostnames: [shop.test], ", "hostnames: ['*.test'], "])
def test_f07_a_new_scheme_has_its_own_port(gateway: Gateway, tmp_path: Path, listener: int, hostnames: str) -> None:
    path = tmp_path / "manifests.yaml"
    path.write_text(
        f"""
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: demo}}
spec: {{listeners: [{{name: http, protocol: HTTP, port: {listener}}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r, namespace: demo}}
spec:
  {{parentRefs: [{{name: edge}}], {hostnames}rules: [{{filters: [
    {{type: RequestRedirect, requestRedirect: {{scheme: https, statusCode: 301}}}}]}}]}}
"""
    )
    ruleset = load([path]).ruleset
    assert ruleset is not None
    place = publish(gateway, ruleset)[f"gateway/demo/edge/{listener}"]
    assert ask(place, "GET", "shop.test", "/x").values("location") == ["https://shop.test/x"]
    (location,) = ask(place, "GET", "shop.test:8080", "/x").values("location")
    assert location in ("https://shop.test/x", "https://shop.test:443/x")
