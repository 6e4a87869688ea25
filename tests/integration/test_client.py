"""`relay.client` with a real relay: what it answers, and what it does in trouble."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from relay.client import AsyncClient, Client, Result, Signup, Status
from relay.client.calls import message_of
from relay.client.spool import Spool
from tests.support.example_sites import line
from tests.support.harness import HOOK_SECRET, RelayProcess, SandboxDub
from tests.support.servers import free_port

CLICK = "hQWlM0a9Zk3xY7bT"
OTHER_SECRET = "whsec_b3RoZXJvdGhlcm90aGVyb3RoZXJvdGhlcg=="
EMAIL = "ada.lovelace@example.com"

Call = Callable[..., Any]


def visit(cookie: str = f"a=1; dub_id={CLICK}") -> dict[str, Any]:
    """A request, as WSGI's environ."""
    return {"REQUEST_METHOD": "POST", "HTTP_COOKIE": cookie}


def client_of(url: str, folder: Path, secret: str = HOOK_SECRET) -> Client:
    """A client with patience: this machine may be slow, and limits are not asked."""
    return Client(f"{url}/_dub", secret, spool=folder / "spool", limit=10)


def waiting(folder: Path) -> bool:
    return not Spool(folder / "spool").is_empty()


async def sign_up(client: Client, customer: str = "u_1", **fields: Any) -> Result:
    """Sign up without holding the loop."""
    known = Signup(customer_external_id=customer, customer_email=EMAIL)
    return await asyncio.to_thread(
        lambda: client.signup(visit(), **{**known, **fields})
    )


async def flushed(client: Client) -> bool:
    return await asyncio.to_thread(client.flush, 30)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "relay.client")
    return caplog


@pytest.fixture
async def fixed(dub: SandboxDub, tmp_path: Path) -> AsyncIterator[RelayProcess]:
    """A relay that is not started yet, and always listens on the same port."""
    listen = f"127.0.0.1:{free_port()}"
    relay = RelayProcess(tmp_path, {"DUB_API_URL": dub.url, "RELAY_LISTEN": listen})
    relay.url = f"http://{listen}"
    yield relay
    if relay.process is not None:
        assert await relay.stop() == 0


# What happened


async def test_a_result_tells_what_the_relay_did(
    delivering: RelayProcess, tmp_path: Path
) -> None:
    client = client_of(delivering.url, tmp_path)

    first = await sign_up(client)
    again = await sign_up(client)

    assert (first.status, first.safe) == (Status.QUEUED, True)
    assert first.lead_id is not None
    assert first.lead_id.startswith("lead_")
    assert (again.status, again.lead_id) == (Status.DUPLICATE, first.lead_id)
    assert again.webhook_id != first.webhook_id
    assert not waiting(tmp_path)


async def test_all_fields_arrive(delivering: RelayProcess, tmp_path: Path) -> None:
    async with line(delivering.url) as way:
        client = AsyncClient(
            f"{way.url}/_dub", HOOK_SECRET, spool=tmp_path / "spool", limit=10
        )
        await client.signup(
            customer_external_id="u_1",
            event_name="Joined",
            customer_name="Ada",
            customer_email=EMAIL,
            customer_avatar="https://example.com/ada.png",
            click_id=CLICK,
            mode="deferred",
            event_quantity=3,
            metadata={"plan": "pro"},
        )
        [request] = way.carried

    for part in ("u_1", "Joined", "Ada", EMAIL, "ada.png", CLICK, "deferred", "pro"):
        assert part.encode() in request
    assert (await delivering.leads())[0]["eventName"] == "Joined"


async def test_without_a_click_nothing_leaves_the_site(tmp_path: Path) -> None:
    client = client_of("http://127.0.0.1:9", tmp_path)

    result = client.signup(visit("dub_id=test"), customer_external_id="u_1")

    assert (result.status, result.safe) == (Status.UNATTRIBUTED, True)
    assert not waiting(tmp_path)


