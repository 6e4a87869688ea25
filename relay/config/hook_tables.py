"""``[[hook]]`` and what ``[hooks.NAME]`` says beside a secret, out of the TOML file.

Their expressions are compiled by the core; here their secrets are fetched, so that none
need stand in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from relay.config.sources import HOOKS_KEY
from relay.core.providers import PROVIDERS

if TYPE_CHECKING:  # commands without hooks need not wait for what compiles them
    from relay.core.rules.hook_rules import Additions, HookRule

_ADDED: Final = ("event", "mode", "quantity", "metadata")
_PLACES: Final = ("secret", "secret_env", "secret_file")


@dataclass
class HookTables:
    """What was compiled, and a line for each mistake."""

    rules: tuple[HookRule, ...] = ()
    additions: Mapping[str, Additions] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def take_hooks(
    document: dict[str, Any], environ: Mapping[str, str], *, complete: bool
) -> HookTables:
    """Take all tables of hooks out of a configuration and compile them.

    Without ``complete`` a secret that stands elsewhere may be missing: that hook then
    has no keys, and nothing can be verified.
    """
    made = HookTables()
    if isinstance(document.get(HOOKS_KEY), list):
        _take_rules(document.pop(HOOKS_KEY), environ, made, complete=complete)
    raw = {name: table for name, table in _added(document).items() if table}
    if raw:
        _take_additions(raw, made)
    return made


def _take_rules(
    tables: list[Any],
    environ: Mapping[str, str],
    made: HookTables,
    *,
    complete: bool,
) -> None:
    from relay.core.rules.hook_compiler import compile_hooks  # noqa: PLC0415 - as above
    from relay.core.rules.rule import RuleError  # noqa: PLC0415 - as above

    filled = []
    for number, table in enumerate(tables):
        try:
            filled.append(_with_secret(table, environ, complete=complete))
        except ValueError as error:
            made.problems.append(f"{HOOKS_KEY}[{number}].{error}")
    if made.problems:
        return
    try:
        made.rules = compile_hooks(filled, {row.name for row in PROVIDERS})
    except RuleError as error:
        made.problems += error.problems


def _with_secret(table: Any, environ: Mapping[str, str], *, complete: bool) -> Any:
    """Put a secret that stands elsewhere into its table; raise ValueError."""
    if not isinstance(table, dict):
        return table
    given = [place for place in _PLACES if place in table]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise ValueError(
            f"secret: set one of secret, secret_env and secret_file, not {found}"
        )
    rest = {key: value for key, value in table.items() if key not in _PLACES}
    [place] = given
    try:
        secret = _fetched(place, table[place], environ)
    except LookupError as error:
        if complete:
            raise ValueError(f"{place}: {error.args[0]}") from None
        secret = None
    return {**rest, "secret": secret}


def _fetched(place: str, value: object, environ: Mapping[str, str]) -> object:
    if place == "secret":
        return value
    if not isinstance(value, str) or not value:
        raise ValueError(f"{place}: must be text")
    if place == "secret_env":
        if not environ.get(value):
            raise LookupError(f"{value} is not set")
        return environ[value]
    try:
        return Path(value).read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise LookupError(f"{value} cannot be read: {why}") from None


def _added(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Take the keys out of ``[hooks.NAME]`` that are no settings of one value."""
    hooks = document.get("hooks")
    tables = hooks if isinstance(hooks, dict) else {}
    return {
        row.name: {key: table.pop(key) for key in _ADDED if key in table}
        for row in PROVIDERS
        if isinstance(table := tables.get(row.name), dict)
    }


def _take_additions(raw: Mapping[str, Mapping[str, Any]], made: HookTables) -> None:
    from relay.core.rules.hook_compiler import compile_additions  # noqa: PLC0415 - as above
    from relay.core.rules.rule import RuleError  # noqa: PLC0415 - as above

    compiled: dict[str, Additions] = {}
    for name, table in raw.items():
        try:
            compiled[name] = compile_additions(table, f"hooks.{name}")
        except RuleError as error:
            made.problems += error.problems
    made.additions = compiled
