"""``dub-relay leads export``, ``forget`` and ``rekey``: what is kept, and how long."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from relay.cli.base import (
    FailedError,
    config_option,
    csv_rows,
    json_lines_option,
    printable,
    read_settings,
    run_with_outbox,
    say,
)
from relay.cli.lead_commands import (
    filters,
)
from relay.config.settings import (
    ConfigError,
    Settings,
)
from relay.core.leads import LeadRecord, LeadStatus
from relay.operations.operator import Operator, system_user
from relay.operations.presentation import (
    EXPORT_COLUMNS,
    export_json,
    export_row,
)
from relay.outbox.contract import Forgotten, Outbox, Query, Wanted
from relay.outbox.personal_data import ON_THE_WAY

if TYPE_CHECKING:
    from relay.operations.operator import Erased

REKEY_BATCH: Final = 500
"""Leads written anew in one transaction: some milliseconds, in which others wait."""

Write = Callable[[LeadRecord], object]


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl"]),
    required=True,
    help="CSV for spreadsheets, or one JSON object a line.",
)
@filters
@click.option("--output", metavar="FILE", help="Write there instead of to stdout.")
@config_option
def export(
    *,
    form: str,
    output: str | None,
    **wanted: Any,
) -> None:
    """Write leads out, newest first, the customers' own data included.

    In CSV a cell that a spreadsheet would take for a formula gets a ' before it.
    """
    query = Query(**wanted)
    with _opened(output) as stream:
        write = _csv_writer(stream) if form == "csv" else _json_writer(stream)

        async def run(outbox: Outbox) -> int:
            count = 0
            async for entry in outbox.scan(query):
                write(entry)
                count += 1
            return count

        count = run_with_outbox(read_settings(complete=False), run)
    if output is not None:
        say(f"Wrote {_leads(count)} to {printable(output)}.")


@contextlib.contextmanager
def _opened(output: str | None) -> Iterator[TextIO]:
    """Return stdout, or a file that takes its name only once it is complete."""
    if output is None:
        yield sys.stdout
        return
    path = Path(output)
    part = path.with_name(f"{path.name}.part")
    try:
        # For its owner alone: it holds personal data.
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(  # noqa: PTH123 - of a descriptor
            descriptor, "w", encoding="utf-8", errors="backslashreplace", newline=""
        ) as stream:
            yield stream
        part.replace(path)
    except OSError as error:
        raise FailedError(f"--output: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _json_writer(stream: TextIO) -> Write:
    def write(entry: LeadRecord) -> None:
        stream.write(json.dumps(export_json(entry)) + "\n")

    return write


def _csv_writer(stream: TextIO) -> Write:
    write_row = csv_rows(stream)
    write_row(EXPORT_COLUMNS)
    return lambda entry: write_row(export_row(entry))


@click.command()
@click.argument("customer", metavar="[CUSTOMER_ID]", required=False)
@click.option("--lead", "lead_id", metavar="ID", help="One lead's data instead.")
@click.option(
    "--yes", is_flag=True, help="Also leads that are on their way: they are not sent."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be erased.")
@json_lines_option
@config_option
def forget(
    *,
    customer: str | None,
    lead_id: str | None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Erase one customer's personal data everywhere, dead letters too.

    From the database, its write-ahead log and the spill file, relays running or
    not. What happened stays, under a hash of the customer's id: a sign-up that
    comes again is still a repeat. Repeating the command is harmless.
    """
    if bool(customer) == bool(lead_id):
        raise click.UsageError("Give either a customer's id or --lead.")
    settings = read_settings(complete=False)
    wanted = Wanted(customer, lead_id)
    found = run_with_outbox(settings, lambda outbox: _found(outbox, wanted))
    _say_found(found, dry_run=dry_run, as_json=as_json)
    if dry_run:
        return
    _confirm(found, yes=yes)
    erased = _forget(settings, wanted)
    if as_json:
        click.echo(json.dumps(_erased_json(erased)))
    else:
        _say_erased(erased)
    if erased.problem is not None:
        raise FailedError(erased.problem)


async def _found(outbox: Outbox, wanted: Wanted) -> list[LeadRecord]:
    if wanted.lead_id is not None:
        entry = await outbox.get(wanted.lead_id)
        return [] if entry is None else [entry]
    return await outbox.list(Query(customer=wanted.customer))


