"""Envoy itself: find the binary, say how it starts, run it and ask it how it is.

Reading order: `binary` (which Envoy), `bootstrap` (what it is told at its start), `process` (the running child, started
through `launch`, its log through `pump`), `admin` (what it says about itself).
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
