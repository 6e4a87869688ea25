"""``dub-relay leads recover``: leads of sign-ups that went around the relay."""

from __future__ import annotations

import json
from pathlib import Path

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
from relay.config.settings import ConfigError
from relay.operations.operator import Operator, system_user
from relay.outbox.contract import Outbox


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Only say what would become of them.")
@click.option(
    "--remove",
    is_flag=True,
    help="Overwrite what is settled, so that no personal data of it is left in FILE.",
)
@json_option
@config_option
def recover(*, file: Path, dry_run: bool, remove: bool, as_json: bool) -> None:
    """Take in the sign-ups of FILE, a front server's bypass log or a HAR.

    Runs the rules over them. What the ledger has is not taken again, so that a file
    may be read as often as you like.
    """
    # Here, so that other commands do not wait for the rules.
    from relay.capture.intake import Intake  # noqa: PLC0415
    from relay.core.rules.har import TryoutError  # noqa: PLC0415
    from relay.observability.metrics import Metrics  # noqa: PLC0415
    from relay.operations.recovery import (  # noqa: PLC0415
        Recovered,
        Recovery,
        recover_file,
    )

    settings = read_settings(complete=False)
    if not settings.signup:
        raise ConfigError("signup: there is no rule ([[signup]]) to recover leads by")
    if not settings.secret:
        raise ConfigError("RELAY_SECRET: is required to know a lost click again")
    if file.stat().st_mode & 0o077:
        say(f"{file} holds personal data, and others may read it: chmod 600 {file}")

    async def work(outbox: Outbox) -> Recovered:
        intake = Intake(
            outbox,
            dedupe_days=settings.dedupe_days,
            clock=outbox.now,
            metrics=Metrics(),
        )
        found = await recover_file(
            Recovery(outbox, intake, settings),
            file,
            dry_run=dry_run,
            remove=remove,
            on_unreadable=lambda number, why: say(f"line {number}: {printable(why)}"),
        )
        if not dry_run:
            operator = Operator(outbox, system_user())
            await operator.note("recover", file.name, str(found))
        return found

    try:
        found = run_with_outbox(settings, work)
    except (OSError, TryoutError) as error:
        raise FailedError(f"{file}: {printable(error)}") from error
    click.echo(json.dumps(found.as_json()) if as_json else f"{found}")
