"""Runs a relay as a process: listening, signals, and a graceful stop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import uvloop
from aiohttp import http_parser

from relay.app import Relay
from relay.config.settings import Settings
from relay.core.clock import now_ms
from relay.observability import logging as logs
from relay.observability.metrics import share_among_workers
from relay.outbox.contract import OutboxError
from relay.server import systemd as supervised
from relay.server.listeners import Face
from relay.server.prefork import supervise

log = logs.get_logger()

GARBAGE: Final = 10_000
"""New objects before the collector looks at them; Python's own 700 are the
objects of a dozen requests."""

RESTART_S: Final = 1.0
"""Pause before delivery is started again after a defect ended it."""

SWITCH_INTERVAL_S: Final = 0.0005
"""How long a thread that computes may keep another waiting; CPython's own is 0.005 s.

The outbox's writer gives up the interpreter at each statement and has to get it back
from a busy event loop; all callers wait for it. With 256 calls in flight a tenth more
were made a second.
"""


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
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        relay = Relay(settings)
        face = Face(relay, share_port=workers > 1, given=given) if web else None
        return uvloop.run(_serve(relay, face, delivery=delivery))

    if workers == 1:
        return run()
    with tempfile.TemporaryDirectory(prefix="dub-relay-metrics-") as folder:
        share_among_workers(Path(folder))
        return supervise(run, workers)


async def _serve(relay: Relay, face: Face | None, *, delivery: bool) -> int:
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
        if relay.settings.dashboard:
            _start_sampling(relay, stack)
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
    sweeping = asyncio.create_task(relay.sweeper().run())
    stack.callback(sweeping.cancel)

    async def end() -> None:
        await worker.stop()
        await task

    stack.push_async_callback(end)


def _start_sampling(relay: Relay, stack: AsyncExitStack) -> None:
    """Keep what this process sees, for the dashboard's plots."""
    from relay.dashboard.sampling import Sampler  # noqa: PLC0415 - as the dashboard

    name = f"{socket.gethostname()}:{os.getpid()}"
    sampler = Sampler(
        relay.outbox, relay.metrics, now_ms, name, relay.settings.delivery_rate
    )
    task = asyncio.create_task(sampler.run())
    stack.callback(task.cancel)
