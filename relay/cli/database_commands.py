"""``dub-relay backup`` and ``restore``: copies of the database, counted and checked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

from relay.capture.spill import Spill, spill_path, spilled_lines
from relay.cli.base import (
    FailedError,
    config_option,
    existing_outbox,
    json_option,
    make_outbox,
    read_settings,
    say,
    table,
    write_audit,
)
from relay.config.settings import ConfigError, Settings
from relay.config.values import masked_url, sqlite_file
from relay.core.clock import (
    iso,
    now_ms,
)
from relay.core.dub.retry import KEY_MS
from relay.core.leads import LeadStatus
from relay.observability import logging as logs
from relay.outbox.backends import is_postgres, open_outbox
from relay.outbox.contract import OutboxError

if TYPE_CHECKING:
    from relay.outbox.backends.snapshot import Copied
if TYPE_CHECKING:
    from relay.outbox.backends.transfer import Moved


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@json_option
@config_option
def backup(*, file: Path, as_json: bool) -> None:
    """Copy the database into FILE while the relay runs.

    One consistent snapshot, its counts verified, with what is spilled beside the
    database taken in. FILE holds personal data: it is for its owner only.
    """
    settings = read_settings(complete=False)
    source = sqlite_file(settings.database)
    if source is None:
        _use_pg(settings, f"pg_dump --format=custom --file={shlex.quote(str(file))}")
    existing_outbox(settings)
    if file.exists():
        raise FailedError(f"{file} is there already: name another file")
    # Before the snapshot: what is taken in meanwhile is then in it twice, not never.
    spilled = spilled_lines(spill_path(settings.database))
    made = _copied(source, file, spilled, settings)
    taken = {"spilled": len(spilled)} if as_json or spilled else {}
    _tell(made, "Backed up", {"file": str(file), **taken}, as_json=as_json)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Also where there are leads already.")
@json_option
@config_option
def restore(*, file: Path, force: bool, as_json: bool) -> None:
    """Put the backup FILE in the configured database's place.

    Stop the relays before: a database in use is never replaced. With --force one
    that holds leads is, and is kept beside the new one. Leads that were on their
    way are sent again, as after a crash; from a backup so old that Dub could count
    them twice they become unconfirmed, and a person decides.
    """
    settings = read_settings(complete=False)
    target = sqlite_file(settings.database)
    if target is None:
        name = shlex.quote(str(file))
        _use_pg(settings, f"pg_restore --clean --if-exists {name} --dbname")
    make_outbox(settings)
    from relay.outbox.backends import snapshot as copying  # noqa: PLC0415 - as in make_outbox

    # What is sent again may take so long, and must end before Dub forgets.
    window = max(0, KEY_MS - round(settings.delivery_retry_for * 1000))
    with _progress("restoring") as progress:
        made = _run_backup(
            lambda: copying.restore(
                file, target, now_ms(), force=force, window_ms=window, progress=progress
            )
        )
    leads = f"{sum(made.leads.values())} leads of {file.name}"
    write_audit(settings, "restore", "the database", leads)
    more: dict[str, Any] = {"database": str(target)}
    more |= {"setAside": made.set_aside} if as_json else {}
    more |= {"takenAt": None if made.taken_at is None else iso(made.taken_at)}
    if made.kept is not None:
        more["kept"] = str(made.kept)
    _tell(made, "Restored", more, as_json=as_json)
    if made.set_aside:
        say(
            "The backup is old: its open leads are unconfirmed now. See which ones"
            " Dub has, then: dub-relay leads retry --status unconfirmed"
        )


def _copied(
    source: Path, file: Path, spilled: list[bytes], settings: Settings
) -> Copied:
    """Make the copy under another name; FILE is there only once it is whole."""
    from relay.outbox.backends import snapshot as copying  # noqa: PLC0415 - as in make_outbox

    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    with _progress("copying") as progress:
        made = _run_backup(lambda: copying.backup(source, part, now_ms(), progress))
    if spilled:
        made = _run_backup(lambda: asyncio.run(_take_in(part, spilled, settings, made)))
    part.rename(file)
    copying.sync(file)
    return made


async def _take_in(
    part: Path, spilled: list[bytes], settings: Settings, made: Copied
) -> Copied:
    """Put what was spilled into the copy, so that one file holds everything."""
    from dataclasses import replace  # noqa: PLC0415

    from relay.capture.intake import Intake  # noqa: PLC0415 - as in make_outbox
    from relay.observability.metrics import Metrics  # noqa: PLC0415 - as above
    from relay.outbox.encryption import Seal  # noqa: PLC0415 - as above

    logs.configure("error")
    # What is encrypted stays so, in the spilled lines and in the copy.
    seal = Seal(settings.data_key)
    outbox = open_outbox(f"sqlite:///{part}", seal)
    await outbox.open()
    try:
        intake = Intake(
            outbox,
            dedupe_days=settings.dedupe_days,
            clock=now_ms,
            metrics=Metrics(),
        )
        spill = Spill(part.with_name("unused"), intake.store, seal)
        taken = await spill.take_copies(spilled)
        if taken < len(spilled):
            raise FailedError("what is spilled could not be put into the copy")
        return replace(made, leads=await outbox.counts())
    finally:
        await outbox.close()


def _run_backup(work: Callable[[], Copied]) -> Copied:
    try:
        return work()
    except OutboxError as error:
        raise FailedError(f"database: {error}") from error


def _use_pg(settings: Settings, command: str) -> NoReturn:
    """Name PostgreSQL's own tool, with its whole command line but the password."""
    # libpq asks for a password, or finds it in PGPASSWORD or ~/.pgpass.
    shown = masked_url(settings.database).replace(":***@", "@").removesuffix("?***")
    url = shlex.quote(shown)
    if settings.origins.get("database", "").startswith("environment"):
        url = '"$RELAY_DATABASE"'
    spill = spill_path(settings.database)
    raise click.UsageError(
        f"PostgreSQL has its own tool for that: {command} {url} (what is spilled is"
        f" in {spill}* beside the relay, if there is any)"
    )


