"""`rejoinder up`: Envoy, control plane and ext_proc service in one go, until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import logging
import socket

from rejoinder import envoy
from rejoinder.cli import admin, console
from rejoinder.cli.arguments import Address
from rejoinder.cli.control import Control, Rejected, summary
from rejoinder.cli.echo import EchoServer
from rejoinder.cli.serve import listen, shown, stop_signal
from rejoinder.extproc.server import Processor
from rejoinder.rules.model import Endpoint, Listener, Ruleset
from rejoinder.xds.translate import Settings
from rejoinder.xds.translate.listeners import listener_name

_LOOPBACK = "127.0.0.1"


def run(options: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    return asyncio.run(_run(options))
