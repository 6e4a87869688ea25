"""``dub-relay front``: configurations of front servers that outlive the relay."""

from __future__ import annotations

import click

from relay.cli.base import config_option, parsed, read_settings, say
from relay.config.values import Listen, listen


@click.command()
@click.argument(
    "server", type=click.Choice(["nginx", "caddy", "haproxy", "traefik", "envoy"])
)
@click.option("--all", "everything", is_flag=True, help="Everything through the relay.")
@click.option(
    "--only-what-matters",
    "only",
    is_flag=True,
    help="Only the relay's own paths, addresses with a click and the paths of sign-up"
    " rules through the relay; all else straight to the site. [default]",
)
@click.option(
    "--listen",
    "address",
    callback=parsed(listen),
    metavar="HOST:PORT",
    help="Plain HTTP at this address, to try it, instead of HTTPS.",
)
@click.option(
    "--bypass-log",
    metavar="FILE",
    help="Where to log sign-ups that went around the relay, for leads recover (nginx,"
    " haproxy, envoy). [RELAY_BYPASS_LOG]",
)
@config_option
def front(
    *,
    server: str,
    everything: bool,
    only: bool,
    address: Listen | None,
    bypass_log: str | None,
) -> None:
    """Print a front server's configuration, made from the settings and rules.

    The site stays up without the relay: what goes through it goes around it when it
    does not answer. nginx: to be included in http { }; the others: a whole file.
    """
    if everything and only:
        raise click.UsageError("Give either --all or --only-what-matters.")
    # Here, so that other commands do not wait for Jinja.
    from relay.operations.front_servers import (  # noqa: PLC0415
        front_configuration,
        what_is_missing,
    )

    settings = read_settings(complete=False)
    text = front_configuration(
        server,
        settings,
        everything=everything,
        listen=address,
        bypass_log=bypass_log,
    )
    if (missing := what_is_missing(settings)) is not None:
        say(missing)
    click.echo(text, nl=False)
