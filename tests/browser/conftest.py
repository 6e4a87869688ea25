"""What the tests of the snippet share: they run in one loop and one browser."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from snippet_rig import Site, running


@pytest_asyncio.fixture(loop_scope="session")
async def site() -> AsyncIterator[Site]:
    async with running() as site:
        yield site
