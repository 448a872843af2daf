"""Messages of Envoy's API from their JSON mapping to bytes, by functions that are made once for each type of message.

In go dictionaries as they stand in an Envoy YAML file (field names as in the .proto files), out come the bytes that
`json_format.ParseDict` and `SerializeToString` would make, several times faster, with maps in the order of their keys
at every depth: the same dictionary gives the same bytes everywhere. `encoder` is the way in. What a message does not
have, or a value of the wrong type, is a `MappingError`. tests/test_encode.py holds the two ways against each other.

How: for every field there is a function from its value to its bytes, tag and all. A message is those of its fields,
joined in the order of their numbers; that order is found once for each set of keys that occurs.
https://protobuf.dev/programming-guides/encoding/, https://protobuf.dev/programming-guides/json/
"""

from __future__ import annotations

import base64
import binascii
import functools
import struct
from collections.abc import Callable
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from rejoinder.xds.remember import REMEMBERED_BYTES, by_identity, size

Encoder = Callable[[Any], bytes]
"""From a value, as JSON has it, to bytes."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
"""Wire types."""

_TYPE_URL: Final = "type.googleapis.com/"


class MappingError(ValueError):
    """A dictionary is no such message: a mistake in the code that made it."""


@functools.cache
def encoder(message: Descriptor) -> Encoder:
    """The function that encodes a message of this type. It raises `MappingError`."""
    if special := _SPECIAL.get(message.full_name):
        return special(message)
    fields = {field.name: field for field in message.fields}
    orders: dict[tuple[str, ...], list[tuple[str, Encoder]]] = {}

    def order(keys: tuple[str, ...]) -> list[tuple[str, Encoder]]:
        for key in keys:
            if key not in fields and key != "@type":
                raise MappingError(f'{message.full_name} has no field "{key}"')
        present = sorted((fields[key] for key in keys if key != "@type"), key=lambda field: field.number)
        return [(field.name, _field(field)) for field in present]

    def encode(value: Any) -> bytes:
        try:
            keys = tuple(value)
            found = orders.get(keys)
            if found is None:
                found = orders.setdefault(keys, order(keys))
            return b"".join([encode_field(value[name]) for name, encode_field in found])
        except (TypeError, AttributeError) as error:
            raise MappingError(f"{message.full_name}: {error}") from error

    return by_identity(REMEMBERED_BYTES, size)(encode) if message.full_name in _REMEMBERED else encode


_REMEMBERED: Final = {f"envoy.config.route.v3.{name}" for name in ("Route", "VirtualHost")} | {
    "xds.type.matcher.v3.Matcher.OnMatch"
}
"""They come by the ten thousand, most of them the same objects as the last time: `translate` remembers them, too."""


def varint(number: int) -> bytes:
    """https://protobuf.dev/programming-guides/encoding/#varints"""
    if number < len(_SMALL):
        return _SMALL[number]
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_SMALL: Final = [bytes([number]) for number in range(0x80)]


# --- fields ---


@functools.cache
def _field(field: FieldDescriptor) -> Encoder:
    if field.message_type and field.message_type.GetOptions().map_entry:
        return _optional(_map(field))
    if field.is_repeated:
        return _optional(_packed(field) if field.is_packed else _repeated(field))
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return _optional(_delimited(field, encoder(field.message_type)))
    tag, encode = _tag(field), _scalar(field)
    if field.has_presence:
        return _optional(lambda value: tag + encode(value))
    default = bytes(_FIXED_SIZES.get(field.type, 1))  # zero, false, or the length of nothing

    def encode_field(value: Any) -> bytes:
        encoded = default if value is None else encode(value)
        return b"" if encoded == default else tag + encoded

    return encode_field


def _optional(encode: Encoder) -> Encoder:
    return lambda value: b"" if value is None else encode(value)


def _repeated(field: FieldDescriptor) -> Encoder:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        encode = _delimited(field, encoder(field.message_type))
    else:
        tag, encode_scalar = _tag(field), _scalar(field)

        def encode(value: Any) -> bytes:
            return tag + encode_scalar(value)

    return lambda values: b"".join([encode(value) for value in values])


def _packed(field: FieldDescriptor) -> Encoder:
    tag, encode = _tag(field, _LENGTH), _scalar(field)

    def encode_packed(values: Any) -> bytes:
        packed = b"".join([encode(value) for value in values])
        return tag + varint(len(packed)) + packed if packed else b""

    return encode_packed


def _map(field: FieldDescriptor) -> Encoder:
    # An entry has both of its fields, empty or not.
    assert field.message_type is not None
    key, value = (_always(field.message_type.fields_by_name[name]) for name in ("key", "value"))
    tag = _tag(field, _LENGTH)

    def encode_map(values: Any) -> bytes:
        entries = [(key(name), value(values[name])) for name in sorted(values)]
        return b"".join([tag + varint(len(name) + len(each)) + name + each for name, each in entries])

    return encode_map


def _always(field: FieldDescriptor) -> Encoder:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return _delimited(field, encoder(field.message_type))
    tag, encode = _tag(field), _scalar(field)
    return lambda value: tag + encode(value)


