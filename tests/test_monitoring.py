"""What docs/monitoring.md and docs/monitoring/ say of metrics, held against those that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
import yaml
from gateway import free_ports, wait_for
from machine import ask
from prometheus_client.parser import text_string_to_metric_families
from with_console import Rejoinder, running

from rejoinder.cli.metrics import MOST_NODES, Metrics, State
from rejoinder.extproc import Counters
from rejoinder.rules.counts import Counts, Kind, Series
from rejoinder.rules.model import Answer, Position, Rule, Ruleset, StatusPattern
from rejoinder.rules.problem import Problem
from rejoinder.xds.events import ClientStatus

PROJECT: Final = Path(__file__).parents[1]
MONITORING: Final = PROJECT / "docs" / "monitoring"
PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(None in (PROMTOOL, PROMETHEUS), reason="needs Debian's package prometheus")
OTHERS: Final = {"up"}
"""Metrics of Prometheus' own."""

HOSTILE: Final = 'a "quoted"\\ name\nwith lines'
BUSY: Final = Answer(enable_on_status=(StatusPattern("503"),))
STATE: Final = State(
    counts=Counts(
        {
            Series("busy", "module", "503", "200"): 3,
            Series(HOSTILE, "native", "none", "200"): 1,
            Series("trial", "ext_proc", "404", "404", kind=Kind.OBSERVED): 2,
            Series("health", "native", "200", "200", Kind.PASSED): 4,
            Series("robots", "native", "none", "200", Kind.ROUTE): 5,
            Series("errors", "module", "none", "none", Kind.NO_PAGE): 6,
        }
    ),
    handler_failures={("fails", "module"): 1},
    ext_proc=Counters(
        Counts(), passed=5, failures=1, overloaded=2, streams=3, durations=(4, 1, *[0] * 11, 2), seconds=9.5
    ),
    problems=(Problem(Position("a.yaml", 1), "wrong"),),
    ruleset=Ruleset(
        rules=(Rule("busy", (Answer(enable_on_status=(StatusPattern("503"),)),)), Rule("mock", (Answer(),)))
    ),
    clients=(ClientStatus("one", "ipv4:127.0.0.1:1", "v1", "v2", None, (1, 40), ""),),
    version="v2",
)


def metrics() -> Metrics:
    made = Metrics(lambda: STATE)
    made.rejected("one")
    made.certificate_expiry = 1.5e9
    return made


