"""The built-in page in Debian's Chromium, with axe-core: narrow and wide, light and dark."""

from __future__ import annotations

import http.server
import itertools
import threading
from collections.abc import Iterator
from typing import Final, Literal

import pytest
from browsing import browser, faults
from playwright.sync_api import Browser, Page
from test_page import LANGUAGES, SVG, VALUES, filled, of_type

from rejoinder.rules.page import STATUSES, Branding

__all__ = ["browser"]  # a fixture

CSP: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

BRANDINGS: Final = {
    "plain": Branding(),
    "named": Branding(name="Bergmann & Söhne", accent="#0a7", link="https://example.com/"),
    "logo": Branding(name="Acme", logo=SVG, accent="#ff0", link="/"),
    "black": Branding(name="W" * 80, accent="#000"),
    "white": Branding(name="Acme", accent="#fff"),
}
PAGES: Final = {
    f"/{status}.{language}": of_type("text/html", filled(status))[language]
    for status, language in itertools.product((None, *STATUSES), LANGUAGES)
} | {f"/{name}": of_type("text/html", filled(404, branding))["en"] for name, branding in BRANDINGS.items()}
LOOKED_AT: Final = ["/None.en", "/401.de", "/503.ar", "/504.ja", *(f"/{name}" for name in BRANDINGS)]

Scheme = Literal["light", "dark"]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        page = PAGES.get(self.path, "").encode()
        self.send_response(200 if page else 404)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("content-security-policy", CSP)
        self.send_header("content-length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def page(browser: Browser) -> Page:
    return browser.new_page(reduced_motion="reduce")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_loads_nothing_fits_and_has_no_fault_that_axe_finds(
    browser: Browser, address: str, width: int, scheme: Scheme
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    requested: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("console", lambda message: said.append(message.text))  # what the CSP forbids is said here
    for path in LOOKED_AT:
        page.goto(address + path)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert faults(page) == [], path
    assert [url.split(",")[0] for url in requested if not url.startswith("data:image/svg")] == [
        address + path for path in LOOKED_AT
    ]
    assert said == []
    context.close()


def test_no_words_are_too_long_for_a_narrow_screen(browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 320, "height": 640})  # https://www.w3.org/TR/WCAG22/#reflow
    # Not by one navigation each: that takes ten seconds.
    too_wide = """html => {
        document.open(); document.write(html); document.close();
        return document.documentElement.scrollWidth > innerWidth;
    }"""
    assert [path for path, html in PAGES.items() if page.evaluate(too_wide, html)] == []
    page.close()


@pytest.mark.parametrize(
    ("status", "source", "who"),
    [
        (404, "upstream", "you"),
        (429, "local", "you"),
        (500, "upstream", "service"),
        (503, "local", "gateway"),
        (503, "", "gateway"),
    ],
)
@pytest.mark.parametrize("known", [True, False], ids=["status known", "any status"])
def test_one_of_three_is_marked_and_named(page: Page, status: int, source: str, who: str, known: bool) -> None:
    values = {**VALUES, "status": str(status), "source": source}
    html = of_type("text/html", filled(status if known else None, values=values))["en"]
    page.set_content(html)
    said = {
        "you": "The problem lies with the request.",
        "gateway": "The gateway answered; the service did not.",
        "service": "The service reported the problem.",
    }
    assert page.inner_text(".who") == said[who]
    colours = page.eval_on_selector_all(
        "li", "marks => marks.map(mark => [mark.className, getComputedStyle(mark.firstChild).backgroundColor])"
    )
    assert [name for name, colour in colours if colour == "rgb(194, 65, 12)"] == [who]


@pytest.mark.parametrize(("wish", "moving"), [("reduce", False), ("no-preference", True)])
def test_nothing_moves_for_those_who_want_it_so(
    browser: Browser, wish: Literal["reduce", "no-preference"], moving: bool
) -> None:
    page = browser.new_page(reduced_motion=wish)
    page.set_content(of_type("text/html", filled(503))["en"])
    assert page.evaluate("document.getAnimations().length > 0") is moving
    page.close()


def test_one_click_selects_the_request_id(page: Page) -> None:
    page.set_content(of_type("text/html", filled(503))["en"])
    page.click("bdi")
    assert page.evaluate("getSelection().toString()") == VALUES["request.id"]
