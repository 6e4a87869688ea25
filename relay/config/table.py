"""The one table of settings.

It makes the TOML keys, the environment names, ``--help``, docs/settings.md,
the sample file, and what ``check`` prints.
"""

from __future__ import annotations

from typing import Final

from relay.config import values
from relay.config.alert_settings import ALERT_SETTINGS
from relay.config.hook_settings import HOOK_SETTINGS
from relay.config.proxy_settings import PROXY_SETTINGS
from relay.config.row import (
    MASK,
    Setting,
)
from relay.core import signing

__all__ = ["BY_ENV", "BY_TOML", "MASK", "SETTINGS", "Setting"]

SETTINGS: Final = (
    Setting(
        name="listen",
        env="RELAY_LISTEN",
        toml="listen",
        parse=values.listen,
        default="127.0.0.1:8080",
        help="Where to listen: host:port, [IPv6]:port or unix:/path.",
    ),
    Setting(
        name="prefix",
        env="RELAY_PREFIX",
        toml="prefix",
        parse=values.prefix,
        default="/_dub",
        help="Where the relay's own paths live.",
    ),
    Setting(
        name="upstream",
        env="RELAY_UPSTREAM",
        toml="upstream",
        parse=values.upstreams,
        unset="no reverse proxy: other paths answer 404",
        example="http://127.0.0.1:3000",
        help=(
            "The site to stand in front of: http(s)://host:port or unix:/path."
            " Several instances of it with commas between."
        ),
    ),
    Setting(
        name="inject_snippet",
        env="RELAY_INJECT_SNIPPET",
        toml="inject_snippet",
        parse=values.flag,
        default="off",
        help="Puts the script tag into the site's HTML pages, before </head>: on or"
        " off.",
    ),
    Setting(
        name="database",
        env="RELAY_DATABASE",
        toml="database",
        parse=values.database,
        default="sqlite:///relay.db",
        secret=True,
        help=(
            "Where leads are kept: sqlite:///file, with four slashes for an absolute"
            " path, or postgresql://user:password@host/database for any number of"
            " relays."
        ),
    ),
    Setting(
        name="secret",
        env="RELAY_SECRET",
        toml="secret",
        parse=values.secrets_by(signing.parse_secrets),
        example="a-long-random-text",
        secret=True,
        required=True,
        help=(
            "Signs the relay's own cookies, sessions and calls. A comma-separated"
            " list: the first signs, all verify."
        ),
    ),
    Setting(
        name="attribution",
        env="RELAY_ATTRIBUTION",
        toml="attribution",
        parse=values.choice("last-click", "first-click"),
        default="last-click",
        help="Which click counts where a visitor has made several: last-click or"
        " first-click.",
    ),
    Setting(
        name="trusted_proxies",
        env="RELAY_TRUSTED_PROXIES",
        toml="trusted_proxies",
        parse=values.networks,
        unset="none",
        example="10.0.0.0/8, 127.0.0.1",
        help="CIDRs, with commas between, whose X-Forwarded-* headers are believed.",
    ),
    Setting(
        name="dedupe_days",
        env="RELAY_DEDUPE_DAYS",
        toml="dedupe_days",
        # A century stands for "for ever" to whoever does not know of 0.
        parse=values.whole(0, 36_500),
        default=7,
        help=(
            "How many days one customer's one event counts once: 7 is Dub's own"
            " window, 0 means for ever."
        ),
    ),
    Setting(
        name="retention_days",
        env="RELAY_RETENTION_DAYS",
        toml="retention_days",
        parse=values.whole(0, 36_500),
        default=30,
        help=(
            "How many days after its capture a lead that Dub has (delivered,"
            " confirmed, duplicate) keeps its personal data; 0 means for ever."
        ),
    ),
    Setting(
        name="data_key",
        env="RELAY_DATA_KEY",
        toml="data_key",
        parse=values.secrets_by(signing.parse_data_keys),
        unset="personal data is kept as it is",
        example="a-long-random-text-of-its-own",
        secret=True,
        help=(
            "Encrypts personal data in the database and the spill file. A"
            " comma-separated list: the first encrypts, all decrypt; at least 16"
            " characters each (openssl rand -hex 32)."
        ),
    ),
    Setting(
        name="drain",
        env="RELAY_DRAIN",
        toml="drain",
        # Kubernetes kills after 30 s, and open requests need some of them.
        parse=values.duration_up_to(15),
        default="1s",
        help=(
            "How long a relay that was told to stop still takes requests while"
            " readyz answers 503, so that a load balancer turns away first."
        ),
    ),
    Setting(
        name="dub_api_key",
        env="DUB_API_KEY",
        toml="dub.api_key",
        parse=values.token,
        example="dub_your_key",
        secret=True,
        required=True,
        help="The workspace's key for Dub's API.",
    ),
    Setting(
        name="dub_api_url",
        env="DUB_API_URL",
        toml="dub.api_url",
        parse=values.api_url,
        default="https://api.dub.co",
        help="Dub's API.",
    ),
    Setting(
        name="dub_webhook_secret",
        env="DUB_WEBHOOK_SECRET",
        toml="dub.webhook_secret",
        parse=values.secrets_by(signing.parse_secrets),
        unset="hooks/dub answers 404",
        example="dub_webhook_secret",
        secret=True,
        help=(
            "Turns on hooks/dub, where Dub's webhooks confirm leads. A comma-separated"
            " list while it is changed: all verify."
        ),
    ),
    Setting(
        name="dub_timeout",
        env="RELAY_DUB_TIMEOUT",
        toml="dub.timeout",
        # A lease lasts 60 s and must outlive a call and its settling.
        parse=values.duration_up_to(30),
        default="10s",
        help="How long one call to Dub may take, its answer included (at most 30 s).",
    ),
    Setting(
        name="hook_secret",
        env="RELAY_HOOK_SECRET",
        toml="hook.secret",
        parse=values.secrets_by(signing.parse_webhook_secrets),
        unset="hooks/signup answers 404",
        example="whsec_bm90IGEgc2VjcmV0LCBidXQgYW4gZXhhbXBsZQ==",
        secret=True,
        help=(
            "Verifies calls to hooks/signup: whsec_ and base64. A comma-separated"
            " list: the first signs, all verify."
        ),
    ),
    *HOOK_SETTINGS,
    Setting(
        name="api_token",
        env="RELAY_API_TOKEN",
        toml="api.token",
        parse=values.tokens,
        unset="only DUB_API_KEY is accepted",
        example="another-long-random-text",
        secret=True,
        help=(
            "Bearer tokens, with commas between, that track/lead and track/sale accept"
            " beside DUB_API_KEY itself."
        ),
    ),
    Setting(
        name="api_rate",
        env="RELAY_API_RATE",
        toml="api.rate",
        parse=values.whole(1, 10_000_000),
        default=60_000,
        help=(
            "Calls a minute that one address may make to track/lead and track/sale,"
            " in one process."
        ),
    ),
    Setting(
        name="dashboard_password",
        env="RELAY_ADMIN_PASSWORD",
        toml="dashboard.password",
        parse=values.secret_text,
        unset="no dashboard",
        example="a-good-password",
        secret=True,
        help=(
            "Turns on the dashboard, and opens it. Plain, or its argon2 hash"
            " ($argon2id$...)."
        ),
    ),
    Setting(
        name="dashboard_listen",
        env="RELAY_ADMIN_LISTEN",
        toml="dashboard.listen",
        parse=values.listen,
        unset="the dashboard is served at the relay's own address",
        example="127.0.0.1:8081",
        help=(
            "Serves the dashboard at this address instead, and nowhere else:"
            " host:port or unix:/path."
        ),
    ),
    Setting(
        name="dashboard_identity_header",
        env="RELAY_ADMIN_IDENTITY_HEADER",
        toml="dashboard.identity_header",
        parse=values.header_name,
        unset="nobody's word but the password",
        example="X-Forwarded-User",
        help=(
            "A header in which a proxy that signs people in says who they are; who has"
            " one needs no password. Believed from dashboard.identity_proxies alone."
        ),
    ),
    Setting(
        name="dashboard_identity_proxies",
        env="RELAY_ADMIN_IDENTITY_PROXIES",
        toml="dashboard.identity_proxies",
        parse=values.networks,
        unset="none",
        example="10.0.0.5/32",
        help="CIDRs, with commas between, of the proxies that set the identity header.",
    ),
    Setting(
        name="cookie_domain",
        env="RELAY_COOKIE_DOMAIN",
        toml="cookie.domain",
        parse=values.cookie_domain,
        unset="as Dub's script: . + host without www., none on localhost and IPs",
        example=".example.com",
        help="The Domain of the click cookie.",
    ),
    Setting(
        name="cookie_days",
        env="RELAY_COOKIE_DAYS",
        toml="cookie.days",
        # Chrome cuts a cookie's life at 400 days (RFC 6265bis, section 5.5).
        parse=values.whole(1, 400),
        default=90,
        help="How many days the click cookie lives (1 to 400).",
    ),
    Setting(
        name="browser_rate",
        env="RELAY_BROWSER_RATE",
        toml="browser.rate",
        parse=values.whole(1, 1_000_000),
        default=120,
        help=(
            "Calls a minute that one visitor's address may have passed on to Dub"
            " (track/click and its siblings), in one process."
        ),
    ),
    Setting(
        name="delivery_retry_base",
        env="RELAY_RETRY_BASE",
        toml="delivery.retry_base",
        parse=values.duration,
        default="5s",
        help=(
            "The first wait after a passing fault; it doubles, jittered, up to"
            " delivery.retry_max."
        ),
    ),
    Setting(
        name="delivery_retry_max",
        env="RELAY_RETRY_MAX",
        toml="delivery.retry_max",
        parse=values.duration,
        default="1h",
        help="The longest wait between two attempts.",
    ),
    Setting(
        name="delivery_retry_for",
        env="RELAY_RETRY_FOR",
        toml="delivery.retry_for",
        parse=values.duration,
        default="72h",
        help="How long a lead is tried before it is rejected.",
    ),
    Setting(
        name="delivery_rate",
        env="RELAY_RATE",
        toml="delivery.rate",
        parse=values.whole(1, 1_000_000),
        default=1200,
        help=(
            "Calls a minute to Dub for one key, across all relays on one database"
            " (1200: the Business plan); lowered by 429s."
        ),
    ),
    Setting(
        name="delivery_in_flight",
        env="RELAY_DELIVERY_IN_FLIGHT",
        toml="delivery.in_flight",
        # Each call holds a connection; a process has 1024 file descriptors.
        parse=values.whole(1, 512),
        default=16,
        help="How many calls to Dub may be under way at once in one process.",
    ),
    Setting(
        name="delivery_steps",
        env="RELAY_DELIVERY_STEPS",
        toml="delivery.steps",
        parse=values.whole(1, 2),
        default=2,
        help=(
            "Calls for one lead: 2 proves the click with a deferred call before"
            " the lead is recorded, 1 halves the calls and may lose a lead to"
            " Dub's dedupe when its first call fails."
        ),
    ),
    *PROXY_SETTINGS,
    *ALERT_SETTINGS,
    Setting(
        name="log_level",
        env="RELAY_LOG_LEVEL",
        toml="log.level",
        parse=values.choice("debug", "info", "warning", "error"),
        default="info",
        help="Which log lines are written: debug, info, warning or error.",
    ),
    Setting(
        name="traces_export",
        env="RELAY_TRACES_EXPORT",
        toml="traces.export",
        parse=values.choice("off", "otlp"),
        default="off",
        help=(
            "otlp sends OpenTelemetry traces to where OTEL_EXPORTER_OTLP_ENDPOINT"
            " says; needs the extra packages of dub-relay[otel]."
        ),
    ),
)
"""Every setting but the sign-up rules, in the order in which TOML wants them:
top-level keys first, then table by table."""

BY_ENV: Final = {setting.env: setting for setting in SETTINGS}
BY_TOML: Final = {setting.toml: setting for setting in SETTINGS}
