"""What Envoy refuses, `check` knows: one tenant's extreme value blocks nobody else's updates."""

from __future__ import annotations

import copy
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from case_files import CLOSED, GATEWAY, complaints, http_route, loaded, routes
from test_known_fields import VALID

from rejoinder import envoy
from rejoinder.rules.kubernetes.http_filters import MAX_ORIGIN
from rejoinder.rules.load import Loaded, load
from rejoinder.rules.matching import RegexError, compile_regex
from rejoinder.rules.model import MAX_HEADERS, MAX_TEXT, Answer, Endpoint, Ruleset
from rejoinder.xds.build import build
from rejoinder.xds.translate import Settings, static_bootstrap

COPIES: Final = 8
"""Of the manifests, in one Envoy."""
ROUNDS: Final = 30

TEXTS: Final = (
    *("", " ", "a", "é", "%", "\\", "\\1", "a\nb", "a\x00b", "x y", "'", "a'b", "*", "*.test", "h2c", ":path", "host"),
    *("a" * size for size in (64, 110, 254, 255, 256, 1024, 1025, 4097, 16384, 16385, 70000)),
    *("/" + "a" * size for size in (100, MAX_TEXT - 1, MAX_TEXT, 70000)),
    *("//", "/a/", "/a?b", "/a%2f", "/.*", "/[a-z]{1,63}/[0-9]+", "/[a-z]{1,1000}", "(?:[a-z]{1,500}){1,9}", "[" * 9),
    *("https://" + "a" * 110 + ".test", "https://" + "*" * (MAX_ORIGIN - 8), ".".join(["a" * 60] * 8)),
    *("0", "0s", "1ms", "99999h", "503", "::1", "content-length", "connection", "GET", "CONNECT"),
)
OTHERS: Final[tuple[object, ...]] = (
    0,
    1,
    -1,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    10**30,
    1.5,
    True,
    None,
    [],
    {},
)
LENGTHS: Final = (2, 24, MAX_HEADERS, MAX_HEADERS + 1, 1001)

RULES: Final = """
upstreams:
  up: {urls: ["http://127.0.0.1:1"], http2: true, host: up.test, health_check: {path: /h, interval: 1s, timeout: 1s}}
  tls: {urls: ["https://tls.test:1"], tls: {sni: tls.test}, connect_timeout: 1s}
routes:
- {name: answer, path: /e, headers: {a: b, c: {regex: d+}}, query: {a: b, c: {suffix: d}}, respond: {headers: {x: y}}}
- {name: all, domains: [a.test], prefix: /p, upstream: up, timeout: 1s, rewrite: {host: x.test, prefix: /q},
   retries: {attempts: 2, "on": [5xx, "503"]}, upgrades: [websocket, foo], rate_limit: {requests: 1, per: 1s}}
- {name: one, path: /rw, upstream: tls, idle_timeout: 1s, rewrite: {path: /q}}
- {name: regex, regex: /r.*, redirect: {scheme: https, host: r.test, port: 1, path: /x, status_code: 302}}
- {name: below, prefix: /rd, redirect: {prefix: /x}}
rules:
- {name: split, match: {regex: /two.*, routes: [all, regex]}, body: b}
- {name: host, match: {domains: [x.test, "*.y.test"], prefix: /one, methods: [GET, PUT]}, headers: {x: y}, body: b}
- {name: status, match: {headers: {"a'b": {suffix: b}}, query: {q: {regex: a+}}}, enable_on_status: [5xx, "404"]}
- {name: final, final: true, match: {prefix: /p/four, domains: [a.test]}, enable_on_status: ["500"], body: c}
- {name: rest, match: {prefix: /p}, body: c}
"""


