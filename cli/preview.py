"""`rejoinder preview`: the built-in page in every format and language, as files to look at."""

from __future__ import annotations

import argparse
import html
from typing import Final

from rejoinder.cli import console
from rejoinder.rules import page
from rejoinder.rules.answers import Asked, reply
from rejoinder.rules.model import Answer
from rejoinder.rules.request import LOCAL, UPSTREAM, Request, Response
from rejoinder.rules.template import reason

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
    except OSError as error:
        is_file = isinstance(error, (FileExistsError, NotADirectoryError))
        expected = "expected a folder, or a place for one: " if is_file else ""
        return console.fail(f"{error.filename}: {expected}{error.strerror}")
    except ValueError as error:
        return console.fail(str(error))
    console.say(f"open {options.folder / 'index.html'}")
    return 0


# The files of one status; what is returned links them.
def _write(options: argparse.Namespace, branding: page.Branding, status: int) -> str:
    # With these three statuses, Envoy mostly answers by itself.
    response = Response(status, source=LOCAL if status in (502, 503, 504) else UPSTREAM)
    request = Request("GET", "example.com", "/", headers=(("x-request-id", "7b1d2f0c-52f3-4c19-9a57-0e0a8f8d6a11"),))
    asked = Asked(request, response=response, time="2026-01-31T12:34:56Z")
    links = ""
    for variant in page.variants(status, branding):
        extension = _EXTENSIONS.get(variant.content_type.partition(";")[0])
        if extension:  # else it is one of these under another type
            name = ".".join(filter(None, (str(status), variant.language, extension)))
            (options.folder / name).write_bytes(reply(Answer(None, variants=(variant,)), status, asked).body)
            links += f'<a href="{name}">{variant.language} {extension}</a>\n'
    return f"<h2>{status} {html.escape(reason(status))}</h2>\n<p>{links}</p>\n"
