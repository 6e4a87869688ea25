"""Keeps a process's memory small: seldom a collector, and pages given back.

What requests take, Python frees at once, but the C library keeps it for the next burst:
blocks that live on lie between, and only what is free at the heap's end goes back by
itself.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Final

from relay.observability.logging import get_logger

log = get_logger()

GARBAGE: Final = 10_000
"""New objects before the collector looks at them; Python's own 700 are the
objects of a dozen requests."""

GROWN: Final = 32 * 2**20
"""Bytes above the start from which on a look is worth it."""

LOOK_S: Final = 30.0
"""How often it is looked. A trim holds other threads' allocations up by 0.07 ms for a
megabyte that goes back, and by next to nothing where none does."""

_STATM: Final = Path("/proc/self/statm")


def settle() -> None:
    """Keep the collector away from what stays for good, and let it come seldom.

    Otherwise it walks all modules again and again under load, in the middle of
    requests. What requests leave behind has few cycles, and is small.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, 20, 50)


async def give_back(every: float = LOOK_S) -> None:
    """Give back what bursts have left, now and then; ends by being cancelled.

    At once where the C library cannot (it is not glibc) or no /proc tells the size.
    """
    trim = _trim()
    if trim is None or not _STATM.exists():
        return
    at_start = resident()
    while True:
        await asyncio.sleep(every)
        before = resident()
        if before - at_start > GROWN:
            await asyncio.to_thread(trim, 0)
            log.debug("memory.given_back", bytes=before - resident())


def resident() -> int:
    """Return how many bytes of memory this process has."""
    pages = int(_STATM.read_text("ascii").split()[1])
    return pages * resource.getpagesize()


def _trim() -> Callable[[int], int] | None:
    """Return malloc_trim(3), which also lets go of free pages amid the heap."""
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim
