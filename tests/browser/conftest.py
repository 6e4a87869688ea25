"""What the tests of the snippet share: they run in one loop and one browser."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Page

from tests.support.snippet_nothing import (
    NOTHING,
    PATIENCE,
    NeverAskedError,
    is_to_fail,
    judged,
)
from tests.support.snippet_rig import Site, running


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    if NOTHING:
        kept = list(judged(items))
        config.hook.pytest_deselected(items=[it for it in items if it not in kept])
        items[:] = kept


@pytest_asyncio.fixture(loop_scope="session")
async def site() -> AsyncIterator[Site]:
    async with running() as site:
        yield site


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(visitor: Page, request: pytest.FixtureRequest) -> AsyncIterator[Page]:
    """The page of all tests; of one that carries nothing nothing is expected."""
    to_fail = is_to_fail(request.node)
    if to_fail:
        PATIENCE.begins(visitor)
    yield visitor
    if to_fail and not PATIENCE.ended:
        raise NeverAskedError
