"""``dub-relay``: the commands, and what becomes of their mistakes.

Exit codes: 0 good, 1 the thing failed, 2 wrong usage or configuration. A
mistake is one line on stderr, never a traceback.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from io import TextIOWrapper
from typing import Final, Protocol, TextIO

import click

from relay.cli.base import (
    CommandGroup,
    FailedError,
    config_option,
    json_option,
    make_outbox,
    parsed,
    printable,
    read_settings,
    say,
)
from relay.config.reference import settings_help
from relay.config.settings import (
    ConfigError,
    Listen,
    Settings,
)
from relay.config.values import front_url, listen
from relay.core import VERSION
from relay.core.clock import now_ms
from relay.core.signing import sign_webhook

NAME: Final = "dub-relay"

SANDBOX_LISTEN: Final = "127.0.0.1:8787"
SIGNAL_EXIT: Final = 130
"""What a shell reports of a program that Ctrl-C ended (128 + SIGINT)."""


class Serve(Protocol):
    """Runs a relay until SIGTERM or SIGINT; returns the exit code."""

    def __call__(
        self, settings: Settings, *, web: bool, delivery: bool, workers: int
    ) -> int:
        """Run the relay that these settings describe."""


@click.group(
    cls=CommandGroup,
    elsewhere={
        "leads": "relay.cli.lead_commands:leads",
        "rules": "relay.cli.rule_commands:rules",
        "front": "relay.cli.front_command:front",
        **{
            name: f"relay.cli.operate:{name}"
            for name in (
                *("alerts", "completion", "delivery"),
                *("health", "reconcile", "stats"),
            )
        },
        **{
            name: f"relay.cli.database_commands:{name}"
            for name in ("backup", "migrate", "restore")
        },
    },
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 88},
)
@click.version_option(VERSION, message=f"{NAME} %(version)s")
@config_option
def cli() -> None:
    """A self-hosted attribution relay for Dub: a click becomes a lead.

    `dub-relay serve --help` lists all settings.
    """


@cli.command(epilog="\b\n" + settings_help().replace("\n\n", "\n\n\b\n"))
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes that share the port.",
)
@click.option("--no-web", is_flag=True, help="Only deliver: listen nowhere.")
@click.option("--no-delivery", is_flag=True, help="Only capture: call Dub never.")
@config_option
def serve(*, workers: int, no_web: bool, no_delivery: bool) -> int:
    """Run the relay: capture and delivery in one process."""
    if no_web and no_delivery:
        raise click.UsageError("--no-web and --no-delivery leave nothing to do.")
    settings = read_settings()
    if workers > 1 and not settings.listen.port:
        raise ConfigError("RELAY_LISTEN: --workers needs a port of its own to share")
    make_outbox(settings)
    if settings.traces_export != "off" and find_spec("opentelemetry") is None:
        raise ConfigError("RELAY_TRACES_EXPORT: needs pip install 'dub-relay[otel]'")
    run: Serve = click.get_current_context().find_root().obj
    return run(settings, web=not no_web, delivery=not no_delivery, workers=workers)


@cli.command()
@click.option(
    "--once", is_flag=True, help="Click and sign up in each way, say so, and end."
)
@config_option
def demo(*, once: bool) -> int:
    """Run a sandbox Dub, a sample site and the relay at once.

    It brings its own settings and reads none of yours.
    """
    from relay.sandbox.demo import run  # noqa: PLC0415 - loads much

    return run(once=once)


def _port(text: str) -> Listen:
    address = listen(text)
    if address.unix is not None:
        raise ValueError("must be host:port")
    return address


@cli.command()
@click.option(
    "--listen",
    "address",
    default=SANDBOX_LISTEN,
    callback=parsed(_port),
    metavar="HOST:PORT",
    show_default=True,
    help="Where to listen.",
)
@click.option(
    "--api-key",
    metavar="KEY",
    help="The key it accepts, which it prints: never your real one.",
)
@config_option
def sandbox(*, address: Listen, api_key: str | None) -> int:
    """Run a local Dub: links, clicks, leads, and its traps.

    Of your settings it reads RELAY_SECRET, to verify the relay's signatures.
    """
    settings = read_settings(complete=False)
    from relay.sandbox.app import API_KEY  # noqa: PLC0415 - loads much
    from relay.sandbox.app import serve as run  # noqa: PLC0415

    return run(address.host, address.port, api_key or API_KEY, settings.secret)


@cli.command()
@json_option
@click.option(
    "--try",
    "saved",
    metavar="FILE",
    help="Replay a saved sign-up, or a HAR file of a browser's, through the rules, and"
    " check nothing else.",
)
@click.option(
    "--front",
    metavar="URL",
    callback=parsed(front_url),
    help="Visit this front server too, and look whether it goes around the relay.",
)
@config_option
def check(*, as_json: bool, saved: str | None, front: str | None) -> int:
    """Say line by line what works; exit 1 if anything fails.

    Changes nothing and records nothing at Dub.
    """
    if saved is not None:
        return _try_out(saved, as_json=as_json)
    settings = read_settings()
    outbox = make_outbox(settings)
    from relay.operations.diagnostics import (  # noqa: PLC0415
        Finding,
        report_json,
        report_lines,
        run_checks,
    )
    from relay.operations.front_check import check_front  # noqa: PLC0415

    async def look() -> list[Finding]:
        found = await run_checks(settings, outbox)
        return [*found, await check_front(settings, front)] if front else found

    findings = asyncio.run(look())
    if as_json:
        click.echo(json.dumps(report_json(settings, findings)))
    else:
        for line in report_lines(settings, findings):
            click.echo(printable(line))
    return int(any(finding.failed for finding in findings))


def _try_out(saved: str, *, as_json: bool) -> int:
    from relay.core.rules import preview as tryout  # noqa: PLC0415 - loads much
    from relay.core.rules.har import TryoutError  # noqa: PLC0415 - as above

    settings = read_settings(complete=False)
    try:
        exchanges = tryout.read_exchanges(saved)
    except TryoutError as error:
        raise click.UsageError(printable(f"--try: {error}")) from error
    verdict = tryout.try_all(settings.signup, exchanges)
    if as_json:
        click.echo(json.dumps(tryout.as_json(verdict)))
    else:
        for line in tryout.lines(verdict):
            click.echo(printable(line))
    return int(verdict.lead is None)


@cli.command()
@click.option(
    "--id", "message_id", metavar="ID", help="The webhook-id. [msg_ + random]"
)
@click.option("--curl", "url", metavar="URL", help="Print a curl line for this URL.")
@json_option
@config_option
def sign(*, message_id: str | None, url: str | None, as_json: bool) -> None:
    """Sign a hook body from stdin; print the headers.

    The signature covers the exact bytes, and its time is now: the receiver
    takes it for five minutes.
    """
    if as_json and url is not None:
        raise click.UsageError("Give either --json or --curl.")
    settings = read_settings(complete=False)
    if not settings.hook_secret:
        raise ConfigError("RELAY_HOOK_SECRET: is required to sign a hook's body")
    body = sys.stdin.buffer.read()
    if url is not None:
        body = one_line(body)
    try:
        headers = sign_webhook(
            settings.hook_secret,
            message_id or f"msg_{secrets.token_hex(12)}",
            now_ms() // 1000,
            body,
        )
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--id") from error
    if url is not None:
        click.echo(curl_line(url, headers, body))
        return
    if as_json:
        click.echo(json.dumps(headers))
        return
    for name, value in headers.items():
        click.echo(f"{name}: {value}")


def one_line(body: bytes) -> bytes:
    """Take the line breaks out of a JSON body, where they mean nothing.

    The line break that `echo` leaves at the end goes from any body.
    """
    body = body.rstrip(b"\r\n")
    try:
        json.loads(body)
    except ValueError:
        return body
    # JSON has none inside its texts (RFC 8259, section 7).
    return re.sub(rb"[\r\n]+", b" ", body)


def curl_line(url: str, headers: dict[str, str], body: bytes) -> str:
    """Write a curl command that a POSIX shell takes as it is."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise FailedError(
            "the body is not UTF-8 text; a shell cannot hold it"
        ) from error
    if "\0" in text:
        raise FailedError("the body has a NUL in it; a shell cannot hold it")
    sent = {"content-type": "application/json", **headers}
    # curl would take a body that begins with @ for a file's name.
    flag = "--data-raw" if text.startswith("@") else "--data-binary"
    headed = [
        word for name, value in sent.items() for word in ("-H", f"{name}: {value}")
    ]
    return shlex.join(["curl", "-sS", *headed, flag, text, url])


