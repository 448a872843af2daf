"""What is encoded is what protobuf's own JSON parser would make of the same dictionaries, but for the order in maps."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from gateway import ruleset
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from random_rules import rule_files

from rejoinder.rules.load import load
from rejoinder.rules.model import (
    Answer,
    Endpoint,
    PathKind,
    PathMatch,
    RequestMatch,
    Rule,
    Ruleset,
    Scope,
    StatusPattern,
)
from rejoinder.rules.program import compile_rules
from rejoinder.xds.build import build
from rejoinder.xds.plan import plan
from rejoinder.xds.protobuf import MappingError, encoder, message_class
from rejoinder.xds.snapshot import CLUSTERS, EXTENSIONS, LISTENERS, ROUTES, VIRTUAL_HOSTS
from rejoinder.xds.translate import Configuration, Json, Placement, Settings, translate
from rejoinder.xds.translate.encode import snapshot
from rejoinder.xds.translate.settings import named_again

FILES = sorted(
    path
    for folder in ("tests/golden/in", "examples")
    for path in (Path(__file__).parent.parent / folder).glob("*.yaml")
    if path.stem != "tls"  # its certificates are not there
)
SETTINGS = [
    Settings(Endpoint("127.0.0.1", 18001), placement, long_list=long_list)
    for placement in Placement
    for long_list in (2, 64)
]
ERRORS = Rule("errors", (Answer(503, enable_on_status=(StatusPattern("5"),)),))
MESSAGES = {kind: message_class(kind.message) for kind in (CLUSTERS, LISTENERS, ROUTES, EXTENSIONS)}


def parsed(cls: type[Any], fields: Json) -> tuple[int, Json]:
    message = cls()
    # (The parser takes `@type` out and puts it back at the end.)
    json_format.ParseDict(copy.deepcopy(fields), message, descriptor_pool=message.DESCRIPTOR.file.pool)
    return read(cls, message.SerializeToString())


def read(cls: type[Any], encoded: bytes) -> tuple[int, Json]:
    """How many bytes there are, and what they say, whatever the order of maps, which is the library's own."""
    message = cls.FromString(encoded)
    return len(encoded), json_format.MessageToDict(message, descriptor_pool=message.DESCRIPTOR.file.pool)


def check(configuration: Configuration) -> None:
    resources = snapshot(configuration).by_type
    for kind, messages in (
        (CLUSTERS, configuration.clusters),
        (LISTENERS, configuration.listeners),
        (ROUTES, configuration.routes),
        (EXTENSIONS, configuration.extensions),
    ):
        assert {name: read(MESSAGES[kind], resource.body) for name, resource in resources[kind].items()} == {
            message["name"]: parsed(MESSAGES[kind], message) for message in messages
        }


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_a_rule_file_is_encoded_as_protobuf_would(file: Path) -> None:
    rules = ruleset(file)
    for variant in SETTINGS:
        check(translate(rules, compile_rules(rules.rules), plan(rules), variant))


@settings(max_examples=50)
@given(document=rule_files(), of=st.sampled_from(SETTINGS))
def test_any_rule_file_is(tmp_path_factory: pytest.TempPathFactory, document: Json, of: Settings) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(yaml.safe_dump(document, allow_unicode=True, sort_keys=False), encoding="utf-8")
    rules = load([file]).ruleset
    if rules is not None:
        check(translate(rules, compile_rules(rules.rules), plan(rules), of))


@pytest.mark.parametrize(("too_many", "apart"), [(1, False), (0, True)], ids=["too many", "as many as may be"])
def test_virtual_hosts_are_resources_as_long_as_an_envoy_can_name_them(
    monkeypatch: pytest.MonkeyPatch, too_many: int, apart: bool
) -> None:
    rules = tuple(Rule(f"r{number}", (Answer(body=b"x"),), Scope((f"d{number}.test",))) for number in range(200))
    of = Settings(Endpoint("127.0.0.1", 18001), many_routes=100)
    split = build(Ruleset(rules=rules), of).snapshot.split
    assert split
    has = {name: host.version for name, host in split.by_type[VIRTUAL_HOSTS].items()}
    message = message_class("envoy.service.discovery.v3.DeltaDiscoveryRequest")(initial_resource_versions=has)
    size = named_again(has)
    assert message.ByteSize() <= size - named_again(()) <= message.ByteSize() + 4 * len(has)
    monkeypatch.setattr("rejoinder.xds.translate.MAX_REQUEST", size - too_many)
    assert bool(build(Ruleset(rules=rules), of).snapshot.split) is apart


