"""The real ``@dub/analytics`` of npm, pointed at the relay by ``scriptProps.src``."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Page

from tests.support.snippet_rig import (
    ALL,
    CLICK,
    PARTNER,
    TRACKED,
    WITH_PARTNER,
    Site,
    click_of,
    clicked,
    cookies_of,
    running,
    watched,
)

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

PACKAGES = (
    "@dub/analytics@0.0.32",
    "react@19.1.0",
    "react-dom@19.1.0",
    "esbuild@0.28.2",
)

PAGE = """
import { inject } from '@dub/analytics';
import { Analytics, useAnalytics } from '@dub/analytics/react';
import { createElement as h, useState } from 'react';
import { createRoot } from 'react-dom/client';

window.inject = inject;

function Shown() {
  const { partner, trackLead } = useAnalytics();
  window.trackLead = trackLead;
  return h('output', null, partner ? partner.name : 'nobody');
}

function App({ props }) {
  const [round, render] = useState(0);
  window.renderAgain = () => render(round + 1);
  // Fresh props each time: the component injects anew, stubs and all.
  return h('main', null, h(Analytics, { ...props }), h(Shown), h('i', null, round));
}

window.mount = props => createRoot(document.body).render(h(App, { props }));
"""

PROPS = {
    "apiHost": "/api",
    "publishableKey": "dub_pk_x",
    "domainsConfig": {"refer": "go.acme.test", "outbound": ["example.test"]},
    "queryParams": ["ref"],
    "cookieOptions": {"expiresInDays": 30},
    "scriptProps": {"src": f"/_dub/{ALL}"},
}


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The package and React, bundled for a page."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("NO NPM HERE: Dub's real package was not tried")
    folder = tmp_path_factory.mktemp("npm")
    (folder / "package.json").write_text('{"private": true}')
    (folder / "page.jsx").write_text(PAGE)
    install = (
        npm,
        "install",
        "--silent",
        "--no-audit",
        "--no-fund",
        "--prefer-offline",
    )
    installed = subprocess.run(
        (*install, *PACKAGES), cwd=folder, check=False, timeout=300
    )
    if installed.returncode != 0:
        pytest.skip("NPM CANNOT INSTALL HERE: Dub's real package was not tried")
    return joined(folder)


def joined(folder: Path) -> str:
    esbuild = folder / "node_modules" / ".bin" / "esbuild"
    options = ("--bundle", "--minify", "--define:process.env.NODE_ENV='production'")
    command = (str(esbuild), "page.jsx", *options)
    run = subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return run.stdout.decode()


@pytest_asyncio.fixture(loop_scope="session")
async def shop(bundle: str) -> AsyncIterator[Site]:
    async def script(_: web.Request) -> web.Response:
        return web.Response(text=bundle, content_type="text/javascript")

    def more(app: web.Application) -> None:
        app.router.add_get("/page.js", script)

    async with running(more) as site:
        site.head = '<script defer src="/page.js"></script>'
        site.answers["click"] = [(200, WITH_PARTNER)]
        yield site


async def test_inject_works(shop: Site, visitor: Page) -> None:
    errors = watched(visitor)
    shop.body = '<a id="it" href="https://example.test/">It</a>'
    await visitor.goto(shop.url("/?ref=derek"))
    await visitor.evaluate(f"inject({json.dumps(PROPS)})")
    await visitor.evaluate("dubAnalytics.trackLead({eventName: 'Sign Up'})")

    await clicked(visitor, TRACKED)
    (click,) = shop.posted("click")
    assert (click["domain"], click["key"]) == ("go.acme.test", "derek")
    lead = {"clickId": TRACKED, "eventName": "Sign Up"}
    assert await shop.called("lead/client") == [lead]
    await visitor.wait_for_function(f"it.href.endsWith('?dub_id={TRACKED}')")
    name = await visitor.evaluate("document.querySelector('[data-sdkn]').dataset.sdkn")
    assert name == "@dub/analytics"
    assert errors == []


async def test_injecting_again_does_not_silence_the_methods(
    shop: Site, visitor: Page
) -> None:
    """With Dub's script the stubs, laid over the live methods, queue for ever."""
    await visitor.goto(shop.url(f"/?dub_id={CLICK}"))
    await visitor.evaluate(f"inject({json.dumps(PROPS)})")
    await visitor.wait_for_function("window._dubAnalytics")
    await visitor.evaluate(f"inject({json.dumps(PROPS)})")
    await visitor.evaluate("dubAnalytics.trackLead({eventName: 'A'})")
    await visitor.evaluate("dubAnalytics('trackLead', {eventName: 'B'})")

    leads = await shop.called("lead/client", 2)
    assert {lead["eventName"] for lead in leads} == {"A", "B"}


async def test_the_react_component_and_its_hook_work(shop: Site, visitor: Page) -> None:
    errors = watched(visitor)
    await visitor.goto(shop.url("/?via=derek"))
    await visitor.evaluate(f"mount({json.dumps(PROPS)})")

    # On the landing, and from the cookie on the next page.
    shows = "name => document.querySelector('output').textContent === name"
    await visitor.wait_for_function(shows, arg=PARTNER["name"])
    await visitor.goto(shop.url("/next"))
    await visitor.evaluate(f"mount({json.dumps(PROPS)})")
    await visitor.wait_for_function(shows, arg=PARTNER["name"])
    await visitor.evaluate("renderAgain()")
    await visitor.wait_for_function("document.querySelector('i').textContent === '1'")
    await visitor.evaluate("trackLead({eventName: 'Sign Up'})")

    lead = {"clickId": TRACKED, "eventName": "Sign Up"}
    assert await shop.called("lead/client") == [lead]
    assert await click_of(visitor) == TRACKED
    (cookie,) = await cookies_of(visitor.context, "dub_partner_data")
    assert cookie["domain"] == ".acme.test"
    assert errors == []
