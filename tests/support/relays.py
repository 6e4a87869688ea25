"""A relay process in front of a sandbox Dub, for every test that wants them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from pytest_aiohttp import AiohttpServer

from tests.support.harness import RelayProcess, SandboxDub


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def dub(aiohttp_server: AiohttpServer) -> AsyncIterator[SandboxDub]:
    sandbox = await SandboxDub.start(aiohttp_server)
    yield sandbox
    await sandbox.close()


@pytest.fixture
async def delivering(dub: SandboxDub, tmp_path: Path) -> AsyncIterator[RelayProcess]:
    relay = RelayProcess(tmp_path, {"DUB_API_URL": dub.url})
    await relay.start()
    yield relay
    assert await relay.stop() == 0
