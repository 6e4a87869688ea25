"""Runs a relay as a process: listening, signals, and a graceful stop."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import ssl
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import uvloop
from aiohttp import http_parser, web

from relay import logs, supervised
from relay.app import Relay
from relay.capture.front import FrontLimits, FrontRunner
from relay.capture.proxy import EXPRESS
from relay.metrics import share_among_workers
from relay.outbox.contract import OutboxError
from relay.settings import Settings
from relay.tls import Certificate, TlsError
from relay.workers import supervise

log = logs.get_logger()

REQUEST_GRACE_S: Final = 10.0
"""How long open requests may take at a stop; Kubernetes kills after 30 s, and
delivery's own grace and the last commits must fit in too."""

LAST_WORDS_S: Final = 0.25
"""How long whoever was let in last may take to send a request: a connection without
one is closed after that."""

GARBAGE: Final = 10_000
"""New objects before the collector looks at them; Python's own 700 are the
objects of a dozen requests."""

RESTART_S: Final = 1.0
"""Pause before delivery is started again after a defect ended it."""


def serve(
    settings: Settings, *, web: bool = True, delivery: bool = True, workers: int = 1
) -> int:
    """Run a relay until SIGTERM or SIGINT; give the exit code.

    Several workers share one port, each with its web side and its delivery.
    """
    logs.configure(settings.log_level)
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        # The pure-Python parser takes requests that must not reach a site.
        sys.stderr.write(
            "dub-relay: aiohttp runs without its C parser; install a wheel with it\n"
        )
        return 1

    try:
        # Here, before workers are forked: they share it.
        given = supervised.listening_socket()
    except supervised.HandoverError as error:
        sys.stderr.write(f"dub-relay: LISTEN_FDS: {error}\n")
        return 1

    def run() -> int:
        relay = Relay(settings)
        face = _Face(relay, share_port=workers > 1, given=given) if web else None
        return uvloop.run(_serve(relay, face, delivery=delivery))

    if workers == 1:
        return run()
    with tempfile.TemporaryDirectory(prefix="dub-relay-metrics-") as folder:
        share_among_workers(Path(folder))
        return supervise(run, workers)


async def _serve(relay: Relay, face: _Face | None, *, delivery: bool) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        try:
            await relay.outbox.open()
        except OutboxError as error:
            sys.stderr.write(f"dub-relay: database: {error}\n")
            return 1
        if relay.tracing is not None:
            stack.push_async_callback(asyncio.to_thread, relay.tracing.close)
        stack.push_async_callback(relay.outbox.close)
        if delivery:
            await _start_delivery(relay, stack)
        spilling = asyncio.create_task(relay.spill.run())
        stack.callback(spilling.cancel)
        if (watch := relay.watch()) is not None:
            watching = asyncio.create_task(watch.run())
            stack.callback(watching.cancel)
        if face is not None and not await face.start(stack):
            return 1
        _settle_memory()
        supervised.notify("READY=1")
        alive = asyncio.create_task(supervised.watchdog())
        stack.callback(alive.cancel)
        await stop.wait()
        relay.stopping = True
        supervised.notify("STOPPING=1")
        log.info("relay.stopping")
        if face is not None:
            await face.drain()
    log.info("relay.stopped")
    return 0


def _settle_memory() -> None:
    """Keep the collector away from what stays for good, and let it come seldom.

    Otherwise it walks all modules again and again under load, in the middle of
    requests. What requests leave behind has few cycles, and is small.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, 20, 50)


async def _start_delivery(relay: Relay, stack: AsyncExitStack) -> None:
    dub = await stack.enter_async_context(relay.dub())
    worker = relay.worker(dub)

    async def run() -> None:
        while not worker.stopping:
            try:
                await worker.run()
            except Exception as error:  # noqa: BLE001 - told, and started again
                log.error(
                    "delivery.crashed", error=type(error).__name__, detail=str(error)
                )
                await asyncio.sleep(RESTART_S)

    task = asyncio.create_task(run())

    async def end() -> None:
        await worker.stop()
        await task

    stack.push_async_callback(end)


class _Face:
    """The side of a relay that listens. ``given`` is a socket that listens already."""

    def __init__(
        self, relay: Relay, *, share_port: bool, given: socket.socket | None
    ) -> None:
        self._relay = relay
        self._share_port = share_port
        self._given = given
        self._runner: FrontRunner | None = None
        self._site: web.BaseSite | None = None

    async def start(self, stack: AsyncExitStack) -> bool:
        """Listen until the stack unwinds; False, and told, if that is not possible."""
        settings = self._relay.settings
        try:
            certificate = _certificate(settings)
        except TlsError as error:
            sys.stderr.write(f"dub-relay: RELAY_TLS_CERT: {error}\n")
            return False
        application = self._relay.application()
        self._runner = runner = FrontRunner(
            application,
            application.get(EXPRESS),
            limits=front_limits(settings),
            access_log=None,
            shutdown_timeout=REQUEST_GRACE_S,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        context = None
        if certificate is not None:
            context = certificate.context
            watching = asyncio.create_task(certificate.watch())
            stack.callback(watching.cancel)
        self._site = self._make_site(runner, context)
        try:
            await self._site.start()
        except OSError as error:
            sys.stderr.write(f"dub-relay: RELAY_LISTEN: {error.strerror or error}\n")
            return False
        log.info("relay.listening", url=_url(runner, self._site, context))
        return True

    def _make_site(
        self, runner: FrontRunner, context: ssl.SSLContext | None
    ) -> web.BaseSite:
        listen = self._relay.settings.listen
        if self._given is not None:
            return web.SockSite(runner, self._given, ssl_context=context)
        if listen.unix is not None:
            return web.UnixSite(runner, listen.unix, ssl_context=context)
        return web.TCPSite(
            runner,
            listen.host,
            listen.port,
            ssl_context=context,
            reuse_port=self._share_port or None,
        )

    async def drain(self) -> None:
        """Let visitors go: to other relays, or to the one that comes after this.

        A socket of our own is still listened on, for it refuses once it is closed; one
        that was given keeps whoever comes for the next process.
        """
        if self._runner is None or self._site is None:
            return
        self._runner.drain()
        span = self._relay.settings.drain
        if self._given is not None:
            await self._site.stop()
            await asyncio.sleep(span)
            return
        await asyncio.sleep(span)
        await self._site.stop()
        await asyncio.sleep(min(span, LAST_WORDS_S))


def front_limits(settings: Settings) -> FrontLimits:
    """Give what visitors may take, as it is set."""
    return FrontLimits(
        line=settings.max_line,
        field=settings.max_header,
        fields=settings.max_headers,
        head=settings.header_timeout,
        idle=settings.idle,
        body_rate=settings.body_rate,
        body_span=settings.body_span,
        connections=settings.max_connections,
    )


def _certificate(settings: Settings) -> Certificate | None:
    if settings.tls_cert is None:
        return None
    return Certificate(settings.tls_cert, settings.tls_key)


def _url(
    runner: web.AppRunner, site: web.BaseSite, context: ssl.SSLContext | None
) -> str:
    address = runner.addresses[0]
    if isinstance(address, tuple):
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"http{'s' if context else ''}://{host}:{address[1]}"
    return site.name
