"""Protobuf's own message classes for the messages of `envoy_data_plane`, made at run time.

In goes a betterproto2 class, out comes a class of the protobuf library (upb) with the same name, fields and bytes on
the wire; `message_class` is the way in. It is for the messages that arrive with every request: betterproto2 needs
140 us to parse a small one, upb half a microsecond. The ready-made upb classes (`xds-protos`) own the import names
`envoy` and `xds` and cannot be installed beside this project, so the descriptors are read back from what betterproto2
keeps about its fields. Nothing is raised for a message of the Envoy API (protobuf's descriptor.proto, in proto2 syntax,
is the one thing in `envoy_data_plane` that cannot be had): tests/test_protobuf.py holds the two libraries against each
other.

How: protobuf takes descriptors in files, and files may not import each other in a circle; messages may refer to each
other as they like. So every top-level message, with the messages nested in it, gets a file of its own (its unit), and
units that need each other become one file.
"""

from __future__ import annotations

import functools
import graphlib
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

import betterproto2
from envoy_data_plane.message_pool import default_message_pool
from google.protobuf import any_pb2, duration_pb2, empty_pb2, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_Class = type[betterproto2.Message] | type[betterproto2.Enum]

_ROOT: Final = "envoy_data_plane."
"""A class's module is this and the protobuf package."""

_POOL: Final = DescriptorPool()
"""Ours alone: in protobuf's default pool, another library's `google.rpc.Status` would collide with this one."""

_FILES: Final[dict[str, str]] = {}
"""What is in the pool: the file of each top-level name."""

# Protobuf's own types come from protobuf itself, under the file names by which `json_format` knows them.
for _well_known in (any_pb2, duration_pb2, empty_pb2, struct_pb2, timestamp_pb2, wrappers_pb2):
    _POOL.AddSerializedFile(_well_known.DESCRIPTOR.serialized_pb)
    _FILES.update(
        (message.full_name, _well_known.DESCRIPTOR.name)
        for message in _well_known.DESCRIPTOR.message_types_by_name.values()
    )


@functools.cache
def message_class(cls: type[betterproto2.Message]) -> type[Any]:
    """The protobuf library's class for a message.

    Enum fields take and give plain numbers, as always with this library; a betterproto2 enum member is one. Duration,
    Timestamp, Struct and Any come with the library's own helpers (`ToTimedelta`, `Pack`, ...); what betterproto2
    unwraps into plain values (`UInt32Value`, ...) is a message with a `value` here. The first call for a message builds
    it and all that it refers to: 10 ms for the messages of a gRPC service, 150 ms for a RouteConfiguration. So call
    this while modules are loaded; it is not made for several threads at once.

    Args:
        cls: a message of `envoy_data_plane`, top-level or nested.

    Returns:
        A subclass of `google.protobuf.message.Message`. Type checkers know nothing of its fields, hence `Any`.

    Example:
        >>> DiscoveryRequest = message_class(envoy_data_plane.envoy.service.discovery.v3.DiscoveryRequest)
        >>> DiscoveryRequest.FromString(received).type_url
    """
    _add_files(cls)
    made: type[Any] = GetMessageClass(_POOL.FindMessageTypeByName(_full_name(cls)))
    return made


def _add_files(root: _Class) -> None:
    """Put into the pool what a class needs and the pool does not have yet."""
    files: dict[str, FileDescriptorProto] = {}
    needs: dict[str, set[str]] = {}
    pending: list[_Class] = [root]
    while pending:
        cls = pending.pop()
        unit = _unit(cls)
        if unit in files or unit in _FILES:
            continue
        files[unit] = FileDescriptorProto(name=unit, package=_package(cls), syntax="proto3")
        referenced = set(_describe(cls, files[unit]))
        needs[unit] = {_unit(other) for other in referenced} - {unit}
        pending += referenced

    for unit in _merge_circles(files, needs):
        file = files[unit]
        file.dependency.extend(sorted({_FILES[need] for need in needs[unit]}))
        _POOL.AddSerializedFile(file.SerializeToString())


