"""Which engine the browser tests run in, and what one cannot do.

``ENGINE`` in the environment names it: ``chromium`` (unless it says otherwise),
``firefox`` or ``webkit``.
"""

from __future__ import annotations

import os
from typing import Final

import pytest

ENGINE: Final = os.environ.get("ENGINE", "chromium")

CANNOT: Final[dict[str, dict[str, str]]] = {
    "firefox": {
        "test_cleaning_keeps_the_history_and_the_clicks_whole_address": (
            "a tab's first page takes the place of about:blank in its history"
        ),
        "test_nor_when_dub_cannot_be_reached": (
            "reports no request that found nobody listening"
        ),
        "test_a_partners_parameter_is_tracked_and_its_answer_stored": (
            "Playwright cannot give a navigation its referrer"
        ),
        "test_dubs_takes_another_host_which_a_strict_policy_refuses": (
            "reports no refused script to the console that Playwright hears"
        ),
        "test_no_page_has_a_violation": (
            "Playwright cannot put axe-core past a page's own policy"
        ),
        "test_no_page_of_the_demo_has_a_violation_or_scrolls_sideways": (
            "Playwright cannot put axe-core past a page's own policy"
        ),
    },
    "webkit": {},
}
"""What cannot be seen in an engine: the test's name, and why."""

PLAYWRIGHTS: Final = frozenset({"browser", "context", "page", "shared_browser"})
"""Fixtures of browsers that Playwright drives; it drives no WebKit of Debian's."""


def reason(item: pytest.Item) -> str | None:
    """Why a test does not run in this engine; None if it does."""
    listed = CANNOT.get(ENGINE, {})
    name = getattr(item, "originalname", item.name)
    if why := listed.get(name):
        return why
    if ENGINE == "webkit" and PLAYWRIGHTS & set(getattr(item, "fixturenames", ())):
        return "needs Playwright, which drives no WebKit of Debian's"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot be seen in this engine."""
    for item in items:
        if why := reason(item):
            item.add_marker(pytest.mark.skip(reason=f"{ENGINE}: {why}"))
