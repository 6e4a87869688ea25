"""The dashboard, as a browser without scripts sees it: a real relay, real requests."""

from __future__ import annotations

import asyncio
import html
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from argon2 import PasswordHasher
from pytest_aiohttp import AiohttpServer

from tests.support.harness import RelayProcess, post_hook

PASSWORD = "correct horse"


SIGN_UP = {
    "clickId": "hQWlM0a9Zk3xY7bT",
    "eventName": "Sign Up",
    "customerExternalId": "u_1",
}


class Person:
    """Somebody at a browser: keeps cookies, follows nothing by itself."""

    def __init__(self, relay: RelayProcess, session: aiohttp.ClientSession) -> None:
        self.session = session
        self.base = f"{relay.url}/_dub/dashboard"

    async def get(
        self, path: str = "/", headers: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        async with self.session.get(
            self.base + path, allow_redirects=False, headers=headers
        ) as answer:
            return answer.status, await answer.text()

    async def post(
        self, path: str, headers: Mapping[str, str] | None = None, **form: str
    ) -> tuple[int, str]:
        async with self.session.post(
            self.base + path, data=form, allow_redirects=False, headers=headers
        ) as answer:
            return answer.status, await answer.text()

    async def sign_in(self, password: str = PASSWORD) -> int:
        status, _ = await self.post("/sign-in", password=password)
        return status

    async def token(self, path: str = "/") -> str:
        _, page = await self.get(path)
        found = re.search(r'name="csrf" value="([^"]+)"', page)
        assert found, page
        return found[1]

    async def shows(self, path: str, text: str) -> bool:
        return text in (await self.get(path))[1]

    async def act(self, do: str, subject: str = "") -> str:
        """Ask, confirm, and give the page that says how it ended."""
        token = await self.token()
        status, page = await self.post("/act", csrf=token, do=do, subject=subject)
        assert status == 200, page
        assert "sure" in page
        status, page = await self.post(
            "/act", csrf=token, do=do, subject=subject, sure="1"
        )
        assert status == 200, page
        return page


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[RelayProcess]:
    relay = RelayProcess(tmp_path, {"RELAY_ADMIN_PASSWORD": PASSWORD})
    await relay.start()
    yield relay
    await relay.stop()


@pytest.fixture
async def person(relay: RelayProcess) -> AsyncIterator[Person]:
    # Cookies of an IP address, as 127.0.0.1 is.
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        yield Person(relay, session)


@pytest.fixture
async def admin(person: Person) -> Person:
    assert await person.sign_in() == 303
    return person


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 20
    while not await true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def test_without_a_password_there_is_no_dashboard(tmp_path: Path) -> None:
    relay = await RelayProcess(tmp_path).start()
    try:
        async with aiohttp.ClientSession() as session:
            status, page = await Person(relay, session).get()
    finally:
        await relay.stop()
    assert status == 404
    assert "not_found" in page


async def test_nobody_sees_anything_unsigned(person: Person) -> None:
    for path in (
        "/",
        "/leads",
        "/leads/lead_x",
        "/audit",
        "/health",
        "/reconciliation",
        "/live",
    ):
        status, page = await person.get(path)
        assert status == 401, path
        assert "Password" in page
    assert (await person.post("/act", do="pause", sure="1"))[0] == 403


async def test_a_wrong_password_is_refused_and_many_are_slowed(person: Person) -> None:
    statuses = [await person.sign_in(f"guess {n}") for n in range(12)]

    assert statuses[:10] == [403] * 10
    assert statuses[10:] == [429] * 2
    assert await person.sign_in() == 429


async def test_a_hash_of_the_password_is_taken(tmp_path: Path) -> None:
    hashed = PasswordHasher().hash(PASSWORD)
    relay = await RelayProcess(tmp_path, {"RELAY_ADMIN_PASSWORD": hashed}).start()
    try:
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as session:
            person = Person(relay, session)
            assert await person.sign_in("wrong") == 403
            assert await person.sign_in(hashed) == 403
            assert await person.sign_in() == 303
            assert (await person.get())[0] == 200
    finally:
        await relay.stop()


async def test_another_password_ends_every_session(
    relay: RelayProcess, admin: Person
) -> None:
    assert (await admin.get())[0] == 200
    await relay.stop()
    relay.environment["RELAY_ADMIN_PASSWORD"] = "another one"
    await relay.start()
    admin.base = f"{relay.url}/_dub/dashboard"

    assert (await admin.get())[0] == 401


async def test_only_a_page_of_its_own_signs_somebody_out(admin: Person) -> None:
    cross = {"Sec-Fetch-Site": "cross-site"}
    assert (await admin.post("/sign-out", headers=cross))[0] == 403
    assert (await admin.get())[0] == 200


async def test_signing_out_ends_the_session(admin: Person) -> None:
    assert (await admin.post("/sign-out"))[0] == 303
    assert (await admin.get())[0] == 401


async def test_a_form_of_another_site_does_nothing(
    relay: RelayProcess, admin: Person
) -> None:
    token = await admin.token()
    assert (await admin.post("/act", do="pause", sure="1"))[0] == 403
    assert (await admin.post("/act", csrf="made up", do="pause", sure="1"))[0] == 403
    cross = {"Sec-Fetch-Site": "cross-site"}
    assert (await admin.post("/act", headers=cross, csrf=token, do="pause", sure="1"))[
        0
    ] == 403
    code, out, _ = await relay.run("leads", "list", "--json")
    assert (code, out) == (0, "")
    assert "Pause delivery" in (await admin.get())[1]


async def test_the_way_back_after_signing_in_stays_here(person: Person) -> None:
    async with person.session.post(
        f"{person.base}/sign-in",
        data={"password": PASSWORD, "back": "https://evil.test/"},
        allow_redirects=False,
    ) as answer:
        assert answer.headers["Location"] == "/_dub/dashboard/"


async def test_no_page_may_be_kept_or_run_foreign_code(admin: Person) -> None:
    async with admin.session.get(f"{admin.base}/leads") as answer:
        assert answer.headers["Cache-Control"] == "no-store"
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        page = await answer.text()
    assert "<script>" not in page
    assert 'style="' not in page


async def test_the_story_masks_the_person_until_asked_and_notes_it(
    relay: RelayProcess, admin: Person
) -> None:
    named = {"customerName": "Grace Hopper", "customerEmail": "grace@navy.example"}
    _, answer = await post_hook(admin.session, relay.url, SIGN_UP | named)
    path = f"/leads/{answer['id']}"

    _, page = await admin.get(path)
    assert "G•••" in page
    assert "g•••@navy.example" in page
    assert "Hopper" not in page

    _, page = await admin.post(path, csrf=await admin.token(path))
    assert "Grace Hopper" in page
    assert "grace@navy.example" in page
    _, log = await admin.get("/audit")
    assert "reveal" in log
    assert answer["id"] in log
    assert "Hopper" not in log


async def test_a_pause_holds_leads_back_until_it_ends(
    relay: RelayProcess, admin: Person
) -> None:
    assert "Paused." in await admin.act("pause")
    _, answer = await post_hook(admin.session, relay.url, SIGN_UP)

    _, page = await admin.get(f"/leads/{answer['id']}")
    assert "paused by a person" in page
    assert "No call" not in page
    _, overview = await admin.get()
    assert "Delivery is paused" in overview

    assert "Resumed." in await admin.act("resume")
    await until(lambda: admin.shows(f"/leads/{answer['id']}", "Call to Dub"))
    _, log = await admin.get("/audit")
    assert log.index("resume") < log.index("pause<")


async def test_a_customer_is_forgotten_and_the_audit_log_keeps_no_name(
    relay: RelayProcess, admin: Person
) -> None:
    assert "Paused." in await admin.act("pause")
    named = {"customerExternalId": "grace@navy.example", "customerName": "Grace"}
    _, answer = await post_hook(admin.session, relay.url, SIGN_UP | named)

    assert "1 erased." in await admin.act("forget", "grace@navy.example")

    _, page = await admin.get(f"/leads/{answer['id']}")
    assert "erased" in page
    assert "grace" not in page.lower()
    _, log = await admin.get("/audit")
    assert "forget" in log
    assert "grace" not in log.lower()


async def test_a_search_that_finds_nothing_says_what_to_do(admin: Person) -> None:
    _, page = await admin.get("/leads?customer=nobody")
    assert "No lead fits" in page
    _, page = await admin.get("/leads")
    assert "No lead yet" in page
    assert (await admin.get("/leads?status=lost"))[0] == 400
    assert (await admin.get("/leads/lead_of_nobody"))[0] == 404


async def test_the_rule_tester_says_what_is_wrong_with_what_was_pasted(
    admin: Person,
) -> None:
    token = await admin.token("/rules")
    _, page = await admin.post("/rules", csrf=token, exchange="{nonsense")
    assert "is not JSON" in page
    exchange = '{"request": {"target": "/x"}, "response": {"status": 200}}'
    _, page = await admin.post("/rules", csrf=token, exchange=exchange)
    assert "no rule matches POST /x" in page


async def test_a_candidate_becomes_a_rule_by_one_click(
    aiohttp_server: AiohttpServer, tmp_path: Path
) -> None:
    async def register(_: web.Request) -> web.Response:
        return web.json_response({"user": {"id": "u_1"}}, status=201)

    app = web.Application()
    app.router.add_post("/api/register", register)
    site = await aiohttp_server(app, access_log=None)
    settings = {
        "RELAY_ADMIN_PASSWORD": PASSWORD,
        "RELAY_UPSTREAM": f"http://127.0.0.1:{site.port}",
    }
    rule = '[[signup]]\npath = "/old"\ncustomer_external_id = "form.email"\n'
    relay = await RelayProcess(tmp_path, settings, config=rule).start()
    try:
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as session:
            admin = Person(relay, session)
            await admin.sign_in()
            cookie = {"Cookie": f"dub_id={SIGN_UP['clickId']}"}
            url = f"{relay.url}/api/register"
            async with session.post(
                url, json={"email": "hid@den.test"}, headers=cookie
            ):
                await until(lambda: admin.shows("/rules", "POST /api/register"))
            _, page = await admin.get("/rules")
            link = re.search(r'href="[^"]*/rules(\?suggest=[^"#]*)', page)
            assert link
            _, made = await admin.get(f"/rules{html.unescape(link[1])}")
    finally:
        await relay.stop()

    assert "json.email" in page
    assert "by the default test" in page
    assert "request alone" in page
    assert "hid@den.test" not in page + made
    assert "customer_external_id = &#34;response.json.user.id&#34;" in made


async def test_health_shows_the_checks_and_no_secret(admin: Person) -> None:
    status, page = await admin.get("/health")
    assert status == 200
    assert "migrated and writable" in page
    assert PASSWORD not in page


async def test_the_dashboard_may_have_an_address_of_its_own(tmp_path: Path) -> None:
    relay = RelayProcess(
        tmp_path,
        {"RELAY_ADMIN_PASSWORD": PASSWORD, "RELAY_ADMIN_LISTEN": "127.0.0.1:0"},
    )
    await relay.start()
    try:
        own = [e for e in relay.events if e["event"] == "dashboard.listening"]
        async with aiohttp.ClientSession() as session:
            async with session.get(own[0]["url"]) as answer:
                assert answer.status == 401
            async with session.get(f"{relay.url}/_dub/dashboard/") as answer:
                assert answer.status == 404
    finally:
        await relay.stop()


async def test_a_named_proxy_may_say_who_somebody_is(tmp_path: Path) -> None:
    settings = {
        "RELAY_ADMIN_IDENTITY_HEADER": "X-Forwarded-User",
        "RELAY_ADMIN_IDENTITY_PROXIES": "127.0.0.1/32",
    }
    relay = await RelayProcess(tmp_path, settings).start()
    try:
        async with aiohttp.ClientSession() as session:
            person = Person(relay, session)
            who = {"X-Forwarded-User": "ada"}
            status, page = await person.get(headers=who)
            assert (status, "ada" in page) == (200, True)
            assert (await person.get())[0] == 403
    finally:
        await relay.stop()


async def test_an_identity_header_of_anybody_else_is_nobodys(tmp_path: Path) -> None:
    settings = {
        "RELAY_ADMIN_IDENTITY_HEADER": "X-Forwarded-User",
        "RELAY_ADMIN_IDENTITY_PROXIES": "10.9.9.9/32",
    }
    relay = await RelayProcess(tmp_path, settings).start()
    try:
        async with aiohttp.ClientSession() as session:
            who = {"X-Forwarded-User": "ada"}
            assert (await Person(relay, session).get(headers=who))[0] == 403
    finally:
        await relay.stop()
