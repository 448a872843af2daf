"""What is made of a rule file: its plan and what Envoy gets, compared with files that people have looked at.

golden/in/<feature>.yaml           a rule file for one feature, short
golden/out/<feature>.<kind>.yaml   what is made of it, one file for each of KINDS

`pytest --rewrite-golden` writes the second anew. The outputs of a rule file that is gone must be deleted by hand.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import ipaddress
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import pytest
import yaml
from gateway import ruleset
from handmade import Reader

from rejoinder.rules.answers import Reply
from rejoinder.rules.matching import Meet
from rejoinder.rules.model import EVERY_PATH, Endpoint, Forward, Redirect, Ruleset, StringMatch
from rejoinder.rules.program import compile_rules
from rejoinder.rules.template import Escape, Name
from rejoinder.xds.plan import Plan, PlannedRoute, plan
from rejoinder.xds.translate import Configuration, Placement, Settings, translate
from rejoinder.xds.translate.encode import snapshot

FOLDER: Final = Path(__file__).parent / "golden"
FEATURES: Final = sorted(path.stem for path in (FOLDER / "in").glob("*.yaml"))

SHOWN: Final = 60
"""How much of a body a plan shows, in characters."""


@dataclasses.dataclass(frozen=True)
class Made:
    """All that is made of one rule file."""

    plan: Plan
    configuration: Configuration


def make(feature: str) -> Made:
    rules = _with_certificates(ruleset(FOLDER / "in" / f"{feature}.yaml"))
    # One feature is shown for the module; where the answers are given changes nothing else.
    placement = Placement.MODULE if feature == "module" else Placement.EXT_PROC
    planned = plan(rules)
    settings = Settings(Endpoint("127.0.0.1", 18001), placement)
    return Made(planned, translate(rules, compile_rules(rules.rules), planned, settings))


def _with_certificates(rules: Ruleset) -> Ruleset:
    """Listeners on port 443 get a certificate: a pair that a rule file could name would have to be kept here."""
    return dataclasses.replace(
        rules,
        listeners=tuple(
            dataclasses.replace(listener, certificate=b"CERTIFICATE", key=b"KEY") if listener.port == 443 else listener
            for listener in rules.listeners
        ),
    )


# --- a plan as people read it ---


def readable(planned: Plan) -> dict[str, list[dict[str, Any]]]:
    return {
        domain.domain: [_route(route) for route in domain.routes]
        for group in planned.values()
        for domain in group.domains
    }


def _route(route: PlannedRoute) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": route.name, "match": _match(route.match), "action": _action(route)}
    if isinstance(route.action, Forward) and route.route and (limit := route.route.rate_limit):
        shown["rate_limit"] = f"{limit.requests} in {limit.interval:g} s"
    return shown


def _match(match: Meet) -> str:
    parts = [f"{path.kind.value} {path.value}" for path in match.paths or (EVERY_PATH,)]
    parts += [" or ".join(match.methods)] if match.methods else []
    parts += [f"header {_test(name, test)}" for name, test in match.headers]
    parts += [f"query {_test(name, test)}" for name, test in match.query]
    return ", ".join(parts)


def _test(name: str, test: StringMatch) -> str:
    return f"{name} {test.kind.value} {test.value}".rstrip()


def _action(route: PlannedRoute) -> Any:
    match route.action:
        case None:
            return "no route: 404"
        case Forward() as forward:
            return f"forward to {forward.upstream}"
        case Redirect() as redirect:
            fields = ((field.name, getattr(redirect, field.name)) for field in dataclasses.fields(redirect))
            return "redirect: " + ", ".join(f"{name} {value}" for name, value in fields if value is not None)
        case Reply() as reply:
            headers = [f"{name}: {value}" for name, value in reply.headers]
            return {"answer": reply.status, "headers": headers, "body": _body(reply.body)}


def _body(body: bytes) -> str:
    text = body.decode("utf-8", "backslashreplace")
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(body)} bytes)"


# --- filters as people read them ---


def filters(configuration: Configuration) -> list[Any]:
    return [_with_readable_program(extension) for extension in configuration.extensions]


def _with_readable_program(value: Any) -> Any:
    """A message, with what its module is told as docs/program.md has it in place of bytes."""
    if isinstance(value, list):
        return [_with_readable_program(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("@type", "").endswith("google.protobuf.BytesValue"):
        return {**value, "value": _program(base64.b64decode(value["value"]))}
    return {name: _with_readable_program(field) for name, field in value.items()}


def _program(data: bytes) -> list[str]:
    reader = Reader(data)
    assert (reader.take(6), reader.number(2)) == (b"RJNDR\0", 3)
    assert reader.list(lambda: reader.take(16)) == [], "short programs have no parts"
    return list(_records(reader))


def _records(reader: Reader) -> Iterator[str]:
    bodies: dict[bytes, str] = {}
    texts: dict[bytes, bytes] = {}
    while not reader.done:
        kind, payload = reader.number(1), Reader(reader.take(reader.number(4)))
        if kind == RULE:
            yield from _rule(payload, bodies)
        else:
            key = payload.take(16)
            text = payload.rest() if kind == BODY else _template(payload, texts).encode()
            texts[key], bodies[key] = text, _body(text)


BODY, RULE = 1, 2
SHARED = 255


def _template(reader: Reader, texts: Mapping[bytes, bytes] = MappingProxyType({})) -> str:
    return "".join(reader.list(lambda: _piece(reader, texts)))


def _piece(reader: Reader, texts: Mapping[bytes, bytes]) -> str:
    name = reader.number(1)
    if name == SHARED:
        return texts[reader.take(16)].decode()
    if not name:
        return reader.text()
    escape, argument = Escape(reader.number(1)), reader.text()
    return f"{{{{ {Name(name).name.lower()}{argument and '.' + argument} | {escape.name.lower()} }}}}"


def _scope(rule: Reader) -> str:
    domains = rule.list(rule.text)
    routes = (rule.number(1), rule.list(rule.text))
    path = (rule.number(1), rule.text())
    about = {
        "domains": domains,
        "routes": routes[1] if routes[0] else [],
        ("every", "path", "prefix", "regex")[path[0]]: [path[1]] if path[0] else [],
        "methods": rule.list(rule.text),
        "headers": rule.list(rule.test),
        "query": rule.list(rule.test),
        "clients": rule.list(lambda: f"/{rule.number(1)} of {ipaddress.IPv6Address(rule.take(16))}"),
        "response headers": rule.list(rule.test),
    }
    return ", ".join(f"{kind} {' or '.join(values)}" for kind, values in about.items() if values) or "every request"


def _rule(rule: Reader, bodies: dict[bytes, str]) -> Iterator[str]:
    flags, name = rule.number(1), rule.text()
    named = {1: "final", 2: "unconditional", 8: "observes"}
    words = [word for flag, word in named.items() if flags & flag]
    source = ("", "of an upstream", "of Envoy")[rule.number(1)]
    scope, unless = _scope(rule), f"unless {_scope(rule)}" if flags & UNLESS else ""
    yield f"rule {name}: {', '.join(filter(None, (*words, source, scope, unless)))}"
    for _ in range(rule.number(4)):
        ranges = rule.list(lambda: (rule.number(2), rule.number(2)))
        statuses = ", ".join(f"{first}-{last}" if first < last else f"{first}" for first, last in ranges)
        given, status, handler = rule.number(1), rule.number(2), rule.text()
        passes = given & 1
        keeps = [f"keeps {kept}" for kept in rule.list(rule.text)]
        keeps += [_asks(rule)] if given & 2 else []
        keeps += [f"gRPC {rule.number(1)} {_template(rule)}"] if given & 4 else []
        sent = [str(status) if status else "the same status", *keeps]
        for content in rule.list(lambda: _content(rule, bodies)):
            yield f"  {statuses or 'else'} -> {'passes' if passes else handler or ', '.join((*sent, *content))}"
    assert rule.done


UNLESS = 4


def _asks(rule: Reader) -> str:
    service, host, timeout, cache = rule.text(), rule.text(), rule.number(4), rule.number(4)
    stays = " (or the response stays)" if rule.number(1) else ""
    told = ", ".join(rule.list(lambda: f"{rule.text()}: {_template(rule)}"))
    return f"the page of {service} as {host} within {timeout} ms, kept for {cache} ms{stays}, which is told {told}"


def _content(rule: Reader, bodies: dict[bytes, str]) -> list[str]:
    offer = [f"({text})" for text in (rule.text(), rule.text()) if text]
    headers = rule.list(lambda: f"{rule.text()}: {rule.text()}")
    filled = rule.list(lambda: f"{rule.text()}: {_template(rule)}")
    return [*offer, *headers, *filled, *([bodies[rule.take(16)]] if rule.number(1) else [])]


# --- comparing ---

KINDS: Final[dict[str, Callable[[Made], Any]]] = {
    "plan": lambda made: readable(made.plan),
    "listeners": lambda made: list(made.configuration.listeners),
    "extensions": lambda made: filters(made.configuration),
    "routes": lambda made: list(made.configuration.routes),
    "clusters": lambda made: list(made.configuration.clusters),
}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


_Dumper.add_multi_representer(dict, yaml.SafeDumper.represent_dict)


def as_yaml(value: Any) -> str:
    text = io.StringIO()
    yaml.dump(value, text, _Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("feature", FEATURES)
def test_what_is_made_is_what_was_looked_at(feature: str, kind: str, pytestconfig: pytest.Config) -> None:
    text = as_yaml(KINDS[kind](make(feature)))
    file = FOLDER / "out" / f"{feature}.{kind}.yaml"
    if pytestconfig.getoption("rewrite_golden"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert file.is_file(), f"{file} is missing: pytest --rewrite-golden writes it"
    assert text == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("feature", FEATURES)
def test_what_is_made_are_messages_of_envoys_api(feature: str) -> None:
    assert snapshot(make(feature).configuration).resources


def test_every_output_has_an_input() -> None:
    expected = {f"{feature}.{kind}.yaml" for feature in FEATURES for kind in KINDS}
    assert {path.name for path in (FOLDER / "out").iterdir()} == expected
