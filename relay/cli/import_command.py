"""``dub-relay leads import``: leads from before the relay, or of another ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, NamedTuple

import click

from relay.cli.base import (
    FailedError,
    config_option,
    json_option,
    printable,
    read_settings,
    run_with_outbox,
    say,
)
from relay.config.settings import Settings
from relay.operations.lead_import import (
    ImportTally,
    LeadImport,
    LedgerFile,
    WrongRowError,
)
from relay.operations.operator import Operator, system_user
from relay.outbox.contract import Outbox

SHOWN: Final = 10
"""Rows of which it is said what is wrong; the rest is counted."""

SHARE: Final = 4
"""The queue holds a quarter of a minute's leads at most, while an import adds to it."""


class _Options(NamedTuple):
    dry_run: bool
    skip_wrong: bool
    ahead: int | None


@click.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Only say what would be imported.")
@click.option(
    "--skip-wrong", is_flag=True, help="Import the rest of a file with wrong rows."
)
@click.option(
    "--ahead",
    type=click.IntRange(min=1),
    help="Leads that may wait in the queue before more are added to it."
    " [default: what is sent in 15 s]",
)
@json_option
@config_option
def import_leads(
    *, file: Path, dry_run: bool, skip_wrong: bool, ahead: int | None, as_json: bool
) -> None:
    """Take in leads of an export, or of another ledger: CSV or JSON lines.

    The columns are those of `leads export`; customerExternalId, eventName and createdAt
    must be there. Leads that Dub has, by their status, are kept and never sent. The
    others are sent, a few at a time behind the sign-ups that come meanwhile: the
    command takes as long as that does, and goes on where it stopped when it is run
    again. Try --dry-run first.
    """
    settings = read_settings(complete=False)
    options = _Options(dry_run, skip_wrong, ahead)
    try:
        with file.open("rb") as opened:
            ledger = LedgerFile(opened)
            if unknown := ledger.unknown_columns:
                say(f"Nothing reads these columns: {printable(', '.join(unknown))}.")
            tally = _imported(settings, ledger, file.name, options)
    except OSError as error:
        raise FailedError(f"{printable(file)}: {error.strerror}") from error
    except WrongRowError as error:
        raise FailedError(f"{printable(file)}: {error}") from error

    for line in tally.wrong[:SHOWN]:
        say(printable(line))
    if as_json:
        click.echo(json.dumps(tally.json()))
    else:
        click.echo(f"{'Would import' if dry_run else 'Imported'}: {_words(tally)}")
    if tally.wrong and not skip_wrong:
        nothing = "" if dry_run else "nothing was imported; "
        raise FailedError(f"{nothing}mend these rows, or give --skip-wrong")


def _imported(
    settings: Settings, ledger: LedgerFile, name: str, options: _Options
) -> ImportTally:
    async def run(outbox: Outbox) -> ImportTally:
        work = LeadImport(
            ledger, outbox, ahead=options.ahead or _ahead(settings), waiting=_Waiting()
        )
        tally = work.check()
        if tally.wrong and not options.skip_wrong and not options.dry_run:
            return tally
        if options.dry_run:
            await work.preview(tally)
            return tally
        say(f"{tally.leads} leads to be imported.")
        await work.run(tally)
        operator = Operator(outbox, system_user())
        await operator.note("import", name, _words(tally))
        return tally

    return run_with_outbox(settings, run)


class _Waiting:
    """Says once that an import waits for the queue."""

    def __init__(self) -> None:
        self._said = False

    def __call__(self, leads: int) -> None:
        if not self._said:
            self._said = True
            say(
                f"{leads} leads are in the queue and go first. This may be interrupted:"
                " the same command goes on from there."
            )


def _ahead(settings: Settings) -> int:
    calls = 2 if settings.two_step else 1
    return max(1, settings.delivery_rate // calls // SHARE)


def _words(tally: ImportTally) -> str:
    return (
        f"{tally.new} new, {tally.to_be_sent} of them to be sent; {tally.duplicate}"
        f" known already, {tally.erased} erased before, {tally.refunds} refunds,"
        f" {len(tally.wrong)} wrong"
    )
