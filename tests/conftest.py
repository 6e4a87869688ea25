"""What holds for every test."""

from __future__ import annotations

import pytest
from hypothesis import settings

# These hold tests, but no file of tests is named so.
pytest.register_assert_rewrite(
    "outbox_contract",
    "outbox_contract_delivery",
    "outbox_contract_keeping",
    "outbox_contract_sales",
    "outbox_model",
    "harness",
)

# A shared machine may stall for a moment: speed is measured in bench/, not here.
settings.register_profile("relay", deadline=None)
settings.load_profile("relay")

pytest_plugins = ["chromium", "postgres_server", "relays"]
"""Fixtures that tests of several folders share."""
