"""All settings, typed and checked, from TOML, the environment and secret files.

Everything is checked at start, and all mistakes are reported at once: a
:class:`ConfigError` has a line for each, which names the setting and never quotes what
was written there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from relay.config.declaration import Setting, declared
from relay.config.lead_settings import LeadSettings
from relay.config.server_settings import ServerSettings
from relay.config.sources import (
    HOOKS_KEY,
    RULES_KEY,
    ConfigError,
    Written,
    config_path,
    find,
    flat,
    read_config,
    unknown_keys,
    unknown_names,
)
from relay.config.values import Listen
from relay.core.providers.account import Provider

if TYPE_CHECKING:  # commands without rules need not wait for what compiles them
    from relay.core.rules.hook_rules import Additions, HookRule
    from relay.core.rules.rule import SignupRule

__all__ = ["SETTINGS", "ConfigError", "Described", "Listen", "Settings", "load"]

_NEEDS: Final = {
    "alerts.url": "alerts.secret",
    "tls.key": "tls.cert",
    "upstream_host": "upstream",
    "browser.durable": "dub.publishable_key",
    # The header is believed from these proxies alone.
    "dashboard.identity_header": "dashboard.identity_proxies",
    "dashboard.identity_proxies": "dashboard.identity_header",
}
"""Settings that mean nothing without another."""

_NEEDED: Final = "of no use without {other}. Set both, or neither."


@dataclass(frozen=True, slots=True)
class Described:
    """One setting as a person reads it: its value masked, and its origin."""

    name: str
    value: str
    origin: str


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings(ServerSettings, LeadSettings):
    """All settings. Durations are seconds; repr masks secrets.

    ``additions`` are what ``[hooks.NAME]`` says of a provider's leads, by its name.
    ``config`` is the file that was read; ``origins`` says by TOML key where a value
    came from, unless it is the default.
    """

    signup: tuple[SignupRule, ...] = ()
    hook: tuple[HookRule, ...] = ()
    additions: Mapping[str, Additions] = field(default_factory=dict)
    config: str | None = None
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        shown = (f"{row.name}={row.value!r}" for row in self.describe())
        return f"Settings({', '.join(shown)})"

    @property
    def two_step(self) -> bool:
        """Whether a lead is proved with a deferred call before it is recorded."""
        return self.delivery_steps == 2

    @property
    def stores_browser_leads(self) -> bool:
        """Whether leads and sales of pages are stored before they are answered."""
        return bool(self.dub_publishable_key) and self.browser_durable is not False

    @property
    def dashboard(self) -> bool:
        """Whether there is a dashboard: whether anybody can sign in."""
        return bool(self.dashboard_password or self.dashboard_identity_header)

    def provider_keys(self, provider: Provider) -> tuple[bytes, ...]:
        """Return the keys of a provider's hook, none where it is off."""
        return self.hooks_secret.get(provider.name, ())

    def value(self, setting: Setting) -> Any:
        """Return a setting's value."""
        value = getattr(self, setting.name)
        return value.get(setting.member) if setting.member else value

    def describe(self) -> list[Described]:
        """List every setting with its value, masked, and where it came from."""
        rows = [
            Described(
                setting.toml,
                setting.show(self.value(setting)),
                self.origins.get(setting.toml, "default"),
            )
            for setting in SETTINGS
        ]
        tables = [(RULES_KEY, self.signup, "rule"), (HOOKS_KEY, self.hook, "hook")]
        for key, made, noun in tables:
            count = f"{len(made)} {noun}{'' if len(made) == 1 else 's'}"
            rows.append(Described(key, count, str(self.config) if made else "default"))
        return rows


SETTINGS: Final = declared(Settings)
"""Every setting but the sign-up rules, in the order of the docs and the sample."""

_BY_TOML: Final = {setting.toml: setting for setting in SETTINGS}


def load(
    path: str | None, environ: Mapping[str, str], *, complete: bool = True
) -> Settings:
    """Read and check all settings; raise ConfigError with a line for each mistake.

    The file is path, else RELAY_CONFIG, else relay.toml if there is one.
    ``complete=False`` is for commands that call nobody: required settings may be
    missing then, all that is written is checked as ever.
    """
    config = config_path(path, environ)
    source, document = read_config(config) if config else ("", {})
    signup, problems = _rules(document.pop(RULES_KEY, []), source, config)
    hook, additions, wrong = _hooks(document, environ, complete=complete)
    for line in wrong:
        problems.append(f"{line} ({config}{_place(line, source, HOOKS_KEY)})")
    keys = flat(document, SETTINGS)
    problems += unknown_keys(keys, SETTINGS, config)
    problems += unknown_names(environ, SETTINGS)
    read = _read(environ, keys, config, complete=complete)
    problems += read.problems
    settings = Settings(
        **_attributes(read.values),
        signup=signup,
        hook=hook,
        additions=additions,
        config=config,
        origins=MappingProxyType({key: it.origin for key, it in read.written.items()}),
    )
    problems += _conflicts(settings, read)
    if problems:
        raise ConfigError(*problems)
    return settings


