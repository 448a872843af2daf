"""What values on the command line are: text in, a value out.

Each function raises `argparse.ArgumentTypeError`, whose text says what was expected and what came.
"""

from __future__ import annotations

import argparse

TYPE_CHECKING = False  # what checkers of types take for true; see `arguments` for why it is not imported
if TYPE_CHECKING:
    import urllib.parse
    from pathlib import Path

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


def parse_absolute(text: str) -> str:
    if text and not text.startswith("/"):
        raise argparse.ArgumentTypeError(f"expected an absolute path, where Envoy runs, got {text!r}")
    return text


def parse_mode(text: str) -> int:
    if len(text.removeprefix("0")) != 3 or set(text) - set("01234567"):
        raise argparse.ArgumentTypeError(f"expected a mode such as 660, got {text!r}")
    return int(text, 8)


def parse_log_format(text: str) -> str:
    if text not in ("text", "json"):  # `choices` are not asked about what the environment says
        raise argparse.ArgumentTypeError(f"expected text or json, in $REJOINDER_LOG_FORMAT, too, got {text!r}")
    return text


def parse_upstream(text: str) -> tuple[str, str]:
    name, equals, url = text.partition("=")
    if not (name and equals and url):
        raise argparse.ArgumentTypeError(f"expected NAME=URL, got {text!r}")
    return name, url


def parse_url(text: str) -> urllib.parse.SplitResult:
    import urllib.parse  # noqa: PLC0415

    whole = "://" in text and not text.startswith("/")
    try:
        url = urllib.parse.urlsplit(text if whole else f"http://localhost/{text.removeprefix('/')}")
        usable = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:  # half an IPv6 address, a port that is none
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


def parse_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (name.strip() and colon):
        raise argparse.ArgumentTypeError(f"expected 'NAME: VALUE', got {text!r}")
    return name.strip(), value.strip()


def parse_status(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 200 <= int(text) < 600):
        raise argparse.ArgumentTypeError(f"expected an HTTP status from 200 to 599, got {text!r}")
    return int(text)


def parse_count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)
