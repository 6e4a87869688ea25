"""A page in WebKit for tests that were written for Playwright's.

WebKitWebDriver speaks W3C WebDriver. What the snippet's tests ask of a page is here, by
Playwright's names; what is not fails with an AttributeError, and such a test is in the
list of ``engines.py``. A driven WebKit has its protection from tracking off.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from tests.support.servers import free_port
from tests.support.webkit import display, environment, mini_browser, names

SECONDS: Final = 10.0
"""How long a page may take for what it is asked."""

TRIES: Final = 3

EVALUATED: Final = """
const done = arguments[arguments.length - 1];
const told = error => done({error: String(error && error.stack || error)});
try {
  const it = (0, eval)(arguments[0]);
  Promise.resolve(typeof it === 'function' ? it(arguments[1]) : it).then(
    value => done({value: value instanceof Event ? null : value ?? null}), told);
} catch (error) { told(error); }
"""

LOADED: Final = "performance.getEntriesByType('resource').map(each => each.name)"


class WebKitError(Exception):
    """What WebKit answers instead of doing it."""


@dataclass
class Wire:
    """One browser's session: WebDriver's commands."""

    http: aiohttp.ClientSession
    address: str

    async def send(self, method: str, path: str, **body: Any) -> Any:
        posted = body if method == "POST" else None
        asked = self.http.request(method, f"{self.address}{path}", json=posted)
        async with asked as answer:
            value = (await answer.json(content_type=None))["value"]
        if answer.status >= 400:
            raise WebKitError(value["message"] or value["error"])
        return value


@dataclass
class Clock:
    """Playwright's lets time pass at once; this one waits."""

    async def install(self) -> None: ...

    async def run_for(self, milliseconds: float) -> None:
        await asyncio.sleep(milliseconds / 1000)


@dataclass
class WebKitContext:
    """The cookies of the page's site: WebDriver knows no other's."""

    wire: Wire

    async def cookies(self, _: str | None = None) -> list[dict[str, Any]]:
        held = await self.wire.send("GET", "/cookie")
        return [{**it, "expires": it.get("expiry", -1)} for it in held]

    async def add_cookies(self, cookies: Sequence[dict[str, Any]]) -> None:
        for each in cookies:
            cookie = {key: it for key, it in each.items() if key != "expires"}
            if url := cookie.pop("url", None):
                cookie |= {"domain": urlsplit(url).hostname, "path": "/"}
            cookie["expiry"] = round(each.get("expires", time.time() + 86_400))
            await self.wire.send("POST", "/cookie", cookie=cookie)

    async def clear_cookies(self, *, name: str | None = None) -> None:
        await self.wire.send("DELETE", f"/cookie/{name}" if name else "/cookie")


@dataclass
class WebKitPage:
    """What the snippet's tests ask of Playwright's page."""

    wire: Wire
    context: WebKitContext
    clock: Clock = field(default_factory=Clock)
    url: str = "about:blank"

    async def goto(self, url: str) -> None:
        await self.wire.send("POST", "/url", url=url)
        await self._look()

    async def reload(self) -> None:
        await self.wire.send("POST", "/refresh")
        await self._look()

    async def go_back(self) -> None:
        await self.wire.send("POST", "/back")
        await self._look()

    async def evaluate(self, expression: str, arg: Any = None) -> Any:
        script = {"script": EVALUATED, "args": [expression, arg]}
        answer = await self.wire.send("POST", "/execute/async", **script)
        if "error" in answer:
            raise WebKitError(answer["error"])
        return answer["value"]

    async def wait_for_function(self, expression: str, *, arg: Any = None) -> None:
        async def holds() -> bool:
            return bool(await self.evaluate(expression, arg))

        await until(holds)

    async def wait_for_url(self, wanted: str | Callable[[str], bool]) -> None:
        async def is_there() -> bool:
            await self._look()
            return wanted(self.url) if callable(wanted) else wanted == self.url

        await until(is_there)

    @contextlib.asynccontextmanager
    async def expect_response(self, wanted: str) -> AsyncIterator[None]:
        """Do something, and wait until the page has loaded such an address."""
        yield

        async def loaded() -> bool:
            return any(fnmatch(each, wanted) for each in await self.evaluate(LOADED))

        await until(loaded)

    async def wait_for_timeout(self, milliseconds: float) -> None:
        await asyncio.sleep(milliseconds / 1000)

    async def add_script_tag(self, *, url: str) -> None:
        await self.evaluate(
            "src => new Promise((onload, onerror) => document.head.append("
            "Object.assign(document.createElement('script'), {src, onload, onerror})))",
            url,
        )

    async def click(self, selector: str) -> None:
        found = await self.wire.send(
            "POST", "/element", using="css selector", value=selector
        )
        (name,) = found.values()
        await self.wire.send("POST", f"/element/{name}/click")

    def on(self, event: str, listener: Callable[[Any], None]) -> None:
        """WebDriver reports nothing: a test that waits for something is listed."""

    async def _look(self) -> None:
        self.url = await self.wire.send("GET", "/url")


@dataclass(frozen=True)
class Room:
    """Where browsers are started: a home, a display, and what resolves names."""

    home: Path
    screen: str
    resolver: int


@contextlib.asynccontextmanager
async def room() -> AsyncIterator[Room]:
    mini_browser()
    with tempfile.TemporaryDirectory() as home:
        async with display() as screen, names() as resolver:
            yield Room(Path(home), screen, resolver)


@contextlib.asynccontextmanager
async def driver(room: Room) -> AsyncIterator[str]:
    """Run WebKitWebDriver; yield its address."""
    process = await asyncio.create_subprocess_exec(
        *("WebKitWebDriver", f"--port={(port := free_port())}"),
        env=environment(room.home, room.screen),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await until(listening(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again: WebDriver reports nothing by itself."""
    async with asyncio.timeout(SECONDS):
        while not await holds():  # noqa: ASYNC110 - another program's doing
            await asyncio.sleep(0.02)


def listening(port: int) -> Callable[[], Awaitable[bool]]:
    async def tried() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    return tried


@contextlib.asynccontextmanager
async def new_page(room: Room) -> AsyncIterator[WebKitPage]:
    """Open a browser without any past.

    Once in some fifty starts the browser and its driver do not find each other, and
    wait for ever: such a pair is given up for another.
    """
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(TRIES - 1):
            with contextlib.suppress(TimeoutError):
                page = await stack.enter_async_context(opened(room))
                break
        else:
            page = await stack.enter_async_context(opened(room))
        yield page


@contextlib.asynccontextmanager
async def opened(room: Room) -> AsyncIterator[WebKitPage]:
    # WebDriver's own "proxy" would have WebKit resolve names itself.
    resolver = f"--proxy=socks5://127.0.0.1:{room.resolver}"
    wanted = {
        "webkitgtk:browserOptions": {
            "binary": mini_browser(),
            "args": ["--automation", resolver],
        },
        "timeouts": {"script": round(SECONDS * 1000)},
    }
    patience = aiohttp.ClientTimeout(total=1.5 * SECONDS)
    async with (
        driver(room) as address,
        aiohttp.ClientSession(timeout=patience) as http,
    ):
        session = Wire(http, f"{address}/session")
        begun = await session.send("POST", "", capabilities={"alwaysMatch": wanted})
        wire = Wire(http, f"{address}/session/{begun['sessionId']}")
        try:
            yield WebKitPage(wire, WebKitContext(wire))
        finally:
            await wire.send("DELETE", "")
