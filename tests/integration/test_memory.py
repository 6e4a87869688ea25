"""What a burst took goes back to the system, though blocks amid it live on."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In a process of its own: in one that has run other tests, free memory is at hand.
BURST = """
import asyncio
from relay.server import memory

BURST = 128 * 2**20
BLOCK = 50_000  # too small for a mapping of its own, which would go back by itself

async def main():
    giving = asyncio.create_task(memory.give_back(every=0.01))
    await asyncio.sleep(0)
    at_start = memory.resident()
    blocks = [bytes(BLOCK) for _ in range(BURST // BLOCK)]
    living = blocks[::50]
    full = memory.resident()
    del blocks
    async with asyncio.timeout(30):
        while memory.resident() - at_start > memory.GROWN:
            await asyncio.sleep(0.01)
    assert full - at_start > BURST / 2
    giving.cancel()
    print(len(living))

asyncio.run(main())
"""


@pytest.mark.process
def test_a_burst_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BURST],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 50
