"""The one table of settings: sources, checks, masking, and what is made of it."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config import values
from relay.config.declaration import Setting
from relay.config.reference import (
    SIGNUP_EXAMPLE,
    sample_toml,
    settings_help,
    settings_markdown,
)
from relay.config.settings import (
    SETTINGS,
    ConfigError,
    Listen,
    Settings,
    load,
)
from relay.core.providers import PROVIDERS
from relay.core.providers.account import Provider
from relay.core.rules.rule import compile_rules
from relay.observability.logging import LEVELS

TOP = Path(__file__).resolve().parents[2]

NEW, OLD = "a-new-secret-of-22", "an-old-secret-of-22"
NEEDED = {"DUB_API_KEY": "dub_key", "RELAY_SECRET": "a-secret-of-16-or-more"}
WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLUSw"


def complaint(setting: Setting, raw: object) -> str:
    """What a parser says against a value; empty if nothing."""
    try:
        setting.parse(raw)
    except ValueError as error:
        return str(error)
    return ""


# The public table, by the letter: environment, TOML, default as shown.
CONTRACT = [
    ("DUB_API_KEY", "dub.api_key", None),
    ("DUB_API_URL", "dub.api_url", "https://api.dub.co"),
    ("DUB_WEBHOOK_SECRET", "dub.webhook_secret", None),
    ("RELAY_LISTEN", "listen", Listen("127.0.0.1", 8080)),
    ("RELAY_PREFIX", "prefix", "/_dub"),
    ("RELAY_UPSTREAM", "upstream", None),
    ("RELAY_DATABASE", "database", "sqlite:///relay.db"),
    ("RELAY_SECRET", "secret", None),
    ("RELAY_HOOK_SECRET", "hook.secret", None),
    ("RELAY_API_TOKEN", "api.token", None),
    ("RELAY_ADMIN_PASSWORD", "dashboard.password", None),
    ("RELAY_COOKIE_DOMAIN", "cookie.domain", None),
    ("RELAY_COOKIE_DAYS", "cookie.days", 90),
    ("RELAY_ATTRIBUTION", "attribution", "last-click"),
    ("RELAY_TRUSTED_PROXIES", "trusted_proxies", None),
    ("RELAY_RETRY_BASE", "delivery.retry_base", 5.0),
    ("RELAY_RETRY_MAX", "delivery.retry_max", 3600.0),
    ("RELAY_RETRY_FOR", "delivery.retry_for", 72 * 3600.0),
    ("RELAY_RATE", "delivery.rate", 1200),
    ("RELAY_DEDUPE_DAYS", "dedupe_days", 7),
    ("RELAY_BROWSER_DURABLE", "browser.durable", None),
    ("RELAY_KEEP_DAYS", "keep_days", 400),
]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def toml(text: str, name: str = "relay.toml") -> str:
    Path(name).write_text(text, "utf-8")
    return name


def loaded(path: str | None = None, **environ: str) -> Settings:
    return load(path, NEEDED | environ)


def mistake(path: str | None = None, **environ: str) -> str:
    """The one line that these settings are refused with."""
    with pytest.raises(ConfigError) as caught:
        loaded(path, **environ)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(("env", "toml_key", "default"), CONTRACT)
def test_every_row_of_the_public_table_is_there(
    env: str, toml_key: str, default: object
) -> None:
    setting = next(setting for setting in SETTINGS if setting.env == env)

    parsed = None if setting.default is None else setting.parse(setting.default)

    assert (setting.toml, parsed) == (toml_key, default)


def test_every_setting_is_an_attribute_and_is_described() -> None:
    settings = loaded()

    described = [row.name for row in settings.describe()]

    assert described == [*(setting.toml for setting in SETTINGS), "signup", "hook"]
    assert {made.name for made in fields(Settings)} == {
        *(setting.name for setting in SETTINGS),
        *("signup", "hook", "additions", "config", "origins"),
    }


# Names that are not RELAY_ and the TOML key: the public table's, and their siblings.
NAMED_OTHERWISE = {
    "dub.api_key": "DUB_API_KEY",
    "dub.api_url": "DUB_API_URL",
    "dub.webhook_secret": "DUB_WEBHOOK_SECRET",
    "dub.publishable_key": "DUB_PUBLISHABLE_KEY",
    "dashboard.password": "RELAY_ADMIN_PASSWORD",
    "dashboard.listen": "RELAY_ADMIN_LISTEN",
    "dashboard.identity_header": "RELAY_ADMIN_IDENTITY_HEADER",
    "dashboard.identity_proxies": "RELAY_ADMIN_IDENTITY_PROXIES",
    "delivery.retry_base": "RELAY_RETRY_BASE",
    "delivery.retry_max": "RELAY_RETRY_MAX",
    "delivery.retry_for": "RELAY_RETRY_FOR",
    "delivery.rate": "RELAY_RATE",
}


def test_attribute_and_environment_name_follow_from_the_toml_key() -> None:
    names = {setting.toml: (setting.name, setting.env) for setting in SETTINGS}

    for key in {row.toml for row in PROVIDERS}:
        assert names.pop(key)[0] == "hooks_secret"
    for key, (name, env) in names.items():
        flat = key.replace(".", "_")
        assert name == flat
        assert env == NAMED_OTHERWISE.get(key, f"RELAY_{flat.upper()}")


def test_a_provider_names_its_setting_as_the_rule_does() -> None:
    names = {setting.toml: setting.env for setting in SETTINGS}

    assert {row.toml: row.env for row in PROVIDERS}.items() <= names.items()


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda row: row.name)
def test_a_provider_has_the_keys_that_are_set_for_it_and_no_others(
    provider: Provider,
) -> None:
    settings = loaded(**{provider.env: provider.example})

    set_for = [row.name for row in PROVIDERS if settings.provider_keys(row)]

    assert set_for == [provider.name]


def test_without_anything_else_the_defaults_hold() -> None:
    settings = loaded()

    assert settings.dub_api_key == "dub_key"
    assert settings.secret == (NEEDED["RELAY_SECRET"],)
    assert settings.listen == Listen("127.0.0.1", 8080)
    assert (settings.prefix, settings.upstream) == ("/_dub", None)
    assert (settings.hook_secret, settings.trusted_proxies) == ((), ())
    assert (settings.delivery_retry_base, settings.dub_timeout) == (5.0, 10.0)
    assert settings.two_step
    assert settings.signup == ()
    assert settings.config is None


@pytest.mark.parametrize("name", NEEDED)
def test_what_is_required_is_asked_for_by_its_name(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: is required"):
        load(None, {key: value for key, value in NEEDED.items() if key != name})


def test_a_command_that_calls_nobody_needs_no_key() -> None:
    settings = load(None, {}, complete=False)

    assert (settings.dub_api_key, settings.secret) == ("", ())
    assert "dub.api_key='not set'" in repr(settings)


# Where settings come from


def test_the_file_is_read_and_its_tables_are_dotted_keys() -> None:
    path = toml('listen = "10.1.2.3:80"\n[delivery]\nrate = 60\nretry_base = 0.5\n')

    settings = loaded(path)

    assert settings.listen == Listen("10.1.2.3", 80)
    assert (settings.delivery_rate, settings.delivery_retry_base) == (60, 0.5)


def test_environment_beats_file_and_each_value_knows_where_it_came_from() -> None:
    path = toml('prefix = "/a"\n[delivery]\nrate = 60\n')

    settings = loaded(path, RELAY_RATE="61")

    origins = {row.name: row.origin for row in settings.describe()}
    assert (settings.delivery_rate, settings.prefix) == (61, "/a")
    assert origins["delivery.rate"] == "environment, RELAY_RATE"
    assert origins["prefix"] == "relay.toml"
    assert origins["cookie.days"] == "default"


def test_empty_means_unset_in_the_environment_and_in_the_file() -> None:
    path = toml('upstream = ""\n[delivery]\nrate = 60\n')

    settings = loaded(path, RELAY_RATE="", RELAY_UPSTREAM="", DUB_API_KEY_FILE="")

    assert (settings.delivery_rate, settings.upstream) == (60, None)


def test_relay_toml_in_the_working_folder_is_read_unasked() -> None:
    toml('prefix = "/here"')

    assert loaded().prefix == "/here"
    assert loaded().config == "relay.toml"


def test_the_named_file_beats_relay_config_which_beats_relay_toml() -> None:
    toml('prefix = "/default"')
    toml('prefix = "/env"', "env.toml")
    toml('prefix = "/named"', "named.toml")

    assert loaded(RELAY_CONFIG="env.toml").prefix == "/env"
    assert loaded("named.toml", RELAY_CONFIG="env.toml").prefix == "/named"


def test_a_byte_order_mark_is_no_mistake() -> None:
    Path("relay.toml").write_bytes(b'\xef\xbb\xbfprefix = "/a"')

    assert loaded().prefix == "/a"


def test_a_secret_comes_from_a_file_without_its_line_break() -> None:
    Path("key").write_text("dub_from_file\n")

    settings = load(
        None, {"RELAY_SECRET": "a-secret-of-16-or-more", "DUB_API_KEY_FILE": "key"}
    )

    assert settings.dub_api_key == "dub_from_file"
    assert settings.origins["dub.api_key"] == "file, DUB_API_KEY_FILE"


def test_every_secret_may_be_a_file_and_nothing_else_may() -> None:
    files = {setting.file_env for setting in SETTINGS if setting.file_env}

    assert files == {
        "DUB_API_KEY_FILE",
        "DUB_WEBHOOK_SECRET_FILE",
        "RELAY_SECRET_FILE",
        "RELAY_HOOK_SECRET_FILE",
        "RELAY_API_TOKEN_FILE",
        "RELAY_METRICS_TOKEN_FILE",
        "RELAY_ADMIN_PASSWORD_FILE",
        "RELAY_DATABASE_FILE",
        "RELAY_DATA_KEY_FILE",
        "RELAY_ALERTS_URL_FILE",
        "RELAY_ALERTS_SECRET_FILE",
        *(f"{provider.env}_FILE" for provider in PROVIDERS),
    }


def test_a_secret_given_twice_is_refused() -> None:
    Path("key").write_text("dub_from_file")

    line = mistake(DUB_API_KEY_FILE="key")

    assert line == "DUB_API_KEY: DUB_API_KEY_FILE is set as well. Keep one of them."


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "cannot be read"), (b"\n", "is empty"), (b"\xff", "not UTF-8")],
)
def test_a_bad_secret_file_is_named_by_its_setting(
    content: bytes | None, why: str
) -> None:
    if content is not None:
        Path("file").write_bytes(content)

    line = mistake(RELAY_API_TOKEN_FILE="file")

    assert line.startswith("RELAY_API_TOKEN_FILE: ")
    assert why in line


# Unknown names


@pytest.mark.parametrize(
    ("text", "unknown", "near"),
    [
        ("[delivery]\nretry_bas = 1", "delivery.retry_bas", "delivery.retry_base"),
        ("retry_base = 1", "retry_base", "delivery.retry_base"),
        ("[dub]\napikey = 'x'", "dub.apikey", "dub.api_key"),
        ("[delievery]\nrate = 1", "delievery.rate", "delivery.rate"),
        ("[[signups]]\npath = '/'", "signups", "signup"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(
    text: str, unknown: str, near: str
) -> None:
    line = mistake(toml(text))

    assert line.startswith(f"{unknown}: unknown setting")
    assert line.endswith(f" The nearest known one is {near}.")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("RELAY_LISTN", "RELAY_LISTEN"),
        ("RELAY_SECRETS", "RELAY_SECRET"),
        ("RELAY_CONFIGS", "RELAY_CONFIG"),
        # Names of 0.1.0, which had not the table in them.
        ("RELAY_STEPS", "RELAY_DELIVERY_STEPS"),
        ("RELAY_IN_FLIGHT", "RELAY_DELIVERY_IN_FLIGHT"),
        ("RELAY_CLERK_SECRET", "RELAY_HOOKS_CLERK_SECRET"),
        ("RELAY_CLERK_SECRET_FILE", "RELAY_HOOKS_CLERK_SECRET_FILE"),
        ("RELAY_MAX_LINE", "RELAY_LIMITS_LINE"),
        ("RELAY_MAX_HEADER", "RELAY_LIMITS_HEADER"),
        ("RELAY_MAX_HEADERS", "RELAY_LIMITS_HEADERS"),
        ("RELAY_MAX_CONNECTIONS", "RELAY_LIMITS_CONNECTIONS"),
        ("RELAY_TRACES", "RELAY_TRACES_EXPORT"),
        ("RELAY_IDLE", "RELAY_LIMITS_IDLE"),
        ("RELAY_BODY_RATE", "RELAY_LIMITS_BODY_RATE"),
        ("RELAY_UPSTREAM_STALL", "RELAY_LIMITS_UPSTREAM_STALL"),
    ],
)
def test_an_unknown_environment_name_is_refused_likewise(name: str, near: str) -> None:
    line = mistake(**{name: "x"})

    assert line == f"{name}: unknown setting. The nearest known one is {near}."


def test_relay_port_is_a_mistake_unless_kubernetes_set_it() -> None:
    assert mistake(RELAY_PORT="9000").startswith("RELAY_PORT: unknown setting")


def test_what_kubernetes_sets_for_a_service_called_relay_is_left_alone() -> None:
    loaded(
        RELAY_SERVICE_HOST="10.0.0.11",
        RELAY_SERVICE_PORT="80",
        RELAY_SERVICE_PORT_HTTP="80",
        RELAY_PORT="tcp://10.0.0.11:80",
        RELAY_PORT_80_TCP="tcp://10.0.0.11:80",
        RELAY_PORT_80_TCP_PROTO="tcp",
        RELAY_PORT_80_TCP_PORT="80",
        RELAY_PORT_80_TCP_ADDR="10.0.0.11",
    )


def test_unknown_dub_names_belong_to_others() -> None:
    loaded(DUB_WORKSPACE_ID="ws_1", DUB_CLIENT_ID="x", DUB_API_KEY_STAGING="x")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("DUB_APIKEY", "DUB_API_KEY"),
        ("DUB_API_ULR", "DUB_API_URL"),
        ("DUB_WEBHOOK_SECRETS", "DUB_WEBHOOK_SECRET"),
    ],
)
def test_a_dub_name_that_is_a_slip_of_ours_is_refused(name: str, near: str) -> None:
    line = mistake(**{name: "x"})

    assert line == f"{name}: unknown setting. The nearest known one is {near}."


# All mistakes at once


def test_all_mistakes_are_reported_at_once_a_line_each() -> None:
    bad_rule = '[[signup]]\npth = "/a"\ncustomer_external_id = "form."\n'
    path = toml(f'prefix = "/"\nlisten = "x"\n[limits]\nlin = 1\n{bad_rule}')
    Path("empty").touch()

    with pytest.raises(ConfigError) as caught:
        load(
            path,
            {
                "DUB_API_KEY_FILE": "empty",
                "RELAY_LISTEN": "127.0.0.1:80",
                "RELAY_RATES": "1",
                "RELAY_RETRY_MAX": "1s",
                "RELAY_TLS_KEY": "key.pem",
                "RELAY_UPSTREAM": "CANARY",
            },
        )

    assert "CANARY" not in str(caught.value)
    assert sorted(caught.value.problems) == [
        "DUB_API_KEY_FILE: the file is empty.",
        (
            "RELAY_PREFIX (prefix in relay.toml): not a plain path."
            ' Use such as /_dub, and not "/" alone.'
        ),
        "RELAY_RATES: unknown setting. The nearest known one is RELAY_RATE.",
        "RELAY_RETRY_MAX: less than RELAY_RETRY_BASE. Raise it, or lower the other.",
        (
            "RELAY_SECRET: is required. Set it, or RELAY_SECRET_FILE, or secret in the"
            " configuration file."
        ),
        "RELAY_TLS_KEY: of no use without RELAY_TLS_CERT. Set both, or neither.",
        "RELAY_UPSTREAM: not a URL. Use http://host:port or unix:/path.",
        (
            "limits.lin: unknown setting in relay.toml."
            " The nearest known one is limits.line."
        ),
        (
            "signup[0].customer_external_id: not JMESPath: it ends too early"
            " (relay.toml, the rule at line 5)"
        ),
        "signup[0].path: is required (relay.toml, the rule at line 5)",
        (
            'signup[0].pth: there is no such setting; did you mean "path"?'
            " (relay.toml, the rule at line 5)"
        ),
    ]


def test_what_is_wrong_alone_is_not_compared_with_others() -> None:
    line = mistake(RELAY_RETRY_MAX="soon", RELAY_RETRY_BASE="2h")

    assert line.startswith("RELAY_RETRY_MAX: not a duration.")


def test_a_setting_whose_file_is_bad_does_not_count_as_missing_beside_another() -> None:
    line = mistake(
        RELAY_ALERTS_URL="https://ops.example.com/", RELAY_ALERTS_SECRET_FILE="gone"
    )

    assert line.startswith("RELAY_ALERTS_SECRET_FILE: cannot be read")


@pytest.mark.parametrize(
    ("name", "value", "other"),
    [
        ("RELAY_ALERTS_URL", "https://ops.example.com/", "RELAY_ALERTS_SECRET"),
        ("RELAY_TLS_KEY", "key.pem", "RELAY_TLS_CERT"),
        ("RELAY_BROWSER_DURABLE", "on", "DUB_PUBLISHABLE_KEY"),
        ("RELAY_ADMIN_LISTEN", "127.0.0.1:81", "RELAY_ADMIN_PASSWORD"),
        (
            "RELAY_ADMIN_IDENTITY_HEADER",
            "X-Forwarded-User",
            "RELAY_ADMIN_IDENTITY_PROXIES",
        ),
        (
            "RELAY_ADMIN_IDENTITY_PROXIES",
            "10.0.0.0/8",
            "RELAY_ADMIN_IDENTITY_HEADER",
        ),
    ],
)
def test_a_setting_that_means_nothing_without_another_is_refused(
    name: str, value: str, other: str
) -> None:
    line = mistake(**{name: value})

    assert line == f"{name}: of no use without {other}. Set both, or neither."


# The file itself


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("prefix = \n", "line 1"),
        ('prefix = "/a"\nlisten "x"\n', "line 2"),
        ('prefix = "/a', "line 1"),
    ],
)
def test_a_syntax_error_names_file_and_line(text: str, line: str) -> None:
    told = mistake(toml(text))

    assert told.startswith("relay.toml: is not TOML: ")
    assert line in told


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a = \xff", "is not UTF-8"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
        (b"a = " + b"9" * 5000, "is not TOML"),
    ],
)
def test_what_is_no_text_or_no_end_is_told_as_such(content: bytes, why: str) -> None:
    Path("relay.toml").write_bytes(content)

    assert why in mistake()


def test_a_file_that_is_not_there_is_named() -> None:
    assert mistake("gone.toml") == (
        "gone.toml: cannot be read: No such file or directory"
    )


def test_a_value_where_a_table_belongs_is_told() -> None:
    assert mistake(toml("dub = 1")) == (
        "dub: not a table in relay.toml. Write it as [dub]."
    )


def test_a_table_where_a_value_belongs_is_told() -> None:
    assert mistake(toml("[listen]\nport = 1")) == (
        "RELAY_LISTEN (listen in relay.toml): not a text. Put it in quotes."
    )


def test_a_rule_that_cannot_compile_is_named_with_its_line() -> None:
    rule = '[[signup]]\npath = "/a"\ncustomer_external_id = "form.id"\n'
    bad = '[[signup]]\npath = "/b"\ncustomer_external_id = "form."\n'

    line = mistake(toml(f"# two rules\n\n{rule}\n{bad}"))

    assert line.startswith("signup[1].customer_external_id: ")
    assert line.endswith("(relay.toml, the rule at line 7)")


def test_rules_that_are_no_tables_are_refused() -> None:
    assert mistake(toml('signup = "x"')).startswith("signup: ")
    assert mistake(toml("signup = [1]")).startswith("signup[0]: ")


# Values

BAD = {
    "RELAY_LISTEN": [
        *("8080", ":8080", "host:", "host:70000", "host:x", "::1:80", "[::1:80"),
        *("ho st:80", "unix:relative", "unix:/" + "x" * 107, "http://h:80"),
    ],
    "RELAY_PREFIX": ["/", "dub", "//dub", "/a//b", "/a?b", "/a#b", "/..", "/a b", "/é"],
    "RELAY_UPSTREAM": [
        *("localhost:3000", "ftp://h", "http://", "http://h/path", "http://h?q"),
        *("http://u:p@h", "http://h:99999", "http://h:0", "http://h h", "unix:x"),
    ],
    "RELAY_UPSTREAM_HOST": ["https://h", "h/", "a b", "a,b", "a@b", "h:x"],
    "RELAY_UNDERSCORE_HEADERS": [
        *("X-Token", "_a b", "_a:", "X_Forwarded_For", "x_real_ip", "Content_Length"),
        *("X-Forwarded_Host", "transfer_encoding", "__ok, Cookie,"),
    ],
    "RELAY_DATABASE": ["relay.db", "sqlite:///", "sqlite:///:memory:", "mysql://h/d"],
    "RELAY_SECRET": [",", "a,,b", "a", "fifteen-letters", f"{NEW},short"],
    "RELAY_HOOK_SECRET": [
        "v1",
        "v1,secret",
        "whsk_x",
        "secret",
        "whsec_",
        "whsec_!!",
        f"{WEBHOOK_SECRET},x",
    ],
    "RELAY_API_TOKEN": ["two words", "é", "a\tb"],
    "DUB_API_KEY": ["dub_ key", "dub_key\n", "dub_é"],
    "DUB_PUBLISHABLE_KEY": ["dub_key", "dub_pk_short", "dub_pk_" + "x" * 65],
    "RELAY_BROWSER_HOSTNAMES": ["https://a.b", "a.*.b", "a/b", "a.b,", "*."],
    "DUB_API_URL": ["api.dub.co", "http://h?q", "http://h#f", "http://u@h"],
    "RELAY_COOKIE_DOMAIN": ["a b", "-.", "http://a.b", "a..b", "a;b"],
    "RELAY_COOKIE_DAYS": ["0", "401", "-1", "x", "1.5", "٣"],
    "RELAY_ATTRIBUTION": ["first", "LAST-CLICK"],
    "RELAY_TRUSTED_PROXIES": ["10.0.0.1/8", "host", "10.0.0.0/33", "10.0.0.0/8 ::1"],
    "RELAY_RETRY_BASE": ["0", "-1", "5x", "5 minutes", "nan", "inf", "1e3", "400d"],
    "RELAY_RATE": ["0", "-5", "many", "1_000"],
    "RELAY_DEDUPE_DAYS": ["-1", "7d"],
    "RELAY_DUB_TIMEOUT": ["0", "31"],
    "RELAY_DELIVERY_IN_FLIGHT": ["0", "513"],
    "RELAY_DELIVERY_STEPS": ["0", "3"],
    "RELAY_LOG_LEVEL": ["loud"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, them in BAD.items() for value in them]
)
def test_a_bad_value_is_refused_by_its_name(name: str, value: str) -> None:
    assert mistake(**{name: value}).startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "value", "attribute", "expected"),
    [
        ("RELAY_LISTEN", "[::1]:0", "listen", Listen("::1", 0)),
        ("RELAY_LISTEN", "localhost:80", "listen", Listen("localhost", 80)),
        ("RELAY_LISTEN", "unix:/run/r.sock", "listen", Listen(unix="/run/r.sock")),
        ("RELAY_PREFIX", "/a/b/", "prefix", "/a/b"),
        ("RELAY_UPSTREAM", "http://h:3000/", "upstream", ("http://h:3000",)),
        ("RELAY_UPSTREAM", "https://[::1]", "upstream", ("https://[::1]",)),
        ("RELAY_UPSTREAM", "unix:/run/app", "upstream", ("unix:/run/app",)),
        ("RELAY_UNDERSCORE_HEADERS", "__A, b_c", "underscore_headers", ("__A", "b_c")),
        ("RELAY_DATABASE", "sqlite:////a/b.db", "database", "sqlite:////a/b.db"),
        ("RELAY_SECRET", f"{NEW}, {OLD}", "secret", (NEW, OLD)),
        ("DUB_API_URL", "http://h:1/v1/", "dub_api_url", "http://h:1/v1"),
        ("RELAY_COOKIE_DOMAIN", ".Example.com", "cookie_domain", ".example.com"),
        ("RELAY_COOKIE_DAYS", "400", "cookie_days", 400),
        ("RELAY_ATTRIBUTION", "first-click", "attribution", "first-click"),
        ("RELAY_DEDUPE_DAYS", "0", "dedupe_days", 0),
        (
            "RELAY_BROWSER_HOSTNAMES",
            "www.Shop.test, *.shop.test",
            "browser_hostnames",
            ("shop.test", "*.shop.test"),
        ),
        ("DUB_PUBLISHABLE_KEY", "dub_pk_" + "x" * 16, "stores_browser_leads", True),
        ("RELAY_RETRY_FOR", "500ms", "delivery_retry_for", 0.5),
        ("RELAY_RETRY_FOR", "30m", "delivery_retry_for", 1800.0),
        ("RELAY_RETRY_FOR", "7d", "delivery_retry_for", 604_800.0),
        ("RELAY_RETRY_BASE", "0.05", "delivery_retry_base", 0.05),
        ("RELAY_DELIVERY_STEPS", "1", "two_step", False),
        (
            "RELAY_ADMIN_PASSWORD",
            " with blanks ",
            "dashboard_password",
            " with blanks ",
        ),
    ],
)
def test_a_good_value_is_taken(
    name: str, value: str, attribute: str, expected: object
) -> None:
    assert getattr(loaded(**{name: value}), attribute) == expected


def test_trusted_proxies_are_networks_from_text_and_from_an_array() -> None:
    path = toml('trusted_proxies = ["10.0.0.0/8", "::1"]')
    expected = (ip_network("10.0.0.0/8"), ip_network("::1/128"))

    assert loaded(path).trusted_proxies == expected
    assert loaded(RELAY_TRUSTED_PROXIES="10.0.0.0/8, ::1").trusted_proxies == expected


def test_a_list_of_secrets_may_be_an_array() -> None:
    assert loaded(toml(f'secret = ["{NEW}", "{OLD}"]'), RELAY_SECRET="").secret == (
        NEW,
        OLD,
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "rate = true",
            (
                "RELAY_RATE (delivery.rate in relay.toml): not a whole number."
                " Use one from 1 to 1000000."
            ),
        ),
        (
            'rate = ["1"]',
            (
                "RELAY_RATE (delivery.rate in relay.toml): not a whole number."
                " Use one from 1 to 1000000."
            ),
        ),
        (
            "retry_base = nan",
            (
                "RELAY_RETRY_BASE (delivery.retry_base in relay.toml): out of range."
                " Use more than 0 and at most a year."
            ),
        ),
    ],
)
def test_toml_types_that_only_look_like_numbers_are_refused(
    text: str, line: str
) -> None:
    assert mistake(toml(f"[delivery]\n{text}")) == line


def test_the_longest_wait_is_not_shorter_than_the_first() -> None:
    assert mistake(RELAY_RETRY_BASE="60", RELAY_RETRY_MAX="30") == (
        "RELAY_RETRY_MAX: less than RELAY_RETRY_BASE. Raise it, or lower the other."
    )


def test_rows_are_kept_for_as_long_as_repeats_are_seen() -> None:
    line = mistake(RELAY_KEEP_DAYS="30", RELAY_DEDUPE_DAYS="90")

    assert line.startswith("RELAY_KEEP_DAYS: less than RELAY_DEDUPE_DAYS")
    assert loaded(RELAY_KEEP_DAYS="0", RELAY_DEDUPE_DAYS="90").keep_days == 0
    assert loaded(RELAY_KEEP_DAYS="30", RELAY_DEDUPE_DAYS="0").keep_days == 30


def test_the_relay_does_not_stand_in_front_of_itself() -> None:
    assert mistake(RELAY_UPSTREAM="http://127.0.0.1:8080") == (
        "RELAY_UPSTREAM: the address of the relay itself (RELAY_LISTEN). Use the"
        " site's."
    )


@given(st.text())
def test_no_text_breaks_a_parser(text: str) -> None:
    """Whatever is written, a parser gives a value or a ValueError."""
    for setting in SETTINGS:
        assert "\n" not in complaint(setting, text)


@given(
    st.one_of(
        st.booleans(),
        st.integers(),
        st.floats(),
        st.lists(st.one_of(st.text(), st.integers())),
        st.dictionaries(st.text(), st.integers()),
        st.dates(),
    )
)
def test_no_other_type_of_toml_breaks_a_parser(raw: object) -> None:
    for setting in SETTINGS:
        assert "\n" not in complaint(setting, raw)


@given(st.integers(1, 10**6), st.sampled_from(["ms", "s", "m"]))
def test_a_duration_is_its_number_times_its_unit(number: int, unit: str) -> None:
    seconds = {"ms": 0.001, "s": 1.0, "m": 60.0}[unit] * number
    if seconds <= values.LONGEST_S:
        assert values.duration(f"{number}{unit}") == pytest.approx(seconds)


def test_the_log_levels_are_those_that_logging_knows() -> None:
    for level in LEVELS:
        assert loaded(RELAY_LOG_LEVEL=level).log_level == level


# Secrets

CANARIES = {
    "DUB_API_KEY": "dub_CANARYkey",
    "DUB_WEBHOOK_SECRET": "CANARYwebhook",
    "RELAY_SECRET": "CANARYsecret-number-1,CANARYsecret-number-2",
    "RELAY_API_TOKEN": "CANARYtoken",
    "RELAY_METRICS_TOKEN": "CANARYmetrics",
    "RELAY_DATA_KEY": "CANARYdatakey-of-many,CANARYdatakey-of-more",
    "RELAY_ADMIN_PASSWORD": "CANARYpassword",
    "RELAY_DATABASE": "postgresql://relay:CANARYdb@db/relay?password=CANARYquery",
    "RELAY_HOOK_SECRET": "whsec_CANARYCANARYCANARYCANARYCANARYCANARY",
    "RELAY_ALERTS_URL": "https://ops.example.com/CANARY?token=CANARY",
    "RELAY_ALERTS_SECRET": "whsec_CANARYCANARYCANARYCANARYCANARYCANARY",
    **{row.env: "whsec_CANARYCANARYCANARYCANARYCANARYCANARY" for row in PROVIDERS},
}


def test_secrets_show_neither_in_repr_nor_in_the_description() -> None:
    settings = load(None, CANARIES)

    shown = f"{settings!r} {settings} {settings.describe()}"

    assert settings.dub_api_key == CANARIES["DUB_API_KEY"]
    assert "CANARY" not in shown
    assert str(settings.hook_secret) not in shown
    assert "postgresql://relay:***@db/relay?***" in shown


def test_every_secret_is_among_the_canaries() -> None:
    assert {setting.env for setting in SETTINGS if setting.secret} == set(CANARIES)


@pytest.mark.parametrize("name", sorted(CANARIES))
def test_a_bad_secret_is_not_in_its_error(name: str) -> None:
    bad = "CANARY with a \x01 blank"
    with pytest.raises(ConfigError) as caught:
        load(None, CANARIES | {name: bad, "RELAY_RATE": "0"})

    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.env)
@pytest.mark.parametrize(
    "value",
    ["dub_CANARYkey", "http://u:CANARY@h", "whsec_CANARY", "CANARY, CANARY", "CANARY!"],
)
def test_a_secret_put_under_the_wrong_name_is_not_in_the_complaint(
    setting: Setting, value: str
) -> None:
    assert "CANARY" not in complaint(setting, value)
    assert "CANARY" not in complaint(setting, [value, 1])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("postgresql://db/relay", "postgresql://db/relay"),
        ("postgresql://relay@db/relay", "postgresql://relay@db/relay"),
        ("postgresql://r:p@db:5/relay", "postgresql://r:***@db:5/relay"),
    ],
)
def test_a_database_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert values.masked_url(url) == shown


# What is made of the table


def test_the_sample_file_is_what_the_table_says() -> None:
    assert (TOP / "relay.example.toml").read_text("utf-8") == sample_toml(), (
        "run `make docs`"
    )


def test_the_docs_page_is_what_the_table_says() -> None:
    assert (TOP / "docs" / "settings.md").read_text("utf-8") == settings_markdown(), (
        "run `make docs`"
    )


def test_the_sample_file_sets_nothing_as_it_is() -> None:
    settings = loaded(toml(sample_toml()))

    assert {row.origin for row in settings.describe()} == {
        "default",
        "environment, DUB_API_KEY",
        "environment, RELAY_SECRET",
    }


def test_the_sample_file_with_every_line_uncommented_is_valid() -> None:
    text = re.sub(r"(?m)^#(?! )", "", sample_toml())

    settings = load(toml(text), {})

    assert set(tomllib.loads(text)) >= {"listen", "dub", "signup"}
    # [[hook]] and hook.secret exclude each other in one file.
    origins = {row.origin for row in settings.describe() if row.name != "hook"}
    assert origins == {"relay.toml"}
    assert len(settings.signup) == 1
    for setting in SETTINGS:
        if setting.default is not None:
            assert settings.value(setting) == setting.parse(setting.default)


def test_the_example_rule_shows_every_key_a_rule_may_have() -> None:
    (rule,) = tomllib.loads(SIGNUP_EXAMPLE)["signup"]

    assert len(compile_rules([rule])) == 1
    assert set(rule) == {
        *("method", "path", "event", "when", "customer_external_id", "customer_name"),
        *("customer_email", "customer_avatar", "mode", "quantity", "metadata"),
        *("clear_cookie", "known_customer", "ignore_case"),
    }


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.env)
def test_every_setting_is_in_the_docs_and_in_the_help(setting: Setting) -> None:
    assert f"| `{setting.env}` | `{setting.toml}` |" in settings_markdown()
    assert f"\n{setting.env}  {setting.toml}\n" in settings_help()
