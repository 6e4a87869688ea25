"""The operator's webhook: signed messages to a real receiver, once for each cause."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer
from standardwebhooks import Webhook, WebhookVerificationError

from relay.core.clock import now_ms
from relay.core.leads import Lead, LeadStatus
from relay.outbox.backends import open_outbox
from relay.outbox.contract import Alert, NewLead
from tests.support.harness import HOOK_SECRET, RelayProcess, SandboxDub, post_hook
from tests.support.postgres_server import PostgresServer
from tests.support.samples import samples

pytestmark = pytest.mark.process

SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


@dataclass
class Receiver:
    """Takes alerts as Standard Webhooks' own library does."""

    url: str = ""
    taken: list[dict[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    refuse: int = 0
    raw: bytes = b""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.raw += body
        try:
            message = Webhook(SECRET).verify(body, dict(request.headers))
        except WebhookVerificationError:
            return web.Response(status=401)
        self.ids.append(request.headers["webhook-id"])
        self.changed.set()
        if self.refuse:
            self.refuse -= 1
            return web.Response(status=503)
        self.taken.append(message)
        return web.Response(status=204)

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.taken]

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not done():
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def receiver(aiohttp_server: AiohttpServer) -> Receiver:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/ops", made.take)
    server = await aiohttp_server(app, access_log=None, shutdown_timeout=0.2)
    made.url = f"http://127.0.0.1:{server.port}/ops?token=t"
    return made


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/relay.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_url()


def watching(folder: Path, receiver: Receiver, dub: str, **more: str) -> RelayProcess:
    return RelayProcess(
        folder,
        {
            "DUB_API_URL": dub,
            "RELAY_ALERTS_URL": receiver.url,
            "RELAY_ALERTS_SECRET": SECRET,
            "RELAY_ALERTS_EVERY": "100ms",
            "RELAY_ALERTS_DISK": "0",
            "RELAY_RETRY_MAX": "0.2",
            # What a killed relay has leased is free after twice this and five seconds.
            "RELAY_DUB_TIMEOUT": "2s",
            "RELAY_LOG_LEVEL": "debug",
            **more,
        },
    )


async def sign_up(
    session: aiohttp.ClientSession, relay: RelayProcess, click: str, name: str
) -> None:
    hook = {
        "clickId": click,
        "eventName": "Sign Up",
        "customerExternalId": f"{name}_CANARY",
        "customerEmail": "CANARY@example.com",
    }
    status, _ = await post_hook(session, relay.url, hook, f"msg_{name}")
    assert status == 202


async def looked(relay: RelayProcess) -> None:
    """Wait until the relay has looked again: what it had to tell is told then."""
    # The look that is under way may have begun before what just happened.
    enough = _looks(relay) + 2
    async with asyncio.timeout(30):
        while _looks(relay) < enough:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)


def _looks(relay: RelayProcess) -> int:
    return sum(event["event"] == "alerts.looked" for event in relay.events)


def of_the_docs(message: dict[str, Any]) -> dict[str, Any]:
    """The message that docs/alerts.md shows, at this one's times and with its count."""
    [shown] = [
        json.loads(sample.text)
        for sample in samples()
        if (sample.page, sample.language) == ("docs/alerts.md", "json")
    ]
    data, now = shown["data"], message["data"]
    data |= {"since": now["since"], "parked": now["parked"]}
    return dict(shown | {"timestamp": message["timestamp"]})


async def test_a_parked_delivery_is_told_once_over_restarts_and_relays(
    receiver: Receiver,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    database: str,
) -> None:
    await dub.fault(key="revoked")
    relay = watching(tmp_path, receiver, dub.url, RELAY_DATABASE=database)
    other = watching(tmp_path, receiver, dub.url, RELAY_DATABASE=database)
    await asyncio.gather(relay.start(), other.start())
    await sign_up(session, relay, await dub.click(), "ada")
    await receiver.until(lambda: bool(receiver.taken))

    await relay.stop(signal.SIGKILL)
    await relay.start()
    await looked(relay)
    await dub.mend()
    await receiver.until(lambda: len(receiver.taken) > 1)
    await looked(relay)
    assert [await relay.stop(), await other.stop()] == [0, 0]

    begun, ended = receiver.taken
    assert receiver.types == ["leads.parked", "leads.parked.over"]
    assert begun == of_the_docs(begun)
    assert ended["data"]["since"] == begun["data"]["since"]
    assert len(set(receiver.ids)) == 2
    assert b"CANARY" not in receiver.raw


