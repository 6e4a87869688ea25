"""The sandbox's links, its browser endpoints, its webhooks and its page."""

from __future__ import annotations

import asyncio
import json
from typing import Final

import aiohttp
import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpClient, AiohttpServer

from relay.core.signing import verify_dub_webhook
from relay.sandbox.app import PUBLISHABLE_KEY
from tests.support.sandbox_rig import (
    BROWSER,
    KEY,
    Client,
    lead,
    minted,
    sandbox,
    state,
    told,
)


@pytest.fixture
async def dub(aiohttp_client: AiohttpClient) -> Client:
    return await sandbox(aiohttp_client)


class TestShortLinksOverHttp:
    async def test_a_browser_is_redirected_with_a_click_that_counts(
        self, dub: Client
    ) -> None:
        headers = {"User-Agent": BROWSER}

        async with dub.get(
            "/partner-ada?utm=x", headers=headers, allow_redirects=False
        ) as answer:
            assert answer.status == 302
        (click,) = (await state(dub))["clicks"]
        assert answer.headers["Location"] == (
            f"http://localhost:8080/?a=1&dub_id={click['id']}&via=ada&utm=x"
        )

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_an_http_library_gets_a_phantom(
        self, dub: Client, method: str
    ) -> None:
        agent = "python-requests/2.32" if method == "GET" else BROWSER

        async with dub.request(
            method, "/ada", headers={"User-Agent": agent}, allow_redirects=False
        ) as answer:
            assert "dub_id=" in answer.headers["Location"]

        held = await state(dub)
        assert (held["clicks"], held["phantoms"]) == ([], 1)

    async def test_the_links_cookie_keeps_the_click_for_another_browser(
        self, dub: Client
    ) -> None:
        async def click(agent: str, cookie: str) -> aiohttp.ClientResponse:
            headers = {"User-Agent": agent, "Cookie": cookie}
            return await dub.get("/ada", headers=headers, allow_redirects=False)

        first = await click(BROWSER, "")
        cookie = first.headers["Set-Cookie"].partition(";")[0]
        second = await click(BROWSER + " Edg/140", cookie)

        assert second.headers["Location"] == first.headers["Location"]
        assert len((await state(dub))["clicks"]) == 1

    async def test_an_unknown_link_is_a_404(self, dub: Client) -> None:
        async with dub.get("/nothing/here", allow_redirects=False) as answer:
            assert answer.status == 404

    async def test_a_link_can_be_disabled_after_its_click(self, dub: Client) -> None:
        click_id = await minted(dub)
        await dub.post("/sandbox/links", json={"key": "ada", "disabled": True})

        async with dub.post("/track/lead", json=lead(click_id), headers=KEY) as answer:
            assert "is disabled, lead not tracked" in (await told(answer))[2]