def _merge_circles(files: dict[str, FileDescriptorProto], needs: dict[str, set[str]]) -> Iterator[str]:
    """The units whose files are to be added, in order. Those of a circle are merged into one of them on the way."""
    merged_into = {unit: unit for unit in files}
    while True:
        try:
            order = tuple(graphlib.TopologicalSorter(needs).static_order())
        except graphlib.CycleError as error:
            kept, *others = sorted(set(error.args[1]))
            for other in others:
                files[kept].message_type.extend(files.pop(other).message_type)
                needs[kept] |= needs.pop(other)
            merged_into.update({unit: kept for unit, into in merged_into.items() if into in others})
            for unit, units in needs.items():
                needs[unit] = {merged_into.get(need, need) for need in units} - {unit}
        else:
            _FILES.update(merged_into)
            return (unit for unit in order if unit in files)


def _describe(cls: _Class, file: FileDescriptorProto) -> Iterator[_Class]:
    """Fill a file with an enum, or a top-level message and what is nested in it; give the classes of its fields."""
    if issubclass(cls, betterproto2.Enum):
        # An enum's values are names beside the enum, so two enums of a package cannot both have an UNKNOWN. In the
        # .proto files most are nested in messages, which betterproto2 forgets: each gets a message of its own.
        enum = file.message_type.add(name=cls.__name__).enum_type.add(name="Enum")
        for member in cls:
            enum.value.add(name=member.proto_name or member.name, number=member.value)
        enum.value.sort(key=lambda value: value.number != 0)  # the default comes first
        return

    descriptors: dict[str, DescriptorProto] = {}
    for message in _members(cls.__module__)[_unit(cls)]:
        name = _full_name(message)
        outer, _, own_name = name.rpartition(".")
        siblings = descriptors[outer].nested_type if outer in descriptors else file.message_type
        descriptors[name] = siblings.add(name=own_name)
        yield from _describe_fields(message, descriptors[name])


def _describe_fields(cls: type[betterproto2.Message], descriptor: DescriptorProto) -> Iterator[_Class]:
    meta = betterproto2.ProtoClassMetadata(cls)  # each class has one made already, but only under a private name
    oneofs: list[str] = []
    for name, field in meta.meta_by_field_name.items():
        out = descriptor.field.add(name=name, number=field.number, label=FieldDescriptorProto.LABEL_OPTIONAL)
        if field.map_meta:
            entry = descriptor.nested_type.add(name="".join(part.capitalize() for part in name.split("_")) + "Entry")
            entry.options.map_entry = True
            out.type = FieldDescriptorProto.TYPE_MESSAGE
            out.type_name = f".{_full_name(cls)}.{entry.name}"
            out.label = FieldDescriptorProto.LABEL_REPEATED
            yield from _describe_fields(meta.cls_by_field[name], entry)
            continue

        out.type = FieldDescriptorProto.Type.Value(f"TYPE_{field.proto_type.upper()}")
        if out.type in {FieldDescriptorProto.TYPE_MESSAGE, FieldDescriptorProto.TYPE_ENUM}:
            other = field.unwrap() if field.unwrap else meta.cls_by_field[name]
            out.type_name = f".{_full_name(other)}"
            yield other
        if field.repeated:
            out.label = FieldDescriptorProto.LABEL_REPEATED
        # (No presence to be kept for scalars: the Envoy API has no `optional` ones, it wraps them in messages instead.)
        if field.group:
            if field.group not in oneofs:
                oneofs.append(field.group)
                descriptor.oneof_decl.add(name=field.group)
            out.oneof_index = oneofs.index(field.group)


@functools.cache
def _members(module: str) -> dict[str, list[type[betterproto2.Message]]]:
    """The messages of a module by unit, the outer ones before those that are nested in them."""
    members: dict[str, list[type[betterproto2.Message]]] = defaultdict(list)
    for cls in vars(sys.modules[module]).values():
        if isinstance(cls, type) and issubclass(cls, betterproto2.Message) and cls.__module__ == module:
            members[_unit(cls)].append(cls)
    for messages in members.values():
        messages.sort(key=_full_name)
    return members


def _package(cls: _Class) -> str:
    return cls.__module__.removeprefix(_ROOT)


def _full_name(cls: _Class) -> str:
    if issubclass(cls, betterproto2.Enum):
        return f"{_package(cls)}.{cls.__name__}.Enum"
    # The class's name has lost the dots of nesting, the registered name has not.
    registered: str = default_message_pool.type_to_url[cls]
    return registered.rpartition("/")[2]


def _unit(cls: _Class) -> str:
    """The full name of the top-level message that a class belongs to."""
    package = _package(cls)
    return f"{package}.{_full_name(cls)[len(package) + 1 :].partition('.')[0]}"
