"""`rejoinder preview`: the built-in page in every format and language, as files to look at."""

from __future__ import annotations

import argparse
import html
import http
import re
from typing import Final

from rejoinder.cli import console
from rejoinder.rules import page

_EXTENSIONS: Final = {"text/html": "html", "text/plain": "txt", "application/json": "json", "application/xml": "xml"}
_INDEX: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>The built-in page</title>
<style>
:root {{ color-scheme: light dark; font: 1rem/1.6 system-ui }}
body {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
a {{ margin-inline-end: .6rem }}
</style>
<h1>The built-in page</h1>
{}</html>
"""


def run(options: argparse.Namespace) -> int:
    try:
        branding = page.Branding(options.name, options.logo and options.logo.read_bytes(), options.accent, options.link)
        options.folder.mkdir(parents=True, exist_ok=True)
        sections = [_write(options, branding, status) for status in options.status or page.STATUSES]
        (options.folder / "index.html").write_text(_INDEX.format("".join(sections)), "utf-8")
    except (OSError, ValueError) as error:
        console.say(f"error: {error}")
        return 1
    console.say(f"open {options.folder / 'index.html'}")
    return 0


# The files of one status; what is returned links them.
def _write(options: argparse.Namespace, branding: page.Branding, status: int) -> str:
    reason = http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else ""
    values = {
        "status": str(status),
        "status.reason": reason,
        "source": "local" if status in (502, 503, 504) else "upstream",  # as Envoy itself makes them
        "request.id": "7b1d2f0c-52f3-4c19-9a57-0e0a8f8d6a11",
        "time": "2026-01-31T12:34:56Z",
    }
    links = ""
    for variant in page.variants(status, branding):
        extension = _EXTENSIONS.get(variant.content_type.partition(";")[0])
        if extension:  # else it is one of these under another type
            name = ".".join(filter(None, (str(status), variant.language, extension)))
            (options.folder / name).write_text(fill(variant.body, values), "utf-8")
            links += f'<a href="{name}">{variant.language} {extension}</a>\n'
    return f"<h2>{status} {html.escape(reason)}</h2>\n<p>{links}</p>\n"


def fill(body: str, values: dict[str, str]) -> str:
    return re.sub(r"{{ (\S+)(?: \| \w+)? }}", lambda found: values.get(found[1], found[1].strip('"')), body)
