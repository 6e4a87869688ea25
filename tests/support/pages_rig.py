"""Endpoints that pages call, on a real socket below the usual prefix."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from relay.http.responses import Handler, speaking_json

Endpoint = tuple[str, str, Handler]
"""A method, a path below the prefix, and what answers."""


class Pages(Protocol):
    """Serves endpoints as the relay does, until the test ends; returns the port."""

    def __call__(
        self, endpoints: Iterable[Endpoint], *running: Any
    ) -> Awaitable[int]: ...


@pytest.fixture
def pages(aiohttp_server: AiohttpServer) -> Pages:
    async def serve(endpoints: Iterable[Endpoint], *running: Any) -> int:
        app = application(endpoints, *running)
        server = await aiohttp_server(app, access_log=None, shutdown_timeout=1)
        assert server.port is not None
        return server.port

    return serve


@asynccontextmanager
async def on_socket(path: str, app: web.Application) -> AsyncIterator[None]:
    """Serve an application on a Unix socket: no server of aiohttp's tests can."""
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=1, handler_cancellation=True
    )
    await runner.setup()
    await web.UnixSite(runner, path).start()
    try:
        yield
    finally:
        await runner.cleanup()


def application(endpoints: Iterable[Endpoint], *running: Any) -> web.Application:
    app = web.Application()
    for method, path, handler in endpoints:
        app.router.add_route(method, f"/_dub/{path}", speaking_json(handler))
    app.cleanup_ctx.extend(running)
    return app
