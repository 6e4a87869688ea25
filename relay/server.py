"""Runs a relay as a process: listening, signals, and a graceful stop."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import AsyncExitStack
from typing import Final

import uvloop
from aiohttp import http_parser, web

from relay import logs
from relay.app import Relay
from relay.capture.proxy import SERVER_OPTIONS
from relay.outbox.contract import OutboxError
from relay.settings import Settings
from relay.workers import supervise

log = logs.get_logger()

KEEPALIVE_S: Final = 75.0
"""aiohttp's runner would keep an idle connection for an hour; nginx has 75 s."""

REQUEST_GRACE_S: Final = 10.0
"""How long open requests may take at a stop; Kubernetes kills after 30 s, and
delivery's own grace and the last commits must fit in too."""

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

    def run() -> int:
        relay = Relay(settings)
        return uvloop.run(
            _serve(relay, web=web, delivery=delivery, share_port=workers > 1)
        )

    return run() if workers == 1 else supervise(run, workers)


async def _serve(relay: Relay, *, web: bool, delivery: bool, share_port: bool) -> int:
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
        stack.push_async_callback(relay.outbox.close)
        if delivery:
            await _start_delivery(relay, stack)
        spilling = asyncio.create_task(relay.spill.run())
        stack.callback(spilling.cancel)
        if web and not await _start_web(relay, stack, share_port=share_port):
            return 1
        await stop.wait()
        relay.stopping = True
        log.info("relay.stopping")
        if web:
            await asyncio.sleep(relay.settings.drain)
    log.info("relay.stopped")
    return 0


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


async def _start_web(relay: Relay, stack: AsyncExitStack, *, share_port: bool) -> bool:
    runner = web.AppRunner(
        relay.application(),
        access_log=None,
        keepalive_timeout=KEEPALIVE_S,
        shutdown_timeout=REQUEST_GRACE_S,
        **SERVER_OPTIONS,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    listen = relay.settings.listen
    site: web.BaseSite
    if listen.unix is not None:
        site = web.UnixSite(runner, listen.unix)
    else:
        site = web.TCPSite(
            runner, listen.host, listen.port, reuse_port=share_port or None
        )
    try:
        await site.start()
    except OSError as error:
        sys.stderr.write(f"dub-relay: RELAY_LISTEN: {error.strerror or error}\n")
        return False
    log.info("relay.listening", url=_url(runner, site))
    return True


def _url(runner: web.AppRunner, site: web.BaseSite) -> str:
    address = runner.addresses[0]
    if isinstance(address, tuple):
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"http://{host}:{address[1]}"
    return site.name
