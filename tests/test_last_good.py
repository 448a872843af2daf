"""A mistake in one place leaves other answers, and what was there before, on the air: under `serve` and `up`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Final

import pytest
from last_good import UNUSABLE, tenant

from rejoinder.rules.load import Loaded, load
from rejoinder.rules.model import Answer
from rejoinder.rules.reload import Memory

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


def bodies(loaded: Loaded) -> dict[str, str]:
    """What is said, by domain."""
    assert loaded.ruleset is not None, [str(problem) for problem in loaded.problems]
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


@pytest.mark.parametrize("content", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_of_a_manifest_that_cannot_be_used_the_last_good_content_stays(folder: Folder, content: str | bytes) -> None:
    folder.says(one=tenant("one"), two=tenant("two"))
    assert folder.says(one=content, two=tenant("two", "second")) == {"one.test": "first", "two.test": "second"}
    result = folder.loaded()
    assert any("one.yaml" in str(complaint) for complaint in result.complaints)
    assert "the earlier content of this file stays in force" in str(result.problems)
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
        assert any("one.yaml" in str(complaint) for complaint in folder.loaded().complaints)
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
    said = [str(complaint) for complaint in folder.loaded().complaints]
    assert said
    assert all(text.endswith("; its earlier content stays in force") for text in said)


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
    result = folder.loaded()
    assert result.ruleset is not None
    assert [listener.port for listener in result.ruleset.listeners] == [8443]
    assert any("Secret infra/tls: Accepted=False (Invalid)" in str(complaint) for complaint in result.complaints)


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
    result = folder.loaded(gateway=gateway)
    assert bodies(result)["mock.test"] == "hi"
    assert result.ruleset is not None
    assert [listener.port for listener in result.ruleset.listeners] == [8080]
    assert "port 8080: rule files listen at 0.0.0.0:8080, too" in str(result.problems)


def test_rules_about_an_object_that_goes_hold_nobody_up(folder: Folder) -> None:
    rules = "rules: [{name: page, match: {routes: [httproute/one/web]}, enable_on_status: [503], body: x}]\n"
    folder.says(one=tenant("one"), two=tenant("one").replace("name: web", "name: web2"), rules=rules)
    result = folder.loaded(one=None, two=tenant("one", "second").replace("name: web", "name: web2"))
    assert bodies(result)["one.test"]
    assert 'no route here is called "httproute/one/web"' in str(result.problems)
