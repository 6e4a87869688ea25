"""The demo's sample site: its sign-ups, and its call of the relay's hook."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from relay.core.clock import now_ms
from relay.core.signing import verify_webhook
from relay.sandbox.app import make_site
from relay.sandbox.site import USERS, Hook

KEYS: Final = (b"k" * 32,)
PERSON: Final = {"name": "Ada", "email": "ada@example.com"}

Client = TestClient[web.Request, web.Application]
Received = asyncio.Queue[tuple[dict[str, str], bytes]]


@pytest.fixture
async def received() -> Received:
    return asyncio.Queue()


@pytest.fixture
async def hook(received: Received) -> AsyncIterator[Hook]:
    """Stand in for the relay: keep what is posted."""

    async def take(request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        await received.put((headers, await request.read()))
        return web.json_response({}, status=202)

    app = web.Application()
    app.router.add_post("/hook", take)
    async with TestServer(app) as server:
        yield Hook(str(server.make_url("/hook")), KEYS)


def opened(app: web.Application) -> Client:
    return TestClient(TestServer(app))


async def taken(received: Received) -> dict[str, Any]:
    headers, body = await asyncio.wait_for(received.get(), 5)
    verify_webhook(KEYS, headers, body, now_ms())
    return dict(json.loads(body))


async def test_a_form_makes_a_user_and_a_session_and_calls_nobody(
    hook: Hook, received: Received
) -> None:
    async with opened(make_site(hook=hook)) as site:
        async with site.post("/signup", data=PERSON, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/welcome")
        async with site.get("/welcome") as answer:
            assert "Welcome, Ada" in await answer.text()

    assert received.empty()


@pytest.mark.parametrize("path", ["/signup", "/register"])
async def test_a_sign_up_that_fails_makes_no_user_and_calls_nobody(
    hook: Hook, received: Received, path: str
) -> None:
    app = make_site(hook=hook)
    app[USERS].create("First", PERSON["email"])
    async with opened(app) as site:
        for person in (PERSON, {"name": " ", "email": ""}):
            async with site.post(path, data=person, allow_redirects=False) as answer:
                assert answer.status == 422
                assert 'role="alert"' in await answer.text()

    assert len(app[USERS].by_email) == 1
    assert received.empty()


async def test_json_makes_a_user_once(hook: Hook, received: Received) -> None:
    async with opened(make_site(hook=hook)) as site:
        async with site.post("/api/signup", json=PERSON) as answer:
            assert answer.status == 201
            user = (await answer.json())["user"]
        async with site.post("/api/signup", json=PERSON) as answer:
            assert answer.status == 422
        for body in (b"{", b"[]", b'{"name": "x"}', b"\xff"):
            async with site.post("/api/signup", data=body) as answer:
                assert answer.status == 400

    assert set(user) == {"id", "name"}
    assert received.empty()


async def test_register_sends_the_cookies_as_they_came_to_the_hook(
    hook: Hook, received: Received
) -> None:
    app = make_site(hook=hook)
    cookie = 'dub_partner_data={"a":"b,c"}; dub_id=hQWlM0000000000A'
    async with opened(app) as site:
        await site.post("/register", data=PERSON, headers={"Cookie": cookie})

    body = await taken(received)
    assert body == {
        "cookie": cookie,
        "eventName": "Sign Up",
        "customerExternalId": app[USERS].by_email["ada@example.com"].id,
        "customerName": "Ada",
        "customerEmail": "ada@example.com",
    }


async def test_with_a_script_tag_the_json_sign_up_calls_the_hook(
    hook: Hook, received: Received
) -> None:
    src = "http://localhost:8080/_dub/script.js"
    async with opened(make_site(hook=hook, script_src=src)) as site:
        async with site.get("/?dub_id=x") as answer:
            assert f'<script src="{src}" defer></script>' in await answer.text()
        async with site.post("/api/signup", json=PERSON) as answer:
            user = (await answer.json())["user"]

    assert (await taken(received))["customerExternalId"] == user["id"]


@pytest.mark.parametrize("path", ["/", "/signup", "/signup-json", "/register"])
async def test_without_a_tag_no_page_names_the_relay(path: str) -> None:
    hook = Hook("http://localhost:1/hook", KEYS)
    async with opened(make_site(hook=hook)) as site, site.get(path) as answer:
        assert answer.status == 200
        assert "script.js" not in await answer.text()


async def test_a_sign_up_succeeds_while_the_relay_is_down(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with TestServer(web.Application()) as gone:
        url = str(gone.make_url("/hook"))
    async with (
        opened(make_site(hook=Hook(url, KEYS))) as site,
        site.post("/register", data=PERSON, allow_redirects=False) as answer,
    ):
        assert answer.status == 303

    assert "the relay's hook did not answer" in capsys.readouterr().err
