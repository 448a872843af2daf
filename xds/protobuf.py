"""Messages of Envoy's API, by the protobuf library.

`message_class` gives the library's class for a message's full name; `encoder` encodes a dictionary as it stands in an
Envoy YAML file: with the field names of the .proto files, and Any, wrappers, durations, structs and bytes as JSON has
them (https://protobuf.dev/programming-guides/json/). The same dictionary gives the same bytes everywhere.

The message types are in `envoy.binpb`, a FileDescriptorSet that tests/descriptors.py makes.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from google.protobuf import wrappers_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from rejoinder.xds.remember import by_size, frozen

Encoder = Callable[[dict[str, Any]], bytes]
_Convert = Callable[[Any], Any]

_LENGTH: Final = 2
"""The wire type of messages."""

_REMEMBERED: Final = {f"envoy.config.route.v3.{name}" for name in ("Route", "RouteList", "VirtualHost")}
"""There may be ten thousand of them, most of them equal to those of the last build."""


class MappingError(ValueError):
    """A dictionary does not fit the message type: a mistake in the code that made it."""


@functools.cache
def _pool() -> DescriptorPool:
    # A pool of its own: in protobuf's default pool, another library's `google.rpc.Status` would collide with this one.
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(Path(__file__).with_name("envoy.binpb").read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


@functools.cache
def message_class(name: str) -> type[Any]:
    """The class of a message, a subclass of `google.protobuf.message.Message`, whose fields type checkers do not know.

    Raises:
        KeyError: `envoy.binpb` has no such message.

    Example:
        >>> message_class("envoy.config.core.v3.Node")(id="one").id
        'one'
    """
    made: type[Any] = GetMessageClass(_pool().FindMessageTypeByName(name))
    return made


@functools.cache
def encoder(name: str) -> Encoder:
    """The function that encodes messages of a type, given by its full name. It raises `MappingError`; its argument must
    not be changed afterwards."""
    cls = message_class(name)
    apart = {
        field.name: (varint(field.number << 3 | _LENGTH), encoder(field.message_type.full_name))
        for field in cls.DESCRIPTOR.fields
        if field.message_type and field.message_type.full_name in _REMEMBERED
    }

    def encode(values: dict[str, Any]) -> bytes:
        try:
            own = {key: value for key, value in values.items() if key not in apart and key != "@type"}
            head = cls(**_fields(cls.DESCRIPTOR, own))
            # Encoded messages, one after the other, are one message with the fields of all.
            # https://protobuf.dev/programming-guides/encoding/#last-one-wins
            parts = [head.SerializeToString(deterministic=True)]
            for key, (tag, encode_one) in apart.items():
                for one in map(encode_one, values.get(key) or ()):
                    parts += (tag, varint(len(one)), one)
            return b"".join(parts)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise MappingError(f"{name}: {error}") from error

    if name not in _REMEMBERED:
        return encode
    remembering = by_size(len)(encode)
    return lambda values: remembering(frozen(values))


def varint(number: int) -> bytes:
    """https://protobuf.dev/programming-guides/encoding/#varints"""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


# --- from JSON's values to those that the library's constructors take ---


def _fields(message: Descriptor, values: dict[str, Any]) -> dict[str, Any]:
    converted = _converted(message)
    return {
        key: converted[key](value) if key in converted and value is not None else value for key, value in values.items()
    }


@functools.cache
def _converted(message: Descriptor) -> dict[str, _Convert]:
    """The fields whose values have to be converted, and how."""
    by_name = {field.name: _field(field) for field in message.fields}
    return {name: convert for name, convert in by_name.items() if convert}


def _field(field: FieldDescriptor) -> _Convert | None:
    message = field.message_type
    entry = message if message and message.GetOptions().map_entry else None
    convert = _value(entry.fields_by_name["value"] if entry else field)
    if convert is None or not field.is_repeated:
        return convert
    if entry:
        return lambda values: {key: convert(value) for key, value in values.items()}
    return lambda values: [convert(value) for value in values]


def _value(field: FieldDescriptor) -> _Convert | None:
    message = field.message_type
    if message is None:
        return _octets if field.type == FieldDescriptor.TYPE_BYTES else None
    if message.file.name == wrappers_pb2.DESCRIPTOR.name:
        return lambda value: _fields(message, {"value": value})
    return _SPECIAL.get(message.full_name) or functools.partial(_fields, message)


def _any(value: dict[str, Any]) -> dict[str, Any]:
    if not value:
        return {}
    url = value["@type"]
    return {"type_url": url, "value": encoder(url.removeprefix("type.googleapis.com/"))(value)}


def _duration(value: str) -> Any:
    message = message_class("google.protobuf.Duration")()
    message.FromJsonString(value)
    return message


def _struct(value: dict[str, Any]) -> Any:
    message = message_class("google.protobuf.Struct")()
    message.update(value)
    return message


_octets: Final = functools.partial(base64.b64decode, validate=True)

_SPECIAL: Final[dict[str, _Convert]] = {
    "google.protobuf.Any": _any,
    "google.protobuf.Duration": _duration,
    "google.protobuf.Struct": _struct,
}
