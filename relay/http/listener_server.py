"""The server that makes a connection's protocol for each visitor, and counts them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aiohttp import web
from aiohttp.http import RawRequestMessage

from relay.http.fast_endpoints import Shortcuts
from relay.http.listener import Front
from relay.http.listener_limits import (
    FrontLimits,
    server_options,
)
from relay.proxy.fast_path import Express


class FrontServer(web.Server):
    """aiohttp's server, which makes a :class:`Front` for each visitor."""

    def __init__(
        self,
        server: web.Server,
        express: Express | None,
        shortcuts: Shortcuts,
        limits: FrontLimits,
        **options: Any,
    ) -> None:
        """Stand in for a server of aiohttp's that was made for an application."""
        self._factory = server.request_factory
        self.draining = False
        super().__init__(
            server.request_handler,
            request_factory=self._request,
            handler_cancellation=server.handler_cancellation,
        )
        self._express = express
        self._shortcuts = shortcuts
        self._limits = limits
        self._options = options
        self._open: Counter[str] = Counter()

    def __call__(self) -> Front:
        """Make the protocol of a new connection."""
        return Front(
            self,
            loop=self._loop,
            express=self._express,
            shortcuts=self._shortcuts,
            limits=self._limits,
            **self._options,
        )

    def _request(self, message: RawRequestMessage, *rest: Any) -> web.BaseRequest:
        """Make a request; a relay that stops lets go of connections with an answer.

        Otherwise it would have to cut them, perhaps in the middle of the next.
        """
        if self.draining:
            message = message._replace(should_close=True)
        return self._factory(message, *rest)

    def admit(self, peer: str | None) -> bool:
        """Count a new connection; False if its address has enough of them."""
        if peer is None:
            return True
        self._open[peer] += 1
        most = self._limits.connections
        if not most or self._open[peer] <= most:
            return True
        return self._express is not None and self._express.believes(peer)

    def dismiss(self, peer: str | None) -> None:
        """Count a connection that has ended."""
        if peer is None:
            return
        self._open[peer] -= 1
        if self._open[peer] <= 0:
            del self._open[peer]


class FrontRunner(web.AppRunner):
    """Runs an application behind :class:`Front`."""

    def __init__(
        self,
        app: web.Application,
        express: Express | None = None,
        *,
        shortcuts: Shortcuts | None = None,
        limits: FrontLimits | None = None,
        shutdown_timeout: float = 60.0,
        **options: Any,
    ) -> None:
        self._limits = limits or FrontLimits()
        whole = server_options(self._limits) | options
        super().__init__(app, shutdown_timeout=shutdown_timeout, **whole)
        # The one option that is the server's, not each connection's.
        whole.pop("handler_cancellation")
        self._options = whole
        self._express = express
        self._shortcuts = shortcuts or {}

    def drain(self) -> None:
        """Close each connection with its next answer, from now on."""
        if isinstance(self.server, FrontServer):
            self.server.draining = True

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        return FrontServer(
            server, self._express, self._shortcuts, self._limits, **self._options
        )
