"""Answers over gRPC, for Envoy's ext_proc filter (docs/ext_proc.md).

Reading order: `wire` (the protocol's messages), `session` (one stream as a value), `server` (the service), `workers`
(several of it, on several cores).
"""

from rejoinder.extproc.server import Counters, Processor
from rejoinder.extproc.workers import Workers

__all__ = ["Counters", "Processor", "Workers"]
