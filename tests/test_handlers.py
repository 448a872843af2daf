"""Python handlers: finding and calling them, and the same ones behind a real Envoy in both placements."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from gateway import HANDLERS, Gateway, Upstream, ruleset

from rejoinder.rules.handlers import Handler, HandlerError, Handlers, Reply, Request, Response, request_of
from rejoinder.rules.load import load
from rejoinder.xds.translate import Placement

REQUEST = Request("GET", "a.test", "/x", None, (("accept", "*/*"), ("x-a", "1"), ("x-a", "2")), "route-a")
RESPONSE = Response(503, (("etag", "1"),))


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType("made_up")
    monkeypatch.setitem(sys.modules, "made_up", made)
    return made


def calling(module: ModuleType, handler: Handler, log: list[str] | None = None) -> Reply | None:
    module.__dict__["page"] = handler
    return Handlers((log if log is not None else []).append).call("made_up:page", REQUEST, RESPONSE)


def test_a_handler_sees_request_and_response(module: ModuleType) -> None:
    seen: list[object] = []
    assert calling(module, lambda request, response: seen.extend((request, response))) is None
    assert seen == [REQUEST, RESPONSE]


def test_a_reply_is_completed_as_every_answer_is(module: ModuleType) -> None:
    made = calling(module, lambda *_: Reply(500, (("X-Case", "1"),), b'{"a": 1}'))
    assert made == Reply(500, (("content-type", "application/json; charset=utf-8"), ("x-case", "1")), b'{"a": 1}')
    assert calling(module, lambda *_: Reply(204, (), b"body")) == Reply(204, (), b"")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        pytest.param("text", "expected a Reply or None, got str", id="no-reply"),
        pytest.param(Reply(99, (), b""), "expected a status from 200 to 599, got 99", id="status"),
        pytest.param(Reply("503", (), b""), "expected a status", id="status-text"),  # type: ignore[arg-type]
        pytest.param(Reply(200, (), "text"), "expected a body of bytes, got str", id="body-text"),  # type: ignore[arg-type]
        pytest.param(Reply(200, (("a b", "c"),), b""), "expected a header name, got 'a b'", id="header-name"),
        pytest.param(Reply(200, (("a", "b\nc"),), b""), "without line breaks", id="header-value"),
        pytest.param(Reply(200, (("a", 1),), b""), "expected a string", id="header-number"),  # type: ignore[arg-type]
        pytest.param(Reply(200, (("a", "b"),) * 501, b""), "at most 500 headers, got 501", id="too-many"),
        pytest.param(Reply(200, (("a", "é" * 30720),), b""), "at most 61,440 bytes, got 61,441", id="too-large"),
    ],
)
def test_a_wrong_return_value_is_a_failure(module: ModuleType, made: Reply, message: str) -> None:
    with pytest.raises(HandlerError, match=message):
        calling(module, lambda *_: made)


# Of one connection, of a request, or computed: no answer sets them, wherever it comes from.
NOT_TO_SET = (
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
)


@pytest.mark.parametrize("name", NOT_TO_SET)
def test_a_header_that_is_not_an_answers_to_set_is_refused(module: ModuleType, tmp_path: Path, name: str) -> None:
    with pytest.raises(HandlerError, match=f"(?i)the header {name} cannot be set by an answer"):
        calling(module, lambda *_: Reply(200, ((name.title(), "x"),), b""))
    rules = tmp_path / "rules.yaml"
    rules.write_text(f"rules: [{{body: x, headers: [{name}=x]}}]")
    loaded = load([rules])
    if name == "content-length":
        assert loaded.ruleset is not None
        assert loaded.ruleset.rules[0].answers[0].headers == (), "left out, with a warning"
    else:
        assert f"the header {name} cannot be set by an answer" in loaded.problems[0].message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("no_such_module:page", "ModuleNotFoundError", id="module"),
        pytest.param("json:page", "AttributeError", id="function"),
        pytest.param("json:__name__", "expected a function, got str", id="no-function"),
    ],
)
def test_a_handler_that_is_not_there_is_an_error(name: str, message: str) -> None:
    with pytest.raises(HandlerError, match=message):
        Handlers(print).find(name)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_what_would_end_the_process_is_a_failure(
    module: ModuleType, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*_: object) -> None:
        raise error

    with pytest.raises(HandlerError, match=type(error).__name__):
        calling(module, ends)
    (tmp_path / "ends_at_import.py").write_text(f"raise {error!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(HandlerError, match=type(error).__name__):
        Handlers(print).call("ends_at_import:page", REQUEST, RESPONSE)


def test_an_error_whose_text_fails_is_a_failure(module: ModuleType) -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            raise SystemExit

    def odd(*_: object) -> None:
        raise OddError

    with pytest.raises(HandlerError, match="OddError"):
        calling(module, odd)


def test_failures_are_logged_once_a_minute_for_each_handler(module: ModuleType) -> None:
    def broken(request: Request, _: Response) -> Reply | None:
        raise ZeroDivisionError(f"on {request.path}")

    module.__dict__.update(one=broken, two=broken)
    log: list[str] = []
    now = [0.0]
    handlers = Handlers(log.append, lambda: now[0])
    for name, second in [("one", 0.0), ("one", 59.0), ("two", 59.0), ("one", 60.0), ("one", 61.0)]:
        now[0] = second
        with pytest.raises(HandlerError, match="on /x"):
            handlers.call(f"made_up:{name}", REQUEST, RESPONSE)
    assert [text.split()[1] for text in log] == ["made_up:one", "made_up:two", "made_up:one"]
    assert 'raise ZeroDivisionError(f"on {request.path}")' in log[0]


def test_a_request_is_made_of_its_headers() -> None:
    request = request_of([(":method", "PUT"), (":authority", "A.test:80"), (":path", "/x?y=1"), ("a", "b")], "r")
    assert request == Request("PUT", "a.test", "/x", "y=1", (("a", "b"),), "r")
    assert (request.header("a"), request.header("b")) == ("b", None)


RULES = """
upstreams: {up: builtin:echo}
routes: [{name: shop, regex: "/.*", upstream: up}]
rules:
  # A rule and a route with a regex each: Envoy finds the route by a header of ours.
  - {name: both, match: {regex: "/never.*", routes: [shop]}, body: x}
  - {name: fails, match: {prefix: /fails}, enable_on_status: [503], handler: handlers_of_tests:fails}
  - {name: passes, match: {prefix: /passes}, enable_on_status: [503], handler: handlers_of_tests:passes}
  - {name: many, match: {prefix: /many}, enable_on_status: [503], handler: handlers_of_tests:many}
  - {name: large, match: {prefix: /large}, enable_on_status: [503], handler: handlers_of_tests:large}
  - {name: tells, match: {prefix: /tells}, enable_on_status: [5xx], handler: handlers_of_tests:tells}
  - {name: problems, enable_on_status: [5xx], handler: problem:page}
