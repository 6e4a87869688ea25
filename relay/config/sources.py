"""Where settings are written: a TOML file, the environment, files of secrets.

Nothing is parsed here. What is found keeps the name under which it was found,
so that a mistake can be told in the words of whoever made it.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from relay.config.table import (
    BY_ENV,
    BY_TOML,
    SETTINGS,
    Setting,
)

CONFIG_ENV: Final = "RELAY_CONFIG"

DEFAULT_CONFIG: Final = "relay.toml"
"""Read from the working folder when no file is named, if it is there."""

RULES_KEY: Final = "signup"

_TABLES: Final = frozenset(toml.partition(".")[0] for toml in BY_TOML if "." in toml)
_ENV_NAMES: Final = frozenset(BY_ENV) | frozenset(
    setting.file_env for setting in SETTINGS if setting.file_env
)

# Kubernetes tells every container about every service of its namespace, in
# variables named after the service; one called "relay" must not stop the relay
# (kubernetes.io/docs/concepts/services-networking/service, "Environment
# variables"). RELAY_PORT is such a variable only with an address in it.
_KUBERNETES: Final = re.compile(
    r"RELAY_(SERVICE_HOST=|SERVICE_PORT(_\w+)?=|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?="
    r"|PORT=(tcp|udp|sctp)://)"
)


class ConfigError(Exception):
    """A setting is wrong: one line that says which and why, without its value."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written for a setting, under which name, and where."""

    raw: object
    name: str
    origin: str


def config_path(path: str | None, environ: Mapping[str, str]) -> str | None:
    """Choose the file: the one named, RELAY_CONFIG, else relay.toml if it is there."""
    if named := path or environ.get(CONFIG_ENV):
        return named
    return DEFAULT_CONFIG if Path(DEFAULT_CONFIG).exists() else None


def read_config(path: str) -> tuple[str, dict[str, Any]]:
    """Read a TOML file; give its text and what it says."""
    # Editors on Windows put a byte order mark first, which TOML does not allow.
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        return text, tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply") from error
    except ValueError as error:
        last = f"at line {text.count(chr(10)) + 1}, the end of the file"
        reason = str(error).replace("at end of document", last)
        raise ConfigError(f"{path}: is not TOML: {reason}") from error


def flat(document: Mapping[str, Any], config: str | None) -> dict[str, object]:
    """Turn tables into dotted keys; raise ConfigError for the first unknown one."""
    keys = dict(_leaves(document))
    for key in keys:
        if key in _TABLES:
            raise ConfigError(f"{key}: must be a table, [{key}] ({config})")
        if key not in BY_TOML:
            near = _nearest(key, [*BY_TOML, RULES_KEY])
            raise ConfigError(
                f"{key}: unknown setting ({config}); the nearest known one is {near}"
            )
    return keys


def _leaves(document: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        key = f"{above}{name}"
        # A table under a setting's own name stays whole: its parser refuses it.
        if isinstance(value, dict) and key not in BY_TOML:
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def refuse_unknown_env(environ: Mapping[str, str]) -> None:
    """Raise ConfigError for a RELAY_* name that is none of ours.

    Unknown DUB_* names are left alone: Dub's SDKs and others use them.
    """
    for name in sorted(environ):
        if not name.startswith("RELAY_") or name in _ENV_NAMES or name == CONFIG_ENV:
            continue
        if not _KUBERNETES.match(f"{name}={environ[name]}"):
            near = _nearest(name, _ENV_NAMES)
            raise ConfigError(
                f"{name}: unknown setting; the nearest known one is {near}"
            )


def find(
    setting: Setting,
    environ: Mapping[str, str],
    keys: Mapping[str, object],
    config: str | None,
) -> Written | None:
    """Find what was written for a setting; the environment beats the file.

    Empty means unset, so that a deployment can blank a variable out.
    """
    if setting.file_env and environ.get(setting.file_env):
        return _from_file(setting, setting.file_env, environ)
    if given := environ.get(setting.env):
        return Written(given, setting.env, f"environment, {setting.env}")
    if keys.get(setting.toml, "") != "":
        return Written(keys[setting.toml], setting.toml, str(config))
    if setting.default is not None:
        return Written(setting.default, setting.toml, "default")
    return None


def _from_file(setting: Setting, name: str, environ: Mapping[str, str]) -> Written:
    if environ.get(setting.env):
        raise ConfigError(f"{setting.env}: {name} is set as well; keep one of them")
    try:
        content = Path(environ[name]).read_text("utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: the file is not UTF-8") from error
    if not content:
        raise ConfigError(f"{name}: the file is empty")
    return Written(content, name, f"file, {name}")


def _nearest(name: str, known: Iterable[str]) -> str:
    """Give the known name that looks most like this one, however little."""
    return difflib.get_close_matches(name, sorted(known), n=1, cutoff=0)[0]
