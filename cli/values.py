"""What values on the command line are: text in, a value out.

Each function raises `argparse.ArgumentTypeError`, whose text says what was expected and what came.
"""

from __future__ import annotations

import argparse
import re

TYPE_CHECKING = False  # type checkers take it for true; `arguments` says why it is not imported
if TYPE_CHECKING:
    import urllib.parse
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from rejoinder.transport import addresses


def parse_path(text: str) -> Path:
    from pathlib import Path  # noqa: PLC0415 - as all imports here: `--help` needs none of them

    return Path(text)


def parse_endpoint(text: str) -> addresses.Tcp:
    from rejoinder.rules.http import parse_address  # noqa: PLC0415

    try:
        return parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse_service(text: str) -> addresses.Address:
    from rejoinder.transport import addresses  # noqa: PLC0415

    try:
        return addresses.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse_url(text: str) -> urllib.parse.SplitResult:
    import urllib.parse  # noqa: PLC0415

    whole = "://" in text and not text.startswith("/")
    try:
        url = urllib.parse.urlsplit(text if whole else f"http://localhost/{text.removeprefix('/')}")
        usable = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:  # an incomplete IPv6 address, an invalid port
        usable = False
    if not usable:
        raise argparse.ArgumentTypeError(f"expected http://HOST/PATH, https://HOST/PATH or a path, got {text!r}")
    return url


def parse_ip(text: str) -> str:
    import ipaddress  # noqa: PLC0415

    try:
        return text and str(ipaddress.ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an IP address, got {text!r}") from None


def like(pattern: str, expected: str, make: Callable[[str], Any] = str) -> Callable[[str], Any]:
    """A reader for values that a regular expression (`re`) fits as a whole."""

    def parse(text: str) -> Any:
        if not re.fullmatch(pattern, text, re.DOTALL):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return make(text)

    return parse


parse_absolute = like("(/.*)?", "an absolute path, where Envoy runs")
parse_mode = like("0[0-7]{3}|[1-7][0-7]{2}", "a mode such as 660", lambda text: int(text, 8))
# argparse does not check values of the environment against `choices`.
parse_log_format = like("text|json", "text or json, in $REJOINDER_LOG_FORMAT, too")
parse_upstream = like("[^=]+=.+", "NAME=URL", lambda text: tuple(text.split("=", 1)))
parse_header = like(r"\s*[^:\s].*?:.*", "'NAME: VALUE'", lambda text: tuple(map(str.strip, text.split(":", 1))))
parse_status = like("0*[2-5][0-9]{2}", "an HTTP status from 200 to 599", int)
parse_count = like("0*[1-9][0-9]{,2}", "a whole number from 1 to 999", int)
