"""The classes made by `message_class` read and write what betterproto2 reads and writes."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import betterproto2
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.listener.v3 as listener
import envoy_data_plane.envoy.config.route.v3 as route
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as http
import envoy_data_plane.envoy.service.discovery.v3 as discovery
import envoy_data_plane.envoy.service.ext_proc.v3 as ext_proc
import envoy_data_plane.google.protobuf as google
import pytest
from betterproto2 import FieldMetadata, ProtoClassMetadata
from google.protobuf.json_format import MessageToDict
from google.protobuf.unknown_fields import UnknownFieldSet

from rejoinder.xds.protobuf import message_class

MESSAGES: list[type[betterproto2.Message]] = [
    discovery.DiscoveryRequest,
    discovery.DiscoveryResponse,
    ext_proc.ProcessingRequest,
    ext_proc.ProcessingResponse,
    route.RouteConfiguration,
    listener.Listener,
    http.HttpConnectionManager,
]

SCALARS: dict[str, object] = {
    betterproto2.TYPE_BOOL: True,
    betterproto2.TYPE_STRING: "é",
    betterproto2.TYPE_BYTES: b"\x00\xff",
    betterproto2.TYPE_FLOAT: 0.5,
    betterproto2.TYPE_DOUBLE: -0.1,
    betterproto2.TYPE_INT32: -2,
    betterproto2.TYPE_INT64: -(2**40),
    betterproto2.TYPE_UINT32: 2**32 - 1,
    betterproto2.TYPE_UINT64: 2**64 - 1,
    betterproto2.TYPE_SFIXED64: -5,
}

WELL_KNOWN: dict[type, object] = {
    google.Duration: datetime.timedelta(seconds=1, milliseconds=500),
    google.Timestamp: datetime.datetime(2025, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
}


def referenced(root: type[betterproto2.Message]) -> set[type[betterproto2.Message]]:
    """A message and all messages that stand in its fields, at any depth."""
    found, pending = set(), [root]
    while pending:
        cls = pending.pop()
        if cls not in found:
            found.add(cls)
            in_fields = ProtoClassMetadata(cls).cls_by_field.values()
            pending += [c for c in in_fields if issubclass(c, betterproto2.Message) and c.__name__ != "Entry"]
    return found


def samples(cls: type[betterproto2.Message]) -> Iterator[dict[str, object]]:
    """Field values for a message: once all fields outside of oneofs, then each field of a oneof alone."""
    meta = ProtoClassMetadata(cls)
    values = {name: sample(meta.cls_by_field[name], field) for name, field in meta.meta_by_field_name.items()}
    yield {name: value for name, value in values.items() if not meta.meta_by_field_name[name].group}
    for name, field in meta.meta_by_field_name.items():
        if field.group:
            yield {name: values[name]}


def sample(cls: type, field: FieldMetadata) -> object:
    if field.map_meta:
        entry = ProtoClassMetadata(cls)
        key, value = (sample(entry.cls_by_field[name], entry.meta_by_field_name[name]) for name in ("key", "value"))
        return {key: value}
    value = one_sample(cls, field)
    return [value, value] if field.repeated else value


def one_sample(cls: type, field: FieldMetadata) -> object:
    if field.proto_type == betterproto2.TYPE_ENUM:
        return list(cls)[-1]  # type: ignore[call-overload]
    if field.proto_type != betterproto2.TYPE_MESSAGE:
        return SCALARS[field.proto_type]
    if field.unwrap is None:
        return cls()
    if (wrapper := field.unwrap()) in WELL_KNOWN:
        return WELL_KNOWN[wrapper]
    return SCALARS[ProtoClassMetadata(wrapper).meta_by_field_name["value"].proto_type]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # deprecated fields are tested too
@pytest.mark.parametrize("root", MESSAGES, ids=lambda cls: cls.__name__)
def test_every_field_survives_the_way_there_and_back(root: type[betterproto2.Message]) -> None:
    for cls in referenced(root):
        for values in samples(cls):
            original = cls(**values)
            parsed = message_class(cls).FromString(bytes(original))
            assert {field.name for field, _ in parsed.ListFields()} == values.keys()
            assert not UnknownFieldSet(parsed)
            assert cls.parse(parsed.SerializeToString()) == original


def test_a_message_is_made_once() -> None:
    assert message_class(discovery.DiscoveryRequest) is message_class(discovery.DiscoveryRequest)


def test_nested_messages_are_the_same_classes_wherever_they_are_used() -> None:
    request = message_class(discovery.DiscoveryRequest)()
    request.node.CopyFrom(message_class(core.Node)(id="one"))
    assert request.node.id == "one"


def test_json_has_the_names_of_the_proto_files() -> None:
    answer = route.DirectResponseAction(status=200, body=core.DataSource(inline_string="hello"))
    parsed = message_class(route.DirectResponseAction).FromString(bytes(answer))
    assert MessageToDict(parsed) == {"status": 200, "body": {"inlineString": "hello"}}


def test_unset_enum_is_zero_and_json_has_its_name() -> None:
    made = message_class(core.SocketAddress)
    assert made().protocol == core.SocketAddressProtocol.TCP
    udp = made(protocol=core.SocketAddressProtocol.UDP)
    assert udp.protocol == 1
    assert MessageToDict(udp) == {"protocol": "UDP"}


def test_struct_any_and_duration_have_the_helpers_of_the_library() -> None:
    node = message_class(core.Node)(id="n")
    node.metadata.update({"a": [1, {"b": None}]})
    assert node.metadata["a"][1]["b"] is None
    any_message: Any = message_class(google.Any)()
    any_message.Pack(node)
    assert any_message.type_url == "type.googleapis.com/envoy.config.core.v3.Node"
    timeout = message_class(route.RouteAction)()
    timeout.timeout.FromTimedelta(datetime.timedelta(seconds=3))
    assert timeout.timeout.ToTimedelta() == datetime.timedelta(seconds=3)