@dataclass
class _Read:
    """What was read, by TOML key; ``wrong`` are the keys that have no good value."""

    written: dict[str, Written] = field(default_factory=dict)
    values: dict[str, object] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def _read(
    environ: Mapping[str, str],
    keys: Mapping[str, object],
    config: str | None,
    *,
    complete: bool,
) -> _Read:
    read = _Read()
    for setting in SETTINGS:
        try:
            if found := find(setting, environ, keys, config):
                read.written[setting.toml] = found
                read.values[setting.toml] = _parsed(setting, found)
            elif complete and setting.required:
                read.problems.append(_missing(setting))
        except ConfigError as error:
            read.problems += error.problems
            read.wrong.add(setting.toml)
    return read


def _parsed(setting: Setting, found: Written) -> object:
    try:
        return setting.parse(found.raw)
    except ValueError as error:
        raise ConfigError(f"{found.label}: {error}") from error


def _missing(setting: Setting) -> str:
    return (
        f"{setting.env}: is required. Set it, or {setting.file_env}, or {setting.toml}"
        " in the configuration file."
    )


def _attributes(values: Mapping[str, object]) -> dict[str, Any]:
    """Name the values, by TOML key, as the attributes of Settings."""
    made: dict[str, Any] = {}
    for key, value in values.items():
        setting = _BY_TOML[key]
        if setting.member:
            made.setdefault(setting.name, {})[setting.member] = value
        else:
            made[setting.name] = value
    return made


def _rules(
    raw: object, source: str, config: str | None
) -> tuple[tuple[SignupRule, ...], list[str]]:
    """Compile the sign-up rules; return them, and a line for each mistake."""
    if raw == []:
        return (), []
    from relay.core.rules.rule import RuleError, compile_rules  # noqa: PLC0415 - as above

    try:
        return compile_rules(raw), []
    except RuleError as error:
        lines = error.problems
        return (), [f"{line} ({config}{_place(line, source)})" for line in lines]


def _hooks(
    document: dict[str, Any], environ: Mapping[str, str], *, complete: bool
) -> tuple[tuple[HookRule, ...], Mapping[str, Additions], list[str]]:
    """Take the tables of hooks out of the document: rules, additions, mistakes."""
    from relay.config.hook_tables import take_hooks  # noqa: PLC0415 - as above

    made = take_hooks(document, environ, complete=complete)
    return made.rules, made.additions, made.problems


def _place(problem: str, source: str, key: str = RULES_KEY) -> str:
    """Find the line of the table that a problem names as ``signup[2]...``."""
    named = re.match(rf"{key}\[(\d+)\]", problem)
    heads = [
        number
        for number, line in enumerate(source.splitlines(), 1)
        if re.match(rf"\s*\[\[\s*{key}\s*\]\]", line)
    ]
    index = int(named[1]) if named else len(heads)
    noun = "rule" if key == RULES_KEY else "table"
    return f", the {noun} at line {heads[index]}" if index < len(heads) else ""


def _conflicts(settings: Settings, read: _Read) -> Iterator[str]:
    """Yield a line for each setting that is right alone and wrong beside another."""
    for key, other, why in _pairs(settings):
        # What has no good value has its own line already.
        if not {key, other} & read.wrong:
            written = read.written.get(key)
            label = written.label if written else _BY_TOML[key].env
            yield f"{label}: {why.format(other=_BY_TOML[other].env)}"


def _pairs(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Yield what is wrong together: a key, the other key, why."""
    if settings.delivery_retry_max < settings.delivery_retry_base:
        why = "less than {other}. Raise it, or lower the other."
        yield "delivery.retry_max", "delivery.retry_base", why
    if 0 < settings.keep_days < settings.dedupe_days:
        why = "less than {other}: a repeat would not be seen. Raise it, or lower that."
        yield "keep_days", "dedupe_days", why
    own = {f"http://{settings.listen}", str(settings.listen)}
    if own.intersection(settings.upstream or ()):
        why = "the address of the relay itself ({other}). Use the site's."
        yield "upstream", "listen", why
    if settings.dashboard_listen is not None and not settings.dashboard:
        yield "dashboard.listen", "dashboard.password", _NEEDED
    if settings.cookie_landing == "consent" and settings.cookie_consent is None:
        yield "cookie.landing", "cookie.consent", "consent needs {other}: which cookie?"
    for key, other in _NEEDS.items():
        if settings.value(_BY_TOML[key]) and not settings.value(_BY_TOML[other]):
            yield key, other, _NEEDED
