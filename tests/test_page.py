"""The built-in page: its words, its forms, what may be said of whose page it is, and `rejoinder preview`.

How it looks and behaves in a browser is in test_page_browser.py.
"""

from __future__ import annotations

import html
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from rejoinder.cli import main
from rejoinder.rules import page as built_in
from rejoinder.rules.accept import Offer, best
from rejoinder.rules.answers import claims
from rejoinder.rules.load import load
from rejoinder.rules.model import Answer, Rule, StatusPattern
from rejoinder.rules.page import STATUSES, Branding, rule_with_pages
from rejoinder.rules.template import NAMES, Variable, default_escape, fill, parse


class Variant(NamedTuple):
    content_type: str
    language: str
    body: str


def variants(status: int | None, branding: Branding | None = None) -> list[Variant]:
    made = built_in.variants(status, branding or Branding())
    assert all(variant.template for variant in made)
    return [Variant(variant.content_type, variant.language, variant.body.decode()) for variant in made]


PNG: Final = b"\x89PNG\r\n\x1a\n..."
SVG: Final = b'<?xml version="1.0"?>\n<!-- a logo -->\n<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"/>'
VALUES: Final = {
    "status": "503",
    "status.reason": "Service Unavailable",
    "source": "local",
    "request.id": "7b1d2f0c-52f3-4c19-9a57-0e0a8f8d6a11",
    "time": "2026-01-31T12:34:56Z",
}
PLAIN: Final = Branding()
EVERY: Final = (None, *STATUSES, 418, 599)
LANGUAGES: Final = tuple(dict.fromkeys(variant.language for variant in variants(None) if variant.language))

every_status = pytest.mark.parametrize("status", EVERY)


def filled(status: int | None, branding: Branding = PLAIN, values: Mapping[str, str] = VALUES) -> list[Variant]:
    made = {**values} if status is None else {**values, "status": str(status)}

    def value(variable: Variable) -> str:
        return next(made[name] for name, number in NAMES.items() if number is variable.name)

    return [
        variant._replace(body=fill(parse(variant.body, default_escape(variant.content_type)), value).decode())
        for variant in variants(status, branding)
    ]


def of_type(content_type: str, offered: list[Variant]) -> dict[str, str]:
    """By language."""
    return {made.language: made.body for made in offered if made.content_type.partition(";")[0] == content_type}


