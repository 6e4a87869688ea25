"""WebSockets: after the site's 101 the bytes pass as they are, both ways.

Nothing is parsed, so subprotocols, extensions, pings, fragments and close
codes are the visitor's and the site's own affair.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import StreamWriter

from relay.proxy.upstream_connection import UpstreamAnswer

BUFFER: Final = 2**16
"""Bytes waiting in one direction before its sender is made to wait (twice)."""


class _Inlet:
    """Takes the place of a parser in aiohttp's protocols and keeps the bytes."""

    def __init__(self, protocol: BaseProtocol) -> None:
        loop = asyncio.get_running_loop()
        self.reader = StreamReader(protocol, BUFFER, loop=loop)
        if not protocol.connected:
            self.reader.feed_eof()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take what arrived; never the end of the message, nothing left over."""
        self.reader.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        """Note that the other side has gone."""
        if not self.reader.is_eof():
            self.reader.feed_eof()


class Tunnels:
    """The tunnels that are open."""

    def __init__(self) -> None:
        self._open: set[ResponseHandler] = set()

    async def run(self, request: web.BaseRequest, answer: UpstreamAnswer) -> None:
        """Pass bytes both ways until either side is gone; then close both."""
        visitor, site = request.protocol, answer.protocol
        from_visitor, from_site = _Inlet(visitor), _Inlet(site)
        # A socket may be silent for as long as both sides like.
        site.read_timeout = None
        # The protocols' hook for a WebSocket parser takes whatever feeds alike.
        site.set_parser(from_site, from_site.reader)
        visitor.set_parser(from_visitor)  # type: ignore[arg-type]
        to_site = StreamWriter(site, asyncio.get_running_loop())
        pumps = [
            asyncio.ensure_future(_pump(from_site.reader, request.writer)),
            asyncio.ensure_future(_pump(from_visitor.reader, to_site)),
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
            _close(visitor)
            _close(site)

    def close(self) -> None:
        """End all tunnels, as at a stop: nothing in them tells when they would."""
        for site in list(self._open):
            _close(site)


def _close(protocol: BaseProtocol) -> None:
    if protocol.transport is not None:
        # Closed, not cut: a close frame may still be on its way out.
        protocol.transport.close()


async def _pump(source: StreamReader, sink: AbstractStreamWriter) -> None:
    """Pass bytes on, no faster than they are taken, until either side ends."""
    try:
        while data := await source.readany():
            await sink.write(data)
    except ConnectionError:
        # One side is gone, which ends the tunnel like an orderly close.
        return
