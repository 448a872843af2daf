"""`explain`: who answers, and why."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Final

import pytest
from command_line import (
    Run,
    _in_a_folder_with_rules,  # noqa: F401 - a fixture
    _run,  # noqa: F401 - a fixture
)

# --- explain ---


@pytest.mark.parametrize(
    ("arguments", "decided", "placement", "reply"),
    [
        pytest.param(["--url", "/mock"], ("all", "mock"), "native", (200, "mock"), id="unconditional"),
        pytest.param(["--url", "/own"], ("own", None), "native", (200, "own"), id="a route's own answer"),
        pytest.param(["--url", "/x", "--status", "503"], ("all", "errors"), "ext_proc", (503, "busy"), id="a status"),
        pytest.param(
            ["--url", "/own?to=http://a.test"], ("own", None), "native", (200, "own"), id="a URL in the query"
        ),
        pytest.param(["--url", "/x", "--status", "200"], ("all", None), "upstream", None, id="a status that passes"),
        pytest.param(["--url", "/x"], ("all", None), "upstream", None, id="every status"),
        pytest.param(["--url", "http://a.test/a%2Fb"], (None, None), "native", (307, ""), id="an escaped slash"),
    ],
)
def test_explain_says_who_answers(
    run: Run,
    arguments: list[str],
    decided: tuple[str | None, str | None],
    placement: str,
    reply: tuple[int, str] | None,
) -> None:
    code, out, err = run("explain", "rules.yaml", *arguments, "--format", "json", "--conditional", "ext_proc")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert ((said["route"], said["rule"]), said["placement"]) == (decided, placement)
    assert (said["reply"] and (said["reply"]["status"], said["reply"]["body"])) == reply


def test_explain_prints_plain_text_into_a_pipe(run: Run) -> None:
    code, out, err = run("explain", "rules.yaml", "--url", "/mock", "-H", "accept: */*")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert out == textwrap.dedent(
        """\
        request   GET http://localhost/mock
        route     own (rules.yaml:3): does not fit: it is about the path "/own", the path is "/mock"
        route     all (rules.yaml:4): takes the request: forward to upstream "echo"
        rule      mock (rules.yaml:6): fits and answers at once
        program   rules: finds 2 of 2 by domain, path and route: mock, errors
        placement native
        sent      200, 4 bytes
                  content-type: text/plain; charset=utf-8
                  content-length: 4

        mock
        """
    )


def test_explain_says_that_serve_may_have_another_placement(run: Run) -> None:
    what = ("explain", "rules.yaml", "--url", "/x", "--status", "503")
    said = [run(*what, *more)[1] for more in ((), ("--conditional", "module"))]
    assert "placement module (as with `up`; with `serve`, ext_proc, unless it has --conditional module)\n" in said[0]
    assert "placement module\n" in said[1]


def test_explain_says_what_envoy_makes_of_the_headers(run: Run) -> None:
    sent = ("accept: */*", "X-Envoy-Retry-On: 5xx", "x-request-id: 1", "x-forwarded-for: 1.2.3.4", "host: a.test.")
    arguments = [argument for header in sent for argument in ("-H", header)]
    code, out, err = run("explain", "rules.yaml", "--url", "/mock", *arguments)
    assert (code, err) == (0, "")
    assert out.splitlines()[:5] == [
        "request   GET http://a.test/mock",
        'header    host: Envoy makes it "a.test"',
        "header    x-envoy-retry-on: Envoy removes it",
        'header    x-request-id: Envoy makes it such as "00000000-0000-4000-8000-000000000000"',
        'header    x-forwarded-for: Envoy makes it such as "1.2.3.4,192.0.2.1"',
    ]
    code, out, _ = run("explain", "rules.yaml", "--url", "/mock", "-H", "host: a.test", "-H", "host: b.test")
    assert (code, out.splitlines()[:2]) == (
        0,
        ["request   GET http://a.test,b.test/mock", 'header    host: Envoy makes it "a.test,b.test"'],
    )
    code, _, err = run("explain", "rules.yaml", "--url", "/", "-H", "connection: upgrade", "-H", "upgrade: x")
    assert (code, err.startswith("Envoy refuses the request with 403: ")) == (0, True)


def test_explain_goes_on_behind_rules_that_only_observe(run: Run) -> None:
    Path("rules.yaml").write_text(
        """\
rules:
  - {name: at-once, observe: true, body: x}
  - {name: on-503, observe: true, final: true, enable_on_status: [503], body: x}
  - {name: ours, enable_on_status: [503], body: x}
