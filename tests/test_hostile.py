"""Values that mean harm, through templates, at the real Envoy in each of the four ways, and in the core under ASan.

What comes is parsed, as browsers and programs do: nothing has become markup, another string, or a header.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

import core
import pytest
from filling import Seen, meant
from gateway import Gateway, ruleset
from machine import SECONDS, Response

from rejoinder.rules.decide import decide
from rejoinder.rules.model import Ruleset
from rejoinder.rules.program import compile_rules
from rejoinder.rules.program_bytes import encode
from rejoinder.rules.request import parse
from rejoinder.rules.template import LONGEST_VALUE

RULES: Final = """
upstreams: {up: builtin:echo}
routes: [{name: all, upstream: up}]
rules:
""" + "".join(
    f"""
- name: {name}-{phase}
  match: {{path: /{name}/{phase}}}
  {on}status_code: 302
  template: true
  headers:
    Content-Type: {content_type}
    Location: "https://login.test/?return={{{{ request.url }}}}&a={{{{ request.header.x-a }}}}"
    X-Out: "({{{{ request.header.x-a | raw }}}})"
  body: |-
    {body}
"""
    for name, content_type, body in (
        (
            "html",
            "text/html",
            """<p class="{{ request.header.x-a }}" id='{{ request.query.q }}'>{{ request.header.x-a }}</p>"""
            "<script>let a = '{{ request.header.x-a | json }}'</script>",
        ),
        ("xml", "application/problem+xml", '<p id="{{ request.query.q }}">{{ request.header.x-a }}</p>'),
        ("json", "application/json", '{"a": "{{ request.header.x-a }}", "q": "{{ request.query.q }}"}'),
    )
    for phase, on in (("before", ""), ("behind", "enable_on_status: [503]\n  "))
)

VALUES: Final = {
    "quotes": "\"'`",
    "a tag": "<img src=x onerror=alert(1)>",
    "the end of a script": "</script><script>alert(1)</script>",
    "the end of an attribute": "\" onclick='alert(1)' x=\"",
    "a comment": "--><!--",
    "CDATA": "]]><![CDATA[",
    "references": "&lt;&#60;&amp",
    "the end of a string": '\\","b":"c\\',
    "braces": "{{ status }}{{ request.header.x-a }}",
    "Envoy's commands": "%REQ(:path)% %% %",
    "a line break, encoded": "%0d%0aset-cookie: a=1",
    "another parameter": "&return=https://evil.test#x?y=z",
    "a tab": "a\tb",
    "commas": "a,b, c,,",
    "line separators": "a\u2028b\u2029c\x85d",
    "not ASCII": "é€𝄞",
    "no UTF-8": "\udcff<\udcc3\"\udce2\udc82'\udcf0",
    "overlong": "\udcc0\udcbcscript\udcc0\udcbe",
    "long": "<" * 50_000,
    "cut in a character": "é" * (LONGEST_VALUE // 2 - 1) + "x€",
}
"""For a header; bytes that are no UTF-8 as `surrogateescape` has them."""

REFUSED: Final = {
    "NUL": b"x-a: a\0b",
    "a NUL in the name": b"x\0-a: b",
    "a space in the name": b"x a: b",
    "no ASCII in the name": "é: b".encode(),
    "60 kB": b"x-a: " + b"<" * 61_440,
}
"""What Envoy does not take."""


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Ruleset:
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_text(RULES)
    return ruleset(path)


@pytest.fixture(scope="module")
def answering(any_gateway: Gateway, rules: Ruleset) -> Gateway:
    any_gateway.apply(rules)
    return any_gateway


def is_html(body: str, value: str, query: str) -> None:
    seen = Seen(body)
    assert seen.tags == ["p class id", "/p", "script", "/script"]
    assert seen.values == [no_controls(value), query]
    text, script, rest = re.split("let a = '([^']*)'", seen.texts)
    assert (text, json.loads(f'"{script}"'), rest) == (no_controls(value), value, "")


def is_xml(body: str, value: str, query: str) -> None:
    element = ET.fromstring(body)
    assert (element.text, element.attrib, list(element)) == (no_controls(value), {"id": query}, [])


def is_json(body: str, value: str, query: str) -> None:
    assert json.loads(body) == {"a": value, "q": query}


def no_controls(value: str) -> str:
    return re.sub("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]", "\ufffd", value)


FORMATS: Final[dict[str, Callable[[str, str, str], None]]] = {"html": is_html, "xml": is_xml, "json": is_json}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("phase", ["before", "behind"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_value_stays_what_it_is(answering: Gateway, name: str, phase: str, value: str) -> None:
    query = quote(value[:400].encode("utf-8", "surrogateescape"), safe="\"'<>`{}\\|,;:=()!/?@")
    target = f"/{name}/{phase}?q={query}"
    answer = answering.ask("GET", "a.test", target, [("x-status", "503"), ("x-a", value)])
    assert answer.status == 302
    is_what_was_meant(answer, name, target, value, query)


def is_what_was_meant(answer: Response, name: str, target: str, value: str, query: str) -> None:
    FORMATS[name](answer.body.decode(), meant(value), query)
    names = {name for name, _ in answer.headers} - {"date", "server", "connection", "x-envoy-upstream-service-time"}
    assert names == {"content-type", "content-length", "location", "x-out"}
    (out,) = answer.values("x-out")
    without_controls = re.sub("[\0-\x1f\x7f]", "", meant(value))
    assert out.encode("latin-1").decode() == f"({without_controls})"
    (location,) = map(urlsplit, answer.values("location"))
    assert (location.scheme, location.netloc, location.path, location.fragment) == ("https", "login.test", "/", "")
    returned = f"http://a.test{target}"
    assert parse_qs(location.query, strict_parsing=True, errors="replace") == {
        "return": [returned],
        "a": [meant(value)],
    }


@pytest.mark.parametrize("line", REFUSED.values(), ids=REFUSED)
def test_what_envoy_does_not_take_becomes_nothing(answering: Gateway, line: bytes) -> None:
    with socket.create_connection(answering.address, SECONDS) as client:
        client.sendall(b"GET /html/before HTTP/1.1\r\nhost: a.test\r\n" + line + b"\r\n\r\n")
        assert re.match(rb"HTTP/1.1 4[03][01] ", client.recv(65_536))


def test_a_line_break_of_half_is_left_out_by_envoy(answering: Gateway) -> None:
    for phase in ("before", "behind"):
        with socket.create_connection(answering.address, SECONDS) as client:
            client.sendall(f"GET /json/{phase} HTTP/1.1\r\nhost: a.test\r\n".encode())
            client.sendall(b"x-status: 503\r\nx-a: a\rset-cookie: a=1\r\nconnection: close\r\n\r\n")
            head, _, body = b"".join(iter(lambda: client.recv(65_536), b"")).partition(b"\r\n\r\n")
        assert not re.search(rb"(?im)^set-cookie|\r(?!\n)", head)
        assert json.loads(body) == {"a": "aset-cookie: a=1", "q": ""}


def test_several_lines_are_one_value(answering: Gateway) -> None:
    lines = [("X-A", '"<1>'), ("x-a", "2"), ("x_a", "3"), ("x-status", "503")]
    for phase in ("before", "behind"):
        answer = answering.ask("GET", "a.test", f"/json/{phase}", lines)
        assert json.loads(answer.body) == {"a": '"<1>,2', "q": ""}
        answer = answering.ask("GET", "a.test", f"/json/{phase}", [("x-a", ""), ("x-a", "1"), ("x-status", "503")])
        assert json.loads(answer.body) == {"a": ",1", "q": ""}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The core in a host of ours, built with AddressSanitizer and UBSan."""
    sources = [core.HARNESS / "host.c", *core.of_core(*core.PROGRAM, "config.c", "grace.c", "replace.c")]
    return core.compiled(tmp_path_factory.mktemp("host") / "host", sources, *core.SANITIZERS)


@pytest.mark.parametrize("name", FORMATS)
def test_the_core_touches_no_memory_that_is_not_its_own(host: Path, rules: Ruleset, name: str) -> None:
    program = encode(compile_rules(rules.rules))
    lines = [f"c rejoinder {program.hex()}"]
    for value in VALUES.values():
        asked = parse("GET", "a.test", f"/{name}/behind?q=<", (("x-a", value),))
        answer = decide(rules, asked).on_status(503)
        assert answer is not None
        sent = answer[1]
        lines += ["?", "q :method GET", "q :scheme http", "q :authority a.test", f"q :path {asked.target}"]
        lines += [f"q x-a {value}", ">", "u :status 503", "e", f"= 302 {sent.body.decode()}"]
        lines += [*(f"+ {header} {text}" for header, text in sent.headers), "."]
    text = "\n".join(lines).encode("utf-8", "surrogateescape")
    done = subprocess.run([host], input=text, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
