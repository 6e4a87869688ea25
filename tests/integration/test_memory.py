"""What a burst took goes back to the system, though blocks amid it live on."""

from __future__ import annotations

import asyncio

from relay.server import memory

BURST = 128 * 2**20
BLOCK = 50_000
"""Too small for a mapping of its own, which would go back by itself."""


async def test_a_burst_is_given_back() -> None:
    giving = asyncio.create_task(memory.give_back(every=0.01))
    await asyncio.sleep(0)
    at_start = memory.resident()
    blocks = [bytes(BLOCK) for _ in range(BURST // BLOCK)]
    living = blocks[::50]
    full = memory.resident()
    del blocks

    async with asyncio.timeout(20):
        while memory.resident() - at_start > memory.GROWN:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    assert full - at_start > BURST / 2
    assert len(living) > 50
    giving.cancel()
