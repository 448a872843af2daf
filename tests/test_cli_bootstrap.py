"""`render` and `bootstrap`, and Envoys that somebody else runs."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from command_line import (
    RULES,
    Command,
    Run,
    _in_a_folder_with_rules,  # noqa: F401 - a fixture
    _run,  # noqa: F401 - a fixture
    get,
    hand_written,
    printed,
    wait_for,
)
from gateway import Upstream, free_port
from machine import SECONDS, ask

from rejoinder import envoy
from rejoinder.envoy.module import library

# --- render and bootstrap ---


def test_render_prints_a_bootstrap_and_notes_on_standard_error(run: Run) -> None:
    code, out, err = run("render", "rules.yaml")
    assert code == 0
    resources = yaml.safe_load(out)["static_resources"]
    assert [cluster["name"] for cluster in resources["clusters"]] == ["echo", "rejoinder_ext_proc"]
    warning, note = err.splitlines()
    assert warning.startswith('rules.yaml:1: warning: upstream "echo": builtin:echo runs inside `rejoinder up` only')
    assert note.startswith("note:")


@pytest.mark.parametrize(
    ("placement", "kind"), [("ext_proc", "ext_proc.v3.ExternalProcessor"), ("module", "DynamicModuleFilter")]
)
def test_render_prints_the_placement_that_is_asked_for(run: Run, placement: str, kind: str) -> None:
    code, out, _ = run("render", "rules.yaml", "--conditional", placement)
    assert code == 0
    assert kind in out
    assert "config_discovery" not in out


def test_bootstrap_ads_prints_a_whole_bootstrap(run: Run) -> None:
    code, out, err = run("bootstrap", "ads", "--xds", "[::1]:18000", "--envoy-admin", "127.0.0.1:9901")
    assert (code, err) == (0, "")
    assert yaml.safe_load(out) == envoy.bootstrap(("::1", 18000), admin=("127.0.0.1", 9901))


@pytest.mark.parametrize("kind", ["module", "ext_proc"])
def test_a_filter_that_follows_says_what_pages_need(run: Run, kind: str) -> None:
    assert ("for a page, Envoy needs a cluster of its name" in run("bootstrap", kind)[1]) is (kind == "module")


def test_bootstrap_ads_with_an_access_log_and_without_counts(run: Run) -> None:
    code, out, err = run("bootstrap", "ads", "--access-log", "--no-counts")
    assert (code, err) == (0, "")
    assert yaml.safe_load(out) == envoy.bootstrap(access_log=True, counts=None)
    assert "stats_sinks" not in out


# --- serve, and Envoys that somebody else runs ---


@contextlib.contextmanager
def foreign_envoy(config: Any, environ: Mapping[str, str] = {}) -> Iterator[None]:
    """An Envoy that is not ours, with a configuration as its operator would write it, and nothing but this in its
    environment."""
    Path("envoy.yaml").write_text(yaml.safe_dump(config))
    command = [str(envoy.find().path), "--config-path", "envoy.yaml", "--disable-hot-restart", "--concurrency", "1"]
    with (
        open("envoy.log", "w", encoding="utf-8") as log,
        subprocess.Popen(command, stderr=log, stdout=log, env={**environ}) as process,
    ):
        try:
            yield
        finally:
            process.terminate()
            process.wait(SECONDS)


def test_an_envoy_with_the_printed_bootstrap_answers_as_serve_says(run: Run) -> None:
    xds, ext_proc, listen = free_port(), free_port(), free_port()
    upstream = Upstream()
    url = "http://{}:{}".format(*upstream.address)
    Path("rules.yaml").write_text(f"listen: 127.0.0.1:{listen}\n{RULES}")
    ports = ("--xds", f"127.0.0.1:{xds}", "--ext-proc", f"127.0.0.1:{ext_proc}", "--upstream", f"echo={url}")
    config = yaml.safe_load(printed(run, "bootstrap", "ads", "--xds", f"127.0.0.1:{xds}"))
    with contextlib.closing(upstream), Command("serve", "rules.yaml", *ports) as serve, foreign_envoy(config):
        address = ("127.0.0.1", listen)
        wait_for(lambda: get(address, "/mock").body == b"mock")
        assert get(address, "/x", ("x-status", "503")).body == b"busy"
        assert get(address, "/x", ("x-status", "404")).body == Upstream.BODY
        Path("rules.yaml").write_text(f"listen: 127.0.0.1:{listen}\n{RULES.replace('busy', 'edited')}")
        wait_for(lambda: get(address, "/x", ("x-status", "503")).body == b"edited")
        serve.process.send_signal(signal.SIGTERM)
        assert serve.ended() == 0


def test_an_envoy_without_the_module_is_told_what_it_lacks_and_where_its_answers_are(run: Run) -> None:
    xds, ext_proc, admin, listen = (free_port() for _ in range(4))
    Path("rules.yaml").write_text(f"listen: 127.0.0.1:{listen}\n{RULES}")
    where = (f"--xds=127.0.0.1:{xds}", f"--ext-proc=127.0.0.1:{ext_proc}", f"--admin=127.0.0.1:{admin}")
    text = printed(run, "bootstrap", "ads", where[0])
    assert f"# Start Envoy with ENVOY_DYNAMIC_MODULES_SEARCH_PATH={library.LIBRARY.parent}\n" in text

    def placements() -> set[str]:
        rules = json.loads(ask(("127.0.0.1", admin), "GET", "localhost", "/api/rules").body)["items"]
        return {rule["placement"] for rule in rules}

    with Command("serve", "rules.yaml", *where, "--conditional", "module") as serve:
        serve.wait_until_said("serving: ")
        assert placements() == {"native", "module"}
        with foreign_envoy(yaml.safe_load(text)):
            wait_for(lambda: get(("127.0.0.1", listen), "/mock").body == b"mock")
            assert placements() == {"native", "ext_proc"}
        serve.wait_until_said("gets its answers from ext_proc")
        (line,) = (line for line in serve.err if "gets its answers from ext_proc" in line)
        assert "start it with ENVOY_DYNAMIC_MODULES_SEARCH_PATH" in line
        assert line.count("oad dynamic module") == 0


BESIDE: Final = """\
rules:
  - {name: theirs, match: {routes: [theirs]}, final: true, enable_on_status: [503], body: scoped}
  - {name: mock, match: {domains: [mock.test]}, body: mock}
  - {name: busy, enable_on_status: [503], body: busy}
  - {name: missing, match: {domains: ["*.test"]}, enable_on_status: [404], body: every}
