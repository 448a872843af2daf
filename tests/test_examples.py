"""Every example loads, is taken by Envoy, and does what the `curl` lines in its first comment say."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
from gateway import HANDLERS, Gateway, free_port, wait_for
from machine import ask

from rejoinder import envoy
from rejoinder.cli import main
from rejoinder.cli.echo import EchoServer
from rejoinder.rules.load import load
from rejoinder.rules.model import Endpoint, Ruleset
from rejoinder.rules.remote import rule_with_services
from rejoinder.xds.translate import Placement

EXAMPLES: Final = Path(__file__).parent.parent / "examples"

# What is to be given to `rejoinder up`: files, and folders of them.
SOURCES: Final = sorted(
    path.relative_to(EXAMPLES).as_posix()
    for path in EXAMPLES.iterdir()
    if path.suffix == ".yaml" or (path.is_dir() and any(path.glob("*.yaml")))
)

MOCKS: Final = (HANDLERS, EXAMPLES / "mock")
"""Where the examples' handlers are."""

OF_KUBERNETES: Final = ("higress", "kgateway")
"""Manifests, whose listeners and upstreams are a cluster's; they have tests of their own."""

ACCEPTED: Final = ("text/html", "application/json")
"""By browsers and by programs."""

AT: Final = "http://127.0.0.1:10000"

# What is asked, and the statuses that come; what an example's first comment has is all of it.
ASKED: Final[dict[str, list[tuple[str, list[int]]]]] = {
    "bypass.yaml": [
        (f"curl -i {AT}/", [503]),
        (f"curl -i {AT}/ -H 'cookie: preview=1'", [200]),
        (f"curl -i {AT}/ -H 'x-preview: 1'", [200]),
        (f"curl -i {AT}/ -H 'accept: application/json'", [503]),
    ],
    "compose": [
        ("curl -i localhost:10000/hello", [200]),
        ("curl -i localhost:10000/status/503", [503]),
        ("curl -i localhost:10000/status/404", [404]),
        ("curl -i localhost:10000/old/page", [308]),
    ],
    "default-backend": [
        (f"curl -i {AT}/status/503", [503]),
        (f"curl -i {AT}/status/404 -H 'accept: application/json'", [404]),
        (f"curl -i {AT}/status/418", [418]),
    ],
    "domains.yaml": [
        (f"curl -i {AT}/status/429 -H 'host: shop.example.com'", [200]),
        (f"curl -i {AT}/status/429 -H 'host: example.com'", [429]),
    ],
    "error-pages.yaml": [
        (f"curl -i {AT}/status/503", [503]),
        (f"curl -i {AT}/status/502 -H 'accept: application/json'", [502]),
        (f"curl -i {AT}/status/404", [404]),
    ],
    "final.yaml": [
        (f"curl -i {AT}/status/500", [500]),
        (f"curl -i {AT}/status/500 -H 'accept: application/json'", [500]),
        (f"curl -i {AT}/status/503 -H 'accept: application/json'", [503]),
    ],
    "handler": [(f"curl -i {AT}/status/503", [503])],
    "login.yaml": [
        (f"curl -i '{AT}/status/401?page=2'", [302]),
        (f"curl -i {AT}/status/401 -H 'accept: application/json'", [401]),
    ],
    "maintenance.yaml": [(f"curl -i {AT}/", [503])],
    "mock": [
        (f"curl -i {AT}/users/7", [200]),
        (f"curl -i {AT}/users/none", [404]),
        (f"curl -i {AT}/status/204", [204]),
    ],
    "moved.yaml": [
        (f"curl -i '{AT}/old/page?x=1'", [301]),
        (f"curl -i {AT}/page -H 'host: old.example.com'", [308]),
    ],
    "own-errors.yaml": [
        (f"curl -i {AT}/status/500", [500]),
        (f"curl -i {AT}/nowhere/", [404]),
        (f"curl -i {AT}/dead -H 'accept: application/problem+json'", [503]),
        (f"curl -i {AT}/dead -H 'accept: text/html' -H 'accept-language: fr'", [503]),
    ],
    "quickstart.yaml": [
        (f"curl -i {AT}/robots.txt", [200]),
        (f"curl -i {AT}/mock", [200]),
        (f"curl -i {AT}/search {AT}/search {AT}/search", [200, 200, 302]),
        (f"curl -i {AT}/status/503", [503]),
        (f"curl -i {AT}/status/500", [500]),
    ],
    "robots-and-health.yaml": [(f"curl -i {AT}/robots.txt", [200]), (f"curl -i {AT}/healthz", [200])],
    "routes.yaml": [(f"curl -i {AT}/a/x", [200]), (f"curl -i {AT}/c/x", [200])],
    "static-mock.yaml": [(f"curl -i {AT}/anything", [200])],
    "trial.yaml": [(f"curl -i {AT}/status/404", [404])],
    "throttled.yaml": [
        (f"for i in 1 2 3; do curl -si {AT}/search | head -1; done", [200, 200, 302]),
        (f"curl -i {AT}/status/429", [302]),
    ],
}


def test_every_example_is_asked_something() -> None:
    assert sorted((*ASKED, *OF_KUBERNETES)) == SOURCES


