"""The built-in page, for answers without a page of their own: a status in, templates out.

`variants` is the way in. The words are in page.json, by language and status; the frame of the HTML is page.html. In it,
the texts that do not depend on language and status (style and logo), or on the status, are pieces between variables, so
that a program has each of them only once.
"""

from __future__ import annotations

import base64
import functools
import html
import json
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rejoinder.rules.document import quoted
from rejoinder.rules.model import Answer, Rule, Variant

STATUSES: Final = (400, 401, 403, 404, 405, 408, 410, 413, 429, 500, 501, 502, 503, 504)
"""Statuses with words of their own; the others share the words of their class."""

_RETRIED: Final = (None, 408, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed."""

COLOUR: Final = re.compile("#([0-9a-fA-F]{3}|[0-9a-fA-F]{6})")
_ACCENT: Final = "#3b5bdb"
_SCHEMES: Final = {"light": ("#f7f7f5", 4.6), "dark": ("#0e1014", 7.0)}
"""The background of the page, and the contrast of the accent with it: https://www.w3.org/TR/WCAG22/#contrast-minimum
demands 4.5; on dark backgrounds more is pleasant."""

MAX_LOGO_SIZE: Final = 32 * 1024
"""In bytes: the logo is in the page of each language and status, and a program has all of them."""

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_SVG: Final = re.compile(rb"\s*(<\?xml.*?\?>|<!--.*?-->|<!DOCTYPE[^>\[]*>|\s)*<svg[\s>]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Branding:
    """Whose page it is.

    Raises:
        ValueError: a field is not valid; the message says which, and what was expected.
    """

    name: str = ""
    """Shown above the page, and the alternative text of the logo."""
    logo: bytes | None = None
    """The content of an SVG or PNG file; it becomes part of the page."""
    accent: str = ""
    """A CSS colour, #rgb or #rrggbb. A colour that is too pale or too dark is made darker or lighter."""
    link: str = ""
    """The link of the name or logo, and of the button if a retry is useless: an http(s) URL, or a path."""

    def __post_init__(self) -> None:
        if self.logo is not None:
            _content_type(self.logo)
            if (size := len(self.logo)) > MAX_LOGO_SIZE:
                raise ValueError(f"logo: expected at most {MAX_LOGO_SIZE:,} bytes, got {size:,}: every page has it")
        if self.accent and not COLOUR.fullmatch(self.accent):
            raise ValueError(f"accent: expected a colour such as #07a or #0077aa, got {quoted(self.accent)}")
        if self.link and not re.match(r"https?://[^/]|/(?!/)", self.link):
            raise ValueError(
                f"link: expected http://..., https://... or a path starting with /, got {quoted(self.link)}"
            )


def rule_with_pages(rule: Rule, branding: Branding) -> Rule:
    """A rule whose answers have the page where they ask for it."""
    if not any(answer.page for answer in rule.answers):
        return rule
    return _rule_with_pages(rule, branding)


@functools.lru_cache(maxsize=1024)  # so that a rule which has not changed is the same after an edit
def _rule_with_pages(rule: Rule, branding: Branding) -> Rule:
    return replace(rule, answers=tuple(made for answer in rule.answers for made in _with_page(answer, branding)))


def _with_page(answer: Answer, branding: Branding) -> Iterator[Answer]:
    """An answer, with the page if it asks for it: one for each status that it names, and each class of patterns."""
    if not answer.page:
        yield answer
        return
    if answer.status_code is not None:
        yield replace(answer, variants=variants(answer.status_code, branding))
        return
    for pattern in answer.enable_on_status:
        if pattern.exactness == 3:
            texts = variants(pattern.statuses()[0], branding)
            yield replace(answer, variants=texts, enable_on_status=(pattern,))
    patterns = tuple(pattern for pattern in answer.enable_on_status if pattern.exactness < 3)
    for first in dict.fromkeys(str(pattern)[0] for pattern in patterns):
        texts = variants(int(first) * 100 + 99 if first.isdigit() else None, branding)
        of_class = tuple(pattern for pattern in patterns if str(pattern)[0] == first)
        yield replace(answer, variants=texts, enable_on_status=of_class)
    if not answer.enable_on_status:
        yield replace(answer, variants=variants(None, branding))


@functools.lru_cache(maxsize=64)  # thousands of rules may show it
def variants(status: int | None, branding: Branding = Branding()) -> tuple[Variant, ...]:
    """The page about a status in every format and language, as templates; None: words that fit any status.

    The first is for clients that accept none of them. JSON and XML (RFC 9457, and RFC 7807, appendix A) also have
    their plain content types, which most clients ask for.
    """
    problem = _words()["en"]
    detail = _of_status(problem, status)[1]
    of_json, of_xml = _json(detail), _xml(detail)
    return (
        *(_variant("text/html; charset=utf-8", *_html(language, status, branding)) for language in _words()),
        *(_variant("text/plain; charset=utf-8", *_text(language, status)) for language in _words()),
        _variant("application/problem+json", "", of_json),
        _variant("application/json", "", of_json),
        _variant("application/problem+xml", "", of_xml),
        _variant("application/xml", "", of_xml),
    )


def _variant(content_type: str, language: str, template: str) -> Variant:
    return Variant(content_type, language, template.encode(), template=True)


def _html(language: str, status: int | None, branding: Branding) -> tuple[str, str]:
    words = _words()[language]
    title, detail = _of_status(words, status)
    retried = status in _RETRIED
    action = words["retry" if retried else "home"]
    shown = {"lang": language, "dir": "ltr", "title": title, "detail": detail, "action": action} | words
    return language, _frame().substitute(
        {name: html.escape(text) for name, text in shown.items() if isinstance(text, str)},
        **{f"ground_{scheme}": ground for scheme, (ground, _) in _SCHEMES.items()},
        **{f"accent_{scheme}": _readable(branding.accent or _ACCENT, *of) for scheme, of in _SCHEMES.items()},
        target="" if retried else _literal(branding.link or "/"),
        brand=_brand(branding),
    )


def _brand(branding: Branding) -> str:
    shown = _literal(branding.name or branding.link)
    if branding.logo is not None:
        encoded = base64.b64encode(branding.logo).decode()
        shown = f'<img src="data:{_content_type(branding.logo)};base64,{encoded}" alt="{shown}">'
    if branding.link:
        shown = f'<a href="{_literal(branding.link)}">{shown}</a>'
    return f"<header>{shown}</header>\n" if branding.name or branding.logo else ""


# Text of the user in an HTML template: neither markup nor variables.
def _literal(text: str) -> str:
    return html.escape(text).replace("{{", '{{ "{{" }}')


def _text(language: str, status: int | None) -> tuple[str, str]:
    words = _words()[language]
    title, detail = _of_status(words, status)
    return language, (
        f"{{{{ status }}}} {title}\n\n{detail}\n\n"
        f"{words['id']}: {{{{ request.id }}}}\n{words['time']}: {{{{ time }}}}\n"
        f"{words['source']}: {{{{ source }}}} (local: {words['gateway']}, upstream: {words['service']})\n"
    )


# The type about:blank: the title is the status's phrase (RFC 9457, section 4.2.1). Envoy's request ids are UUIDs.
_PROBLEM: Final = {
    "type": "about:blank",
    "title": "{{ status.reason }}",
    "status": "{{ status }}",
    "detail": "",
    "instance": "urn:uuid:{{ request.id | urlencode }}",
    "request_id": "{{ request.id }}",
    "source": "{{ source }}",
    "time": "{{ time }}",
}


def _json(detail: str) -> str:
    return json.dumps(_PROBLEM | {"detail": detail}, indent=2).replace('"{{ status }}"', "{{ status }}") + "\n"


def _xml(detail: str) -> str:
    fields = "".join(f"  <{name}>{value}</{name}>\n" for name, value in (_PROBLEM | {"detail": detail}).items())
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<problem xmlns="urn:ietf:rfc:7807">\n{fields}</problem>\n'


def _of_status(words: dict[str, Any], status: int | None) -> tuple[str, str]:
    key = "any" if status is None else str(status) if status in STATUSES else f"{status // 100}xx"
    title, detail = words.get(key, words["any"])
    return title, detail


@functools.cache
def _words() -> dict[str, dict[str, Any]]:
    """By language; the first one is for clients that accept none of them."""
    words: dict[str, dict[str, Any]] = json.loads(_beside("page.json"))
    return words


@functools.cache
def _frame() -> string.Template:
    return string.Template(re.sub(r"^ +", "", _beside("page.html"), flags=re.MULTILINE))


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


def _content_type(logo: bytes) -> str:
    if logo.startswith(_PNG):
        return "image/png"
    if _SVG.match(logo.removeprefix(b"\xef\xbb\xbf")):
        return "image/svg+xml"
    raise ValueError("logo: expected the content of an SVG or PNG file, and it is neither")


# The colour, or the nearest one on the way to black or white that is readable on the background.
def _readable(colour: str, ground: str, contrast: float) -> str:
    back, towards = _luminance(_channels(ground)), 0.0 if _luminance(_channels(ground)) > 0.5 else 255.0
    for step in range(101):
        mixed = tuple(channel + (towards - channel) * step / 100 for channel in _channels(colour))
        high, low = sorted((_luminance(mixed), back), reverse=True)
        if (high + 0.05) / (low + 0.05) >= contrast:
            break
    return "#" + "".join(f"{round(channel):02x}" for channel in mixed)


def _channels(colour: str) -> tuple[float, ...]:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    return tuple(map(float, bytes.fromhex(digits)))


# https://www.w3.org/TR/WCAG22/#dfn-relative-luminance
def _luminance(channels: tuple[float, ...]) -> float:
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in channels)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
