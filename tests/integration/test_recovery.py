"""Leads of sign-ups that went around the relay: `leads recover`, and the watch."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.capture.intake import Intake
from relay.config.settings import Settings, load
from relay.observability.metrics import Metrics
from relay.operations.recovery import BypassWatch, Recovery
from relay.outbox.backends import open_outbox
from relay.outbox.contract import Outbox, Query
from relay.outbox.encryption import PLAIN
from tests.support.harness import RELAY_SECRET, RelayProcess, SandboxDub

pytestmark = pytest.mark.process

CLICK = "hQWlM2kPzX9aBcDe"
RULES = """
[[signup]]
path = "/signup"
customer_external_id = "form.email || json.email"

[[signup]]
path = "/api/users"
customer_external_id = "response.json.id"
customer_email = "json.email"

[[signup]]
path = "/join"
when = "response.json.ok"
customer_external_id = "form.email"
"""


def line(email: str, **changes: Any) -> str:
    """A line as nginx writes it."""
    body = f"email={email}"
    record = {
        "time": "2026-01-31T12:00:00+00:00",
        "method": "POST",
        "target": "/signup",
        "scheme": "https",
        "host": "www.example.com",
        "cookie": f"dub_id={CLICK}",
        "type": "application/x-www-form-urlencoded",
        "coding": "",
        "length": str(len(body)),
        "body": body,
        "status": "303",
        "location": "/welcome",
    }
    return json.dumps(record | changes) + "\n"


@pytest.fixture
async def relay(tmp_path: Path) -> RelayProcess:
    """A relay that has been, and left its database."""
    process = RelayProcess(tmp_path, config=RULES)
    await process.start()
    assert await process.stop() == 0
    return process


async def recovered(
    relay: RelayProcess, log: Path, *arguments: str
) -> tuple[dict[str, int], str]:
    code, out, err = await relay.run("leads", "recover", str(log), "--json", *arguments)
    assert code == 0, err
    return nonzero(json.loads(out)), err


def nonzero(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def written(folder: Path, *lines: str) -> Path:
    path = folder / "bypass.log"
    path.touch(0o600)
    path.write_text("".join(lines), "latin-1")
    return path


async def test_each_line_becomes_a_lead_once_or_is_explained(
    tmp_path: Path, relay: RelayProcess
) -> None:
    log = written(
        tmp_path,
        line("ada@example.com"),
        # The same person's second press of the button.
        line("ada@example.com", time="2026-01-31T12:00:01+00:00"),
        line("bob@example.com", status="422", location=""),
        line("eve@example.com", location="/signup?error=taken"),
        line("nobody@example.com", cookie="lang=en"),
        line("far@example.com", target="/contact"),
        line("api@example.com", target="/api/users", status="201"),
        line("join@example.com", target="/join", status="200"),
        line("large@example.com", body="", length="90000"),
        '{"method":"POST","target":"/sig\n',
    )
    expected = {
        "read": 10,
        "new": 1,
        "duplicate": 1,
        "refused": 2,
        "unattributed": 1,
        "noRule": 1,
        "rejected": 2,
        "unreadable": 2,
    }

    foreseen, _ = await recovered(relay, log, "--dry-run")
    assert await relay.leads() == []
    found, err = await recovered(relay, log)
    again, _ = await recovered(relay, log)

    # The first press is in no ledger yet when the second is looked at.
    assert foreseen == nonzero(expected | {"new": 2, "duplicate": 0})
    assert found == expected
    assert "line 9: its body was too long to be logged" in err
    assert "line 10: not JSON" in err
    # Each that was taken is known already, the rejected ones too.
    assert again == nonzero(expected | {"new": 0, "rejected": 0, "duplicate": 4})
    leads = {one["customerExternalId"]: one for one in await relay.leads()}
    assert set(leads) == {"ada@example.com", "", "join@example.com"}
    ada = leads["ada@example.com"]
    assert (ada["source"], ada["status"], ada["clickId"]) == (
        "recovered",
        "queued",
        CLICK,
    )
    assert any("went around the relay" in note for note in ada["notes"])
    assert "not logged" in leads["join@example.com"]["lastError"]
    assert "found no id" in leads[""]["lastError"]


async def test_what_is_settled_can_be_removed_from_the_file(
    tmp_path: Path, relay: RelayProcess
) -> None:
    broken = '{"cut": "off\n'
    log = written(tmp_path, line("ada@example.com"), broken, line("bob@example.com"))
    inode = log.stat().st_ino

    await recovered(relay, log, "--dry-run", "--remove")
    assert "ada@example.com" in log.read_text()
    await recovered(relay, log, "--remove")

    # In place, since a server may be writing to it.
    assert log.stat().st_ino == inode
    assert log.read_text().strip() == broken.strip()
    assert len(await relay.leads()) == 2


async def test_a_file_that_others_may_read_is_named(
    tmp_path: Path, relay: RelayProcess
) -> None:
    log = written(tmp_path, line("ada@example.com"))
    log.chmod(0o644)

    _, err = await recovered(relay, log)

    assert f"chmod 600 {log}" in err


async def test_a_har_is_judged_by_its_responses(
    tmp_path: Path, relay: RelayProcess
) -> None:
    def entry(email: str, status: int, said: object) -> dict[str, Any]:
        return {
            "request": {
                "method": "POST",
                "url": "https://www.example.com/api/users",
                "headers": [{"name": "Cookie", "value": f"dub_id={CLICK}"}],
                "postData": {
                    "mimeType": "application/json",
                    "text": json.dumps({"email": email}),
                },
            },
            "response": {
                "status": status,
                "headers": [{"name": "Content-Type", "value": "application/json"}],
                "content": {"text": json.dumps(said)},
            },
        }

    entries = [
        entry("ada@example.com", 201, {"id": "u_1"}),
        entry("bob@example.com", 422, {"error": "taken"}),
    ]
    log = written(tmp_path, json.dumps({"log": {"entries": entries}}))

    found, _ = await recovered(relay, log)

    assert found == {"read": 2, "new": 1, "refused": 1}
    (lead,) = await relay.leads()
    assert (lead["customerExternalId"], lead["source"]) == ("u_1", "recovered")


@pytest.mark.parametrize(("config", "named"), [("", "signup"), (RULES, "RELAY_SECRET")])
async def test_what_is_missing_is_named(
    tmp_path: Path, relay: RelayProcess, config: str, named: str
) -> None:
    relay.config = config
    if config:
        relay.environment["RELAY_SECRET"] = ""
    log = written(tmp_path, line("ada@example.com"))

    code, _, err = await relay.run("leads", "recover", str(log))

    assert (code, err.count("\n")) == (2, 1)
    assert named in err


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    config = tmp_path / "relay.toml"
    config.write_text(RULES)
    environment = {"RELAY_SECRET": RELAY_SECRET, "DUB_API_KEY": "dub_key"}
    return load(str(config), environment)


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    opened = open_outbox(f"sqlite:///{tmp_path}/watched.db", PLAIN)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def watch(tmp_path: Path, outbox: Outbox, settings: Settings) -> BypassWatch:
    intake = Intake(outbox, dedupe_days=7, clock=outbox.now, metrics=Metrics())
    recovery = Recovery(outbox, intake, settings)
    return BypassWatch(recovery, str(tmp_path / "bypass.log"))


async def customers(outbox: Outbox) -> set[str]:
    return {one.lead.customer_external_id for one in await outbox.list(Query())}


async def test_a_watched_log_is_recovered_as_it_grows(
    tmp_path: Path, watch: BypassWatch, outbox: Outbox
) -> None:
    assert (await watch.look()).read == 0
    log = written(tmp_path, line("ada@example.com"))
    assert (await watch.look()).new == 1
    whole = line("bob@example.com")
    with log.open("a") as writer:
        writer.write(whole[:40])
    # Half a line is not read yet.
    assert (await watch.look()).read == 0
    with log.open("a") as writer:
        writer.write(whole[40:])
    assert (await watch.look()).new == 1
    assert log.read_text().strip() == ""

    # What was written before a rotation, and after it.
    with log.open("a") as writer:
        writer.write(line("before@example.com"))
    log.rename(tmp_path / "bypass.log.1")
    written(tmp_path, line("after@example.com"))
    assert (await watch.look()).new == 2
    assert await customers(outbox) == {
        f"{name}@example.com" for name in ("ada", "bob", "before", "after")
    }


async def test_serve_recovers_from_the_log_that_a_setting_names(
    tmp_path: Path, dub: SandboxDub
) -> None:
    click = await dub.click()
    log = written(tmp_path, line("ada@example.com", cookie=f"dub_id={click}"))
    process = RelayProcess(
        tmp_path,
        {"DUB_API_URL": dub.url, "RELAY_BYPASS_LOG": str(log)},
        config=RULES,
    )
    await process.start()

    (lead,) = await process.settled(1)

    assert (lead["status"], lead["source"]) == ("delivered", "recovered")
    await process.logged("bypass.recovered")
    assert log.read_text().strip() == ""
    assert await process.stop() == 0