async def test_rejected_leads_are_told_by_reason_until_they_are_sent_again(
    receiver: Receiver,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    relay = watching(tmp_path, receiver, dub.url)
    await relay.start()
    await dub.fault(status=422)
    await sign_up(session, relay, await dub.click(), "ada")
    await receiver.until(lambda: bool(receiver.taken))
    await sign_up(session, relay, await dub.click(), "bob")
    await relay.settled(2)
    await looked(relay)
    told = list(receiver.types)
    await dub.mend()

    code, _, _ = await relay.run("leads", "retry", "--status", "rejected")
    await receiver.until(lambda: len(receiver.taken) > 1)
    assert await relay.stop() == 0

    assert code == 0
    assert told == ["lead.rejected"]
    assert receiver.types == ["lead.rejected", "lead.rejected.over"]
    assert b"CANARY" not in receiver.raw


async def test_a_backlog_that_grows_old_is_told_and_its_end_too(
    receiver: Receiver,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    relay = watching(tmp_path, receiver, dub.url, RELAY_ALERTS_BACKLOG="300ms")
    await relay.start()
    await dub.fault(status=500)
    await sign_up(session, relay, await dub.click(), "ada")
    await receiver.until(lambda: bool(receiver.taken))

    await dub.mend()
    await receiver.until(lambda: len(receiver.taken) > 1)
    assert await relay.stop() == 0

    assert receiver.types == ["backlog.old", "backlog.old.over"]
    assert receiver.taken[0]["data"]["open"] == 1


async def test_a_disk_that_is_nearly_full_is_told_of_by_its_host(
    receiver: Receiver, dub: SandboxDub, tmp_path: Path
) -> None:
    relay = watching(tmp_path, receiver, dub.url, RELAY_ALERTS_DISK="100")
    await relay.start()
    await receiver.until(lambda: bool(receiver.taken))
    assert await relay.stop() == 0

    [message] = receiver.taken
    assert message["type"] == "disk.nearly_full"
    assert 0 < message["data"]["freeBytes"] < message["data"]["sizeBytes"]
    code, out, _ = await relay.run("alerts", "list", "--json")
    assert code == 0
    assert json.loads(out) == {**message, "sent": True}


async def test_a_message_is_sent_until_it_is_taken_under_one_id(
    receiver: Receiver, dub: SandboxDub, tmp_path: Path
) -> None:
    receiver.refuse = 3
    relay = watching(tmp_path, receiver, dub.url, RELAY_ALERTS_DISK="100")
    await relay.start()
    await receiver.until(lambda: len(receiver.ids) == 2)
    # What was not taken is told after a restart.
    await relay.stop()
    await relay.start()
    await receiver.until(lambda: bool(receiver.taken))
    assert await relay.stop() == 0

    assert receiver.types == ["disk.nearly_full"]
    assert len(receiver.ids) == 4
    assert len(set(receiver.ids)) == 1


async def test_the_webhook_can_be_tried(receiver: Receiver, tmp_path: Path) -> None:
    relay = watching(tmp_path, receiver, "http://127.0.0.1:9")

    code, out, err = await relay.run("alerts", "test")

    assert (code, err) == (0, "")
    assert "HTTP 204" in out
    assert receiver.types == ["test"]


@pytest.mark.parametrize("secret", [HOOK_SECRET, SECRET])
async def test_a_webhook_that_does_not_take_a_message_is_a_failure(
    receiver: Receiver, tmp_path: Path, secret: str
) -> None:
    receiver.refuse = 1
    relay = watching(tmp_path, receiver, "", RELAY_ALERTS_SECRET=secret)
    del relay.environment["DUB_API_URL"]

    code, out, err = await relay.run("alerts", "test")

    assert (code, out) == (1, "")
    assert "token" not in err
    assert "HTTP " in err


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("RELAY_ALERTS_URL", "ops.example.com", "not a URL. Use such as https://"),
        ("RELAY_ALERTS_URL", "https://a:CANARY@b/", "a URL with user"),
        ("RELAY_ALERTS_SECRET", "CANARY", "RELAY_ALERTS_SECRET"),
        ("RELAY_ALERTS_DISK", "101", "Use a whole number from 0 to 100."),
        ("RELAY_ALERTS_EVERY", "2h", "Use at most 3600 s."),
    ],
)
async def test_a_wrong_setting_of_the_webhook_is_refused(
    tmp_path: Path, name: str, value: str, told: str
) -> None:
    code, out, err = await RelayProcess(tmp_path, {name: value}).run("serve")

    assert (code, out) == (2, "")
    assert told in err
    assert "CANARY" not in err


async def test_a_webhook_needs_a_secret(tmp_path: Path) -> None:
    relay = RelayProcess(tmp_path, {"RELAY_ALERTS_URL": "https://a/"})

    code, _, err = await relay.run("serve")

    assert code == 2
    assert "of no use without RELAY_ALERTS_SECRET" in err


async def test_of_many_that_would_change_a_row_one_does(database: str) -> None:
    relays = [open_outbox(database) for _ in range(3)]
    for relay in relays:
        await relay.open()
    first = [Alert("a", f"id_{n}", "{}", 1, due_at=n) for n in range(3)]

    pairs = list(zip(relays, first, strict=True))
    made = [await relay.swap_alert(None, one) for relay, one in pairs]
    [old] = await relays[0].alerts()
    new = [Alert("a", f"new_{n}", "{}", 1, over=True) for n in range(3)]
    changed = await asyncio.gather(
        *(it.swap_alert(old, one) for it, one in zip(relays, new, strict=True))
    )
    [stands] = await relays[2].alerts()
    ended = await asyncio.gather(*(it.swap_alert(stands, None) for it in relays))

    assert made == [True, False, False]
    assert sorted(changed) == sorted(ended) == [False, False, True]
    assert stands == new[changed.index(True)]
    assert await relays[0].alerts() == []
    for relay in relays:
        await relay.close()


async def test_reasons_are_counted_by_state(database: str) -> None:
    outbox = open_outbox(database)
    await outbox.open()
    for number, reason in enumerate(["a", "b", "a"]):
        made = Lead(
            id=f"lead_{number}",
            source="hook",
            click_id="",
            event_name="Sign Up",
            customer_external_id=str(number),
            created_at=now_ms(),
        )
        await outbox.put(
            NewLead(
                made,
                dedupe_key=str(number),
                dedupe_since=None,
                status=LeadStatus.REJECTED,
                reason=reason,
            )
        )

    assert await outbox.reasons(LeadStatus.REJECTED) == {"a": 2, "b": 1}
    assert await outbox.reasons(LeadStatus.QUEUED) == {}
    await outbox.close()


async def test_with_nothing_wrong_the_list_says_so(tmp_path: Path) -> None:
    outbox = open_outbox(f"sqlite:///{tmp_path}/relay.db")
    await outbox.open()
    await outbox.close()

    code, out, _ = await RelayProcess(tmp_path).run("alerts", "list")

    assert code == 0
    assert out.startswith("Nothing stands")