@pytest.mark.parametrize("by", ["path", "domain"])
@pytest.mark.parametrize("beside", [(), (ERRORS,)], ids=["alone", "beside a rule for a status"])
def test_an_edit_encodes_what_has_changed_alone(by: str, beside: tuple[Rule, ...]) -> None:
    def rule(number: int, body: str = "") -> Rule:
        path = PathMatch(PathKind.EXACT, f"/by-{by}/{number}")
        domains = (f"d{number}.test",) if by == "domain" else ()
        return Rule(f"r{number}", (Answer(200, body=body.encode()),), Scope(domains, None, RequestMatch(path)))

    before = tuple(map(rule, range(200)))
    after = (*before[:100], rule(100, "edited"), *before[101:])
    of = Settings(Endpoint("127.0.0.1", 18001), Placement.MODULE, fallback=True, many_routes=100)
    split = [build(Ruleset(rules=(*rules, *beside)), of).snapshot.split for rules in (before, after)]
    had, has = (form.by_type[VIRTUAL_HOSTS] for form in split if form)
    assert [name for name in has if has[name] is not had[name]] == [name for name in has if has[name] != had[name]]
    assert len([name for name in has if has[name] is not had[name]]) == 1


ANY = {"@type": "type.googleapis.com/"}
TEXT = {"@type": f"{ANY['@type']}google.protobuf.StringValue", "value": "v"}
ROUTE_FIELDS: dict[str, Json] = {
    "empty": {},
    "nothing": {"name": None, "virtual_hosts": None},
    "defaults are left out": {"name": "", "validate_clusters": False, "ignore_port_in_host_matching": False},
    "defaults of a choice are not": {"virtual_hosts": [{"routes": [{"match": {"prefix": ""}}]}]},
    "an empty message": {"virtual_hosts": [{"routes": [{"route": {}}]}], "vhds": {}},
    "wrapped numbers": {"max_direct_response_body_size_bytes": 70_000},
    "wrapped zero": {"max_direct_response_body_size_bytes": 0},
    "long text": {"name": "é" * 70_000},
    "bytes": {"virtual_hosts": [{"routes": [{"direct_response": {"body": {"inline_bytes": "AP8="}}}]}]},
    "enum and bool": {"virtual_hosts": [{"require_tls": "ALL", "include_request_attempt_count": True}]},
    "enum zero": {"virtual_hosts": [{"require_tls": "NONE"}]},
    "duration": {"virtual_hosts": [{"routes": [{"route": {"cluster": "a", "timeout": "1.5s"}}]}]},
    "negative": {"virtual_hosts": [{"routes": [{"match": {"headers": [{"range_match": {"start": -1, "end": 5}}]}}]}]},
    "struct": {"metadata": {"filter_metadata": {"b": {"x": [1, "y", None, {"z": True}]}, "a": {}, "": {}}}},
    "any": {"typed_per_filter_config": {"f": TEXT}},
    "any of nothing": {
        "typed_per_filter_config": {"f": {"@type": f"{ANY['@type']}envoy.config.route.v3.RouteConfiguration"}}
    },
    "fields in another order": {"virtual_hosts": [{"domains": ["b", "a"], "name": "n"}], "name": "r"},
    "doubles": {"virtual_hosts": [{"retry_policy": {"retriable_status_codes": [503, 504], "num_retries": 2}}]},
}


@pytest.mark.parametrize("fields", ROUTE_FIELDS.values(), ids=ROUTE_FIELDS)
def test_a_message_is_encoded_as_protobuf_would(fields: Json) -> None:
    encoded = encoder(ROUTES.message)(fields)
    assert read(MESSAGES[ROUTES], encoded) == parsed(MESSAGES[ROUTES], fields)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"nmae": "r"}, id="unknown field"),
        pytest.param({"virtual_hosts": [{"routes": [{"match": {"prefx": "/"}}]}]}, id="unknown field within"),
        pytest.param({"name": 1}, id="number for text"),
        pytest.param({"validate_clusters": "yes"}, id="text for boolean"),
        pytest.param({"max_direct_response_body_size_bytes": -1}, id="number out of range"),
        pytest.param({"virtual_hosts": [{"require_tls": "MAYBE"}]}, id="unknown enum"),
        pytest.param({"virtual_hosts": ["v"]}, id="text for a message"),
        pytest.param({"virtual_hosts": 1}, id="number for a list"),
        pytest.param({"vhds": {"config_source": {"initial_fetch_timeout": "soon"}}}, id="no duration"),
        pytest.param({"metadata": {"filter_metadata": {"f": 1}}}, id="no struct"),
        pytest.param({"typed_per_filter_config": {"f": ANY}}, id="unknown type in an Any"),
        pytest.param({"typed_per_filter_config": {"f": {"a": 1}}}, id="no type in an Any"),
        pytest.param(
            {"virtual_hosts": [{"routes": [{"direct_response": {"body": {"inline_bytes": "?"}}}]}]}, id="no base64"
        ),
    ],
)
def test_what_is_no_such_message_is_refused(fields: Json) -> None:
    with pytest.raises(MappingError, match=r"^envoy\.config\.route\.v3\.RouteConfiguration: "):
        encoder(ROUTES.message)(fields)
