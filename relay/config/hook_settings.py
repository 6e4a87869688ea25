"""The rows of the table of settings for the providers' hooks and for tickets."""

from __future__ import annotations

from typing import Final

from relay.config import values
from relay.config.row import Setting
from relay.core.providers import PROVIDERS
from relay.core.providers.account import Provider


def _secret(provider: Provider) -> Setting:
    return Setting(
        name=provider.setting,
        env=provider.env,
        toml=provider.toml,
        parse=values.secrets_by(provider.secrets),
        unset=f"hooks/{provider.name} answers 404",
        example=provider.example,
        secret=True,
        help=provider.help,
    )


HOOK_SETTINGS: Final = (
    Setting(
        name="hooks_event",
        env="RELAY_HOOKS_EVENT",
        toml="hooks.event",
        parse=values.event_name,
        default="Sign Up",
        help="The event's name at Dub for leads from the providers' hooks.",
    ),
    Setting(
        name="hooks_require_ticket",
        env="RELAY_HOOKS_REQUIRE_TICKET",
        toml="hooks.require_ticket",
        parse=values.flag,
        default="off",
        help=(
            "Takes only tickets, no plain click ids, from where a provider lets the"
            " person write: on or off."
        ),
    ),
    Setting(
        name="hooks_ticket_life",
        env="RELAY_HOOKS_TICKET_LIFE",
        toml="hooks.ticket_life",
        parse=values.duration,
        default="1h",
        help="How old a ticket may be when the person signs up.",
    ),
    Setting(
        name="hooks_refusals",
        env="RELAY_HOOKS_REFUSALS",
        toml="hooks.refusals",
        parse=values.whole(1, 1_000_000),
        default=120,
        help=(
            "Refused calls a minute (wrong signature, too long) that one address"
            " may make to the hooks, in one process; more are answered 429."
        ),
    ),
    *map(_secret, PROVIDERS),
)
