"""``dub-relay alerts``: what stands, and whether the webhook takes a message."""

from __future__ import annotations

import asyncio
import json

import click

from relay.cli.base import (
    FailedError,
    config_option,
    read_settings,
    run_with_outbox,
    table,
)
from relay.config.settings import ConfigError
from relay.core.clock import (
    iso,
    now_ms,
)
from relay.outbox.contract import Alert, Outbox


@click.group(no_args_is_help=True)
@config_option
def alerts() -> None:
    """See what the operator's webhook was told, and try it."""


@alerts.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@config_option
def list_alerts(*, as_json: bool) -> None:
    """List what is wrong now, as the running relays have seen it."""

    async def read(outbox: Outbox) -> list[Alert]:
        return sorted(await outbox.alerts(), key=lambda one: one.since)

    found = run_with_outbox(read_settings(complete=False), read)
    if as_json:
        for one in found:
            click.echo(json.dumps(json.loads(one.body) | {"sent": one.due_at is None}))
        return
    if not found:
        click.echo("Nothing stands: all is well, or no relay looks (alerts.url).")
        return
    table(("SINCE", "CAUSE", "TOLD", "SUMMARY"), map(_row, found))


def _row(alert: Alert) -> tuple[object, ...]:
    told = "yes" if alert.due_at is None else f"not yet, {alert.attempts} tries"
    summary = json.loads(alert.body)["data"]["summary"]
    return iso(alert.since)[:19] + "Z", alert.cause.partition(":")[0], told, summary


@alerts.command("test")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@config_option
def test_alert(*, as_json: bool) -> None:
    """Send the webhook a signed test message; exit 1 if it does not take it."""
    settings = read_settings(complete=False)
    if settings.alerts_url is None:
        raise ConfigError("RELAY_ALERTS_URL: is required to send an alert")
    # Here, because it loads an HTTP client.
    from relay.operations.alerts import messages, webhook  # noqa: PLC0415

    message = messages.trial(now_ms())
    taken, answer = asyncio.run(
        webhook.post(settings.alerts_url, settings.alerts_secret, message, now_ms())
    )
    if as_json:
        click.echo(json.dumps({"taken": taken, "answer": answer}))
        return
    if not taken:
        raise FailedError(f"alerts.url did not take the message: {answer}")
    click.echo(f"alerts.url took the message {message.message_id}: {answer}")
