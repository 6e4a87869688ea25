"""Endpoints that pages call, on a real socket below the usual prefix."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from relay.http.responses import (
    Handler,
    speaking_json,
)


@asynccontextmanager
async def serving_pages(
    endpoints: Iterable[tuple[str, str, Handler]],
    *running: Any,
    unix: str | None = None,
) -> AsyncIterator[int]:
    """Serve endpoints as the relay does; gives the port (0 on a unix socket)."""
    app = web.Application()
    for method, path, handler in endpoints:
        app.router.add_route(method, f"/_dub/{path}", speaking_json(handler))
    app.cleanup_ctx.extend(running)
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=1, handler_cancellation=True
    )
    await runner.setup()
    listening: web.BaseSite
    if unix is None:
        listening = web.TCPSite(runner, "127.0.0.1", 0)
    else:
        listening = web.UnixSite(runner, unix)
    await listening.start()
    try:
        yield 0 if unix else runner.addresses[0][1]
    finally:
        await runner.cleanup()
