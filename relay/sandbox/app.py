"""Puts the sandbox together, and runs it as a process."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from random import Random, SystemRandom
from typing import Final

from aiohttp import web

from relay.core.clock import now_ms
from relay.core.signing import parse_secrets
from relay.sandbox.api import Api
from relay.sandbox.browser import BrowserApi, ShortLinks
from relay.sandbox.commissions import CommissionsApi
from relay.sandbox.console import Console, Control, Feed, guard
from relay.sandbox.dub import Dub
from relay.sandbox.faults import Faults, Options
from relay.sandbox.listings import ListingsApi
from relay.sandbox.model import Link
from relay.sandbox.serving import MAX_BODY, Endpoint, Server
from relay.sandbox.site import make_site
from relay.sandbox.wire import CORS, Circuit

__all__ = ["API_KEY", "DUB", "PUBLISHABLE_KEY", "make_dub", "make_site", "serve"]

API_KEY: Final = "dub_sandbox"
"""The key that a sandbox takes unless it is given another. No secret."""

PUBLISHABLE_KEY: Final = "dub_pk_sandboxsandboxsandbox00"
"""The browser's key, likewise."""

DESTINATION: Final = "http://localhost:8080/"
"""Where short links lead by default: a relay where `serve` listens."""

DOMAIN: Final = "acme.link"
"""The short domain that the links name; any host reaches them here."""

STOP_S: Final = 2.0
"""How long open requests may take when a sandbox stops: nothing hangs then."""

DUB: Final = web.AppKey("dub", Dub)
"""Where an application keeps its Dub, for tests that look or reach inside."""


def sample_links(destination: str = DESTINATION) -> list[Link]:
    """Make the links of a new sandbox: three partners, and one of each defect."""

    def link(key: str, path: str, partner: str | None = None) -> Link:
        return Link(f"link_{key}", key, path, destination, partner)

    def broken(key: str, **how: bool) -> Link:
        return Link(f"link_{key}", key, key, destination, "Broken", **how)

    return [
        link("ada", "partner-ada", "Ada"),
        link("grace", "partner-grace", "Grace"),
        link("alan", "partner-alan", "Alan"),
        Link("link_plain", "plain", "plain", destination, tracked=False),
        broken("foreign", foreign=True),
        broken("disabled", disabled=True),
        broken("gone", gone=True),
    ]


def make_dub(
    *,
    api_key: str = API_KEY,
    publishable_key: str = PUBLISHABLE_KEY,
    secrets: Sequence[str] = (),
    links: Sequence[Link] | None = None,
    destination: str = DESTINATION,
    options: Options | None = None,
    domain: str = DOMAIN,
    clock: Callable[[], int] = now_ms,
    rng: Random | None = None,
) -> web.Application:
    """Make a local Dub.

    ``secrets`` are the relay's (RELAY_SECRET), to verify its signature with.
    ``clock`` returns epoch ms. ``destination`` is where the sample links lead;
    ``links`` replaces them.
    """
    feed = Feed()
    dub = Dub(
        sample_links(destination) if links is None else links,
        clock=clock,
        rng=rng or SystemRandom(),
        domain=domain,
    )
    dub.changed = feed.changed
    api = Api(dub, Circuit(api_key, publishable_key), options or Options(), secrets)
    faults = Faults()
    server = Server(api, faults)
    app = web.Application(client_max_size=MAX_BODY, middlewares=[guard])
    app[DUB] = dub
    app.add_routes(Control(api, faults).routes())
    app.add_routes(Console(api, faults, feed).routes())
    browser = BrowserApi(api)
    _add_api(app, server, api, browser)
    app.router.add_get("/{path:.+}", ShortLinks(dub, browser).handle)

    async def stop(_: web.Application) -> None:
        feed.close()
        await server.stop()

    async def close(_: web.Application) -> None:
        await server.close()

    app.on_shutdown.append(stop)
    app.on_cleanup.append(close)
    return app


def _add_api(
    app: web.Application, server: Server, api: Api, browser: BrowserApi
) -> None:
    commissions, listings = CommissionsApi(api), ListingsApi(api)
    endpoints: Mapping[tuple[str, str], Endpoint] = {
        ("POST", "/track/lead"): api.track_lead,
        ("POST", "/track/sale"): api.track_sale,
        ("GET", "/commissions"): commissions.listed,
        ("PATCH", "/commissions/{id}"): commissions.changed,
        ("GET", "/customers"): listings.customers,
        ("GET", "/events"): listings.events,
        ("GET", "/customers/{id:.+}"): listings.customer,
        ("POST", "/track/lead/client"): api.track_lead_client,
        ("POST", "/track/sale/client"): api.track_sale_client,
        ("POST", "/track/click"): browser.track_click,
        ("POST", "/track/visit"): browser.track_visit,
        ("POST", "/track/open"): browser.track_open,
    }
    for (method, path), endpoint in endpoints.items():
        app.router.add_route(method, path, server.handler(endpoint))
    for path in ("lead/client", "sale/client", "click", "visit", "open"):
        app.router.add_route("OPTIONS", f"/track/{path}", _preflight)


async def _preflight(_: web.Request) -> web.StreamResponse:
    return web.Response(status=204, headers=CORS)


def serve(
    host: str,
    port: int,
    api_key: str = API_KEY,
    secret: str | Sequence[str] = (),
    *,
    destination: str = DESTINATION,
) -> int:
    """Run a sandbox until SIGINT or SIGTERM; return the exit code.

    ``secret`` is the relay's (RELAY_SECRET): a list, or text with commas.
    """
    secrets = parse_secrets(secret) if isinstance(secret, str) else tuple(secret or ())
    app = make_dub(api_key=api_key, secrets=secrets, destination=destination)
    return asyncio.run(_serve(app, host, port, api_key))


async def _serve(app: web.Application, host: str, port: int, api_key: str) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        runner, url = await start(app, host, port)
    except OSError as error:
        sys.stderr.write(f"dub-relay: {host}:{port}: {error.strerror or error}\n")
        return 1
    sys.stdout.write(f"sandbox: {url}  (DUB_API_URL={url} DUB_API_KEY={api_key})\n")
    sys.stdout.flush()
    await stop.wait()
    await runner.cleanup()
    return 0


async def start(
    app: web.Application, host: str, port: int
) -> tuple[web.AppRunner, str]:
    """Serve an application; its runner (to clean up) and its address.

    Port 0 takes a free one. Raises OSError when it cannot listen.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError:
        await runner.cleanup()
        raise
    bound = runner.addresses[0][1]
    name = f"[{host}]" if ":" in host else host
    return runner, f"http://{name}:{bound}"
