"""WebSockets: after the site's 101 the bytes pass as they are, both ways.

Nothing is parsed, so subprotocols, extensions, pings, fragments and close
codes are the visitor's and the site's own affair.
"""

from __future__ import annotations

import asyncio

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter

from relay.http.aiohttp_internals import SiteProtocol, StreamWriter, tunnel_reader
from relay.proxy.upstream_connection import UpstreamAnswer


class Tunnels:
    """The tunnels that are open."""

    def __init__(self) -> None:
        self._open: set[SiteProtocol] = set()

    async def run(self, request: web.BaseRequest, answer: UpstreamAnswer) -> None:
        """Pass bytes both ways until either side is gone; then close both."""
        visitor, site = request.protocol, answer.protocol
        from_visitor, from_site = tunnel_reader(visitor), tunnel_reader(site)
        to_site = StreamWriter(site, asyncio.get_running_loop())
        pumps = [
            asyncio.ensure_future(_pump(from_site, request.writer)),
            asyncio.ensure_future(_pump(from_visitor, to_site)),
        ]
        self._open.add(site)
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in done:
                pump.result()
        finally:
            self._open.discard(site)
            for pump in pumps:
                pump.cancel()
            _close(visitor.transport)
            _close(site.transport)

    def close(self) -> None:
        """End all tunnels, as at a stop: nothing in them shows when they would."""
        for site in list(self._open):
            _close(site.transport)


def _close(transport: asyncio.BaseTransport | None) -> None:
    if transport is not None:
        # Closed, not cut: a close frame may still be on its way out.
        transport.close()


async def _pump(source: StreamReader, sink: AbstractStreamWriter) -> None:
    """Pass bytes on, no faster than they are taken, until either side ends."""
    try:
        while data := await source.readany():
            await sink.write(data)
    except ConnectionError:
        # One side is gone, which ends the tunnel like an orderly close.
        return
