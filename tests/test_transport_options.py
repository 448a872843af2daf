"""Who is let in, what probes are told, and what is printed for Envoy."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from authorities import Authority
from command_line import Command, wait_for
from gateway import Upstream, free_ports
from machine import ask
from secured import (
    Secured,
    _in_a_folder_of_its_own,  # noqa: F401 - a fixture
    _upstream,  # noqa: F401 - a fixture
    printed,
    rules,
    running_envoy,
)

from rejoinder.cli import main
from rejoinder.cli.arguments import parser
from rejoinder.cli.transport import told
from rejoinder.rules.load import load
from rejoinder.transport.addresses import show
from rejoinder.xds.protobuf import encoder

# --- who is let in ---

TLS: Final = ["--tls-cert", "c", "--tls-key", "k"]
CLIENTS: Final = ["--tls-client-ca", "a", "--envoy-ca", "/e"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--xds", "0.0.0.0:1"], "--xds 0.0.0.0:1: every client would be let in: use --tls-cert, .*"),
        (["--ext-proc", "[::]:1"], r"--ext-proc \[::\]:1: every client .* or listen on unix:.*; or use --insecure"),
        (["--xds", "box.test:1"], "--xds box.test:1: .*"),
        (["--admin", "0.0.0.0:1"], "--admin 0.0.0.0:1: every client .*"),
        (["--insecure-keys"], "--insecure-keys: expected only beside --insecure"),
        (["--admin-no-client-cert", "--admin", "127.0.0.1:0"], ".*: expected only beside --tls-client-ca"),
        (["--admin-name", "box"], "--admin-name: expected only beside --admin"),
        (["--socket-mode", "660"], "--socket-mode: expected only beside a service on unix:/PATH"),
        (["--xds", "unix:/no/such/xds"], "cannot listen on unix:/no/such/xds: there is no folder /no/such"),
        (["--xds", "127.0.0.1:7", "--module", "0.0.0.0:7"], "--xds 127.0.0.1:7: .* where --module listens"),
        (
            ["--ext-proc", "127.0.0.1:7", "--workers", "2", "--admin", "127.0.0.1:8"],
            r"--admin 127.0.0.1:8: expected an address of its own, and that is where process 2 of the ext_proc service "
            r"\(--ext-proc 127.0.0.1:7, --workers 2\) listens",
        ),
        (["--ext-proc", "127.0.0.1:65535", "--workers", "2"], "--workers 2: expected as many ports .*"),
        ([*TLS, "--envoy-ca", "/e"], ".*expected --tls-client-ca, too.* or --insecure"),
        ([*TLS, "--tls-client-ca", "a"], ".*expected --envoy-ca and --envoy-cert, too.*"),
        (["--tls-cert", "c"], "expected --tls-cert and --tls-key together.*"),
        (["--tls-client-ca", "a"], "expected --tls-cert and --tls-key together.*"),
        ([*TLS, *CLIENTS, "--envoy-cert", "/x.pem"], "--envoy-key: expected with --envoy-cert in PEM.*"),
        (["--envoy-cert", "/x.yaml"], "expected --envoy-ca beside.*"),
        ([*TLS, *CLIENTS], "--tls-key k: No such file or directory"),
    ],
)
def test_serve_says_what_is_missing_before_it_lets_anybody_in(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rules.yaml").write_text("rules: [{name: a, body: x}]\n")
    free = ["--xds", "127.0.0.1:0", "--ext-proc", "127.0.0.1:0"]
    assert main(["serve", "rules.yaml", *free, *words]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if re.fullmatch(rf"\S+Z error rejoinder: {message}", line)], lines


def test_the_number_of_processes_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "rules.yaml", "--workers", "100000"])
    assert "expected a whole number from 1 to 999, got '100000'" in capsys.readouterr().err


def test_all_mistakes_of_the_options_are_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    Path("rules.yaml").write_text("rules: [{name: a, body: x}]\n")
    assert main(["serve", "rules.yaml", *TLS, "--insecure-keys", "--admin", "0.0.0.0:1"]) == 1
    said = [line.partition("rejoinder: ")[2].partition(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert said == ["--insecure-keys", "--tls-cert", "--tls-cert", "--tls-cert c", "--tls-key k", "--admin 0.0.0.0"]


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "box.test:1"])
def test_up_has_its_console_for_this_machine_unless_told_otherwise(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rules.yaml").write_text("rules: [{name: a, body: x}]\n")
    assert main(["up", "rules.yaml", "--admin", address]) == 1
    assert f"--admin {address}: every client would be let in" in capsys.readouterr().err


def test_insecure_is_let_listen_anywhere() -> None:
    Path("rules.yaml").write_text("rules: [{name: a, body: x}]\n")
    anywhere = ("--xds", "0.0.0.0:0", "--ext-proc", "0.0.0.0:0")
    with Command("serve", "rules.yaml", *anywhere, "--insecure") as serve:
        serve.wait_until_said("serving: ")
        for option in ("--xds", "--ext-proc"):
            assert serve.said(f"warning {option} 0.0.0.0:0: every client is let in")


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        pytest.param([], True, id="this machine"),
        pytest.param(["--xds", "unix:/x"], True, id="a Unix socket"),
        pytest.param(["--xds", "0.0.0.0:1", *TLS, *CLIENTS], True, id="client certificates"),
        pytest.param(["--xds", "0.0.0.0:1", "--insecure"], False, id="anybody"),
        pytest.param(["--xds", "0.0.0.0:1", *TLS, "--insecure"], False, id="anybody over TLS"),
        pytest.param(["--xds", "0.0.0.0:1", "--insecure", "--insecure-keys"], True, id="anybody, as somebody wants"),
    ],
)
def test_private_keys_are_for_those_who_have_shown_who_they_are(
    tmp_path: Path, words: list[str], keys: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate, key = Authority(tmp_path).sign("localhost")
    pair = f"certificate: {certificate}, key: {key}"
    Path("rules.yaml").write_text(
        f"listen: [{{address: '127.0.0.1:1', {pair}}}, '127.0.0.1:2']\n"
        f"upstreams: {{up: {{urls: 'https://up.test', tls: {{{pair}}}}}}}\n"
    )
    ruleset = load([Path("rules.yaml")]).ruleset
    assert ruleset is not None
    found = told(parser().parse_args(["serve", "rules.yaml", *words]))(ruleset)
    assert (found == ruleset) is keys
    assert [listener.port for listener in found.listeners] == ([1, 2] if keys else [2])
    assert (found.upstreams[0].tls_options.key is None) is not keys
    said = capsys.readouterr().err.splitlines()
    assert len(said) == (0 if keys else 2)
    if not keys:
        assert said[0].startswith("the listener 127.0.0.1:1 is left out: its private key is not told to Envoys that")
        assert said[1].startswith('upstream "up" gets no client certificate: ')


# --- what probes are told ---


def test_readiness_is_that_there_is_a_configuration_and_says_why_not() -> None:
    xds, admin, ext_proc = (("127.0.0.1", port) for port in free_ports())
    Path("rules.yaml").write_text("rules: [{name: a, boddy: x}]\n")
    words = ("--xds", show(xds), "--ext-proc", show(ext_proc), "--admin", show(admin))
    with Command("serve", "rules.yaml", *words) as serve:
        serve.wait_until_said("serving: ")
        assert ask(admin, "GET", "localhost", "/healthz").body == b"ok\n"
        unready = ask(admin, "GET", "localhost", "/readyz")
        assert unready.status == 503
        assert unready.body.startswith(b"the files cannot be used\nrules.yaml:1: ")
        Path("rules.yaml").write_text("rules: [{name: a, body: x}]\n")
        wait_for(lambda: ask(admin, "GET", "localhost", "/readyz").status == 200, serve.process)
        Path("rules.yaml").write_text("rules: [{name: a, boddy: x}]\n")
        serve.wait_until_said("not reloaded")
        assert ask(admin, "GET", "localhost", "/readyz").body == b"ok\n"  # with what it had


# --- what is printed for Envoy ---

PEM: Final = ["--envoy-ca", "/x/ca.crt", "--envoy-cert", "/x/tls.crt", "--envoy-key", "/x/tls.key"]
FOLLOWED: Final = ["--envoy-ca", "/x/ca.yaml", "--envoy-cert", "/x/cert.json"]


def clusters(capsys: pytest.CaptureFixture[str], *words: str) -> list[Any]:
    assert main(words) == 0
    found = []
    for part in yaml.safe_load_all(capsys.readouterr().out.replace("\n\n", "\n---\n")):
        resources = part.get("static_resources", {}) if isinstance(part, dict) else {"clusters": part}
        found += [each for each in resources.get("clusters", ()) if each["name"].startswith("rejoinder_")]
    return found


@pytest.mark.parametrize("tls", [PEM, FOLLOWED], ids=["PEM", "SDS"])
@pytest.mark.parametrize(
    ("how", "names"),
    [
        ("bootstrap ads", ["rejoinder_xds"]),
        ("bootstrap ext_proc rules.yaml", ["rejoinder_ext_proc"]),
        ("bootstrap ext_proc", ["rejoinder_xds", "rejoinder_ext_proc"]),
        ("bootstrap module", ["rejoinder_xds"]),
        ("render rules.yaml", ["rejoinder_ext_proc"]),
    ],
)
def test_whatever_is_printed_has_tls(
    how: str, names: list[str], tls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rules.yaml").write_text("rules: [{name: a, enable_on_status: [503], body: x}]\n")
    found = clusters(capsys, *how.split(), *tls, "--tls-server-name", "box.test")
    assert [each["name"] for each in found] == names
    for each in found:
        context = each["transport_socket"]["typed_config"]
        assert context["sni"] == "box.test"
        encoder("envoy.config.cluster.v3.Cluster")(each)  # such a message
    places = [*(["--xds", "unix:/x/xds"] if "bootstrap" in how else []), "--ext-proc-advertise", "unix:/x/ext_proc"]
    for each in clusters(capsys, *how.split(), *tls, *places):
        assert "transport_socket" not in each
        (endpoint,) = each["load_assignment"]["endpoints"][0]["lb_endpoints"]
        assert endpoint["endpoint"]["address"]["pipe"]["path"] == each["name"].replace("rejoinder_", "/x/")


@pytest.mark.parametrize(
    ("host", "sni", "verified"),
    [
        ("box.test", "box.test", {"san_type": "DNS", "matcher": {"exact": "box.test"}}),
        ("10.1.2.3", None, {"san_type": "IP_ADDRESS", "matcher": {"exact": "10.1.2.3"}}),
    ],
)
def test_envoy_verifies_the_name_or_address_that_it_connects_to(
    host: str, sni: str | None, verified: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (cluster,) = clusters(capsys, "bootstrap", "ads", "--xds", f"{host}:1", *PEM)
    context = cluster["transport_socket"]["typed_config"]
    assert context.get("sni") == sni
    assert context["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"] == [verified]


def test_a_service_with_another_name_is_told_nothing(
    tmp_path: Path, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    secured = Secured(tmp_path)
    rules(upstream)
    words = (*secured.pem(), "--tls-server-name", "box.test")
    config = printed(capsys, "ads", "--xds", show(secured.xds), *words)
    with Command(*secured.arguments) as serve, running_envoy(config) as admin:
        name = "cluster.rejoinder_xds.ssl.fail_verify_san"
        wait_for(lambda: asyncio.run(admin.stats(name))[name] > 1, serve.process)
        assert not serve.said("has connected")


@pytest.mark.parametrize("words", [[], PEM, ["--envoy-cert", "/x/a"]])
def test_a_secret_is_of_one_kind(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bootstrap", "secret", *words]) == 1
    assert "expected --envoy-cert and --envoy-key, or --envoy-ca" in capsys.readouterr().err
