"""What a setting is, and how it is declared: once, as a field of ``Settings``.

All else comes from that declaration: the attribute and its type, the TOML key, the
environment names, ``--help``, docs/settings.md, the sample file, and what ``check``
prints, with secrets masked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeVar

from relay.config import values
from relay.core.providers.account import Provider

T = TypeVar("T")

MASK: Final = "********"
"""What is shown in a secret's place; its length says nothing."""

_SETTINGS: Final = "settings"
"""The key of a field's metadata under which its declarations stand."""

Raw = str | int
"""A default or an example, as TOML would have it."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    ``default`` and ``example`` are written as TOML has them and go through ``parse``
    like anything else. ``unset`` says what holds without a value. ``env`` is declared
    only where it is not ``RELAY_`` and the TOML key. ``member``: its key in an
    attribute that is a mapping.
    """

    toml: str
    parse: Callable[[object], object]
    default: Raw | None = None
    help: str = ""
    env: str = ""
    unset: str = ""
    example: Raw | None = None
    secret: bool = False
    required: bool = False
    mask: Callable[[object], str] | None = None
    member: str | None = None

    def __post_init__(self) -> None:
        if not self.env:
            derived = f"RELAY_{self.toml.replace('.', '_').upper()}"
            object.__setattr__(self, "env", derived)

    @property
    def name(self) -> str:
        """The attribute of Settings: the TOML key with ``_`` for its dots."""
        key = self.toml
        if self.member:
            key = key.replace(f".{self.member}.", ".")
        return key.replace(".", "_")

    @property
    def file_env(self) -> str | None:
        """The environment variable that names a file, for secrets."""
        return f"{self.env}_FILE" if self.secret else None

    def show(self, value: object) -> str:
        """Write a value for people, with secrets masked."""
        if value is None or value in ("", ()):
            return self.unset or "not set"
        if self.mask is not None:
            return self.mask(value)
        return MASK if self.secret else _plain(value)


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


def setting(
    toml: str,
    parse: Callable[[object], T],
    default: Raw | None = None,
    *,
    blank: Any = None,
    **more: Any,
) -> T:
    """Declare a setting; ``more`` is what else Setting has.

    ``blank`` is the attribute's value where there is neither a value nor a default.
    """
    value: T = blank if default is None else parse(default)
    one = Setting(toml, parse, default, **more)
    return field(default=value, metadata={_SETTINGS: (one,)})


def secret_list(
    toml: str, parse: Callable[[str], tuple[T, ...]], **more: Any
) -> tuple[T, ...]:
    """Declare a comma-separated list of secrets, read by one of the core's parsers."""
    return setting(toml, values.secrets_by(parse), blank=(), secret=True, **more)


def provider_secrets(
    providers: Iterable[Provider],
) -> Mapping[str, tuple[bytes, ...]]:
    """Declare a setting for each provider's secrets; the attribute is by provider."""
    settings = tuple(
        Setting(
            provider.toml,
            values.secrets_by(provider.secrets),
            unset=f"hooks/{provider.name} answers 404",
            example=provider.example,
            secret=True,
            help=provider.help,
            member=provider.name,
        )
        for provider in providers
    )
    return field(default_factory=dict, metadata={_SETTINGS: settings})


def declared(kind: type) -> tuple[Setting, ...]:
    """List the settings that a class declares, in their order."""
    return tuple(
        one for made in fields(kind) for one in made.metadata.get(_SETTINGS, ())
    )