"""
    )
    code, out, _ = run("explain", "rules.yaml", "--url", "/", "--status", "503")
    assert code == 0
    assert [line.partition("): ")[2].partition(";")[0] for line in out.splitlines() if line.startswith("rule ")] == [
        "fits, and would answer at once",
        "fits, and would answer 503",
        "fits, and has an answer for 503",
    ]


def test_explain_without_a_status_lists_all(run: Run) -> None:
    code, out, _ = run("explain", "rules.yaml", "--url", "/x", "--format", "json", "--conditional", "ext_proc")
    assert code == 0
    assert [(row["statuses"], row["rule"], row["reply"]) for row in json.loads(out)["statuses"]] == [
        ("200-499", "-", "the upstream's response"),
        ("500-502", "errors", "the same status, 6 bytes (ext_proc)"),
        ("503", "errors", "503, 4 bytes (ext_proc)"),
        ("504-599", "errors", "the same status, 6 bytes (ext_proc)"),
    ]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        pytest.param("http://a.test/%00", "Envoy refuses the request with 400", id="what Envoy refuses"),
        pytest.param("http://a|b/", "Envoy refuses the request with 400", id="a host that is none"),
        pytest.param("http://[::1/", "--url", id="half an IPv6 address"),
        pytest.param("ftp://a.test/", "--url", id="neither http nor https"),
        pytest.param("http:///x", "--url", id="no host"),
        pytest.param("http://a.test:99999/", "--url", id="no port"),
    ],
)
def test_explain_of_a_request_that_cannot_be_says_so(run: Run, url: str, said: str) -> None:
    code, out, err = run("explain", "rules.yaml", "--url", url)
    assert code == (0 if said.startswith("Envoy") else 2)
    assert said in out + err


FOREIGN: Final = """\
routes: [{name: theirs, path: /ours, respond: {body: ours}}]
rules:
  - {name: theirs, match: {routes: [theirs]}, enable_on_status: [503], body: theirs}
  - {name: shield, match: {prefix: /final}, final: true, enable_on_status: [500], body: shielded}
  - {name: mock, match: {prefix: /mock}, body: mock}
  - {name: errors, enable_on_status: [5xx], body: errors}
"""


@pytest.mark.parametrize(
    ("arguments", "decided", "placement", "reply"),
    [
        pytest.param(["/x", "--status", "503"], "errors", "ext_proc", (503, "errors"), id="our routes: none fits"),
        pytest.param(
            ["/x", "--route", "theirs", "--status", "503"], "theirs", "ext_proc", (503, "theirs"), id="their route"
        ),
        pytest.param(
            ["/ours", "--route", "", "--status", "503"], "errors", "ext_proc", (503, "errors"), id="no route there"
        ),
        pytest.param(["/ours", "--route", "x", "--status", "404"], None, "upstream", None, id="their 404"),
        pytest.param(
            ["/mock", "--route", "x"], "mock", "ext_proc", (200, "mock"), id="no route answers for a rule there"
        ),
        pytest.param(["/mock"], "mock", "native", (200, "mock"), id="and here one does"),
        pytest.param(["/final/mock"], None, "native", (404, ""), id="a final rule, and no route"),
    ],
)
def test_explain_beside_routes_of_somebody_elses(
    run: Run, arguments: list[str], decided: str | None, placement: str, reply: tuple[int, str] | None
) -> None:
    Path("rules.yaml").write_text(FOREIGN)
    url, *more = arguments
    code, out, err = run("explain", "rules.yaml", "--url", url, *more, "--format", "json", "--conditional", "ext_proc")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert (said["rule"], said["placement"]) == (decided, placement)
    assert (said["reply"] and (said["reply"]["status"], said["reply"]["body"])) == reply


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        pytest.param(
            ["/final/mock", "--route", "x", "--status", "502"],
            {
                "theirs": 'does not fit: it is about the route "theirs", the request takes "x"',
                "shield": "fits, but has no answer for 502; it is final: no later rule is asked",
            },
            id="final",
        ),
        pytest.param(
            ["/x", "--route", "theirs", "--status", "502"],
            {
                "theirs": "fits, but has no answer for 502",
                "errors": "fits, and has an answer for 502",
            },
            id="not asked",
        ),
        pytest.param(
            ["/mock", "--route", "theirs"],
            {
                "theirs": "fits, but is about the upstream's status: the upstream is not asked",
                "mock": "fits and answers at once",
            },
            id="at once",
        ),
    ],
)
def test_explain_says_of_each_rule_why_it_is_asked_or_not(
    run: Run, arguments: list[str], steps: dict[str, str]
) -> None:
    Path("rules.yaml").write_text(FOREIGN)
    url, *more = arguments
    _, out, _ = run("explain", "rules.yaml", "--url", url, *more, "--format", "json", "--conditional", "ext_proc")
    said = {step["name"]: step["verdict"] for step in json.loads(out)["steps"] if step["kind"] == "rule"}
    assert {name: said.get(name) for name in steps} == steps
    assert list(said)[-1] == list(steps)[-1], "no rule behind it is looked at"


def test_explain_says_who_is_asked_for_a_page(run: Run) -> None:
    Path("rules.yaml").write_text(
        """\
upstreams: {errors: "http://127.0.0.1:8090"}
routes: [{name: up, upstream: errors}]
rules:
  - {name: own, enable_on_status: [503], page: {upstream: errors}, body: own}
  - {name: stays, enable_on_status: [502], page: {upstream: errors, timeout: 500ms}}
  - {name: grpc, enable_on_status: [404], grpc: {status: NOT_FOUND, message: none}}
