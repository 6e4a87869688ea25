"""``livez``, ``readyz`` and ``metrics``: how a relay answers those that watch it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from relay.http.responses import RefusedError, answer
from relay.observability import metrics as prometheus
from relay.observability.metrics import Metrics
from relay.operations.status import Overview
from relay.outbox.contract import Outbox, OutboxUnavailableError


class HealthEndpoints:
    """The three endpoints. ``overview`` raises OutboxUnavailableError."""

    def __init__(
        self,
        outbox: Outbox,
        metrics: Metrics,
        overview: Callable[[], Awaitable[Overview]],
        stopping: Callable[[], bool],
    ) -> None:
        self._outbox = outbox
        self._rendered = metrics
        self._overview = overview
        self._stopping = stopping

    async def livez(self, _: web.Request) -> web.StreamResponse:
        """Answer 200: the process is alive."""
        return answer({"status": "alive"})

    async def readyz(self, request: web.Request) -> web.StreamResponse:
        """Answer 200 if leads can be committed, 503 if not or when stopping."""
        if self._stopping():
            raise RefusedError(503, "The relay is stopping.")
        if request.query.get("only") == "serving":
            # In front of a site, a database that is down must not take it down too.
            return answer({"status": "serving"})
        try:
            await self._outbox.check_writable()
        except OutboxUnavailableError as error:
            raise RefusedError(503, f"The database takes no leads: {error}") from None
        return answer({"status": "ready"})

    async def metrics(self, _: web.Request) -> web.StreamResponse:
        """Answer with Prometheus's text, also while the database is down."""
        try:
            seen = await self._overview()
        except OutboxUnavailableError:
            seen = None  # the scrape says so: it must not fail when it matters most
        text = self._rendered.render(seen)
        return web.Response(
            body=text, headers={"Content-Type": prometheus.CONTENT_TYPE}
        )
