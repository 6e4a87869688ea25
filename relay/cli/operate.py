"""Commands of the one who runs a relay: stats, health, delivery, completion."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Final

import click
from click.shell_completion import get_completion_class

from relay.capture.spill import spill_path
from relay.cli.base import (
    FailedError,
    config_option,
    json_lines_option,
    json_option,
    printable,
    read_settings,
    run_with_outbox,
    since_time,
    table,
)
from relay.config.settings import ConfigError, Settings
from relay.core.clock import iso, now_ms
from relay.core.leads import LeadStatus
from relay.observability.metrics import Metrics
from relay.operations.looks import Report, report_json
from relay.operations.operator import Operator, system_user
from relay.operations.presentation import span
from relay.operations.reconcile import (
    BusyError,
    Reconciler,
    reading_client,
    reconciler,
)
from relay.operations.status import Overview, delivery_state, look, overview_json
from relay.outbox.contract import Alert, Outbox, Query

_DELIVERY = {
    "going": "going on",
    "parked": "WAITS FOR A PERSON",
    "down": "waits for Dub",
}


@click.command()
@json_option
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
            outbox, spill_path(settings.database), settings.delivery_rate, outbox.now()
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


@click.command()
@click.option(
    "--since",
    callback=since_time,
    metavar="T",
    help="From then on: ISO 8601, or such as 7d for ago. Default: where the last look"
    " ended.",
)
@json_option
@config_option
def reconcile(*, since: int | None, as_json: bool) -> None:
    """Compare the ledger with Dub's own list of events; exit 1 if they differ.

    Confirms what the list shows, settles what is in doubt, and names what Dub does
    not have or has twice. A relay does so by itself every hour; that and this take
    turns.
    """
    settings = read_settings()

    async def look(outbox: Outbox) -> tuple[Report, list[str], list[str]]:
        async with reading_client(settings) as dub:
            looking = reconciler(settings, outbox, dub, Metrics())
            report = await _when_free(looking, since)
        missing = await outbox.list(Query(missing=True))
        doubled = await outbox.list(Query(doubled=True))
        return report, [e.lead.id for e in missing], [e.lead.id for e in doubled]

    report, missing, doubled = run_with_outbox(settings, look)
    said = report_json(report)
    if as_json:
        said |= {"missingLeads": missing, "doubledLeads": doubled}
        click.echo(json.dumps(said))
    else:
        for line in _report_lines(report, missing, doubled):
            click.echo(printable(line))
    if report.missing or report.doubled:
        raise click.exceptions.Exit(1)


async def _when_free(looking: Reconciler, since: int | None) -> Report:
    """Look once it is our turn: a relay that looks ends within minutes."""
    give_up = monotonic() + TURN_S
    while True:
        try:
            return await looking.once(since)
        except BusyError:
            if monotonic() > give_up:
                raise FailedError(
                    f"a relay has been comparing for {TURN_S:.0f} s: try later"
                ) from None
            await asyncio.sleep(1)


def _report_lines(
    report: Report, missing: Sequence[str], doubled: Sequence[str]
) -> Iterator[str]:
    if report.not_provable:
        yield f"Nothing is provable: Dub says “{report.not_provable}”"
        yield "The API key needs the permission analytics.read, on the Business plan."
        return
    yield (
        f"{report.checked} compared, {report.confirmed} confirmed,"
        f" {report.settled} in doubt settled, in {report.calls} calls."
    )
    for source, events in report.elsewhere.items():
        yield f"{events} at Dub from {source}."
    if report.unfinished:
        yield f"Ended early: {report.unfinished}. The next look goes on from there."
    for ids, word in ((missing, "MISSING at Dub"), (doubled, "DOUBLED at Dub")):
        yield from (f"{word}: {lead_id}" for lead_id in ids)
    if not missing and not doubled:
        yield "Nothing is missing at Dub, and nothing is there twice."


def _facts(seen: Overview) -> Iterator[tuple[str, str]]:
    yield "total", str(sum(seen.leads.values()))
    yield "oldest", _oldest(seen)
    yield "delivery", _delivery(seen)
    yield "rate", _rate(seen)
    yield "spilled", _spilled(seen)
    yield "at Dub", _at_dub(seen)
    yield "disk", f"{seen.disk.used:.0%} used, {seen.disk.free // 2**20} MiB free"


def _at_dub(seen: Overview) -> str:
    known = seen.reconciled
    if known.not_provable:
        return f"not provable: {known.not_provable}"
    if known.read_until is None:
        return "not compared yet"
    missing, doubled = seen.findings
    return f"compared until {iso(known.read_until)}: {missing} missing, {doubled} twice"


def _oldest(seen: Overview) -> str:
    if seen.oldest_open is None:
        return "no lead waits"
    age = span(seen.at - seen.oldest_open)
    return f"an open lead waits since {iso(seen.oldest_open)} ({age})"


def _delivery(seen: Overview) -> str:
    circuit = seen.circuit
    words = _DELIVERY[delivery_state(circuit)]
    if not circuit.open:
        return words
    probe = f"; next probe at {iso(circuit.probe_at)}" if circuit.probe_at else ""
    return f"{words}: {circuit.reason or 'no reason kept'}{probe}"


def _rate(seen: Overview) -> str:
    paused = f", paused until {iso(seen.paused_until)}" if seen.paused_until else ""
    return f"{seen.rate:.0f} of {seen.plan} calls a minute{paused}"


def _spilled(seen: Overview) -> str:
    if not seen.spilled.bytes:
        return "nothing"
    return f"{seen.spilled.bytes} bytes wait beside the database to be taken in"


TURN_S: Final = 600.0
"""How long `reconcile` waits for a relay that looks just now."""

TIMEOUT_S: Final = 5.0
"""readyz commits something, which may take as long as a slow disk."""

_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not bound


@click.command()
@click.option(
    "--ready",
    is_flag=True,
    help="Whether it takes leads, not only whether it is alive.",
)
@json_option
@config_option
def health(*, ready: bool, as_json: bool) -> None:
    """Ask the relay that these settings start; exit 1 if it is not well."""
    settings = read_settings(complete=False)
    path = f"{settings.prefix}/{'readyz' if ready else 'livez'}"
    try:
        status, said = _ask(settings, path)
    except OSError as error:
        raise FailedError(
            f"nothing answers at {settings.listen}: {error.strerror or error}"
        ) from error
    except http.client.HTTPException as error:
        raise FailedError(f"no relay answers at {settings.listen}") from error
    if status != http.HTTPStatus.OK:
        raise FailedError(printable(f"{path}: {_message(said)} ({status})"))
    click.echo(said.decode() if as_json else f"{path}: {json.loads(said)['status']}")


def _message(said: bytes) -> str:
    """Read an error of the relay's shape."""
    try:
        return str(json.loads(said)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "no answer of a relay's"


def _ask(settings: Settings, path: str) -> tuple[int, bytes]:
    listen = settings.listen
    connection = http.client.HTTPConnection("localhost", timeout=TIMEOUT_S)
    if listen.unix is not None:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(TIMEOUT_S)
        connection.sock.connect(listen.unix)
    else:
        host = _ANYWHERE.get(listen.host, listen.host)
        connection.sock = socket.create_connection((host, listen.port), TIMEOUT_S)
    if settings.tls_cert is not None:
        # Itself, on this machine: its certificate names the site.
        trusting = ssl._create_unverified_context()  # noqa: S323, SLF001
        connection.sock = trusting.wrap_socket(connection.sock)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(65_536)
    finally:
        connection.close()


@click.group(no_args_is_help=True)
@config_option
def delivery() -> None:
    """Pause delivery on all relays of this database, and resume it."""


@delivery.command()
@json_option
@config_option
def pause(*, as_json: bool) -> None:
    """Make no call to Dub until somebody resumes; sign-ups are still stored."""
    _set_paused(paused=True, as_json=as_json)


@delivery.command()
@json_option
@config_option
def resume(*, as_json: bool) -> None:
    """Let delivery go on; what waits is sent within a second."""
    _set_paused(paused=False, as_json=as_json)


def _set_paused(*, paused: bool, as_json: bool) -> None:
    async def work(outbox: Outbox) -> str:
        return await Operator(outbox, system_user()).pause(paused=paused)

    done = run_with_outbox(read_settings(complete=False), work)
    click.echo(json.dumps({"paused": paused}) if as_json else done)


_SHELLS: Final = ("bash", "zsh", "fish")


@click.command(
    epilog="\b\n"
    'bash, in ~/.bashrc:  eval "$(dub-relay completion bash)"\n'
    'zsh, in ~/.zshrc:    eval "$(dub-relay completion zsh)"\n'
    "fish:  dub-relay completion fish > ~/.config/fish/completions/dub-relay.fish"
)
@click.argument("shell", type=click.Choice(_SHELLS))
@config_option
def completion(*, shell: str) -> None:
    """Print a script that makes the shell complete dub-relay's words."""
    make = get_completion_class(shell)
    root = click.get_current_context().find_root()
    if make is None:
        raise click.UsageError(f"there is no completion for {shell}")
    # click looks for this variable to know that a shell asks.
    variable = "_DUB_RELAY_COMPLETE"
    name = root.info_name or "dub-relay"
    click.echo(make(root.command, {}, name, variable).source())


# --- ``dub-relay alerts``: what stands, and whether the webhook takes a message. ---


@click.group(no_args_is_help=True)
@config_option
def alerts() -> None:
    """See what was reported to the operator's webhook, and try it."""


@alerts.command("list")
@json_lines_option
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
    shown = "yes" if alert.due_at is None else f"not yet, {alert.attempts} tries"
    summary = json.loads(alert.body)["data"]["summary"]
    return iso(alert.since)[:19] + "Z", alert.cause.partition(":")[0], shown, summary


@alerts.command("test")
@json_option
@config_option
def test_alert(*, as_json: bool) -> None:
    """Send the webhook a signed test message; exit 1 if it does not take it."""
    settings = read_settings(complete=False)
    if settings.alerts_url is None:
        raise ConfigError("RELAY_ALERTS_URL: is required to send an alert")
    # Here, because it loads an HTTP client.
    from relay.operations.alerts import causes, watcher  # noqa: PLC0415

    message = causes.trial(now_ms())
    taken, answer = asyncio.run(
        watcher.post(settings.alerts_url, settings.alerts_secret, message, now_ms())
    )
    if as_json:
        click.echo(json.dumps({"taken": taken, "answer": answer}))
        return
    if not taken:
        raise FailedError(f"alerts.url did not take the message: {answer}")
    click.echo(f"alerts.url took the message {message.message_id}: {answer}")
