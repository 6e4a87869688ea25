"""``dub-relay stats``: whether leads flow, at a glance, relay running or not."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click

from relay.capture.spill import spill_path
from relay.cli.base import (
    config_option,
    printable,
    read_settings,
    run_with_outbox,
    table,
)
from relay.core.clock import (
    iso,
    now_ms,
)
from relay.core.leads import LeadStatus
from relay.operations.presentation import span
from relay.operations.status import (
    Overview,
    delivery_state,
    look,
    overview_json,
)

_DELIVERY = {
    "going": "going on",
    "parked": "WAITS FOR A PERSON",
    "down": "waits for Dub",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@config_option
def stats(*, as_json: bool) -> None:
    """Count the leads by state, and say how delivery stands.

    Reads the database itself: no relay needs to run, and one that runs is not
    disturbed.
    """
    settings = read_settings(complete=False)
    seen = run_with_outbox(
        settings,
        lambda outbox: look(
            outbox, spill_path(settings.database), settings.delivery_rate, now_ms()
        ),
    )
    if as_json:
        click.echo(json.dumps(overview_json(seen)))
        return
    table(
        ("STATUS", "LEADS"),
        [(status.value, seen.leads.get(status, 0)) for status in LeadStatus],
    )
    for name, value in _facts(seen):
        click.echo(f"{name:<9} {printable(value)}")


def _facts(seen: Overview) -> Iterator[tuple[str, str]]:
    yield "total", str(sum(seen.leads.values()))
    yield "oldest", _oldest(seen)
    yield "delivery", _delivery(seen)
    yield "rate", _rate(seen)
    yield "spilled", _spilled(seen)
    yield "disk", f"{seen.disk.used:.0%} used, {seen.disk.free // 2**20} MiB free"


def _oldest(seen: Overview) -> str:
    if seen.oldest_open is None:
        return "no lead waits"
    age = span(seen.at - seen.oldest_open)
    return f"an open lead waits since {iso(seen.oldest_open)} ({age})"


def _delivery(seen: Overview) -> str:
    gate = seen.gate
    words = _DELIVERY[delivery_state(gate)]
    if not gate.closed:
        return words
    probe = f"; next probe at {iso(gate.probe_at)}" if gate.probe_at else ""
    return f"{words}: {gate.reason or 'no reason kept'}{probe}"


def _rate(seen: Overview) -> str:
    paused = f", paused until {iso(seen.paused_until)}" if seen.paused_until else ""
    return f"{seen.rate:.0f} of {seen.plan} calls a minute{paused}"


def _spilled(seen: Overview) -> str:
    if not seen.spilled.bytes:
        return "nothing"
    return f"{seen.spilled.bytes} bytes wait beside the database to be taken in"
