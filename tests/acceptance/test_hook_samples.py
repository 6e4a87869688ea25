"""The samples of docs/hooks.md, run where they can be: Node, PostgreSQL, Chromium."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from playwright.async_api import Page
from pytest_aiohttp import AiohttpServer

from relay.core.providers import PROVIDERS
from tests.support.harness import RelayProcess, SandboxDub
from tests.support.postgres_server import PostgresServer
from tests.support.provider_rig import WHSEC

TEXT = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text("utf-8")
FENCES = re.findall(r"(?:<!-- file: (\S+) -->\n)?```(\w+)\n(.*?)```", TEXT, re.DOTALL)
FILES = {name: code for name, _, code in FENCES if name}
SCRIPTS = [(name, code) for name, kind, code in FENCES if kind == "js"]

CLICK = "hQWlM2kPzX9aBcDe"
USER = {
    "user_id": "auth0|u_1",
    "uid": "u_1",
    "name": "Ada Lovelace",
    "displayName": "Ada Lovelace",
    "email": "ada@example.com",
    "created_at": "2026-01-01T00:00:00.000Z",
    "user_metadata": {"dubTicket": CLICK},
    "password_hash": "CANARY",
}


def node() -> str:
    """Node, else the test is skipped."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("NO NODE HERE: the scripts of docs/hooks.md were not run")
    return found


async def run(*command: str, stdin: str = "") -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(stdin.encode()), 60)
    assert process.returncode == 0, out.decode()
    return out.decode()


@pytest.fixture
async def relay(dub: SandboxDub, tmp_path: Path) -> AsyncIterator[RelayProcess]:
    secrets = {
        f"RELAY_HOOKS_{name}_SECRET": WHSEC
        for name in ("AUTH0", "FIREBASE", "SUPABASE")
    }
    process = RelayProcess(tmp_path, {"DUB_API_URL": dub.url, **secrets})
    await process.start()
    yield process
    assert await process.stop() == 0


def test_every_provider_has_a_section_and_a_row() -> None:
    for row in PROVIDERS:
        assert f"\n## {row.title}\n" in TEXT
        cells = f"[{row.title}](#{row.name}) | `hooks/{row.name}` | `{row.env}`"
        assert f"| {cells} |" in TEXT


@pytest.mark.parametrize(
    ("name", "code"), SCRIPTS, ids=[name or code[:30] for name, code in SCRIPTS]
)
async def test_every_script_is_javascript(name: str, code: str, tmp_path: Path) -> None:
    file = tmp_path / (name or "lines.mjs")
    file.write_text(code)

    await run(node(), "--check", str(file))


AUTH0 = """
const action = require("./auth0-action.js");
const [trigger, event] = JSON.parse(process.argv[1]);
action[trigger](event);
"""


async def act(relay: RelayProcess, trigger: str, event: dict[str, Any]) -> str:
    (relay.folder / "auth0-action.js").write_text(FILES["auth0-action.js"])
    url = f"{relay.url}/_dub/hooks/auth0"
    event |= {"secrets": {"RELAY_URL": url, "RELAY_SECRET": WHSEC}}
    start = f"process.chdir({json.dumps(str(relay.folder))});"
    script = AUTH0.replace("./", f"{relay.folder}/")
    return await run(node(), "-e", start + script, json.dumps([trigger, event]))


async def test_auth0s_actions_tell_the_relay_of_a_user_once(
    relay: RelayProcess, dub: SandboxDub
) -> None:
    user = USER | {"user_metadata": {"dubTicket": await dub.click()}}
    registered = await act(relay, "onExecutePostUserRegistration", {"user": user})
    login = {"user": user, "request": {"query": {}}, "stats": {"logins_count": 1}}
    first = await act(relay, "onExecutePostLogin", login)
    later = login | {"stats": {"logins_count": 2}}
    second = await act(relay, "onExecutePostLogin", later)

    assert "dub-relay: 202" in registered
    assert "dub-relay: 200" in first
    assert second == ""
    [lead] = await relay.settled(1)
    assert (lead["status"], lead["source"]) == ("delivered", "auth0")
    assert lead["customerExternalId"] == "auth0|u_1"


async def test_auth0s_login_carries_a_click_in_its_query(
    relay: RelayProcess, dub: SandboxDub
) -> None:
    user = {**USER, "user_metadata": {}}
    query = {"dubTicket": await dub.click()}
    login = {"user": user, "request": {"query": query}, "stats": {"logins_count": 1}}

    assert "dub-relay: 202" in await act(relay, "onExecutePostLogin", login)

    assert len(await relay.leads()) == 1


FIREBASE = """
const { report } = require("FOLDER/dub-relay.js");
const [url, secret, user, ticket] = JSON.parse(process.argv[1]);
report(url, secret, user, ticket, `msg_${user.uid}`);
"""


