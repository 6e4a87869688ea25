"""From a sign-up that no rule knows to its rule, as a person goes."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from tests.support.harness import RelayProcess

pytestmark = pytest.mark.process

CLICK = "hQWlM2kPzX9aBcDe"
BODY = {"email": "ada@example.com", "password": "hidden", "name": "Ada"}
PASSWORD = "correct horse battery staple"


@pytest.fixture
async def site(aiohttp_server: AiohttpServer) -> str:
    async def register(request: web.Request) -> web.Response:
        given = await request.json()
        if given["email"] == "taken@example.com":
            return web.json_response({"error": "taken"})
        return web.json_response({"user": {"id": "u_1"}}, status=201)

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<form>", content_type="text/html")

    app = web.Application()
    app.router.add_post("/api/register", register)
    app.router.add_post("/join", page)
    server = await aiohttp_server(app, access_log=None)
    return f"http://127.0.0.1:{server.port}"


async def posted(relay: RelayProcess, path: str, **body: Any) -> int:
    headers = {"Cookie": f"dub_id={CLICK}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{relay.url}{path}", **body) as answer,
    ):
        return answer.status


async def test_a_sign_up_that_no_rule_knows_leads_to_its_rule(
    site: str, tmp_path: Path
) -> None:
    settings = {"RELAY_UPSTREAM": site, "RELAY_ADMIN_PASSWORD": PASSWORD}
    relay = RelayProcess(tmp_path, settings)
    await relay.start()
    await posted(relay, "/api/register", json=BODY)
    await posted(relay, "/API/Register", json=BODY)
    await relay.stop()

    code, out, _ = await relay.run("rules", "candidates", "--json")
    (one,) = map(json.loads, out.splitlines())
    code, shown, _ = await relay.run("rules", "candidates")
    suggested = (await relay.run("rules", "suggest"))[1]

    assert code == 0
    assert (one["method"], one["path"], one["times"]) == ("POST", "/api/register", 1)
    assert one["fields"] == ["json.email", "json.password", "json.name"]
    assert (one["contentTypes"], one["statuses"]) == (["application/json"], [201])
    assert "POST /api/register" in shown
    assert "hidden" not in out + shown + suggested
    assert tomllib.loads(suggested)["signup"] == [
        {
            "path": "/api/register",
            "customer_external_id": "response.json.user.id",
            "customer_email": "json.email",
            "customer_name": "json.name",
        }
    ]

    ruled = RelayProcess(tmp_path, settings, config=suggested)
    await ruled.start()
    await posted(ruled, "/api/register", json={**BODY, "email": "taken@example.com"})
    await posted(ruled, "/api/register", json=BODY)
    (lead,) = await ruled.leads()
    assert lead["customerExternalId"] == "u_1"
    assert (await ruled.run("rules", "candidates", "--json"))[1] == ""
    await ruled.stop()


async def test_what_a_rule_leaves_open_is_listed(site: str, tmp_path: Path) -> None:
    rule = '[[signup]]\npath = "/join"\ncustomer_external_id = "form.email"\n'
    relay = RelayProcess(tmp_path, {"RELAY_UPSTREAM": site}, config=rule)
    await relay.start()
    await posted(relay, "/join", data={"email": "ada@example.com"})
    await posted(relay, "/join", data={"email": "ada@example.com"})
    await relay.stop()

    _, out, _ = await relay.run("rules", "list", "--json")
    _, shown, _ = await relay.run("rules", "list")

    (one,) = map(json.loads, out.splitlines())
    (undecided,) = one["undecided"]
    assert (one["rule"], one["default"], undecided["times"]) == ("POST /join", True, 2)
    assert undecided["when"].startswith("response.status")
    assert "request alone" in one["warnings"][0]
    assert 'would decide: when = "response.status' in shown


async def test_without_candidates_it_says_what_to_do(tmp_path: Path) -> None:
    relay = RelayProcess(tmp_path)
    await relay.start()
    await relay.stop()

    code, out, _ = await relay.run("rules", "candidates")
    assert (code, "?dub_id=" in out) == (0, True)
    code, _, err = await relay.run("rules", "suggest")
    assert (code, "No candidate" in err) == (1, True)
