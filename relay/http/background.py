"""Work that outlives the request that began it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Tasks:
    """Work that goes on when the visitor has left; awaited when all ends."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start work of its own; a reference is kept, or it might vanish."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def finish(self, timeout: float) -> None:  # noqa: ASYNC109 - gives up, cancels nothing
        """Wait for what is under way, for so many seconds at most."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout)
