"""Templates, filled in by Python and by the module's core, for their tests."""

from __future__ import annotations

import ctypes
import html
import html.parser
from collections.abc import Callable, Mapping

import core
import pytest
from core import CoreTemplate

from rejoinder.rules.template import (
    LONGEST_VALUE,
    Template,
    encode,
    fill,
)

Values = Mapping[tuple[int, str], str]
Fill = Callable[[Template, Values], bytes]


@pytest.fixture(scope="module", name="loaded")
def _loaded(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("core") / "libtemplate.so"
    sources = [*core.of_core("template.c", "reader.c"), core.HARNESS / "values.c"]
    return ctypes.CDLL(str(core.compiled(target, sources, "-shared", "-fPIC", "-O2")))


def in_python(template: Template, values: Values) -> bytes:
    return fill(template, lambda asked: values.get((asked.name, asked.argument), ""))


@pytest.fixture(name="filled", params=["python", "core"])
def _filled(request: pytest.FixtureRequest, loaded: ctypes.CDLL) -> Fill:
    if request.param == "python":
        return in_python
    return lambda template, values: CoreTemplate(loaded, encode(template)).fill(values)


def meant(value: str) -> str:
    """What a reader should see of a value: cut, and without what is no UTF-8."""
    data = value.encode("utf-8", "surrogateescape")
    cut = data[:LONGEST_VALUE]
    if len(data) > LONGEST_VALUE and data[LONGEST_VALUE] & 0xC0 == 0x80:
        cut = next((cut[:-n] for n in range(1, 4) if cut[-n] & 0xC0 != 0x80), cut)
    return cut.decode("utf-8", "replace")


class Seen(html.parser.HTMLParser):
    """What a page says, tags without their attributes' values; and these."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.values: list[str] = []
        self.texts = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(" ".join([tag, *(name for name, _ in attrs)]))
        self.values += [value or "" for _, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")

    def handle_comment(self, data: str) -> None:
        self.tags.append(f"!{data}")

    def handle_decl(self, decl: str) -> None:
        self.tags.append(f"!{decl}")

    def unknown_decl(self, data: str) -> None:
        self.tags.append(f"!{data}")

    def handle_pi(self, data: str) -> None:
        self.tags.append(f"?{data}")

    def handle_data(self, data: str) -> None:
        self.texts += data