async def test_an_empty_click_means_the_customers_earlier_one(
    delivering: RelayProcess, tmp_path: Path
) -> None:
    result = await sign_up(client_of(delivering.url, tmp_path), click_id="")

    assert result.status is Status.QUEUED
    assert [lead["clickId"] for lead in await delivering.leads()] == [""]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"customer_external_id": ""}, "customerExternalId"),
        ({"customer_external_id": 7}, "customerExternalId"),
        ({"event_name": "x" * 256}, "eventName"),
        ({"mode": "later"}, "mode"),
        ({"event_quantity": 0}, "eventQuantity"),
        ({"metadata": {"at": object()}}, "metadata"),
        ({"metadata": {"much": "x" * 2_000_000}}, "1 MiB"),
    ],
    ids=[
        *("no customer", "a number", "a long name", "mode", "quantity"),
        *("no JSON", "too much"),
    ],
)
def test_an_integrators_mistake_is_told_and_logged_at_once(
    fields: dict[str, Any],
    reason: str,
    tmp_path: Path,
    logged: pytest.LogCaptureFixture,
) -> None:
    # Nobody listens: a mistake must not hide behind a relay that is down.
    client = client_of("http://127.0.0.1:9", tmp_path)
    whole: Any = {"customer_external_id": "u_1", **fields}

    result = client.signup(visit(), **whole)

    assert (result.status, result.safe) == (Status.REFUSED, False)
    assert reason in result.reason
    assert [record.levelname for record in logged.records] == ["ERROR"]
    assert not waiting(tmp_path)


def test_what_is_no_request_is_told(tmp_path: Path) -> None:
    client = client_of("http://127.0.0.1:9", tmp_path)

    result = client.signup("dub_id=x", customer_external_id="u_1")

    assert result.status is Status.REFUSED
    assert "no request" in result.reason


def test_a_wrong_keyword_is_an_error_as_with_any_function(tmp_path: Path) -> None:
    signup: Call = client_of("http://127.0.0.1:9", tmp_path).signup

    with pytest.raises(TypeError, match="customer_mail"):
        signup(visit(), customer_external_id="u_1", customer_mail=EMAIL)


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("example.com/_dub", HOOK_SECRET),
        ("ftp://example.com", HOOK_SECRET),
        ("http://me:secret@example.com", HOOK_SECRET),
        ("http://example.com:99999", HOOK_SECRET),
        ("http://example.com", "secret-itself"),
        ("http://example.com", ""),
    ],
)
def test_a_client_that_could_never_work_is_not_made(
    url: str, secret: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r".") as failed:
        Client(url, secret, spool=tmp_path / "spool")

    assert "secret-itself" not in str(failed.value)
    assert "me:secret" not in str(failed.value)


# Trouble


@pytest.mark.process
async def test_what_a_dead_relay_missed_is_sent_in_order_once_it_is_back(
    fixed: RelayProcess, tmp_path: Path, dub: SandboxDub
) -> None:
    client = client_of(fixed.url, tmp_path)
    click = await dub.click()
    users = [f"u_{number}" for number in range(5)]

    results = [await sign_up(client, user, click_id=click) for user in users]
    assert {result.status for result in results} == {Status.SPOOLED}
    assert all(result.safe for result in results)
    await fixed.start()
    assert await flushed(client)

    leads = await fixed.settled(5)
    assert [lead["customerExternalId"] for lead in reversed(leads)] == users
    assert len(await dub.state("leads")) == 5
    later = await sign_up(client, "u_later", click_id=click)
    assert later.status is Status.QUEUED


@pytest.mark.process
async def test_a_relay_killed_before_its_answer_arrives_doubles_nothing(
    fixed: RelayProcess, tmp_path: Path, dub: SandboxDub
) -> None:
    # It commits the lead and dies before it delivers anything.
    fixed.arguments = ("--no-delivery",)
    await fixed.start()
    click = await dub.click()
    async with line(fixed.url) as way:
        client = client_of(way.url, tmp_path)
        way.state = "lose"
        result = await sign_up(client, click_id=click)
        assert result.status is Status.SPOOLED
        assert len(way.carried) == 1
        await fixed.stop(signal.SIGKILL)
        fixed.arguments = ()
        await fixed.start()
        way.state = "pass"
        assert await flushed(client)

    [lead] = await fixed.settled(1)
    assert lead["status"] == "delivered"
    assert len(await dub.state("leads")) == 1


