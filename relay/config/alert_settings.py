"""The rows of the table of settings that concern the operator's webhook."""

from __future__ import annotations

from typing import Final

from relay.config import values
from relay.config.row import Setting
from relay.core import signing

ALERT_SETTINGS: Final = (
    Setting(
        name="alerts_url",
        env="RELAY_ALERTS_URL",
        toml="alerts.url",
        parse=values.webhook_url,
        unset="no alerts are sent",
        example="https://ops.example.com/dub-relay",
        # The path of a chat's webhook is all that guards it.
        secret=True,
        help=(
            "Where to post a signed message when leads park, a lead is rejected, the"
            " backlog grows old or the disk is nearly full, and when that is over."
        ),
    ),
    Setting(
        name="alerts_secret",
        env="RELAY_ALERTS_SECRET",
        toml="alerts.secret",
        parse=values.secrets_by(signing.parse_webhook_secrets),
        unset="none; alerts.url needs one",
        example="whsec_bm90IGEgc2VjcmV0LCBidXQgYW4gZXhhbXBsZQ==",
        secret=True,
        help="Signs the alerts (Standard Webhooks): whsec_ and base64.",
    ),
    Setting(
        name="alerts_backlog",
        env="RELAY_ALERTS_BACKLOG",
        toml="alerts.backlog",
        parse=values.duration,
        default="15m",
        help="How old the oldest open lead may be before that is an alert.",
    ),
    Setting(
        name="alerts_disk",
        env="RELAY_ALERTS_DISK",
        toml="alerts.disk",
        parse=values.whole(0, 100),
        default=10,
        help="Percent of the disk that must be free, or that is an alert; 0: none.",
    ),
    Setting(
        name="alerts_every",
        env="RELAY_ALERTS_EVERY",
        toml="alerts.every",
        parse=values.duration_up_to(3600),
        default="15s",
        help="How often to look (at most 1 h).",
    ),
)
