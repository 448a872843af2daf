"""What a rule means that leaves something out."""

from __future__ import annotations

import pytest
from loading import (
    _in_an_empty_folder,  # noqa: F401 - a fixture
    errors_of,
    load_text,
    ruleset_of,
    write,
)

from rejoinder.rules.model import (
    Answer,
    Ruleset,
)

# --- what is left out ---


@pytest.mark.parametrize(
    ("text", "status"),
    [
        pytest.param("rules: [{name: r, body: x}]", 200, id="a rule: no status calls for it"),
        pytest.param("rules: [{name: r, enable_on_status: [503], body: x}]", None, id="a rule on a status keeps it"),
        pytest.param("rules: [{name: r, rules: [{enable_on_status: [503], body: x}]}]", None, id="a list of answers"),
        pytest.param(
            "rules: [{name: r, rules: [{body: x}, {enable_on_status: [503], body: y}]}]",
            None,
            id="an answer for every other status in it",
        ),
        pytest.param("rules: [{name: r, rules: [{body: x}]}]", 200, id="a list without a status"),
        pytest.param(
            "rules: [{name: r, enable_on_status: [503], status_code: 200, body: x}]", 200, id="200 if it says"
        ),
        pytest.param("routes: [{name: r, respond: {body: x}}]", 200, id="a route"),
        pytest.param("{enable_on_status: [503], body: x}", 200, id="the plug-in: 200"),
        pytest.param("rules: [{enable_on_status: [503], body: x}]", 200, id="the plug-in's list"),
        pytest.param("_rules_: [{_match_domain_: [a], enable_on_status: [503], body: x}]", 200, id="its scopes"),
    ],
)
def test_status_code_left_out(text: str, status: int | None) -> None:
    ruleset = ruleset_of(text)
    answers = (*(rule.answers[0] for rule in ruleset.rules), *(route.action for route in ruleset.routes))
    assert [answer.status_code for answer in answers if isinstance(answer, Answer)] == [status]


@pytest.mark.parametrize(
    ("file", "more", "types"),
    [
        pytest.param("page.html", "", ["text/html; charset=utf-8"], id="a text"),
        pytest.param("page.HTML", "", ["text/html; charset=utf-8"], id="letter case"),
        pytest.param("robots.txt", "", ["text/plain; charset=utf-8"], id="plain"),
        pytest.param("a.json", "", ["application/json; charset=utf-8"], id="JSON"),
        pytest.param("a.svg", "", ["image/svg+xml; charset=utf-8"], id="a picture that is a text"),
        pytest.param("a.png", "", ["image/png"], id="one that is none has no charset"),
        pytest.param("page", "", [], id="no extension: what the body looks like"),
        pytest.param("a.nothing", "", [], id="an unknown one"),
        pytest.param("page.html", "headers: [Content-Type=text/x], ", ["text/x"], id="what the file says wins"),
    ],
)
def test_content_type_left_out_comes_from_the_files_name(file: str, more: str, types: list[str]) -> None:
    write({f"pages/{file}": "x"})
    [answer] = ruleset_of(f"rules: [{{name: r, {more}body_file: pages/{file}}}]").rules[0].answers
    assert [value for name, value in answer.headers if name == "content-type"] == types


@pytest.mark.parametrize("section", ["listen", "upstreams", "routes", "rules", "_rules_"])
def test_a_section_with_nothing_behind_it_is_as_if_it_were_not_there(section: str) -> None:
    loaded = load_text(f"{section}:\n  # all is commented out\n")
    assert (loaded.ruleset, loaded.problems) == (Ruleset(), ())


def test_an_answer_without_its_statuses_is_not_one_for_every_request() -> None:
    loaded = load_text("enable_on_status:\n  # - 503\nbody: x\n")
    assert errors_of(loaded) == [
        "rules.yaml:1: enable_on_status: expected a status from 200 to 599, or three characters such as 5xx or 40x, "
        "got nothing"
    ]