class TestBrowserEndpoints:
    HEADERS: Final = {"User-Agent": BROWSER}

    async def test_a_click_by_name_counts_and_names_the_partner(
        self, dub: Client
    ) -> None:
        body = {"domain": "acme.link", "key": "ada"}

        async with dub.post("/track/click", json=body, headers=self.HEADERS) as answer:
            seen = await answer.json()

        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert seen["partner"]["name"] == "Ada"
        assert [it["id"] for it in (await state(dub))["clicks"]] == [seen["clickId"]]

    async def test_its_preflight_is_answered_and_the_servers_route_has_none(
        self, dub: Client
    ) -> None:
        async with dub.options("/track/click") as answer:
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Methods"] == "POST, OPTIONS"
        async with dub.options("/track/lead") as answer:
            assert answer.status == 405
            assert "Access-Control-Allow-Origin" not in answer.headers

    @pytest.mark.parametrize(
        ("path", "body", "status"),
        [
            ("click", {"domain": "acme.link"}, 422),
            ("click", {"domain": "acme.link", "key": "x"}, 404),
            ("click", {"domain": "other.link", "key": "ada"}, 404),
            ("visit", {"domain": "acme.link"}, 400),
            ("visit", {"domain": "acme.link", "url": "https://a.example/x"}, 404),
            ("visit", {"domain": "a.example", "url": "https://a.example/ada"}, 404),
            ("open", {}, 422),
            ("open", {"deepLink": "https://acme.link/x"}, 404),
            ("lead/client", {}, 401),
            ("sale/client", {}, 401),
        ],
    )
    async def test_what_they_refuse_any_page_may_read(
        self, dub: Client, path: str, body: dict[str, str], status: int
    ) -> None:
        async with dub.post(f"/track/{path}", json=body) as answer:
            assert (await told(answer))[0] == status
        assert answer.headers["Access-Control-Allow-Origin"] == "*"

    async def test_a_hostname_that_is_not_allowed_clicks_in_vain(
        self, dub: Client
    ) -> None:
        await dub.post("/sandbox/options", json={"allowed_hostnames": ["a.example"]})
        headers = {**self.HEADERS, "Referer": "https://b.example/"}

        click = {"domain": "acme.link", "key": "ada"}
        async with dub.post("/track/click", json=click, headers=headers) as answer:
            assert (await told(answer))[0] == 403
        visit = {"domain": "acme.link", "url": "https://b.example/ada"}
        async with dub.post("/track/visit", json=visit, headers=headers) as answer:
            assert len((await answer.json())["clickId"]) == 16
        assert (await state(dub))["clicks"] == []

    async def test_an_app_finds_the_click_of_its_address(self, dub: Client) -> None:
        click = {"domain": "acme.link", "key": "ada"}
        async with dub.post("/track/click", json=click, headers=self.HEADERS) as answer:
            click_id = (await answer.json())["clickId"]

        async with dub.post("/track/open", json={"dubDomain": "acme.link"}) as answer:
            assert (await answer.json())["clickId"] == click_id

    async def test_a_visit_counts_for_the_link_of_its_path(self, dub: Client) -> None:
        visit = {"domain": "acme.link", "url": "https://a.example/partner-ada?x=1"}

        async with dub.post("/track/visit", json=visit, headers=self.HEADERS) as answer:
            click_id = (await answer.json())["clickId"]

        [click] = (await state(dub))["clicks"]
        assert (click["id"], click["linkKey"]) == (click_id, "ada")

    @pytest.mark.parametrize(
        ("headers", "query", "counted"),
        [
            ({"User-Agent": "okhttp/4.12 bot"}, "", True),
            ({"User-Agent": BROWSER}, "?dub-no-track=1", False),
            ({"User-Agent": BROWSER, "dub-no-track": "1"}, "", False),
        ],
    )
    async def test_an_opened_app_counts_unless_it_asks_not_to(
        self, dub: Client, headers: dict[str, str], query: str, *, counted: bool
    ) -> None:
        body = {"deepLink": "https://acme.link/partner-ada"}

        async with dub.post(f"/track/open{query}", json=body, headers=headers) as said:
            opened = await said.json()

        held = await state(dub)
        assert opened["link"]["key"] == "ada"
        assert (opened["clickId"] is not None) is counted
        assert [it["id"] for it in held["clicks"]] == [opened["clickId"]] * counted
        assert held["phantoms"] == 0

    async def test_an_app_of_another_domain_finds_no_click(self, dub: Client) -> None:
        click = {"domain": "acme.link", "key": "ada"}
        await dub.post("/track/click", json=click, headers=self.HEADERS)

        async with dub.post("/track/open", json={"dubDomain": "other.link"}) as answer:
            assert await answer.json() == {"clickId": None, "link": None}

    async def test_a_page_records_a_lead_with_the_publishable_key(
        self, dub: Client
    ) -> None:
        headers = {"Authorization": f"Bearer {PUBLISHABLE_KEY}"}
        body = lead(await minted(dub))

        async with dub.post("/track/lead/client", json=body, headers=headers) as answer:
            assert (await answer.json())["link"]["key"] == "ada"
            assert answer.headers["X-RateLimit-Limit"] == "600"
            assert answer.headers["X-RateLimit-Remaining"] == "599"
        del body["clickId"]
        async with dub.post("/track/lead/client", json=body, headers=headers) as answer:
            assert (await told(answer))[0] == 422

    @pytest.mark.parametrize(
        ("authorization", "faults", "body", "status", "message", "rated"),
        [
            (None, {}, b"{", 401, "Missing publishable key.", False),
            ("dub_pk_x", {}, b"{", 400, "Invalid or missing publish", False),
            ("Bearer dub_x", {}, b"{", 400, "Invalid or missing publish", False),
            ("Bearer dub_pk_x", {"rate": 0}, b"{", 429, "Too many requests.", True),
            ("Bearer dub_pk_x", {}, b"{", 401, "Invalid publishable key.", True),
            (f"Bearer {PUBLISHABLE_KEY}", {"plan": "free"}, b"{", 403, "Unauth", True),
            (f"Bearer {PUBLISHABLE_KEY}", {}, b"{", 400, "Invalid JSON", True),
            (f"Bearer {PUBLISHABLE_KEY}", {}, b"{}", 403, "Request origin", True),
        ],
    )
    @pytest.mark.parametrize("path", ["lead", "sale"])
    async def test_a_publishable_key_is_judged_in_dubs_order(
        self,
        dub: Client,
        path: str,
        authorization: str | None,
        faults: dict[str, object],
        body: bytes,
        status: int,
        message: str,
        *,
        rated: bool,
    ) -> None:
        """The page's host is not allowed, which Dub would find last but the fields."""
        await dub.post("/sandbox/options", json={"allowed_hostnames": ["a.example"]})
        if faults:
            await dub.post("/sandbox/faults", json=faults)
        headers = {"Authorization": authorization} if authorization else {}

        url = f"/track/{path}/client"
        async with dub.post(url, data=body, headers=headers) as answer:
            seen = await told(answer)

        assert (seen[0], seen[2][: len(message)]) == (status, message)
        assert ("X-RateLimit-Limit" in answer.headers) is rated
        assert answer.headers["Access-Control-Allow-Origin"] == "*"


