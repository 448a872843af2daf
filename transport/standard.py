"""The standard services of every gRPC server: health (grpc.health.v1) and reflection (grpc.reflection).

In: the bytes of requests. Out: those of responses. Nothing is raised. There is no I/O, except that the descriptors of
Envoy's messages are read when they are first requested.
https://github.com/grpc/grpc/blob/master/doc/health-checking.md
https://github.com/grpc/grpc/blob/master/doc/server-reflection.md
"""

from __future__ import annotations

import asyncio
import functools
import importlib.resources
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from rejoinder.rules.messages import message_classes

HEALTH: Final = "grpc.health.v1.Health"
REFLECTION: Final = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""The same service under two names."""

Methods = Mapping[str, tuple[str, str]]
"""By name: the full names of the request and response messages; both are streams."""

_HEALTH_FILE: Final = text_format.Parse(
    """
    name: "grpc/health/v1/health.proto" package: "grpc.health.v1" syntax: "proto3"
    message_type {
      name: "HealthCheckRequest"
      field { name: "service" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
    }
    message_type {
      name: "HealthCheckResponse"
      field {
        name: "status" number: 1 type: TYPE_ENUM label: LABEL_OPTIONAL
        type_name: ".grpc.health.v1.HealthCheckResponse.ServingStatus"
      }
      enum_type {
        name: "ServingStatus"
        value { name: "UNKNOWN" number: 0 } value { name: "SERVING" number: 1 }
        value { name: "NOT_SERVING" number: 2 } value { name: "SERVICE_UNKNOWN" number: 3 }
      }
    }
    service {
      name: "Health"
      method {
        name: "Check" input_type: ".grpc.health.v1.HealthCheckRequest"
        output_type: ".grpc.health.v1.HealthCheckResponse"
      }
      method {
        name: "Watch" input_type: ".grpc.health.v1.HealthCheckRequest"
        output_type: ".grpc.health.v1.HealthCheckResponse" server_streaming: true
      }
    }
    """,
    FileDescriptorProto(),
)
_POOL: Final = DescriptorPool()
_POOL.Add(_HEALTH_FILE)
_Check: Final[Any] = GetMessageClass(_POOL.FindMessageTypeByName("grpc.health.v1.HealthCheckRequest"))
_Health: Final[Any] = GetMessageClass(_POOL.FindMessageTypeByName("grpc.health.v1.HealthCheckResponse"))

_REFLECTION: Final = message_classes(
    "rejoinder.reflection",
    {
        "Request": {
            "host": (1, "bytes"),
            "file_by_filename": (3, "bytes"),
            "file_containing_symbol": (4, "bytes"),
            "file_containing_extension": (5, "bytes"),
            "all_extension_numbers_of_type": (6, "bytes"),
            "list_services": (7, "bytes"),
        },
        "Response": {
            "valid_host": (1, "bytes"),
            "original_request": (2, "Request"),
            "file_descriptor_response": (4, "Files"),
            "list_services_response": (6, "Services"),
            "error_response": (7, "Error"),
        },
        "Files": {"file_descriptor_proto": (1, "*bytes")},
        "Services": {"service": (1, "*Service")},
        "Service": {"name": (1, "bytes")},
        "Error": {"error_code": (1, "int32"), "error_message": (2, "bytes")},
    },
)
_NOT_FOUND: Final = 5
_INVALID: Final = 3


class Standard:
    """The answers of one server, for one event loop."""

    def __init__(self, services: Mapping[str, Methods]) -> None:
        """Args: services: by their full names."""
        self._services = services
        self._serving = False
        self.changed = asyncio.Event()
        """Set, and replaced by a new one, when the result of `health` changes."""

    def serve(self) -> None:
        """Report SERVING from now on."""
        if not self._serving:
            self._serving = True
            self.changed.set()
            self.changed = asyncio.Event()

    def health(self, request: bytes) -> tuple[bytes, bool]:
        """The response, and whether the service exists: if not, `Check` answers NOT_FOUND."""
        try:
            known = _Check.FromString(request).service in ("", HEALTH, *self._services)
        except DecodeError:
            known = False
        status = ("SERVING" if self._serving else "NOT_SERVING") if known else "SERVICE_UNKNOWN"
        return _Health(status=status).SerializeToString(), known

    def reflection(self, request: bytes) -> bytes:
        """The response to one request."""
        response = _REFLECTION["Response"]()
        try:
            asked = _REFLECTION["Request"].FromString(request)
            response.valid_host = asked.host
            response.original_request.CopyFrom(asked)
            if name := asked.file_by_filename:
                file = self._pool.FindFileByName(name.decode())
            elif name := asked.file_containing_symbol:
                file = self._pool.FindFileContainingSymbol(name.decode())
            elif name := asked.file_containing_extension or asked.all_extension_numbers_of_type:
                raise KeyError("there are no extensions")
            else:
                for service in sorted((HEALTH, *self._services)):
                    response.list_services_response.service.add(name=service.encode())
                return bytes(response.SerializeToString())
            response.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
        except KeyError as error:
            response.error_response.error_code = _NOT_FOUND
            response.error_response.error_message = str(error).encode()
        except (DecodeError, UnicodeDecodeError):
            response.error_response.error_code = _INVALID
        return bytes(response.SerializeToString())

    @functools.cached_property
    def _pool(self) -> DescriptorPool:
        pool = DescriptorPool()
        pool.Add(_HEALTH_FILE)
        envoys = importlib.resources.files("rejoinder.xds") / "envoy.binpb"  # see xds/protobuf.py
        for file in FileDescriptorSet.FromString(envoys.read_bytes()).file:
            pool.Add(file)
        for service, methods in self._services.items():
            package, _, name = service.rpartition(".")
            file = FileDescriptorProto(name=f"rejoinder/{service}.proto", package=package, syntax="proto3")
            described = file.service.add(name=name)
            for method, messages in methods.items():
                taken, given = (f".{message}" for message in messages)
                described.method.add(
                    name=method, input_type=taken, output_type=given, client_streaming=True, server_streaming=True
                )
            needed = {pool.FindMessageTypeByName(message).file.name for pair in methods.values() for message in pair}
            file.dependency.extend(sorted(needed))
            pool.Add(file)
        return pool
