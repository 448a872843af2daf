"""Classes of protobuf messages made of a table, for the part of a protocol that is used. Pure.

The table has messages by name. `*` marks a repeated field, and a map is a list of entries
(https://protobuf.dev/programming-guides/encoding/#maps). A `string` of the .proto files should be read as bytes if
peers may write invalid UTF-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD: Final = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {
    "bool": _FIELD.TYPE_BOOL,
    "bytes": _FIELD.TYPE_BYTES,
    "double": _FIELD.TYPE_DOUBLE,
    "int32": _FIELD.TYPE_INT32,
    "sfixed64": _FIELD.TYPE_SFIXED64,
}

Messages = Mapping[str, Mapping[str, tuple[int, str]]]
"""By the message's and the field's name: the field's number and type."""


def message_classes(package: str, messages: Messages) -> dict[str, Any]:
    """The classes, by message name, in a package with a unique name."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            label = _FIELD.LABEL_REPEATED if kind.startswith("*") else _FIELD.LABEL_OPTIONAL
            made = message.field.add(name=field_name, number=number, label=label)
            one = kind.removeprefix("*")
            if one in _SCALARS:
                made.type = _SCALARS[one]
            else:
                made.type, made.type_name = _FIELD.TYPE_MESSAGE, f".{package}.{one}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in messages}
