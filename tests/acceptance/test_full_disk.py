"""Commands on a disk that is full: they say so, and can be run again."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from relay.outbox.backends import open_outbox
from relay.outbox.migrations import HISTORY, migrations
from tests.support.outbox_rig import lead, new_lead, put_all

LIMITED = """
import resource, sys
from relay.cli.main import main

limit = int(sys.argv[1])
if limit:
    # Met as a full disk is: a write comes short.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(main(sys.argv[2:]))
"""


def run(path: Path, *arguments: str, limit: int = 0) -> tuple[int, str]:
    """Run a command whose files may have so many bytes; its exit code, and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *arguments],
        env=os.environ | {"RELAY_DATABASE": f"sqlite:///{path}"},
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


def old_database(path: Path, leads: int) -> int:
    """Make a database of the first schema; return its version."""
    first = migrations("sqlite")[0]
    with closing(sqlite3.connect(path)) as made:
        made.executescript(f"PRAGMA journal_mode = WAL; {HISTORY} {first.sql}")
        made.execute("INSERT INTO schema_history VALUES (1, ?)", (first.checksum,))
        made.execute("PRAGMA user_version = 1")
        made.executemany(
            """
            INSERT INTO leads (
                id, source, customer, event, click_id, mode, person, notes, origin,
                created_at, status, delivered_at, round_at, dedupe_key
            ) VALUES (?1, 'hook', ?1, 'Sign Up', 'c', 'async', '{}', '[]', '{}',
                1, 'delivered', 1, 1, ?1)
            """,
            [(f"lead_{number:032x}",) for number in range(leads)],
        )
        made.commit()
    return first.version


def look(path: Path, question: str) -> object:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(question).fetchone()[0]


def test_a_migration_without_room_changes_nothing_and_can_be_done_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "relay.db"
    before = old_database(path, leads=2000)

    code, said = run(path, "migrate", limit=40_000)

    assert code == 1
    assert said.count("\n") == 1
    assert "SQLITE_" in said
    assert "rollback" not in said
    assert look(path, "PRAGMA user_version") == before
    assert look(path, "SELECT count(*) FROM leads") == 2000
    assert run(path, "migrate") == (0, "")
    assert look(path, "PRAGMA user_version") == migrations("sqlite")[-1].version
    assert look(path, "SELECT count(*) FROM leads") == 2000
    assert look(path, "PRAGMA integrity_check") == "ok"


async def test_forgetting_without_room_says_so_and_can_be_done_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "relay.db"
    outbox = open_outbox(f"sqlite:///{path}")
    await outbox.open()
    made = [lead("zoe", customer_email=f"zoe{n}@example.com") for n in range(300)]
    await put_all(outbox, [new_lead(one) for one in made])
    await outbox.close()

    code, said = run(path, "leads", "forget", "zoe", "--yes", limit=40_000)

    assert code == 1
    assert said.count("\n") == 1
    assert b"zoe0@example.com" in path.read_bytes()  # as before, and not half
    assert run(path, "leads", "forget", "zoe", "--yes") == (0, "")
    assert b"@example.com" not in path.read_bytes()
    assert look(path, "SELECT count(*) FROM leads") == len(made)
