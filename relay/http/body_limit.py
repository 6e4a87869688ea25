"""Reads the small bodies that browsers send, within limits of size and time."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from relay.http.responses import RefusedError
from relay.proxy.exchange import (
    RequestBodyError,
    read_visitor,
)

PATIENCE_S: Final = 10.0
"""How long a whole body may take: a phone on a bad line sends 64 KiB in that."""


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