@cli.command()
@json_option
@config_option
def version(*, as_json: bool) -> None:
    """Print the version."""
    named = json.dumps({"version": VERSION})
    click.echo(named if as_json else f"{NAME} {VERSION}")


def main(arguments: Sequence[str] | None = None, *, serve: Serve | None = None) -> int:
    """Run a command line; return its exit code.

    ``serve`` runs the relay: it comes from the top of the program, which alone knows
    all of it. The other commands do without.
    """
    _never_refuse(sys.stdout)
    _never_refuse(sys.stderr)
    try:
        result = cli.main(arguments, NAME, standalone_mode=False, obj=serve)
        # Here and not at the interpreter's end, where a closed pipe would complain.
        sys.stdout.flush()
    except (ConfigError, click.ClickException) as error:
        return _told(error)
    except (click.Abort, KeyboardInterrupt):
        return SIGNAL_EXIT
    except BrokenPipeError:
        return _reader_is_gone()
    return result if isinstance(result, int) else 0


def _told(error: ConfigError | click.ClickException) -> int:
    """Report a mistake; return the exit code it deserves."""
    match error:
        case click.exceptions.NoArgsIsHelpError():
            error.show()
            return 2
        case click.UsageError():
            path = error.ctx.command_path if error.ctx else NAME
            return _mistake(2, f"{error.format_message()} (see {path} --help)")
        case click.ClickException():
            return _mistake(error.exit_code, error.format_message())
        case ConfigError():
            return _mistake(2, *error.problems)


def _mistake(code: int, *messages: str) -> int:
    """Write each message in one line, whatever it holds; return the exit code."""
    for message in messages:
        say(f"{NAME}: {printable(' '.join(message.split()))}")
    return code


def _never_refuse(stream: TextIO) -> None:
    """Let a terminal that lacks a character show an escape, not a traceback."""
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def _reader_is_gone() -> int:
    """End quietly after `| head`: what is left to print goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
