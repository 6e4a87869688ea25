"""The settings of leads, each declared once: capture, delivery, dashboard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relay.config import values
from relay.config.declaration import provider_secrets, secret_list, setting
from relay.config.values import Listen, Network
from relay.core import signing
from relay.core.providers import PROVIDERS
from relay.core.providers.stripe import References, Trials

if TYPE_CHECKING:  # the commands need not wait for what parses cookies
    from relay.core.http.cookies import Attribution, Storing


@dataclass(frozen=True, kw_only=True, repr=False)
class LeadSettings:
    """Settings in the order in which TOML wants them: top-level keys come first."""

    listen: Listen = setting(
        "listen",
        values.listen,
        "127.0.0.1:8080",
        help="Where to listen: host:port, [IPv6]:port or unix:/path.",
    )
    prefix: str = setting(
        "prefix", values.prefix, "/_dub", help="Where the relay's own paths live."
    )
    upstream: tuple[str, ...] | None = setting(
        "upstream",
        values.upstreams,
        unset="no reverse proxy: other paths answer 404",
        example="http://127.0.0.1:3000",
        help="The site to stand in front of: http(s)://host:port or unix:/path."
        " Several instances of it with commas between.",
    )
    upstream_host: str | None = setting(
        "upstream_host",
        values.host,
        unset="the visitor's",
        example="my-app.vercel.app",
        help="The Host that the site gets, and the name that TLS asks for: for a"
        " platform that chooses its site by Host.",
    )
    underscore_headers: tuple[str, ...] = setting(
        "underscore_headers",
        values.underscore_headers,
        blank=(),
        unset="none passes",
        example="__RequestVerificationToken",
        help="Headers with an underscore in their name that reach the site, with commas"
        " between. All others are dropped: sites may read X_Forwarded_For as"
        " X-Forwarded-For.",
    )
    inject_snippet: bool = setting(
        "inject_snippet",
        values.flag,
        "off",
        help="Puts the script tag into the head of the site's HTML documents: on or"
        " off.",
    )
    database: str = setting(
        "database",
        values.database,
        "sqlite:///relay.db",
        secret=True,
        help="Where leads are kept: sqlite:///file, with four slashes for an absolute"
        " path, or postgresql://user:password@host/database for any number of"
        " relays.",
        mask=values.masked_url,
    )
    secret: tuple[str, ...] = secret_list(
        "secret",
        signing.parse_long_secrets,
        example="a-long-random-text",
        required=True,
        help="Signs the relay's own cookies, sessions and calls. A comma-separated"
        " list: the first signs, all verify; at least 16 characters each (openssl"
        " rand -hex 32).",
    )
    attribution: Attribution = setting(
        "attribution",
        values.choice("last-click", "first-click"),
        "last-click",
        help="Which click counts where a visitor has made several: last-click or"
        " first-click.",
    )
    trusted_proxies: tuple[Network, ...] = setting(
        "trusted_proxies",
        values.networks,
        blank=(),
        unset="none",
        example="10.0.0.0/8, 127.0.0.1",
        help="CIDRs, with commas between, whose X-Forwarded-* headers are believed.",
    )
    # Up to a century, for an operator who does not know that 0 means for ever.
    dedupe_days: int = setting(
        "dedupe_days",
        values.whole(0, 36_500),
        7,
        help="How many days one customer's one event counts once: 7 is Dub's own"
        " window, 0 means for ever.",
    )
    retention_days: int = setting(
        "retention_days",
        values.whole(0, 36_500),
        30,
        help="How many days after its capture a lead that Dub has (delivered,"
        " confirmed, duplicate) keeps its personal data; 0 means for ever.",
    )
    keep_days: int = setting(
        "keep_days",
        values.whole(0, 36_500),
        400,
        help="How many days the rows of leads that Dub has, and of held ones, are kept"
        " at all; they go by whole months. 0 means for ever.",
    )
    data_key: tuple[str, ...] = secret_list(
        "data_key",
        signing.parse_long_secrets,
        unset="personal data is kept as it is",
        example="a-long-random-text-of-its-own",
        help="Encrypts personal data in the database and the spill file. A"
        " comma-separated list: the first encrypts, all decrypt; at least 16"
        " characters each (openssl rand -hex 32).",
    )
    # Kubernetes kills after 30 s, and open requests need some of them.
    drain: float = setting(
        "drain",
        values.duration_up_to(15),
        "1s",
        help="How long a relay that is stopping still accepts requests while readyz"
        " answers 503, so that a load balancer turns away first.",
    )
    bypass_log: str | None = setting(
        "bypass_log",
        values.text,
        unset="none is watched",
        example="/var/log/dub-relay/bypass.log",
        help="The file in which a front server (dub-relay front) logs sign-ups that"
        " went around the relay; serve looks at it every ten seconds, recovers their"
        " leads, and blanks what it has read.",
    )
    dub_api_key: str = setting(
        "dub.api_key",
        values.token,
        env="DUB_API_KEY",
        blank="",
        example="dub_your_key",
        secret=True,
        required=True,
        help="The workspace's key for Dub's API.",
    )
    dub_api_url: str = setting(
        "dub.api_url",
        values.api_url,
        "https://api.dub.co",
        env="DUB_API_URL",
        help="Dub's API.",
    )
    dub_publishable_key: tuple[str, ...] = setting(
        "dub.publishable_key",
        values.publishable_keys,
        env="DUB_PUBLISHABLE_KEY",
        blank=(),
        unset="track/lead/client and track/sale/client are passed to Dub",
        example="dub_pk_your_publishable_key",
        help="The workspace's publishable key, as the script tag has it: pages' leads"
        " and sales with it are stored before they are answered. A comma-separated list"
        " while it is changed.",
    )
    dub_webhook_secret: tuple[str, ...] = secret_list(
        "dub.webhook_secret",
        signing.parse_secrets,
        env="DUB_WEBHOOK_SECRET",
        unset="hooks/dub answers 404",
        example="dub_webhook_secret",
        help="Turns on hooks/dub, where Dub's webhooks confirm leads. A comma-separated"
        " list while it is changed: all verify.",
    )
    # A lease lasts 60 s and must outlive a call and its settling.
    dub_timeout: float = setting(
        "dub.timeout",
        values.duration_up_to(30),
        "10s",
        help="How long one call to Dub may take, its answer included (at most 30 s).",
    )
    hook_secret: tuple[bytes, ...] = secret_list(
        "hook.secret",
        signing.parse_webhook_secrets,
        unset="hooks/signup answers 404",
        example="whsec_bm90IGEgc2VjcmV0LCBidXQgYW4gZXhhbXBsZQ==",
        help="Verifies calls to hooks/signup: whsec_ and base64. A comma-separated"
        " list: the first signs, all verify.",
    )
    hooks_event: str = setting(
        "hooks.event",
        values.event_name,
        "Sign Up",
        help="The event's name at Dub for leads from the providers' hooks.",
    )
    hooks_require_ticket: bool = setting(
        "hooks.require_ticket",
        values.flag,
        "off",
        help="Accepts only tickets, no plain click ids, from fields that the person can"
        " write: on or off.",
    )
    hooks_ticket_life: float = setting(
        "hooks.ticket_life",
        values.duration,
        "1h",
        help="How old a ticket may be when the person signs up.",
    )
    hooks_secret: Mapping[str, tuple[bytes, ...]] = provider_secrets(PROVIDERS)
    hooks_stripe_references: References = setting(
        "hooks.stripe.references",
        values.choice("sale", "lead"),
        "sale",
        help="What a paid checkout with a click as its client_reference_id is: sale, a"
        " direct sale, as in Dub's own app; or lead, a lead (which may pay a commission"
        " of its own) and a sale.",
    )
    hooks_stripe_trials: Trials = setting(
        "hooks.stripe.trials",
        values.choice("off", "lead", "seats"),
        "off",
        help="Whether a trial at Stripe is a lead named Started Trial: off; lead, once;"
        " seats, once for each seat.",
    )
    api_token: tuple[str, ...] = setting(
        "api.token",
        values.tokens,
        blank=(),
        unset="only DUB_API_KEY is accepted",
        example="another-long-random-text",
        secret=True,
        help="Bearer tokens, with commas between, that track/lead and track/sale accept"
        " beside DUB_API_KEY itself.",
    )
    api_rate: int = setting(
        "api.rate",
        values.whole(1, 10_000_000),
        60_000,
        help="Calls a minute that one address may make to track/lead and track/sale,"
        " in one process.",
    )
    dashboard_password: str | None = setting(
        "dashboard.password",
        values.secret_text,
        env="RELAY_ADMIN_PASSWORD",
        unset="no dashboard",
        example="a-good-password",
        secret=True,
        help="Turns on the dashboard, and opens it. Plain, or its argon2 hash"
        " ($argon2id$...).",
    )
    dashboard_listen: Listen | None = setting(
        "dashboard.listen",
        values.listen,
        env="RELAY_ADMIN_LISTEN",
        unset="the dashboard is served at the relay's own address",
        example="127.0.0.1:8081",
        help="Serves the dashboard at this address instead, and nowhere else:"
        " host:port or unix:/path.",
    )
    dashboard_identity_header: str | None = setting(
        "dashboard.identity_header",
        values.header_name,
        env="RELAY_ADMIN_IDENTITY_HEADER",
        unset="only the password signs in",
        example="X-Forwarded-User",
        help="A header in which a proxy that signs people in names them; it replaces"
        " the password. Believed from dashboard.identity_proxies alone.",
    )
    dashboard_identity_proxies: tuple[Network, ...] = setting(
        "dashboard.identity_proxies",
        values.networks,
        env="RELAY_ADMIN_IDENTITY_PROXIES",
        blank=(),
        unset="none",
        example="10.0.0.5/32",
        help="CIDRs, with commas between, of the proxies that set the identity header.",
    )
    cookie_domain: str | None = setting(
        "cookie.domain",
        values.cookie_domain,
        unset="as Dub's script: . + host without www., none on localhost and IPs",
        example=".example.com",
        help="The Domain of the click cookie.",
    )
    # Chrome cuts a cookie's life at 400 days (RFC 6265bis, section 5.5).
    cookie_days: int = setting(
        "cookie.days",
        values.whole(1, 400),
        90,
        help="How many days the click cookie lives (1 to 400).",
    )
    cookie_landing: Storing = setting(
        "cookie.landing",
        values.choice("always", "consent", "never"),
        "always",
        help="Whether the proxy stores a click when the visitor lands: always, consent"
        " (once cookie.consent says yes) or never (only where the script hands one"
        " over).",
    )
    cookie_consent: str | None = setting(
        "cookie.consent",
        values.consent_cookie,
        unset="none; cookie.landing = consent needs one",
        example="cookiebot",
        help="The cookie that says whether a click may be kept: NAME, NAME=VALUE,"
        " NAME:PURPOSE, or a platform (cookiebot, cookieyes, onetrust, didomi, klaro,"
        " cookieconsent, iubenda, tarteaucitron, complianz, axeptio, govuk,"
        " usercentrics, osano, termly).",
    )
    cookie_gpc: bool = setting(
        "cookie.gpc",
        values.flag,
        "off",
        help="Takes a browser's Global Privacy Control (Sec-GPC: 1) for a no: on or"
        " off.",
    )
    browser_consent: bool = setting(
        "browser.consent",
        values.required,
        unset="as the script's tag says",
        example="required",
        blank=False,
        help="required: the served script keeps and sends nothing before a yes,"
        " whatever its tag says. So it does where cookie.landing is consent.",
    )
    browser_rate: int = setting(
        "browser.rate",
        values.whole(1, 1_000_000),
        120,
        help="Calls a minute that are forwarded to Dub for one visitor's address"
        " (track/click and its siblings), in one process.",
    )
    browser_durable: bool | None = setting(
        "browser.durable",
        values.flag,
        blank=None,
        unset="on with DUB_PUBLISHABLE_KEY",
        example="on",
        help="Stores leads and sales of pages (track/lead/client, track/sale/client)"
        " before they are answered: on or off.",
    )
    browser_hostnames: tuple[str, ...] = setting(
        "browser.hostnames",
        values.hostnames,
        blank=(),
        unset="pages of any host",
        example="example.com, *.example.com",
        help="Hosts, with commas between, whose pages may report leads and sales that"
        " are stored, as in Dub's settings: *. covers what is below a host, not the"
        " host itself.",
    )
    browser_lead_rate: int = setting(
        "browser.lead_rate",
        values.whole(1, 1_000_000),
        60,
        help="Leads and sales a minute that are stored for one visitor's address, in"
        " one process.",
    )
    delivery_retry_base: float = setting(
        "delivery.retry_base",
        values.duration,
        "5s",
        env="RELAY_RETRY_BASE",
        help="The first wait after a passing fault; it doubles, jittered, up to"
        " delivery.retry_max.",
    )
    delivery_retry_max: float = setting(
        "delivery.retry_max",
        values.duration,
        "1h",
        env="RELAY_RETRY_MAX",
        help="The longest wait between two attempts.",
    )
    delivery_retry_for: float = setting(
        "delivery.retry_for",
        values.duration,
        "72h",
        env="RELAY_RETRY_FOR",
        help="How long a lead is tried before it is rejected.",
    )
    delivery_unknown_click_for: float = setting(
        "delivery.unknown_click_for",
        values.duration,
        "6h",
        help="How long a lead is tried whose click Dub does not know. A click is there"
        " within minutes, or was never counted.",
    )
    delivery_sale_waits: float = setting(
        "delivery.sale_waits",
        values.duration,
        "1h",
        help="How long a sale waits for its customer's lead, which may come after it.",
    )
    delivery_rate: int = setting(
        "delivery.rate",
        values.whole(1, 1_000_000),
        1200,
        env="RELAY_RATE",
        help="Calls a minute to Dub for one key, across all relays on one database"
        " (1200: the Business plan); lowered by 429s.",
    )
    # Each call holds a connection; a process has 1024 file descriptors.
    delivery_in_flight: int = setting(
        "delivery.in_flight",
        values.whole(1, 512),
        16,
        help="How many calls to Dub may be under way at once in one process.",
    )
    delivery_steps: int = setting(
        "delivery.steps",
        values.whole(1, 2),
        2,
        help="Calls for one lead: 2 proves the click with a deferred call before"
        " the lead is recorded, 1 halves the calls and may lose a lead to"
        " Dub's dedupe when its first call fails.",
    )
    reconcile_every: float = setting(
        "reconcile.every",
        values.duration_or_never,
        "1h",
        help="How often leads and sales are compared with Dub's own list of events; 0:"
        " never. The API key needs the permission analytics.read.",
    )
    reconcile_after: float = setting(
        "reconcile.after",
        values.duration,
        "15m",
        help="How old a lead must be before its absence at Dub shows that Dub does not"
        " have it: its list lags behind its answers.",
    )
    reconcile_rate: int = setting(
        "reconcile.rate",
        values.whole(1, 16),
        1,
        help="Calls a second to Dub's analytics at most (the Business plan allows 4 for"
        " a workspace). A call reads 200 events.",
    )
    reconcile_resend: bool = setting(
        "reconcile.resend",
        values.flag,
        "off",
        help="Sends a lead again that Dub took and that its list of events does not"
        " have, once Dub's dedupe key is free: on or off.",
    )
