"""The whole of it on one machine: a sandbox Dub, a sample site, and the relay.

The sandbox and the site run in this process, the relay as the real command in
its own, with a configuration and a database in a folder that is removed again.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web

from relay.core.signing import parse_webhook_secrets
from relay.sandbox.app import STOP_S, make_dub
from relay.sandbox.model import Link
from relay.sandbox.site import USERS, Hook, make_site
from relay.sandbox.walk import Town, walk

PORTS: Final[Mapping[str, int]] = {
    "relay": 8080,
    "site": 8081,
    "sandbox": 8082,
    "script_site": 8083,
}
"""The usual ports; a free one is taken where one of them is not."""

START_S: Final = 30.0
"""How long the relay may take to be ready: seconds on a slow, busy machine."""

END_S: Final = 15.0
"""How long it may take to stop; its own grace for open requests is 10 s."""

POLL_S: Final = 0.05
PREFIX: Final = "/_dub"
PASSWORD: Final = "demo"  # noqa: S105 - printed, and opens nothing of anybody's
"""Opens the dashboard."""

LOG_LINES: Final = 15


class DemoError(Exception):
    """The demo could not be set up; one sentence."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """Made anew for each demo."""

    relay: str
    hook: str
    api_key: str

    @classmethod
    def new(cls) -> Secrets:
        """Make them."""
        return cls(
            relay=secrets.token_urlsafe(32),
            hook="whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
            api_key=f"dub_{secrets.token_hex(12)}",
        )


def run(once: bool) -> int:  # noqa: FBT001 - the command's only flag
    """Run the demo until Ctrl-C, or once by itself; return the exit code."""
    return asyncio.run(_run(once=once))


async def _run(*, once: bool) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        async with _town() as (town, relay):
            _introduce(town)
            if once:
                return await _once(town, stop)
            return await _until(stop, relay)
    except DemoError as error:
        sys.stderr.write(f"dub-relay: demo: {error}\n")
        return 1


async def _once(town: Town, stop: asyncio.Event) -> int:
    """Go the three ways, unless somebody ends it."""
    walking = asyncio.ensure_future(walk(town, _say))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({walking, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if walking.done():
        return 0 if walking.result() else 1
    walking.cancel()
    await asyncio.wait({walking})
    return 1


async def _until(stop: asyncio.Event, relay: asyncio.subprocess.Process) -> int:
    """Wait for Ctrl-C; a relay that ends by itself ends the demo."""
    _say("Ctrl-C ends it all.")
    ended = asyncio.ensure_future(relay.wait())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not stop.is_set():
        stopping.cancel()
        raise DemoError("the relay ended by itself")
    await asyncio.wait({ended}, timeout=0)
    ended.cancel()
    _say("\nStopping.")
    return 0


# Setting it up


@asynccontextmanager
async def _town() -> AsyncIterator[tuple[Town, asyncio.subprocess.Process]]:
    """Start everything, and stop it all at the end."""
    async with AsyncExitStack() as stack:
        sockets = {
            name: stack.enter_context(_bind(port)) for name, port in PORTS.items()
        }
        at = {name: f"http://localhost:{_port(it)}" for name, it in sockets.items()}
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-")))
        made = Secrets.new()
        site, script_site = _sites(at["relay"], made)
        apps = {
            "sandbox": _sandbox(at, made),
            "site": site,
            "script_site": script_site,
        }
        for name, app in apps.items():
            await _serve(app, sockets[name], stack)
        config = folder / "relay.toml"
        config.write_text(_config(sockets, folder, made))
        # The relay opens the port itself; it was held until now.
        sockets["relay"].close()
        relay = await stack.enter_async_context(_relay(config, folder / "relay.log"))
        await _ready(relay, at["relay"], folder / "relay.log")

        def user_id(email: str) -> str:
            return site[USERS].by_email[email].id

        yield Town(at["sandbox"], at["relay"], at["script_site"], user_id), relay


def _bind(port: int) -> socket.socket:
    """Take a port of this machine, or a free one where it is taken."""
    try:
        return _bound(port)
    except OSError:
        return _bound(0)


def _bound(port: int) -> socket.socket:
    taken = socket.socket()
    # Else a demo that has just ended would keep its ports for a minute.
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(("127.0.0.1", port))
        # With the option above, only listening makes the port ours alone.
        taken.listen()
    except OSError:
        taken.close()
        raise
    return taken


def _port(bound: socket.socket) -> int:
    return int(bound.getsockname()[1])


def _sandbox(at: Mapping[str, str], made: Secrets) -> web.Application:
    """Make a Dub with one partner for each way."""
    script, relay = at["script_site"], at["relay"]
    targets = {
        "ada": ("Ada", f"{script}/"),
        "grace": ("Grace", f"{relay}/"),
        "alan": ("Alan", f"{relay}/register"),
    }
    links = [
        Link(f"link_{key}", key, f"partner-{key}", url, partner)
        for key, (partner, url) in targets.items()
    ]
    return make_dub(api_key=made.api_key, secrets=(made.relay,), links=links)


def _sites(relay: str, made: Secrets) -> tuple[web.Application, web.Application]:
    """Make the site behind the relay, and its copy with the script tag."""
    hook = Hook(f"{relay}{PREFIX}/hooks/signup", parse_webhook_secrets(made.hook))
    script = f"{relay}{PREFIX}/script.js"
    return make_site(hook=hook), make_site(hook=hook, script_src=script)


async def _serve(
    app: web.Application, bound: socket.socket, stack: AsyncExitStack
) -> None:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.SockSite(runner, bound).start()


def _config(sockets: Mapping[str, socket.socket], folder: Path, made: Secrets) -> str:
    """Write the relay's configuration; a JSON text is a TOML text as well."""
    local = {name: f"127.0.0.1:{_port(it)}" for name, it in sockets.items()}
    return f"""\
listen = {json.dumps(local["relay"])}
prefix = {json.dumps(PREFIX)}
upstream = {json.dumps("http://" + local["site"])}
database = {json.dumps(f"sqlite:///{folder / 'relay.db'}")}
secret = {json.dumps(made.relay)}

[dub]
api_key = {json.dumps(made.api_key)}
api_url = {json.dumps("http://" + local["sandbox"])}

[hook]
secret = {json.dumps(made.hook)}

[dashboard]
password = {json.dumps(PASSWORD)}

[delivery]
retry_base = "200ms"
retry_max = "2s"

[[signup]]
method = "POST"
path = "/signup"
event = "Sign Up"
customer_external_id = "form.email"
customer_name = "form.name"
customer_email = "form.email"

[[signup]]
method = "POST"
path = "/api/signup"
event = "Sign Up"
customer_external_id = "response.json.user.id"
customer_name = "json.name"
customer_email = "json.email"
"""