class Elements(HTMLParser):
    """The start tags of a page, with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def first(self, tag: str) -> dict[str, str | None]:
        return next(attributes for name, attributes in self.found if name == tag)


# --- formats and languages ---


def test_the_first_one_is_html_in_english() -> None:
    assert variants(503)[0][:2] == ("text/html; charset=utf-8", "en")


def test_there_are_html_and_text_in_many_languages_and_json_and_xml_without_one() -> None:
    offered = variants(None)
    assert len(LANGUAGES) >= 10
    for content_type in ("text/html; charset=utf-8", "text/plain; charset=utf-8"):
        assert [variant.language for variant in offered if variant.content_type == content_type] == list(LANGUAGES)
    assert [variant.content_type for variant in offered if not variant.language] == [
        "application/problem+json",
        "application/json",
        "application/problem+xml",
        "application/xml",
    ]


@every_status
def test_html_is_small_and_says_its_language_and_direction(status: int | None) -> None:
    for language, page in of_type("text/html", filled(status)).items():
        assert len(page.encode()) < 10_000
        direction = "rtl" if language == "ar" else "ltr"
        assert Elements(page).first("html") == {"lang": language, "dir": direction}


@every_status
def test_html_has_no_script_and_fetches_nothing(status: int | None) -> None:
    for page in of_type(
        "text/html", filled(status, Branding(name="Acme", logo=SVG, link="https://acme.example"))
    ).values():
        for tag, attributes in Elements(page).found:
            assert tag not in ("script", "iframe", "object", "embed", "form", "base")
            assert not [name for name in attributes if name.startswith("on")]
            if tag in ("img", "link"):
                assert (attributes.get("src") or attributes.get("href") or "").startswith("data:")
        assert "url(" not in page
        assert "@import" not in page


@every_status
def test_every_variable_is_one_of_a_few(status: int | None) -> None:
    for variant in variants(status):
        names = {name.partition("|")[0].strip() for name in re.findall(r"\{\{(.*?)\}\}", variant.body)}
        assert {"status", "request.id", "time", "source"} <= names <= set(VALUES)


@every_status
def test_json_is_rfc_9457(status: int | None) -> None:
    bodies = [of_type(f"application/{subtype}", filled(status))[""] for subtype in ("problem+json", "json")]
    assert bodies[0] == bodies[1]
    problem = json.loads(bodies[0])
    assert problem.pop("detail")
    assert problem == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": status or 503,
        "instance": "urn:uuid:7b1d2f0c-52f3-4c19-9a57-0e0a8f8d6a11",
        "request_id": "7b1d2f0c-52f3-4c19-9a57-0e0a8f8d6a11",
        "source": "local",
        "time": "2026-01-31T12:34:56Z",
    }


@every_status
def test_xml_says_what_json_says(status: int | None) -> None:
    offered = filled(status)
    body = of_type("application/problem+xml", offered)[""]
    assert body == of_type("application/xml", offered)[""]
    root = ET.fromstring(body)
    assert root.tag == "{urn:ietf:rfc:7807}problem"
    said = {field.tag.removeprefix("{urn:ietf:rfc:7807}"): field.text for field in root}
    problem = json.loads(of_type("application/json", offered)[""])
    assert said == {name: str(value) for name, value in problem.items()}


def test_nothing_from_a_request_becomes_markup() -> None:
    hostile = {**VALUES, "request.id": "\"'><script>&{{ status }}\\\n", "source": '" onload="'}
    offered = filled(503, values=hostile)
    for page in of_type("text/html", offered).values():
        marked = {"class": "path", "data-status": "503", "data-source": '" onload="'}
        assert Elements(page).first("div") == marked
        assert not [tag for tag, _ in Elements(page).found if tag == "script"]
    assert json.loads(of_type("application/json", offered)[""])["request_id"] == hostile["request.id"]
    assert ET.fromstring(of_type("application/xml", offered)[""])[5].text == hostile["request.id"]


@pytest.mark.parametrize(
    ("accept", "accept_language", "content_type", "language"),
    [
        (None, None, "text/html; charset=utf-8", "en"),
        ("*/*", "pt-BR,pt;q=0.9,en;q=0.8", "text/html; charset=utf-8", "pt"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "ja", "text/html; charset=utf-8", "ja"),
        ("text/html", "fi", "text/html; charset=utf-8", "en"),
        ("text/plain", "ar", "text/plain; charset=utf-8", "ar"),
        ("application/json", "de-AT", "application/json", ""),
        ("application/problem+json, application/json", None, "application/problem+json", ""),
        ("application/xml", "de", "application/xml", ""),
        ("image/png", "de", "text/html; charset=utf-8", "de"),
    ],
)
def test_everybody_gets_what_they_accept(
    accept: str | None, accept_language: str | None, content_type: str, language: str
) -> None:
    offered = variants(503)
    chosen = offered[best([Offer(offer.content_type, offer.language) for offer in offered], accept, accept_language)]
    assert (chosen.content_type, chosen.language) == (content_type, language)


@pytest.mark.parametrize(
    ("pattern", "status", "like"),
    [
        ("5x4", 514, 511),
        ("5x4", 504, 511),
        ("xx4", 404, None),
        ("x0x", 503, None),
        ("4x3", 413, 499),
        ("504", 504, 504),
    ],
)
def test_the_words_of_a_pattern_fit_all_of_its_statuses(pattern: str, status: int, like: int | None) -> None:
    asked = Rule("r", (Answer(None, enable_on_status=(StatusPattern(pattern.rstrip("x")),), page=True),))
    answer = claims(rule_with_pages(asked, Branding())).answer(status)
    assert answer is not None
    assert answer.variants == built_in.variants(like)


def test_rules_share_the_pages_that_they_have() -> None:
    asked = [Rule(name, (Answer(503, page=True),)) for name in ("one", "other")]
    one, other = (rule_with_pages(rule, Branding()).answers[0].variants for rule in asked)
    assert one is other


# --- words ---


def test_every_language_has_words_of_its_own_for_every_status() -> None:
    said: dict[tuple[int | None, str], str] = {}
    for status in EVERY:
        for language, text in of_type("text/plain", list(variants(status))).items():
            title, _, detail = text.split("\n")[:3]
            assert title.startswith("{{ status }} ")
            assert len(detail) > 5
            said[status, language] = title + detail
    assert len(set(said.values())) == len(said)


def test_html_and_text_say_the_same() -> None:
    for status in EVERY:
        offered = filled(status)
        pages = of_type("text/html", offered)
        for language, text in of_type("text/plain", offered).items():
            title, _, detail = text.split("\n")[:3]
            page = html.unescape(pages[language])
            assert f'<h1>{title.partition(" ")[2]}</h1>\n<p class="detail">{detail}</p>' in page


@pytest.mark.parametrize(("status", "again"), [(None, True), (429, True), (503, True), (404, False), (501, False)])
def test_only_what_may_succeed_later_offers_to_try_again(status: int | None, again: bool) -> None:
    for page in of_type("text/html", filled(status, Branding(link="/start"))).values():
        assert Elements(page).first("a")["href"] == ("" if again else "/start")


def test_style_and_logo_are_one_piece_that_all_html_has() -> None:
    branding = Branding(logo=PNG)
    pieces = {
        re.split(r"\{\{.*?\}\}", page)[1]
        for status in EVERY
        for page in of_type("text/html", list(variants(status, branding))).values()
    }
    (piece,) = pieces
    assert "</style>" in piece
    assert "data:image/png;base64," in piece


# --- branding ---


@pytest.mark.parametrize(
    ("branding", "header"),
    [
        (Branding(), ""),
        (Branding(link="/"), ""),
        (Branding(name="A & B"), "<header>A &amp; B</header>"),
        (Branding(name="A", link="/?a&b"), '<header><a href="/?a&amp;b">A</a></header>'),
        (
            Branding(name='"A"', logo=PNG),
            '<header><img src="data:image/png;base64,iVBORw0KGgouLi4=" alt="&quot;A&quot;"></header>',
        ),
        (
            Branding(logo=PNG, link="/"),
            '<header><a href="/"><img src="data:image/png;base64,iVBORw0KGgouLi4=" alt="/"></a></header>',
        ),
        (Branding(name="{{ status }} {{"), "<header>{{ status }} {{</header>"),
    ],
)
def test_above_the_page_is_the_name_or_the_logo(branding: Branding, header: str) -> None:
    for page in of_type("text/html", filled(503, branding)).values():
        assert "".join(re.findall("<header>.*</header>", page)) == header


def test_an_svg_file_is_known_by_its_content() -> None:
    for logo in (SVG, b"\xef\xbb\xbf" + SVG, b"<svg>", b"<!DOCTYPE svg>\n<svg\n"):
        assert "data:image/svg+xml;base64," in variants(503, Branding(logo=logo))[0].body


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("logo", b"GIF89a", "logo: expected the content of an SVG or PNG file, and it is neither"),
        ("logo", b"<html><svg>", "logo: expected the content of an SVG or PNG file, and it is neither"),
        ("accent", "red", 'accent: expected a colour such as #07a or #0077aa, got "red"'),
        ("accent", "#12345", 'accent: expected a colour such as #07a or #0077aa, got "#12345"'),
        ("accent", "#07a\n", r'accent: expected a colour such as #07a or #0077aa, got "#07a\n"'),
        ("logo", SVG.ljust(32_769), "logo: expected at most 32,768 bytes, got 32,769: every page has it"),
        (
            "link",
            "javascript:alert(1)",
            'link: expected http://..., https://... or a path starting with /, got "javascript:alert(1)"',
        ),
        (
            "link",
            "//evil.example",
            'link: expected http://..., https://... or a path starting with /, got "//evil.example"',
        ),
    ],
)
def test_what_cannot_be_shown_is_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Branding(**{field: value})  # type: ignore[arg-type]


def test_each_mistake_in_branding_is_reported(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("branding: {logo_file: rules.yaml, accent: red, link: there}\n")
    told = [problem.message for problem in load([tmp_path / "rules.yaml"]).problems]
    assert [message.partition(": expected")[0] for message in told] == [
        "branding.logo_file",
        "branding.accent",
        "branding.link",
    ]


@pytest.mark.parametrize("accent", ["", "#000", "#fff", "#ff0", "#777777", "#0077AA"])
def test_an_accent_can_be_read_on_both_grounds(accent: str) -> None:
    page = variants(503, Branding(accent=accent))[0].body
    for ground, shown in zip(
        re.findall("--ground: (#.{6});", page), re.findall("--accent: (#.{6});", page), strict=True
    ):
        assert contrast(ground, shown) >= 4.5


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [part / 255 for part in bytes.fromhex(colour[1:])]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


# --- preview ---


def test_preview_writes_every_variant_and_an_index_that_links_them(tmp_path: Path) -> None:
    (tmp_path / "logo.svg").write_bytes(SVG)
    folder = tmp_path / "new" / "pages"
    options = ["--name", "Acme", "--logo", str(tmp_path / "logo.svg"), "--accent", "#0a7", "--link", "/"]
    assert main(["preview", str(folder), *options, "--status", "503", "418"]) == 0
    of_one = [f"{language}.{extension}" for language in LANGUAGES for extension in ("html", "txt")]
    expected = {f"{status}.{name}" for status in (503, 418) for name in (*of_one, "json", "xml")}
    links = [
        attributes["href"] for tag, attributes in Elements((folder / "index.html").read_text()).found if tag == "a"
    ]
    assert sorted(map(str, links)) == sorted(expected)
    assert {path.name for path in folder.iterdir()} == expected | {"index.html"}
    assert all("{{" not in path.read_text("utf-8") for path in folder.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--accent", "red"], 'accent: expected a colour such as #07a or #0077aa, got "red"'),
        (["--logo", "missing.svg"], "missing.svg: No such file or directory"),
    ],
)
def test_preview_says_what_it_cannot_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["preview", str(tmp_path / "pages"), *arguments]) == 1
    assert capsys.readouterr().err == f"rejoinder: {message}\n"
    assert not (tmp_path / "pages").exists()


def test_preview_onto_a_file_says_that_a_folder_is_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.html").touch()
    for folder, why in ((tmp_path / "page.html", "File exists"), (tmp_path / "page.html" / "x", "Not a directory")):
        assert main(["preview", str(folder)]) == 1
        assert capsys.readouterr().err == f"rejoinder: {folder}: expected a folder, or a place for one: {why}\n"