def paths(node: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a document."""
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in entries:
        yield (*before, key)
        yield from paths(value, (*before, key))


def change(document: Any, chance: random.Random) -> None:
    """Make one value of a document extreme."""
    *way, last = chance.choice([path for path in paths(document) if path[0] not in ("apiVersion", "kind", "metadata")])
    parent = document
    for key in way:
        parent = parent[key]
    value = parent[last]
    if isinstance(value, list) and value and chance.random() < 0.7:
        parent[last] = [_numbered(value[0], number, chance) for number in range(chance.choice(LENGTHS))]
    elif isinstance(value, dict) and value and chance.random() < 0.7:
        value[chance.choice(TEXTS)] = value.pop(chance.choice(list(value)))
    else:
        parent[last] = chance.choice((*TEXTS, *OTHERS))


def _numbered(entry: Any, number: int, chance: random.Random) -> Any:
    if isinstance(entry, str):
        return f"{entry}{'A' * number}" if chance.random() < 0.5 else f"{entry}{number}"
    made = copy.deepcopy(entry)
    if isinstance(made, dict) and isinstance(made.get("name"), str):
        made["name"] += str(number)
    return made


def takes(ruleset: Ruleset | None, folder: Path) -> str:
    """What Envoy says about a configuration; empty: it takes it."""
    assert ruleset is not None
    made = static_bootstrap(build(ruleset, Settings(Endpoint("127.0.0.1", 1))).configuration)
    file = folder / "envoy.json"
    file.write_text(json.dumps(made))
    command = [str(envoy.find().path), "-c", str(file), "--mode", "validate", "--log-level", "error"]
    result = subprocess.run([*command, "--disable-hot-restart"], capture_output=True, text=True, check=False)
    return "" if result.returncode == 0 else result.stderr[-2000:]


def written(documents: list[Any], folder: Path) -> Loaded:
    file = folder / "extreme.yaml"
    file.write_text(yaml.dump_all(documents, Dumper=yaml.CSafeDumper, allow_unicode=True))
    return load([file])


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_envoy_takes_manifests_with_extreme_values(tmp_path: Path, seed: int) -> None:
    """Also those that `check` finds something wrong with: that is left out, or answers 500."""
    chance = random.Random(seed)
    documents: list[Any] = []
    for number in range(COPIES):
        text = VALID.replace("demo", f"demo{number}").replace("127.0.0.1", f"127.0.0.{number + 1}")
        text = text.replace("custom-response,", f"custom-response{number},").replace("{name: a, value: b}", MATCHES, 1)
        made = list(yaml.safe_load_all(text))
        change(chance.choice([document for document in made if "spec" in document]), chance)
        documents += made
    assert takes(written(documents, tmp_path).ruleset, tmp_path) == ""


MATCHES: Final = "{name: a, value: b}, {type: RegularExpression, name: r, value: b+}"


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_envoy_takes_rule_files_with_extreme_values(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    assert written([yaml.safe_load(RULES)], tmp_path).problems == ()
    for _ in range(COPIES):
        document = yaml.safe_load(RULES)
        change(document, chance)
        result = written([document], tmp_path)
        if result.ruleset is not None:
            assert takes(result.ruleset, tmp_path) == "", result.complaints


def match(test: str) -> str:
    other = f"{{matches: [{{path: {{value: /other}}}}], filters: [{CLOSED}]}}"
    return http_route(
        f"  rules:\n  - {{matches: [{{path: {{value: /good}}}}, {test}], filters: [{CLOSED}]}}\n  - {other}"
    )


BAD: Final = {
    "a header without a name": ("{headers: [{value: b}]}", "name is missing"),
    "an empty name": ("{headers: [{name: '', value: b}]}", "expected a header name"),
    "a parameter without a name": ("{queryParams: [{value: b}]}", "name is missing"),
    "a parameter's empty name": ("{queryParams: [{name: '', value: b}]}", "expected a parameter name"),
    "its long name": (f"{{queryParams: [{{name: {'a' * 1025}, value: b}}]}}", "at most 1,024 bytes"),
    "a header's long name": (f"{{headers: [{{name: {'a' * 16385}, value: b}}]}}", "at most 16,384 bytes"),
    "a long path": (f"{{path: {{value: /{'a' * MAX_TEXT}}}}}", "at most 4,096 bytes"),
    "a large regex": (
        "{path: {type: RegularExpression, value: '/[a-z]{1,1000}/[a-z]{1,1000}/[a-z]{1,1000}'}}",
        "ask for fewer repetitions",
    ),
}


@pytest.mark.parametrize(("test", "message"), BAD.values(), ids=BAD)
def test_a_bad_match_costs_that_match(tmp_path: Path, test: str, message: str) -> None:
    result = loaded(tmp_path, GATEWAY + match(test))
    assert any(message in complaint for complaint in complaints(result))
    made = {route.name.removeprefix("httproute/demo/r/"): route.action for route in routes(result)}
    statuses = {name: isinstance(action, Answer) and action.status_code for name, action in made.items()}
    assert statuses == {"rule/0/match/0": 503, "rule/0/match/1": 500, "rule/1/match/0": 503}
    assert list(made)[-1] == "rule/0/match/1", "and it takes no request of others"
    assert takes(result.ruleset, tmp_path) == ""


FILTER: Final = "{{type: RequestHeaderModifier, requestHeaderModifier: {{{0}}}}}"
APP: Final = "{name: app, port: 80, weight: 1000000}"
COSTLY: Final = {
    "a filter's long name": (FILTER.format(f"set: [{{name: {'a' * 16385}, value: b}}]"), APP, "at most 16,384 bytes"),
    "a long name to remove": (FILTER.format(f"remove: [{'a' * 16385}]"), APP, "at most 16,384 bytes"),
    "too many headers": (FILTER.format(f"add: [{'{name: a, value: b}, ' * 501}]"), APP, "at most 500 headers"),
    "weights": ("", ", ".join([APP] * 4295), "all weights together are 4,295,000,000"),
    "an origin": (
        f"{{type: CORS, cors: {{allowOrigins: ['https://{'a' * MAX_ORIGIN}']}}}}",
        APP,
        "at most 1,024 bytes",
    ),
}


@pytest.mark.parametrize(("filters", "backends", "message"), COSTLY.values(), ids=COSTLY)
def test_a_rule_that_envoy_would_refuse_answers_500(tmp_path: Path, filters: str, backends: str, message: str) -> None:
    text = http_route(f"  rules: [{{filters: [{filters}], backendRefs: [{backends}]}}]")
    result = loaded(tmp_path, GATEWAY + text)
    assert message in complaints(result)[0]
    (route,) = routes(result)
    assert isinstance(route.action, Answer)
    assert takes(result.ruleset, tmp_path) == ""


LONG: Final = "a" * 3000
WITHIN: Final = {
    "a UUID and more": """
        routes: [{name: r, regex: '/[a-z]{1,63}/[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}', respond: {body: x}}]
        """,
    "a long prefix beside a regex": f"""
        routes: [{{name: r, regex: /.*, redirect: {{host: a.test}}}}]
        rules: [{{match: {{routes: [r], prefix: /{LONG}}}, body: x}}]
        """,
    "methods": f"""
        routes: [{{name: r, methods: [{", ".join("A" * size for size in range(1, 80))}], redirect: {{port: 1}}}}]
        """,
}


@pytest.mark.parametrize("text", WITHIN.values(), ids=WITHIN)
def test_what_is_within_the_limits_is_taken(tmp_path: Path, text: str) -> None:
    assert takes(loaded(tmp_path, text).ruleset, tmp_path) == ""


def test_regexes_have_a_size() -> None:
    compile_regex(2 * "/[a-z]{1,1000}")
    with pytest.raises(RegexError, match=r"compiled to 6,\d{3} instructions, and Envoy takes 5,000"):
        compile_regex(3 * "/[a-z]{1,1000}")
