"""Which engine the browser tests run in, and what one cannot do.

``ENGINE`` in the environment names it: ``chromium`` (unless it says otherwise),
``firefox`` or ``webkit``.
"""

from __future__ import annotations

import os
from typing import Final

import pytest

ENGINE: Final = os.environ.get("ENGINE", "chromium")

AXE: Final = "Playwright cannot put axe-core past a page's own policy"

SILENT: Final = "WebDriver reports no error, message or failed request of a page"
ONE_SITE: Final = "WebDriver knows the cookies of the open page's site alone"
ONE_TAB: Final = "the driver here has one tab"
UNROUTED: Final = "WebDriver cannot answer in a server's place"
SOUP: Final = "libsoup keeps its cookies, with an order and a reading of its own"

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
        "test_no_page_has_a_violation": AXE,
        "test_no_page_of_the_demo_has_a_violation_or_scrolls_sideways": AXE,
    },
    "webkit": {
        "test_as_a_module_it_finds_its_tag_by_the_files_name": SILENT,
        "test_inserted_by_a_script_as_tag_managers_do[as a module]": SILENT,
        "test_where_nothing_can_be_stored_the_page_goes_on": SILENT,
        "test_an_attribute_that_is_no_json_ends_nothing": SILENT,
        "test_a_mistake_in_one_callback_is_the_pages_and_stops_no_other": SILENT,
        "test_nothing_is_thrown_at_the_page": SILENT,
        "test_nor_when_dub_cannot_be_reached": SILENT,
        "test_dubs_takes_another_host_which_a_strict_policy_refuses": SILENT,
        "test_a_pinned_tag_meets_no_other_text_at_its_address": UNROUTED,
        "test_without_a_relay_behind_it_the_click_is_kept_all_the_same": UNROUTED,
        "test_no_other_origin_can_plant_a_click": UNROUTED,
        "test_a_lost_click_is_restored": ONE_TAB,
        "test_what_the_server_restores_after_a_refusal_is_removed_again": ONE_TAB,
        "test_which_hosts_share_a_click": ONE_SITE,
        "test_a_used_click_does_not_come_back": ONE_TAB,
        "test_a_frame_counts_in_a_page_of_the_same_site_alone": (
            "the driver here does not look into frames"
        ),
        "test_the_navigation_api_is_seen_like_push_state": (
            "WebKitGTK 2.50 has no Navigation API"
        ),
        "test_where_data_is_to_be_saved_the_click_is_kept_all_the_same": (
            "WebDriver sets no header"
        ),
        "test_of_several_cookies_the_newest_counts_and_all_are_removed": SOUP,
        "test_a_partners_parameter_is_tracked_and_its_answer_stored": (
            "WebDriver cannot give a navigation its referrer"
        ),
        "test_a_link_in_a_shadow_root_gets_it_when_it_is_used": (
            "WebDriver's selectors do not reach into a shadow root"
        ),
        "test_the_samples_run_under_the_policy_of_the_page": (
            "WebDriver evaluates under the page's own policy"
        ),
        "test_nothing_that_is_no_click_is_stored": SOUP,
        "test_a_cookies_life_is_what_the_options_say": SOUP,
        "test_what_a_browser_refuses_is_no_cookie_and_no_fault": SOUP,
    },
}
"""What cannot be seen in an engine: the test's name, and why."""

PLAYWRIGHTS: Final = frozenset({"browser", "context", "page", "shared_browser"})
"""Fixtures of browsers that Playwright drives; it drives no WebKit of Debian's."""


def reason(item: pytest.Item) -> str | None:
    """Why a test does not run in this engine; None if it does."""
    listed = CANNOT.get(ENGINE, {})
    name = getattr(item, "originalname", item.name)
    if why := listed.get(item.name) or listed.get(name):
        return why
    if ENGINE == "webkit" and PLAYWRIGHTS & set(getattr(item, "fixturenames", ())):
        return "needs Playwright, which drives no WebKit of Debian's"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot be seen in this engine."""
    for item in items:
        if why := reason(item):
            item.add_marker(pytest.mark.skip(reason=f"{ENGINE}: {why}"))