async def test_what_is_recorded_is_announced_with_dubs_signature_after_the_answer(
    dub: Client, aiohttp_server: AiohttpServer
) -> None:
    received: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    async def take(request: web.Request) -> web.StreamResponse:
        await received.put((request.headers["Dub-Signature"], await request.read()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", take)
    receiver = await aiohttp_server(app)
    hook = {"webhook_url": str(receiver.make_url("/hook")), "webhook_secret": "whs"}
    await dub.post("/sandbox/options", json=hook)
    body = lead(await minted(dub), mode="deferred")
    await dub.post("/track/lead", json=body, headers=KEY)
    await dub.post("/track/lead", json=body | {"mode": "async"}, headers=KEY)

    signature, content = await asyncio.wait_for(received.get(), 5)

    assert verify_dub_webhook(("whs",), signature, content)
    envelope = json.loads(content)
    assert envelope["event"] == "lead.created"
    assert envelope["data"]["customer"]["externalId"] == "u_1"
    assert received.empty()

    sale = {"customerExternalId": "u_1", "amount": 800, "currency": "eur"}
    await dub.post("/track/sale", json=sale | {"invoiceId": "in_1"}, headers=KEY)

    signature, content = await asyncio.wait_for(received.get(), 5)

    assert verify_dub_webhook(("whs",), signature, content)
    envelope = json.loads(content)
    assert envelope["event"] == "sale.created"
    assert envelope["data"]["click"]["id"] == body["clickId"]
    assert envelope["data"]["sale"] == {
        "amount": 1000,
        "currency": "usd",
        "paymentProcessor": "custom",
        "invoiceId": "in_1",
    }


class TestThePage:
    async def test_it_is_whole_without_javascript_and_escapes_what_it_shows(
        self, dub: Client
    ) -> None:
        evil = "<script>alert(1)</script>"
        body = lead(await minted(dub), customerExternalId=evil)
        await dub.post("/track/lead", json=body, headers=KEY)

        async with dub.get("/") as answer:
            page = await answer.text()

        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        assert "&lt;script&gt;alert(1)" in page
        assert evil not in page
        assert 'href="/partner-ada"' in page
        for path in ("sandbox.css", "sandbox.js"):
            async with dub.get(f"/sandbox/static/{path}") as asset:
                assert asset.status == 200

    async def test_its_buttons_work_as_forms_and_lead_back(self, dub: Client) -> None:
        form = {"fault": '{"status": 503, "count": 3}'}

        async with dub.post(
            "/sandbox/faults?from-page", data=form, allow_redirects=False
        ) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/")
        async with dub.get("/") as answer:
            assert "status: 503" in await answer.text()

    async def test_a_change_is_sent_to_it_at_once(self, dub: Client) -> None:
        async with dub.get("/sandbox/events") as events:
            assert "No lead yet" in await _next_event(events)
            body = lead(await minted(dub), customerExternalId="u_live")
            await dub.post("/track/lead", json=body, headers=KEY)

            async with asyncio.timeout(5):
                while "u_live" not in await _next_event(events):
                    pass


async def _next_event(events: aiohttp.ClientResponse) -> str:
    return (await events.content.readuntil(b"\n\n")).decode()
