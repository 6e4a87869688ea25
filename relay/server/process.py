"""Runs a relay as a process: listening, signals, and a graceful stop."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Protocol

import uvloop

from relay.config.settings import Settings
from relay.http.aiohttp_internals import has_c_parser
from relay.observability import logging as logs
from relay.observability.metrics import share_among_workers
from relay.outbox.contract import OutboxError
from relay.server import memory, supervision
from relay.server.listeners import Listeners, WebSide

log = logs.get_logger()

SWITCH_INTERVAL_S: Final = 0.0005
"""How long a thread that computes may keep another waiting; CPython's own is 0.005 s.

The outbox's writer gives up the interpreter at each statement and has to get it back
from a busy event loop; all callers wait for it. With 256 calls in flight a tenth more
were made a second.
"""


class Service(WebSide, Protocol):
    """A relay that can be run: what the top of the program puts together."""

    stopping: bool

    async def start(self, stack: AsyncExitStack, *, delivery: bool) -> None:
        """Open the outbox and start the work behind it, until the stack unwinds.

        Raises OutboxError when the database cannot be opened.
        """


def serve(
    settings: Settings,
    make: Callable[[Settings], Service],
    *,
    web: bool,
    delivery: bool,
    workers: int,
) -> int:
    """Run the relay that ``make`` returns until SIGTERM or SIGINT.

    Returns the exit code. Several workers share one port, each with its web side and
    its delivery.
    """
    logs.configure(settings.log_level)
    if not has_c_parser():
        # The pure-Python parser takes requests that must not reach a site.
        sys.stderr.write(
            "dub-relay: aiohttp runs without its C parser; install a wheel with it\n"
        )
        return 1

    try:
        # Here, before workers are forked: they share it.
        given = supervision.listening_socket()
    except supervision.HandoverError as error:
        sys.stderr.write(f"dub-relay: LISTEN_FDS: {error}\n")
        return 1

    def run() -> int:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        relay = make(settings)
        listeners = None
        if web:
            listeners = Listeners(relay, share_port=workers > 1, given=given)
        return uvloop.run(_serve(relay, listeners, delivery=delivery))

    if workers == 1:
        return run()
    with tempfile.TemporaryDirectory(prefix="dub-relay-metrics-") as folder:
        share_among_workers(Path(folder))
        return supervision.supervise(run, workers)


async def _serve(relay: Service, listeners: Listeners | None, *, delivery: bool) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        stack.enter_context(log.gathering())
        try:
            await relay.start(stack, delivery=delivery)
        except OutboxError as error:
            sys.stderr.write(f"dub-relay: database: {error}\n")
            return 1
        if listeners is not None and not await listeners.start(stack):
            return 1
        memory.settle()
        supervision.notify("READY=1")
        for work in (supervision.watchdog(), memory.give_back()):
            stack.callback(asyncio.create_task(work).cancel)
        await stop.wait()
        relay.stopping = True
        supervision.notify("STOPPING=1")
        log.info("relay.stopping")
        if listeners is not None:
            await listeners.drain()
    log.info("relay.stopped")
    return 0
