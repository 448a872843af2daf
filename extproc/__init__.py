"""Answers over gRPC, for Envoy's ext_proc filter (docs/ext_proc.md).

Reading order: `wire` (the protocol's messages), `session` (one stream as a value), `server` (the service).
"""

from rejoinder.extproc.server import Counters, Processor

__all__ = ["Counters", "Processor"]