def _tell(made: Copied, did: str, more: dict[str, Any], *, as_json: bool) -> None:
    counted = {one.value: made.leads[one] for one in LeadStatus if one in made.leads}
    total = sum(counted.values())
    if as_json:
        facts = {"leads": counted, "total": total, "attempts": made.attempts}
        click.echo(json.dumps(more | facts))
        return
    table(("STATUS", "LEADS"), list(counted.items()))
    click.echo(f"{did} {total} leads and {made.attempts} calls; the counts agree.")
    for name, value in more.items():
        click.echo(f"{name:<9} {value if value is not None else 'unknown'}")


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _, __: None
        return
    from rich.console import Console  # noqa: PLC0415 - only terminals wait for rich
    from rich.progress import Progress  # noqa: PLC0415 - as above

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, all_: bar.update(task, completed=done, total=all_)


# --- ``dub-relay migrate``: the schema of the database, and the way to another one. ---

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
@json_option
@config_option
def migrate(*, source: str | None, as_json: bool) -> None:
    """Bring the configured database to the schema of this version.

    serve does so too when it starts. With --from, all leads, their timelines, the
    circuit breaker and the budget are moved from an SQLite file into an empty
    PostgreSQL database. Stop the relays before; no relay will start on the file
    again. What was
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
    if moved is not None and not moved.before:
        leads = f"{sum(moved.leads.values())} leads from an SQLite file"
        write_audit(settings, "migrate", "the database", leads)
    if as_json:
        schema = {"schemaBefore": before, "schema": after}
        click.echo(json.dumps(schema | (_moved_json(moved) if moved else {})))
    elif moved is not None:
        _report(moved, file)


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


def _report(moved: Moved, source: Path | None) -> None:
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