"""


@pytest.mark.parametrize(
    "how",
    [
        "bootstrap ext_proc rules.yaml",
        "bootstrap ext_proc",
        "bootstrap module rules.yaml",
        "bootstrap module rules.yaml --remote",
        "bootstrap module",
    ],
)
def test_a_hand_written_envoy_with_the_printed_filters_answers_as_the_rules_say(run: Run, how: str) -> None:
    xds, ext_proc, module, listen = free_port(), free_port(), free_port(), free_port()
    upstream = Upstream()
    Path("rules.yaml").write_text(BESIDE)
    how += f" http://127.0.0.1:{module}/librejoinder.so" if how.endswith("--remote") else ""
    here = ["--xds", f"127.0.0.1:{xds}", "--ext-proc-advertise", f"127.0.0.1:{ext_proc}"]
    code, out, _ = run(*how.split(), *here)  # a warning says that the route is somebody else's
    assert code == 0
    config = hand_written(listen, upstream.address, *map(yaml.safe_load, out.split("\n\n")))
    ports = ("--xds", f"127.0.0.1:{xds}", "--ext-proc", f"127.0.0.1:{ext_proc}", "--module", f"127.0.0.1:{module}")
    address = ("127.0.0.1", listen)
    environ = {} if "--remote" in how else {"ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(library.LIBRARY.parent)}

    def said(host: str, path: str, status: int) -> tuple[int, bytes]:
        response = ask(address, "GET", host, path, [("x-status", str(status))])
        return response.status, response.body

    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(upstream))
        serve = stack.enter_context(Command("serve", "rules.yaml", *ports))
        serve.wait_until_said("serving:")  # the module is fetched once
        stack.enter_context(foreign_envoy(config, environ))
        # Envoy takes each filter by itself.
        wait_for(lambda: said("mock.test", "/", 200) == (200, b"mock"))
        wait_for(lambda: said("a.test", "/others", 503) == (503, b"busy"))
        before = len(upstream.requests)
        assert said("mock.test", "/x", 503) == (200, b"mock")
        assert len(upstream.requests) == before
        assert said("a.test", "/theirs", 503) == (503, b"scoped")
        assert said("a.test", "/others", 503) == (503, b"busy")
        assert said("a.test", "/others", 404) == (404, b"every")
        assert said("a.test", "/theirs", 404) == (404, Upstream.BODY)
        assert said("a.example", "/others", 404) == (404, Upstream.BODY)
        if "rules.yaml" not in how:  # it follows `serve`
            kept = http.client.HTTPConnection(*address, timeout=SECONDS)
            kept.request("GET", "/others", headers={"host": "a.test", "x-status": "503"})
            assert kept.getresponse().read() == b"busy"
            connection = kept.sock
            Path("rules.yaml").write_text(BESIDE.replace("busy}", "edited}").replace("[404]", "[404, 410]"))
            wait_for(lambda: said("a.test", "/others", 503) == (503, b"edited"))
            # No listener was replaced: the connection of before lives on, and has the rules of now.
            kept.request("GET", "/others", headers={"host": "a.test", "x-status": "503"})
            assert kept.getresponse().read() == b"edited"
            assert kept.sock is connection
            kept.close()
            wait_for(lambda: said("a.test", "/others", 410) == (410, b"every"))


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        pytest.param("rules: [{name: r, enable_on_status: [503], body: x}]", ["rules"], id="statuses"),
        pytest.param("rules: [{name: r, body: x}]", ["rules", "requests"], id="requests"),
        pytest.param(
            "rules: [{name: r, match: {domains: [a.test]}, enable_on_status: [503], body: x}]",
            ["host", "rules"],
            id="hosts",
        ),
        pytest.param("rules: [{name: r, enable_on_status: [503], handler: m:f}]", ["rules", "requests"], id="handlers"),
    ],
)
def test_bootstrap_ext_proc_prints_the_filters_that_the_rules_need(run: Run, rules: str, names: list[str]) -> None:
    Path("rules.yaml").write_text(rules)
    filters = yaml.safe_load(printed(run, "bootstrap", "ext_proc", "rules.yaml").split("\n\n")[0])
    assert [entry["name"] for entry in filters] == [f"rejoinder.ext_proc.{name}" for name in names]


def test_bootstrap_says_that_routes_of_the_files_count_for_nothing_there(run: Run) -> None:
    code, _, err = run("bootstrap", "ext_proc", "rules.yaml")
    assert code == 0
    assert "the routes of these files (own, all) count for nothing in an Envoy with routes of its own" in err


def test_bootstrap_ads_takes_no_rules(run: Run) -> None:
    code, out, err = run("bootstrap", "ads", "rules.yaml")
    assert (code, out) == (1, "")
    assert err == "rejoinder: bootstrap ads takes no rule files: `rejoinder serve` has them\n"


def test_bootstrap_of_wrong_rules_prints_what_is_wrong(run: Run) -> None:
    Path("rules.yaml").write_text("rules: [{name: r, boddy: x}]")
    code, out, err = run("bootstrap", "ext_proc", "rules.yaml")
    assert (code, out) == (1, "")
    assert err.startswith("rules.yaml:1: error: ")


def test_bootstrap_prints_the_clusters_of_pages(run: Run) -> None:
    Path("rules.yaml").write_text(
        """\
