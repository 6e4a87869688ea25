"""Which engine the browser tests run in, and what one cannot do.

``ENGINE`` in the environment names it: ``chromium`` (unless it says otherwise),
``firefox`` or ``webkit``.
"""

from __future__ import annotations

import os
from typing import Final

import pytest

ENGINE: Final = os.environ.get("ENGINE", "chromium")

CANNOT: Final[dict[str, dict[str, str]]] = {"firefox": {}, "webkit": {}}
"""What does not hold or cannot be seen in an engine: a test's or a file's name, why."""

PLAYWRIGHTS: Final = frozenset({"browser", "context", "page", "shared_browser"})
"""Fixtures of browsers that Playwright drives; it drives no WebKit of Debian's."""


def reason(item: pytest.Item) -> str | None:
    """Why a test does not run in this engine; None if it does."""
    listed = CANNOT.get(ENGINE, {})
    name = getattr(item, "originalname", item.name)
    if why := listed.get(name) or listed.get(item.path.name):
        return why
    if ENGINE == "webkit" and PLAYWRIGHTS & set(getattr(item, "fixturenames", ())):
        return "needs Playwright, which drives no WebKit of Debian's"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot be seen in this engine."""
    for item in items:
        if why := reason(item):
            item.add_marker(pytest.mark.skip(reason=f"{ENGINE}: {why}"))
