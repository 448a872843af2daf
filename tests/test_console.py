"""The console without a browser: its JSON is what its OpenAPI document promises, and whatever it shows is text."""

from __future__ import annotations

import asyncio
import contextlib
import html.parser
import http.client
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlencode

import pytest
import yaml
from gateway import wait_for
from jsonschema import Draft202012Validator
from loops import running
from machine import SECONDS, Response, ask
from openapi_spec_validator import validate

from rejoinder.cli import admin, main, web
from rejoinder.cli.control import Control
from rejoinder.extproc import Workers
from rejoinder.rules.counts import NONE, Kind, Series
from rejoinder.rules.model import Endpoint
from rejoinder.transport.addresses import Tcp as Address
from rejoinder.xds.counts import Counted
from rejoinder.xds.events import Accepted, Event, Nack
from rejoinder.xds.snapshot import LISTENERS
from rejoinder.xds.translate import Settings

EVIL: Final = """"><script>alert(1)</script><img src=x onerror=alert(1)>'`{{ 7 * 7 }}</textarea></title>"""
RULES: Final = f"""\
upstreams: {{shop: {{urls: ["http://127.0.0.1:1"], health_check: {{path: /up}}}}}}
routes:
  - {{name: shop, prefix: /shop, upstream: shop, rate_limit: {{requests: 1, per: 1s}}}}
  - {{name: rest, upstream: shop}}
rules:
  - name: evil
    match: {{headers: {{x-evil: {{exact: {json.dumps(EVIL)}}}}}}}
    headers: [{json.dumps("X-Evil=" + EVIL)}, Content-Type=text/html]
    body: {json.dumps(EVIL)}
  - name: errors
    enable_on_status: [5xx]
    unless: {{domains: [a.test], clients: [10.0.0.0/8]}}
    source: local
    body: sorry
  - {{name: late, match: {{routes: [shop]}}, enable_on_status: [503], body: never}}
  - {{name: hiding, enable_on_status: [503], body: x}}
  - {{name: hidden, match: {{path: /x}}, enable_on_status: [503], body: y}}
"""
DOCUMENT: Final = yaml.safe_load((web.FOLDER / "openapi.yaml").read_text())
EVERYTHING: Final = ["/", "/metrics", "/status", *DOCUMENT["paths"], *dict(web.FILES)]


class Console:
    """A control plane that follows a file, and asks its console."""

    def __init__(self, file: Path, text: str) -> None:
        file.write_text(text)
        self.control = Control([file], [], Settings(Endpoint("127.0.0.1", 1)), processor=Workers(1))
        self.control.start()
        self.address = ("", 0)

    def get(self, path: str, to: str = "localhost", verb: str = "GET", **query: Any) -> Response:
        return ask(self.address, verb, to, f"{path}?{urlencode(query)}" if query else path)

    def json(self, path: str, **query: Any) -> Any:
        answer = self.get(path, **query)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    def rules(self) -> dict[str, Any]:
        return {rule["name"]: rule for rule in self.json("/api/rules")["items"]}

    def tell(self, event: Event) -> None:
        """As an Envoy would."""
        self.control.envoys.tell(event)

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[Self]:
        routes = web.Console(self.control).routes()
        app = admin.application(routes, knows=admin.knows_host(("127.0.0.1", 0), []))
        async with admin.serving(("127.0.0.1", 0), app) as self.address:
            following = asyncio.create_task(self.control.follow())
            yield self
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


def console(file: Path, text: str = RULES) -> AbstractContextManager[Console]:
    return running(Console(file, text).served())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rules.yaml"


def closed(schema: Any) -> Any:
    """The same where nothing may be there that is not described."""
    if isinstance(schema, list):
        return list(map(closed, schema))
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    return (
        {"additionalProperties": False, **inner} if schema.get("type") == "object" and "properties" in inner else inner
    )


