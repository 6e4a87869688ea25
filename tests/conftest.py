"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# A shared machine may stall for a moment: speed is measured in bench/, not here.
settings.register_profile("relay", deadline=None)
settings.load_profile("relay")

pytest_plugins = ["chromium", "relays"]
"""Fixtures that tests of several folders share."""