@pytest.mark.parametrize("source", ASKED)
def test_what_is_asked_is_what_the_first_comment_says(source: str) -> None:
    lines = [line.removeprefix("#").strip() for line in _first_comment(EXAMPLES / source)]
    # Behind two blanks stands what the line is for.
    commands = [line.split("  ")[0] for line in lines if re.match(r"curl |for .*curl ", line)]
    assert commands in ([], [command for command, _ in ASKED[source]])


def _first_comment(source: Path) -> Iterator[str]:
    file = source if source.is_file() else next(source.glob("*.yaml"))
    return itertools.takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("placement", ["ext_proc", "module"])
@pytest.mark.parametrize("source", SOURCES)
def test_envoy_takes_what_render_prints(
    source: str, placement: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", str(EXAMPLES / source), "--conditional", placement]) == 0
    out, err = capsys.readouterr()
    file = tmp_path / "envoy.yaml"
    file.write_text(out, encoding="utf-8")
    # A note says what the module needs.
    variables = dict(re.findall(r"([A-Z_]+)=(\S+)", err))
    command = [str(envoy.find().path), "-c", str(file), "--mode", "validate", "--disable-hot-restart"]
    validated = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    assert validated.returncode == 0, validated.stderr


def rules_of(source: str, echo: EchoServer) -> Ruleset:
    """An example's rules, with upstreams that are here."""
    loaded = load([EXAMPLES / source])
    assert loaded.ruleset is not None
    assert loaded.problems == ()
    upstreams = tuple(
        dataclasses.replace(upstream, endpoints=(Endpoint(*echo.address),), echo=False)
        if upstream.name != "dead"
        else upstream
        for upstream in loaded.ruleset.upstreams
    )
    return dataclasses.replace(loaded.ruleset, upstreams=upstreams)


@pytest.fixture(scope="module")
def echo() -> Iterator[EchoServer]:
    with EchoServer() as running:
        yield running


@pytest.fixture(scope="module", params=list(Placement), ids=lambda placement: placement.value)
def gateway(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    with Gateway(conditional=request.param, handlers=MOCKS) as running:
        yield running


@pytest.mark.parametrize("source", ASKED)
def test_an_example_answers_as_it_says(
    source: str, gateway: Gateway, echo: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in MOCKS:
        monkeypatch.syspath_prepend(folder)
    gateway.apply(rules_of(source, echo))
    for command, statuses in ASKED[source]:
        assert [curl(gateway, *asked) for asked in requests(command)] == statuses


def test_a_default_backend_makes_pages(gateway: Gateway, echo: EchoServer) -> None:
    folder, port = EXAMPLES / "default-backend", free_port()
    ruleset = rules_of("default-backend", echo)
    with subprocess.Popen([sys.executable, folder / "backend.py", str(port)], stderr=subprocess.DEVNULL) as backend:
        try:
            wait_for(lambda: bool(ask(("127.0.0.1", port), "GET", "a", "/").status), backend)
            service = next(upstream for upstream in ruleset.upstreams if upstream.name == "errors")
            there = {service.name: dataclasses.replace(service, endpoints=(Endpoint("127.0.0.1", port),))}
            gateway.apply(
                dataclasses.replace(
                    ruleset,
                    rules=tuple(rule_with_services(rule, there) for rule in ruleset.rules),
                    upstreams=tuple(there.get(upstream.name, upstream) for upstream in ruleset.upstreams),
                )
            )
            page = gateway.ask("GET", "a.test", "/status/503", [("accept", "text/html")])
            assert page.body == b"<!doctype html><title>503</title><h1>Service Unavailable</h1>"
            page = gateway.ask("GET", "a.test", "/status/404", [("accept", "application/json")])
            assert (page.status, page.body) == (404, b'{"status": 404, "title": "Not Found"}')
        finally:
            backend.kill()
    assert gateway.ask("GET", "a.test", "/status/502").body == b"We are having trouble. Please try again in a minute.\n"


def test_behind_a_final_rule_the_upstreams_own_error_passes(gateway: Gateway, echo: EchoServer) -> None:
    gateway.apply(rules_of("final.yaml", echo))
    bodies = {accept: gateway.ask("GET", "a.test", "/status/500", [("accept", accept)]).body for accept in ACCEPTED}
    assert [body.startswith(b"<!doctype html>") for body in bodies.values()] == [True, False]


def requests(command: str) -> Iterator[tuple[str, list[str]]]:
    """The URLs of a command, each with the headers, as often as a `for` around it says."""
    loop = re.fullmatch(r"for i in (?P<times>[\d ]+); do (?P<command>.*) \| head -1; done", command)
    words = shlex.split(loop["command"] if loop else command)
    headers = [word for option, word in itertools.pairwise(words) if option == "-H"]
    urls = [word for word in words[1:] if not word.startswith("-") and word not in headers]
    for _ in loop["times"].split() if loop else "1":
        yield from ((url, headers) for url in urls)


def curl(gateway: Gateway, url: str, headers: list[str]) -> int:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    sent = [(name.lower(), value) for name, value in (header.split(": ") for header in headers)]
    host = dict(sent).pop("host", parts.netloc)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return gateway.ask("GET", host, target, [header for header in sent if header[0] != "host"]).status