def samples(made: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(made.text().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def names() -> set[str]:
    """Of the metrics that there are, as expressions name them."""
    return {name for name, _ in samples(metrics())}


def own(series: set[str]) -> set[str]:
    """Without what a histogram is made of, and what a library says of the process."""
    stems = {re.sub(r"_(bucket|count|sum)$", "", name) for name in series if name.startswith("rejoinder_")}
    return stems


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return content


def dashboard_expressions() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            # As Grafana replaces them.
            yield re.sub(r"\$__rate_interval|\$__range", "1m", target["expr"]).replace("$job", ".*")


def expressions() -> Iterator[str]:
    yield from (alert["expr"] for alert in alerts())
    yield from dashboard_expressions()


def test_numbers_are_told_as_they_are() -> None:
    values = samples(metrics())
    labels = (("original_status", "503"), ("placement", "module"), ("rule", "busy"), ("status", "200"))
    assert values["rejoinder_answers_total", labels] == 3
    observed = (("original_status", "404"), ("placement", "ext_proc"), ("rule", "trial"), ("status", "404"))
    assert values["rejoinder_observed_total", observed] == 2
    assert values["rejoinder_route_answers_total", (("route", "robots"), ("status", "200"))] == 5
    assert {dict(of).get("rule") for name, of in values if name == "rejoinder_answers_total"} == {"busy", HOSTILE}
    assert values["rejoinder_problems", (("severity", "error"),)] == 1
    assert values["rejoinder_rules", (("kind", "conditional"),)] == 1
    assert values["rejoinder_xds_clients_behind", ()] == 1
    assert values["rejoinder_ext_proc_duration_seconds_bucket", (("le", "0.00025"),)] == 5
    assert values["rejoinder_ext_proc_duration_seconds_count", ()] == 7
    assert values["rejoinder_ext_proc_duration_seconds_sum", ()] == 9.5


def test_whoever_connects_cannot_make_any_number_of_series() -> None:
    made = metrics()
    for number in range(3 * MOST_NODES):
        made.rejected(f"node-{number}")
    counts = {
        dict(labels)["node"]: value
        for (name, labels), value in samples(made).items()
        if name == "rejoinder_xds_nacks_total"
    }
    assert len(counts) == MOST_NODES + 1
    assert counts["other"] == 2 * MOST_NODES + 1


def test_the_page_has_every_metric_and_no_other() -> None:
    page = (PROJECT / "docs" / "monitoring.md").read_text()
    rows = re.findall(r"^\| `(rejoinder_\w+)", page, re.MULTILINE)
    assert sorted(rows) == sorted(own(names()))


@pytest.mark.parametrize("expression", list(expressions()))
def test_alerts_and_dashboard_ask_for_metrics_that_there_are(expression: str) -> None:
    asked = set(re.findall(r"\b(?:rejoinder_\w+|process_\w+|up)\b(?=[{ \[)]|$)", expression))
    assert asked
    assert asked - OTHERS <= names()


def test_alerts_say_what_is_the_matter() -> None:
    for alert in alerts():
        assert alert.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert alert["labels"]["severity"] in ("critical", "warning", "info")
        assert alert["annotations"]["summary"]


def test_the_dashboard_is_one() -> None:
    board = dashboard()
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= board.keys()
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert all(x < 24 for x, _ in cells)
        taken |= cells
        for target in panel.get("targets", ()):
            assert panel["datasource"] == target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert 'job=~"$job"' in target["expr"]


@needs_prometheus
def test_prometheus_takes_all_of_it(tmp_path: Path) -> None:
    rules = [{"record": f"a:{number}", "expr": expression} for number, expression in enumerate(expressions())]
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    _promtool("check", "rules", str(file))
    _promtool("check", "config", str(MONITORING / "prometheus.yaml"))
    _promtool("check", "metrics", given=metrics().text())


FIRES: Final = {
    # what: (the alert, series at one sample a minute from the start on, what its name, or what it is about, adds)
    "no answer": ("RejoinderDown", 'up{job="rejoinder",instance="a"}', "1 0x20", ["instance", "job"]),
    "wrong files": ("RejoinderFilesWrong", 'rejoinder_problems{severity="error"}', "2x20", []),
    "old files": ("RejoinderServesLastGood", "rejoinder_last_good_served", "1x20", []),
    "not kept": ("RejoinderCannotKeep", "rejoinder_last_good_unsaved", "1x20", []),
    "an edit": ("RejoinderReloadFailed", 'rejoinder_reloads_total{result="failed"}', "0x9 1x20", ["result"]),
    "a rejection": ("RejoinderEnvoyRejects", "rejoinder_xds_clients_rejecting", "1x20", []),
    "behind": ("RejoinderEnvoysBehind", "rejoinder_xds_clients_behind", "1x20", []),
    "no Envoy": ("RejoinderNoEnvoys", "rejoinder_xds_clients", "0x20", []),
    "a certificate": ("RejoinderCertificateEnds", "rejoinder_certificate_expiry_timestamp_seconds", "600000x20", []),
    "overload": ("RejoinderOverloaded", "rejoinder_ext_proc_overloaded_total", "0+9x20", []),
    "an exchange": ("RejoinderExtProcFailures", "rejoinder_ext_proc_failures_total", "0x9 1x20", []),
    "the first failure": ("RejoinderHandlerFails", 'rejoinder_handler_failures_total{rule="r"}', "_x9 1x20", ["rule"]),
    "another failure": ("RejoinderHandlerFails", 'rejoinder_handler_failures_total{rule="r"}', "4x9 5x20", ["rule"]),
    "the first page": ("RejoinderPageFails", 'rejoinder_page_failures_total{rule="r"}', "_x9 1x20", ["rule"]),
    "another page": ("RejoinderPageFails", 'rejoinder_page_failures_total{rule="r"}', "4x9 5x20", ["rule"]),
    "hidden errors": (
        "RejoinderAnswersForErrors",
        'rejoinder_answers_total{rule="r",original_status="503"}',
        "0+90x20",
        ["rule"],
    ),
}
QUIET: Final = {
    "RejoinderDown": "1x20",
    "RejoinderFilesWrong": "0x20",
    "RejoinderServesLastGood": "0x20",
    "RejoinderCannotKeep": "0x20",
    "RejoinderReloadFailed": "1x20",
    "RejoinderEnvoyRejects": "0x20",
    "RejoinderEnvoysBehind": "1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0",
    "RejoinderNoEnvoys": "1x20",
    "RejoinderCertificateEnds": "700000x20",
    "RejoinderOverloaded": "7x20",
    "RejoinderExtProcFailures": "7x20",
    "RejoinderHandlerFails": "7x20",
    "RejoinderPageFails": "7x20",
    "RejoinderAnswersForErrors": "0+30x20",
}
"""Values of the same series with which nothing is the matter."""


def _promtool(*arguments: str, given: bytes = b"") -> None:
    done = subprocess.run([str(PROMTOOL), *arguments], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_each_alert_fires_when_it_should_and_not_else(tmp_path: Path) -> None:
    assert {name for name, *_ in FIRES.values()} == {alert["alert"] for alert in alerts()} == QUIET.keys()
    severities = {alert["alert"]: alert["labels"]["severity"] for alert in alerts()}
    tests = []
    for what, (name, series, values, labels) in FIRES.items():
        known = dict(re.findall(r'(\w+)="(.*?)"', series)) | {"severity": severities[name]}
        kept = {label: known[label] for label in (*labels, "severity")} | {"alertname": name, "alertstate": "firing"}
        fired = "ALERTS{" + ", ".join(f'{label}="{value}"' for label, value in sorted(kept.items())) + "}"
        for case, given, expected in ((what, values, [{"labels": fired, "value": 1}]), (name, QUIET[name], [])):
            asked = {"expr": 'ALERTS{alertstate="firing"}', "eval_time": "15m", "exp_samples": expected}
            tests.append(
                {"name": case, "interval": "1m", "input_series": [{"series": series, "values": given}]}
                | {"promql_expr_test": [asked]}
            )
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(MONITORING / "alerts.yaml")], "tests": tests}))
    _promtool("test", "rules", str(file))


