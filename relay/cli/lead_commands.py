"""``dub-relay leads``: look at leads and send them again, relay running or not."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

import click

from relay.cli.base import (
    Command,
    CommandGroup,
    FailedError,
    config_option,
    csv_rows,
    json_lines_option,
    printable,
    read_settings,
    run_with_outbox,
    say,
    since_time,
    table,
)
from relay.core.clock import (
    iso,
)
from relay.core.leads import RETRYABLE, Attempt, LeadRecord, LeadStatus
from relay.operations.operator import Operator, system_user
from relay.operations.presentation import (
    CREDIT_COLUMNS,
    STEP_WORDS,
    click_origin,
    cookie_story,
    credit_overview,
    credit_words,
    entry_json,
    events_words,
    kind_of,
    next_attempt_at,
    next_step,
    sale_words,
    span,
    story_json,
)
from relay.outbox.contract import Circuit, Outbox, Query

PLAIN_LIMIT: Final = 50
"""Rows of a listing for people; a program that asks for --json gets all."""

_COLUMNS: Final = ("ID", "STATUS", "CAPTURED", "EVENT", "CUSTOMER", "NEWS")
"""Few, so that a row fits a terminal beside its 37 characters of id."""


def _status(
    _: click.Context, __: click.Parameter, value: str | None
) -> LeadStatus | None:
    return LeadStatus(value) if value else None


def _statuses(chosen: Sequence[LeadStatus]) -> click.Choice[str]:
    return click.Choice([status.value for status in chosen])


limit_option = click.option(
    "--limit", type=click.IntRange(min=1), help="At most so many, the newest."
)


@click.group(
    cls=CommandGroup,
    elsewhere={
        "export": "relay.cli.privacy:export",
        "forget": "relay.cli.privacy:forget",
        "rekey": "relay.cli.privacy:rekey",
        "import": "relay.cli.import_command:import_leads",
        "recover": "relay.cli.recover_command:recover",
    },
    no_args_is_help=True,
)
@config_option
def leads() -> None:
    """Look at the leads, and send them again.

    Reads the database itself: no relay needs to run, and one that runs is not
    disturbed.
    """


def filters(command: Command) -> Command:
    """Add the options that choose leads, each named as its field of a Query."""
    options = (
        click.option(
            "--status",
            type=_statuses(list(LeadStatus)),
            callback=_status,
            help="Only leads in this state.",
        ),
        click.option("--customer", metavar="ID", help="Only this customer's leads."),
        click.option("--link", metavar="ID", help="Only leads of this link of Dub's."),
        click.option("--partner", metavar="ID", help="Only leads of this partner."),
        click.option(
            "--missing", is_flag=True, help="Only what Dub took and does not have."
        ),
        click.option("--doubled", is_flag=True, help="Only what Dub has too often."),
        click.option(
            "--since",
            callback=since_time,
            metavar="T",
            help="Only leads captured since then: ISO 8601, or such as 2h for ago.",
        ),
        limit_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


@leads.command("list")
@filters
@json_lines_option
@config_option
def list_leads(*, limit: int | None, as_json: bool, **wanted: Any) -> None:
    """List leads, newest first: 50 unless --limit says more, all with --json."""
    shown = limit if limit or as_json else PLAIN_LIMIT
    # One more than is shown says whether there are more.
    query = Query(limit=shown + 1 if shown else None, **wanted)
    entries = run_with_outbox(read_settings(complete=False), lambda o: o.list(query))
    if as_json:
        for entry in entries[:shown]:
            click.echo(json.dumps(entry_json(entry)))
        return
    table(_COLUMNS, map(_row, entries[:shown]))
    if shown and len(entries) > shown and limit is None:
        say(f"There are more than these {shown}: --limit N shows them.")


def _row(entry: LeadRecord) -> tuple[object, ...]:
    lead = entry.lead
    return (
        lead.id,
        entry.status,
        _to_seconds(lead.created_at),
        lead.event_name,
        lead.customer_external_id,
        _news(entry),
    )


def _news(entry: LeadRecord) -> str:
    due = next_attempt_at(entry)
    if entry.last_error and due is not None:
        return f"{entry.last_error}; again at {_to_seconds(due)}"
    return entry.last_error or (entry.lead.notes[0] if entry.lead.notes else "")


def _to_seconds(at: int) -> str:
    """Write a time as ISO 8601 without the milliseconds that nobody reads here."""
    return iso(at)[:19] + "Z"


_CREDIT_HEAD: Final = (
    *("PARTNER", "LINK", "LINK ID", "SIGN-UPS", "DELIVERED", "CONFIRMED", "IN DOUBT"),
    *("REJECTED", "OTHER"),
)


@leads.command("credit")
@click.option(
    "--since",
    callback=since_time,
    default="30d",
    show_default=True,
    metavar="T",
    help="Leads captured since then: ISO 8601, or such as 30d for ago.",
)
@click.option("--csv", "as_csv", is_flag=True, help="As a table for spreadsheets.")
@json_lines_option
@config_option
def list_credit(*, since: int, as_csv: bool, as_json: bool) -> None:
    """Count leads by the partner and the link that Dub credits, most first.

    Landings are not counted: only Dub knows which link a click belongs to.
    """
    counted = run_with_outbox(
        read_settings(complete=False), lambda o: o.credits_since(since)
    )
    rows = credit_overview(counted)
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    elif as_csv:
        write = csv_rows(sys.stdout)
        write(CREDIT_COLUMNS)
        for row in rows:
            write(row[column] for column in CREDIT_COLUMNS)
    else:
        table(
            _CREDIT_HEAD,
            [["" if v is None else v for v in row.values()] for row in rows],
        )


@leads.command()
@click.argument("lead_id", metavar="ID")
@json_lines_option
@config_option
def show(*, lead_id: str, as_json: bool) -> None:
    """Show the whole timeline of one lead, the customer's own data included."""

    async def look(outbox: Outbox) -> tuple[LeadRecord, list[Attempt], Circuit, int]:
        entry = await outbox.get(lead_id)
        if entry is None:
            raise FailedError(f"no lead {printable(lead_id)} in this database")
        attempts, circuit = await outbox.attempts(lead_id), await outbox.circuit()
        return entry, attempts, circuit, outbox.now()

    entry, attempts, circuit, now = run_with_outbox(read_settings(complete=False), look)
    if as_json:
        click.echo(json.dumps(story_json(entry, attempts, circuit, now)))
        return
    for line in story(entry, attempts, circuit, now):
        click.echo(line)


