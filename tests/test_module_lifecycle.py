"""What the module holds is let go of when Envoy lets go of a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from gateway import Gateway, ruleset

from rejoinder.xds.events import Accepted, Nack
from rejoinder.xds.translate import Placement

SCOPES = 30  # a program in one piece: the listener that brings parts is kept by Envoy while it drains
RELOADS = 1000
WARM_UP = 100
MEGABYTE = 1 << 20


def rules(generation: int) -> str:
    """Different answers in each scope: 1 kB each, so that reloads that leak leak thirty megabytes in all."""
    body = "x" * 1000
    lines = ["upstreams: {up: builtin:echo}", "routes:"]
    lines += [f"  - {{name: route-{n}, prefix: /{n}, upstream: up}}" for n in range(SCOPES)]
    lines += ["rules:"]
    lines += [
        f"  - {{name: rule-{n}, match: {{routes: route-{n}}}, enable_on_status: [5xx], body: {generation}-{n}-{body}}}"
        for n in range(SCOPES)
    ]
    return "\n".join(lines)


def resident(pid: int) -> int:
    """The memory that a process really uses, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_a_thousand_reloads_leak_nothing(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    with Gateway(concurrency=2, conditional=Placement.MODULE) as gateway:
        builds = []
        for generation in range(2):
            file.write_text(rules(generation))
            builds.append(gateway.build(ruleset(file)))
        measured = []
        for reload in range(RELOADS):
            assert isinstance(gateway.publish(builds[reload % 2]), Accepted)
            if reload % WARM_UP == WARM_UP - 1:
                # A worker drops what it has when it takes something new up.
                answer = gateway.ask("GET", "a.test", "/7/x", [("x-status", "503")])
                assert answer.body.startswith(b"1-7-")
                measured.append(resident(gateway.envoy.pid))
        assert max(measured) - measured[0] < 8 * MEGABYTE, [size // MEGABYTE for size in measured]


def test_a_configuration_that_the_module_rejects_is_a_nack_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(
        "upstreams: {up: builtin:echo}\nroutes: [{name: all, upstream: up}]\n"
        "rules: [{name: good, enable_on_status: [503], body: good}]\n"
    )
    (tmp_path / "bad.yaml").write_text(
        "upstreams: {up: builtin:echo}\nroutes: [{name: all, upstream: up}]\n"
        "rules: [{name: bad, enable_on_status: [503], handler: no_such_module:page}]\n"
    )
    with Gateway(conditional=Placement.MODULE) as gateway:
        gateway.apply(ruleset(tmp_path / "good.yaml"))
        event = gateway.publish(gateway.build(ruleset(tmp_path / "bad.yaml")))
        assert isinstance(event, Nack)
        assert "dynamic module" in event.message
        assert gateway.ask("GET", "a.test", "/", [("x-status", "503")]).body == b"good"
