"""A mistake in one place leaves other answers, and what was there before, on the air: under `serve` and `up`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
from gateway import SECONDS, Upstream, ask, ruleset
from test_serve_lasts import Serve

from rejoinder import envoy
from rejoinder.envoy.module import library
from rejoinder.rules.load import Loaded, load
from rejoinder.rules.model import Answer, Endpoint
from rejoinder.rules.program import compile_rules
from rejoinder.rules.reload import Memory
from rejoinder.xds.plan import plan
from rejoinder.xds.server import Server
from rejoinder.xds.translate import Settings, translate
from rejoinder.xds.translate.encode import snapshot

ROUTE: Final = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: NS}
spec:
  parentRefs: [{name: gateway, namespace: infra}]
  hostnames: [NS.test]
  rules:
  - filters: [{type: ExtensionRef, extensionRef: {group: gateway.kgateway.dev, kind: DirectResponse, name: page}}]
---
apiVersion: gateway.kgateway.dev/v1alpha1
kind: DirectResponse
metadata: {name: page, namespace: NS}
spec: {status: 200, body: TEXT}
"""
PLUGIN: Final = """\
apiVersion: extensions.higress.io/v1alpha1
kind: WasmPlugin
metadata: {name: page, namespace: higress-system}
spec:
  url: oci://example.com/plugins/custom-response:2.0.0
  matchRules:
  - domain: [plugin.test]
    config: {enable_on_status: [503], body: TEXT}
"""


def tenant(namespace: str, text: str = "first") -> str:
    return ROUTE.replace("NS", namespace).replace("TEXT", text)


def bodies(loaded: Loaded) -> dict[str, str]:
    """What is said, by domain."""
    assert loaded.ruleset is not None, [str(each) for each in loaded.problems]
    routes = {route.domains[0]: route.action for route in loaded.ruleset.routes}
    answers = {domain: action.body for domain, action in routes.items() if isinstance(action, Answer)}
    answers |= {rule.scope.domains[0]: rule.answers[0].body for rule in loaded.ruleset.rules if rule.scope.domains}
    return {domain: body.decode().rstrip("\n") for domain, body in answers.items()}


