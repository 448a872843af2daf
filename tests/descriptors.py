"""The task that makes xds/envoy.binpb: descriptors, for the protobuf library, of the messages of `envoy-data-plane`.

What betterproto2 keeps about fields is written as a FileDescriptorSet: one file for each package, with the messages
that ROOTS need. Run as a program, as `poe golden` does, it writes them anew. (The ready-made classes of
`xds-protos` own the import names `envoy` and `xds`, and cannot be installed beside this project.)
"""

from __future__ import annotations

import graphlib
import importlib
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import betterproto2
from envoy_data_plane.message_pool import default_message_pool
from google.protobuf import any_pb2, duration_pb2, empty_pb2, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

Class = type[betterproto2.Message] | type[betterproto2.Enum]

ROOTS: Final = (
    # What travels, or is fetched.
    "envoy.service.discovery.v3.DiscoveryRequest",
    "envoy.service.discovery.v3.DiscoveryResponse",
    "envoy.service.discovery.v3.DeltaDiscoveryRequest",
    "envoy.service.discovery.v3.DeltaDiscoveryResponse",
    "envoy.config.cluster.v3.Cluster",
    "envoy.config.core.v3.TypedExtensionConfig",
    "envoy.config.listener.v3.Listener",
    "envoy.config.route.v3.RouteConfiguration",
    # What stands in an Any.
    "envoy.config.route.v3.FilterConfig",
    "envoy.config.route.v3.RouteList",
    "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
    "envoy.extensions.access_loggers.stats.v3.Config",
    "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
    "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
    "envoy.extensions.filters.common.matcher.action.v3.SkipFilter",
    "envoy.extensions.filters.http.cors.v3.Cors",
    "envoy.extensions.filters.http.cors.v3.CorsPolicy",
    "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
    "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
    "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
    "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
    "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
    "envoy.extensions.filters.http.router.v3.Router",
    "envoy.extensions.filters.http.set_filter_state.v3.Config",
    "envoy.extensions.filters.http.set_metadata.v3.Config",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
    "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
    "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    "envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
    "envoy.type.matcher.v3.HttpResponseHeaderMatchInput",
    "envoy.type.matcher.v3.HttpResponseStatusCodeMatchInput",
    # The other end of the ext_proc service, for tests and benchmarks.
    "envoy.service.ext_proc.v3.ProcessingRequest",
    "envoy.service.ext_proc.v3.ProcessingResponse",
)

FILE: Final = Path(__file__).parents[1] / "xds" / "envoy.binpb"

_WELL_KNOWN: Final = (any_pb2, duration_pb2, empty_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)
"""They come from protobuf itself, under the file names by which it knows them."""


def descriptor_set() -> FileDescriptorSet:
    """The files, each behind those that it needs."""
    files = {module.DESCRIPTOR.name: FileDescriptorProto() for module in _WELL_KNOWN}
    for module in _WELL_KNOWN:
        module.DESCRIPTOR.CopyToProto(files[module.DESCRIPTOR.name])
    file_of = {f".{file.package}.{message.name}": name for name, file in files.items() for message in file.message_type}

    done: set[str] = set()
    needs: dict[str, set[str]] = defaultdict(set, {name: set() for name in files})
    pending: list[Class] = list(map(typed_class, ROOTS))
    while pending:
        cls = pending.pop()
        unit = _unit(cls)
        if unit in done or f".{unit}" in file_of:
            continue
        done.add(unit)
        package = _package(cls)
        file = files.setdefault(package, FileDescriptorProto(name=package, package=package, syntax="proto3"))
        referenced = set(_describe(cls, file))
        needs[package] |= {file_of.get(f".{_unit(other)}", _package(other)) for other in referenced} - {package}
        pending += referenced

    for name, file in files.items():
        file.message_type.sort(key=lambda message: message.name)
        file.dependency[:] = sorted(needs[name])
    order = graphlib.TopologicalSorter({name: sorted(needs[name]) for name in sorted(files)}).static_order()
    return FileDescriptorSet(file=[files[name] for name in order])


def _describe(cls: Class, file: FileDescriptorProto) -> Iterator[Class]:
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
    for message in _members(cls):
        name = full_name(message)
        outer, _, own_name = name.rpartition(".")
        siblings = descriptors[outer].nested_type if outer in descriptors else file.message_type
        descriptors[name] = siblings.add(name=own_name)
        yield from _describe_fields(message, descriptors[name])


def _describe_fields(cls: type[betterproto2.Message], descriptor: DescriptorProto) -> Iterator[Class]:
    meta = betterproto2.ProtoClassMetadata(cls)  # each class has one made already, but only under a private name
    oneofs: list[str] = []
    for name, field in meta.meta_by_field_name.items():
        out = descriptor.field.add(name=name, number=field.number, label=FieldDescriptorProto.LABEL_OPTIONAL)
        if field.map_meta:
            entry = descriptor.nested_type.add(name="".join(part.capitalize() for part in name.split("_")) + "Entry")
            entry.options.map_entry = True
            out.type = FieldDescriptorProto.TYPE_MESSAGE
            out.type_name = f".{full_name(cls)}.{entry.name}"
            out.label = FieldDescriptorProto.LABEL_REPEATED
            yield from _describe_fields(meta.cls_by_field[name], entry)
            continue

        out.type = FieldDescriptorProto.Type.Value(f"TYPE_{field.proto_type.upper()}")
        if out.type in {FieldDescriptorProto.TYPE_MESSAGE, FieldDescriptorProto.TYPE_ENUM}:
            other = field.unwrap() if field.unwrap else meta.cls_by_field[name]
            out.type_name = f".{full_name(other)}"
            yield other
        if field.repeated:
            out.label = FieldDescriptorProto.LABEL_REPEATED
        # (No presence to be kept for scalars: the Envoy API has no `optional` ones, it wraps them in messages instead.)
        if field.group:
            if field.group not in oneofs:
                oneofs.append(field.group)
                descriptor.oneof_decl.add(name=field.group)
            out.oneof_index = oneofs.index(field.group)


def _members(cls: type[betterproto2.Message]) -> list[type[betterproto2.Message]]:
    """The top-level message that a class belongs to, and the messages nested in it, the outer ones first."""
    classes = (member for member in vars(sys.modules[cls.__module__]).values() if isinstance(member, type))
    messages = (
        candidate
        for candidate in classes
        if issubclass(candidate, betterproto2.Message) and candidate.__module__ == cls.__module__
    )
    return sorted((message for message in messages if _unit(message) == _unit(cls)), key=full_name)


def _package(cls: Class) -> str:
    return cls.__module__.removeprefix("envoy_data_plane.")


def typed_class(name: str) -> type[betterproto2.Message]:
    """The class of `envoy-data-plane` for the full name of a message."""
    importlib.import_module(f"envoy_data_plane.{name.rpartition('.')[0]}")
    return default_message_pool.url_to_type[f"type.googleapis.com/{name}"]


def full_name(cls: Class) -> str:
    """The name in the .proto files."""
    if issubclass(cls, betterproto2.Enum):
        return f"{_package(cls)}.{cls.__name__}.Enum"
    # The class's name has lost the dots of nesting, the registered name has not.
    registered: str = default_message_pool.type_to_url[cls]
    return registered.rpartition("/")[2]


def _unit(cls: Class) -> str:
    """The full name of the top-level message that a class belongs to."""
    package = _package(cls)
    return f"{package}.{full_name(cls)[len(package) + 1 :].partition('.')[0]}"


if __name__ == "__main__":
    FILE.write_bytes(descriptor_set().SerializeToString(deterministic=True))
