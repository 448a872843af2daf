"""The classes made by `message_class` read and write what betterproto2, an independent reader, reads and writes."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator

import betterproto2
import envoy_data_plane.google.protobuf as google
import pytest
from betterproto2 import FieldMetadata, ProtoClassMetadata
from descriptors import FILE, ROOTS, descriptor_set, full_name, typed_class
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.unknown_fields import UnknownFieldSet

from rejoinder.xds.protobuf import message_class

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
    classes, pending = set(), [root]
    while pending:
        cls = pending.pop()
        if cls not in classes:
            classes.add(cls)
            in_fields = ProtoClassMetadata(cls).cls_by_field.values()
            pending += [c for c in in_fields if issubclass(c, betterproto2.Message) and c.__name__ != "Entry"]
    return classes


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


def of_envoy(files: FileDescriptorSet) -> list[FileDescriptorProto]:
    """Without protobuf's own, which depend on its version."""
    return [file for file in files.file if not file.name.startswith("google/protobuf/")]


def test_the_descriptors_are_those_of_the_task() -> None:
    assert of_envoy(FileDescriptorSet.FromString(FILE.read_bytes())) == of_envoy(descriptor_set())


def test_only_tests_need_the_package_that_they_are_made_of() -> None:
    folders = ("rules", "xds", "extproc", "envoy", "cli", "bench")
    files = [file for folder in folders for file in (FILE.parents[1] / folder).rglob("*.py")]
    assert [file for file in files if re.search("envoy_data_plane|betterproto2", file.read_text("utf-8"))] == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # deprecated fields are tested too
@pytest.mark.parametrize("root", ROOTS)
def test_every_field_survives_the_way_there_and_back(root: str) -> None:
    for cls in referenced(typed_class(root)):
        for values in samples(cls):
            original = cls(**values)
            parsed = message_class(full_name(cls)).FromString(bytes(original))
            assert {field.name for field, _ in parsed.ListFields()} == values.keys()
            assert not UnknownFieldSet(parsed)
            assert cls.parse(parsed.SerializeToString()) == original
