"""``dub-relay migrate``: the schema of the database, and the way to another one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from relay.cli_base import (
    FailedError,
    config_option,
    existing_outbox,
    read_settings,
    say,
    sqlite_file,
    table,
)
from relay.core.leads import Status
from relay.outbox import is_postgres
from relay.outbox.contract import OutboxError
from relay.settings import ConfigError

T = TypeVar("T")

SAY_EVERY: Final = 50_000
"""Leads between two lines of progress: a few seconds."""


@click.command()
@click.option(
    "--from",
    "source",
    metavar="SQLITE_URL",
    help="Move all leads of this file into the configured PostgreSQL database.",
)
@config_option
def migrate(*, source: str | None) -> None:
    """Bring the configured database to the schema of this version.

    serve does so too when it starts. With --from, all leads, their stories, the gate
    and the budget are moved from an SQLite file into an empty PostgreSQL database.
    Stop the relays before; no relay will start on the file again. What was
    interrupted goes on when the same command is run again.
    """
    settings = read_settings(complete=False)
    existing_outbox(settings)
    before, after = _run(_schema(settings.database))
    if before == after:
        click.echo(f"The schema has version {after} already.")
    else:
        click.echo(f"The schema went from version {before} to version {after}.")
    if source is not None:
        _move(_file(source), settings.database)


def _file(source: str) -> Path:
    path = sqlite_file(source)
    if path is None or not path.is_file():
        raise click.BadParameter(
            "must be sqlite:///file, and the file be there", param_hint="--from"
        )
    return path


def _move(source: Path, url: str) -> None:
    if not is_postgres(url):
        raise ConfigError("RELAY_DATABASE: must be postgresql://… to move leads there")
    # Here, so that --help and version do not wait for a database driver.
    from relay.outbox.moving import move  # noqa: PLC0415

    said = 0

    def progress(seq: int) -> None:
        nonlocal said
        if seq >= said + SAY_EVERY:
            said = seq
            say(f"moved up to lead {seq} ...")

    moved = _run(move(source, url, progress))
    counted = [(one.value, moved.leads[one]) for one in Status if one in moved.leads]
    table(("STATUS", "LEADS"), counted)
    total = sum(moved.leads.values())
    if moved.before:
        click.echo(f"All had been moved before; there are {total} leads there now.")
        return
    click.echo(
        f"Moved {total} leads and {moved.attempts} calls; the counts agree. "
        f"No relay will start on {source} again: keep it as a backup, or delete it."
    )


async def _schema(url: str) -> tuple[int, int]:
    path = sqlite_file(url)
    if path is None:
        from relay.outbox.postgres_schema import migrate as run  # noqa: PLC0415

        return await run(url)
    from relay.outbox.sqlite_file import migrate_file  # noqa: PLC0415

    return await asyncio.to_thread(migrate_file, path)


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except OutboxError as error:
        raise FailedError(f"database: {error}") from error
