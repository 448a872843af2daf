"""The Gateway API's conformance cases, against a real Envoy.

The cases are data of another project and are not in this repository: one file for each test of its suite, with the
manifests, requests and what must come back. They are read from `../shared/conformance` beside the checkout, or from
where REJOINDER_CONFORMANCE says. Without them this file fails in CI (CI=true), and is skipped elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from gateway import Gateway
from machine import Response, ask
from manifests import EchoBackend, publish

from rejoinder.rules.load import Loaded, load

Json = dict[str, Any]

FOLDER = Path(os.environ.get("REJOINDER_CONFORMANCE", Path(__file__).resolve().parents[2] / "shared" / "conformance"))
FILES = sorted((FOLDER / "gateway-api").glob("*.yaml"))


def test_the_cases_are_there() -> None:
    if FILES:
        return
    message = f"no conformance cases in {FOLDER}: say with REJOINDER_CONFORMANCE where they are"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@dataclass
class Suite:
    """One file: its manifests in a running Envoy, and where each port of a Gateway is."""

    data: Json
    folder: Path
    running: Gateway
    backends: dict[str, EchoBackend]
    loaded: Loaded = field(init=False)
    addresses: dict[str, tuple[str, int]] = field(default_factory=dict)
    """By the group of listeners."""
    hosts: dict[str, str] = field(default_factory=dict)
    """The address that each Gateway was given, which is the host of requests that say none."""

    def apply(self, manifests: list[Json]) -> None:
        path = self.folder / "manifests.yaml"
        path.write_text(yaml.safe_dump_all([self._placed(manifest) for manifest in manifests]))
        self.loaded = load([path], upstreams={name: backend.url for name, backend in self.backends.items()})
        rules = self.loaded.ruleset
        assert rules is not None, self.loaded.problems
        self.addresses = publish(self.running, rules)

    # Each Gateway gets an address of its own. Envoy listens on other ports, as those of the manifests may be taken.
    def _placed(self, manifest: Json) -> Json:
        if manifest["kind"] != "Gateway":
            return manifest
        name = f"{manifest['metadata']['namespace']}/{manifest['metadata']['name']}"
        host = self.hosts.setdefault(name, f"127.0.0.{len(self.hosts) + 2}")
        return {**manifest, "spec": {**manifest["spec"], "addresses": [{"type": "IPAddress", "value": host}]}}

    def ask(self, case: Json) -> Response:
        at, request = case["gateway"], case["request"]
        key = f"{at['namespace']}/{at['name']}"
        address = self.addresses[f"gateway/{key}/{at['port']}"]
        headers = [(name, value) for name, value in (request.get("headers") or {}).items()]
        return ask(address, request["method"], request["host"] or self.hosts[key], request["path"], headers)


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def suite(
    request: pytest.FixtureRequest, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Suite]:
    data = yaml.safe_load(request.param.read_text())
    with contextlib.ExitStack() as stack:
        backends: dict[str, EchoBackend] = {}
        for backend in data["backends"]:
            for port in backend["ports"]:
                name = f"{backend['namespace']}/{backend['service']}:{port}"
                backends[name] = EchoBackend(backend["namespace"], backend["service"])
                stack.callback(backends[name].close)
        made = Suite(data, tmp_path_factory.mktemp("suite"), gateway, backends)
        made.apply(data["manifests"])
        yield made


def test_requests_are_answered_as_the_suite_expects(suite: Suite) -> None:
    wrong = [text for case in suite.data["cases"] for text in failures(suite, case)]
    manifests = suite.data["manifests"]
    for step in suite.data.get("then", []):
        gone = {(old["kind"], old["metadata"]["namespace"], old["metadata"]["name"]) for old in step["delete"]}
        manifests = [
            manifest
            for manifest in manifests
            if (manifest["kind"], manifest["metadata"].get("namespace"), manifest["metadata"]["name"]) not in gone
        ]
        suite.apply(manifests)
        wrong += [text for case in step["cases"] for text in failures(suite, case)]
    assert not wrong, "\n".join(wrong)


def failures(suite: Suite, case: Json) -> list[str]:
    for _ in range(case.get("max_runs", 1)):
        responses = [suite.ask(case) for _ in range(case.get("repeat", 1))]
        wrong = [text for response in responses for text in mismatches(case["expect"], response)]
        wrong += uneven(case["expect"].get("distribution"), responses)
        if not wrong:
            return []
    return [f"{case['name']}: {text}" for text in dict.fromkeys(wrong)]


def uneven(expected: Json | None, responses: list[Response]) -> Iterator[str]:
    if expected:
        counted = Counter(json.loads(response.body)["backend"] for response in responses)
        for service in {*counted, *expected["share"]}:
            wanted, came = expected["share"].get(service, 0), counted[service] / len(responses)
            if abs(wanted - came) > (expected["tolerance"] if wanted else 0):
                yield f"{service}: expected a share of {wanted}, got {came}"


def mismatches(expected: Json, response: Response) -> Iterator[str]:
    """What is not as FORMAT.md says."""
    if response.status not in expected["status"]:
        yield f"expected status {expected['status']}, got {response.status}: {response.body[:200]!r}"
        return
    echoed = response.body.startswith(b'{"method":')
    if expected["from_backend"] is not None and expected["from_backend"] != echoed:
        yield f"expected the answer of a backend: {expected['from_backend']}, got {response.body[:200]!r}"
        return
    if echoed:
        yield from backend_mismatches(expected, json.loads(response.body))
    if response.status in (200, 204):
        yield from header_mismatches(expected, response)
    if redirect := expected.get("redirect"):
        yield from redirect_mismatches(redirect, response)
    if "body" in expected and response.body.decode() != expected["body"]:
        yield f"expected the body {expected['body']!r}, got {response.body!r}"
    if expected.get("body_contains", "") not in response.body.decode():
        yield f"expected {expected['body_contains']!r} in the body, got {response.body!r}"
    if "json_body" in expected and json.loads(response.body) != expected["json_body"]:
        yield f"expected the body {expected['json_body']!r}, got {response.body!r}"
    if "content_type" in expected:
        came = ",".join(response.values("content-type")).partition(";")[0]
        if came != expected["content_type"]:
            yield f"expected the content type {expected['content_type']}, got {came}"


def backend_mismatches(expected: Json, seen: Json) -> Iterator[str]:
    for name in ("backend", "namespace"):
        if expected[name] is not None and seen[name] != expected[name]:
            yield f"expected {name} {expected[name]}, got {seen[name]}"
    asked = expected.get("backend_request") or {}
    for name in ("method", "path"):
        if name in asked and asked[name] != seen[name]:
            yield f"the backend saw the {name} {seen[name]}, expected {asked[name]}"
    headers = {name: ",".join(values) for name, values in seen["headers"].items()}
    if asked.get("host") is not None and headers["host"] != asked["host"]:
        yield f"the backend saw the host {headers['host']}, expected {asked['host']}"
    for name, value in (asked.get("headers") or {}).items():
        if headers.get(name.lower()) != value:
            yield f"the backend saw {name}: {headers.get(name.lower())}, expected {value}"
    for name in asked.get("absent_headers") or []:
        if name.lower() in headers:
            yield f"the backend saw {name}: {headers[name.lower()]}, expected none"
    named = asked.get("header_equals_backend")
    if named and seen["headers"].get(named.lower()) != [seen["backend"]]:
        yield f"the backend saw {named}: {seen['headers'].get(named.lower())}, expected its own name"


def header_mismatches(expected: Json, response: Response) -> Iterator[str]:
    def plain(text: str) -> str:
        return text.replace(" ", "") if expected.get("ignore_header_whitespace") else text

    def came(name: str) -> str:
        return plain(",".join(response.values(name.lower())))

    for name, value in (expected.get("headers") or {}).items():
        if came(name) != plain(value):
            yield f"expected {name}: {value}, got {came(name)!r}"
    for name, values in (expected.get("headers_any_of") or {}).items():
        if came(name) not in map(plain, values):
            yield f"expected {name} to be one of {values}, got {came(name)!r}"
    for name in expected.get("absent_headers") or []:
        if response.values(name.lower()):
            yield f"expected no {name}, got {came(name)!r}"


def redirect_mismatches(expected: Json, response: Response) -> Iterator[str]:
    location = urllib.parse.urlsplit(",".join(response.values("location")))
    port = location.port if location.port != {"http": 80, "https": 443}[location.scheme] else None
    came = {"scheme": location.scheme, "host": location.hostname, "port": port, "path": location.path}
    for name, value in came.items():
        if value != expected[name] and not (name == "host" and expected[name] is None):
            yield f"expected a redirect with {name} {expected[name]}, got {location.geturl()}"


def test_objects_have_the_status_that_the_suite_expects(suite: Suite) -> None:
    status = {
        (status.object.kind, status.object.key.namespace, status.object.key.name): status.to_json("")["status"]
        for status in suite.loaded.statuses
    }
    for expected in suite.data.get("route_status", []):
        route, parent = expected["route"], expected["gateway"]
        parents = status["HTTPRoute", route["namespace"], route["name"]]["parents"]
        attached = next(
            status
            for status in parents
            if (status["parentRef"]["namespace"], status["parentRef"]["name"]) == (parent["namespace"], parent["name"])
        )
        came = [{name: shown[name] for name in ("type", "status", "reason")} for shown in attached["conditions"]]
        for condition in expected["conditions"]:
            assert {name: condition[name] for name in ("type", "status", "reason")} in came
    for expected in suite.data.get("gateway_status", []):
        at = expected["gateway"]
        listeners = status["Gateway", at["namespace"], at["name"]]["listeners"]
        for name, count in expected.get("attachedRoutes", {}).items():
            assert [listener["attachedRoutes"] for listener in listeners if listener["name"] == name] == [count]
