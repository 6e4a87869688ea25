"""The demo's sample site: its sign-ups, and its call of the relay's hook."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp import AiohttpClient, AiohttpServer

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
async def hook(received: Received, aiohttp_server: AiohttpServer) -> Hook:
    """Stand in for the relay: keep what is posted."""

    async def take(request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        await received.put((headers, await request.read()))
        return web.json_response({}, status=202)

    app = web.Application()
    app.router.add_post("/hook", take)
    server = await aiohttp_server(app)
    return Hook(str(server.make_url("/hook")), KEYS)


async def taken(received: Received) -> dict[str, Any]:
    headers, body = await asyncio.wait_for(received.get(), 5)
    verify_webhook(KEYS, headers, body, now_ms())
    return dict(json.loads(body))


async def test_a_form_makes_a_user_and_a_session_and_calls_nobody(
    aiohttp_client: AiohttpClient, hook: Hook, received: Received
) -> None:
    site = await aiohttp_client(make_site(hook=hook))
    async with site.post("/signup", data=PERSON, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/welcome")
    async with site.get("/welcome") as answer:
        assert "Welcome, Ada" in await answer.text()

    assert received.empty()


@pytest.mark.parametrize("path", ["/signup", "/register"])
async def test_a_sign_up_that_fails_makes_no_user_and_calls_nobody(
    aiohttp_client: AiohttpClient, hook: Hook, received: Received, path: str
) -> None:
    app = make_site(hook=hook)
    app[USERS].create("First", PERSON["email"])
    site = await aiohttp_client(app)
    for person in (PERSON, {"name": " ", "email": ""}):
        async with site.post(path, data=person, allow_redirects=False) as answer:
            assert answer.status == 422
            assert 'role="alert"' in await answer.text()

    assert len(app[USERS].by_email) == 1
    assert received.empty()


async def test_json_makes_a_user_once(
    aiohttp_client: AiohttpClient, hook: Hook, received: Received
) -> None:
    site = await aiohttp_client(make_site(hook=hook))
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
    aiohttp_client: AiohttpClient, hook: Hook, received: Received
) -> None:
    app = make_site(hook=hook)
    cookie = 'dub_partner_data={"a":"b,c"}; dub_id=hQWlM0000000000A'
    site = await aiohttp_client(app)
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
    aiohttp_client: AiohttpClient, hook: Hook, received: Received
) -> None:
    src = "http://localhost:8080/_dub/script.js"
    site = await aiohttp_client(make_site(hook=hook, script_src=src))
    async with site.get("/?dub_id=x") as answer:
        assert f'<script src="{src}" defer></script>' in await answer.text()
    async with site.post("/api/signup", json=PERSON) as answer:
        user = (await answer.json())["user"]

    assert (await taken(received))["customerExternalId"] == user["id"]


@pytest.mark.parametrize("path", ["/", "/signup", "/signup-json", "/register"])
async def test_without_a_tag_no_page_names_the_relay(
    aiohttp_client: AiohttpClient, path: str
) -> None:
    hook = Hook("http://localhost:1/hook", KEYS)
    site = await aiohttp_client(make_site(hook=hook))
    async with site.get(path) as answer:
        assert answer.status == 200
        assert "script.js" not in await answer.text()


async def test_a_sign_up_succeeds_while_the_relay_is_down(
    aiohttp_client: AiohttpClient,
    capsys: pytest.CaptureFixture[str],
    unused_tcp_port: int,
) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}/hook"
    site = await aiohttp_client(make_site(hook=Hook(url, KEYS)))
    async with site.post("/register", data=PERSON, allow_redirects=False) as answer:
        assert answer.status == 303

    assert "the relay's hook did not answer" in capsys.readouterr().err