def _say_found(found: list[LeadRecord], *, dry_run: bool, as_json: bool) -> None:
    fresh = _count([entry for entry in found if entry.erased_at is None])
    if dry_run and as_json:
        click.echo(json.dumps({"wouldErase": fresh}))
        return
    verb = "would be erased" if dry_run else "to be erased"
    said = f"{_leads(sum(fresh.values()))} {verb}{_by_status(fresh)}"
    # With --json stdout belongs to the program that reads it.
    click.echo(said, err=as_json)


def _confirm(found: list[LeadRecord], *, yes: bool) -> None:
    """Ask before leads are erased that Dub would still get."""
    losing = [
        one for one in found if one.erased_at is None and one.status in ON_THE_WAY
    ]
    if yes or not losing:
        return
    lost = f"{_leads(len(losing))} on the way to Dub would never be sent"
    if sys.stdin.isatty():
        click.confirm(f"{lost}. Erase all the same?", abort=True)
        return
    raise FailedError(f"{lost}: wait until they are delivered, or give --yes")


def _forget(settings: Settings, wanted: Wanted) -> Erased:
    # Here, so that the other commands do not wait for it.
    from relay.outbox.encryption import Seal  # noqa: PLC0415

    seal = Seal(settings.data_key)

    async def erase(outbox: Outbox) -> Erased:
        operator = Operator(outbox, system_user())
        return await operator.forget(wanted, settings.database, seal)

    try:
        return run_with_outbox(settings, erase)
    except OSError as error:
        raise FailedError(f"spill file: {error.strerror}") from error


def _say_erased(erased: Erased) -> None:
    counts = erased.forgotten.leads
    click.echo(f"Erased {_leads(sum(counts.values()))}{_by_status(counts)}.")
    if erased.forgotten.before:
        click.echo(f"{_leads(erased.forgotten.before)} had been erased before.")
    if erased.spilled:
        click.echo(f"Erased {_leads(erased.spilled)} from the spill file.")


def _erased_json(erased: Erased) -> dict[str, Any]:
    return {
        "erased": dict(erased.forgotten.leads),
        "erasedBefore": erased.forgotten.before,
        "spilled": erased.spilled,
        "problem": erased.problem,
    }


@click.command()
@click.option(
    "--decrypt", is_flag=True, help="Write everything without encryption again."
)
@json_lines_option
@config_option
def rekey(*, decrypt: bool, as_json: bool) -> None:
    """Encrypt all personal data with the first key of RELAY_DATA_KEY.

    Relays may run meanwhile, if they have the same list. Afterwards the other keys
    can leave the list. What was interrupted goes on when it is run again.
    """
    settings = read_settings(complete=False)
    if not settings.data_key:
        raise ConfigError("RELAY_DATA_KEY: is required to encrypt or decrypt data")
    totals = run_with_outbox(settings, _rekey_all, decrypt=decrypt)
    done = "decrypted" if decrypt else "encrypted with the first key"
    click.echo(
        json.dumps(totals) if as_json else f"{_leads(totals['changed'])} {done}."
    )
    if totals["busy"]:
        say(f"{_leads(totals['busy'])} changed meanwhile: run it again.")
    if totals["unreadable"]:
        raise FailedError(
            f"{_leads(totals['unreadable'])} cannot be decrypted: a key is missing"
            " in RELAY_DATA_KEY"
        )


async def _rekey_all(outbox: Outbox) -> dict[str, int]:
    totals = {"changed": 0, "unreadable": 0, "busy": 0}
    last: int | None = 0
    while last is not None:
        done = await outbox.rekey(last, REKEY_BATCH)
        last = done.last
        for name in totals:
            totals[name] += getattr(done, name)
    await outbox.scrub(Forgotten({}))
    counted = ", ".join(f"{number} {name}" for name, number in totals.items())
    await Operator(outbox, system_user()).note("rekey", "all leads", counted)
    return totals


def _count(entries: list[LeadRecord]) -> dict[LeadStatus, int]:
    counts: dict[LeadStatus, int] = {}
    for entry in entries:
        counts[entry.status] = counts.get(entry.status, 0) + 1
    return counts


def _by_status(counts: Mapping[LeadStatus, int]) -> str:
    said = ", ".join(f"{counts[one]} {one}" for one in LeadStatus if counts.get(one))
    return f" ({said})" if said else ""


def _leads(count: int) -> str:
    return f"{count} lead{'' if count == 1 else 's'}"