class Folder:
    """Tenants' manifests, loaded again and again as `serve` does it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._memory = Memory()

    def says(self, **files: str | bytes | None) -> dict[str, str]:
        return bodies(self.loaded(**files))

    def loaded(self, **files: str | bytes | None) -> Loaded:
        for name, content in files.items():
            file = self._folder / f"{name}.yaml"
            if content is None:
                file.unlink()
            else:
                file.write_bytes(content.encode() if isinstance(content, str) else content)
        return load([self._folder], memory=self._memory)


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


UNUSABLE: Final[dict[str, str | bytes]] = {
    "template": "metadata: {{ .Values.name }}\n",
    "duplicate": "apiVersion: v1\napiVersion: v1\nkind: Service\n",
    "values": "replicaCount: 1\nimage: {repository: nginx}\n",
    "tag": "apiVersion: v1\nkind: !secret x\n",
    "latin-1": "apiVersion: v1\nkind: Service\nmetadata: {name: caf\xe9}\n".encode("latin-1"),
    "empty": "",
}


@pytest.mark.parametrize("content", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_of_a_manifest_that_cannot_be_used_the_last_good_content_stays(folder: Folder, content: str | bytes) -> None:
    folder.says(one=tenant("one"), two=tenant("two"))
    assert folder.says(one=content, two=tenant("two", "second")) == {"one.test": "first", "two.test": "second"}
    found = folder.loaded()
    assert any("one.yaml" in str(each) for each in found.complaints)
    assert "this file goes on as it was" in str(found.problems)
    assert folder.says(one=tenant("one", "mended")) == {"one.test": "mended", "two.test": "second"}
    assert folder.loaded().problems == ()
    assert folder.says(one=None) == {"two.test": "second"}
    assert folder.says(one=content) == {"two.test": "second"}


@pytest.mark.parametrize("content", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_at_a_start_it_is_left_out_with_an_error(folder: Folder, content: str | bytes, tmp_path: Path) -> None:
    assert folder.says(one=content, two=tenant("two")) == {"two.test": "first"}
    assert "this file is left out" in str(folder.loaded().problems)
    assert load([tmp_path]).ruleset is None, "of one load, all is wanted or nothing"


def test_a_manifest_that_may_not_be_read_is_of_the_same_kind(folder: Folder, tmp_path: Path) -> None:
    folder.says(one=tenant("one"), two=tenant("two"))
    (tmp_path / "one.yaml").unlink()
    (tmp_path / "one.yaml").symlink_to("nowhere")
    assert folder.says(two=tenant("two", "second")) == {"one.test": "first", "two.test": "second"}


def test_a_folder_or_file_that_is_named_and_not_there_is_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(tenant("one"))
    assert load([tmp_path, tmp_path / "two.yaml"], memory=Memory()).ruleset is None


def test_rule_files_are_one_unit(folder: Folder) -> None:
    """Without the operator's rules, tenants' routes would do what these forbid."""
    rules = "rules: [{name: block, match: {path: /admin}, status_code: 403}]\n"
    assert folder.loaded(one=tenant("one"), rules=rules).ruleset is not None
    for wrong in (rules.replace("403", "99"), "rules: ]", rules.replace("{name", "{{name")):
        assert folder.loaded(rules=wrong).ruleset is None
        assert folder.loaded(one=tenant("one", "second")).ruleset is None
    assert folder.loaded(rules=rules).ruleset is not None


WRONG: Final = [
    pytest.param(tenant("one").replace("status: 200", "status: 99"), id="DirectResponse"),
    pytest.param(tenant("one").replace("hostnames:", "hostnamse:"), id="HTTPRoute"),
    pytest.param(tenant("one").replace("extensionRef", "extensionReff"), id="a rule of an HTTPRoute"),
    pytest.param(tenant("one").replace("parentRefs", "parentRef"), id="no parents"),
    pytest.param(tenant("one").replace("name: web", "name: Web"), id="a name that is none"),
    pytest.param(tenant("one").replace("name: page, namespace", "nmae: page, namespace"), id="no name"),
    pytest.param(tenant("one").replace("kind: HTTPRoute", "kind: 7"), id="no kind"),
    pytest.param(tenant("one").replace("kind: HTTPRoute", "kind: HTTPRuote"), id="a misspelt kind"),
    pytest.param(tenant("one").replace("gateway.networking", "gatewy.networking"), id="a misspelt group"),
    pytest.param("apiVersion: v1\nkind: List\nitmes: []\n", id="a list without items"),
    pytest.param("apiVersion: v1\nkind: List\nitems: x\n", id="a list of nothing"),
    pytest.param(
        tenant("one").replace("metadata: {name: web", "metadata: {labels: 1, name: web"), id="labels that are none"
    ),
]


@pytest.mark.parametrize("wrong", WRONG)
def test_of_an_object_that_cannot_be_read_what_it_said_before_stays(folder: Folder, wrong: str) -> None:
    folder.says(one=tenant("one"), two=tenant("two"))
    assert wrong != tenant("one")
    for text in ("second", "third"):
        assert folder.says(one=wrong, two=tenant("two", text)) == {"one.test": "first", "two.test": text}
        assert any("one.yaml" in str(each) for each in folder.loaded().complaints)
    assert folder.says(one=tenant("one", "mended")) == {"one.test": "mended", "two.test": "third"}
    assert folder.loaded().complaints == ()
    assert folder.says(one="\n".join(["apiVersion: v1", "kind: Namespace", "metadata: {name: x}"])) == {
        "two.test": "third"
    }


def test_an_object_that_became_another_kind_is_gone(folder: Folder) -> None:
    folder.says(one=tenant("one"), two=tenant("two"))
    assert folder.says(one=tenant("one").replace("HTTPRoute", "TCPRoute")) == {"two.test": "first"}


def test_the_other_objects_of_its_file_are_followed(folder: Folder) -> None:
    folder.says(one=tenant("one"))
    both = tenant("one", "second").replace("extensionRef:", "extensionReff:")
    assert folder.says(one=both) == {"one.test": "second"}, "the HTTPRoute of before, the DirectResponse of now"
    said = [str(each) for each in folder.loaded().complaints]
    assert said
    assert all(each.endswith("; what it said before stays") for each in said)


@pytest.mark.parametrize("wrong", ["body: {x: 1}", "enable_on_status: [x], body: y", "statuscode: x, headers: [x]"])
def test_a_mistake_in_a_plugin_leaves_its_page_on_the_air(folder: Folder, wrong: str) -> None:
    first = folder.says(plugin=PLUGIN.replace("TEXT", "first"), one=tenant("one"))
    assert first == {"plugin.test": "first", "one.test": "first"}
    plugin = PLUGIN.replace("enable_on_status: [503], body: TEXT", wrong)
    assert folder.says(plugin=plugin, one=tenant("one", "second")) == {**first, "one.test": "second"}
    assert folder.says(plugin=PLUGIN.replace("TEXT", "mended"))["plugin.test"] == "mended"
    assert "plugin.test" not in folder.says(plugin=None)


def test_a_plugin_that_names_what_is_no_more_is_followed_all_the_same(folder: Folder) -> None:
    plugin = PLUGIN.replace("  - domain", "  - {ingress: [gone/gone], config: {body: x}}\n  - domain")
    folder.says(one=tenant("one"), plugin=PLUGIN.replace("TEXT", "first"))
    assert folder.says(plugin=plugin.replace("TEXT", "second"))["plugin.test"] == "first"
    folder.says(plugin=None)
    assert folder.says(plugin=plugin.replace("TEXT", "second"))["plugin.test"] == "second"
    assert folder.says(plugin=plugin.replace("TEXT", "third"))["plugin.test"] == "third"


def test_a_secret_that_holds_no_certificate_takes_no_listener_off_the_air(folder: Folder, tmp_path: Path) -> None:
    folder.says(one=tenant("one"))
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ("-subj", "/CN=one.test", "-keyout", str(key), "-out", str(certificate))
    command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *subject)
    subprocess.run(command, check=True, capture_output=True)
    data = json.dumps({"tls.crt": certificate.read_text(), "tls.key": key.read_text()})
    secret = f"apiVersion: v1\nkind: Secret\nmetadata: {{name: tls, namespace: infra}}\nstringData: {data}\n"
    gateway = (
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: gateway, namespace: infra}\n"
        "spec:\n  gatewayClassName: rejoinder\n  listeners:\n"
        "  - {name: https, port: 8443, protocol: HTTPS, allowedRoutes: {namespaces: {from: All}},"
        " tls: {certificateRefs: [{name: tls}]}}\n"
    )
    assert folder.says(gateway=gateway, secret=secret) == {"one.test": "first"}
    assert folder.says(secret=secret.replace("BEGIN", "BEGUN"), one=tenant("one", "second")) == {"one.test": "second"}
    found = folder.loaded()
    assert found.ruleset is not None
    assert [each.port for each in found.ruleset.listeners] == [8443]
    assert any("Secret infra/tls: Accepted=False (Invalid)" in str(each) for each in found.complaints)


def test_a_second_object_of_the_same_name_takes_nothing_from_the_first(folder: Folder) -> None:
    folder.says(b=tenant("one"))
    assert folder.says(a=tenant("one", "another")) == {"one.test": "first"}


def test_a_gateway_on_the_port_of_rule_files_holds_nobody_up(folder: Folder) -> None:
    rules = "listen: 0.0.0.0:8080\nroutes: [{name: mock, domains: [mock.test], respond: {body: hi}}]\n"
    folder.says(one=tenant("one"), rules=rules)
    gateway = (
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: gateway, namespace: infra}\n"
        "spec: {gatewayClassName: rejoinder, listeners: [{name: http, port: 8080, protocol: HTTP}]}\n"
    )
    found = folder.loaded(gateway=gateway)
    assert bodies(found)["mock.test"] == "hi"
    assert found.ruleset is not None
    assert [each.port for each in found.ruleset.listeners] == [8080]
    assert "port 8080: rule files listen at 0.0.0.0:8080, too" in str(found.problems)


def test_rules_about_an_object_that_goes_hold_nobody_up(folder: Folder) -> None:
    rules = "rules: [{name: page, match: {routes: [httproute/one/web]}, enable_on_status: [503], body: x}]\n"
    folder.says(one=tenant("one"), two=tenant("one").replace("name: web", "name: web2"), rules=rules)
    found = folder.loaded(one=None, two=tenant("one", "second").replace("name: web", "name: web2"))
    assert bodies(found)["one.test"]
    assert 'no route here is called "httproute/one/web"' in str(found.problems)


# --- processes ---


@contextlib.asynccontextmanager
async def new_envoy(port: int) -> AsyncIterator[envoy.EnvoyProcess]:
    bootstrap = envoy.bootstrap(("127.0.0.1", port), admin=("127.0.0.1", 0))
    environ = {**os.environ, **library.environment()}
    async with envoy.running(envoy.find().path, bootstrap, concurrency=1, environ=environ) as running:
        yield running


async def answer(address: tuple[str, int], *headers: tuple[str, str]) -> bytes:
    return (await asyncio.to_thread(ask, address, "GET", "a.test", "/", headers)).body


async def becomes(address: tuple[str, int], body: bytes, *headers: tuple[str, str]) -> None:
    async with asyncio.timeout(SECONDS):
        while await answer(address, *headers) != body:
            await asyncio.sleep(0.05)


async def only_address(running: envoy.EnvoyProcess) -> tuple[str, int]:
    ((address,),) = (await running.ready(["127.0.0.1:0"])).values()
    return address


@pytest.mark.skipif(not library.LIBRARY.is_file(), reason="the module was not compiled")
def test_serve_starts_over_a_broken_file_and_takes_it_when_it_is_mended(tmp_path: Path) -> None:
    """Envoys that run keep all answers, those to statuses as well; a new one is not ready before there is something."""
    file, upstream = tmp_path / "rules.yaml", Upstream()
    text = (
        "listen: 127.0.0.1:0\n"
        f"upstreams: {{up: 'http://{upstream.address[0]}:{upstream.address[1]}'}}\n"
        "routes: [{name: all, upstream: up}]\n"
        "rules: [{name: page, enable_on_status: [503], body: first}]\n"
    )
    busy, arguments = ("x-status", "503"), ("--conditional", "module")

    async def main() -> None:
        serve = Serve(file, *arguments, stderr=subprocess.DEVNULL)
        try:
            async with new_envoy(serve.xds[1]) as old:
                address = await only_address(old)
                assert await answer(address, busy) == b"first"
                serve.process.kill()
                serve.process.wait()
                file.write_text("rules: ]\n")
                serve = Serve(file, *arguments, again=serve, stderr=subprocess.DEVNULL)
                async with new_envoy(serve.xds[1]) as new:
                    async with asyncio.timeout(SECONDS):
                        while len(serve.status()["envoys"]) < 2:
                            await asyncio.sleep(0.05)
                    assert serve.status()["version"] == ""
                    assert str(file) in serve.status()["problems"][0]
                    assert await answer(address, busy) == b"first"
                    assert await new.admin.state() != "LIVE"
                    file.write_text(text.replace("first", "second"))
                    assert await answer(await only_address(new), busy) == b"second"
                    await becomes(address, b"second", busy)
            serve.process.terminate()
            assert serve.process.wait(SECONDS) == 0
        finally:
            serve.process.kill()
            serve.process.wait()

    file.write_text(text)
    with contextlib.closing(upstream):
        asyncio.run(main())


def test_a_new_envoy_that_rejects_the_routes_gets_no_listener_until_there_are_others(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("listen: 127.0.0.1:0\nrules: [{name: only, body: fine}]\n")
    (tmp_path / "more.yaml").write_text("rules: [{name: busy, enable_on_status: [503], body: x}]\n")
    found = ruleset(tmp_path)
    good = translate(found, compile_rules(found.rules), plan(found), Settings(Endpoint("127.0.0.1", 1)))
    (routes,) = good.routes
    twice = [*routes["virtual_hosts"], {**routes["virtual_hosts"][0], "name": "again"}]
    bad = dataclasses.replace(good, routes=({**routes, "virtual_hosts": twice},))

    async def main() -> None:
        server = Server()
        port = await server.start("127.0.0.1:0")
        server.publish(snapshot(bad))
        for publish in (True, False):  # to the first one that comes, and to one that comes when it is known
            async with new_envoy(port) as running:
                async with asyncio.timeout(SECONDS):
                    while not (server.status().clients and server.status().clients[0].nack):
                        await asyncio.sleep(0.01)
                    while await running.admin.listeners():
                        await asyncio.sleep(0.01)
                await asyncio.sleep(0.5)
                assert await running.admin.listeners() == {}
                if not publish:
                    server.publish(snapshot(good))
                    assert await answer(await only_address(running)) == b"fine"
            async with asyncio.timeout(SECONDS):
                while server.status().clients:
                    await asyncio.sleep(0.01)
        await server.stop()

    asyncio.run(main())


@contextlib.contextmanager
def up(file: Path, *arguments: str, ends: int = 0) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "rejoinder.cli", "up", str(file), "--concurrency", "1", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            yield process
            process.terminate()
            assert process.wait(SECONDS) == ends
        finally:
            process.kill()


def said(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(text)


def address_of(process: subprocess.Popen[str]) -> tuple[str, int]:
    assert process.stdout is not None
    found = re.fullmatch(r"listening on http://(.*):(\d+)\n", process.stdout.readline())
    assert found
    return found[1], int(found[2])


@pytest.mark.parametrize("broken", ["rules: ]\n", "", None], ids=["broken", "empty", "missing"])
def test_up_starts_over_a_broken_file_and_takes_it_when_it_is_mended(tmp_path: Path, broken: str | None) -> None:
    file = tmp_path / "rules.yaml"
    if broken is not None:
        file.write_text(broken)
    with up(file, "--listen", "127.0.0.1:0") as process:
        said(process, str(file))
        said(process, "nothing is served until the files can be used")
        file.write_text("rules: [{name: only, body: x, boddy: y}]\n")
        said(process, "boddy")
        said(process, "nothing is served until the files can be used")
        file.write_text("rules: [{name: only, body: mended}]\n")
        assert ask(address_of(process), "GET", "a.test", "/").body == b"mended"


def test_up_goes_on_when_envoy_rejects_what_it_starts_with(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    text = "listen: 127.0.0.1:0\nupstreams: {up: 'https://127.0.0.1:1'}\nrules: [{name: only, body: first}]\n"
    file.write_text(text)
    with up(file, "--trusted-ca", str(tmp_path / "nowhere.pem")) as process:
        said(process, "rejects the clusters")
        address = address_of(process)
        assert ask(address, "GET", "a.test", "/").body == b"first"
        file.write_text(text.replace("https", "http").replace("first", "second"))
        said(process, "reloaded: ")
        end = time.monotonic() + SECONDS
        while ask(address, "GET", "a.test", "/").body != b"second" and time.monotonic() < end:
            time.sleep(0.05)
        assert ask(address, "GET", "a.test", "/").body == b"second"


def test_up_leaves_out_a_manifest_that_is_broken_at_its_start(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("metadata: {{ .Values.name }}\n")
    (tmp_path / "two.yaml").write_text(tenant("two"))
    with up(tmp_path, "--listen", "127.0.0.1:0") as process:
        address = address_of(process)
        assert ask(address, "GET", "two.test", "/").body == b"first"
        (tmp_path / "one.yaml").write_text(tenant("one"))
        said(process, "reloaded: ")
        end = time.monotonic() + SECONDS
        while ask(address, "GET", "one.test", "/").body != b"first" and time.monotonic() < end:
            time.sleep(0.05)
        # And an edit that cannot be used takes nothing away.
        (tmp_path / "one.yaml").write_text("kind: Service\nkind: Service\n")
        (tmp_path / "two.yaml").write_text(tenant("two", "second"))
        while ask(address, "GET", "two.test", "/").body != b"second" and time.monotonic() < end:
            time.sleep(0.05)
        assert ask(address, "GET", "two.test", "/").body == b"second"
        assert ask(address, "GET", "one.test", "/").body == b"first"