def _delimited(field: FieldDescriptor, encode: Encoder) -> Encoder:
    tag = _tag(field, _LENGTH)

    def encode_delimited(value: Any) -> bytes:
        encoded = encode(value)
        return tag + varint(len(encoded)) + encoded

    return encode_delimited


def _tag(field: FieldDescriptor, wire_type: int | None = None) -> bytes:
    return varint(field.number << 3 | (_WIRE_TYPES.get(field.type, _VARINT) if wire_type is None else wire_type))


# --- scalars: what follows the tag ---

_FIXED_SIZES: Final = {FieldDescriptor.TYPE_DOUBLE: 8, FieldDescriptor.TYPE_FLOAT: 4}
_WIRE_TYPES: Final = {
    FieldDescriptor.TYPE_STRING: _LENGTH,
    FieldDescriptor.TYPE_BYTES: _LENGTH,
    FieldDescriptor.TYPE_DOUBLE: _FIXED64,
    FieldDescriptor.TYPE_FLOAT: _FIXED32,
}


def _scalar(field: FieldDescriptor) -> Encoder:
    def wrong(value: object) -> MappingError:
        return MappingError(f"{field.full_name}: {value!r} is no such value")

    def text(value: Any) -> bytes:
        if not isinstance(value, str):
            raise wrong(value)
        encoded = value.encode()
        return varint(len(encoded)) + encoded

    def octets(value: Any) -> bytes:
        try:
            decoded = base64.b64decode(value, validate=True)
        except (binascii.Error, TypeError) as error:
            raise wrong(value) from error
        return varint(len(decoded)) + decoded

    def boolean(value: Any) -> bytes:
        if not isinstance(value, bool):
            raise wrong(value)
        return b"\1" if value else b"\0"

    def integer(value: Any) -> bytes:
        if isinstance(value, bool) or not isinstance(value, int) or value not in _RANGES[field.type]:
            raise wrong(value)
        return varint(value if value >= 0 else value + (1 << 64))

    names = field.enum_type.values_by_name if field.enum_type else {}

    def enum(value: Any) -> bytes:
        known = names.get(value) if isinstance(value, str) else None
        if known is None:
            raise wrong(value)
        return varint(known.number)

    def number(format_: str) -> Encoder:
        def encode(value: Any) -> bytes:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise wrong(value)
            return struct.pack(format_, value)

        return encode

    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return text
        case FieldDescriptor.TYPE_BYTES:
            return octets
        case FieldDescriptor.TYPE_BOOL:
            return boolean
        case FieldDescriptor.TYPE_ENUM:
            return enum
        case FieldDescriptor.TYPE_DOUBLE:
            return number("<d")
        case FieldDescriptor.TYPE_FLOAT:
            return number("<f")
        case _:
            assert field.type in _RANGES, f"{field.full_name}: the Envoy API has no such type elsewhere"
            return integer


_RANGES: Final = {
    FieldDescriptor.TYPE_INT32: range(-(1 << 31), 1 << 31),
    FieldDescriptor.TYPE_INT64: range(-(1 << 63), 1 << 63),
    FieldDescriptor.TYPE_UINT32: range(1 << 32),
    FieldDescriptor.TYPE_UINT64: range(1 << 64),
}


# --- messages that JSON writes in a way of their own ---


def _any(message: Descriptor) -> Encoder:
    pool: Any = message.file.pool
    by_url: dict[str, Encoder] = {}
    type_url, value_of = b"\x0a", b"\x12"  # the tags of an Any's fields

    def inner(url: str) -> Encoder:
        try:
            of = pool.FindMessageTypeByName(url.removeprefix(_TYPE_URL))
        except KeyError as error:
            raise MappingError(f"an Any of the unknown type {url}") from error
        encode = encoder(of)
        # What has a form of its own stands under `value` in an Any.
        return (lambda value: encode(value["value"])) if of.full_name in _SPECIAL else encode

    def encode_any(value: Any) -> bytes:
        if not value:
            return b""
        url = value.get("@type")
        if url not in by_url:
            by_url[url] = inner(str(url))
        packed = by_url[url](value)
        name = str(url).encode()
        head = type_url + varint(len(name)) + name
        if not packed:
            return head
        return b"".join((head, value_of, varint(len(packed)), packed))

    return encode_any


def _wrapper(message: Descriptor) -> Encoder:
    return _field(message.fields_by_name["value"])


def _parsed(message: Descriptor) -> Encoder:
    # Rare, or few different ones: left to protobuf.
    cls = GetMessageClass(message)

    def encode(value: Any) -> bytes:
        parsed = cls()
        try:
            json_format.ParseDict(value, parsed)
        except json_format.ParseError as error:
            raise MappingError(f"{message.full_name}: {error}") from error
        encoded: bytes = parsed.SerializeToString(deterministic=True)
        return encoded

    return encode


_SPECIAL: Final[dict[str, Callable[[Descriptor], Encoder]]] = {
    "google.protobuf.Any": _any,
    **{f"google.protobuf.{name}": _parsed for name in ("Duration", "ListValue", "Struct", "Timestamp", "Value")},
    **{
        f"google.protobuf.{name}Value": _wrapper
        for name in ("Bool", "Bytes", "Double", "Float", "Int32", "Int64", "String", "UInt32", "UInt64")
    },
}
