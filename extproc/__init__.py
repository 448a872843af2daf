"""Answers over gRPC, for Envoy's ext_proc filter (docs/ext_proc.md).

Reading order: `wire` (the protocol's messages), `session` (one stream as a value), `calls` (Python handlers), `server`
(the service), `workers` (the service as processes, on several cores), `worker` (one of them). Below them is a gRPC
server (docs/http2.md): `frames` and `headers` (the bytes), `streams` and `http2` (a connection as a value), `grpc_wire`
(messages), `exchange` (a stream at the server), `client` (a connection with its calls), `grpc` (the server, which
serves clients in turn).
"""

from rejoinder.extproc.server import Counters, Processor
from rejoinder.extproc.workers import Workers

__all__ = ["Counters", "Processor", "Workers"]