GATEWAY: Final = """\
listen: 127.0.0.1:0
upstreams: {echo: "builtin:echo", gone: "http://127.0.0.1:1"}
routes: [{name: own, path: /own, respond: {body: own}}, {name: all, upstream: echo}]
rules:
  - {name: mock, match: {path: /mock}, body: mock}
  - {name: let, match: {path: /status/502}, pass: true}
  - {name: trial, observe: true, enable_on_status: [5xx], body: not here}
  - {name: fails, enable_on_status: [504], handler: "failing:page"}
  - {name: errors, enable_on_status: [500], page: {upstream: gone}}
  - {name: busy, enable_on_status: [5xx], body: busy}
"""
ALERTING: Final = {"RejoinderEnvoyRejects", "RejoinderHandlerFails", "RejoinderPageFails"}


@needs_prometheus
def test_a_prometheus_has_data_for_the_whole_dashboard(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text("def page(request, response):\n    raise RuntimeError\n")
    (port,) = free_ports(1)
    options = ("--concurrency", "1", "--conditional", "ext_proc", "--trusted-ca", str(tmp_path / "nowhere.pem"))
    with running("up", tmp_path / "rules.yaml", GATEWAY, *options) as up:
        up.started()
        config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
        (job,) = config["scrape_configs"]
        job |= {"scrape_interval": "1s", "scrape_timeout": "1s", "static_configs": [{"targets": [up.url[7:]]}]}
        config |= {"rule_files": [str(MONITORING / "alerts.yaml")], "global": {"evaluation_interval": "1s"}}
        (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
        address = ("127.0.0.1", port)
        command = [str(PROMETHEUS), f"--config.file={tmp_path}/prometheus.yaml", f"--storage.tsdb.path={tmp_path}/data"]
        command.append(f"--web.listen-address=127.0.0.1:{port}")
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as prometheus:
            try:
                _have_something_of_everything(up)

                def empty() -> list[str]:
                    return [expression for expression in dashboard_expressions() if not _result(address, expression)]

                wait_for(lambda: not empty(), prometheus, (OSError, AssertionError))

                def health() -> dict[str, str]:
                    (group,) = _asked(address, "/api/v1/rules")["data"]["groups"]
                    return {rule["name"]: rule["health"] for rule in group["rules"]}

                wait_for(lambda: "unknown" not in health().values(), prometheus)
                assert health() == {alert["alert"]: "ok" for alert in alerts()}
                wait_for(lambda: _alerting(address) >= ALERTING, prometheus)
            finally:
                prometheus.terminate()


def _have_something_of_everything(up: Rejoinder) -> None:
    for path in ("/mock", "/own", *(f"/status/{status}" for status in (200, 500, 502, 503, 504))):
        ask(up.address, "GET", "a.test", path)
    up.file.write_text(GATEWAY.replace("}\nroutes", ', tls: "https://127.0.0.1:1"}\nroutes'))


def _asked(address: tuple[str, int], path: str) -> Any:
    response = ask(address, "GET", "localhost", path)
    assert response.status == 200, response.body
    return json.loads(response.body)


def _result(address: tuple[str, int], expression: str) -> list[Any]:
    result: list[Any] = _asked(address, f"/api/v1/query?query={quote(expression)}")["data"]["result"]
    return result


def _alerting(address: tuple[str, int]) -> set[str]:
    """The names of alerts that fire or are about to."""
    return {alert["labels"]["alertname"] for alert in _asked(address, "/api/v1/alerts")["data"]["alerts"]}
