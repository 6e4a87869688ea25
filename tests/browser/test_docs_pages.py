"""The docs' site in a real browser: wide and narrow, light and dark, judged by axe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.async_api import Browser

from tests.support.axe import SIDEWAYS, needs_axe, violations
from tests.support.browsers import browser
from tests.support.docs_site import build

TOP = Path(__file__).parents[2]
PAGES = ("index", "browsers", "snippet", "start/proxy")

THEMES = (
    # Two lists of pages, of which one is shown at a time.
    "landmark-unique",
    # A table's corner, over the names of its rows.
    "empty-table-header",
    # Browsers let the keyboard scroll what scrolls.
    "scrollable-region-focusable",
)
"""What axe says of the theme, and of Markdown's tables, and why it may."""

__all__ = ["browser"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.process,
    pytest.mark.skipif("ENGINE" not in os.environ, reason="`make browsers` runs it"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(TOP, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@needs_axe
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
async def test_no_page_of_the_docs_has_a_violation_or_scrolls_sideways(
    browser: Browser, built: Path, scheme: str, width: int
) -> None:
    opened = await browser.new_context(
        color_scheme="dark" if scheme == "dark" else "light",
        viewport={"width": width, "height": 900},
    )
    page = await opened.new_page()
    for name in PAGES:
        await page.goto(f"{(built / name).as_uri()}.html")
        found = await violations(page)
        assert [it for it in found if not it.startswith(THEMES)] == [], name
        assert await page.evaluate(SIDEWAYS) <= 0, name
    await opened.close()
