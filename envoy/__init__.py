"""Envoy itself: find the binary, configure its start, run it, and query its state.

Reading order: `binary` (which Envoy), `bootstrap` (its configuration at the start), `process` (the running child,
started through `launch`, its log through `pump`), `admin` (its admin interface).
"""

from rejoinder.envoy.admin import Admin
from rejoinder.envoy.binary import Binary, EnvoyNotFoundError, find, version
from rejoinder.envoy.bootstrap import COUNTS_SINCE, bootstrap, xds_cluster
from rejoinder.envoy.process import EnvoyDiedError, EnvoyNotReadyError, EnvoyProcess, running

__all__ = [
    "COUNTS_SINCE",
    "Admin",
    "Binary",
    "EnvoyDiedError",
    "EnvoyNotFoundError",
    "EnvoyNotReadyError",
    "EnvoyProcess",
    "bootstrap",
    "find",
    "running",
    "version",
    "xds_cluster",
]
