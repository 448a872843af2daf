"""What docs/monitoring.md and examples/monitoring/ say of metrics, held against those that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from rejoinder.cli.metrics import MOST_NODES, Metrics, State
from rejoinder.extproc import Counters
from rejoinder.rules.counts import Counts, Kind, Series
from rejoinder.rules.model import Answer, Position, Rule, Ruleset, StatusPattern
from rejoinder.rules.problem import Problem
from rejoinder.xds.server import ClientStatus

PROJECT: Final = Path(__file__).parents[1]
MONITORING: Final = PROJECT / "examples" / "monitoring"
PROMTOOL: Final = shutil.which("promtool")
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


def own(found: set[str]) -> set[str]:
    """Without what a histogram is made of, and what a library says of the process."""
    stems = {re.sub(r"_(bucket|count|sum)$", "", name) for name in found if name.startswith("rejoinder_")}
    return stems


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return found


def expressions() -> Iterator[str]:
    yield from (alert["expr"] for alert in alerts())
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield re.sub(r"\$__rate_interval|\$__range", "5m", target["expr"])


def test_numbers_are_told_as_they_are() -> None:
    found = samples(metrics())
    labels = (("original_status", "503"), ("placement", "module"), ("rule", "busy"), ("status", "200"))
    assert found["rejoinder_answers_total", labels] == 3
    observed = (("original_status", "404"), ("placement", "ext_proc"), ("rule", "trial"), ("status", "404"))
    assert found["rejoinder_observed_total", observed] == 2
    assert found["rejoinder_route_answers_total", (("route", "robots"), ("status", "200"))] == 5
    assert {dict(of).get("rule") for name, of in found if name == "rejoinder_answers_total"} == {"busy", HOSTILE}
    assert found["rejoinder_problems", (("severity", "error"),)] == 1
    assert found["rejoinder_rules", (("kind", "conditional"),)] == 1
    assert found["rejoinder_xds_clients_behind", ()] == 1
    assert found["rejoinder_ext_proc_duration_seconds_bucket", (("le", "0.00025"),)] == 5
    assert found["rejoinder_ext_proc_duration_seconds_count", ()] == 7
    assert found["rejoinder_ext_proc_duration_seconds_sum", ()] == 9.5


def test_whoever_connects_cannot_make_any_number_of_series() -> None:
    made = metrics()
    for number in range(3 * MOST_NODES):
        made.rejected(f"node-{number}")
    found = {
        dict(labels)["node"]: value
        for (name, labels), value in samples(made).items()
        if name == "rejoinder_xds_nacks_total"
    }
    assert len(found) == MOST_NODES + 1
    assert found["other"] == 2 * MOST_NODES + 1


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


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool, of Debian's package prometheus")
def test_prometheus_takes_all_of_it(tmp_path: Path) -> None:
    rules = [{"record": f"a:{number}", "expr": expression} for number, expression in enumerate(expressions())]
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    commands = (
        (["check", "rules", str(file)], b""),
        (["check", "config", str(MONITORING / "prometheus.yaml")], b""),
        (["check", "metrics"], metrics().text()),
    )
    for arguments, given in commands:
        done = subprocess.run([str(PROMTOOL), *arguments], input=given, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