async def told_by_firebase(relay: RelayProcess, url: str, ticket: str) -> str:
    (relay.folder / "dub-relay.js").write_text(FILES["dub-relay.js"])
    script = FIREBASE.replace("FOLDER", str(relay.folder))
    return await run(node(), "-e", script, json.dumps([url, WHSEC, USER, ticket]))


async def test_firebases_function_tells_the_relay(
    relay: RelayProcess, dub: SandboxDub
) -> None:
    url = f"{relay.url}/_dub/hooks/firebase"
    click = await dub.click()

    assert "dub-relay: 202" in await told_by_firebase(relay, url, click)
    assert "dub-relay: 200" in await told_by_firebase(relay, url, click)

    [lead] = await relay.settled(1)
    assert (lead["status"], lead["source"]) == ("delivered", "firebase")
    assert lead["clickId"] == click


async def test_the_scripts_end_well_while_the_relay_is_away(
    relay: RelayProcess,
) -> None:
    nowhere = "http://127.0.0.1:9/_dub/hooks/auth0"
    assert "TypeError" in await told_by_firebase(relay, nowhere, CLICK)

    await relay.stop()

    event = {"user": USER}
    assert "TypeError" in await act(relay, "onExecutePostUserRegistration", event)
    await relay.start()


# What of Supabase's database the trigger uses. pg_net is not in Debian: its place
# is taken by a table, from which the test sends.
SUPABASE = """
create schema auth; create schema vault; create schema net; create schema extensions;
create table auth.users (id uuid primary key, email text,
    raw_app_meta_data jsonb, raw_user_meta_data jsonb, is_anonymous boolean);
create table vault.decrypted_secrets (name text, decrypted_secret text);
insert into vault.decrypted_secrets values ('dub_relay', 'WHSEC');
create table net.sent (url text, body text, headers jsonb);
create function net.http_post(url text, body jsonb, headers jsonb) returns bigint
language sql as $$
    insert into net.sent values (url, body::text, headers) returning 1::bigint $$;
"""
INSERT = """
insert into auth.users values ('8b34dcdd-9df1-4c10-850a-b3277c653040',
    'ada@example.com', '{"provider": "google"}', '{"dubTicket": "CLICK"}', false);
"""


async def test_supabases_trigger_signs_and_never_stops_a_sign_up(
    relay: RelayProcess,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
    postgres: PostgresServer,
) -> None:
    click = await dub.click()
    postgres.sql(SUPABASE.replace("WHSEC", WHSEC))
    try:
        sample = FILES["supabase.sql"]
        assert "pg_net;" in sample
        postgres.sql(sample.replace("create extension if not exists pg_net;", ""))
        postgres.sql(INSERT.replace("CLICK", click))
        [sent] = postgres.sql("select row_to_json(sent) from net.sent")
        postgres.sql("delete from auth.users; drop table net.sent")
        postgres.sql(INSERT.replace("CLICK", click))
        assert postgres.sql("select count(*) from auth.users") == ["1"]
    finally:
        for schema in ("auth", "vault", "net", "extensions"):
            postgres.sql(f"drop schema if exists {schema} cascade")
        postgres.sql("drop function if exists public.tell_dub_relay")

    call = json.loads(sent)
    assert call["url"].endswith("/_dub/hooks/supabase")
    async with session.post(
        f"{relay.url}/_dub/hooks/supabase",
        data=call["body"].encode(),
        headers=call["headers"],
    ) as answer:
        assert answer.status == 202, await answer.text()
    [lead] = await relay.settled(1)
    assert (lead["status"], lead["source"]) == ("delivered", "supabase")


@pytest.mark.browser
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_page_gets_its_ticket_in_a_real_browser(
    aiohttp_server: AiohttpServer, page: Page, tmp_path: Path, method: str
) -> None:
    async def home(_: web.Request) -> web.StreamResponse:
        return web.Response(text="<title>Shop</title>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", home)
    server = await aiohttp_server(app, access_log=None)
    site = f"http://127.0.0.1:{server.port}"
    relay = await RelayProcess(tmp_path, {"RELAY_UPSTREAM": site}).start()
    code = FILES["ticket.mjs"].replace("export ", "").replace('"POST"', f'"{method}"')
    script = f"(async () => {{ {code}; return dubTicket(); }})()"
    try:
        await page.goto(f"{relay.url}/")
        without = await page.evaluate(script)
        await page.goto(f"{relay.url}/?dub_id={CLICK}")
        ticket = await page.evaluate(script)
        # Another origin: the same page by its other name.
        other = relay.url.replace("127.0.0.1", "other.test")
        await page.goto(f"{other}/?dub_id={CLICK}")
        stolen = await page.evaluate(
            f"fetch('{relay.url}/_dub/ticket', {{method: '{method}'}})"
            ".then((answer) => answer.text(), (error) => error.name)"
        )
    finally:
        await relay.stop()

    assert without is None
    assert ticket.count(".") == 2
    assert stolen == "TypeError"
