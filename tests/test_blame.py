"""Which part of the rule files an Envoy complains about. The messages are those of Envoy 1.40, shortened."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from gateway import ruleset

from rejoinder.rules.model import Endpoint
from rejoinder.xds.blame import blame
from rejoinder.xds.build import Build, build
from rejoinder.xds.translate import Settings

GOOD: Final = """listen: 127.0.0.1:10000
upstreams:
  up: http://127.0.0.1:1
  up2: http://127.0.0.1:2
routes:
  - {name: a, prefix: /a, upstream: up}
  - {name: b, upstream: up2}
rules:
  - {name: first, match: {routes: [a], path: /a/x}, body: x}
  - {name: second, match: {routes: [a]}, enable_on_status: [503], body: y}
"""


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Build, Build]:
    """One that Envoy had, and one with the next edit: another status in the second rule."""
    monkeypatch.chdir(tmp_path)
    file = Path("rules.yaml")
    made = []
    for text in (GOOD, GOOD.replace("[503]", "[504]")):
        file.write_text(text)
        made.append(build(ruleset(file), Settings(Endpoint("127.0.0.1", 18001))))
    return made[0], made[1]


@pytest.mark.parametrize(
    ("message", "places"),
    [
        pytest.param(
            "Error adding/updating listener(s) 127.0.0.1:10000: cannot bind '127.0.0.1:10000': Address already in use",
            ['rules.yaml:1: listener "127.0.0.1:10000"'],
            id="a listener by its name",
        ),
        pytest.param(
            "Error adding/updating cluster(s) up2: malformed endpoint of 'up2'",
            ['rules.yaml:4: upstream "up2"'],
            id="an upstream in quotes",
        ),
        pytest.param(
            "Error: something is up",
            ['rules.yaml:10: rule "second"'],
            id="a name that only occurs by chance: what has changed",
        ),
        pytest.param("route 'a/rule/first' is wrong", ['rules.yaml:9: rule "first"'], id="a route is its rule's"),
        pytest.param('route "b" is wrong', ['rules.yaml:7: route "b"'], id="a route without rules is its own"),
        pytest.param(
            "Proto constraint validation failed (RouteConfigurationValidationError.VirtualHosts[0]: embedded message "
            "failed validation | caused by VirtualHostValidationError.Routes[2]: embedded message failed validation",
            ['rules.yaml:7: route "b"'],
            id="a route by its number",
        ),
        pytest.param("out of memory", ['rules.yaml:10: rule "second"'], id="nothing: what has changed"),
    ],
)
def test_a_rejection_is_about_a_place_in_the_files(
    builds: tuple[Build, Build], message: str, places: list[str]
) -> None:
    accepted, rejected = builds
    assert blame(message, rejected, accepted) == places


def test_nobody_is_blamed_if_nobody_can_tell(builds: tuple[Build, Build]) -> None:
    assert blame("out of memory", builds[1], None) == []


@pytest.mark.parametrize("numbers", [(7, 0), (0, 99)])
def test_a_number_that_there_is_not_blames_nobody(builds: tuple[Build, Build], numbers: tuple[int, int]) -> None:
    host, route = numbers
    message = (
        f"RouteConfigurationValidationError.VirtualHosts[{host}]: ... VirtualHostValidationError.Routes[{route}]: x"
    )
    assert blame(message, builds[1], None) == []


def test_a_rule_within_a_route_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rules.yaml").write_text(
        'upstreams: {u: "http://127.0.0.1:1"}\n'
        "routes: [{name: r, upstream: u}]\n"
        "rules: [{name: x, match: {routes: [r], path: /x}, body: x}]\n"
    )
    built = build(ruleset(Path("rules.yaml")), Settings(Endpoint("127.0.0.1", 18001)))
    assert blame("'r/rule/x' is wrong", built, None) == ['rules.yaml:3: rule "x"']


def test_a_filter_that_is_rejected_is_about_what_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    built = []
    for status in (503, 504):
        Path("rules.yaml").write_text(
            f"rules:\n- {{name: a, enable_on_status: [500], body: x}}\n"
            f"- {{name: b, enable_on_status: [{status}], body: x}}\n"
        )
        built.append(build(ruleset(Path("rules.yaml")), Settings(Endpoint("127.0.0.1", 18001))))
    message = "Error adding/updating filter config rejoinder.rules: the program is cut short"
    assert blame(message, built[1], built[0]) == ['rules.yaml:3: rule "b"']


@pytest.mark.usefixtures("builds")
def test_the_place_is_where_it_stands_now() -> None:
    file = Path("rules.yaml")
    file.write_text(f"# a line more, and all else is remembered\n{GOOD}")
    built = build(ruleset(file), Settings(Endpoint("127.0.0.1", 18001)))
    assert blame('route "b" is wrong', built, None) == ['rules.yaml:8: route "b"']
