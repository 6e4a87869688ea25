"""The sites of examples/, as processes, and a line to the relay that can break."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest

from tests.support.harness import HOOK_SECRET, clean_environment
from tests.support.servers import FETCHED, TOP, free_port

EXAMPLES = TOP / "examples"

COMMANDS = {
    "aiohttp": ("aiohttp.web", "-H", "127.0.0.1", "-P", "{port}", "app:make_app"),
    "fastapi": ("uvicorn", "app:app", "--host", "127.0.0.1", "--port", "{port}"),
    # Two workers that were forked after the client was made.
    "django": (
        *("gunicorn", "app:application", "--bind", "127.0.0.1:{port}"),
        *("--workers", "2", "--preload", "--no-control-socket"),
        # A worker that is told to end while it still starts never hears of it.
        *("--graceful-timeout", "5"),
    ),
    "flask": ("flask", "--app", "app", "run", "--port", "{port}"),
}
"""How each Python example is served, by a server that people use."""

NODE = {
    "express": ("node", "app.js"),
    # Its other compiler looks for packages in the example's folder alone.
    "nextjs": (
        *(str(FETCHED / "node_modules" / ".bin" / "next"), "dev", "--webpack"),
        *("--hostname", "127.0.0.1", "--port", "{port}"),
    ),
}


def node_example(name: str, folder: Path) -> Path:
    """Copy an example below its packages; without them, the test is skipped."""
    if not (FETCHED / "node_modules" / "standardwebhooks").is_dir():
        pytest.skip(f"NO NODE PACKAGES HERE: the example {name} was not tested")
    return Path(shutil.copytree(EXAMPLES / name, folder / name))


@dataclass
class Site:
    """An example's process (and all that it starts), in a folder of its own."""

    name: str
    folder: Path
    relay: str
    url: str = ""
    process: asyncio.subprocess.Process | None = None

    def command(self, port: int) -> list[str]:
        if self.name in NODE:
            words = NODE[self.name]
        else:
            words = (sys.executable, "-m", *COMMANDS[self.name])
        return [word.format(port=port) for word in words]

    async def start(self) -> Site:
        port = free_port()
        self.folder.mkdir(exist_ok=True)
        with (self.folder / "site.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command(port),
                cwd=self.folder,
                env=clean_environment()
                | {
                    "DUB_RELAY_URL": self.relay,
                    "RELAY_HOOK_SECRET": HOOK_SECRET,
                    "PYTHONPATH": str(EXAMPLES / self.name),
                    "PORT": str(port),
                    "NEXT_TELEMETRY_DISABLED": "1",
                },
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # gunicorn's workers must die with it, also by SIGKILL.
                start_new_session=True,
            )
        self.url = f"http://127.0.0.1:{port}"
        async with asyncio.timeout(60):
            while not await self._listens(port):
                assert self.process.returncode is None, self.log()
                await asyncio.sleep(0.02)
        return self

    async def _listens(self, port: int) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    def log(self) -> str:
        return (self.folder / "site.log").read_text(errors="replace")

    async def stop(self, by: int = signal.SIGTERM) -> None:
        """End the process group that this object started."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, by)
        try:
            await asyncio.wait_for(self.process.wait(), 20)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    async def sign_up(
        self, session: aiohttp.ClientSession, cookie: str | None, name: str = "Ada"
    ) -> str:
        """Register; the new user's id."""
        headers = {} if cookie is None else {"Cookie": cookie}
        person = {"name": name, "email": f"{name.lower()}@example.com"}
        path = "/api/signup" if self.name == "nextjs" else "/signup"
        async with session.post(
            self.url + path, json=person, headers=headers
        ) as answer:
            assert answer.status == 201, self.log()
            return str((await answer.json())["id"])


@asynccontextmanager
async def site(name: str, folder: Path, relay: str) -> AsyncIterator[Site]:
    """Run an example until the block ends."""
    running = Site(name, folder, relay)
    await running.start()
    try:
        yield running
    finally:
        await running.stop()


@dataclass
class Line:
    """A way to the relay: it passes, loses the answer, hangs, or is torn."""

    target: str
    state: Literal["pass", "lose", "hang", "torn"] = "pass"
    carried: list[bytes] = field(default_factory=list)
    url: str = ""

    async def carry(self, reader: Any, writer: asyncio.StreamWriter) -> None:
        """Carry one request on a connection of its own."""
        state = self.state
        try:
            if state == "torn":
                return
            if state == "hang":
                await reader.read()  # until the caller gives up
                return
            host, _, port = self.target.removeprefix("http://").partition(":")
            there, sent = await asyncio.open_connection(host, int(port))
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            head = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", head)
            head = head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
            request = head + await reader.readexactly(length)
            self.carried.append(request)
            sent.write(request)
            try:
                answer = await there.read()
            finally:
                sent.close()
            if state == "pass":
                writer.write(answer)
                await writer.drain()
        finally:
            writer.close()


@asynccontextmanager
async def line(target: str) -> AsyncIterator[Line]:
    made = Line(target)

    carrying: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(made.carry(reader, writer))
        carrying.add(task)
        await asyncio.wait({task})

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    made.url = "http://127.0.0.1:{1}".format(*server.sockets[0].getsockname())
    yield made
    server.close()
    for task in carrying:
        task.cancel()
    await asyncio.gather(*carrying, return_exceptions=True)
