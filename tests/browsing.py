"""Debian's Chromium, with axe-core, for tests of pages.

It needs `chromium`, and axe-core's axe.min.js where REJOINDER_AXE says. Without them such tests fail in CI (CI=true),
and are skipped elsewhere.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from machine import SECONDS
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM: Final = shutil.which("chromium")
AXE: Final = Path(os.environ.get("REJOINDER_AXE", ""))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    missing = [
        *(["chromium"] if CHROMIUM is None else []),
        *([] if AXE.is_file() else ["axe.min.js (npm install axe-core; say with REJOINDER_AXE where it is)"]),
    ]
    if missing:
        message = f"no page was looked at in a browser: there is no {' and no '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        # A sandbox of its own is what Chromium cannot have as root, or in most containers.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=1000 * SECONDS)
        expect.set_options(timeout=1000 * SECONDS)
        yield browser
        browser.close()


def faults(page: Page) -> list[Any]:
    """What axe finds wrong with a page."""
    page.evaluate(AXE.read_text("utf-8"))
    result = page.evaluate("axe.run({resultTypes: ['violations', 'incomplete']})")
    # What axe could not decide is a contrast over something that it cannot see through: there must be none.
    violations = [*result["violations"], *(rule for rule in result["incomplete"] if rule["id"] == "color-contrast")]
    return [(rule["id"], node["html"], node["failureSummary"]) for rule in violations for node in rule["nodes"]]
