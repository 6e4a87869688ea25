"""What people do and see, in the SQLite file: pausing, the audit log, samples."""

from __future__ import annotations

import sqlite3

from relay.core import jsontext
from relay.outbox.contract import Act, Sample
from relay.outbox.rows import readable
from relay.outbox.writer import each


@each
def pause(connection: sqlite3.Connection, paused: bool) -> None:  # noqa: FBT001
    """Write whether a person has stopped delivery."""
    connection.execute("UPDATE gate SET paused = ?", (paused,))


@each
def record(connection: sqlite3.Connection, act: Act) -> None:
    """Write down what a person did."""
    connection.execute(
        "INSERT INTO acts (at, actor, name, subject, detail) VALUES (?, ?, ?, ?, ?)",
        (act.at, *map(readable, (act.actor, act.name, act.subject, act.detail))),
    )


def acts(connection: sqlite3.Connection, limit: int) -> list[Act]:
    """What people did, newest first."""
    rows = connection.execute(
        "SELECT at, actor, name, subject, detail FROM acts ORDER BY at DESC LIMIT ?",
        (limit,),
    )
    return [Act(*row) for row in rows]


@each
def sample(connection: sqlite3.Connection, taken: Sample, keep_since: int) -> None:
    """Keep a sample, and drop those that are too old."""
    connection.execute(
        "INSERT OR REPLACE INTO samples (at, relay, seen) VALUES (?, ?, ?)",
        (taken.at, taken.relay, jsontext.encode(dict(taken.seen)).decode()),
    )
    connection.execute("DELETE FROM samples WHERE at < ?", (keep_since,))


def samples(connection: sqlite3.Connection, since: int) -> list[Sample]:
    """Every relay's samples since then, oldest first."""
    rows = connection.execute(
        "SELECT at, relay, seen FROM samples WHERE at >= ? ORDER BY at, relay",
        (since,),
    )
    return [Sample(at, relay, jsontext.decode(seen)) for at, relay, seen in rows]
