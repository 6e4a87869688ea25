"""What `check` says about a database, a site, Dub, the key, cookies and clocks."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from relay.config.settings import (
    Settings,
    load,
)
from relay.operations.diagnostics import (
    CheckResult,
    Finding,
    run_checks,
)
from relay.outbox.backends import open_outbox
from relay.outbox.contract import Circuit
from tests.support.pages_rig import on_socket

NEEDED = {"DUB_API_KEY": "dub_key", "RELAY_SECRET": "a-secret-of-16-or-more"}
NOWHERE = "http://127.0.0.1:9"
"""The discard port: nothing listens there."""

GOOD = (422, "unprocessable_entity", "invalid_type: eventName: Invalid input")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serving = Callable[[Handler], Awaitable[str]]


@pytest.fixture
def serving(aiohttp_server: AiohttpServer) -> Serving:
    """What makes a server that answers everything with one handler; its address."""

    async def serve(handler: Handler) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        server = await aiohttp_server(app)
        return f"http://127.0.0.1:{server.port}"

    return serve


def dub(status: int, code: str, message: str, **headers: str) -> Handler:
    """A Dub that gives one error to everybody."""

    async def answer(_: web.Request) -> web.StreamResponse:
        error = {"code": code, "message": message, "doc_url": ""}
        return web.json_response({"error": error}, status=status, headers=headers)

    return answer


def page(status: int, text: str = "hello") -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=text)

    return answer


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, content: bytes) -> None:
    Path(name).write_bytes(content)


def is_there(name: str) -> bool:
    return Path(name).exists()


def settings(**environ: str) -> Settings:
    return load(None, NEEDED | {"DUB_API_URL": NOWHERE} | environ)


async def checked(**environ: str) -> dict[str, Finding]:
    """All findings, by name."""
    made = settings(**environ)
    findings = await run_checks(made, open_outbox(made.database))
    return {finding.name: finding for finding in findings}


def results(findings: dict[str, Finding]) -> dict[str, str]:
    return {name: finding.result.value for name, finding in findings.items()}


async def migrate() -> None:
    outbox = open_outbox("sqlite:///relay.db")
    await outbox.open()
    await outbox.close()


def listing(tracked: Handler, events: Handler) -> Handler:
    """A Dub whose list of events is answered apart."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await (events if request.path == "/events" else tracked)(request)

    return answer


async def no_events(_: web.Request) -> web.StreamResponse:
    return web.json_response([])


async def test_when_all_is_well_every_line_is_ok(serving: Serving) -> None:
    await migrate()
    api = await serving(listing(dub(*GOOD), no_events))
    site = await serving(page(200))
    findings = await checked(DUB_API_URL=api, RELAY_UPSTREAM=site)

    assert results(findings) == {
        "settings": "ok",
        "database": "ok",
        "upstream": "ok",
        "dub": "ok",
        "key": "ok",
        "proof": "ok",
        "clock": "ok",
        "cookie": "ok",
        "hooks": "ok",
        "snippet": "ok",
        "rules": "note",
    }


async def test_dub_that_is_not_there_is_said_clearly_and_all_else_is_checked() -> None:
    await migrate()

    findings = await checked()

    assert findings["dub"].result is CheckResult.FAIL
    assert f"{NOWHERE} is not reachable" in findings["dub"].detail
    assert results(findings) | {"dub": "FAIL"} == {
        "settings": "ok",
        "database": "ok",
        "upstream": "note",
        "dub": "FAIL",
        "key": "note",
        "proof": "note",
        "clock": "note",
        "cookie": "ok",
        "hooks": "ok",
        "snippet": "ok",
    }


@pytest.mark.parametrize(
    ("answer", "reached", "key"),
    [
        (dub(*GOOD), "ok", "ok"),
        (dub(400, "bad_request", "customerExternalId is required"), "ok", "ok"),
        (dub(401, "unauthorized", "Unauthorized: Invalid API key."), "ok", "FAIL"),
        (dub(403, "forbidden", "Unauthorized: Need higher plan."), "ok", "FAIL"),
        (dub(404, "not_found", "Workspace ID not found. Did"), "ok", "FAIL"),
        (dub(409, "invite_pending", "Invite pending."), "ok", "FAIL"),
        (dub(429, "rate_limit_exceeded", "Too many requests."), "ok", "note"),
        (dub(500, "internal_server_error", "An internal"), "FAIL", "note"),
        (page(404, "<h1>nginx</h1>"), "FAIL", "note"),
        (page(200, "<h1>nginx</h1>"), "FAIL", "note"),
        (page(422, "no"), "FAIL", "note"),
    ],
)
async def test_what_dub_answers_tells_whether_the_key_works(
    serving: Serving, answer: Handler, reached: str, key: str
) -> None:
    api = await serving(answer)
    findings = await checked(DUB_API_URL=api)

    assert (findings["dub"].result, findings["key"].result) == (reached, key)


