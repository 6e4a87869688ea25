"""``dub-relay migrate``: the schema of the database, and the way to another one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from relay.cli.base import (
    FailedError,
    config_option,
    existing_outbox,
    read_settings,
    say,
    table,
)
from relay.config.settings import ConfigError
from relay.config.values import sqlite_file
from relay.core.leads import LeadStatus
from relay.outbox.backends import is_postgres
from relay.outbox.contract import OutboxError

if TYPE_CHECKING:
    from relay.outbox.backends.transfer import Moved

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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@config_option
def migrate(*, source: str | None, as_json: bool) -> None:
    """Bring the configured database to the schema of this version.

    serve does so too when it starts. With --from, all leads, their stories, the gate
    and the budget are moved from an SQLite file into an empty PostgreSQL database.
    Stop the relays before; no relay will start on the file again. What was
    interrupted goes on when the same command is run again.
    """
    settings = read_settings(complete=False)
    existing_outbox(settings)
    before, after = _run(_schema(settings.database))
    if not as_json and before == after:
        click.echo(f"The schema has version {after} already.")
    elif not as_json:
        click.echo(f"The schema went from version {before} to version {after}.")
    file = None if source is None else _file(source)
    moved = None if file is None else _move(file, settings.database)
    if as_json:
        schema = {"schemaBefore": before, "schema": after}
        click.echo(json.dumps(schema | (_moved_json(moved) if moved else {})))
    elif moved is not None:
        _tell(moved, file)


def _file(source: str) -> Path:
    path = sqlite_file(source)
    if path is None or not path.is_file():
        raise click.BadParameter(
            "must be sqlite:///file, and the file be there", param_hint="--from"
        )
    return path


def _move(source: Path, url: str) -> Moved:
    if not is_postgres(url):
        raise ConfigError("RELAY_DATABASE: must be postgresql://… to move leads there")
    # Here, so that --help and version do not wait for a database driver.
    from relay.outbox.backends.transfer import move  # noqa: PLC0415

    said = 0

    def progress(seq: int) -> None:
        nonlocal said
        if seq >= said + SAY_EVERY:
            said = seq
            say(f"moved up to lead {seq} ...")

    return _run(move(source, url, progress))


def _counted(moved: Moved) -> dict[str, int]:
    return {one.value: moved.leads[one] for one in LeadStatus if one in moved.leads}


def _moved_json(moved: Moved) -> dict[str, Any]:
    counts = {"leads": _counted(moved), "total": sum(moved.leads.values())}
    return counts | {"attempts": moved.attempts, "movedBefore": moved.before}


def _tell(moved: Moved, source: Path | None) -> None:
    table(("STATUS", "LEADS"), list(_counted(moved).items()))
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
        from relay.outbox.backends.postgres_session import migrate as run  # noqa: PLC0415

        return await run(url)
    from relay.outbox.backends.sqlite_file import migrate_file  # noqa: PLC0415

    return await asyncio.to_thread(migrate_file, path)


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except OutboxError as error:
        raise FailedError(f"database: {error}") from error