def story(
    entry: LeadRecord, attempts: Sequence[Attempt], circuit: Circuit, now: int
) -> Iterator[str]:
    """Write a lead's timeline in plain lines: captured, noted, called, and next."""
    yield f"{entry.lead.id} is {entry.status}."
    yield ""
    for name, value in _facts(entry, now):
        if value not in (None, ""):
            yield f"  {name:<9} {printable(value)}"
    if entry.lead.notes:
        yield from ("", "Noted:")
        yield from (f"  - {printable(note)}" for note in entry.lead.notes)
    yield from ("", "Calls to Dub:" if attempts else "No call to Dub so far.")
    yield from map(_attempt_line, attempts)
    if entry.last_error and not (attempts and attempts[-1].outcome == entry.last_error):
        yield from ("", f"Reason: {printable(entry.last_error)}")
    yield from ("", f"Next: {printable(next_step(entry, circuit, now))}")


def _facts(entry: LeadRecord, now: int) -> Iterator[tuple[str, object]]:
    lead = entry.lead
    ago = span(now - lead.created_at)
    yield "captured", f"{iso(lead.created_at)} ({ago} ago) by {lead.source}"
    yield "rule", lead.origin.get("rule")
    yield "click", f"{lead.click_id or '(none)'}, from {click_origin(entry)}"
    yield "cookie", cookie_story(entry)
    yield "event", lead.event_name
    if lead.sale is None:
        yield "quantity", lead.event_quantity
        yield "mode", lead.mode
    else:
        yield kind_of(lead), sale_words(lead.sale)
    yield "customer", lead.customer_external_id
    yield "name", lead.customer_name
    yield "e-mail", lead.customer_email
    yield "avatar", lead.customer_avatar
    yield "metadata", json.dumps(dict(lead.metadata)) if lead.metadata else None
    yield "trace", lead.origin.get("traceparent")
    yield "delivered", iso(entry.delivered_at) if entry.delivered_at else None
    yield "credited", credit_words(entry.link)
    yield "at Dub", events_words(entry)


def _attempt_line(attempt: Attempt) -> str:
    answer = f"HTTP {attempt.http_status}" if attempt.http_status else "no answer"
    return (
        f"  {iso(attempt.at)}  {STEP_WORDS[attempt.step]:<15}  {answer:<9}"
        f" {attempt.duration_ms:>6} ms  {printable(attempt.outcome)}"
    )


@leads.command()
@click.argument("lead_ids", metavar="[ID]...", nargs=-1)
@click.option(
    "--status",
    type=_statuses(sorted(RETRYABLE)),
    callback=_status,
    help="Every lead in this state, instead of ids.",
)
@click.option("--dry-run", is_flag=True, help="Only say which ones.")
@limit_option
@json_lines_option
@config_option
def retry(
    *,
    lead_ids: tuple[str, ...],
    status: LeadStatus | None,
    dry_run: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    """Send held, parked, rejected or unconfirmed leads again.

    Never one that Dub has taken. Says first how many.
    """
    if bool(lead_ids) == bool(status):
        raise click.UsageError("Give either lead ids or --status.")
    settings = read_settings(complete=False)
    refused: list[str] = []

    async def send(outbox: Outbox) -> None:
        operator = Operator(outbox, system_user())
        if status is not None:
            entries, subject = await operator.in_state(status, limit), f"all {status}"
        else:
            entries, why = await operator.named(lead_ids)
            refused.extend(why)
            subject = lead_ids[0] if len(lead_ids) == 1 else f"{len(lead_ids)} leads"
        chosen = entries[:limit]
        count = f"{len(chosen)} lead{'' if len(chosen) == 1 else 's'}"
        # With --json stdout belongs to the program that reads it.
        verb = "would be" if dry_run else "to be"
        click.echo(f"{count} {verb} sent again", err=as_json)
        sent = chosen
        if chosen and not dry_run:
            done = await operator.retry(
                chosen, subject, dedupe_days=settings.dedupe_days
            )
            refused.extend(done.refused)
            sent = list(done.sent)
        before = {one.lead.id: one.status for one in chosen}
        for entry in sorted(sent, key=lambda entry: entry.lead.created_at):
            lead_id = entry.lead.id
            after = LeadStatus.QUEUED if dry_run else entry.status
            line = f"{lead_id}  {before[lead_id]} -> {after}"
            if after is LeadStatus.WAITING:
                line += f" until {iso(entry.due_at or 0)}: {entry.last_error}"
            click.echo(json.dumps(entry_json(entry)) if as_json else line)
        if chosen and (circuit := await outbox.circuit()).open:
            waits_for = "a person" if circuit.parks else "Dub"
            say(f"Delivery waits for {waits_for}: {printable(circuit.reason)}")

    run_with_outbox(settings, send)
    if refused:
        raise FailedError("; ".join(map(printable, refused)))
