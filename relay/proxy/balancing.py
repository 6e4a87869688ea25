"""Several instances of the site: which one takes the next request.

The one with the fewest requests under way, among those that take connections.
A request moves on to another instance only while the first cannot have seen
any of it; once a byte may have arrived, nothing but a safe request without a
body is ever sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

from relay.observability.logging import get_logger
from relay.proxy.exchange import (
    Body,
    UpstreamError,
)
from relay.proxy.upstream import Upstream
from relay.proxy.upstream_connection import (
    Connection,
    UpstreamAnswer,
    UpstreamLimits,
)

log = get_logger()

CHECK_S: Final = 1.0
"""How often every instance is asked for a connection. That is how long one that
came back may wait for work; one that went away is noticed by the next request."""


class Sites:
    """The instances of the site, and which of them are up."""

    def __init__(
        self, urls: Sequence[str], *, limits: UpstreamLimits | None = None
    ) -> None:
        if not urls:
            raise ValueError("an upstream is needed")
        self._all = [Upstream(url, limits=limits) for url in urls]
        self._down: set[Upstream] = set()
        self.authority = self._all[0].site.authority
        """The Host to name where a visitor named none (HTTP/1.0)."""

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Check the instances as long as this lasts; close all in the end."""
        checks = asyncio.ensure_future(self._check()) if len(self._all) > 1 else None
        try:
            yield
        finally:
            if checks is not None:
                checks.cancel()
            for upstream in self._all:
                await upstream.close()

    async def send(
        self,
        method: str,
        head: bytes,
        body: Body | None = None,
        *,
        begun: tuple[Upstream, Connection] | None = None,
    ) -> UpstreamAnswer:
        """Pass one request on, as :meth:`Upstream.send` does."""
        tried: list[Upstream] = []
        upstream, connection = begun or (self._next(tried), None)
        while True:
            try:
                return await upstream.send(method, head, body, begun=connection)
            except UpstreamError as error:
                if error.sent:
                    raise
                self._note(upstream, up=False)
                tried.append(upstream)
                if len(tried) >= len(self._all):
                    raise
            upstream, connection = self._next(tried), None

    def kept_for(self, method: str) -> tuple[Upstream, Connection] | None:
        """Give a kept connection, as :meth:`Upstream.kept_for` does."""
        upstream = self._least_busy(())
        connection = upstream.kept_for(method)
        if connection is None:
            return None
        self._took(upstream)
        return upstream, connection

    def _next(self, tried: Sequence[Upstream]) -> Upstream:
        chosen = self._least_busy(tried)
        self._took(chosen)
        return chosen

    def _least_busy(self, tried: Sequence[Upstream]) -> Upstream:
        """Choose the least busy that is up; where all are down, the least busy."""
        if len(self._all) == 1:
            return self._all[0]
        left = [each for each in self._all if each not in tried] or self._all
        up = [each for each in left if each not in self._down]
        return min(up or left, key=lambda each: each.busy)

    def _took(self, upstream: Upstream) -> None:
        """Let equals take turns."""
        if len(self._all) > 1:
            self._all.remove(upstream)
            self._all.append(upstream)

    def _note(self, upstream: Upstream, *, up: bool) -> None:
        if len(self._all) == 1:
            return  # there is nobody to take its place
        if up and upstream in self._down:
            self._down.discard(upstream)
            log.info("proxy.site_up", site=upstream.site.authority)
        elif not up and upstream not in self._down:
            self._down.add(upstream)
            log.warning("proxy.site_down", site=upstream.site.authority)

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            every = list(self._all)
            found = await asyncio.gather(*(each.reachable() for each in every))
            for upstream, up in zip(every, found, strict=True):
                self._note(upstream, up=up)
