"""What all commands share: the configuration, their errors, their output."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import re
import sys
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, Final, TextIO, TypeVar

import click

from relay.config.settings import (
    ConfigError,
    Settings,
    load,
)
from relay.config.values import duration, sqlite_file
from relay.core.clock import now_ms
from relay.operations.operator import Operator, system_user
from relay.operations.presentation import FORMULA_STARTS
from relay.outbox.contract import Outbox, OutboxError

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

_CONFIG: Final = "relay.config"


class CommandGroup(click.Group):
    """A group some of whose commands are imported only to be used, or listed.

    ``elsewhere`` is where these are, by their names: ``module:attribute``. A relay that
    serves does not carry the others.
    """

    def __init__(
        self, *args: Any, elsewhere: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._elsewhere = dict(elsewhere or {})

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """Return the names of all commands."""
        return sorted({*self.commands, *self._elsewhere})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name; None if there is none."""
        if cmd_name in self._elsewhere and cmd_name not in self.commands:
            module, _, attribute = self._elsewhere[cmd_name].partition(":")
            self.add_command(getattr(import_module(module), attribute), cmd_name)
        return super().get_command(ctx, cmd_name)


class FailedError(click.ClickException):
    """The thing failed: one line on stderr, exit code 1."""

    exit_code = 1


def _keep_config(context: click.Context, _: click.Parameter, value: str | None) -> None:
    """Remember the file; the option after the command beats the one before it."""
    if value is not None:
        context.meta[_CONFIG] = value


config_option = click.option(
    "--config",
    metavar="FILE",
    expose_value=False,
    callback=_keep_config,
    help="The TOML file to read. [RELAY_CONFIG; default: relay.toml, if it exists]",
)
"""``--config``, on every command and every group."""


def parsed(
    parse: Callable[[str], T],
) -> Callable[[click.Context, click.Parameter, str | None], T | None]:
    """Make an option's callback of what reads its text, or raises ValueError."""

    def read(_: click.Context, __: click.Parameter, value: str | None) -> T | None:
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return read


def since_time(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """Read a point in time as epoch ms: ISO 8601 (UTC unless it says so), or 2h."""
    if value is None:
        return None
    try:
        # A bare number is a year or a slip; seconds ago would be a strange guess.
        if re.fullmatch(r"[0-9.]+ ?(ms|s|m|h|d)", value):
            return now_ms() - round(duration(value) * 1000)
        point = datetime.fromisoformat(value)
        if point.tzinfo is None:
            point = point.replace(tzinfo=UTC)
        return round(point.timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(
            "must be such as 2026-01-31T12:00Z, or 2h for ago"
        ) from error


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object."
)

json_lines_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object a line."
)


def read_settings(*, complete: bool = True) -> Settings:
    """Read the settings for the command that is running, or raise ConfigError."""
    path = click.get_current_context().meta.get(_CONFIG)
    return load(path, os.environ, complete=complete)


def run_with_outbox(
    settings: Settings,
    work: Callable[[Outbox], Coroutine[Any, Any, T]],
    *,
    decrypt: bool = False,
) -> T:
    """Open the outbox, do the work, close it; no running relay is needed.

    With decrypt, it writes personal data without encryption.
    """
    return asyncio.run(_with_outbox(settings, work, encrypts=not decrypt))


async def _with_outbox(
    settings: Settings, work: Callable[[Outbox], Awaitable[T]], *, encrypts: bool
) -> T:
    outbox = existing_outbox(settings, encrypts=encrypts)
    try:
        await outbox.open()
        return await work(outbox)
    except OutboxError as error:
        raise FailedError(f"database: {error}") from error
    finally:
        await outbox.close()


def write_audit(settings: Settings, act: str, subject: str, detail: str) -> None:
    """Write to the audit log what the system user did by a command."""
    run_with_outbox(
        settings,
        lambda outbox: Operator(outbox, system_user()).note(act, subject, detail),
    )


def existing_outbox(settings: Settings, *, encrypts: bool = True) -> Outbox:
    """Return the outbox, unopened; fail where it would be made anew.

    A relative path means another file in every folder: an empty list from a
    database that was never there would be a lie.
    """
    path = sqlite_file(settings.database)
    if path is not None and not path.exists():
        raise FailedError(f"database: there is no {path} (started in another folder?)")
    return make_outbox(settings, encrypts=encrypts)


def make_outbox(settings: Settings, *, encrypts: bool = True) -> Outbox:
    """Return the outbox, unopened; raise ConfigError for a kind that is not there."""
    # Here, so that --help and version do not wait for a database driver.
    from relay.outbox.backends import open_outbox  # noqa: PLC0415
    from relay.outbox.encryption import Seal  # noqa: PLC0415

    try:
        seal = Seal(settings.data_key, encrypts=encrypts)
        return open_outbox(settings.database, seal)
    except ValueError as error:
        raise ConfigError(f"RELAY_DATABASE: {error}") from error


def say(line: str) -> None:
    """Write one line on stderr, beside what may be piped."""
    click.echo(line, err=True)


def printable(text: object) -> str:
    """Make a stranger's text safe for a terminal: no control characters in it."""
    return "".join(
        character if character.isprintable() else repr(character)[1:-1]
        for character in str(text)
    )


def csv_rows(stream: TextIO) -> Callable[[Iterable[object]], object]:
    """Return what writes a row of CSV, to a terminal without control characters."""
    write = csv.writer(stream, lineterminator="\n").writerow
    if stream.isatty():
        return lambda row: write([printable(_cell(value)) for value in row])
    return lambda row: write(map(_cell, row))


def _cell(value: object) -> str | int:
    """Return a value as a cell that no spreadsheet takes for a formula."""
    match value:
        case None:
            return ""
        case int():
            return value
        case str():
            text = value
        case _:
            text = json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table: drawn where stdout is a terminal, plain columns elsewhere."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw(head, cells)
        return
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    for row in (head, *cells):
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def _draw(head: Sequence[str], cells: Iterable[Sequence[str]]) -> None:
    from rich import box  # noqa: PLC0415 - only terminals wait for rich
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, name in enumerate(head):
        # An id that is broken cannot be copied into the next command.
        drawn.add_column(name, no_wrap=number < 2, overflow="fold")
    for row in cells:
        # Text, not str: "[red]" in a customer's id is no markup.
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)
