"""All settings, typed and checked, from TOML, the environment and secret files.

Everything is checked at start. A mistake is a :class:`ConfigError` of one line
that names the setting and never quotes what was written there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from relay.config.sources import (
    RULES_KEY,
    ConfigError,
    Written,
    config_path,
    find,
    flat,
    read_config,
    refuse_unknown_env,
)
from relay.config.table import (
    SETTINGS,
    Setting,
)
from relay.config.values import (
    Listen,
    Network,
)
from relay.core.http.cookies import Attribution
from relay.core.providers.account import Provider
from relay.core.rules.rule import (
    RuleError,
    SignupRule,
    compile_rules,
)

__all__ = ["ConfigError", "Described", "Listen", "Setting", "Settings", "load"]


@dataclass(frozen=True, slots=True)
class Described:
    """One setting as a person reads it: its value masked, and its origin."""

    name: str
    value: str
    origin: str


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """All settings. Durations are seconds; repr masks secrets.

    ``config`` is the file that was read, ``origins`` tells by attribute where
    a value came from.
    """

    listen: Listen
    prefix: str
    upstream: tuple[str, ...] | None = None
    inject_snippet: bool
    database: str
    secret: tuple[str, ...] = ()
    attribution: Attribution
    trusted_proxies: tuple[Network, ...] = ()
    dedupe_days: int
    retention_days: int
    data_key: tuple[str, ...] = ()
    dub_api_key: str = ""
    dub_api_url: str
    dub_webhook_secret: tuple[str, ...] = ()
    dub_timeout: float
    hook_secret: tuple[bytes, ...] = ()
    hooks_event: str
    hooks_require_ticket: bool
    hooks_ticket_life: float
    hooks_refusals: int
    hooks_clerk_secret: tuple[bytes, ...] = ()
    hooks_supabase_secret: tuple[bytes, ...] = ()
    hooks_auth0_secret: tuple[bytes, ...] = ()
    hooks_workos_secret: tuple[bytes, ...] = ()
    hooks_stytch_secret: tuple[bytes, ...] = ()
    hooks_firebase_secret: tuple[bytes, ...] = ()
    hooks_stripe_secret: tuple[bytes, ...] = ()
    api_token: tuple[str, ...] = ()
    dashboard_password: str | None = None
    dashboard_listen: Listen | None = None
    dashboard_identity_header: str | None = None
    dashboard_identity_proxies: tuple[Network, ...] = ()
    cookie_domain: str | None = None
    cookie_days: int
    browser_rate: int
    api_rate: int
    delivery_retry_base: float
    delivery_retry_max: float
    delivery_retry_for: float
    delivery_rate: int
    delivery_in_flight: int
    delivery_steps: int
    drain: float
    tls_cert: str | None = None
    tls_key: str | None = None
    limits_line: int
    limits_header: int
    limits_headers: int
    limits_header_timeout: float
    limits_body_rate: int
    limits_body_span: float
    limits_connections: int
    limits_idle: float
    limits_signup_copy: int
    limits_upstream_connect: float
    limits_upstream_answer: float
    limits_upstream_stall: float
    alerts_url: str | None = None
    alerts_secret: tuple[bytes, ...] = ()
    alerts_backlog: float
    alerts_disk: int
    alerts_every: float
    log_level: str
    traces_export: str
    signup: tuple[SignupRule, ...] = ()
    config: str | None = None
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        shown = (f"{row.name}={row.value!r}" for row in self.describe())
        return f"Settings({', '.join(shown)})"

    @property
    def two_step(self) -> bool:
        """Tell whether a lead is proved with a deferred call before it is recorded."""
        return self.delivery_steps == 2

    @property
    def dashboard(self) -> bool:
        """Tell whether there is a dashboard: whether anybody can sign in."""
        return (
            self.dashboard_password is not None
            or self.dashboard_identity_header is not None
        )

    def provider_keys(self, provider: Provider) -> tuple[bytes, ...]:
        """Give the keys of a provider's hook, none where it is off."""
        keys: tuple[bytes, ...] = getattr(self, provider.setting)
        return keys

    def describe(self) -> list[Described]:
        """List every setting with its value, masked, and where it came from."""
        rows = [self._row(setting) for setting in SETTINGS]
        count = f"{len(self.signup)} rule{'' if len(self.signup) == 1 else 's'}"
        origin = str(self.config) if self.signup else "default"
        return [*rows, Described(RULES_KEY, count, origin)]

    def _row(self, setting: Setting) -> Described:
        shown = setting.show(getattr(self, setting.name))
        return Described(setting.toml, shown, self.origins.get(setting.name, "default"))


