"""WebKit, Safari's engine, as Debian has it: MiniBrowser on a display of its own.

Every host that a page names is this machine: a SOCKS proxy resolves them, so that
neither a resolver nor ``/etc/hosts`` has a part in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web

PLACES: Final = "lib/*/webkit2gtk-4.*/MiniBrowser", "libexec/webkit2gtk-4.*/MiniBrowser"
"""Where Debian has it below /usr, and where others do."""

PATIENCE: Final = 20.0
"""Seconds for what WebKit should have done; it needs one."""

DAY: Final = 86_400

START: Final = """<script>
setInterval(() => { document.cookie = 'probe=1; max-age=7776000'; }, 50);
fetch('/go').then(() => location.replace(%r));
</script>"""

CLASSIFIED: Final = """
INSERT INTO ObservedDomains (
    registrableDomain, lastSeen, mostRecentUserInteractionTime,
    hadUserInteraction, isPrevalent,
    grandfathered, isVeryPrevalent, dataRecordsRemoved,
    timesAccessedAsFirstPartyDueToUserInteraction,
    timesAccessedAsFirstPartyDueToStorageAccessAPI,
    isScheduledForAllButCookieDataRemoval, mostRecentWebPushInteractionTime
) VALUES (?, ?, ?, 1, 1, 0, 0, 0, 0, 0, 0, 0)
"""
"""A domain that WebKit has found to follow people across sites (``isPrevalent``)."""

NO_ANSWER = b"\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00"
CONNECTED = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00"


def mini_browser() -> str:
    """The program's path; without it or a display server the test is skipped."""
    found = [str(path) for place in PLACES for path in Path("/usr").glob(place)]
    if found and shutil.which("Xvfb"):
        return found[0]
    pytest.skip("NO WEBKIT HERE: what Safari's engine does was not tested")


