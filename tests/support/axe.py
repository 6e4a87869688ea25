"""axe-core, where .ci/servers could fetch it: what a page has against its readers."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Page

FILE = Path(".venv/servers/axe/node_modules/axe-core/axe.min.js")

needs_axe = pytest.mark.skipif(
    not FILE.exists(), reason="NO AXE: accessibility was not judged"
)

SIDEWAYS = "document.documentElement.scrollWidth - innerWidth"
"""How many pixels of a page are out of sight at its side."""


async def violations(page: Page) -> list[str]:
    """Rules that a page breaks, and where; the context is one with ``bypass_csp``."""
    await page.add_script_tag(path=FILE)
    found = await page.evaluate("axe.run()")
    return [
        f"{one['id']}: {node['html']}"
        for one in found["violations"]
        for node in one["nodes"]
    ]
