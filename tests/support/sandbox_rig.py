"""A sandbox over HTTP, and the few words its tests speak with it."""

from __future__ import annotations

from typing import Any, Final

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp import AiohttpClient

from relay.sandbox.app import API_KEY, make_dub

SECRET: Final = "the-relays-own-secret"
BROWSER: Final = "Mozilla/5.0 (X11; Linux x86_64) Chrome/140.0.0.0 Safari/537.36"
KEY: Final = {"Authorization": f"Bearer {API_KEY}"}

Client = TestClient[web.Request, web.Application]


async def sandbox(client: AiohttpClient) -> Client:
    """Run a sandbox whose client keeps no cookies."""
    app = make_dub(secrets=(SECRET,), destination="http://localhost:8080/?a=1")
    return await client(app, cookie_jar=aiohttp.DummyCookieJar())


async def minted(dub: Client, link: str = "ada") -> str:
    async with dub.post("/sandbox/clicks", json={"link": link}) as answer:
        return str((await answer.json())["id"])


def lead(click_id: str, **changes: Any) -> dict[str, Any]:
    body = {"clickId": click_id, "eventName": "Sign Up", "customerExternalId": "u_1"}
    return body | changes


async def told(answer: aiohttp.ClientResponse) -> tuple[int, str, str]:
    body = await answer.json()
    error = body["error"]
    assert set(error) == {"code", "message", "doc_url"}
    return answer.status, error["code"], error["message"]


async def state(dub: Client) -> dict[str, Any]:
    async with dub.get("/sandbox/state") as answer:
        return dict(await answer.json())


async def fault(dub: Client, **knobs: Any) -> None:
    async with dub.post("/sandbox/faults", json=knobs) as answer:
        assert answer.status == 201, await answer.text()
