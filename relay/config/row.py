"""What one row of the table of settings holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from relay.config import values

MASK: Final = "********"
"""What is shown in a secret's place; its length tells nothing."""

Raw = str | int
"""A default or an example, as TOML would have it."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    ``default`` and ``example`` are written as TOML has them and go through
    ``parse`` like anything else. ``unset`` says what holds without a value.
    """

    name: str
    env: str
    toml: str
    parse: values.Parser
    help: str
    default: Raw | None = None
    unset: str = ""
    example: Raw | None = None
    secret: bool = False
    required: bool = False

    @property
    def file_env(self) -> str | None:
        """Name the environment variable that points to a file, for secrets."""
        return f"{self.env}_FILE" if self.secret else None

    def show(self, value: object) -> str:
        """Write a value for people, with secrets masked."""
        if value is None or value in ("", ()):
            return self.unset or "not set"
        if self.parse is values.database:
            return values.masked_url(value)
        if self.secret:
            return MASK
        return _plain(value)


def _plain(value: object) -> str:
    match value:
        case bool():
            return "on" if value else "off"
        case float():
            return f"{value:g} s"
        case tuple():
            return ", ".join(map(str, value))
        case _:
            return str(value)
