"""The validity of the certificate of `serve`: warnings in time, and a metric.

In: the files of TLS. Out: lines of the log. Files that cannot be used change nothing: the code that uses them reports
the error. Does I/O.
"""

from __future__ import annotations

import _ssl
import asyncio
import contextlib
import ssl
import time
from typing import Final

from rejoinder.cli import console
from rejoinder.cli.metrics import Metrics
from rejoinder.transport.tls import Current, Files

SECONDS: Final = 10.0
"""Between two looks."""
WARN_SECONDS: Final = 7 * 86400
"""Before the end: certificates are usually renewed earlier (by cert-manager after two thirds of their time)."""


async def watch(files: Files | None, metrics: Metrics) -> None:
    """Warn once about each certificate that is not valid or expires soon, until this is cancelled."""
    said = ""
    while files:
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # also of a date, and when no threads are left
            since, until = await asyncio.to_thread(_validity, files)
            metrics.certificate_expiry = until
            if (text := _complaint(since, until, time.time())) and text != said:
                console.say(f"the certificate in {files.certificate} {text}", "yellow", event="certificate")
            said = text
        await asyncio.sleep(SECONDS)
    await asyncio.Event().wait()


def _validity(files: Files) -> tuple[float, float]:
    Current(files)
    # The `ssl` module has a public function only for the peer's certificate.
    decoded = _ssl._test_decode_cert(files.certificate)  # type: ignore[attr-defined]
    return ssl.cert_time_to_seconds(decoded["notBefore"]), ssl.cert_time_to_seconds(decoded["notAfter"])


def _complaint(since: float, until: float, now: float) -> str:
    if now < since:
        return f"is not valid before {_date(since)}"
    if now >= until:
        return f"has expired at {_date(until)}"
    return f"expires at {_date(until)}" if now >= until - WARN_SECONDS else ""


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
