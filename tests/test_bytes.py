"""What a client sends is bytes, and rules are UTF-8: what fits outside ASCII, by `decide` and in every placement."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Final

import pytest
from gateway import Gateway, ruleset
from machine import SECONDS

from rejoinder.rules.decide import decide
from rejoinder.rules.model import Ruleset
from rejoinder.rules.request import RequestError, parse

CASES: Final = [
    ({"exact": "é"}, "é", True),
    ({"exact": "é"}, "e", False),
    ({"exact": "é"}, "\udce9", False),
    ({"exact": "\N{REPLACEMENT CHARACTER}"}, "\udce9", False),
    ({"prefix": "é"}, "éz", True),
    ({"prefix": "é"}, "é\udca9", True),
    ({"prefix": "é"}, "\udcc3", False),
    ({"suffix": "é"}, "xé", True),
    ({"suffix": "é"}, "\udce2é", True),
    ({"contains": "é"}, "xéz", True),
    ({"contains": "é"}, "x\udcc3z", False),
    ({"regex": "x.z"}, "xéz", False),
    ({"regex": "x..z"}, "xéz", True),
    ({"regex": "x.z"}, "x\udce9z", True),
    ({"regex": "x[é]z"}, "xéz", False),
    ({"regex": "x[é]+z"}, "xéz", True),
    ({"regex": "x[é]z"}, "x\udcc3z", True),
    ({"regex": "x[^a]z"}, "xéz", False),
    ({"regex": "(?i)XéZ"}, "xéz", True),
    ({"regex": "(?i)É"}, "é", False),
    ({"regex": r"x\x{e9}z"}, "x\udce9z", True),
    ({"regex": r"x\x{e9}z"}, "xéz", False),
    ({"regex": ".*"}, "\udced\udca0\udc80", True),
    ({"present": True}, "\udcff", True),
]
"""A test of a header, what is sent (bytes that are no UTF-8 as `surrogateescape` has them), and whether it fits."""

RULES: Final = """
upstreams: {up: builtin:echo}
routes: [{name: all, upstream: up}]
rules:
""" + "".join(
    f"- {{name: {name}, match: {{headers: {{x-case: {name}, x-a: {json.dumps(test)}}}}}, body: fits{on}}}\n"
    for number, (test, _, _) in enumerate(CASES)
    for name, on in ((f"request{number}", ""), (f"response{number}", ", enable_on_status: [503]"))
)


@pytest.fixture(name="rules")
def _rules(tmp_path: Path) -> Ruleset:
    (tmp_path / "rules.yaml").write_text(RULES)
    return ruleset(tmp_path / "rules.yaml")


def test_decide_compares_texts_as_their_bytes(rules: Ruleset) -> None:
    wrong = []
    for number, (test, sent, fits) in enumerate(CASES):
        at_once = decide(rules, parse("GET", "a.test", "/", (("x-case", f"request{number}"), ("x-a", sent))))
        later = decide(rules, parse("GET", "a.test", "/", (("x-case", f"response{number}"), ("x-a", sent))))
        if [at_once.reply is not None, later.on_status(503) is not None] != [fits, fits]:
            wrong.append((test, sent))
    assert wrong == []


def test_every_placement_does_as_decide_does(any_gateway: Gateway, rules: Ruleset) -> None:
    any_gateway.apply(rules)
    wrong = []
    for number, (test, sent, fits) in enumerate(CASES):
        for kind in ("request", "response"):
            headers = [("x-status", "503"), ("x-case", f"{kind}{number}"), ("x-a", sent)]
            if (any_gateway.ask("GET", "a.test", "/", headers).body == b"fits") is not fits:
                wrong.append((kind, test, sent))
    assert wrong == []


@pytest.mark.parametrize("target", ["/é", "/?q=é", "/\udce9"])
def test_a_target_outside_ascii_is_refused(any_gateway: Gateway, rules: Ruleset, target: str) -> None:
    any_gateway.apply(rules)
    with pytest.raises(RequestError, match="cannot contain"):
        parse("GET", "a.test", target)
    with socket.create_connection(any_gateway.address, timeout=SECONDS) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nhost: a.test\r\n\r\n".encode("utf-8", "surrogateescape"))
        assert connection.recv(12) == b"HTTP/1.1 400"