async def test_a_secret_that_does_not_fit_is_told_and_loses_no_lead(
    delivering: RelayProcess, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    wrong = client_of(delivering.url, tmp_path, OTHER_SECRET)

    result = await sign_up(wrong)
    await asyncio.to_thread(wrong.close)
    assert (result.status, result.reason[:3]) == (Status.SPOOLED, "401")
    assert "ERROR" in [record.levelname for record in logged.records]
    assert await flushed(client_of(delivering.url, tmp_path))

    assert len(await delivering.leads()) == 1


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (503, '{"error": {"message": "The database is full."}}', Status.SPOOLED),
        (429, '{"error": {"message": "Too many requests."}}', Status.SPOOLED),
        (404, '{"error": {"message": "hooks/signup is off"}}', Status.SPOOLED),
        (422, '{"error": {"message": "mode: is wrong"}}', Status.REFUSED),
        (200, "<html>Welcome</html>", Status.SPOOLED),
        (200, '{"status": "ok"}', Status.SPOOLED),
        (301, "", Status.SPOOLED),
        (502, "Bad gateway", Status.SPOOLED),
    ],
)
async def test_only_a_judgement_of_the_relays_ends_a_message(
    aiohttp_server: AiohttpServer,
    status: int,
    body: str,
    expected: Status,
    tmp_path: Path,
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body, headers={"Location": "/else"})

    app = web.Application()
    app.router.add_post("/_dub/hooks/signup", answer)
    server = await aiohttp_server(app)
    client = client_of(f"http://127.0.0.1:{server.port}", tmp_path)

    result = await sign_up(client)
    await asyncio.to_thread(client.close)

    assert result.status is expected
    assert str(status) in result.reason
    assert waiting(tmp_path) == (expected is Status.SPOOLED)


async def test_a_visitor_who_leaves_does_not_take_the_lead_along(
    delivering: RelayProcess, tmp_path: Path
) -> None:
    async with line(delivering.url) as way:
        client = AsyncClient(
            f"{way.url}/_dub", HOOK_SECRET, spool=tmp_path / "spool", limit=10
        )
        handler = asyncio.create_task(
            client.signup(visit(), customer_external_id="u_1")
        )
        while not way.carried:  # noqa: ASYNC110 - the line tells nobody
            await asyncio.sleep(0)
        handler.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handler
        async with asyncio.timeout(30):
            while not await delivering.leads():  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)


# The spool


SPOOL_MANY = """
import sys
from relay.client import Client
client = Client(sys.argv[1], sys.argv[2], spool=sys.argv[3])
for number in range(20):
    result = client.signup(click_id="hQWlM0a9Zk3xY7bT",
                           customer_external_id=f"u_{sys.argv[4]}_{number}")
    assert result.status == "spooled", result
sys.stdin.read()
"""


@pytest.mark.process
async def test_many_processes_share_one_spool(
    fixed: RelayProcess, tmp_path: Path
) -> None:
    writers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SPOOL_MANY, f"{fixed.url}/_dub", HOOK_SECRET),
            *(str(tmp_path / "spool"), str(number)),
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        for number in range(3)
    ]
    async with asyncio.timeout(60):
        while _count(tmp_path / "spool") < 60:
            assert all(writer.returncode is None for writer in writers)
            await asyncio.sleep(0.05)
        await fixed.start()
        while waiting(tmp_path):  # noqa: ASYNC110 - other processes empty it
            await asyncio.sleep(0.05)
    for writer in writers:
        await writer.communicate(b"")
        assert writer.returncode == 0

    sent = [lead["customerExternalId"] for lead in reversed(await fixed.leads())]
    assert len(sent) == len(set(sent)) == 60
    for number in range(3):
        own = [user for user in sent if user.startswith(f"u_{number}_")]
        assert own == [f"u_{number}_{place}" for place in range(20)]


def _count(path: Path) -> int:
    return path.read_bytes().count(b'"id"') if path.exists() else 0