upstreams: {shop: "http://shop.test", errors: "http://127.0.0.1:8090"}
rules: [{name: r, enable_on_status: [503], page: {upstream: errors}, body: x}]
"""
    )
    _, out, _ = run("bootstrap", "module", "rules.yaml")
    filters, clusters = out.split("# Into the clusters: what is asked for pages.")
    assert "dynamic_modules" in filters
    assert [cluster["name"] for cluster in yaml.safe_load(clusters)] == ["errors"]
    assert "name: errors" not in run("bootstrap", "ext_proc", "rules.yaml")[1]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["ext_proc"], ["rejoinder_xds", "rejoinder_ext_proc"]),
        (["module"], ["rejoinder_xds"]),
        (["ext_proc", "rules.yaml"], ["rejoinder_ext_proc"]),
        (["module", "rules.yaml", "--remote", "http://127.0.0.1:1/m.so"], ["errors", "rejoinder_module"]),
    ],
    ids=" ".join,
)
def test_bootstrap_prints_all_clusters_in_one_place(run: Run, arguments: list[str], names: list[str]) -> None:
    Path("rules.yaml").write_text(
        """\
upstreams: {errors: "http://127.0.0.1:8090"}
rules: [{name: r, enable_on_status: [503], page: {upstream: errors}, body: x}]
"""
    )
    _, out, _ = run("bootstrap", *arguments)
    _, clusters = out.split("# Into the clusters: ")
    assert [cluster["name"] for cluster in yaml.safe_load("# " + clusters)] == names
