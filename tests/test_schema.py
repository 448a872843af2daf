"""`rejoinder schema` and the reader: a rule file that is read is valid, and one with a mistake of form is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import random_rules
import test_cases
import test_docs
import test_load
import test_load_files
import test_load_mistakes
import yaml
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from rejoinder.rules import document
from rejoinder.rules.document import List, Node, Scalar, ScalarKind
from rejoinder.rules.load import load
from rejoinder.rules.problem import Severity
from rejoinder.rules.schema import schema

PROJECT: Final = Path(__file__).parents[1]
VALIDATOR: Final = Draft202012Validator(schema())

SCALARS: Final = {
    ScalarKind.INTEGER: lambda text: int(text) if text.isdecimal() else float("nan"),
    ScalarKind.FLOAT: lambda _: float("nan"),  # `302.0` is an integer for JSON Schema, and none for the reader
    ScalarKind.BOOLEAN: lambda text: text.lower() in ("true", "yes", "on"),
    ScalarKind.NULL: lambda _: None,
    ScalarKind.TIMESTAMP: lambda text: {"a date": text},
}


def instance(node: Node) -> Any:
    """What the reader sees, as JSON has it."""
    if isinstance(node, Scalar):
        return SCALARS.get(node.kind, str)(node.text)
    if isinstance(node, List):
        return [instance(item) for item in node.items]
    return {name: instance(entry.value) for name, entry in node.entries.items()}


def instances(text: str) -> list[Any]:
    documents, problems = document.parse(text.encode(), "rules.yaml")
    assert not problems
    return [instance(node) for node in documents]


def complaints(text: str) -> list[str]:
    return [
        f"{list(error.absolute_path)}: {error.message}" for it in instances(text) for error in VALIDATOR.iter_errors(it)
    ]


def test_it_is_a_json_schema() -> None:
    Draft202012Validator.check_schema(schema())


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from objects(item)


def test_every_field_has_a_description_and_every_pattern_is_one_of_javascript_too() -> None:
    for shape in schema()["$defs"].values():
        assert all(field["description"].endswith(".") for field in shape["properties"].values())
    for value in objects(schema()):
        if isinstance(pattern := value.get("pattern"), str):
            re.compile(pattern)
            # With the flag `u`, which validators set, an escape must stand for something:
            # https://262.ecma-international.org/#prod-IdentityEscape
            assert not re.search(r"\(\?[^:=!]|\\[^\^$\\.*+?()\[\]{}|/wWdDsSbBxt]", pattern), pattern


# --- what is read is valid ---

FILES: Final = [*(PROJECT / "examples").rglob("*.yaml"), *(PROJECT / "tests/golden/in").glob("*.yaml")]
OF_RULES: Final = [path for path in FILES if "apiVersion:" not in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", OF_RULES, ids=lambda path: path.name)
def test_a_file_that_is_used_is_valid(path: Path) -> None:
    assert complaints(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("block", test_docs.RULE_FILES, ids=str)
def test_a_rule_file_of_a_page_is_valid(block: test_docs.Block) -> None:
    assert complaints(block.text) == []


def test_every_field_in_one_file_is_valid() -> None:
    assert complaints(test_load.EVERYTHING) == []


@settings(max_examples=200)
@given(random_rules.rule_files())
def test_a_rule_file_at_random_is_valid(rules: dict[str, Any]) -> None:
    assert complaints(yaml.safe_dump(rules, allow_unicode=True)) == []


def errors(text: str, folder: Path) -> list[str]:
    (folder / "rules.yaml").write_text(text, encoding="utf-8")
    return [str(problem) for problem in load([folder / "rules.yaml"]).problems if problem.severity is Severity.ERROR]


@settings(max_examples=1000)
@given(test_load_files.DOCUMENTS)
def test_whatever_the_reader_takes_is_valid(tmp_path: Path, text: str) -> None:
    if not re.search("apiVersion|kind", text) and not errors(text, tmp_path):
        assert complaints(text) == []


# --- what is wrong in form is not valid ---

WRONG: Final = [
    *(
        (f"rules: [{{name: r, match: {{path: /x}}, {it}}}]", message)
        for it, message in test_load_mistakes.WRONG_IN_A_RULE
    ),
    *((f"rules: [{{name: r, {it}}}]", message) for it, message in test_load_files.WRONG_IN_AN_ANSWER),
    *((f"rules: [{{match: {{{it}}}, body: x}}]", message) for it, message in test_load_mistakes.WRONG_IN_A_MATCH),
    *test_load_mistakes.WRONG_ELSEWHERE,
    *((form.format(it), message) for form, it, message in test_cases.MISTAKES),
]

LEFT_TO_THE_READER: Final = {
    "other files": ("does not exist", "is a folder", "is not a path"),
    "other parts of the file": (
        "is taken already",
        "unknown route",
        "unknown upstream",
        "given twice",
        "claimed twice",
        "is asked over HTTP/1.1",
        "has no pages",
    ),
    "values that must suit each other": (
        *("needs enable_on_status", "is about errors", "cannot have a body", "URLs of one kind", "only https://"),
        *("nothing to observe", "fits every request", "and it has none", "and page: builtin"),
    ),
    "what a pattern does not say, or nobody could read": (
        *("normalizes paths", "bits behind its prefix", "(RE2)", "a duration of", "a port from", "a URL such as"),
        *("an IP address and a port", "such as websocket", "cannot be set by an answer", "is about the body"),
    ),
    "templates": ("unknown name", 'expected "}}"'),
    "sizes": ("takes at most",),
}
"""What messages say of mistakes that the schema does not know, by what they are about."""


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text[:60] for text, _ in WRONG])
def test_what_is_wrong_is_not_valid(text: str, message: str) -> None:
    left = [words for group in LEFT_TO_THE_READER.values() for words in group if words in message]
    assert complaints(text) or left


@pytest.mark.parametrize("words", [words for group in LEFT_TO_THE_READER.values() for words in group])
def test_nothing_is_left_to_the_reader_that_the_schema_knows(words: str) -> None:
    assert any(not complaints(text) for text, message in WRONG if words in message)


# --- every field of the schema is read ---

PLACES: Final[dict[str, str]] = {
    "rule-file": "%s",
    "listener": "listen: %s",
    "upstream": "upstreams: {u: %s}",
    "upstream-tls": "upstreams: {u: {urls: https://u, tls: %s}}",
    "health-check": "upstreams: {u: {urls: http://u, health_check: %s}}",
    "branding": "branding: %s",
    "route": "routes: [%s]\n---\nupstreams: {u: http://u}\nroutes: [{<<: [%s, {name: r, upstream: u}]}]",
    "respond": "routes: [{name: r, respond: %s}]",
    "redirect": "routes: [{name: r, redirect: %s}]",
    "rewrite": "upstreams: {u: http://u}\nroutes: [{name: r, upstream: u, rewrite: %s}]",
    "retries": "upstreams: {u: http://u}\nroutes: [{name: r, upstream: u, retries: %s}]",
    "rate-limit": "upstreams: {u: http://u}\nroutes: [{name: r, upstream: u, rate_limit: %s}]",
    "rule": "rules: [{name: other, pass: true}, %s]",
    "scope": "rules: [{name: r, match: %s}]",
    "string-test": "rules: [{name: r, match: {headers: {a: %s}}}]",
    "answer": "rules: [{name: r, rules: [%s]}]",
    "page": "rules: [{name: r, enable_on_status: 500, page: %s}]",
    "grpc": "rules: [{name: r, grpc: %s}]",
    "variant": "rules: [{name: r, variants: [%s]}]",
    "plug-in-answer": "rules: [%s]",
    "scoped-configuration": "_rules_: [%s]",
}
"""Where in a rule file a mapping of each shape may stand."""

FIELDS: Final = [(shape, field) for shape, value in schema()["$defs"].items() for field in value["properties"]]


@pytest.mark.parametrize(("shape", "field"), FIELDS)
def test_a_field_of_the_schema_is_read(tmp_path: Path, shape: str, field: str) -> None:
    document = PLACES[shape].replace("%s", f"{{{field}: {{odd: [[[]]]}}}}")
    about = [error for error in errors(document, tmp_path) if re.search(rf"\b{field}\b.*: |odd", error)]
    assert [error for error in about if not re.search("is not allowed|give only one|unknown field .* did", error)]