"""
    )
    asked = ("explain", "rules.yaml", "--url", "/", "--conditional", "module")
    _, out, _ = run(*asked, "--status", "503")
    assert 'page      errors: upstream "errors" is asked; if none comes within 1 s, this is sent\n' in out
    assert out.endswith("own\n")
    _, out, _ = run(*asked, "--status", "502")
    assert 'upstream "errors" is asked; if none comes within 0.5 s, the response stays\n' in out
    _, out, _ = run(*asked)
    assert "503            own    the same status, the page of errors, or 3 bytes (module)" in out
    assert "502            stays  the same status, the page of errors, or the upstream's response (module)" in out
    _, out, _ = run(*asked, "--status", "404", "-H", "content-type: application/grpc")
    assert "sent      200, gRPC status 5, NOT_FOUND\n" in out
    assert "grpc-message: none\n" in out
    for status, least in (("502", "the response stays"), ("503", "this is sent")):
        _, out, _ = run(*asked, "--status", status, "-H", "content-type: application/grpc")
        assert f"page      errors: none for a client that speaks gRPC: {least}\n" in out
        assert ("sent      what the upstream sends\n" in out) is (status == "502")


GRPC_ERROR = """\
sent      200, gRPC status 14, UNAVAILABLE
          content-type: application/grpc
          grpc-status: 14
          grpc-message: slow down%0A
          retry-after: 9
"""


@pytest.mark.parametrize("placement", ["module", "ext_proc"])
def test_explain_says_what_a_client_gets_that_speaks_grpc(run: Run, placement: str) -> None:
    Path("rules.yaml").write_text(
        """\
upstreams: {up: "http://127.0.0.1:1"}
routes: [{name: up, prefix: /up, upstream: up}]
rules:
  - {name: closed, match: {prefix: /closed}, status_code: 503, headers: {Retry-After: "9"}, body: "slow down\\n"}
  - {name: busy, enable_on_status: [503], headers: {Retry-After: "9"}, body: "slow down\\n"}
"""
    )
    asked = ("explain", "rules.yaml", "--conditional", placement, "-H", "content-type: application/grpc", "--url")
    for more in (("/closed",), ("/up", "--status", "503")):
        assert run(*asked, *more)[1].endswith(GRPC_ERROR)
    reply = json.loads(run(*asked, "/closed", "--format", "json")[1])["reply"]
    assert (reply["status"], reply["grpc"], reply["body"]) == (200, 14, "")
    assert "503            busy  200, gRPC status 14, UNAVAILABLE (" in run(*asked, "/up")[1]
    _, out, _ = run(*asked, "/up", "--status", "503", "--source", "local")
    assert out.startswith("request   GET http://localhost/up, Envoy itself says 503\n")
    assert "response  503: to a client that speaks gRPC, Envoy says it by status 200 and grpc-status 14\n" in out
    assert "busy (rules.yaml:5): fits, but has no answer for 200\n" in out
    assert "sent      200, gRPC status 12, UNIMPLEMENTED\n" in run(*asked, "/nowhere")[1]
    assert "sent      200, gRPC status 13, INTERNAL\n" in run(*asked, "/a%2Fb")[1]


def test_explain_takes_a_grpc_status_from_the_headers(run: Run) -> None:
    Path("rules.yaml").write_text("rules: [{name: own, status_code: 503, headers: [Grpc-Status=5], body: x}]")
    out = run("explain", "rules.yaml", "--url", "/", "-H", "content-type: application/grpc")[1]
    assert "sent      200, gRPC status 5, NOT_FOUND\n" in out
    assert out.count("grpc-status: 5\n") == 1


def test_explain_refuses_what_no_upstream_gives(run: Run) -> None:
    for status in ("700", "100", "5xx"):
        code, _, err = run("explain", "rules.yaml", "--url", "/", "--status", status)
        assert code == 2
        assert f"expected an HTTP status from 200 to 599, got '{status}'" in err


def test_explain_goes_on_behind_a_mock(run: Run) -> None:
    Path("rules.yaml").write_text(
        """\
upstreams: {up: "http://127.0.0.1:1"}
routes: [{name: up, upstream: up}]
rules:
  - {name: mock, handler: "mocks:mock"}
  - {name: errors, enable_on_status: [503], body: x}
"""
    )
    _, out, _ = run("explain", "rules.yaml", "--url", "/", "--conditional", "module")
    assert "fits, and its handler is asked; if that makes nothing, the search goes on\n" in out
    assert "sent      what mocks:mock makes; if that is nothing:\n" in out
    assert "503            errors  the same status, 1 bytes (module)" in out


def test_explain_says_which_rule_answers_what_envoy_refuses(run: Run) -> None:
    Path("rules.yaml").write_text("rules: [{name: all, enable_on_status: [400], body: x}]")
    asked = ("explain", "rules.yaml", "--conditional", "ext_proc", "--url")
    assert "; rule all, which is about every request, answers in its place" in run(*asked, "http://a|b/")[2]
    assert "; no rule answers in its place" in run(*asked, "http://a.test/%00")[2]
