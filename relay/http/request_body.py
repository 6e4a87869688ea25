"""What a visitor sends, read in limits of size and time, and work that outlives him."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, Protocol, TypeVar

from aiohttp import web

from relay.http.responses import RefusedError

PATIENCE_S: Final = 10.0
"""How long a whole body may take: a phone on a bad line sends 64 KiB in that."""

T = TypeVar("T")


class RequestBodyError(Exception):
    """The visitor's body broke off, was malformed (400), or did not come (408)."""

    def __init__(self, reason: str, *, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


class Readable(Protocol):
    """A body that comes in pieces, as aiohttp's StreamReader."""

    async def readany(self) -> bytes:
        """Return the next bytes, b"" at the end."""


async def read_visitor(stream: Readable, patience: float) -> bytes:
    """Return the next bytes of a visitor's body, b"" at its end.

    Raises RequestBodyError also when nothing has come for so many seconds.
    aiohttp's server does not report a malformed chunk in the middle of a body to its
    reader; this is what ends such a request, too.
    """
    try:
        async with asyncio.timeout(patience):
            return await stream.readany()
    except TimeoutError as error:
        raise RequestBodyError("the request's body stopped", status=408) from error
    except web.HTTPRequestTimeout as error:
        raise RequestBodyError("the request's body is too slow", status=408) from error
    except Exception as error:
        raise RequestBodyError("the request's body broke off") from error


async def read_small(
    request: web.Request, limit: int, patience: float = PATIENCE_S
) -> bytes:
    """Read a body of at most ``limit`` bytes within ``patience`` seconds.

    Raises RefusedError: 413 for more, 408 where it takes longer, 400 where it
    breaks off.
    """
    too_long = RefusedError(413, f"The body may have {limit} bytes at most.")
    if (request.content_length or 0) > limit:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(patience):
            while data := await read_visitor(request.content, patience):
                body += data
                if len(body) > limit:
                    raise too_long
    except (TimeoutError, RequestBodyError) as error:
        status = error.status if isinstance(error, RequestBodyError) else 408
        raise RefusedError(status, "The body did not come whole.") from None
    return bytes(body)


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