"""

CODE = """
import json
from rejoinder.rules.handlers import Reply

def fails(request, response):
    raise RuntimeError("no")

def passes(request, response):
    return None

def many(request, response):
    return Reply(418, [(f"x-{number}", "y") for number in range(20_000)], b"ours")

def large(request, response):
    return Reply(418, [("x", "y" * 1_000_000)], b"ours")

def tells(request, response):
    told = {
        "request": [request.method, request.host, request.path, request.query, request.route, request.header("x-a")],
        "response": [response.status, [list(header) for header in response.headers if header[0] != "date"]],
        "names": sorted({name for name, _ in request.headers}),
    }
    return Reply(418, (("x-twice", "1"), ("x-twice", "2")), json.dumps(told).encode())
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("code")
    (folder / "handlers_of_tests.py").write_text(CODE)
    (folder / "rules.yaml").write_text(RULES)
    return folder


@pytest.fixture(scope="module", params=list(Placement), ids=lambda placement: placement.value)
def handled(request: pytest.FixtureRequest, code: Path) -> Iterator[Gateway]:
    with pytest.MonkeyPatch.context() as patch:
        for folder in (code, HANDLERS):
            patch.syspath_prepend(folder)
        with Gateway(conditional=request.param, handlers=(code, HANDLERS)) as gateway:
            gateway.apply(ruleset(code / "rules.yaml"))
            yield gateway


def test_both_placements_show_a_handler_the_same(handled: Gateway) -> None:
    answer = handled.ask("GET", "A.test:1", "/tells/x?y=1", [("x-status", "503"), ("x-a", "\udcfc")])
    assert (answer.status, answer.values("x-twice")) == (418, ["1", "2"])
    told = json.loads(answer.body)
    # The client sent it as Latin-1; what is no UTF-8 is replaced.
    assert told["request"] == ["GET", "a.test", "/tells/x", "y=1", "shop", "\ufffd"]
    assert told["response"][0] == 503
    assert ["x-from", "upstream"] in told["response"][1]
    forwarding = {"x-envoy-external-address", "x-forwarded-for", "x-forwarded-proto", "x-request-id"}
    assert set(told["names"]) == {"x-a", "x-status", *forwarding}


@pytest.mark.parametrize("path", ["/fails", "/passes", "/many", "/large"])
def test_a_handler_that_fails_or_says_none_lets_the_response_pass(handled: Gateway, path: str) -> None:
    answer = handled.ask("GET", "a.test", path, [("x-status", "503")])
    assert (answer.status, answer.body, answer.values("x-from")) == (503, Upstream.BODY, ["upstream"])


def test_handler_failures_are_counted_by_rule(handled: Gateway) -> None:
    def failures() -> int:
        if handled.conditional is Placement.EXT_PROC:
            return handled.processor.counters().handler_failures.get("fails", 0)
        return sum(handled.stats("handler_failures.*fails").values())

    before = failures()
    for _ in range(3):
        handled.ask("GET", "a.test", "/fails", [("x-status", "503")])
    assert failures() == before + 3


def test_the_example_makes_a_problem_description(handled: Gateway) -> None:
    answer = handled.ask("GET", "a.test", "/orders/7", [("x-status", "503")])
    assert (answer.status, answer.values("content-type")) == (503, ["application/problem+json"])
    problem = json.loads(answer.body)
    assert (problem["title"], problem["status"], problem["instance"]) == ("Service Unavailable", 503, "/orders/7")
    assert problem["request_id"]


def test_a_status_that_no_handler_is_for_passes(handled: Gateway) -> None:
    assert handled.ask("GET", "a.test", "/tells", [("x-status", "404")]).status == 404