@contextlib.asynccontextmanager
async def display() -> AsyncIterator[str]:
    """Run a display that nobody sees; yield its name."""
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *("Xvfb", "-displayfd", str(writing), "-nolisten", "tcp"),
        *("-screen", "0", "1280x1024x24"),
        pass_fds=(writing,),
        stderr=asyncio.subprocess.DEVNULL,
    )
    os.close(writing)
    with os.fdopen(reading) as pipe:
        number = (await asyncio.to_thread(pipe.readline)).strip()
    assert number, "Xvfb did not start"
    try:
        yield f":{number}"
    finally:
        process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def names() -> AsyncIterator[int]:
    """Resolve every host to this machine, as a SOCKS 5 proxy (RFC 1928) may.

    Yields the proxy's port.
    """
    server = await asyncio.start_server(_proxied, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def _proxied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        _, methods = await reader.readexactly(2)
        await reader.readexactly(methods)
        writer.write(b"\x05\x00")
        _, _, _, kind = await reader.readexactly(4)
        sizes = {1: 4, 4: 16}
        await reader.readexactly(sizes.get(kind) or (await reader.readexactly(1))[0])
        (port,) = struct.unpack(">H", await reader.readexactly(2))
        try:
            there, back = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.write(NO_ANSWER)
        else:
            writer.write(CONNECTED)
            await asyncio.gather(_copied(reader, back), _copied(there, writer))
    writer.close()


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()


def environment(home: Path, screen: str) -> dict[str, str]:
    """An environment in which WebKit keeps everything below ``home``."""
    return {
        "PATH": os.environ["PATH"],
        "DISPLAY": screen,
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        # No bus for accessibility, no graphics card.
        "NO_AT_BRIDGE": "1",
        "LIBGL_ALWAYS_SOFTWARE": "1",
    }


@contextlib.asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[int]:
    """Serve an application; yield its port."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@dataclass
class Person:
    """Somebody with Safari's engine and its protection from tracking (ITP).

    ``--automation`` would switch that off: so nothing drives this browser. It opens
    an address, and what it keeps is read from its files.
    """

    home: Path
    screen: str
    resolver: int

    @contextlib.asynccontextmanager
    async def opened(self, url: str) -> AsyncIterator[None]:
        """Have a page open while this lasts, in a browser whose protection is on.

        The protection begins some moments after the browser. So a page of a site of
        its own comes first, and leads on once a script's cookie is kept for less time
        than it asked for.
        """
        protected = asyncio.Event()

        async def page(_: web.Request) -> web.Response:
            return web.Response(text=START % url, content_type="text/html")

        async def go(_: web.Request) -> web.Response:
            await protected.wait()
            return web.Response()

        app = web.Application()
        app.router.add_get("/", page)
        app.router.add_get("/go", go)
        async with served(app) as port, self._browsing(f"http://start.test:{port}/"):
            await self._until(lambda: self.days().get("probe", 90) < 8)
            protected.set()
            yield

    @contextlib.asynccontextmanager
    async def without_scripts(self, url: str) -> AsyncIterator[None]:
        """Have a page open in a browser that runs no scripts."""
        async with self._browsing(url, "--enable-javascript=false"):
            yield

    @contextlib.asynccontextmanager
    async def in_private(self, url: str) -> AsyncIterator[None]:
        """Have a page open in a private window, of which no file tells."""
        async with self._browsing(url, "--private"):
            yield

    @contextlib.asynccontextmanager
    async def _browsing(self, url: str, *options: str) -> AsyncIterator[None]:
        log = self.home / "webkit.log"
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *(mini_browser(), "--enable-itp", f"--cookies-file={self._jar}"),
                *(f"--proxy=socks5://127.0.0.1:{self.resolver}", *options, url),
                env=environment(self.home, self.screen),
                stderr=errors,
            )
        try:
            yield
        finally:
            ended = process.returncode
            if ended is None:
                process.terminate()
            await process.wait()
        assert ended is None, f"WebKit ended by itself: {log.read_text()[-2000:]}"

    def days(self) -> dict[str, float]:
        """What is kept, by the cookie's name: for how many days from now."""
        found = self._rows(self._jar, "moz_cookies")
        return {it["name"]: (it["expiry"] - time.time()) / DAY for it in found}

    async def keeps(self, *wanted: str) -> dict[str, float]:
        """Wait until these cookies are kept; return ``days()``."""
        await self._until(lambda: set(wanted) <= set(self.days()))
        return self.days()

    async def loses(self, name: str) -> None:
        """Take a cookie away, as time does."""
        with contextlib.closing(sqlite3.connect(self._jar)) as jar, jar:
            jar.execute("DELETE FROM moz_cookies WHERE name = ?", (name,))

    def takes_for_a_tracker(self, domain: str) -> None:
        """Classify a domain, as weeks of seeing it on other sites do."""
        files = ".local/share/webkitgtk-*/MiniBrowser/itp/observations.db"
        (path,) = self.home.glob(files)
        row = (domain, time.time(), time.time())
        with contextlib.closing(sqlite3.connect(path)) as seen, seen:
            seen.execute(CLASSIFIED, row)

    async def version(self) -> str:
        """What the program says of itself: ``WebKitGTK 2.50.6``."""
        asked = await asyncio.create_subprocess_exec(
            *(mini_browser(), "--version"),
            env=environment(self.home, self.screen),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await asked.communicate()
        return out.decode().strip()

    @property
    def _jar(self) -> Path:
        return self.home / "cookies.db"

    @staticmethod
    def _rows(path: Path, table: str) -> list[sqlite3.Row]:
        """Return a table's rows, or none as long as WebKit has not made it."""
        with contextlib.suppress(sqlite3.OperationalError):
            address = f"file:{path}?mode=ro"
            with contextlib.closing(sqlite3.connect(address, uri=True)) as file:
                file.row_factory = sqlite3.Row
                return file.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608
        return []

    @staticmethod
    async def _until(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not holds():  # noqa: ASYNC110 - another program writes the files
                await asyncio.sleep(0.05)
