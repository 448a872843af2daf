"""Rules that only observe, in a real Envoy: nothing is done, and it is counted once what would have been."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path

from gateway import Gateway, Upstream, ruleset

from rejoinder.rules.counts import Kind
from rejoinder.xds.translate import Placement

RULES = """
upstreams: {up: "builtin:echo"}
routes: [{name: all, upstream: up}]
rules:
  - {name: at-once, observe: true, match: {path: /a}, body: trial}
  - {name: on-503, observe: true, final: true, enable_on_status: [503], body: trial}
  - {name: passes, observe: true, pass: true, enable_on_status: [503]}
  - {name: handled, enable_on_status: [418], handler: "builtins:repr"}
  - {name: mock, match: {path: /mock}, body: "{{ request.path }}", template: true}
  - {name: errors, enable_on_status: [5xx], match: {path: /a}, body: ours}
  - {name: behind, observe: true, enable_on_status: [5xx], body: trial}
"""


def counts(gateway: Gateway) -> Counter[str]:
    if gateway.conditional is Placement.EXT_PROC:
        return Counter(gateway.processor.counters().counts.total(Kind.OBSERVED))
    return Counter({name.rpartition(".")[2]: number for name, number in gateway.stats(r"\.observed\.").items()})


def test_what_would_have_been_answered_is_counted_once(any_gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(RULES)
    any_gateway.apply(ruleset(tmp_path / "rules.yaml"))
    for path, status, body, observed in (
        ("/a", "200", Upstream.BODY, ["at-once"]),
        ("/a", "503", b"ours", ["at-once", "on-503"]),
        ("/b", "503", Upstream.BODY, ["on-503", "behind"]),
        ("/b", "502", Upstream.BODY, ["behind"]),
        ("/mock", "503", b"/mock", []),
    ):
        wanted = counts(any_gateway) + Counter(observed)
        assert any_gateway.ask("GET", "a.test", path, [("x-status", status)]).body == body
        any_gateway.wait_for(functools.partial(counted, any_gateway, wanted))
        assert counts(any_gateway) == wanted


def counted(gateway: Gateway, wanted: Counter[str]) -> bool:
    return counts(gateway) >= wanted
