"""The console in Debian's Chromium, beside a real Envoy: narrow and wide, light and dark, with ten thousand rules, and
without JavaScript. No time is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import pytest
from browsing import browser, faults
from gateway import wait_for
from machine import SECONDS, ask
from playwright.sync_api import Browser, BrowserContext, Page, expect
from with_console import Rejoinder, running

__all__ = ["browser"]  # a fixture

EVIL: Final = "<img src=http://192.0.2.1/ onerror=alert(1)><script>alert(1)</script>"
RULES: Final = f"""\
listen: 127.0.0.1:0
upstreams: {{echo: "builtin:echo"}}
routes: [{{name: all, upstream: echo}}]
rules:
  - {{name: mock, match: {{path: /mock}}, body: "{{\\"hello\\":\\"world\\"}}"}}
  - {{name: page, match: {{path: /page}}, headers: [content-type=text/html], body: "<!doctype html><h1>Sorry</h1>"}}
  - {{name: alive, match: {{path: /alive}}, headers: [content-type=text/html], body: "<h1>Sorry</h1>{EVIL}"}}
  - {{name: evil, match: {{headers: {{x-evil: {{exact: "{EVIL}"}}}}}}, headers: ["x-evil={EVIL}"], body: "{EVIL}"}}
  - {{name: busy, enable_on_status: [503], body: busy}}
  - {{name: late, enable_on_status: [503], body: never}}
  - {{name: trial, observe: true, match: {{clients: [203.0.113.0/24]}}, enable_on_status: [4xx], body: not here}}
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Rejoinder]:  # noqa: ARG001 - it skips
    folder = tmp_path_factory.mktemp("up")
    options = ("--concurrency", "1", "--conditional", "ext_proc", "--trusted-ca", str(folder / "nowhere.pem"))
    with running("up", folder / "rules.yaml", RULES, *options) as it:
        it.started()
        yield it


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a console; when the test ends, nothing must have been said on the browser's console, or asked elsewhere."""
    contexts: list[BrowserContext] = []
    said: list[str] = []

    def open_page(url: str, path: str = "/", width: int = 1280, **options: object) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)  # type: ignore[arg-type]
        contexts.append(context)
        context.set_default_timeout(1000 * SECONDS)
        page = context.new_page()
        page.on("request", lambda request: None if request.url.startswith(url) else said.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.goto(url + path)
        if options.get("java_script_enabled", True):
            expect(page.locator("#live")).to_have_text("live")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_and_has_no_fault_that_axe_finds(
    up: Rejoinder, visit: Callable[..., Page], width: int, scheme: Literal["light", "dark"]
) -> None:
    page = visit(up.url, "/?q=e&url=/page", width, color_scheme=scheme)
    expect(page.locator("tr.hidden")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#summary summary").click()
    assert faults(page) == []


def test_it_searches_while_one_types_by_keyboard(up: Rejoinder, visit: Callable[..., Page]) -> None:
    page = visit(up.url)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.locator("#q").focus()
    page.keyboard.type("busy")
    expect(page.locator("tbody tr[id^=rule]")).to_have_count(1)
    expect(page.locator("#found")).to_have_text("1 rule and 0 routes found")
    expect(page.locator("#q")).to_be_focused()
    assert page.url.endswith("?q=busy")
    page.reload()
    expect(page.locator("tbody tr[id^=rule]")).to_have_count(1)


def test_it_explains_and_shows_the_page_in_a_frame_that_does_nothing(up: Rejoinder, browser: Browser) -> None:
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(up.url)
    page.locator("[name=url]").fill("/alive")
    page.get_by_role("button", name="Explain").click()
    expect(page.locator("#explained")).to_be_focused()
    expect(page.locator(".steps .decides").last).to_contain_text("fits and answers at once")
    expect(page.frame_locator("iframe").locator("h1")).to_have_text("Sorry")
    assert page.locator("iframe").get_attribute("sandbox") == ""
    wait_for(lambda: page.evaluate("true") and any("Blocked script execution" in text for text in said))
    page.locator("[name=url]").fill("/else")
    page.locator("[name=header]").fill(f"x-evil: {EVIL}")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Explain").click()
    expect(page.locator("#explained pre").first).to_contain_text(f"x-evil: {EVIL}")
    expect(page.locator("#main :is(img, script)")).to_have_count(0)
    page.locator("[name=status]").fill("abc")
    page.keyboard.press("Enter")
    expect(page.locator("#explained .notice")).to_contain_text("expected an HTTP status")
    page.close()


def test_it_counts_hits(up: Rejoinder, visit: Callable[..., Page]) -> None:
    page = visit(up.url)
    before = int(page.locator("tr:has-text('busy') .number b").first.inner_text())
    ask(up.address, "GET", "a.test", "/status/503")
    expect(page.locator("tr:has-text('busy') .number b").first).to_have_text(str(before + 1))


def test_it_follows_edits_and_rejections_and_leaves_alone_what_is_typed(
    up: Rejoinder, visit: Callable[..., Page]
) -> None:
    page = visit(up.url)
    page.locator("[name=url]").fill("/typed")
    up.file.write_text(RULES.replace("name: mock", "name: mocked"))
    expect(page.locator("#rule-1 .name")).to_have_text("mocked")
    expect(page.locator("#history > ol > li").first).to_contain_text("1 rule added: mocked")
    expect(page.locator("#history > ol > li").first).to_contain_text("accepted by rejoinder")
    up.file.write_text(RULES.replace("enable_on_status: [4xx]", "enable_on_status: [9xx]"))
    expect(page.locator("#summary .notice")).to_contain_text("the previous rules stay in force")
    expect(page.locator("tr.about:has-text('9xx')")).to_contain_text('rule "trial": enable_on_status')
    rejected = RULES.replace("}\nroutes", ', tls: "https://127.0.0.1:1"}\nroutes').replace(
        "body: busy", "body: too busy"
    )
    up.file.write_text(rejected)
    expect(page.locator("#envoys .state")).to_have_text("rejects")
    expect(page.locator("#envoys .problems")).to_contain_text("nowhere.pem")
    expect(page.locator("#envoys .problems")).to_contain_text(f'about {up.file}:2: upstream "tls"')
    expect(page.locator("tr:has-text('busy') + .about")).to_contain_text("rejoinder rejects it")
    expect(page.locator("#history > ol > li").first).to_contain_text("going back to what it had before")
    up.file.write_text(RULES)
    expect(page.locator("#envoys .state")).to_have_text("current")
    expect(page.locator("#rules .error")).to_have_count(0)
    expect(page.locator("[name=url]")).to_have_value("/typed")
    expect(page.locator("[name=url]")).to_be_focused()


def test_it_is_there_without_javascript(up: Rejoinder, visit: Callable[..., Page]) -> None:
    page = visit(up.url, java_script_enabled=False)
    page.locator("#q").fill("busy")
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr[id^=rule]")).to_have_count(1)
    page.locator("[name=url]").fill("/mock")
    page.get_by_role("button", name="Explain").click()
    expect(page.locator("#explained pre").last).to_have_text('{"hello":"world"}')


def test_it_says_that_it_has_lost_its_server_and_finds_it_again(tmp_path: Path, browser: Browser) -> None:
    page = browser.new_page()
    with running("serve", tmp_path / "rules.yaml", "rules: [{name: a, body: x}]\n") as it:
        page.goto(it.url)
        expect(page.locator("#live")).to_have_text("live")
    expect(page.locator("#live")).to_have_text("not connected")
    page.close()


def test_with_ten_thousand_rules_it_is_usable(tmp_path: Path, visit: Callable[..., Page]) -> None:
    text = "rules:\n" + "".join(
        f"  - {{name: r{n}, match: {{path: /p{n}}}, status_code: 404, body: x}}\n" for n in range(10_000)
    )
    with running("serve", tmp_path / "rules.yaml", text) as it:
        page = visit(it.url)
        expect(page.locator("#rules .pager")).to_contain_text("1 to 100 of 10000 rules")
        page.get_by_role("link", name="next 100").click()
        expect(page.locator("#rules .name").first).to_have_text("r100")
        page.locator("#q").fill("/p9999")
        expect(page.locator("#rules .name").first).to_have_text("r9999")
        page.locator("[name=url]").fill("/p9998")
        page.get_by_role("button", name="Explain").click()
        expect(page.locator(".steps .decides").last).to_contain_text("rule r9998")
        assert page.locator(".steps li").count() < 200
        page.evaluate("scrollTo(0, 0)")  # nothing is below the header
        assert faults(page) == []
        page.close()
