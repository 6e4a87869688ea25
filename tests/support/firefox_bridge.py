"""Firefox ESR behind Playwright: stands in for its program, and between the two.

Playwright speaks WebDriver BiDi as the newest Firefox does. What an older one does not
know are the emulations that Playwright sets for each page even where none is asked for:
those are answered here as if they were set. A test that needs one is in the list of
what Firefox cannot do (``tests/support/engines.py``). Whatever else is unknown stays
an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from pathlib import Path
from typing import Final

import aiohttp
import orjson
from aiohttp import web

PROGRAM: Final = "firefox-esr"

EMULATED: Final = "emulation.setMediaFeaturesOverride"
"""A light or dark scheme: the one command that Firefox 153 lacks."""

ANNOUNCED: Final = re.compile(rb"WebDriver BiDi listening on (ws://\S+)")


def stand_in(folder: Path) -> Path:
    """Write a program that Playwright can start as Firefox; return its path."""
    path = folder / "firefox"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {__spec__.name} "$@"\n')
    path.chmod(0o755)
    return path


class Bridge:
    """Passes messages between Playwright and a Firefox that listens at ``behind``."""

    def __init__(self) -> None:
        self.behind = ""
        self._emulations: set[int] = set()

    async def pair(self, request: web.Request) -> web.WebSocketResponse:
        front = web.WebSocketResponse(max_msg_size=0)
        await front.prepare(request)
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(self.behind + request.path, max_msg_size=0) as back,
        ):
            answering = asyncio.create_task(self._answers(back, front))
            async for message in front:
                self._note(message.data)
                await back.send_str(message.data)
            answering.cancel()
        return front

    def _note(self, text: str) -> None:
        if EMULATED in text:
            self._emulations.add(orjson.loads(text)["id"])

    async def _answers(
        self, back: aiohttp.ClientWebSocketResponse, front: web.WebSocketResponse
    ) -> None:
        async for message in back:
            text = message.data
            if self._emulations:
                text = self._mended(text)
            await front.send_str(text)
        await front.close()

    def _mended(self, text: str) -> str:
        answer = orjson.loads(text)
        if answer.get("id") not in self._emulations:
            return text
        self._emulations.discard(answer["id"])
        if answer.get("error") != "unknown command":
            return text
        done = {"type": "success", "id": answer["id"], "result": {}}
        return orjson.dumps(done).decode()


async def run(arguments: list[str]) -> int:
    """Run Firefox with a bridge in front of it; return its exit status."""
    bridge = Bridge()
    app = web.Application()
    app.router.add_get("/{path:.*}", bridge.pair)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    front = f"ws://127.0.0.1:{runner.addresses[0][1]}".encode()
    firefox = await asyncio.create_subprocess_exec(
        PROGRAM, *arguments, stderr=asyncio.subprocess.PIPE
    )
    assert firefox.stderr is not None
    async for line in firefox.stderr:
        said = line
        if found := ANNOUNCED.search(line):
            bridge.behind = found[1].decode()
            said = line.replace(found[1], front)
        with contextlib.suppress(BrokenPipeError):
            os.write(sys.stderr.fileno(), said)
    status = await firefox.wait()
    await runner.cleanup()
    return status


if __name__ == "__main__":
    sys.exit(asyncio.run(run(sys.argv[1:])))