def test_the_spool_is_for_its_owner_only(tmp_path: Path) -> None:
    client = client_of("http://127.0.0.1:9", tmp_path)

    client.signup(visit(), customer_external_id="u_1", customer_email=EMAIL)
    client.close()

    files = list(tmp_path.glob("spool*"))
    assert len(files) >= 2
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


async def test_what_was_sent_is_not_in_the_file_any_more(
    delivering: RelayProcess, tmp_path: Path
) -> None:
    async with line(delivering.url) as way:
        way.state = "torn"
        client = client_of(way.url, tmp_path)
        await sign_up(client)
        assert EMAIL.encode() in (tmp_path / "spool").read_bytes()
        way.state = "pass"
        assert await flushed(client)

    assert EMAIL.encode() not in (tmp_path / "spool").read_bytes()


@pytest.mark.process
def test_a_full_spool_says_that_the_lead_is_lost(
    tmp_path: Path,
    logged: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relay.client.spool.MAX_BYTES", 4 * 1024 * 1024)
    client = client_of("http://127.0.0.1:9", tmp_path)
    big = {"much": "x" * 1_000_000}

    statuses = [
        client.signup(visit(), customer_external_id=f"u_{n}", metadata=big).status
        for n in range(6)
    ]
    client.close()

    assert set(statuses) == {Status.SPOOLED, Status.LOST}
    assert statuses == sorted(statuses, reverse=True)
    assert (tmp_path / "spool").stat().st_size <= 4 * 1024 * 1024
    assert "full" in logged.records[-1].message


async def test_a_spool_that_cannot_be_written_is_told_and_stops_no_site(
    delivering: RelayProcess, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    nowhere = tmp_path / "none"

    works = client_of(delivering.url, nowhere)
    assert "could not be spooled" in logged.records[0].message
    assert (await sign_up(works)).status is Status.QUEUED

    broken = client_of("http://127.0.0.1:9", nowhere)
    result = await sign_up(broken)
    assert (result.status, result.safe) == (Status.LOST, False)


def test_a_link_in_the_spools_place_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.touch()
    (tmp_path / "spool").symlink_to(target)

    result = client_of("http://127.0.0.1:9", tmp_path).signup(
        visit(), customer_external_id="u_1"
    )

    assert result.status is Status.LOST
    assert target.read_bytes() == b""


# What it costs, and what it keeps to itself


@pytest.mark.process
def test_importing_it_brings_no_framework_and_no_server() -> None:
    code = "import relay.client, sys; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    heavy = {
        *("aiohttp", "starlette", "fastapi", "django", "flask", "werkzeug"),
        *("orjson", "structlog", "jmespath", "click", "prometheus_client", "uvloop"),
        *(
            "sqlite3",
            "http.client",
            "ssl",
            "asyncio",
            "relay.app",
            "relay.config.settings",
        ),
    }
    assert heavy & set(ran.stdout.split()) == set()


def test_no_person_and_no_secret_in_logs_and_reprs(
    tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    client = client_of("http://127.0.0.1:9", tmp_path)
    fields = Signup(customer_external_id="u_SECRET", customer_email=EMAIL)

    result = client.signup(visit(), **fields)
    client.close()

    told = [repr(client), repr(result), repr(message_of(CLICK, fields)), logged.text]
    told += [repr(value) for value in vars(client).values()]
    assert result.status is Status.SPOOLED
    for text in told:
        assert "u_SECRET" not in text
        assert EMAIL not in text
        assert CLICK not in text
        assert HOOK_SECRET not in text


@pytest.mark.process
def test_a_client_made_before_a_fork_works_after_it(tmp_path: Path) -> None:
    code = """
import os, sys
from relay.client import Client
client = Client("http://127.0.0.1:9", sys.argv[1], spool=sys.argv[2])
client.signup(click_id="hQWlM0a9Zk3xY7bT", customer_external_id="parent")
child = os.fork()
result = client.signup(click_id="hQWlM0a9Zk3xY7bT", customer_external_id="both")
assert result.status == "spooled", result
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, HOOK_SECRET, str(tmp_path / "spool")],
        capture_output=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )

    assert ran.returncode == 0, ran.stderr
    assert _count(tmp_path / "spool") == 3