async def test_dub_is_asked_once_with_nothing_that_it_could_record(
    serving: Serving,
) -> None:
    asked: list[tuple[str, str, bytes, str | None]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        signed = request.headers.get("Relay-Signature")
        asked.append((request.method, request.path, await request.read(), signed))
        return await dub(*GOOD)(request)

    api = await serving(answer)
    await checked(DUB_API_URL=api)

    methods = [(method, path, body) for method, path, body, _ in sorted(asked)]
    assert methods == [("GET", "/events", b""), ("POST", "/track/lead", b"{}")]
    assert all(signed for *_, signed in asked)


async def test_a_key_that_may_not_read_events_is_noted_with_dubs_reason(
    serving: Serving,
) -> None:
    denied = dub(403, "forbidden", "Having the 'analytics.read' permission would allow")
    api = await serving(listing(dub(*GOOD), denied))

    found = (await checked(DUB_API_URL=api))["proof"]

    assert found.result is CheckResult.NOTE
    assert "'analytics.read'" in found.detail


async def test_events_are_not_asked_for_where_reconciliation_is_off(
    serving: Serving,
) -> None:
    api = await serving(listing(dub(*GOOD), no_events))
    found = (await checked(DUB_API_URL=api, RELAY_RECONCILE_EVERY="0s"))["proof"]
    assert (found.result, "off" in found.detail) == (CheckResult.NOTE, True)


@pytest.mark.parametrize(
    ("off", "result"), [(0, "ok"), (30, "ok"), (120, "FAIL"), (-120, "FAIL")]
)
async def test_a_clock_over_a_minute_off_fails(
    serving: Serving, off: int, result: str
) -> None:
    date = formatdate(time.time() + off, usegmt=True)

    api = await serving(dub(*GOOD, Date=date))
    findings = await checked(DUB_API_URL=api)

    assert findings["clock"].result == result


async def test_a_date_that_is_none_leaves_the_clock_unknown(serving: Serving) -> None:
    api = await serving(dub(*GOOD, Date="soon"))
    findings = await checked(DUB_API_URL=api)

    assert findings["clock"].result is CheckResult.NOTE


async def test_a_site_that_is_down_fails_and_one_in_trouble_is_noted(
    serving: Serving,
) -> None:
    down = await checked(RELAY_UPSTREAM=NOWHERE)
    site = await serving(page(503))
    troubled = await checked(RELAY_UPSTREAM=site)

    assert down["upstream"] == Finding(
        "upstream", CheckResult.FAIL, "not reachable (Connection refused)"
    )
    assert troubled["upstream"].result is CheckResult.NOTE


async def test_a_site_on_a_unix_socket_is_reached(tmp_path: Path) -> None:
    app = web.Application()
    app.router.add_get("/", page(200))
    async with on_socket(str(tmp_path / "s"), app):
        findings = await checked(RELAY_UPSTREAM=f"unix:{tmp_path}/s")

    assert findings["upstream"].result is CheckResult.OK


async def test_a_database_that_is_not_there_yet_is_noted_and_not_made() -> None:
    findings = await checked()

    assert findings["database"].result is CheckResult.NOTE
    assert not is_there("relay.db")


async def test_a_database_in_a_folder_that_is_not_there_fails() -> None:
    findings = await checked(RELAY_DATABASE="sqlite:///gone/relay.db")

    assert findings["database"].result is CheckResult.FAIL
    assert "gone" in findings["database"].detail


async def test_a_file_that_is_no_database_fails() -> None:
    write("relay.db", b"not a database, but long enough" * 100)

    findings = await checked()

    assert findings["database"].result is CheckResult.FAIL


async def test_a_stopped_delivery_is_noted_with_its_reason() -> None:
    outbox = open_outbox("sqlite:///relay.db")
    await outbox.open()
    await outbox.set_circuit(Circuit(open=True, reason="The API key has expired"))
    await outbox.close()

    findings = await checked()

    assert findings["database"].result is CheckResult.NOTE
    assert "The API key has expired" in findings["database"].detail


@pytest.mark.parametrize(
    ("domain", "result"),
    [
        ("", "ok"),
        (".example.com", "ok"),
        ("localhost", "FAIL"),
        ("com", "FAIL"),
        (".co.uk", "FAIL"),
        ("github.io", "FAIL"),
        (".shop.github.io", "ok"),
        ("vercel.app", "FAIL"),
        ("gov.uk", "FAIL"),
        ("www.gov.uk", "ok"),
        (".service.gov.uk", "FAIL"),  # each service below it is another's
        (".x.service.gov.uk", "ok"),
        ("www.ck", "ok"),
        ("a.ck", "FAIL"),
        ("127.0.0.1", "FAIL"),
    ],
)
async def test_a_cookie_domain_that_browsers_refuse_fails(
    domain: str, result: str
) -> None:
    findings = await checked(RELAY_COOKIE_DOMAIN=domain)

    assert findings["cookie"].result == result


# The command


async def check(*arguments: str, **environ: str) -> tuple[int, str, str]:
    """Run the command in a process of its own; exit code, out, err."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RELAY_", "DUB_"))
    }
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "relay", "check", *arguments],
        env=clean | NEEDED | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.process
async def test_the_report_has_a_line_a_check_and_ends_with_0(serving: Serving) -> None:
    write("relay.toml", b"[delivery]\nrate = 60\n")
    api = await serving(dub(*GOOD))
    code, out, err = await check(DUB_API_URL=api)

    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == "ok    settings  valid, from relay.toml and the environment"
    assert "      delivery.rate = 60  (relay.toml)" in lines
    assert "      dub.api_key = ********  (environment, DUB_API_KEY)" in lines
    assert "ok    key       accepted" in lines
    assert "note  upstream  not set: no reverse proxy" in lines


@pytest.mark.process
async def test_a_failed_check_ends_with_1_and_the_others_are_there() -> None:
    code, out, err = await check(DUB_API_URL=NOWHERE)

    assert (code, err) == (1, "")
    assert "\nFAIL  dub       http://127.0.0.1:9 is not reachable" in out
    assert "\nok    cookie    " in out


@pytest.mark.process
async def test_the_report_as_json() -> None:
    code, out, _ = await check("--json", DUB_API_URL=NOWHERE)

    report: dict[str, Any] = json.loads(out)
    assert code == 1
    assert report["ok"] is False
    assert {row["name"]: row["result"] for row in report["checks"]}["dub"] == "fail"
    assert {
        "name": "dub.api_key",
        "value": "********",
        "origin": "environment, DUB_API_KEY",
    } in report["settings"]
