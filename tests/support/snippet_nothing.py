"""The snippet's tests against a stub of nothing: whether they can fail.

With ``SNIPPET=nothing`` in the environment the site of ``snippet_rig`` serves empty
scripts, and each test is to fail: one that passes claims what it does not see. It
fails the run then, as does one of ``HOLDS`` that does not pass.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest
from playwright.async_api import Error as PlaywrightError
from playwright.async_api import Page

NOTHING: Final = os.environ.get("SNIPPET") == "nothing"


@dataclass
class Patience:
    """How many seconds a test waits for what should come: few, once nothing does."""

    seconds: float = 8.0
    page: Page | None = None

    def begins(self, page: Page) -> None:
        """Start a test."""
        self.seconds, self.page = 8.0, page
        # Some waits begin before the script is served, and last until they end.
        page.set_default_timeout(3000)
        page.set_default_navigation_timeout(30_000)

    def ends(self) -> None:
        """Tell that an empty script was served."""
        self.seconds = 0.3
        if self.page is not None:
            self.page.set_default_timeout(self.seconds * 1000)
            self.page.set_default_navigation_timeout(self.seconds * 1000)

    @property
    def ended(self) -> bool:
        """Whether one was."""
        return self.seconds < 8


PATIENCE: Final = Patience()

SERVERS = "the server's doing: no script of the site has a part in it"

HOLDS: Final = {
    "test_dubs_stores_whatever_is_said": "shows the fault of Dub's way alone",
    "test_a_click_is_kept_as_the_docs_say[dub]": "Dub's own script keeps it",
    "test_a_click_is_kept_as_the_docs_say[front]": SERVERS,
    "test_in_front_of_the_site_no_script_is_needed": SERVERS,
    "test_a_landing_through_the_proxy_needs_no_javascript": SERVERS,
    "test_an_image_plants_no_click": SERVERS,
    "test_in_front_of_the_site_what_is_fetched_ahead_costs_no_click": SERVERS,
    "test_no_other_origin_can_plant_a_click": SERVERS,
}
"""What is so without a snippet, by the test's name, and why the test is there."""

FAILURES: Final = (
    AssertionError,
    LookupError,
    PlaywrightError,
    TimeoutError,
    TypeError,
    ValueError,
)
"""How a test fails that misses something: what it would unpack is missing, too."""


class NeverAskedError(Exception):
    """A test failed before its page asked for the snippet: that proves nothing."""


def judged(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    """Give the tests whose pages carry the snippet, each with what is expected."""
    for item in items:
        if not {"site", "shop"} & set(getattr(item, "fixturenames", ())):
            continue
        if not {item.name, getattr(item, "originalname", None)} & set(HOLDS):
            item.add_marker(
                pytest.mark.xfail(strict=True, raises=FAILURES, reason="no snippet")
            )
        yield item


def is_to_fail(item: pytest.Item) -> bool:
    """Tell whether a test is expected to miss the snippet."""
    return NOTHING and item.get_closest_marker("xfail") is not None