# The relay's process


@asynccontextmanager
async def _relay(config: Path, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the real command; end it as a service manager would."""
    with log.open("wb") as lines:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay", "serve", "--config", str(config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=lines,
            stderr=lines,
            env=_environment(os.environ),
        )
    try:
        yield process
    finally:
        await _end(process)


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """Leave out the settings of a real relay: they would beat the demo's file."""
    return {
        name: value
        for name, value in own.items()
        if not name.startswith(("RELAY_", "DUB_"))
    }


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(END_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _ready(process: asyncio.subprocess.Process, url: str, log: Path) -> None:
    """Wait until the relay can take leads; raise DemoError with its last lines."""
    try:
        async with asyncio.timeout(START_S), aiohttp.ClientSession() as session:
            while not await _is_ready(session, f"{url}{PREFIX}/readyz"):
                if process.returncode is not None:
                    raise DemoError(f"the relay did not start:\n{_tail(log)}")
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        message = f"the relay was not ready within {START_S:g} s:\n{_tail(log)}"
        raise DemoError(message) from None


async def _is_ready(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])


# Telling


def _introduce(town: Town) -> None:
    _say(
        f"""\
Sandbox   {town.sandbox}/   a local Dub: open this, and watch the leads arrive
Relay     {town.relay}/   in front of the sample site Acme, which knows nothing of Dub
Acme      {town.site}/   a copy with the relay's script tag, nothing in front of it
Dashboard {town.relay}{PREFIX}/dashboard/   each lead's story; password: {PASSWORD}

Three ways, one partner's link each:
  script  {town.sandbox}/partner-ada    the page's script keeps the click
  proxy   {town.sandbox}/partner-grace  the relay keeps the click and sees the sign-up
  hook    {town.sandbox}/partner-alan   the relay keeps the click, the site's code calls
"""
    )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
