"""What holds for every test."""

from __future__ import annotations

import pytest
from hypothesis import settings

# These assert, and some hold tests, but no file of tests is named so.
pytest.register_assert_rewrite("tests.support")

# A shared machine may stall for a moment: speed is measured in bench/, not here.
settings.register_profile("relay", deadline=None)
settings.load_profile("relay")

pytest_plugins = [
    "tests.support.chromium",
    "tests.support.postgres_server",
    "tests.support.relays",
]
"""Fixtures that tests of several folders share."""