def load(
    path: str | None, environ: Mapping[str, str], *, complete: bool = True
) -> Settings:
    """Read and check all settings; raise ConfigError at the first mistake.

    The file is path, else RELAY_CONFIG, else relay.toml if there is one.
    ``complete=False`` is for commands that call nobody: required settings may
    be missing then, all that is written is checked as ever.
    """
    config = config_path(path, environ)
    source, document = read_config(config) if config else ("", {})
    rules = _rules(document.pop(RULES_KEY, []), source, config)
    keys = flat(document, config)
    refuse_unknown_env(environ)
    written = {
        setting: found
        for setting in SETTINGS
        if (found := find(setting, environ, keys, config))
    }
    if complete:
        _require(written)
    settings = Settings(
        **{setting.name: _parsed(setting, found) for setting, found in written.items()},
        signup=rules,
        config=config,
        origins=MappingProxyType(
            {s.name: found.origin for s, found in written.items()}
        ),
    )
    _check_together(settings)
    return settings


def _require(written: Mapping[Setting, Written]) -> None:
    for setting in SETTINGS:
        if setting.required and setting not in written:
            raise ConfigError(
                f"{setting.env}: is required; set it, or {setting.file_env},"
                f" or {setting.toml} in the configuration file"
            )


def _parsed(setting: Setting, found: Written) -> Any:
    try:
        return setting.parse(found.raw)
    except ValueError as error:
        place = f" ({found.origin})" if found.name == setting.toml else ""
        raise ConfigError(f"{found.name}: {error}{place}") from error


def _rules(raw: object, source: str, config: str | None) -> tuple[SignupRule, ...]:
    try:
        return compile_rules(raw)
    except RuleError as error:
        raise ConfigError(f"{error} ({config}{_line(str(error), source)})") from error


def _line(message: str, source: str) -> str:
    """Find the line of the rule that a message names as ``signup[2]...``."""
    named = re.match(rf"{RULES_KEY}\[(\d+)\]", message)
    heads = [
        number
        for number, line in enumerate(source.splitlines(), 1)
        if re.match(rf"\s*\[\[\s*{RULES_KEY}\s*\]\]", line)
    ]
    index = int(named[1]) if named else len(heads)
    return f", the rule at line {heads[index]}" if index < len(heads) else ""


def _check_together(settings: Settings) -> None:
    """Refuse values that are right alone and wrong with each other."""
    if settings.delivery_retry_max < settings.delivery_retry_base:
        raise ConfigError("delivery.retry_max: must not be below delivery.retry_base")
    if settings.alerts_url is not None and not settings.alerts_secret:
        raise ConfigError("alerts.url: needs alerts.secret beside it")
    own = {f"http://{settings.listen}", str(settings.listen)}
    if own.intersection(settings.upstream or ()):
        raise ConfigError("upstream: is where the relay itself listens")
    if settings.tls_key is not None and settings.tls_cert is None:
        raise ConfigError("tls.key: needs tls.cert beside it")
    if settings.dashboard_listen is not None and not settings.dashboard:
        raise ConfigError("dashboard.listen: needs dashboard.password beside it")
    named = settings.dashboard_identity_header is not None
    if named != bool(settings.dashboard_identity_proxies):
        raise ConfigError(
            "dashboard.identity_header and dashboard.identity_proxies: set both or"
            " neither; the header is believed from these proxies alone"
        )