def test_the_api_is_as_its_openapi_document_says(file: Path) -> None:
    validate(DOCUMENT)

    with console(file) as it:
        served = {route.path for route in web.Console(it.control).routes() if isinstance(route.path, str)}
        assert {path for path in served if path.startswith("/api/")} == {*DOCUMENT["paths"], "/api/openapi.yaml"}
        file.write_text(RULES.replace("sorry", "very sorry"))
        wait_for(lambda: len(it.control.history.edits) == 2)
        for path, description in DOCUMENT["paths"].items():
            content = description["get"]["responses"]["200"]["content"]
            for query in ({"url": "/shop", "status": 500}, {"url": "/"}, {"url": "/%00"}):
                if "application/json" not in content or ("url" in query and "url" not in str(description)):
                    continue
                said = it.get(path, **query)
                assert said.status == 200, (path, said.body)
                at = f"#/paths/{path.replace('/', '~1')}/get/responses/200/content/application~1json/schema"
                Draft202012Validator({**closed(DOCUMENT), "$ref": at}).validate(json.loads(said.body))


class Markup(html.parser.HTMLParser):
    """The elements of a page that could do something, and attributes that are none of ours."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[str | None] = []
        self.images = 0
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.images += tag == "img"
        self.scripts += [dict(attrs).get("src")] if tag == "script" else []
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_whatever_files_and_requests_say_is_text(file: Path) -> None:
    with console(file) as it:
        assert it.control.current
        snapshot = it.control.current.snapshot
        it.tell(Accepted(EVIL, snapshot))
        it.tell(Nack(EVIL + "2", LISTENERS, snapshot, EVIL))
        fields = ("url", "method", "client", "status", "source", "header", "response_header")
        queries: list[dict[str, str]] = [
            {},
            {"q": EVIL},
            *({"url": "/", field: EVIL} for field in fields),
            {"url": "/", "header": f"x-evil: {EVIL}", "unknown": EVIL, EVIL: EVIL},
        ]
        for query in queries:
            page = it.get("/", **query).body.decode()
            markup = Markup(page)
            assert (markup.scripts, markup.images, markup.handlers) == (["/console.js"], 0, []), query
        assert "{{ 7 * 7 }}" in page
        assert page.count("&lt;script&gt;alert(1)") > 6


def test_a_page_of_a_rule_does_nothing_even_if_it_is_opened_by_itself(file: Path) -> None:
    with console(file) as it:
        page = it.get("/api/explain/page", url="/", header=f"x-evil: {EVIL}")
        assert page.body.decode() == EVIL
        (policy,) = page.values("content-security-policy")
        assert policy.startswith("sandbox; default-src 'none'")
        assert page.values("content-type") == ["text/html"]
        text = {"url": "/shop", "status": 503}  # of another type
        for query, status in ((text, 404), ({"url": "/"}, 404), ({"url": "ftp://a"}, 400)):
            assert it.get("/api/explain/page", **query).status == status


def test_everything_has_its_headers_and_is_refused_to_other_hosts_and_methods(file: Path) -> None:
    with console(file) as it:
        for path in EVERYTHING:
            assert it.get(path, to="evil.test:18002").status == 421, path
            assert it.get(path, verb="POST").status == 405, path
            if path != "/api/events":
                said = it.get(path)
                assert said.values("x-content-type-options") == ["nosniff"], path
                assert "default-src 'none'" in said.values("content-security-policy")[0], path


@pytest.mark.parametrize(
    ("query", "said"),
    [
        pytest.param({"url": "ftp://a"}, "url: expected http://HOST/PATH", id="url"),
        pytest.param({"url": "/", "status": "x"}, "status: expected an HTTP status", id="status"),
        pytest.param({"url": "/", "header": "x"}, "header: expected 'NAME: VALUE'", id="header"),
        pytest.param({"url": "/", "source": "x"}, "source: expected upstream or local", id="source"),
    ],
)
def test_a_field_that_cannot_be_used_is_said(file: Path, query: dict[str, str], said: str) -> None:
    with console(file) as it:
        answer = it.get("/api/explain", **query)
        assert (answer.status, said in json.loads(answer.body)["error"]) == (400, True)
        page = it.get("/", **query)
        assert (page.status, said.replace("'", "&#39;") in page.body.decode()) == (200, True)
        assert it.get("/api/rules", offset="-1").status == 400
        assert it.get("/", rules_from="x").status == 400


@pytest.mark.parametrize(
    "asks",
    [
        pytest.param({"url": "/shop/1", "status": "503", "method": "POST"}, id="a status"),
        pytest.param({"url": "http://a.test/", "header": "accept: a\nx-evil: b", "client": "10.1.1.1"}, id="no status"),
        pytest.param({"url": "/", "status": "500", "source": "local", "response_header": "a: b"}, id="Envoy's own"),
    ],
)
def test_it_explains_what_the_command_explains(
    file: Path, asks: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with console(file) as it:
        said = it.json("/api/explain", **asks)
    capsys.readouterr()
    options = [
        word
        for name, text in asks.items()
        for line in text.splitlines()
        for word in (f"--{name.replace('_', '-')}", line)
    ]
    assert main(["explain", str(file), *options, "--format", "json", "--conditional", "ext_proc"]) == 0
    assert json.loads(capsys.readouterr().out) == said


def test_rules_are_shown_as_they_are_with_their_problems(file: Path) -> None:
    with console(file) as it:
        rules = it.rules()
        assert list(rules) == ["evil", "errors", "late", "hiding", "hidden"]
        assert rules["evil"]["placement"] == "native"
        assert rules["evil"]["answers"] == [{"on": [], "sends": f"200, {len(EVIL)} bytes"}]
        errors = rules["errors"]
        assert errors["at"] == f"{file}:10"
        assert (errors["placement"], errors["source"]) == ("ext_proc", "from Envoy itself")
        assert errors["unless"] == ['the domain "a.test"', 'the client "10.0.0.0/8"']
        assert errors["answers"] == [{"on": ["5xx"], "sends": "the same status, 5 bytes"}]
        assert [name for name, rule in rules.items() if rule["hidden"]] == ["hidden"]
        assert ["can never decide" in problem["message"] for problem in rules["hidden"]["problems"]] == [True]
        assert rules["late"]["scope"] == ['the route "shop"']


def test_a_broken_edit_is_shown_at_its_rule_and_hidden_rules_stay_hidden(file: Path) -> None:
    with console(file) as it:
        file.write_text(RULES.replace("body: sorry", "status_code: 9"))
        wait_for(lambda: len(it.control.history.edits) == 2)
        rules = it.rules()
        assert [rule["severity"] for rule in rules["errors"]["problems"]] == ["error"]
        assert rules["hidden"]["hidden"]
        (last, _) = it.json("/api/history")
        assert (last["version"], last["errors"]) == ("", 1)


def test_before_there_are_usable_files_it_says_what_is_wrong(file: Path) -> None:
    with console(file, "rules: ]\n") as it:
        page = it.get("/", url="/")
        assert page.status == 200
        assert "The files cannot be used as they are." in page.body.decode()
        assert it.json("/api/explain", url="/")["reply"]["status"] == 404
        file.write_text(RULES)
        wait_for(lambda: "errors" in it.rules())


@pytest.mark.parametrize(("number", "said"), [(1, "1 time<"), (2, "2 times<")])
def test_a_route_says_how_often_it_has_answered(file: Path, number: int, said: str) -> None:
    with console(file, "routes: [{name: own, path: /, respond: {body: x}}]\n") as it:
        it.tell(Counted(((Series("own", "", NONE, "200", Kind.ROUTE), number),), ()))
        assert said in it.get("/").body.decode()


def test_a_rule_says_how_often_it_has_answered_to_which_status(file: Path) -> None:
    with console(file) as it:
        for original, number in (("502", 2), ("503", 3)):
            it.tell(Counted(((Series("errors", "module", original, "503", Kind.ANSWERED), number),), ()))
        assert it.rules()["errors"]["by_original_status"] == {"502": 2, "503": 3}
        assert "3 \N{MULTIPLICATION SIGN} 503<" in it.get("/").body.decode()


def test_a_rule_says_how_many_pages_did_not_come(file: Path) -> None:
    with console(file) as it:
        it.tell(Counted(((Series("errors", "module", NONE, NONE, Kind.NO_PAGE), 3),), ()))
        assert it.rules()["errors"]["failed_pages"] == 3
        assert "3 without the page<" in it.get("/").body.decode()


def test_an_edit_that_changes_nothing_is_said_so(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with console(file) as it:
        file.write_text(f"{RULES}# a comment\n")
        wait_for(lambda: len(it.control.history.edits) == 2)
    assert "; nothing changed\n" in capsys.readouterr().err


def test_the_history_says_what_changed_and_who_took_it(file: Path) -> None:
    one, two, three = (f"  - {{name: {name}, enable_on_status: [503], body: {name}}}\n" for name in "abc")

    with console(file, f"rules:\n{one}{two}{three}") as it:
        file.write_text(f"rules:\n{three}{two.replace('body: b', 'body: B')}{one.replace('name: a', 'name: n')}")
        wait_for(lambda: len(it.control.history.edits) == 2)
        assert it.control.current
        it.tell(Accepted("fine", it.control.current.snapshot))
        it.tell(Nack("picky", LISTENERS, it.control.current.snapshot, "rule x is no good"))
        (last, first) = it.json("/api/history")
        assert first["changes"]["rules"] == {"added": {"number": 3, "some": ["a", "b", "c"]}}
        assert {word: names["some"] for word, names in last["changes"]["rules"].items()} == {
            "added": ["n"],
            "changed": ["b"],
            "removed": ["a"],
            "moved": ["c"],
        }
        assert last["accepted"] == ["fine"]
        assert [(client["node"], client["message"]) for client in last["rejected"]] == [
            ("picky", "listeners: rule x is no good")
        ]


def test_of_ten_thousand_rules_those_are_found_that_have_all_the_words(file: Path) -> None:
    text = "rules:\n" + "".join(
        f"  - {{name: r{n}, match: {{path: /p{n}, domains: [d{n % 7}.test]}}, status_code: 404}}\n"
        for n in range(10_000)
    )

    with console(file, text) as it:
        all_of_them = it.json("/api/rules")
        assert (all_of_them["total"], len(all_of_them["items"])) == (10_000, 100)
        result = it.json("/api/rules", q="D3.TEST /p999", offset="1", limit="2")
        assert (result["total"], [rule["name"] for rule in result["items"]]) == (2, ["r9999"])
        page = it.get("/", rules_from="9900").body.decode()
        assert "9901 to 10000 of 10000 rules" in page
        assert "next 100" not in page


def test_events_tell_of_edits_and_are_few(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MAX_STREAMS", 1)
    monkeypatch.setattr(web, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(web, "SILENT_SECONDS", 0.2)
    with console(file) as it:
        with stream(it.address) as (status, lines):
            assert status == 200
            first = next(lines)
            with stream(it.address) as (another, _):
                assert another == 503
            file.write_text(RULES.replace("sorry", "very sorry"))
            assert next(line for line in lines if line.strip() and line != first)

        def has_room() -> bool:
            with stream(it.address) as (status, _):
                return status == 200

        wait_for(has_room)  # it is noticed that the first has gone


@contextlib.contextmanager
def stream(address: Address) -> Iterator[tuple[int, Iterator[bytes]]]:
    connection = http.client.HTTPConnection(*address, timeout=SECONDS)
    with contextlib.closing(connection):
        connection.request("GET", "/api/events")
        response = connection.getresponse()
        yield response.status, iter(response.readline, b"")
        response.close()
