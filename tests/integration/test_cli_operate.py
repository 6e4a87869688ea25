"""What an operator types: stats, completion, and --json for programs."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from relay.core.clock import now_ms
from relay.core.leads import Lead
from relay.outbox.backends import open_outbox
from relay.outbox.contract import AuditEntry, Circuit, NewLead
from relay.outbox.records import pseudonym
from tests.support.harness import RelayProcess, clean_environment
from tests.support.postgres_server import PostgresServer

pytestmark = pytest.mark.process

HOUR = 3_600_000


async def filled(folder: Path, url: str) -> RelayProcess:
    """Three leads, of which the first is an hour old; the key was refused."""
    outbox = open_outbox(url)
    await outbox.open()
    now = now_ms()
    for number in range(3):
        made = Lead(
            id=f"lead_{number}",
            source="hook",
            click_id="hQWlM0a9Zk3xY7bT",
            event_name="Sign Up",
            customer_external_id=f"u_{number}",
            created_at=now - HOUR if number == 0 else now,
        )
        await outbox.put(NewLead(made, dedupe_key=str(number), dedupe_since=None))
    await outbox.throttled(1200, now, now + HOUR)
    await outbox.set_circuit(Circuit(True, "Dub refused the key (401)", now + HOUR))
    await outbox.park_due(now - HOUR, 10)
    await outbox.close()
    return RelayProcess(folder, {"RELAY_DATABASE": url, "RELAY_RATE": "1200"})


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/relay.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_url()


async def test_stats_count_the_leads_and_say_how_delivery_stands(
    tmp_path: Path, database: str
) -> None:
    relay = await filled(tmp_path, database)

    code, out, err = await relay.run("stats", "--json")

    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["leads"]["queued"], told["leads"]["parked"]) == (2, 1)
    assert told["leads"]["rejected"] == 0
    assert told["total"] == 3
    assert 3600 <= told["oldestOpenSeconds"] < 3700
    assert told["delivery"]["state"] == "parked"
    assert told["delivery"]["reason"] == "Dub refused the key (401)"
    assert (told["rate"]["plan"], told["rate"]["pausedUntil"] is None) == (1200, False)
    assert 600 <= told["rate"]["now"] < 1200
    assert told["spill"] == {"files": 0, "bytes": 0}


async def test_stats_for_people_are_a_table_and_a_few_lines(tmp_path: Path) -> None:
    relay = await filled(tmp_path, f"sqlite:///{tmp_path}/relay.db")
    (tmp_path / "relay.db.spill").write_text("12345")

    code, out, err = await relay.run("stats")

    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["STATUS", "LEADS"]
    assert "delivery  WAITS FOR A PERSON: Dub refused the key (401)" in out
    assert "spilled   5 bytes wait" in out


async def test_stats_of_a_database_that_is_not_there_are_no_zeros(
    tmp_path: Path,
) -> None:
    code, out, err = await RelayProcess(tmp_path).run("stats")

    assert (code, out) == (1, "")
    assert "there is no" in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_a_shell_gets_its_completion(tmp_path: Path, shell: str) -> None:
    code, out, err = await RelayProcess(tmp_path).run("completion", shell)

    assert (code, err) == (0, "")
    assert "_DUB_RELAY_COMPLETE" in out


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("dub-relay st", "stats"),
        ("dub-relay leads re", "retry"),
        ("dub-relay leads list --status par", "parked"),
        ("dub-relay backup --js", "--json"),
    ],
)
async def test_words_are_completed_as_bash_asks_for_them(
    tmp_path: Path, words: str, wanted: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "dub-relay",
        env=clean_environment()
        | {
            "_DUB_RELAY_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        },
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )

    out, _ = await process.communicate()

    assert f"plain,{wanted}" in out.decode().splitlines()


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("version",), "version"),
        (("migrate",), "schema"),
        (("stats",), "leads"),
        (("backup", "copy.db"), "leads"),
        (("sign",), "webhook-signature"),
    ],
)
async def test_a_program_is_told_one_object_of_json(
    tmp_path: Path, arguments: tuple[str, ...], key: str
) -> None:
    relay = await filled(tmp_path, f"sqlite:///{tmp_path}/relay.db")

    code, out, err = await relay.run(*arguments, "--json", stdin=b"{}")

    assert (code, err) == (0, "")
    assert key in json.loads(out)


# --- The audit log of what a command did. ---


async def audit_log(url: str) -> list[AuditEntry]:
    outbox = open_outbox(url)
    await outbox.open()
    try:
        return await outbox.audit_log(20)
    finally:
        await outbox.close()


async def test_what_a_command_changes_is_in_the_audit_log_with_who_did_it(
    tmp_path: Path, database: str
) -> None:
    relay = await filled(tmp_path, database)
    relay.environment |= {"LOGNAME": "alice", "SUDO_USER": ""}

    for command in (
        ("delivery", "pause"),
        ("delivery", "resume", "--json"),
        ("leads", "retry", "--status", "parked"),
        ("leads", "forget", "u_1", "--yes"),
    ):
        code, _, err = await relay.run(*command)
        assert code == 0, err

    acts = [
        (one.actor, one.name, one.subject, one.detail)
        for one in await audit_log(database)
    ]
    assert acts[::-1] == [
        ("cli:alice", "pause", "delivery", "Paused."),
        ("cli:alice", "resume", "delivery", "Resumed."),
        ("cli:alice", "retry", "all parked", "1 sent again."),
        ("cli:alice", "forget", pseudonym("u_1"), "1 erased."),
    ]


async def test_what_a_command_only_looks_at_is_not_in_the_audit_log(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/relay.db"
    relay = await filled(tmp_path, url)

    for command in (
        ("stats",),
        ("leads", "list"),
        ("leads", "retry", "--status", "parked", "--dry-run"),
        ("leads", "forget", "u_1", "--dry-run"),
    ):
        code, _, err = await relay.run(*command)
        assert code == 0, err

    assert await audit_log(url) == []


async def test_a_restored_backup_is_in_the_audit_log(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/relay.db"
    relay = await filled(tmp_path, url)
    relay.environment |= {"LOGNAME": "bob", "SUDO_USER": ""}
    assert (await relay.run("backup", "copy.db"))[0] == 0
    assert (await relay.run("restore", "copy.db", "--force"))[0] == 0

    [act] = await audit_log(url)
    assert (act.actor, act.name) == ("cli:bob", "restore")
    assert act.detail == "3 leads of copy.db"


async def test_a_pause_by_command_holds_until_somebody_resumes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/relay.db"
    relay = await filled(tmp_path, url)

    code, out, _ = await relay.run("delivery", "pause", "--json")

    assert (code, json.loads(out)) == (0, {"paused": True})
    outbox = open_outbox(url)
    await outbox.open()
    assert (await outbox.circuit()).paused
    assert (await relay.run("delivery", "resume"))[:2] == (0, "Resumed.\n")
    assert not (await outbox.circuit()).paused
    await outbox.close()
